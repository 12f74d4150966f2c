/* What libc does inside itself with KVM's descriptors, and with the shell. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client.h"

static struct vm vm;

static void test_a_stream_on_the_device(void)
{
	FILE *stream = fopen("/dev/kvm", "r+");
	char bytes[8];
	int fd;

	CHECK(stream != NULL);
	fd = fileno(stream);
	CHECK_EQ(ioctl(fd, KVM_GET_API_VERSION, 0), 12);
	CHECK_EQ(fread(bytes, 1, sizeof(bytes), stream), 0);
	CHECK_EQ(errno, EINVAL);
	CHECK(ferror(stream));
	CHECK_OK(fclose(stream));
	CHECK(ioctl(fd, KVM_GET_API_VERSION, 0) == -1 && errno == EBADF);
}

static void test_a_stream_on_a_vm(void)
{
	FILE *stream;

	vm_open(&vm, KVM_X86_DEFAULT_VM);
	CHECK(!fdopen(vm.fd, "z") && errno == EINVAL);
	stream = fdopen(vm.fd, "w");
	CHECK(stream != NULL);
	CHECK_EQ(fileno(stream), vm.fd);
	CHECK(fputs("x", stream) >= 0);
	CHECK(fflush(stream) == EOF && errno == EINVAL);
	fclose(stream);
	CHECK(ioctl(vm.fd, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY) == -1 && errno == EBADF);
}

static void test_statistics_by_a_stream(void)
{
	struct kvm_stats_header header, again;
	FILE *stream;
	int fd;

	vm_open(&vm, KVM_X86_DEFAULT_VM);
	fd = ioctl(vm.fd, KVM_GET_STATS_FD, 0);
	CHECK(fd >= 0);
	CHECK_EQ(pread(fd, &header, sizeof(header), 0), sizeof(header));
	CHECK(!fdopen(fd, "w") && errno == EINVAL);
	stream = fdopen(fd, "r");
	CHECK(stream != NULL);
	CHECK_EQ(fread(&again, sizeof(again), 1, stream), 1);
	CHECK(!memcmp(&again, &header, sizeof(header)));
	CHECK_OK(fclose(stream));
}

/* A shell that is started after the environment was emptied finds KVM all the same. */
static void test_the_shell_without_variables(void)
{
	static const char command[] = "test 'a b' = \"a b\" && exec 3<>/dev/kvm && exit 7";
	FILE *stream;
	int status;

	CHECK_OK(unsetenv("LD_PRELOAD"));
	status = system(command);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 7);
	CHECK_OK(clearenv());
	stream = popen(command, "r");
	CHECK(stream != NULL);
	status = pclose(stream);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 7);
}

int main(int argc, char **argv)
{
	static const struct check_test tests[] = {
	    TEST(test_a_stream_on_the_device),
	    TEST(test_a_stream_on_a_vm),
	    TEST(test_statistics_by_a_stream),
	    TEST(test_the_shell_without_variables),
	};

	return check_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
