/*
 * guest_memfd in huge pages of the machine's pool as it was posted: GUEST_MEMFD_FLAG_HUGETLB. The
 * parameter quire_gmem_hugetlb switches it on; a KVM without it skips, and so
 * does a run that may not give the pool pages.
 */
#include <fcntl.h>
#include <linux/falloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <unistd.h>

#include "client.h"

#define GPA 0x10000000ul
#define GIB 0x40000000ul
#define SLOT 5
#define HUGE GUEST_MEMFD_FLAG_HUGETLB
#define HUGE_2MB (HUGE | GUESTMEM_HUGETLB_FLAG_2MB)
#define HUGE_1GB (HUGE | GUESTMEM_HUGETLB_FLAG_1GB)
#define WRITE (1ul << 2)
#define MMAP GUEST_MEMFD_FLAG_MMAP
#define PRIVATE KVM_MEMORY_ATTRIBUTE_PRIVATE
#define PUNCH (FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE)
#define PAGES_2MB 6
#define PAGES_1GB 1

static struct vm vm;
static struct vcpu vcpu;
static uint8_t *seen; /* the client's mapping */
static int file;

/* --- the machine's pool --- */

static long pool_read(unsigned long page_kib, const char *name)
{
	char path[128];
	long value = -1;
	FILE *text;

	snprintf(path, sizeof(path), "/sys/kernel/mm/hugepages/hugepages-%lukB/%s", page_kib, name);
	text = fopen(path, "r");
	if (text && fscanf(text, "%ld", &value) != 1)
		value = -1;
	if (text)
		fclose(text);
	return value;
}

static void pool_resize(unsigned long page_kib, long change)
{
	long pages = pool_read(page_kib, "nr_hugepages");
	char path[128], text[32];
	int fd;

	snprintf(path, sizeof(path), "/sys/kernel/mm/hugepages/hugepages-%lukB/nr_hugepages",
		 page_kib);
	snprintf(text, sizeof(text), "%ld", pages + change);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	if (write(fd, text, strlen(text)) < 0)
		printf("# the pool takes no pages\n");
	close(fd);
}

static long free_pages(void)
{
	return pool_read(2048, "free_hugepages");
}

static long reserved_pages(void)
{
	return pool_read(2048, "resv_hugepages");
}

/* The end of a file may come a moment after its last close. */
static void pool_becomes(long free_now, long reserved)
{
	for (int i = 0; i < 4000 && (free_pages() != free_now || reserved_pages() != reserved); i++)
		usleep(5000);
	CHECK_EQ(free_pages(), free_now);
	CHECK_EQ(reserved_pages(), reserved);
}

static void need_pool(unsigned long page_kib, long pages)
{
	if (pool_read(page_kib, "free_hugepages") - pool_read(page_kib, "resv_hugepages") < pages)
		check_skip("the machine's pool gives no pages");
}

/* --- files of it --- */

static void parameter_set(const char *name, const char *value)
{
	char path[128];
	int parameter;

	snprintf(path, sizeof(path), "/sys/module/kvm/parameters/%s", name);
	parameter = open(path, O_WRONLY);
	if (parameter < 0)
		check_skip("no such parameter");
	CHECK_EQ(write(parameter, value, 1), 1);
	close(parameter);
}

static void open_vm(unsigned long type)
{
	machine_open(&vm, &vcpu, type);
	if (!vm_cap(&vm, KVM_CAP_GUEST_MEMFD))
		check_skip("no guest_memfd");
	parameter_set("quire_gmem_hugetlb", "Y");
}

static void show(uint64_t gpa, uint64_t size_bytes, void *address)
{
	CHECK_ZERO(REGION(&vm, .slot = SLOT, .flags = KVM_MEM_GUEST_MEMFD, .guest_phys_addr = gpa,
			  .memory_size = size_bytes, .userspace_addr = (uintptr_t)address,
			  .guest_memfd = (uint32_t)file));
}

