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
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "cli/quire.h"

/* PAGEMAP_SCAN, newer than the headers of older distributions. */
struct pagemap_scan {
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
	uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
#define SCAN_PAGEMAP _IOWR('f', 16, struct pagemap_scan)

static void say(const char *what, const char *answer, const char *meaning)
{
	printf("%-22s %-14s %s\n", what, answer, meaning);
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
		: "ours count against this limit: one for each of yours");
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

int command_doctor(int argc, char **argv)
{
	char library[PATH_MAX];
	struct utsname name;
	bool usable = true, found;

	(void)argv;
	if (argc > 1) {
		fprintf(stderr, "usage: quire doctor\n");
		return EXIT_USAGE;
	}
	if (!uname(&name))
		say("kernel", name.release, "");
	found = !find_library(library);
	say("library", found ? "found" : "missing", found ? library : "build it, or reinstall");
	usable = usable && found;
	found = has_memfd_locks();
	say("memfd, /proc, flock", found ? "yes" : "no",
	    found ? "descriptors work" : "needed: is /proc mounted?");
	usable = say_filter() && usable && found;
	say("PAGEMAP_SCAN", has_pagemap_scan() ? "yes" : "no",
	    "tells which pages are huge (Linux 6.7); without it all are 4K");
	say("userfaultfd", has_userfaultfd() ? "yes" : "no", "only programs that use it need it");
	say_huge_pages();
	say_descriptors();
	say("/dev/kvm", access("/dev/kvm", F_OK) ? "absent" : "present",
	    "the machine's own; `quire run` never uses it");
	printf("\n%s\n", usable ? "`quire run` works here." : "`quire run` does not work here.");
	return usable ? EXIT_SUCCESS : EXIT_FAILURE;
}
