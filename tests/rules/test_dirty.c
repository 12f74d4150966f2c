/* The dirty log as a bitmap: its checks in order, both modes, and that no write is ever lost. */
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "client.h"

#define GPA 0x10000000ul
#define PAGES 130ul /* no multiple of 64 */
#define BYTES (PAGES * PAGE)
#define WORDS 3ul
#define SLOT 5

static struct vm vm;
static struct vcpu vcpu;
static uint8_t *memory;
static uint64_t bitmap[WORDS + 1];

static int set_flags(uint32_t flags)
{
	return REGION(&vm, .slot = SLOT, .flags = flags, .guest_phys_addr = GPA,
		      .memory_size = BYTES, .userspace_addr = (uintptr_t)memory);
}

static void open_machine(uint64_t manual)
{
	machine_open(&vm, &vcpu, KVM_X86_DEFAULT_VM);
	memory = memory_alloc(4 * HUGE_PAGE);
	if (manual) {
		CHECK_EQ(vm_cap(&vm, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2), 3);
		CHECK_ZERO(vm_enable_cap(&vm, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, manual));
	}
	CHECK_ZERO(set_flags(0));
}

static int get(uint32_t slot, void *where)
{
	struct kvm_dirty_log log = {.slot = slot, .dirty_bitmap = where};

	return ioctl(vm.fd, KVM_GET_DIRTY_LOG, &log);
}

/* The log of the slot in bitmap; one word after it stays as it was. */
static void fetch(void)
{
	memset(bitmap, 0xee, sizeof(bitmap));
	CHECK_ZERO(get(SLOT, bitmap));
	CHECK_EQ(bitmap[WORDS], 0xeeeeeeeeeeeeeeee);
	CHECK_EQ(bitmap[2] >> 2, 0);
}

static int is_dirty(uint64_t page)
{
	return bitmap[page / 64] >> page % 64 & 1;
}

static uint64_t count_dirty(void)
{
	uint64_t count = 0;

	for (uint64_t page = 0; page < PAGES; page++)
		count += (uint64_t)is_dirty(page);
	return count;
}

static int clear(uint32_t slot, uint64_t first, uint32_t count, void *from)
{
	struct kvm_clear_dirty_log log = {
	    .slot = slot, .num_pages = count, .first_page = first, .dirty_bitmap = from};

	return ioctl(vm.fd, KVM_CLEAR_DIRTY_LOG, &log);
}

static void clear_all(void)
{
	uint64_t all[WORDS] = {UINT64_MAX, UINT64_MAX, UINT64_MAX};

	CHECK_ZERO(clear(SLOT, 0, PAGES, all));
}

static void write_page(uint64_t page, uint64_t value)
{
	guest_store(&vcpu, GPA + page * PAGE, value);
}

static void get_is_refused_in_order(void)
{
	open_machine(0);
	REFUSED(&vm, ioctl(vm.fd, KVM_GET_DIRTY_LOG, NULL), EFAULT);
	REFUSED(&vm, get(32764, bitmap), EINVAL);
	REFUSED(&vm, get(SLOT | 2u << 16, bitmap), EINVAL);
	REFUSED(&vm, get(SLOT | 2u << 16, NULL), EINVAL);
	REFUSED(&vm, get(6, bitmap), ENOENT);
	REFUSED(&vm, get(SLOT, bitmap), ENOENT);
	REFUSED(&vm, get(SLOT, NULL), ENOENT);
	CHECK_ZERO(set_flags(KVM_MEM_LOG_DIRTY_PAGES));
	REFUSED(&vm, get(SLOT, NULL), EFAULT);
	CHECK_ZERO(get(SLOT, bitmap));
	CHECK_ZERO(set_flags(0));
	REFUSED(&vm, get(SLOT, bitmap), ENOENT);
}

