/*
 * Every interposed function answers NULL, unmapped and kernel addresses as the kernel does. The
 * list of functions is what the library defines: one without a row here fails. What the raw system
 * call answers is right; where there is none, what libc answers without us; and where libc itself
 * would die, EFAULT.
 */
#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <linux/kvm.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/preload/check.h"
#include "tests/preload/pointer_calls.h"

#define FAILURES_MAX 40

struct row {
	const char *names; /* separated by blanks */
	caller *call;
	const char *good[POINTERS_MAX];
	unsigned int has_raw;
};

static unsigned int failures;
/* Calls by the instruction are the library's in this process; else the kernel's. */
static bool is_trapped;

#define FILE_PATH "/etc/passwd"
#define NULL_PATH "/dev/null"
#define BUFFER room[1]
#define STRINGS ((const char *)no_strings)
#define TRUE_PATH "/bin/true"

static const struct row rows[] = {
    {"open open64 __open_2 __open64_2", call_open, {FILE_PATH}, 1},
    {"openat openat64 __openat_2 __openat64_2", call_openat, {FILE_PATH}, 1},
    {"creat creat64", call_creat, {"/dev/null"}, 1},
    {"fopen fopen64", call_fopen, {FILE_PATH, "r"}, 0},
    {"fdopen", call_fdopen, {"r"}, 0},
    {"access euidaccess eaccess", call_access, {FILE_PATH}, 1},
    {"faccessat", call_faccessat, {FILE_PATH}, 1},
    {"stat stat64 lstat lstat64", call_stat, {FILE_PATH, BUFFER}, 1},
    {"fstatat fstatat64", call_fstatat, {FILE_PATH, BUFFER}, 1},
    {"__xstat __xstat64 __lxstat __lxstat64", call_xstat, {FILE_PATH, BUFFER}, 1},
    {"__fxstatat __fxstatat64", call_fxstatat, {FILE_PATH, BUFFER}, 1},
    {"statx", call_statx, {FILE_PATH, BUFFER}, 1},
    {"opendir", call_opendir, {"/"}, 0},
    {"realpath __realpath_chk", call_realpath, {FILE_PATH, BUFFER}, 0},
    {"canonicalize_file_name", call_canonicalize, {FILE_PATH}, 0},
    {"chdir", call_chdir, {"/"}, 1},
    {"chroot", call_chroot, {"/"}, 1},
    {"mount", call_mount, {"none", "/proc/self/nothing"}, 1},
    {"umount umount2", call_umount, {"/proc/self/nothing"}, 1},
    {"ioctl", call_ioctl, {BUFFER}, 1},
    {"read __read_chk", call_read, {BUFFER}, 1},
    {"pread pread64 __pread_chk __pread64_chk", call_pread, {BUFFER}, 1},
    {"readv", call_readv, {room[0], BUFFER}, 1},
    {"preadv preadv64 preadv2 preadv64v2", call_preadv, {room[0], BUFFER}, 1},
    {"pwritev pwritev64 pwritev2 pwritev64v2", call_pwritev, {room[0], BUFFER}, 1},
    {"write", call_write, {BUFFER}, 1},
    {"writev", call_writev, {room[0], BUFFER}, 1},
    {"pwrite pwrite64", call_pwrite, {BUFFER}, 1},
    {"sendfile sendfile64", call_sendfile, {BUFFER}, 1},
    {"splice", call_splice, {BUFFER}, 1},
    {"vmsplice", call_vmsplice, {room[0], BUFFER}, 1},
    {"getrandom", call_getrandom, {BUFFER}, 1},
    {"send sendto", call_send, {BUFFER}, 1},
    {"recv recvfrom", call_recv, {BUFFER}, 1},
    {"__recv_chk __recvfrom_chk", call_recv_checked, {BUFFER}, 1},
    {"sendmsg", call_sendmsg, {BUFFER}, 1},
    {"recvmsg", call_recvmsg, {BUFFER}, 1},
    {"sendmmsg", call_sendmmsg, {BUFFER}, 1},
    {"recvmmsg", call_recvmmsg, {BUFFER}, 1},
    {"process_vm_readv", call_process_read, {BUFFER}, 1},
    {"process_vm_writev", call_process_write, {BUFFER}, 1},
    {"futimens", call_futimens, {BUFFER}, 1},
    {"fstat fstat64", call_fstat, {BUFFER}, 1},
    {"__fxstat __fxstat64", call_fxstat, {BUFFER}, 1},
    {"fstatfs fstatfs64", call_fstatfs, {BUFFER}, 1},
    {"fcntl fcntl64", call_fcntl, {BUFFER}, 1},
    {"chmod", call_chmod, {NULL_PATH}, 1},
    {"fchmodat", call_fchmodat, {NULL_PATH}, 1},
    {"chown", call_chown, {NULL_PATH}, 1},
    {"fchownat", call_fchownat, {NULL_PATH}, 1},
    {"truncate truncate64", call_truncate, {NULL_PATH}, 1},
    {"utime", call_utime, {NULL_PATH, BUFFER}, 1},
    {"utimes", call_utimes, {NULL_PATH, BUFFER}, 1},
    {"utimensat", call_utimensat, {NULL_PATH, BUFFER}, 0},
    {"futimesat", call_futimesat, {NULL_PATH, BUFFER}, 1},
    {"futimes", call_futimes, {BUFFER}, 1},
    {"setxattr", call_setxattr, {NULL_PATH, "user.x", "x"}, 1},
    {"getxattr", call_getxattr, {NULL_PATH, "user.x", BUFFER}, 1},
    {"removexattr", call_removexattr, {NULL_PATH, "user.x"}, 1},
    {"fsetxattr", call_fsetxattr, {"user.x", "x"}, 1},
    {"fgetxattr", call_fgetxattr, {"user.x", BUFFER}, 1},
    {"fremovexattr", call_fremovexattr, {"user.x"}, 1},
    {"flistxattr", call_flistxattr, {BUFFER}, 1},
    {"name_to_handle_at", call_handle, {NULL_PATH, BUFFER, room[2]}, 1},
    {"readlink", call_readlink, {"/proc/self/exe", BUFFER}, 1},
    {"readlinkat", call_readlinkat, {"/proc/self/exe", BUFFER}, 1},
    {"copy_file_range", call_copy, {BUFFER, room[2]}, 1},
    {"tcgetattr", call_tcgetattr, {BUFFER}, 0},
    {"execve", call_execve, {TRUE_PATH, STRINGS, STRINGS}, 1},
    {"execve", call_execve_lists, {"a", "a=b"}, 1},
    {"execv execvp", call_execv, {TRUE_PATH, STRINGS}, 0},
    {"execvpe", call_execvpe, {TRUE_PATH, STRINGS, STRINGS}, 0},
    {"execl execlp execle", call_execl, {TRUE_PATH, "true"}, 0},
    {"fexecve", call_fexecve, {STRINGS, STRINGS}, 0},
    {"posix_spawn posix_spawnp", call_posix_spawn, {TRUE_PATH, STRINGS, STRINGS}, 0},
    {"mmap mmap64", call_mmap, {NULL}, 1},
    {"munmap", call_munmap, {room[3]}, 1},
    {"mremap", call_mremap, {room[2], room[3]}, 1},
    {"mprotect", call_mprotect, {room[3]}, 1},
    {"pkey_mprotect", call_mprotect, {room[3]}, 0},
    {"madvise", call_madvise, {room[3]}, 1},
    {"brk", call_brk, {NULL}, 0},
    {"shmat", call_shmat, {NULL}, 1},
    {"shmdt", call_shmdt, {NULL}, 1},
    {"sigaction __sigaction", call_sigaction, {BUFFER, room[2]}, 1},
    {"sigprocmask", call_sigprocmask, {BUFFER, room[2]}, 1},
    {"sigaltstack", call_sigaltstack, {NULL, BUFFER}, 1},
    {"execveat", call_execveat, {TRUE_PATH, STRINGS, STRINGS}, 1},
    {"ppoll", call_ppoll, {BUFFER}, 1},
    {"pselect", call_pselect, {BUFFER}, 0},
    {"epoll_pwait", call_epoll_pwait, {BUFFER}, 1},
    {"epoll_pwait2", call_epoll_pwait2, {BUFFER}, 0},
    {"pthread_sigmask", call_pthread_sigmask, {BUFFER, room[2]}, 1},
};

