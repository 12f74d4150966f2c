/*
 * The filter that sends the calls that matter to the engine.
 *
 * Numbers are tested first: what is in no list passes without a look at anything else, which lets
 * the kernel answer from its bitmap. A listed call that comes from the engine's address passes.
 * Calls of other architectures pass: they reach no KVM (cli/filter.c).
 */
#include "engine/filter.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "boundary/copied.h"
#include "boundary/newer_calls.h"
#include "engine/gate.h"
#include "hosts/process/sys.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define ROOM 256

/* Trapped whatever their arguments. */
static const uint16_t always[] = {
    /* Names. */
    SYS_open,
    SYS_openat,
    SYS_openat2,
    SYS_creat,
    SYS_stat,
    SYS_lstat,
    SYS_statx,
    SYS_access,
    SYS_faccessat,
    SYS_faccessat2,
    SYS_readlink,
    SYS_readlinkat,
    SYS_chdir,
    SYS_truncate,
    SYS_chmod,
    SYS_fchmodat,
    SYS_chown,
    SYS_utime,
    SYS_utimes,
    SYS_setxattr,
    SYS_getxattr,
    SYS_removexattr,
    SYS_chroot,
    SYS_pivot_root,
    SYS_setns,
    SYS_mount,
    SYS_umount2,
    /* Descriptors; for read, write, their vectors and lseek see below. */
    SYS_close,
    SYS_dup2,
    SYS_dup3,
    SYS_close_range,
    SYS_flock,
    SYS_ftruncate,
    SYS_fallocate,
    SYS_fchmod,
    SYS_fchown,
    SYS_fchownat,
    SYS_utimensat,
    SYS_futimesat,
    SYS_sendfile,
    SYS_splice,
    SYS_copy_file_range,
    SYS_pread64,
    SYS_preadv,
    SYS_preadv2,
    SYS_pwrite64,
    SYS_pwritev,
    SYS_pwritev2,
    SYS_ioctl,
    SYS_fcntl,
    SYS_fsync,
    SYS_fdatasync,
    SYS_readahead,
    SYS_sync_file_range,
    SYS_fstat,
    SYS_newfstatat,
    SYS_fstatfs,
    SYS_fsetxattr,
    SYS_fgetxattr,
    SYS_fremovexattr,
    SYS_flistxattr,
    SYS_name_to_handle_at,
    SYS_fchmodat2,
    SYS_setxattrat,
    SYS_getxattrat,
    SYS_listxattrat,
    SYS_removexattrat,
    SYS_file_getattr,
    SYS_file_setattr,
    /* Memory. */
    SYS_mmap,
    SYS_munmap,
    SYS_mremap,
    SYS_remap_file_pages,
    SYS_mprotect,
    SYS_pkey_mprotect,
    SYS_brk,
    SYS_shmat,
    SYS_shmdt,
    /* Processes and threads. */
    SYS_clone,
    SYS_clone3,
    SYS_fork,
    SYS_vfork,
    SYS_execve,
    SYS_execveat,
    SYS_exit,
    SYS_exit_group,
    SYS_arch_prctl,
    SYS_seccomp,
    /* Signals. */
    SYS_rt_sigaction,
    SYS_rt_sigprocmask,
    SYS_rt_sigreturn,
    SYS_sigaltstack,
    SYS_rt_sigsuspend,
};

/* Trapped from the first open of /dev/kvm on: too many of others are no object's. */
static const uint16_t contents[] = {SYS_read, SYS_readv, SYS_write, SYS_writev, SYS_lseek};

/* With them while a detector looks at what memory they touch. */
static const uint16_t copies[] = {
    SYS_sendto,	   SYS_sendmsg,	 SYS_sendmmsg,	       SYS_recvfrom,	      SYS_recvmsg,
    SYS_recvmmsg,  SYS_vmsplice, SYS_process_vm_readv, SYS_process_vm_writev, SYS_getrandom,
    SYS_io_submit,
};

/* Trapped when an argument is not NULL: a mask. */
static const struct {
	uint16_t number, argument;
} when_set[] = {
    {SYS_ppoll, 3},	   {SYS_pselect6, 5},	   {SYS_epoll_pwait, 4},
    {SYS_epoll_pwait2, 4}, {SYS_io_pgetevents, 5},
};

/* Trapped when (argument & mask) is one of these values. */
static const struct {
	uint16_t number, argument;
	uint32_t mask, value;
} when_equal[] = {
    {SYS_madvise, 2, ~0u, 14},	{SYS_madvise, 2, ~0u, 25},	     {SYS_madvise, 2, ~0u, 102},
    {SYS_madvise, 2, ~0u, 103}, {SYS_prctl, 0, ~0u, PR_SET_SECCOMP},
};

