/*
 * KVM's objects to the kernel's VFS, beyond one call each (test_vfs.c): as memory that is mapped,
 * and as files that a descriptor of O_PATH names.
 */
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "client.h"

static int descriptors[OBJECTS];

/* What is asked of a mapping, and what a file that cannot be mapped answers. */
static void test_mappings(void)
{
	static const struct {
		size_t length;
		int prot, flags;
		off_t offset;
		int error; /* 0: what all objects but the vCPU answer */
	} asked[] = {
	    {PAGE, PROT_READ, MAP_SHARED, 0, 0},
	    {PAGE, PROT_READ, MAP_PRIVATE, 0, 0},
	    {PAGE, PROT_READ, MAP_SHARED_VALIDATE, 0, 0},
	    {PAGE, PROT_READ, MAP_SHARED | MAP_GROWSDOWN, 0, 0},
	    {0, PROT_READ, MAP_SHARED, 0, EINVAL},
	    {PAGE, PROT_READ, MAP_SHARED, 100, EINVAL},
	    {PAGE, PROT_READ, 0, 0, EINVAL},
	    {PAGE, PROT_READ, MAP_SHARED | MAP_HUGETLB, 0, EINVAL},
	    {PAGE, PROT_READ, MAP_SHARED_VALIDATE | MAP_SYNC, 0, EOPNOTSUPP},
	    {PAGE, PROT_READ | PROT_EXEC, MAP_SHARED, 0, EPERM},
	};

	objects_open(descriptors);
	for (int object = 0; object < OBJECTS; object++) {
		for (size_t i = 0; i < sizeof(asked) / sizeof(asked[0]); i++) {
			int error = asked[i].error ? asked[i].error : ENODEV;

			if (object == VCPU && !asked[i].error)
				continue;
			/* The device's file system is the machine's. */
			if (object == KVM && error == EPERM)
				error = ENODEV;
			CHECK(mmap(NULL, asked[i].length, asked[i].prot, asked[i].flags,
				   descriptors[object], asked[i].offset) == MAP_FAILED);
			CHECK_EQ(errno, error);
		}
	}
	CHECK(mmap(NULL, PAGE, PROT_WRITE, MAP_SHARED, descriptors[STATS], 0) == MAP_FAILED);
	CHECK_EQ(errno, EACCES);
	CHECK(mmap(NULL, PAGE, PROT_READ, MAP_SHARED | MAP_GROWSDOWN, descriptors[VCPU], 0) ==
	      MAP_FAILED);
	CHECK_EQ(errno, EINVAL);
}

/* A descriptor of O_PATH names an object, and is none. */
static void test_paths_of_objects(void)
{
	objects_open(descriptors);
	for (int object = 0; object < OBJECTS; object++) {
		char path[64], name[64];
		struct statfs system;
		struct stat status, own;
		int fd, zero = 0;

		snprintf(path, sizeof(path), "/proc/self/fd/%d", descriptors[object]);
		/* The number has been something else before. */
		fd = open(path, O_RDWR);
		if (fd >= 0)
			close(fd);
		fd = (int)CHECK_OK(open(path, O_PATH));
		CHECK_ERR(ioctl(fd, KVM_CHECK_EXTENSION, 1), EBADF);
		CHECK_ERR(ioctl(fd, FIONBIO, &zero), EBADF);
		CHECK_ERR(read(fd, name, 1), EBADF);
		CHECK_ERR(write(fd, name, 1), EBADF);
		CHECK_ERR(lseek(fd, 0, SEEK_SET), EBADF);
		CHECK_ERR(fsync(fd), EBADF);
		CHECK_ERR(ftruncate(fd, 0), EBADF);
		CHECK_ERR(fallocate(fd, 0, 0, 1), EBADF);
		CHECK_ERR(fchmod(fd, 0600), EBADF);
		CHECK_ERR(flock(fd, LOCK_SH), EBADF);
		CHECK_ERR(fcntl(fd, F_GET_SEALS), EBADF);
		CHECK(fcntl(fd, F_GETFL) & O_PATH);
		CHECK(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0) == MAP_FAILED);
		CHECK_EQ(errno, EBADF);
		CHECK_OK(fstat(fd, &status));
		CHECK_OK(fstat(descriptors[object], &own));
		CHECK_EQ(status.st_mode, own.st_mode);
		CHECK_EQ(status.st_size, own.st_size);
		CHECK_OK(fstatfs(fd, &system));
		if (object != KVM)
			CHECK_EQ(system.f_type, object == GMEM ? 0x474d454d : 0x09041934);
		/* It takes nothing with it. */
		CHECK_OK(close(fd));
		if (object == VM)
			CHECK_OK(ioctl(descriptors[object], KVM_CHECK_EXTENSION, 1));
	}
}

int main(int argc, char **argv)
{
	static const struct check_test tests[] = {
	    TEST(test_mappings),
	    TEST(test_paths_of_objects),
	};

	return check_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