/* Interposed, and without a pointer that anything is read from or written to; or it would wait, or
 * libc's own death is right. */
static const char no_pointers[] =
    " __asan_default_options dprintf fclose fflush remap_file_pages vdprintf _Exit _Fork _exit "
    "clone close "
    "close_range closefrom dup dup2 dup3 "
    "fallocate fallocate64 "
    "fchmod "
    "fchown fdatasync flock fsync isatty readahead sync_file_range syscall "
    "ftruncate ftruncate64 lseek lseek64 posix_fallocate posix_fallocate64 pthread_cancel sbrk "
    "aio_fsync aio_fsync64 aio_read aio_read64 aio_write aio_write64 lio_listio "
    "lio_listio64 "
    "pclose popen posix_spawn_file_actions_addopen prctl pthread_create setns thrd_create "
    "sigsuspend "
    "system "
    "sigignore "
    "signal bsd_signal ssignal "
    "__sysv_signal "
    "sysv_signal sigset wait wait3 wait4 waitid waitpid ";

static bool lists(const char *names, const char *name)
{
	size_t length = strlen(name);

	for (const char *at = names; (at = strstr(at, name)); at += length)
		if ((at == names || at[-1] == ' ') && (at[length] == ' ' || !at[length]))
			return true;
	return false;
}

