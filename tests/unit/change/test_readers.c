/* A conversion in place ends once no reader looks at the old attributes any more. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

#include <quire/gmem.h>

#include "src/gmem/gmem.h"
#include "tests/unit/fake_host.h"

#define PAGES(n) ((uint64_t)(n) << QUIRE_PAGE_SHIFT)
#define FILE_PAGES 64u
#define PRIVATE QUIRE_ATTRIBUTE_PRIVATE

static struct quire_vm *vm;
static struct quire_gmem *gmem;

static void begin(void)
{
	const struct quire_vm_config config = {.type = QUIRE_VM_SW_PROTECTED,
					       .maxphyaddr = 48,
					       .gmem_in_place_conversion = 1,
					       .host = &fake_ops};

	fake_reset();
	assert_int_equal(quire_vm_create(&config, &vm), 0);
	assert_int_equal(quire_gmem_create(vm, PAGES(FILE_PAGES), 0, NULL, &gmem), 0);
}

static void end(void)
{
	quire_gmem_release(gmem);
	fake_vm_end(vm);
}

static int convert(uint64_t index, uint64_t npages, uint64_t attributes)
{
	struct quire_gmem_conversion conversion = {
	    .offset_bytes = PAGES(index), .size_bytes = PAGES(npages), .attributes = attributes};

	return quire_gmem_set_attributes(gmem, &conversion);
}

static void test_waits_for_readers(void **state)
{
	(void)state;
	begin();
	assert_int_equal(convert(5, 7, 0), 0);
	fake_reader_begin();
	assert_int_equal(convert(8, 9, PRIVATE), 0);
	assert_false(fake_reader_is_inside());
	fake_reader_end();
	end();
}

/* One that changes nothing waits for no reader. */
static void test_no_change(void **state)
{
	uint64_t allocs;

	(void)state;
	begin();
	assert_int_equal(convert(5, 7, 0), 0);
	allocs = fake.allocs;
	assert_int_equal(convert(6, 2, 0), 0);
	assert_int_equal(convert(12, 9, PRIVATE), 0);
	assert_int_equal(fake.allocs, allocs);
	end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_waits_for_readers),
	    cmocka_unit_test(test_no_change),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
