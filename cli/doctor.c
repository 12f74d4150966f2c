/* `quire doctor`: what this machine offers, and what is missing. */
#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "frontend/report/json.h"
#include "cli/quire.h"
#include "preload/program.h"
#include "vcpu/decode/decoder.h"
#include "vcpu/translate/machine.h"

/* Linux 6.3 has it, libc's headers may not. */
#define MEMFD_EXECUTABLE 0x10u
#define PAGE_BYTES 4096u

/* PAGEMAP_SCAN, newer than the headers of older distributions. */
struct pagemap_scan {
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
	uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
#define SCAN_PAGEMAP _IOWR('f', 16, struct pagemap_scan)

#define SET_CPUID 0x1012 /* of arch_prctl(2) */

#ifndef PR_SET_SYSCALL_USER_DISPATCH
#define PR_SET_SYSCALL_USER_DISPATCH 59
#define PR_SYS_DISPATCH_OFF 0
#endif

/* With --json. */
static bool is_for_machines;
static struct json answers;

static void say(const char *what, const char *answer, const char *meaning)
{
	if (!is_for_machines) {
		printf("%-22s %-14s %s\n", what, answer, meaning);
		return;
	}
	json_object(&answers, what);
	json_string(&answers, "answer", answer);
	json_string(&answers, "meaning", meaning);
	json_end(&answers);
}

static bool has_pagemap_scan(void)
{
	uint64_t page = (uint64_t)(uintptr_t)&page & ~UINT64_C(4095);
	struct pagemap_scan scan = {.size = sizeof(scan), .start = page, .end = page + 4096};
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	bool works = fd >= 0 && ioctl(fd, SCAN_PAGEMAP, &scan) >= 0;

	if (fd >= 0)
		close(fd);
	return works;
}

static bool has_userfaultfd(void)
{
	long fd = syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);

	if (fd >= 0)
		close((int)fd);
	return fd >= 0;
}

/* The lock by which the last reference to a descriptor is noticed. */
static bool has_memfd_locks(void)
{
	int fd = memfd_create("quire-doctor", MFD_CLOEXEC), second;
	char path[64];
	bool works = false;

	if (fd < 0)
		return false;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	second = open(path, O_RDWR | O_CLOEXEC);
	if (second >= 0) {
		works = !flock(fd, LOCK_EX) && flock(second, LOCK_EX | LOCK_NB);
		close(fd);
		works = works && !flock(second, LOCK_EX | LOCK_NB);
		close(second);
	} else {
		close(fd);
	}
	return works;
}

/* Memory that is written in one place and run in another, as translated code is. */
static bool has_executable_memory(void)
{
	int fd = memfd_create("quire-doctor", MFD_CLOEXEC | MEMFD_EXECUTABLE);
	void *code = MAP_FAILED;

	if (fd < 0)
		fd = memfd_create("quire-doctor", MFD_CLOEXEC);
	if (fd < 0)
		return false;
	if (!ftruncate(fd, PAGE_BYTES))
		code = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
	close(fd);
	if (code == MAP_FAILED)
		return false;
	munmap(code, PAGE_BYTES);
	return true;
}

static void say_translator(void)
{
	if (!machine_translates())
		say("translator", "no",
		    "the interpreter runs all: no BMI2, or a slow PEXT (Zen 1 and 2)");
	else if (!has_executable_memory())
		say("translator", "no", "the interpreter runs all: executable memory is refused");
	else
		say("translator", "yes", "guests' hot code becomes machine code");
}

static void say_huge_pages(void)
{
	char text[128] = "";
	FILE *file = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "re");
	char *open_bracket, *close_bracket;

	if (file) {
		if (!fgets(text, sizeof(text), file))
			text[0] = '\0';
		fclose(file);
	}
	open_bracket = strchr(text, '[');
	close_bracket = strchr(text, ']');
	if (open_bracket && close_bracket) {
		*close_bracket = '\0';
		say("huge pages", open_bracket + 1,
		    "2M mappings appear where the machine has them");
	} else {
		say("huge pages", "unknown", "guest memory is mapped by 4K pages");
	}
}

static void say_descriptors(void)
{
	struct rlimit limit;
	char text[32];

	if (getrlimit(RLIMIT_NOFILE, &limit))
		return;
	snprintf(text, sizeof(text), "%lu", (unsigned long)limit.rlim_cur);
	say("descriptors", text,
	    limit.rlim_cur < limit.rlim_max || geteuid() == 0
		? "ours lie past this limit and take none of yours"
		: "ours count against this limit: a few, and one for each vCPU");
}

static bool has_filters(void)
{
	uint32_t action = SECCOMP_RET_ERRNO;

	return !syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action);
}

/* Whether a filter may be installed without no_new_privs. */
static bool is_administrator(void)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct sets[_LINUX_CAPABILITY_U32S_3];

	return !syscall(SYS_capget, &header, sets) &&
	       (sets[0].effective & (1u << CAP_SYS_ADMIN)) != 0;
}

/* False when a run cannot start. */
static bool say_filter(void)
{
	bool works = has_filters();

	say("seccomp filters", works ? "yes" : "no",
	    works ? "keep the machine's own KVM out of reach of a run" : "needed (Linux 4.14)");
	if (works && !is_administrator())
		say("no_new_privs", "set",
		    "set-user-ID programs in a run (sudo, fusermount3, newuidmap) gain no rights");
	return works;
}