static void clear_is_refused_in_order(void)
{
	uint64_t some[WORDS] = {1, 0, 0};

	open_machine(1);
	REFUSED(&vm, ioctl(vm.fd, KVM_CLEAR_DIRTY_LOG, NULL), EFAULT);
	REFUSED(&vm, clear(32764, 1, 64, some), EINVAL);
	REFUSED(&vm, clear(SLOT, 1, 64, some), EINVAL);
	REFUSED(&vm, clear(SLOT, 0, 64, some), ENOENT);
	REFUSED(&vm, clear(6, 0, 63, some), ENOENT);
	REFUSED(&vm, clear(6, 1, 64, some), EINVAL);
	CHECK_ZERO(set_flags(KVM_MEM_LOG_DIRTY_PAGES));
	write_page(0, 1);
	for (uint64_t first = 1; first < 64; first += 7)
		REFUSED(&vm, clear(SLOT, first, 64, some), EINVAL);
	REFUSED(&vm, clear(SLOT, 0, 63, some), EINVAL);
	REFUSED(&vm, clear(SLOT, 0, 129, some), EINVAL);
	REFUSED(&vm, clear(SLOT, 192, 64, some), EINVAL);
	REFUSED(&vm, clear(SLOT, 128, 3, some), EINVAL);
	REFUSED(&vm, clear(SLOT, 0, 192, some), EINVAL);
	REFUSED(&vm, clear(SLOT, 192, 64, NULL), EINVAL);
	REFUSED(&vm, clear(SLOT, 0, 64, NULL), EFAULT);
	fetch();
	CHECK(is_dirty(0));
	CHECK_ZERO(clear(SLOT, 0, 0, NULL));
	CHECK_ZERO(clear(SLOT, 64, 0, NULL));
	CHECK_ZERO(clear(SLOT, 128, 2, some));
	CHECK_ZERO(clear(SLOT, 0, 64, some));
	fetch();
	CHECK(!is_dirty(0));
}

/* Half a bitmap that cannot be read is refused before its readable half counts. */
static void clear_reads_before_it_clears(void)
{
	uint8_t *pages;
	uint64_t *half;

	open_machine(1);
	CHECK_ZERO(set_flags(KVM_MEM_LOG_DIRTY_PAGES));
	for (uint64_t page = 0; page < PAGES; page++)
		write_page(page, 1);
	pages = memory_alloc(2 * PAGE);
	CHECK_ZERO(mprotect(pages + PAGE, PAGE, PROT_NONE));
	half = word_at(pages, PAGE - 8);
	*half = UINT64_MAX;
	CHECK_ERR(clear(SLOT, 0, PAGES, half), EFAULT);
	fetch();
	CHECK_EQ(count_dirty(), PAGES);
}

static void legacy_get_clears(void)
{
	open_machine(0);
	CHECK_ZERO(set_flags(KVM_MEM_LOG_DIRTY_PAGES));
	fetch();
	CHECK_EQ(count_dirty(), 0);
	write_page(0, 1);
	write_page(63, 1);
	write_page(64, 1);
	write_page(129, 1);
	fetch();
	CHECK(is_dirty(0) && is_dirty(63) && is_dirty(64) && is_dirty(129));
	CHECK_EQ(count_dirty(), 4);
	fetch();
	CHECK_EQ(count_dirty(), 0);
	for (int round = 0; round < 5; round++) {
		write_page(64, 2);
		fetch();
		CHECK_EQ(bitmap[1], 1);
	}
}

/* KVM_CLEAR_DIRTY_LOG needs no capability: it clears what is set. */
static void clear_in_legacy_mode(void)
{
	open_machine(0);
	CHECK_ZERO(set_flags(KVM_MEM_LOG_DIRTY_PAGES));
	write_page(1, 1);
	write_page(2, 1);
	CHECK_ZERO(clear(SLOT, 0, 64, &(uint64_t){1ul << 1}));
	fetch();
	CHECK_EQ(bitmap[0], 1ul << 2);
}

static void get_that_cannot_copy_out(void)
{
	open_machine(0);
	CHECK_ZERO(set_flags(KVM_MEM_LOG_DIRTY_PAGES));
	write_page(1, 1);
	CHECK_ERR(get(SLOT, NULL), EFAULT);
	/* A real KVM forgets what it could not say; here nothing is lost. */
	fetch();
	CHECK(is_dirty(1));
	fetch();
	CHECK(!is_dirty(1));
	write_page(1, 2);
	fetch();
	CHECK(is_dirty(1));
}

static void manual_get_only_looks(void)
{
	open_machine(1);
	CHECK_ZERO(set_flags(KVM_MEM_LOG_DIRTY_PAGES));
	write_page(5, 1);
	for (int round = 0; round < 3; round++) {
		fetch();
		CHECK_EQ(bitmap[0], 1ul << 5);
	}
	write_page(6, 1);
	fetch();
	CHECK_EQ(bitmap[0], 3ul << 5);
	CHECK_ZERO(clear(SLOT, 0, 64, &(uint64_t){1ul << 5}));
	fetch();
	CHECK_EQ(bitmap[0], 1ul << 6);
	write_page(5, 2);
	fetch();
	CHECK_EQ(bitmap[0], 3ul << 5);
	/* Bits that were not asked for stay, and bits that were not set are no error. */
	CHECK_ZERO(clear(SLOT, 0, 64, &(uint64_t){~(1ul << 5)}));
	fetch();
	CHECK_EQ(bitmap[0], 1ul << 5);
}

