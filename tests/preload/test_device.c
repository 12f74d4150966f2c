/* /dev/kvm is what it is, however it is spelled, opened, looked at or handed on. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/preload/check.h"

#define KVM_GET_API_VERSION 0xae00
#define VERSION 12

static char folder[] = "/tmp/quire-device-XXXXXX";

static char *in_folder(const char *name)
{
	static char path[2][128];
	static int turn;

	turn ^= 1;
	snprintf(path[turn], sizeof(path[turn]), "%s/%s", folder, name);
	return path[turn];
}

/* The real frontend answers 12; the fake one, on the descriptor that it makes, FAKE_SPLIT. */
static void check_is_device(int fd)
{
	struct stat status;

	CHECK(fd >= 0);
	CHECK(!fstat(fd, &status) && S_ISCHR(status.st_mode));
	CHECK(status.st_rdev == makedev(10, 232));
	CHECK(!close(fd));
}

static void test_spellings(void)
{
	int dev = open("/dev", O_PATH | O_DIRECTORY | O_CLOEXEC), home = open(".", O_PATH);
	struct open_how how = {.flags = O_RDWR};

	CHECK(dev >= 0 && home >= 0);
	check_is_device(open("/dev/kvm", O_RDWR));
	check_is_device(open("//dev//kvm", O_RDWR));
	check_is_device(open("/dev/../dev/./kvm", O_RDWR | O_CLOEXEC));
	check_is_device(open("/proc/self/root/dev/kvm", O_RDWR));
	check_is_device(openat(dev, "kvm", O_RDWR));
	check_is_device((int)syscall(SYS_openat, dev, "./kvm", O_RDWR));
	check_is_device((int)syscall(SYS_open, "/dev//kvm", O_RDWR));
	check_is_device((int)syscall(SYS_openat2, dev, "kvm", &how, sizeof(how)));
	CHECK(!fchdir(dev));
	check_is_device(open("kvm", O_RDWR));
	CHECK(!fchdir(home) && !close(home) && !close(dev));
	CHECK_FAILS(open("/dev/kvmm", O_RDWR), ENOENT);
	CHECK_FAILS(open(in_folder("kvm"), O_RDWR), ENOENT);
	CHECK_FAILS(open("/dev/kvm", O_RDWR | O_CREAT | O_EXCL, 0600), EEXIST);
	CHECK_FAILS(open("/dev/kvm", O_RDWR | O_DIRECTORY), ENOTDIR);
	check_is_device(open("/dev/kvm", O_RDWR | O_CREAT, 0600));
}

static void test_links(void)
{
	struct stat status;

	CHECK(!symlink("/dev/kvm", in_folder("link")));
	CHECK(!symlink("link", in_folder("second")));
	CHECK(!symlink("/dev", in_folder("dev")));
	CHECK(!symlink("/dev/nothing", in_folder("kvm")));
	check_is_device(open(in_folder("link"), O_RDWR));
	check_is_device(open(in_folder("second"), O_RDWR));
	check_is_device(open(in_folder("dev/kvm"), O_RDWR));
	CHECK_FAILS(open(in_folder("kvm"), O_RDWR), ENOENT);
	CHECK_FAILS(open(in_folder("link"), O_RDWR | O_NOFOLLOW), ELOOP);
	CHECK(!stat(in_folder("second"), &status) && S_ISCHR(status.st_mode));
	CHECK(!lstat(in_folder("second"), &status) && S_ISLNK(status.st_mode));
	CHECK(!access(in_folder("dev/kvm"), R_OK | W_OK));
	CHECK_FAILS(access("//dev/kvm", X_OK), EACCES);
	CHECK_FAILS(access("/dev/kvmm", F_OK), ENOENT);
	unlink(in_folder("link"));
	unlink(in_folder("second"));
	unlink(in_folder("dev"));
	unlink(in_folder("kvm"));
}

static void check_resolved(char *found)
{
	CHECK(found && !strcmp(found, "/dev/kvm"));
}

