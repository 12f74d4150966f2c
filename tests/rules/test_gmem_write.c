/* write() of a guest_memfd as it was posted: GUEST_MEMFD_FLAG_WRITE. The parameter quire_gmem_write
 * switches it on; a KVM without it skips. */
#include <fcntl.h>
#include <linux/falloc.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "client.h"

#define GPA 0x10000000ul
#define PAGES 8ul
#define BYTES (PAGES * PAGE)
#define SLOT 5
#define SHARED (GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED)
#define WRITE (1ul << 2)
#define PUNCH (FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE)

static struct vm vm;
static struct vcpu vcpu;
static uint8_t *source;
static int file;

static void parameter_set(const char *value)
{
	int parameter = open("/sys/module/kvm/parameters/quire_gmem_write", O_WRONLY);

	if (parameter < 0)
		check_skip("no writes of guest_memfd");
	CHECK_EQ(write(parameter, value, 1), 1);
	close(parameter);
}

static void open_file(uint64_t flags)
{
	machine_open(&vm, &vcpu, KVM_X86_DEFAULT_VM);
	if (!vm_cap(&vm, KVM_CAP_GUEST_MEMFD))
		check_skip("no guest_memfd");
	parameter_set("Y");
	file = (int)CHECK_OK(vm_gmem(&vm, BYTES, flags));
	source = memory_alloc(HUGE_PAGE);
	for (uint64_t page = 0; page < PAGES; page++)
		*word_at(source, page * PAGE) = page + 1;
}

static void open_shown(void)
{
	open_file(SHARED | WRITE);
	CHECK_ZERO(REGION(&vm, .slot = SLOT, .flags = KVM_MEM_GUEST_MEMFD, .guest_phys_addr = GPA,
			  .memory_size = BYTES,
			  .userspace_addr = (uintptr_t)memory_alloc(HUGE_PAGE),
			  .guest_memfd = (uint32_t)file));
}

static void unknown_while_it_is_off(void)
{
	open_file(0);
	parameter_set("N");
	CHECK_EQ(vm_cap(&vm, KVM_CAP_GUEST_MEMFD_FLAGS) & (int)WRITE, 0);
	REFUSED(&vm, vm_gmem(&vm, BYTES, WRITE), EINVAL);
	CHECK_ERR(write(file, source, PAGE), EINVAL);
	CHECK_ERR(pwrite(file, source, PAGE, 0), ESPIPE);
	CHECK_ERR(lseek(file, 0, SEEK_SET), ESPIPE);
	parameter_set("Y");
	CHECK_EQ(vm_cap(&vm, KVM_CAP_GUEST_MEMFD_FLAGS) & (int)WRITE, WRITE);
	/* A file that was made without the flag has no device to write to. */
	CHECK_ERR(pwrite(file, source, PAGE, 0), ENODEV);
	CHECK_ERR(write(file, source, PAGE), ENODEV);
}

static void not_where_memory_is_private(void)
{
	open_file(WRITE);
	vm_open(&vm, KVM_X86_SW_PROTECTED_VM);
	CHECK_EQ(vm_cap(&vm, KVM_CAP_GUEST_MEMFD_FLAGS) & (int)WRITE, 0);
	REFUSED(&vm, vm_gmem(&vm, BYTES, WRITE), EINVAL);
}

static void whole_pages_inside(void)
{
	void *volatile nowhere = NULL;

	open_file(WRITE);
	CHECK_ERR(pwrite(file, source, PAGE, (off_t)BYTES), EINVAL);
	CHECK_ERR(pwrite(file, source, 1, 0), EINVAL);
	CHECK_ERR(pwrite(file, source, PAGE, 1), EINVAL);
	CHECK_ERR(pwrite(file, source, PAGE, -PAGE), EINVAL);
	CHECK_ERR(pwrite(file, nowhere, PAGE, 0), EFAULT);
	CHECK_EQ(pwrite(file, source, PAGE, 0), PAGE);
	/* What was done before an error counts. */
	CHECK_EQ(pwrite(file, source, 2 * PAGE, (off_t)(BYTES - PAGE)), PAGE);
	CHECK_EQ(pwrite(file, source, PAGE + 1, 0), PAGE);
	CHECK_ERR(read(file, source, PAGE), EINVAL);
	CHECK_ERR(pread(file, source, PAGE, 0), ESPIPE);
}