static void check_listed(const char *name)
{
	bool found = lists(no_pointers, name);

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		found = found || lists(rows[i].names, name);
	if (found)
		return;
	printf("FAIL %s is interposed and has no row here\n", name);
	failures++;
}

/* Entries of the symbol table, from the hash table's last chain. */
static uint32_t symbol_count(const uint32_t *hash)
{
	uint32_t buckets = hash[0], first = hash[1], last = 0;
	const uint32_t *bucket = (const uint32_t *)((const uint64_t *)(hash + 4) + hash[2]);
	const uint32_t *chain = bucket + buckets - first;

	for (uint32_t i = 0; i < buckets; i++)
		last = bucket[i] > last ? bucket[i] : last;
	while (last && !(chain[last] & 1))
		last++;
	return last ? last + 1 : 0;
}

static void test_all_have_rows(void)
{
	const Elf64_Sym *symbols = NULL;
	const uint32_t *hash = NULL;
	const char *strings = NULL;
	struct link_map *map = NULL;
	unsigned int seen = 0;
	Dl_info info;

	CHECK(dladdr(dlsym(RTLD_DEFAULT, "ioctl"), &info));
	CHECK(!dlinfo(dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD), RTLD_DI_LINKMAP, &map));
	for (const Elf64_Dyn *entry = map->l_ld; entry->d_tag != DT_NULL; entry++) {
		if (entry->d_tag == DT_SYMTAB)
			symbols = (const Elf64_Sym *)entry->d_un.d_ptr;
		if (entry->d_tag == DT_STRTAB)
			strings = (const char *)entry->d_un.d_ptr;
		if (entry->d_tag == DT_GNU_HASH)
			hash = (const uint32_t *)entry->d_un.d_ptr;
	}
	CHECK(symbols && strings && hash);
	for (uint32_t i = 0; i < symbol_count(hash); i++) {
		if (symbols[i].st_shndx == SHN_UNDEF ||
		    ELF64_ST_TYPE(symbols[i].st_info) != STT_FUNC)
			continue;
		check_listed(strings + symbols[i].st_name);
		seen++;
	}
	CHECK(seen > 80 && seen < 1000);
}

static void *const bad_pointers[] = {
    NULL,
    (void *)8,
    (void *)0x6f0000001000,	/* nothing is mapped there */
    (void *)0x7ffffffff000,	/* the first past all that a client has */
    (void *)0xffff800000000000, /* the kernel's */
    (void *)0xfffffffffffffff8, /* wraps */
};
#define BAD_POINTERS (sizeof(bad_pointers) / sizeof(bad_pointers[0]))

/* By bad pointer: 0, an errno, or minus the signal that the caller died of. */
struct outcomes {
	int of[BAD_POINTERS];
	unsigned int at;
};

/* In one child as long as it lives: a call may end it, or replace it. */
static void outcomes_get(struct outcomes *outcomes, caller *call, void *function,
			 const struct arguments *arguments, unsigned int which)
{
	struct outcomes *shared =
	    mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	CHECK(shared != MAP_FAILED);
	while (shared->at < BAD_POINTERS) {
		pid_t pid = fork();
		int status;

		if (!pid) {
			const struct rlimit no_core = {0, 0};
			struct arguments bad = *arguments;

			setrlimit(RLIMIT_CORE, &no_core);
			if (!function && !is_trapped)
				CHECK(!prctl(59 /* PR_SET_SYSCALL_USER_DISPATCH */, 0, 0, 0, 0));
			for (; shared->at < BAD_POINTERS; shared->at++) {
				bad.p[which] = bad_pointers[shared->at];
				shared->of[shared->at] = call(function, &bad) == -1 ? errno : 0;
			}
			_exit(0);
		}
		CHECK(waitpid(pid, &status, 0) == pid);
		if (shared->at == BAD_POINTERS)
			break;
		shared->of[shared->at++] =
		    WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
	}
	*outcomes = *shared;
	CHECK(!munmap(shared, sizeof(*shared)));
}

/* @expect is what the kernel made of the same calls, or libc. */
static void compare(const char *what, const char *name, unsigned int which,
		    const struct outcomes *got, const struct outcomes *expect)
{
	for (size_t i = 0; i < BAD_POINTERS; i++) {
		int wanted = expect->of[i] == -SIGSEGV ? EFAULT : expect->of[i];

		if (got->of[i] != wanted && failures++ < FAILURES_MAX)
			printf("FAIL %s: %s, pointer %u = %p: got %d, not %d\n", what, name, which,
			       bad_pointers[i], got->of[i], wanted);
	}
}