/* A slot of @blocks private huge pages. */
static void open_private(uint64_t blocks)
{
	open_vm(KVM_X86_SW_PROTECTED_VM);
	if (parameter_is_on("kvm", "gmem_in_place_conversion"))
		check_skip("the VM owns no attributes");
	need_pool(2048, (long)blocks);
	file = (int)CHECK_OK(vm_gmem(&vm, blocks * HUGE_PAGE, HUGE_2MB));
	show(GPA, blocks * HUGE_PAGE, memory_alloc(blocks * HUGE_PAGE));
	CHECK_ZERO(vm_set_attributes(&vm, GPA, blocks * HUGE_PAGE, PRIVATE));
}

static void leaves_are(uint64_t huge)
{
	CHECK_EQ(stat_get(vm.fd, "pages_2m"), huge);
}

static void unknown_while_it_is_off(void)
{
	machine_open(&vm, &vcpu, KVM_X86_DEFAULT_VM);
	if (!vm_cap(&vm, KVM_CAP_GUEST_MEMFD))
		check_skip("no guest_memfd");
	parameter_set("quire_gmem_hugetlb", "N");
	CHECK_EQ(vm_cap(&vm, KVM_CAP_GUEST_MEMFD_FLAGS) & (int)HUGE, 0);
	REFUSED(&vm, vm_gmem(&vm, HUGE_PAGE, HUGE_2MB), EINVAL);
	REFUSED(&vm, vm_gmem(&vm, HUGE_PAGE, HUGE), EINVAL);
}

static void what_is_refused(void)
{
	open_vm(KVM_X86_DEFAULT_VM);
	need_pool(2048, 2);
	CHECK_EQ(vm_cap(&vm, KVM_CAP_GUEST_MEMFD_FLAGS) & (int)HUGE, HUGE);
	REFUSED(&vm, vm_gmem(&vm, HUGE_PAGE + PAGE, HUGE_2MB), EINVAL);
	REFUSED(&vm, vm_gmem(&vm, 0, HUGE_2MB), EINVAL);
	REFUSED(&vm, vm_gmem(&vm, -HUGE_PAGE, HUGE_2MB), EINVAL);
	REFUSED(&vm, vm_gmem(&vm, HUGE_PAGE, HUGE_1GB), EINVAL);
	for (uint64_t log2 = 1; log2 < 64; log2++)
		if (log2 != 21 && log2 != 30)
			REFUSED(&vm, vm_gmem(&vm, GIB, HUGE | log2 << GUESTMEM_HUGETLB_FLAG_SHIFT),
				EINVAL);
	/* A size is of huge pages alone, and pages that are shared would all be small. */
	REFUSED(&vm, vm_gmem(&vm, HUGE_PAGE, GUESTMEM_HUGETLB_FLAG_2MB), EINVAL);
	REFUSED(&vm, vm_gmem(&vm, HUGE_PAGE, HUGE_2MB | MMAP | GUEST_MEMFD_FLAG_INIT_SHARED),
		EINVAL);
	for (unsigned int bit = 3; bit < GUESTMEM_HUGETLB_FLAG_SHIFT; bit++)
		REFUSED(&vm, vm_gmem(&vm, HUGE_PAGE, HUGE_2MB | 1ul << bit), EINVAL);
	/* The default size is 2 MiB. */
	CHECK_ZERO(close((int)CHECK_OK(vm_gmem(&vm, HUGE_PAGE, HUGE))));
	/* Two postings have one number. */
	parameter_set("quire_gmem_write", "Y");
	CHECK_EQ(vm_cap(&vm, KVM_CAP_GUEST_MEMFD_FLAGS) & (int)WRITE, HUGE);
	REFUSED(&vm, vm_gmem(&vm, PAGE, WRITE), EINVAL);
	parameter_set("quire_gmem_hugetlb", "N");
	CHECK_ZERO(close((int)CHECK_OK(vm_gmem(&vm, PAGE, WRITE))));
}