static void positions(void)
{
	open_file(WRITE);
	CHECK_EQ(lseek(file, 0, SEEK_CUR), 0);
	CHECK_EQ(write(file, source, 2 * PAGE), 2 * PAGE);
	CHECK_EQ(lseek(file, 0, SEEK_CUR), 2 * PAGE);
	CHECK_EQ(lseek(file, -PAGE, SEEK_END), BYTES - PAGE);
	CHECK_EQ(write(file, source, 2 * PAGE), PAGE);
	CHECK_ERR(write(file, source, PAGE), EINVAL);
	CHECK_EQ(lseek(file, 0, SEEK_CUR), BYTES);
	CHECK_EQ(lseek(file, 5, SEEK_DATA), 5);
	CHECK_EQ(lseek(file, 5, SEEK_HOLE), BYTES);
	CHECK_ERR(lseek(file, (off_t)BYTES, SEEK_DATA), ENXIO);
	CHECK_ERR(lseek(file, -1, SEEK_DATA), ENXIO);
	CHECK_ERR(lseek(file, -1, SEEK_HOLE), ENXIO);
	CHECK_ERR(lseek(file, INT64_MAX, SEEK_END), EINVAL);
	CHECK_ERR(lseek(file, INT64_MAX, SEEK_CUR), EINVAL);
	CHECK_EQ(lseek(file, 0, SEEK_CUR), BYTES);
	CHECK_ERR(lseek(file, -1, SEEK_SET), EINVAL);
	CHECK_ERR(lseek(file, 0, 9), EINVAL);
}

/* The guest finds what was written, in pages that it has mapped, too; a punch takes it away. */
static void the_guest_sees_it(void)
{
	open_shown();
	guest_store(&vcpu, GPA + 2 * PAGE, 77);
	CHECK_EQ(pwrite(file, source, BYTES, 0), BYTES);
	for (uint64_t page = 0; page < PAGES; page++)
		CHECK_EQ(guest_load(&vcpu, GPA + page * PAGE), page + 1);
	CHECK_ZERO(fallocate(file, PUNCH, 0, PAGE));
	CHECK_EQ(guest_load(&vcpu, GPA), 0);
}

static void a_mapping_sees_it(void)
{
	uint8_t *mapped;

	open_file(SHARED | WRITE);
	mapped = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	CHECK(mapped != MAP_FAILED);
	CHECK_EQ(pwrite(file, source, BYTES, 0), BYTES);
	CHECK_EQ(memcmp(mapped, source, BYTES), 0);
}

static void vectors(void)
{
	struct iovec parts[2];

	open_shown();
	parts[0] = (struct iovec){source, 2 * PAGE};
	parts[1] = (struct iovec){source + 4 * PAGE, PAGE};
	CHECK_EQ(pwritev(file, parts, 2, PAGE), 3 * PAGE);
	CHECK_EQ(guest_load(&vcpu, GPA + 3 * PAGE), 5);
	CHECK_EQ(writev(file, parts, 2), 3 * PAGE);
	CHECK_EQ(lseek(file, 0, SEEK_CUR), 3 * PAGE);
	CHECK_EQ(guest_load(&vcpu, GPA + PAGE), 2);
}

int main(int argc, char **argv)
{
	static const struct check_test tests[] = {
	    TEST(unknown_while_it_is_off),
	    TEST(not_where_memory_is_private),
	    TEST(whole_pages_inside),
	    TEST(positions),
	    TEST(the_guest_sees_it),
	    TEST(a_mapping_sees_it),
	    TEST(vectors),
	};

	return check_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