/* The device's place is a file's in each call that follows a path to its end. */
static void test_resolved(void)
{
	char room[PATH_MAX], longest[PATH_MAX + 1];
	char *found;

	CHECK(!symlink("/dev/kvm", in_folder("link")));
	/* What is behind the string stays the client's. */
	memset(room, '*', sizeof(room));
	check_resolved(realpath("/dev/../dev//kvm", room));
	CHECK(room[sizeof("/dev/kvm")] == '*');
	check_resolved(found = realpath(in_folder("link"), NULL));
	free(found);
	check_resolved(found = canonicalize_file_name("/dev/kvm"));
	free(found);
	CHECK(!realpath("/dev/kvmm", room) && errno == ENOENT);
	CHECK_FAILS(readlink("/dev/kvm", room, sizeof(room)), EINVAL);
	CHECK(readlink(in_folder("link"), room, sizeof(room)) == 8);
	unlink(in_folder("link"));
	/* As many bytes as the kernel takes. */
	memset(longest, '/', sizeof(longest));
	strcpy(longest + PATH_MAX - 9, "/dev/kvm");
	check_is_device(open(longest, O_RDWR));
	strcpy(longest + PATH_MAX - 8, "/dev/kvm");
	CHECK_FAILS(open(longest, O_RDWR), ENAMETOOLONG);
}

/* An open's flags are the description's. */
static void test_open_flags(void)
{
	int fd = open("/dev/kvm", O_RDWR | O_NONBLOCK | O_APPEND);

	CHECK((fcntl(fd, F_GETFL) & (O_NONBLOCK | O_APPEND)) == (O_NONBLOCK | O_APPEND));
	check_is_device(fd);
	CHECK_FAILS(open("/dev/kvm", O_RDWR | O_DIRECT), EINVAL);
	CHECK(!fopen("/dev/kvm", "wx") && errno == EEXIST);
}

/* A node of the device's number, in a place of its own: with or without a driver behind it. */
static void test_node(void)
{
	if (mknod(in_folder("node"), S_IFCHR | 0600, makedev(10, 232))) {
		printf("  without the privilege to make a node\n");
		return;
	}
	check_is_device(open(in_folder("node"), O_RDWR));
	CHECK(!unlink(in_folder("node")));
}

/* An object is not opened again, and its link in /proc has the name of KVM's file. */
static void test_link_in_proc(void)
{
	char path[64], name[64];
	int fd = open("/dev/kvm", O_RDWR);

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	CHECK(readlink(path, name, sizeof(name)) == 8 && !memcmp(name, "/dev/kvm", 8));
	CHECK(readlink(path, name, 3) == 3 && !memcmp(name, "/de", 3));
	close(fd);
}

/* A descriptor that an ancestor opened, in an image that knows of none. */
static void test_inherited(void)
{
	int fd = open("/dev/kvm", O_RDWR), status;
	char number[16];
	pid_t child;

	snprintf(number, sizeof(number), "%d", fd);
	child = fork();
	if (child == 0) {
		execl("/proc/self/exe", "test_device", "inherited", number, NULL);
		_exit(99);
	}
	CHECK(waitpid(child, &status, 0) == child && status == 0);
	close(fd);
}

int main(int argc, char **argv)
{
	static const struct test tests[] = {
	    {"spellings", test_spellings},
	    {"links", test_links},
	    {"node", test_node},
	    {"resolved", test_resolved},
	    {"open flags", test_open_flags},
	    {"link in proc", test_link_in_proc},
	    {"inherited", test_inherited},
	};

	if (argc > 2 && !strcmp(argv[1], "inherited"))
		return ioctl(atoi(argv[2]), KVM_GET_API_VERSION, 0) == VERSION ? 0 : 1;
	CHECK(mkdtemp(folder));
	run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc > 1 ? argv[1] : NULL);
	CHECK(!rmdir(folder));
	return 0;
}