/* All of it is reserved when it is made, and given back with the last close. */
static void reserved_at_creation(void)
{
	long free_before, reserved_before;

	open_vm(KVM_X86_SW_PROTECTED_VM);
	need_pool(2048, 3);
	free_before = free_pages();
	reserved_before = reserved_pages();
	file = (int)CHECK_OK(vm_gmem(&vm, 3 * HUGE_PAGE, HUGE_2MB));
	pool_becomes(free_before, reserved_before + 3);
	REFUSED(&vm,
		vm_gmem(&vm, (uint64_t)(free_before - reserved_before - 2) * HUGE_PAGE, HUGE_2MB),
		ENOMEM);
	pool_becomes(free_before, reserved_before + 3);
	CHECK_ZERO(fallocate(file, FALLOC_FL_KEEP_SIZE, HUGE_PAGE, PAGE));
	pool_becomes(free_before - 1, reserved_before + 2);
	CHECK_ZERO(close(file));
	pool_becomes(free_before, reserved_before);
}

/* More than any pool has. The client lives on, where the file would be converted in place, too. */
static void none_without_a_pool(void)
{
	open_vm(KVM_X86_SW_PROTECTED_VM);
	REFUSED(&vm, vm_gmem(&vm, 1024 * GIB, HUGE_2MB | MMAP), ENOMEM);
	REFUSED(&vm, vm_gmem(&vm, 1024 * GIB, HUGE_2MB), ENOMEM);
}

static void a_touched_page_is_huge(void)
{
	long free_before;

	open_private(2);
	free_before = free_pages();
	guest_store(&vcpu, GPA + 5 * PAGE, 1);
	CHECK_EQ(free_pages(), free_before - 1);
	leaves_are(1);
	CHECK_EQ(guest_load(&vcpu, GPA + 511 * PAGE), 0);
	guest_store(&vcpu, GPA + HUGE_PAGE + PAGE, 2);
	leaves_are(2);
	CHECK_EQ(free_pages(), free_before - 2);
	CHECK_EQ(guest_load(&vcpu, GPA + 5 * PAGE), 1);
	CHECK_EQ(guest_load(&vcpu, GPA + HUGE_PAGE + PAGE), 2);
}

/* A whole page goes back to the pool; a part is zeroed, and the page stays huge. */
static void punches(void)
{
	long free_before;

	open_private(2);
	free_before = free_pages();
	guest_store(&vcpu, GPA + 5 * PAGE, 5);
	guest_store(&vcpu, GPA + 6 * PAGE, 6);
	CHECK_ZERO(fallocate(file, PUNCH, 5 * PAGE, PAGE));
	leaves_are(0);
	CHECK_EQ(guest_load(&vcpu, GPA + 6 * PAGE), 6);
	leaves_are(1);
	CHECK_EQ(guest_load(&vcpu, GPA + 5 * PAGE), 0);
	CHECK_EQ(free_pages(), free_before - 1);
	guest_store(&vcpu, GPA + HUGE_PAGE, 7);
	CHECK_ZERO(fallocate(file, PUNCH, 6 * PAGE, HUGE_PAGE));
	CHECK_EQ(free_pages(), free_before - 2);
	CHECK_EQ(guest_load(&vcpu, GPA + 6 * PAGE), 0);
	CHECK_EQ(guest_load(&vcpu, GPA + HUGE_PAGE), 0);
	guest_store(&vcpu, GPA + 5 * PAGE, 8);
	CHECK_ZERO(fallocate(file, PUNCH, 0, HUGE_PAGE));
	CHECK_EQ(free_pages(), free_before - 1);
	CHECK_EQ(guest_load(&vcpu, GPA + 5 * PAGE), 0);
	CHECK_EQ(free_pages(), free_before - 2);
	leaves_are(2);
}

