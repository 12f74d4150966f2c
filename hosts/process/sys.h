/* System calls made past libc, whose names the preloaded library takes for the client. */
#ifndef QUIRE_HOSTS_PROCESS_SYS_H
#define QUIRE_HOSTS_PROCESS_SYS_H

#include <stdint.h>
#include <sys/syscall.h>

/* The result as the kernel gives it: -errno on failure; errno itself is left alone. */
__attribute__((visibility("hidden"))) long sys_call_six(long number, const uint64_t args[6]);

/*
 * The address of "syscall; ret": our own, until a process in which the kernel traps calls by their
 * address names one that it lets pass (preload/trap.c). Set before a second thread runs.
 */
typedef void sys_gate_fn(void);
__attribute__((visibility("hidden"))) sys_gate_fn sys_instruction;
extern __attribute__((visibility("hidden"))) sys_gate_fn *sys_gate;

/* Up to six arguments, each a number or sys_address(); those left out are zero. */
#define sys_call(number, ...) sys_call_six(number, (const uint64_t[6]){__VA_ARGS__})

/* The result of a call that returns an address: is it an error? */
static inline int sys_failed(long result)
{
	return (unsigned long)result > -4096ul;
}

#if __has_attribute(access)
#define SYS_ADDRESS_ONLY __attribute__((access(none, 1)))
#else
#define SYS_ADDRESS_ONLY
#endif

/* gcc would say of a pointer to const that it is read through, before anything is written there. */
SYS_ADDRESS_ONLY static inline uint64_t sys_address(const volatile void *pointer)
{
	return (uint64_t)(uintptr_t)pointer;
}

#endif