static void check_function(const char *what, const struct row *row, const char *name)
{
	void *ours = dlsym(RTLD_DEFAULT, name);
	void *libcs = row->has_raw ? NULL : dlsym(dlopen("libc.so.6", RTLD_LAZY), name);
	struct arguments arguments = {.fd = open(FILE_PATH, O_RDONLY)};
	struct outcomes got, expect;
	int pipes[2];

	CHECK(ours && (row->has_raw || libcs) && !pipe(pipes));
	arguments.pipe = pipes[1];
	for (unsigned int which = 0; which < POINTERS_MAX; which++) {
		if (which && !row->good[which])
			break;
		memcpy(arguments.p, row->good, sizeof(arguments.p));
		outcomes_get(&expect, row->call, libcs, &arguments, which);
		outcomes_get(&got, row->call, ours, &arguments, which);
		compare(what, name, which, &got, &expect);
		if (!row->has_raw)
			continue;
		is_trapped = true;
		outcomes_get(&got, row->call, NULL, &arguments, which);
		is_trapped = false;
		compare("trapped", name, which, &got, &expect);
	}
	close(arguments.fd);
	close(pipes[0]);
	close(pipes[1]);
}

static void check_all(const char *what)
{
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		char names[128], *rest = names, *name;

		strcpy(names, rows[i].names);
		while ((name = strsep(&rest, " ")))
			check_function(what, &rows[i], name);
	}
}

/* The buffer of a look at the device, against that of another. */
static void test_device_paths(void)
{
	static const char *const looks[] = {"stat",   "lstat",	    "fstatat",
					    "stat64", "__fxstatat", "statx"};
	struct arguments arguments = {{0}, -1, -1};

	for (size_t look = 0; look < sizeof(looks) / sizeof(looks[0]); look++) {
		const struct row *row = rows;
		struct outcomes got, expect;

		while (!lists(row->names, looks[look]))
			row++;
		arguments.p[0] = (void *)"/dev/null";
		outcomes_get(&expect, row->call, NULL, &arguments, 1);
		arguments.p[0] = (void *)"/dev/kvm";
		outcomes_get(&got, row->call, dlsym(RTLD_DEFAULT, looks[look]), &arguments, 1);
		compare("the device", looks[look], 1, &got, &expect);
	}
}

/* Calls on our descriptor @fd answer as the raw ones on @like. */
static void check_descriptor(const char *what, int fd, int like)
{
	static const char calls[] = "read pread readv preadv write writev pwrite pwritev sendfile "
				    "futimens";
	int pipes[2];

	CHECK(!pipe(pipes));
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		char name[128];

		strcpy(name, rows[i].names);
		name[strcspn(name, " ")] = '\0';
		if (!lists(calls, name))
			continue;
		for (unsigned int which = 0; which < 2 && rows[i].good[which]; which++) {
			struct arguments arguments = {.fd = like, .pipe = pipes[1]};
			struct outcomes got, expect;

			memcpy(arguments.p, rows[i].good, sizeof(arguments.p));
			outcomes_get(&expect, rows[i].call, NULL, &arguments, which);
			arguments.fd = fd;
			outcomes_get(&got, rows[i].call, dlsym(RTLD_DEFAULT, name), &arguments,
				     which);
			/* No offset and no times are no bad pointers. */
			got.of[0] = expect.of[0];
			compare(what, name, which, &got, &expect);
		}
	}
	close(pipes[0]);
	close(pipes[1]);
}

int main(void)
{
	sigset_t all, before;
	int kvm, vm, stats;

	setvbuf(stdout, NULL, _IOLBF, 0);
	test_all_have_rows();
	check_all("before KVM is opened");
	test_device_paths();
	kvm = open("/dev/kvm", O_RDWR);
	CHECK(kvm >= 0);
	vm = ioctl(kvm, KVM_CREATE_VM, 0);
	CHECK(vm >= 0);
	stats = ioctl(vm, KVM_GET_STATS_FD, 0);
	CHECK(stats >= 0);
	check_all("with a VM");
	test_device_paths();
	check_descriptor("a VM", vm, epoll_create1(0));
	check_descriptor("statistics", stats, open("/proc/self/status", O_RDONLY));
	sigfillset(&all);
	CHECK(!sigprocmask(SIG_SETMASK, &all, &before));
	check_all("with all signals blocked");
	CHECK(!sigprocmask(SIG_SETMASK, &before, NULL));
	printf("%u failures\n", failures);
	return failures != 0;
}