static void initially_all_set(void)
{
	open_machine(3);
	CHECK_ZERO(set_flags(KVM_MEM_LOG_DIRTY_PAGES));
	fetch();
	CHECK_EQ(count_dirty(), PAGES);
	clear_all();
	fetch();
	CHECK_EQ(count_dirty(), 0);
	write_page(100, 1);
	fetch();
	CHECK_EQ(count_dirty(), 1);
	CHECK(is_dirty(100));
}

static int enable(uint32_t flags, uint64_t argument)
{
	struct kvm_enable_cap request = {
	    .cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, .flags = flags, .args = {argument}};

	return ioctl(vm.fd, KVM_ENABLE_CAP, &request);
}

/* It can be changed at any time; what is allocated already stays as it is. */
static void manual_mode_values(void)
{
	open_machine(0);
	REFUSED(&vm, enable(1, 1), EINVAL);
	REFUSED(&vm, enable(0, 2), EINVAL);
	REFUSED(&vm, enable(0, 4), EINVAL);
	REFUSED(&vm, enable(0, 1ul << 32), EINVAL);
	CHECK_ZERO(set_flags(KVM_MEM_LOG_DIRTY_PAGES));
	CHECK_ZERO(enable(0, 3));
	fetch();
	CHECK_EQ(count_dirty(), 0);
	write_page(0, 1);
	fetch();
	fetch();
	CHECK_EQ(count_dirty(), 1);
	CHECK_ZERO(enable(0, 0));
	fetch();
	CHECK_EQ(count_dirty(), 1);
	fetch();
	CHECK_EQ(count_dirty(), 0);
}

static void who_sets_bits(void)
{
	open_machine(0);
	memset(memory, 1, BYTES);
	CHECK_ZERO(set_flags(KVM_MEM_LOG_DIRTY_PAGES));
	guest_load(&vcpu, GPA + 3 * PAGE);
	fetch();
	/* The host's own writes are the client's business. */
	memset(memory, 2, BYTES);
	fetch();
	CHECK_EQ(count_dirty(), 0);
	CHECK_END(GUEST(&vcpu, GUEST_INCREMENT, .rbx = GPA + 7 * PAGE), END_DONE);
	/* One store over two pages. */
	guest_store(&vcpu, GPA + 9 * PAGE - 4, 1);
	fetch();
	CHECK(is_dirty(7) && is_dirty(8) && is_dirty(9));
	CHECK_EQ(count_dirty(), 3);
}

/* A write that finds a mapping made before the log was on, for reading or for writing. */
static void mappings_from_before(void)
{
	open_machine(0);
	for (uint64_t page = 0; page < PAGES; page += 2)
		write_page(page, 1);
	for (uint64_t page = 1; page < PAGES; page += 2)
		guest_load(&vcpu, GPA + page * PAGE);
	CHECK_ZERO(set_flags(KVM_MEM_LOG_DIRTY_PAGES));
	for (uint64_t page = 0; page < PAGES; page++)
		write_page(page, 2);
	fetch();
	CHECK_EQ(count_dirty(), PAGES);
}

static void other_slots_are_not_logged(void)
{
	open_machine(0);
	CHECK_ZERO(set_flags(KVM_MEM_LOG_DIRTY_PAGES));
	CHECK_ZERO(REGION(&vm, .slot = 6, .guest_phys_addr = 2 * GPA, .memory_size = BYTES,
			  .userspace_addr = (uintptr_t)memory));
	/* Not even through another slot over the same memory. */
	guest_store(&vcpu, 2 * GPA, 1);
	fetch();
	CHECK_EQ(count_dirty(), 0);
	CHECK_ERR(get(6, bitmap), ENOENT);
}