static void a_conversion_splits_the_mapping(void)
{
	open_private(1);
	guest_store(&vcpu, GPA + 5 * PAGE, 1);
	CHECK_ZERO(vm_set_attributes(&vm, GPA + 6 * PAGE, PAGE, 0));
	CHECK_EQ(guest_load(&vcpu, GPA + 5 * PAGE), 1);
	leaves_are(0);
	CHECK_ZERO(vm_set_attributes(&vm, GPA + 6 * PAGE, PAGE, PRIVATE));
	CHECK_EQ(guest_load(&vcpu, GPA + 6 * PAGE), 0);
	leaves_are(1);
	CHECK_EQ(guest_load(&vcpu, GPA + 5 * PAGE), 1);
}

/* --- where files own the attributes --- */

static void make(uint64_t page, uint64_t npages, uint64_t attributes)
{
	struct kvm_memory_attributes2 request = {
	    .offset = page * PAGE, .size = npages * PAGE, .attributes = attributes};

	CHECK_ZERO(ioctl(file, KVM_SET_MEMORY_ATTRIBUTES2, &request));
}

static void open_converted(uint64_t flags)
{
	open_vm(KVM_X86_SW_PROTECTED_VM);
	if (!parameter_is_on("kvm", "gmem_in_place_conversion"))
		check_skip("no conversion in place");
	need_pool(2048, 2);
	file = (int)CHECK_OK(vm_gmem(&vm, 2 * HUGE_PAGE, HUGE_2MB | flags));
	seen = flags & MMAP ? mmap(NULL, 2 * HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0)
			    : memory_alloc(2 * HUGE_PAGE);
	CHECK(seen != MAP_FAILED);
	show(GPA, 2 * HUGE_PAGE, seen);
}

/* The pages are small while one of them is shared, for guest and client, and huge again after. */
static void converted_in_place(void)
{
	long free_before;

	open_converted(MMAP);
	free_before = free_pages();
	for (uint64_t page = 0; page < 8; page++)
		guest_store(&vcpu, GPA + page * PAGE, page + 1);
	leaves_are(1);
	make(3, 2, 0);
	CHECK_EQ(*word_at(seen, 3 * PAGE), 4);
	CHECK_EQ(touch_byte(seen + 5 * PAGE).number, SIGBUS);
	*word_at(seen, 4 * PAGE) = 77;
	CHECK_EQ(guest_load(&vcpu, GPA + 4 * PAGE), 77);
	CHECK_EQ(guest_load(&vcpu, GPA + 5 * PAGE), 6);
	guest_store(&vcpu, GPA + 6 * PAGE, 66);
	leaves_are(0);
	make(3, 1, PRIVATE);
	CHECK_EQ(guest_load(&vcpu, GPA + 3 * PAGE), 4);
	leaves_are(0);
	make(4, 1, PRIVATE);
	CHECK_EQ(touch_byte(seen + 4 * PAGE).number, SIGBUS);
	for (uint64_t page = 0; page < 8; page++)
		CHECK_EQ(guest_load(&vcpu, GPA + page * PAGE), page == 4   ? 77
							       : page == 6 ? 66
									   : page + 1);
	CHECK_EQ(guest_load(&vcpu, GPA + 9 * PAGE), 0);
	leaves_are(1);
	CHECK_EQ(free_pages(), free_before - 1);
}

