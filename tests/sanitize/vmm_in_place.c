/*
 * Small VMMs whose guest_memfd converts in place: they touch what their guest holds private there,
 * and their mended twins do not (test_sanitize.py). Such an access raises SIGBUS, and they go on.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "tests/rules/gmem_convert.h"
#include "tests/sanitize/scenario.h"

static sigjmp_buf back;

static void on_bus(int signal)
{
	(void)signal;
	siglongjmp(back, 1);
}

/* A VM whose memory is all in one file. */
static void begin(uint64_t flags)
{
	signal(SIGBUS, on_bus);
	open_vm(KVM_X86_SW_PROTECTED_VM);
	file = vm_gmem(&vm, BYTES, flags);
	seen = map(file);
	show(&vm, file, GPA, BYTES, seen);
}

/* Not inlined: the reports name these. */
__attribute__((noinline)) static void make_private(void)
{
	make(PAGES / 2, PAGES / 2, PRIVATE);
}

__attribute__((noinline)) static uint64_t read_word(uint64_t page)
{
	return *(volatile uint64_t *)word_at(seen, page * PAGE);
}

__attribute__((noinline)) static void write_word(uint64_t page, uint64_t value)
{
	*(volatile uint64_t *)word_at(seen, page * PAGE) = value;
}

static int read_fails(uint64_t page)
{
	if (sigsetjmp(back, 1))
		return 1;
	(void)read_word(page);
	return 0;
}

static int write_fails(uint64_t page)
{
	if (sigsetjmp(back, 1))
		return 1;
	write_word(page, 7);
	return 0;
}

static void reads(void)
{
	begin(SHARED);
	write_word(PAGES - 1, 5);
	make_private();
	CHECK_EQ(read_word(0), 0);
	if (is_mended)
		make(PAGES / 2, PAGES / 2, 0);
	CHECK_EQ(read_fails(PAGES - 1), !is_mended);
}

/* Twice at one place: once is said. */
static void writes(void)
{
	begin(SHARED);
	make_private();
	for (int i = 0; i < 2; i++)
		CHECK_EQ(write_fails(is_mended ? 1 : PAGES / 2 + 1), !is_mended);
	/* Beyond the file nothing is private. */
	CHECK(mremap(seen, BYTES, BYTES, 0) == seen);
}

/* A child's mappings are the file's, too. */
static void forked(void)
{
	pid_t child;

	begin(SHARED);
	make_private();
	child = (pid_t)CHECK_OK(fork());
	if (!child)
		_exit(read_fails(is_mended ? 0 : PAGES / 2) != !is_mended);
	child_wait(child);
}

/* The conversion comes after the fork: a child follows it, and does not know its stack. */
static void child_converted(void)
{
	int status = 1;
	pid_t child;

	begin(SHARED);
	steps_open();
	make_private();
	child = (pid_t)CHECK_OK(fork());
	if (!child) {
		while (!comes(&steps->is_traced, 1))
			;
		/* Half of them are private by now, and half no more. */
		status = read_fails(PAGES - 1);
		status |= read_fails(is_mended ? PAGES - 1 : 1) != !is_mended;
		_exit(status);
	}
	make(0, PAGES / 2, PRIVATE);
	make(PAGES / 2, PAGES / 2, 0);
	__atomic_store_n(&steps->is_traced, 1, __ATOMIC_SEQ_CST);
	child_wait(child);
}

/* A child that libc has not made may be shown nothing: what is not private is no mistake there. */
static void child_without_libc(void)
{
	pid_t child;

	begin(SHARED);
	make_private();
	child = (pid_t)CHECK_OK(_Fork());
	if (!child) {
		(void)read_fails(1);
		_exit(read_fails(is_mended ? 2 : PAGES / 2) == 0 && !is_mended);
	}
	child_wait(child);
}

/* The kernel refuses what is private. */
static void use_by_kernel(void)
{
	const uint64_t limit = PAGES / 2 * PAGE;
	uint8_t *used = seen + (is_mended ? 0 : limit);
	struct iovec parts[2] = {{seen + PAGE, 8}, {used + PAGE, 8}};
	int pipes[2];

	CHECK_ZERO(pipe(pipes));
	CHECK_EQ(write(pipes[1], seen, 16), 16);
	CHECK_EQ(write(pipes[1], used, 8), is_mended ? 8 : -1);
	CHECK(is_mended || errno == EFAULT);
	CHECK_EQ(writev(pipes[1], parts, 2), is_mended ? 16 : -1);
	CHECK_EQ(read(pipes[0], is_mended ? seen : seen + limit - 4, 8), is_mended ? 8 : -1);
}

static void by_the_kernel(void)
{
	begin(SHARED);
	make_private();
	use_by_kernel();
}

/* The same in a child. */
static void by_the_childs_kernel(void)
{
	pid_t child;

	begin(SHARED);
	make_private();
	child = (pid_t)CHECK_OK(fork());
	if (!child) {
		use_by_kernel();
		_exit(0);
	}
	child_wait(child);
}

/* Pages begin private where nothing else was asked for. */
static void never_shared(void)
{
	begin(MMAP);
	make(0, 1, 0);
	CHECK_EQ(read_word(0), 0);
	CHECK_EQ(read_fails(is_mended ? 0 : 1), !is_mended);
}

/* Seen through another descriptor of the file. */
static void linked(void)
{
	struct kvm_link_guest_memfd request = {0};
	struct vm other;

	begin(SHARED);
	request.fd = (unsigned int)file;
	vm_open(&other, KVM_X86_SW_PROTECTED_VM);
	seen = map((int)CHECK_OK(ioctl(other.fd, KVM_LINK_GUEST_MEMFD, &request)));
	make_private();
	CHECK_EQ(read_fails(is_mended ? 0 : PAGES - 1), !is_mended);
}

static const struct check_test scenarios[] = {
    TEST(reads),
    TEST(writes),
    TEST(forked),
    TEST(child_converted),
    TEST(child_without_libc),
    TEST(by_the_kernel),
    TEST(by_the_childs_kernel),
    TEST(never_shared),
    TEST(linked),
};

int main(int argc, char **argv)
{
	(void)argc;
	return scenario_main(argv, scenarios, sizeof(scenarios) / sizeof(scenarios[0]));
}