/* Bits are counted from the slot's start, wherever it is moved. */
static void a_move_keeps_the_log(void)
{
	open_machine(1);
	CHECK_ZERO(set_flags(KVM_MEM_LOG_DIRTY_PAGES));
	write_page(3, 1);
	CHECK_ZERO(REGION(&vm, .slot = SLOT, .flags = KVM_MEM_LOG_DIRTY_PAGES,
			  .guest_phys_addr = GPA + PAGE, .memory_size = BYTES,
			  .userspace_addr = (uintptr_t)memory));
	fetch();
	CHECK_EQ(bitmap[0], 1ul << 3);
	guest_store(&vcpu, GPA + PAGE, 1);
	fetch();
	CHECK_EQ(bitmap[0], 1ul << 3 | 1);
	CHECK_ZERO(REGION(&vm, .slot = SLOT));
	CHECK_ERR(get(SLOT, bitmap), ENOENT);
	/* A new slot of that id starts clean. */
	CHECK_ZERO(set_flags(KVM_MEM_LOG_DIRTY_PAGES));
	fetch();
	CHECK_EQ(count_dirty(), 0);
}

static void read_only_slot(void)
{
	open_machine(0);
	CHECK_ZERO(REGION(&vm, .slot = 6, .flags = KVM_MEM_READONLY | KVM_MEM_LOG_DIRTY_PAGES,
			  .guest_phys_addr = 2 * GPA, .memory_size = BYTES,
			  .userspace_addr = (uintptr_t)memory));
	CHECK_END(guest_try_store(&vcpu, 2 * GPA, 1), END_MMIO);
	CHECK_ZERO(get(6, bitmap));
	CHECK_EQ(bitmap[0], 0);
	CHECK_EQ(*word_at(memory, 0), 0);
}

/* Harvest the log, then copy what it names: as a migration does. */
static void copy_dirty(uint64_t *copy)
{
	fetch();
	for (uint64_t page = 0; page < PAGES; page++)
		if (is_dirty(page))
			copy[page] =
			    __atomic_load_n(word_at(memory, page * PAGE), __ATOMIC_RELAXED);
}

/* Harvested while the guest writes, and once more when it has stopped, the copy is the memory. */
static void harvest_under_a_writer(void)
{
	static uint64_t copy[PAGES];
	struct guest_thread thread;
	uint8_t *stop = memory_alloc(PAGE);

	open_machine(0);
	CHECK_ZERO(REGION(&vm, .slot = 6, .guest_phys_addr = 2 * GPA, .memory_size = PAGE,
			  .userspace_addr = (uintptr_t)stop));
	CHECK_ZERO(set_flags(KVM_MEM_LOG_DIRTY_PAGES));
	for (uint64_t round = 1; round <= 100; round++) {
		struct guest_op loop = {.code = GUEST_STORE_LOOP,
					.rax = round,
					.rbx = GPA,
					.rcx = PAGES - round % 3,
					.rdx = 2 * GPA};

		__atomic_store_n(word_at(stop, 0), 0, __ATOMIC_RELAXED);
		thread_start(&thread, &vcpu, &loop);
		for (unsigned int harvest = 0; harvest < round % 5; harvest++) {
			usleep(100);
			copy_dirty(copy);
		}
		__atomic_store_n(word_at(stop, 0), 1, __ATOMIC_RELAXED);
		CHECK_END(thread_join(&thread), END_DONE);
		copy_dirty(copy);
		for (uint64_t page = 0; page < PAGES; page++)
			CHECK_EQ(copy[page], *word_at(memory, page * PAGE));
	}
}

static uint64_t large_pages(void)
{
	return stat_get(vm.fd, "pages_2m") + 512 * stat_get(vm.fd, "pages_1g");
}

/* Only the TDP MMU splits before the write, where the parameter lets it. */
static int splits_eagerly(void)
{
	return parameter_is_on("kvm", "tdp_mmu") && has_second_stage() &&
	       parameter_is_on("kvm", "eager_page_split");
}

/* A slot of 2 MiB pages, all touched; how many there are. */
static uint64_t open_huge(uint64_t manual)
{
	uint64_t count;

	machine_open(&vm, &vcpu, KVM_X86_DEFAULT_VM);
	if (manual)
		CHECK_ZERO(vm_enable_cap(&vm, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, manual));
	memory = memory_alloc(4 * HUGE_PAGE);
	if (madvise(memory, 4 * HUGE_PAGE, MADV_HUGEPAGE))
		check_skip("no huge pages");
	memset(memory, 1, 4 * HUGE_PAGE);
	CHECK_ZERO(REGION(&vm, .slot = SLOT, .guest_phys_addr = GPA, .memory_size = 4 * HUGE_PAGE,
			  .userspace_addr = (uintptr_t)memory));
	CHECK_END(GUEST(&vcpu, GUEST_STORE_EACH, .rbx = GPA, .rcx = 4 * 512, .rdx = PAGE),
		  END_DONE);
	count = large_pages();
	if (!count)
		check_skip("no huge pages");
	return count;
}

