/* SYSCALL and SYSRET of 64-bit code, for the interpreter and between two translated units. */
#ifndef QUIRE_VCPU_EXEC_SYSTEM_H
#define QUIRE_VCPU_EXEC_SYSTEM_H

#include "vcpu/inside.h"

/* Else they are #UD. */
int system_call_is_defined(const struct cpu *cpu);
/*
 * What they do in long mode, SYSRET with REX.W, but for RFLAGS and for what goes by it: the caller
 * sets it to the result and calls cpu_update_mode(). @flags is RFLAGS as PUSHF would store it.
 */
uint64_t syscall_enter_long(struct cpu *cpu, uint64_t next_rip, uint64_t flags);
uint64_t sysret_long(struct cpu *cpu);

#endif