/* Again and again, with what the pages held before in the huge page. */
static void converted_again(void)
{
	open_converted(MMAP);
	for (uint64_t round = 1; round < 4; round++) {
		guest_store(&vcpu, GPA, round);
		guest_store(&vcpu, GPA + HUGE_PAGE + 9 * PAGE, 10 * round);
		make(0, 1024, 0);
		CHECK_EQ(*word_at(seen, 0), round);
		CHECK_EQ(*word_at(seen, HUGE_PAGE + 9 * PAGE), 10 * round);
		*word_at(seen, 0) = 0;
		*word_at(seen, PAGE) = 100 * round;
		CHECK_ZERO(fallocate(file, PUNCH, HUGE_PAGE + 9 * PAGE, PAGE));
		CHECK_EQ(*word_at(seen, HUGE_PAGE + 9 * PAGE), 0);
		make(0, 1024, PRIVATE);
		CHECK_EQ(guest_load(&vcpu, GPA), 0);
		CHECK_EQ(guest_load(&vcpu, GPA + PAGE), 100 * round);
		CHECK_EQ(guest_load(&vcpu, GPA + HUGE_PAGE + 9 * PAGE), 0);
		leaves_are(2);
	}
}

/* A client that maps nothing needs no small pages; guests have small mappings all the same. */
static void converted_unmapped(void)
{
	open_converted(0);
	guest_store(&vcpu, GPA, 1);
	leaves_are(1);
	make(3, 1, 0);
	guest_store(&vcpu, GPA + 3 * PAGE, 3);
	CHECK_EQ(guest_load(&vcpu, GPA), 1);
	leaves_are(0);
	make(3, 1, PRIVATE);
	CHECK_EQ(guest_load(&vcpu, GPA + 3 * PAGE), 3);
	leaves_are(1);
}

static void converted_under_a_running_guest(void)
{
	struct guest_op op = {.code = GUEST_COUNT, .rbx = GPA + 5 * PAGE, .rcx = GPA + 300 * PAGE};
	struct guest_thread thread;
	uint64_t counted;

	open_converted(MMAP);
	thread_start(&thread, &vcpu, &op);
	for (int round = 0; round < 50; round++) {
		make(7, 1, 0);
		*word_at(seen, 7 * PAGE) = (uint64_t)round;
		usleep(200);
		make(7, 1, PRIVATE);
	}
	make(300, 1, 0);
	*word_at(seen, 300 * PAGE) = 1;
	CHECK_END(thread_join(&thread), END_DONE);
	make(5, 1, 0);
	counted = *word_at(seen, 5 * PAGE);
	CHECK(counted > 0);
	CHECK_EQ(guest_load(&vcpu, GPA + 5 * PAGE), counted);
	CHECK_EQ(guest_load(&vcpu, GPA + 7 * PAGE), 49);
}

/* --- 1 GiB --- */

