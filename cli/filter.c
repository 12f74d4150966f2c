/*
 * The filter of system calls that a whole run inherits: no way into the machine's own KVM.
 *
 * A filter sees numbers and no paths. So the device may be opened by any name and by any program,
 * and what an open descriptor of it is asked is refused. Everything KVM does begins with an ioctl
 * of type 0xAE; io_uring has no operation that makes one. Filters survive exec and are inherited.
 */
#include "cli/filter.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define LOAD_ARGUMENT(number)              \
	BPF_STMT(BPF_LD | BPF_W | BPF_ABS, \
		 offsetof(struct seccomp_data, args) + (number) * sizeof(uint64_t))
#define IF_EQUAL(value, yes, no) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, yes, no)
#define RETURN(value) BPF_STMT(BPF_RET | BPF_K, value)

#define X32_BIT 0x40000000u
#define IOCTL_NATIVE 16
#define IOCTL_X32 514
#define IOCTL_COMPAT 54
#define KVM_TYPE 0xae00u

/* Some kernels take a native number with the x32 bit, and the other way round: it is ignored. */
static const struct sock_filter program[] = {
    /* 0 */ LOAD(arch),
    /* 1 */ IF_EQUAL(AUDIT_ARCH_X86_64, 1, 0),
    /* 2 */ IF_EQUAL(AUDIT_ARCH_I386, 4, 9),
    /* 3 */ LOAD(nr),
    /* 4 */ BPF_STMT(BPF_ALU | BPF_AND | BPF_K, (uint32_t)~X32_BIT),
    /* 5 */ IF_EQUAL(IOCTL_NATIVE, 3, 0),
    /* 6 */ IF_EQUAL(IOCTL_X32, 2, 5),
    /* 7 */ LOAD(nr),
    /* 8 */ IF_EQUAL(IOCTL_COMPAT, 0, 3),
    /* 9 */ LOAD_ARGUMENT(1),
    /* 10 */ BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0xff00),
    /* 11 */ IF_EQUAL(KVM_TYPE, 1, 0),
    /* 12 */ RETURN(SECCOMP_RET_ALLOW),
    /* 13 */ RETURN(SECCOMP_RET_ERRNO | FILTER_KVM_ERRNO),
};

int filter_install(void)
{
	struct sock_fprog filter = {COUNT(program), (struct sock_filter *)(uintptr_t)program};

	if (!syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &filter))
		return 0;
	if (errno != EACCES)
		return -errno;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
	    syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &filter))
		return -errno;
	return 0;
}
