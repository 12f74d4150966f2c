/* Writing a shared file page by page: what is refused, and what the guest finds. */
#include "tests/unit/gmem/support.h"

#include "src/gmem/gmem.h"

#define FILE_PAGES 600u
#define GFN 1024u
#define WRITABLE (QUIRE_GMEM_MMAP | QUIRE_GMEM_INIT_SHARED | QUIRE_GMEM_WRITE)

static int copy_error;

static int copy_byte(void *ctx, pfn_t pfn)
{
	uint8_t *page = (uint8_t *)(uintptr_t)(pfn.v << QUIRE_PAGE_SHIFT);

	if (copy_error)
		return copy_error;
	memset(page, 0, SIM_FRAME_BYTES);
	page[0] = *(const uint8_t *)ctx;
	return 0;
}

static int write_page(uint64_t index, uint8_t byte)
{
	return quire_gmem_write(gmem, PAGES(index), copy_byte, &byte);
}

static void test_refused(void **state)
{
	uint8_t byte = 1;

	(void)state;
	gmem_begin(QUIRE_VM_DEFAULT, QUIRE_GMEM_MMAP | QUIRE_GMEM_INIT_SHARED, GFN, FILE_PAGES);
	assert_int_equal(write_page(0, 1), -ENODEV);
	gmem_end();
	gmem_begin(QUIRE_VM_SW_PROTECTED, 0, GFN, FILE_PAGES);
	assert_int_equal(quire_gmem_supported_flags(machine.vm) & QUIRE_GMEM_WRITE, 0);
	gmem_end();
	gmem_begin(QUIRE_VM_DEFAULT, WRITABLE, GFN, FILE_PAGES);
	assert_int_equal(write_page(FILE_PAGES, 1), -EINVAL);
	assert_int_equal(quire_gmem_write(gmem, 8, copy_byte, &byte), -EINVAL);
	quire_gmem_poison(gmem, 520);
	assert_int_equal(write_page(520, 1), -EHWPOISON);
	/* A page whose copy failed is new to its next user. */
	copy_error = -EIO;
	assert_int_equal(write_page(521, 1), -EIO);
	copy_error = -EPERM;
	assert_int_equal(write_page(521, 1), -EPERM);
	copy_error = 0;
	assert_int_equal(load(GFN + 521), 0);
	gmem_end();
}

/* Pages that are new, mapped small, and a part of a huge page. */
static void test_written(void **state)
{
	(void)state;
	gmem_begin(QUIRE_VM_DEFAULT, WRITABLE, GFN, FILE_PAGES);
	assert_int_equal(write_page(520, 5), 0);
	assert_int_equal(load(GFN + 520), 5);
	assert_int_equal(write_page(520, 6), 0);
	assert_int_equal(load(GFN + 520), 6);
	assert_int_equal(write_page(7, 7), 0);
	assert_int_equal(load(GFN + 8), 0);
	assert_int_equal(load(GFN + 7), 7);
	leaves_are(0, 1, 1);
	assert_int_equal(write_page(9, 9), 0);
	assert_int_equal(load(GFN + 9), 9);
	punch(9, 1);
	assert_int_equal(load(GFN + 9), 0);
	gmem_end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_refused),
	    cmocka_unit_test(test_written),
	};

	return run_formats(tests, sizeof(tests) / sizeof(tests[0]));
}
