/* Transfers that load CS: far jumps, calls and returns, IRET. */
#ifndef QUIRE_VCPU_EXEC_FAR_H
#define QUIRE_VCPU_EXEC_FAR_H

#include "vcpu/inside.h"

op_fn far_bind_jmp(struct op *op, const struct decoded *decoded);
op_fn far_bind_call(struct op *op, const struct decoded *decoded);
op_fn far_bind_ret(struct op *op, const struct decoded *decoded);

/* IRET; op->aux is the operand size in bytes. */
enum step far_iret(struct cpu *cpu, const struct op *op);

#endif
