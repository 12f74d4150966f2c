/* A file with many bindings: what an allocation that fails leaves; and what is to be pinned. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include <quire/gmem.h>

#include "src/gmem/gmem.h"
#include "src/gmem/pin.h"
#include "src/gmem/privacy.h"
#include "src/vm/locks.h"
#include "tests/unit/fake_host.h"

/* More than one node of a tree has. */
#define BINDINGS 600u
#define PAGES(n) ((u64)(n) << QUIRE_PAGE_SHIFT)

static struct quire_vm *vm;
static struct quire_gmem *gmem;
static struct memslot slots[BINDINGS];

static void begin(void)
{
	memset(slots, 0, sizeof(slots));
	vm = fake_vm_make(QUIRE_VM_DEFAULT);
	assert_int_equal(quire_gmem_create(vm, PAGES(2 * BINDINGS), 0, NULL, &gmem), 0);
}

static void end(void)
{
	quire_gmem_release(gmem);
	fake_vm_end(vm);
}

/* With the allocation @fails failing; 0: with none. */
static int bind(u32 i, u64 fails)
{
	struct gmem_binding_change change;
	int error;

	slots[i] = (struct memslot){.base_gfn = {i}, .npages = 1, .flags = QUIRE_SLOT_GMEM};
	assert_int_equal(gmem_bind_prepare(&slots[i], vm, gmem, PAGES(2 * i)), 0);
	fake_fail_in(fails);
	error = gmem_bind_commit(&slots[i], &change);
	fake_fail_in(0);
	if (error)
		slots[i].gmem.file = NULL;
	else
		gmem_binding_finish(&change);
	return error;
}

static int unbind(u32 i, u64 fails)
{
	struct gmem_binding_change change;
	int error;

	fake_fail_in(fails);
	error = gmem_unbind_prepare(&slots[i], &change);
	fake_fail_in(0);
	if (error)
		return error;
	gmem_unbind_commit(&change);
	gmem_binding_finish(&change);
	return 0;
}

/* Fails at each allocation before it succeeds; what was allocated until then is freed. */
static u64 fails_everywhere(int (*change)(u32 i, u64 fails), u32 i)
{
	u64 live = fake.live_allocs, fails = 1, allocs = fake.allocs;
	int error;

	while ((error = change(i, fails)) == -ENOMEM) {
		assert_int_equal(fake.live_allocs, live);
		allocs = fake.allocs;
		fails++;
	}
	assert_int_equal(error, 0);
	/* Nothing was passed over: the failure was still to come. */
	assert_true(fake.allocs - allocs < fails);
	return fails - 1;
}

static void test_without_memory(void **state)
{
	u64 most = 0;

	begin();
	mutex_lock(&vm->slots_lock);
	for (u32 i = 0; i < BINDINGS; i++) {
		u64 failed = fails_everywhere(bind, i);

		most = failed > most ? failed : most;
	}
	assert_true(most >= 2);
	assert_int_equal(gmem->bindings.count, BINDINGS);
	most = 0;
	for (u32 i = 0; i < BINDINGS; i++) {
		u64 failed = fails_everywhere(unbind, (i * 7) % BINDINGS);

		most = failed > most ? failed : most;
	}
	assert_true(most >= 2);
	assert_int_equal(gmem->bindings.count, 0);
	mutex_unlock(&vm->slots_lock);
	end();
}

/* A slot without a file has nothing to pin, and nothing that says what its pages are. */
static void test_nothing_to_pin(void **state)
{
	struct memslot slot = {.base_gfn = {5}, .npages = 10};
	struct quire_map_pin pin;
	u64 value = 77;

	begin();
	memset(&pin, 0x5a, sizeof(pin));
	mutex_lock(&vm->slots_lock);
	gmem_pin_choose(&pin, vm, &slot, slot.base_gfn);
	assert_null(pin.gmem);
	vm->config.gmem_in_place_conversion = 1;
	assert_int_equal(privacy_run(vm, &slot, (gfn_t){6}, (gfn_t){12}, &value).v, 12);
	assert_int_equal(value, 0);
	value = 77;
	assert_int_equal(privacy_uniform(vm, &slot, (gfn_t){6}, 6, &value), 1);
	assert_int_equal(value, 0);
	assert_int_equal(privacy_get(vm, &slot, (gfn_t){6}), 0);
	vm->config.gmem_in_place_conversion = 0;
	/* Nor where the file has no say in what its pages are. */
	assert_int_equal(bind(0, 0), 0);
	memset(&pin, 0x5a, sizeof(pin));
	gmem_pin_choose(&pin, vm, &slots[0], slots[0].base_gfn);
	assert_null(pin.gmem);
	assert_int_equal(unbind(0, 0), 0);
	mutex_unlock(&vm->slots_lock);
	assert_int_equal(gmem_pin_take(&pin), 0);
	end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_without_memory),
	    cmocka_unit_test(test_nothing_to_pin),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
