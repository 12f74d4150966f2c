/* What libc does inside itself with KVM's descriptors, and with the shell. */
#include <aio.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
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

/* A request on a VM fails as libc's thread would find it; one on statistics reads. */
static void test_asynchronous_requests(void)
{
	struct kvm_stats_header header, again;
	struct aiocb request = {.aio_buf = &again, .aio_nbytes = sizeof(again)}, other;
	struct aiocb *const list[] = {&request, NULL, &other};
	char bytes[] = "abcdefgh", got[4];
	int file = memfd_create("a file", 0);

	vm_open(&vm, KVM_X86_DEFAULT_VM);
	request.aio_fildes = vm.fd;
	CHECK_OK(aio_read(&request));
	CHECK_EQ(aio_error(&request), EINVAL);
	CHECK_EQ(aio_return(&request), -1);
	CHECK_OK(aio_write(&request));
	CHECK_EQ(aio_error(&request), EINVAL);
	CHECK_OK(aio_fsync(O_SYNC, &request));
	CHECK_EQ(aio_error(&request), EINVAL);
	request.aio_fildes = ioctl(vm.fd, KVM_GET_STATS_FD, 0);
	CHECK_EQ(pread(request.aio_fildes, &header, sizeof(header), 0), sizeof(header));
	CHECK_OK(aio_read(&request));
	CHECK_EQ(aio_error(&request), 0);
	CHECK_EQ(aio_return(&request), sizeof(header));
	CHECK(!memcmp(&again, &header, sizeof(header)));
	/* In one list with another file's. */
	CHECK_EQ(write(file, bytes, 8), 8);
	other = (struct aiocb){.aio_fildes = file,
			       .aio_buf = got,
			       .aio_nbytes = 4,
			       .aio_offset = 2,
			       .aio_lio_opcode = LIO_READ};
	request.aio_fildes = vm.fd;
	request.aio_lio_opcode = LIO_READ;
	CHECK(lio_listio(LIO_WAIT, list, 3, NULL) == -1 && errno == EIO);
	CHECK_EQ(aio_error(&request), EINVAL);
	CHECK_EQ(aio_error(&other), 0);
	CHECK(!memcmp(got, "cdef", 4));
}

/* Requests on a file alone, with an object in the process: libc's own. */
static void test_requests_on_a_file(void)
{
	char bytes[8] = "abcdefgh", got[8];
	struct aiocb request = {.aio_buf = bytes, .aio_nbytes = sizeof(bytes)};
	struct aiocb none = {.aio_lio_opcode = LIO_NOP};
	struct aiocb *const list[] = {&request, &none};
	const struct aiocb *const waits[] = {&request};

	vm_open(&vm, KVM_X86_DEFAULT_VM);
	none.aio_fildes = vm.fd;
	none.aio_buf = got;
	request.aio_fildes = memfd_create("a file", 0);
	CHECK_OK(aio_write(&request));
	CHECK_OK(aio_suspend(waits, 1, NULL));
	CHECK_EQ(aio_return(&request), 8);
	CHECK_OK(aio_fsync(O_SYNC, &request));
	CHECK_OK(aio_suspend(waits, 1, NULL));
	CHECK_EQ(aio_return(&request), 0);
	request.aio_buf = got;
	request.aio_offset = 2;
	CHECK_OK(aio_read(&request));
	CHECK_OK(aio_suspend(waits, 1, NULL));
	CHECK_EQ(aio_return(&request), 6);
	CHECK(!memcmp(got, "cdefgh", 6));
	/* In a list, an object that is asked for nothing has no error. */
	request.aio_lio_opcode = LIO_READ;
	request.aio_offset = 6;
	CHECK_OK(lio_listio(LIO_WAIT, list, 2, NULL));
	CHECK_EQ(aio_return(&request), 2);
	CHECK(!memcmp(got, "gh", 2));
	CHECK(lio_listio(77, list, 2, NULL) == -1 && errno == EINVAL);
	CHECK_OK(lio_listio(LIO_WAIT, list, 0, NULL));
}