static void a_gigabyte_is_one_leaf(void)
{
	uint8_t *reserved;

	open_vm(KVM_X86_SW_PROTECTED_VM);
	if (parameter_is_on("kvm", "gmem_in_place_conversion"))
		check_skip("the VM owns no attributes");
	need_pool(GIB / 1024, 1);
	reserved =
	    mmap(NULL, 2 * GIB, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	CHECK(reserved != MAP_FAILED);
	reserved += -(uintptr_t)reserved & (GIB - 1);
	file = (int)CHECK_OK(vm_gmem(&vm, GIB, HUGE_1GB));
	CHECK_ERR(vm_gmem(&vm, 64 * GIB, HUGE_1GB), ENOMEM);
	show(GIB, GIB, reserved);
	CHECK_ZERO(vm_set_attributes(&vm, GIB, GIB, PRIVATE));
	guest_store(&vcpu, GIB + 5 * PAGE, 1);
	CHECK_EQ(stat_get(vm.fd, "pages_1g"), 1);
	CHECK_EQ(guest_load(&vcpu, GIB + GIB - PAGE), 0);
	CHECK_ZERO(fallocate(file, PUNCH, 5 * PAGE, PAGE));
	CHECK_EQ(guest_load(&vcpu, GIB + 5 * PAGE), 0);
	CHECK_EQ(stat_get(vm.fd, "pages_1g"), 1);
	CHECK_ZERO(vm_set_attributes(&vm, GIB, PAGE, 0));
	CHECK_EQ(guest_load(&vcpu, GIB + GIB - PAGE), 0);
	CHECK_EQ(stat_get(vm.fd, "pages_1g"), 0);
	leaves_are(1);
}

/* All of it is small while a page of it is shared: bytes stay, and it is one leaf again after. */
static void a_gigabyte_is_converted(void)
{
	static const uint64_t pages[] = {0, 5, 515, 131149, 262143};

	open_vm(KVM_X86_SW_PROTECTED_VM);
	if (!parameter_is_on("kvm", "gmem_in_place_conversion"))
		check_skip("no conversion in place");
	need_pool(GIB / 1024, 1);
	file = (int)CHECK_OK(vm_gmem(&vm, GIB, HUGE_1GB | MMAP));
	seen = mmap(NULL, 2 * GIB, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	CHECK(seen != MAP_FAILED);
	seen += -(uintptr_t)seen & (GIB - 1);
	seen = mmap(seen, GIB, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0);
	CHECK(seen != MAP_FAILED);
	show(GIB, GIB, seen);
	for (size_t i = 0; i < sizeof(pages) / sizeof(pages[0]); i++)
		guest_store(&vcpu, GIB + pages[i] * PAGE, i + 1);
	CHECK_EQ(stat_get(vm.fd, "pages_1g"), 1);
	make(131149, 1, 0);
	CHECK_EQ(*word_at(seen, 131149 * PAGE), 4);
	CHECK_EQ(touch_byte(seen + 131150 * PAGE).number, SIGBUS);
	for (size_t i = 0; i < sizeof(pages) / sizeof(pages[0]); i++)
		CHECK_EQ(guest_load(&vcpu, GIB + pages[i] * PAGE), i + 1);
	CHECK_EQ(stat_get(vm.fd, "pages_1g"), 0);
	leaves_are(0);
	*word_at(seen, 131149 * PAGE) = 44;
	guest_store(&vcpu, GIB + 6 * PAGE, 66);
	make(131149, 1, PRIVATE);
	CHECK_EQ(touch_byte(seen + 131149 * PAGE).number, SIGBUS);
	for (size_t i = 0; i < sizeof(pages) / sizeof(pages[0]); i++)
		CHECK_EQ(guest_load(&vcpu, GIB + pages[i] * PAGE), i == 3 ? 44 : i + 1);
	CHECK_EQ(guest_load(&vcpu, GIB + 6 * PAGE), 66);
	CHECK_EQ(guest_load(&vcpu, GIB + 7 * PAGE), 0);
	CHECK_EQ(stat_get(vm.fd, "pages_1g"), 1);
}

/* The pool gets pages for the tests; other programs that do so wait. */
int main(int argc, char **argv)
{
	static const struct check_test tests[] = {
	    TEST(unknown_while_it_is_off),
	    TEST(what_is_refused),
	    TEST(reserved_at_creation),
	    TEST(none_without_a_pool),
	    TEST(a_touched_page_is_huge),
	    TEST(punches),
	    TEST(a_conversion_splits_the_mapping),
	    TEST(converted_in_place),
	    TEST(converted_again),
	    TEST(converted_unmapped),
	    TEST(converted_under_a_running_guest),
	    TEST(a_gigabyte_is_one_leaf),
	    TEST(a_gigabyte_is_converted),
	};
	int lock = open("/proc/sys/vm/nr_hugepages", O_RDONLY | O_CLOEXEC), result;
	long gigabytes;

	if (lock >= 0)
		(void)flock(lock, LOCK_EX);
	pool_resize(2048, PAGES_2MB);
	/* Other tests want memory, too. */
	gigabytes = memory_available() < 6 * GIB ? 0 : PAGES_1GB;
	pool_resize(GIB / 1024, gigabytes);
	result = check_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
	pool_resize(GIB / 1024, -gigabytes);
	pool_resize(2048, -PAGES_2MB);
	return result;
}