static void set_huge_flags(uint32_t flags)
{
	CHECK_ZERO(REGION(&vm, .slot = SLOT, .flags = flags, .guest_phys_addr = GPA,
			  .memory_size = 4 * HUGE_PAGE, .userspace_addr = (uintptr_t)memory));
}

/* Logging splits at once, and what is split becomes huge again after it. */
static void huge_pages_are_split(void)
{
	uint64_t before = open_huge(0);

	set_huge_flags(KVM_MEM_LOG_DIRTY_PAGES);
	CHECK_EQ(large_pages(), splits_eagerly() ? 0 : before);
	CHECK(!splits_eagerly() || stat_get(vm.fd, "pages_4k") >= 512 * before);
	guest_store(&vcpu, GPA + 5 * PAGE, 3);
	CHECK_EQ(large_pages(), splits_eagerly() ? 0 : before - 1);
	set_huge_flags(0);
	CHECK_END(GUEST(&vcpu, GUEST_STORE_EACH, .rbx = GPA, .rcx = 4 * 512, .rdx = PAGE),
		  END_DONE);
	CHECK_EQ(large_pages(), before);
}

static void store_everywhere(void)
{
	CHECK_END(GUEST(&vcpu, GUEST_STORE_EACH, .rbx = GPA, .rcx = 4 * 512, .rdx = PAGE),
		  END_DONE);
}

/* The end of logging looks for what can be huge: what the host has in small pages stays mapped. */
static void small_pages_stay_after_logging(void)
{
	uint64_t leaves, faults;

	machine_open(&vm, &vcpu, KVM_X86_DEFAULT_VM);
	memory = memory_alloc(4 * HUGE_PAGE);
	memset(memory, 1, 4 * HUGE_PAGE);
	set_huge_flags(0);
	store_everywhere();
	set_huge_flags(KVM_MEM_LOG_DIRTY_PAGES);
	store_everywhere();
	leaves = stat_get(vm.fd, "pages_4k");
	CHECK(leaves >= 4 * 512);
	set_huge_flags(0);
	CHECK_EQ(stat_get(vm.fd, "pages_4k"), leaves);
	faults = stat_get(vcpu.fd, "pf_taken");
	store_everywhere();
	CHECK_EQ(stat_get(vcpu.fd, "pf_taken"), faults);
}

/* With all bits set at first nothing is split before it is cleared. */
static void huge_pages_until_cleared(void)
{
	static uint64_t all[4 * 512 / 64];
	uint64_t before = open_huge(3);

	memset(all, 0xff, sizeof(all));
	set_huge_flags(KVM_MEM_LOG_DIRTY_PAGES);
	CHECK_EQ(large_pages(), before);
	CHECK_ZERO(clear(SLOT, 0, 4 * 512, all));
	CHECK_EQ(large_pages(), splits_eagerly() ? 0 : before);
	CHECK(!splits_eagerly() || stat_get(vm.fd, "pages_4k") >= 512 * before);
	CHECK_ZERO(get(SLOT, all));
	CHECK_EQ(all[0], 0);
	guest_store(&vcpu, GPA + 5 * PAGE, 3);
	CHECK_ZERO(get(SLOT, all));
	CHECK_EQ(all[0], 1ul << 5);
}

int main(int argc, char **argv)
{
	static const struct check_test tests[] = {
	    TEST(get_is_refused_in_order),	TEST(clear_is_refused_in_order),
	    TEST(clear_reads_before_it_clears), TEST(legacy_get_clears),
	    TEST(clear_in_legacy_mode),		TEST(get_that_cannot_copy_out),
	    TEST(manual_get_only_looks),	TEST(initially_all_set),
	    TEST(manual_mode_values),		TEST(who_sets_bits),
	    TEST(mappings_from_before),		TEST(other_slots_are_not_logged),
	    TEST(a_move_keeps_the_log),		TEST(read_only_slot),
	    TEST(harvest_under_a_writer),	TEST(small_pages_stay_after_logging),
	    TEST(huge_pages_are_split),		TEST(huge_pages_until_cleared),
	};

	return check_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