/* Whether the library can take over what a dynamic program asks of the kernel by itself. */
static bool has_dispatch(void)
{
	return !prctl(PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_OFF, 0, 0, 0);
}

static void say_dispatch(void)
{
	if (has_dispatch())
		say("raw system calls", "served",
		    "those that a dynamic program makes without libc, at some microseconds each");
	else
		say("raw system calls", "not served",
		    "of dynamic programs (Linux 5.11): KVM's ioctls among them answer ENODEV");
}

/* How a program of @kind is served, in words; NULL: not at all. */
static const char *service(enum program_kind kind)
{
	switch (kind) {
	case PROGRAM_OK:
		return has_dispatch()
			   ? "by the library, where it calls libc and where it calls the kernel"
			   : "by the library, where it calls libc; system calls of its own are not "
			     "seen";
	case PROGRAM_STATIC:
	case PROGRAM_OTHER_LIBC:
	case PROGRAM_GO:
		return "by quire-engine, which takes its system calls over";
	default:
		return NULL;
	}
}

static const char *kind_name(enum program_kind kind)
{
	static const char *const names[] = {
	    [PROGRAM_OK] = "dynamic",	      [PROGRAM_UNREADABLE] = "unreadable",
	    [PROGRAM_STATIC] = "static",      [PROGRAM_OTHER_LIBC] = "another libc",
	    [PROGRAM_GO] = "Go with cgo",     [PROGRAM_FOREIGN] = "foreign",
	    [PROGRAM_SETUID] = "set-user-ID",
	};

	return names[kind];
}

/* What @name is, how it will be served, what is missing. False: it will not be. */
static bool say_program(const char *name)
{
	char path[PATH_MAX], engine[PATH_MAX];
	int error = program_find(name, getenv("PATH"), path, sizeof(path));
	enum program_kind kind;
	const char *how;

	if (error) {
		say("program", "missing", strerror(-error));
		return false;
	}
	kind = program_check(path);
	how = service(kind);
	say("program", kind_name(kind), path);
	if (how && program_wants_engine(kind) && find_engine(engine))
		how = NULL;
	say("it is served", how ? "yes" : "no", how ? how : program_reason(kind));
	return how != NULL;
}

/* How `quire run --cpuid` shows a program the processor that Quire offers. */
static void say_cpuid(bool has_engine)
{
	bool faults = !syscall(SYS_arch_prctl, SET_CPUID, 0);

	if (faults)
		syscall(SYS_arch_prctl, SET_CPUID, 1);
	if (!has_engine)
		say("CPUID of programs", "real", "`quire run --cpuid` needs the engine");
	else if (faults)
		say("CPUID of programs", "faults", "`quire run --cpuid` answers each");
	else
		say("CPUID of programs", "replaced",
		    "`quire run --cpuid` answers those that it finds in files that are mapped");
}

/* Without it no vCPU is made. */
static void say_decoder(const char *library)
{
	int error;

	decoder_look_beside(library);
	error = decoder_load();
	say("decoder", error ? "missing" : "found",
	    error ? "libZydis: neither beside the library nor in the system's folders: no vCPUs"
		  : "libZydis, brought into memory at the first use of KVM");
}

static bool say_machine(void)
{
	char library[PATH_MAX], engine[PATH_MAX];
	struct utsname name;
	bool usable, found;

	if (!uname(&name))
		say("kernel", name.release, "");
	usable = !find_library(library);
	say("library", usable ? "found" : "missing", usable ? library : "build it, or reinstall");
	if (usable)
		say_decoder(library);
	found = !find_engine(engine);
	say("engine", found ? "found" : "missing",
	    found ? engine : "static programs and Go are not served without it");
	say_cpuid(found);
	found = has_memfd_locks();
	say("memfd, /proc, flock", found ? "yes" : "no",
	    found ? "descriptors work" : "needed: is /proc mounted?");
	usable = say_filter() && usable && found;
	say_dispatch();
	say("PAGEMAP_SCAN", has_pagemap_scan() ? "yes" : "no",
	    "tells which pages are huge (Linux 6.7); without it all are 4K");
	say("userfaultfd", has_userfaultfd() ? "yes" : "no", "only programs that use it need it");
	say_translator();
	say_huge_pages();
	say_descriptors();
	say("/dev/kvm", access("/dev/kvm", F_OK) ? "absent" : "present",
	    "the machine's own; `quire run` never uses it");
	return usable;
}

static int take_option(void *ctx, int key, const char *value)
{
	is_for_machines = true;
	return 0;
}

static const struct cli_option doctor_options[] = {
    {"json", NULL, "answer in JSON", 0},
    {0},
};

const struct cli_command doctor_command = {
    .name = "quire doctor",
    .operand = "[--] [PROGRAM]",
    .about = "Say what this machine offers to a run, and how PROGRAM would be served.",
    .options = doctor_options,
    .take = take_option,
};

int command_doctor(int argc, char **argv)
{
	bool usable;
	int rest, status;

	status = cli_parse(&doctor_command, argc, argv, NULL, &rest);
	if (status != CLI_GO_ON)
		return status;
	answers.file = stdout;
	if (is_for_machines)
		json_object(&answers, NULL);
	usable = say_machine();
	if (rest < argc)
		usable = say_program(argv[rest]) && usable;
	if (is_for_machines) {
		json_bool(&answers, "usable", usable);
		json_end(&answers);
	} else {
		printf("\n%s\n",
		       usable ? "`quire run` works here." : "`quire run` does not work here.");
	}
	return usable ? EXIT_SUCCESS : EXIT_FAILURE;
}
