/*
 * kvm.quire_split_ahead: huge pages are split in the background, before a log starts. Run with it
 * set, and with kvm.eager_page_split=N, so that no log splits.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client.h"

#define PARAMETER "/sys/module/kvm/parameters/quire_split_ahead"
#define GPA 0x10000000ul
#define HUGE_PAGES 4ul
#define BYTES (HUGE_PAGES * HUGE_PAGE)
#define PAGES (BYTES / PAGE)
#define SLOT 1u
#define SPACE_1 (1u << 16)
#define PATIENCE 20000 /* ms: a machine with other work splits late */

static struct vm vm;
static struct vcpu vcpu;
static uint8_t *memory;
static uint64_t bitmap[PAGES / 64];

static void set_parameter(const char *value)
{
	int file = open(PARAMETER, O_WRONLY);

	CHECK(file >= 0);
	CHECK_EQ(write(file, value, strlen(value)), (ssize_t)strlen(value));
	close(file);
}

static int set_slot(uint32_t slot, uint32_t flags)
{
	return REGION(&vm, .slot = slot, .flags = flags, .guest_phys_addr = GPA,
		      .memory_size = BYTES, .userspace_addr = (uintptr_t)memory);
}

static void open_huge(void)
{
	machine_open(&vm, &vcpu, KVM_X86_DEFAULT_VM);
	memory = memory_alloc(BYTES);
	if (madvise(memory, BYTES, MADV_HUGEPAGE))
		check_skip("no huge pages");
	memset(memory, 1, BYTES);
	CHECK_ZERO(set_slot(SLOT, 0));
}

static void load_all(void)
{
	CHECK_END(GUEST(&vcpu, GUEST_LOAD_EACH, .rbx = GPA, .rcx = PAGES, .rdx = PAGE), END_DONE);
}

static uint64_t huge(void)
{
	return stat_get(vm.fd, "pages_2m");
}

/* Are there @wanted huge pages within so many milliseconds? */
static int comes_to(uint64_t wanted, int milliseconds)
{
	for (int i = 0; i < milliseconds; i += 5) {
		if (huge() == wanted)
			return 1;
		usleep(5000);
	}
	return 0;
}

/* The guest's huge pages while nothing splits them; skips on a machine that has none. */
static uint64_t load_huge(void)
{
	uint64_t before = huge();

	load_all();
	/* A machine whose memory is in pieces may have some and not all. */
	if (huge() < before + HUGE_PAGES)
		check_skip("no huge pages");
	return huge();
}

/* Without a log, and without an access of the guest's. */
static void ahead(void)
{
	set_parameter("N");
	open_huge();
	(void)load_huge();
	usleep(300000);
	CHECK(huge() >= HUGE_PAGES);
	set_parameter("Y");
	CHECK(comes_to(0, PATIENCE));
	/* What comes later follows within a second or so. */
	CHECK_ZERO(set_slot(SLOT, 0));
	CHECK_ZERO(madvise(memory, BYTES, MADV_DONTNEED));
	memset(memory, 2, BYTES);
	load_all();
	CHECK(comes_to(0, PATIENCE));
	CHECK(stat_get(vm.fd, "pages_4k") >= PAGES);
}

/* A log that starts afterwards finds nothing to split, and loses no write. */
static void no_vcpu_pays(void)
{
	struct kvm_dirty_log log = {.slot = SLOT, .dirty_bitmap = bitmap};
	uint64_t count = 0;

	open_huge();
	load_all();
	CHECK(comes_to(0, PATIENCE));
	CHECK_ZERO(set_slot(SLOT, KVM_MEM_LOG_DIRTY_PAGES));
	guest_store(&vcpu, GPA + 5 * PAGE, 1);
	guest_store(&vcpu, GPA + HUGE_PAGE, 1);
	CHECK_ZERO(ioctl(vm.fd, KVM_GET_DIRTY_LOG, &log));
	for (uint64_t page = 0; page < PAGES; page++)
		count += bitmap[page / 64] >> page % 64 & 1;
	CHECK_EQ(count, 2);
	CHECK(bitmap[0] >> 5 & 1);
	CHECK(bitmap[512 / 64] & 1);
	/* The end of the log makes them huge again, and these are split, too. */
	CHECK_ZERO(set_slot(SLOT, 0));
	load_all();
	CHECK(comes_to(0, PATIENCE));
}

/* Off, it leaves what is mapped then. */
static void switched_off(void)
{
	open_huge();
	set_parameter("N");
	(void)load_huge();
	CHECK(!comes_to(0, 1500));
	set_parameter("Y");
	CHECK(comes_to(0, PATIENCE));
	set_parameter("N");
}

/* A guest stores all the time while its pages are split, and a log starts and ends. */
static void while_a_guest_runs(void)
{
	struct guest_thread guest;
	uint64_t *stop;

	open_huge();
	stop = word_at(vm.agent, AGENT_BYTES - PAGE);
	*stop = 0;
	thread_start(&guest, &vcpu,
		     &(struct guest_op){.code = GUEST_STORE_LOOP,
					.rax = 3,
					.rbx = GPA,
					.rcx = PAGES,
					.rdx = AGENT_GPA + AGENT_BYTES - PAGE});
	for (int i = 0; i < 20; i++) {
		set_parameter(i % 2 ? "Y" : "N");
		CHECK_ZERO(set_slot(SLOT, i % 3 ? 0 : KVM_MEM_LOG_DIRTY_PAGES));
		usleep(10000);
	}
	set_parameter("Y");
	CHECK(comes_to(0, PATIENCE));
	__atomic_store_n(stop, 1, __ATOMIC_SEQ_CST);
	CHECK_END(thread_join(&guest), END_DONE);
	for (uint64_t page = 0; page < PAGES; page++)
		CHECK_EQ(*word_at(memory, page * PAGE), 3);
}

/* VMs end, and children are made by fork, at any moment of it. */
static void ends(void)
{
	memory = memory_alloc(BYTES);
	if (madvise(memory, BYTES, MADV_HUGEPAGE))
		check_skip("no huge pages");
	memset(memory, 1, BYTES);
	for (useconds_t i = 0; i < 40; i++) {
		pid_t child;
		int status;

		machine_open(&vm, &vcpu, KVM_X86_DEFAULT_VM);
		CHECK_ZERO(set_slot(SLOT, 0));
		CHECK_ZERO(set_slot(SPACE_1 | SLOT, 0));
		load_all();
		usleep(i * 50);
		child = fork();
		if (!child) {
			set_parameter("Y");
			_exit(ioctl(vm.fd, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY) < 0 ? 0 : 1);
		}
		CHECK(child > 0);
		munmap(vcpu.run, (size_t)ioctl(vm.kvm, KVM_GET_VCPU_MMAP_SIZE, 0));
		close(vcpu.fd);
		close(vm.fd);
		CHECK_EQ(waitpid(child, &status, 0), child);
		CHECK_EQ(status, 0);
		close(vm.kvm);
	}
}

int main(int argc, char **argv)
{
	static const struct check_test tests[] = {
	    TEST(ahead), TEST(no_vcpu_pays), TEST(switched_off), TEST(while_a_guest_runs),
	    TEST(ends),
	};

	return check_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