struct assembler {
	struct sock_filter code[ROOM];
	unsigned int length;
};

static void emit(struct assembler *to, uint16_t code, uint32_t value, unsigned int if_not)
{
	to->code[to->length++] = (struct sock_filter)BPF_JUMP(code, value, 0, (uint8_t)if_not);
}

static void load(struct assembler *to, size_t offset)
{
	emit(to, BPF_LD | BPF_W | BPF_ABS, (uint32_t)offset, 0);
}

static void answer(struct assembler *to, uint32_t value)
{
	emit(to, BPF_RET | BPF_K, value, 0);
}

static size_t argument_offset(unsigned int argument)
{
	return offsetof(struct seccomp_data, args) + argument * sizeof(uint64_t);
}

/* The rest of a test that was met: trap unless the engine makes the call. */
#define TRAP_LENGTH 6
static void trap_unless_ours(struct assembler *to)
{
	size_t pointer = offsetof(struct seccomp_data, instruction_pointer);

	load(to, pointer + 4);
	emit(to, BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)(ENGINE_BASE >> 32), 3);
	load(to, pointer);
	to->code[to->length++] =
	    (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, (uint32_t)ENGINE_BYTES, 1, 0);
	answer(to, SECCOMP_RET_ALLOW);
	answer(to, SECCOMP_RET_TRAP);
}

static void emit_tests(struct assembler *to)
{
	size_t number = offsetof(struct seccomp_data, nr);

	for (size_t i = 0; i < COUNT(when_set); i++) {
		size_t offset = argument_offset(when_set[i].argument);

		load(to, number);
		emit(to, BPF_JMP | BPF_JEQ | BPF_K, when_set[i].number, 5 + TRAP_LENGTH);
		load(to, offset);
		to->code[to->length++] =
		    (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 2);
		load(to, offset + 4);
		to->code[to->length++] =
		    (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, TRAP_LENGTH, 0);
		trap_unless_ours(to);
	}
	for (size_t i = 0; i < COUNT(when_equal); i++) {
		load(to, number);
		emit(to, BPF_JMP | BPF_JEQ | BPF_K, when_equal[i].number, 3 + TRAP_LENGTH);
		load(to, argument_offset(when_equal[i].argument));
		emit(to, BPF_ALU | BPF_AND | BPF_K, when_equal[i].mask, 0);
		emit(to, BPF_JMP | BPF_JEQ | BPF_K, when_equal[i].value, TRAP_LENGTH);
		trap_unless_ours(to);
	}
}

/* Calls of other architectures pass; the number is in the accumulator after it. */
static void begin(struct assembler *to)
{
	load(to, offsetof(struct seccomp_data, arch));
	to->code[to->length++] =
	    (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0);
	answer(to, SECCOMP_RET_ALLOW);
	load(to, offsetof(struct seccomp_data, nr));
}

static void emit_list(struct assembler *to, const uint16_t *numbers, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		/* Forward to the last test of the list, which all of them share. */
		unsigned int left = (unsigned int)(count - 1 - i);

		to->code[to->length++] = (struct sock_filter)BPF_JUMP(
		    BPF_JMP | BPF_JEQ | BPF_K, numbers[i], (uint8_t)left, left ? 0 : TRAP_LENGTH);
	}
	trap_unless_ours(to);
}

static long install(const struct assembler *from, uint64_t flags)
{
	const struct sock_fprog program = {(unsigned short)from->length,
					   (struct sock_filter *)(uintptr_t)from->code};

	return sys_call(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, sys_address(&program));
}

int filter_trap(void)
{
	struct assembler to = {.length = 0};
	long error;

	begin(&to);
	emit_list(&to, always, COUNT(always));
	emit_tests(&to);
	answer(&to, SECCOMP_RET_ALLOW);
	error = install(&to, 0);
	if (error == -EACCES && !sys_call(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1))
		error = install(&to, 0);
	return (int)error;
}

void filter_trap_contents(void)
{
	struct assembler to = {.length = 0};

	begin(&to);
	emit_list(&to, contents, COUNT(contents));
	if (copied_is_wanted())
		emit_list(&to, copies, COUNT(copies));
	answer(&to, SECCOMP_RET_ALLOW);
	/* For all threads; where one has a filter of its own that the others lack, for this one. */
	if (install(&to, SECCOMP_FILTER_FLAG_TSYNC))
		(void)install(&to, 0);
}