/* A stream on statistics goes to positions within what it read, which the descriptor does not. */
static void test_positions_of_a_stream(void)
{
	struct kvm_stats_header header;
	char id[48], again[48];
	FILE *stream;
	int fd;

	vm_open(&vm, KVM_X86_DEFAULT_VM);
	fd = ioctl(vm.fd, KVM_GET_STATS_FD, 0);
	CHECK_EQ(pread(fd, &header, sizeof(header), 0), sizeof(header));
	CHECK_EQ(pread(fd, id, sizeof(id), header.id_offset), sizeof(id));
	CHECK_EQ(lseek(fd, header.id_offset, SEEK_SET), 0);
	stream = fdopen(fd, "r");
	CHECK(stream != NULL);
	CHECK_OK(fseek(stream, header.id_offset, SEEK_SET));
	CHECK_EQ(fread(again, sizeof(again), 1, stream), 1);
	CHECK(!memcmp(again, id, sizeof(id)));
	CHECK_OK(fclose(stream));
}

/* Parameters by streams: what fopen(3) is asked for holds for them, too. */
static void test_a_stream_on_a_parameter(void)
{
	static const char path[] = "/sys/module/kvm/parameters/halt_poll_ns";
	char text[16] = "";
	FILE *stream = fopen(path, "re");

	CHECK(stream != NULL);
	CHECK_EQ(fcntl(fileno(stream), F_GETFD), FD_CLOEXEC);
	CHECK(fgets(text, sizeof(text), stream) != NULL);
	CHECK_EQ(fclose(stream), 0);
	CHECK(!fopen(path, "q") && errno == EINVAL);
	CHECK(!fopen("/sys/module/kvm/parameters/none", "r") && errno == ENOENT);
	stream = fopen(path, "w");
	CHECK(stream != NULL);
	CHECK(fputs("12345\n", stream) >= 0);
	CHECK_EQ(fclose(stream), 0);
	stream = fopen(path, "r+");
	CHECK(stream != NULL);
	CHECK(fgets(text, sizeof(text), stream) && !strcmp(text, "12345\n"));
	CHECK_EQ(fclose(stream), 0);
}

/* Commands and modes that are nowhere. */
static void test_commands_out_of_reach(void)
{
	const char *volatile nowhere = (const char *)8;

	CHECK(system(NULL) != 0);
	CHECK_ERR(system(nowhere), EFAULT);
	CHECK(!popen(nowhere, "r") && errno == EFAULT);
	CHECK(!popen("true", nowhere) && errno == EFAULT);
	CHECK(!popen("true", "q") && errno == EINVAL);
}

/* The device as a number of a child's, opened by libc in the child. */
static void test_a_spawned_open(void)
{
	static char *const argv[] = {(char *)"sh", (char *)"-c",
				     (char *)"exec 4<>/dev/fd/9 && echo x >&8 && exit 6", NULL};
	posix_spawn_file_actions_t actions;
	int status;
	pid_t child;

	CHECK_EQ(posix_spawn_file_actions_init(&actions), 0);
	CHECK_EQ(posix_spawn_file_actions_addopen(&actions, 9, "/dev/kvm", O_RDWR, 0), 0);
	CHECK_EQ(posix_spawn_file_actions_addopen(&actions, 8, "/dev/null", O_RDWR, 0), 0);
	CHECK_EQ(posix_spawn(&child, "/bin/sh", &actions, NULL, argv, environ), 0);
	CHECK_EQ(waitpid(child, &status, 0), child);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 6);
	posix_spawn_file_actions_destroy(&actions);
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
	    TEST(test_a_stream_on_the_device),	TEST(test_a_stream_on_a_vm),
	    TEST(test_statistics_by_a_stream),	TEST(test_asynchronous_requests),
	    TEST(test_requests_on_a_file),	TEST(test_positions_of_a_stream),
	    TEST(test_a_stream_on_a_parameter), TEST(test_commands_out_of_reach),
	    TEST(test_a_spawned_open),		TEST(test_the_shell_without_variables),
	};

	return check_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
