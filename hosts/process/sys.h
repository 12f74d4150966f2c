/* System calls made past libc, whose names the preloaded library takes for the client. */
#ifndef QUIRE_HOSTS_PROCESS_SYS_H
#define QUIRE_HOSTS_PROCESS_SYS_H

#include <stdint.h>
#include <sys/syscall.h>

/* The result as the kernel gives it: -errno on failure; errno itself is left alone. */
static inline long sys_call_six(long number, const uint64_t args[6])
{
	register uint64_t r10 __asm__("r10") = args[3];
	register uint64_t r8 __asm__("r8") = args[4];
	register uint64_t r9 __asm__("r9") = args[5];
	long result = number;

	__asm__ volatile("syscall"
			 : "+a"(result)
			 : "D"(args[0]), "S"(args[1]), "d"(args[2]), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return result;
}

/* Up to six arguments, each a number or sys_address(); those left out are zero. */
#define sys_call(number, ...) sys_call_six(number, (const uint64_t[6]){__VA_ARGS__})

/* The result of a call that returns an address: is it an error? */
static inline int sys_failed(long result)
{
	return (unsigned long)result > -4096ul;
}

static inline uint64_t sys_address(const volatile void *pointer)
{
	return (uint64_t)(uintptr_t)pointer;
}

#endif
