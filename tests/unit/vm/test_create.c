/* Making VMs: without a platform, without memory, on machines of different widths. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include <quire/confidential.h>
#include <quire/format.h>
#include <quire/stats.h>
#include <quire/vcpu.h>
#include <quire/vm.h>

#include "src/gmem/rmp.h"
#include "src/vm/vm.h"
#include "tests/unit/fake_host.h"

static void test_without_platform(void **state)
{
	struct quire_vm_config config = {.maxphyaddr = 48, .host = &fake_ops};
	struct quire_vm *vm = NULL;

	(void)state;
	assert_int_equal(quire_vm_create(&config, &vm), -ENXIO);
	assert_null(vm);
}

/* A VM is made as a whole or not at all. */
static void test_without_memory(void **state)
{
	struct quire_vm_config config = {.maxphyaddr = 48, .host = &fake_ops};
	struct quire_vm *vm = NULL;
	int error = -ENOMEM;

	(void)state;
	fake_reset();
	for (uint64_t fails = 1; error; fails++) {
		uint64_t allocs = fake.allocs;

		fake_fail_in(fails);
		error = quire_vm_create(&config, &vm);
		fake_fail_in(0);
		if (!error) {
			assert_true(fails > 1 && fake.allocs - allocs < fails);
			break;
		}
		assert_int_equal(error, -ENOMEM);
		assert_int_equal(fake.live_allocs, 0);
	}
	fake_vm_end(vm);
}

/*
 * An entry that says that there is no memory needs a bit that no address has. NPT has none but in
 * the address, so on a machine of 52 bits each access to such a page is a fault of the slow path.
 */
static void test_mmio_entries(void **state)
{
	static const struct {
		enum quire_format_id format;
		unsigned int maxphyaddr;
		uint32_t caching, made;
	} cases[] = {
	    {QUIRE_FORMAT_NPT, 51, 1, 1},	{QUIRE_FORMAT_NPT, 52, 1, 0},
	    {QUIRE_FORMAT_NPT, 51, 0, 0},	{QUIRE_FORMAT_EPT, 51, 1, 1},
	    {QUIRE_FORMAT_EPT, 52, 1, 1},	{QUIRE_FORMAT_EPT, 52, 0, 0},
	    {QUIRE_FORMAT_EPT_NO_AD, 52, 1, 1},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct quire_vm_config config = {.format = cases[i].format,
						 .maxphyaddr = cases[i].maxphyaddr,
						 .mmio_caching = cases[i].caching,
						 .host = &fake_ops};
		struct quire_memory_fault told;
		struct quire_stage2 stage2;
		struct quire_vcpu *vcpu;
		struct quire_vm *vm;
		uint64_t requests;

		fake_reset();
		assert_int_equal(quire_vm_create(&config, &vm), 0);
		assert_int_equal(quire_vcpu_create(vm, 0, NULL, &vcpu), 0);
		assert_int_equal(quire_vcpu_enter(vcpu, &requests, &stage2), 0);
		quire_vcpu_leave(vcpu);
		assert_int_equal(quire_vcpu_fault(vcpu, (gpa_t){0x1000}, 0, &told), QUIRE_EMULATE);
		assert_int_equal(quire_vcpu_stat(vcpu, QUIRE_VCPU_STAT_pf_mmio_spte_created),
				 cases[i].made);
		assert_int_equal(stage2.format->mmio_mask != 0, cases[i].made);
		quire_vcpu_destroy(vcpu);
		fake_vm_end(vm);
	}
}

/* Do two VMs of one host share the reverse map of its frames? */
static bool shares_map(struct quire_vm *vm)
{
	struct quire_vm_config config = {
	    .type = QUIRE_VM_SW_PROTECTED, .maxphyaddr = 48, .host = &fake_ops};
	struct quire_vm *other;
	bool shares;

	if (quire_vm_create(&config, &other))
		_exit(2);
	shares = other->rmp->map == vm->rmp->map;
	quire_vm_put(other);
	return shares;
}

/* The child of a fork has frames of its own: what its parent's VMs own is no matter to it. */
static void test_fork(void **state)
{
	struct quire_vm *vm = fake_vm_make(QUIRE_VM_SW_PROTECTED);
	int status;
	pid_t child;

	(void)state;
	assert_true(shares_map(vm));
	child = fork();
	if (!child) {
		quire_platform_forked();
		_exit(shares_map(vm));
	}
	assert_true(child > 0);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
	assert_true(shares_map(vm));
	fake_vm_end(vm);
}

/* One thing wrong at a time, in a configuration that is right otherwise; and what is right. */
static void test_configurations(void **state)
{
	static const struct quire_confidential_ops hardware;
	const struct quire_vm_config good = {.maxphyaddr = 48, .host = &fake_ops};
	struct quire_vm_config c;
	struct quire_vm *vm = NULL;

	(void)state;
	fake_reset();
#define REFUSED(spoil)                                               \
	do {                                                         \
		c = good;                                            \
		spoil;                                               \
		assert_int_equal(quire_vm_create(&c, &vm), -EINVAL); \
		assert_null(vm);                                     \
		assert_int_equal(fake.live_allocs, 0);               \
	} while (0)
#define ACCEPTED(choice)                                       \
	do {                                                   \
		c = good;                                      \
		choice;                                        \
		assert_int_equal(quire_vm_create(&c, &vm), 0); \
		fake_vm_end(vm);                               \
		vm = NULL;                                     \
	} while (0)

	ACCEPTED(c.type = QUIRE_VM_SW_PROTECTED);
	REFUSED(c.type = (enum quire_vm_type)2);
	REFUSED(c.type = (enum quire_vm_type) - 1);
	ACCEPTED(c.format = (enum quire_format_id)(ENTRY_FORMATS - 1));
	REFUSED(c.format = (enum quire_format_id)ENTRY_FORMATS);
	REFUSED(c.format = (enum quire_format_id) - 1);
	REFUSED(c.confidential = &hardware);
	ACCEPTED(c.mmu = QUIRE_MMU_SHADOW);
	REFUSED(c.mmu = QUIRE_MMU_SHADOW; c.type = QUIRE_VM_SW_PROTECTED);
	ACCEPTED(c.mmu = QUIRE_MMU_SHADOW; c.format = QUIRE_FORMAT_EPT);
	ACCEPTED(c.format = QUIRE_FORMAT_EPT_MODES);
	REFUSED(c.format = QUIRE_FORMAT_EPT_MODES; c.mmu = QUIRE_MMU_SHADOW);
	REFUSED(c.maxphyaddr = 0);
	REFUSED(c.maxphyaddr = 53);
	ACCEPTED(c.maxphyaddr = 52);
	REFUSED(c.table_offset = 1);
	REFUSED(c.table_offset = QUIRE_PAGE_SIZE - 1);
#undef REFUSED
#undef ACCEPTED
}

/* The object of the VM, in memory whose address the test knows. */
static _Alignas(QUIRE_PAGE_SIZE) uint8_t object[1u << 20];
static uint32_t objects;

static void *alloc_object(void *ctx, size_t size_bytes)
{
	(void)ctx;
	assert_in_range(size_bytes, sizeof(struct quire_vm), sizeof(object));
	memset(object, 0, size_bytes);
	assert_int_equal(objects++, 0);
	return object;
}

static void free_object(void *ctx, void *mem, size_t size_bytes)
{
	(void)ctx;
	assert_ptr_equal(mem, object);
	assert_in_range(size_bytes, sizeof(struct quire_vm), sizeof(object));
	objects--;
}

/* What the host has at the end of what entries can name is taken, and what is behind it refused. */
static void test_last_address(void **state)
{
	struct quire_host_ops host = fake_ops;
	struct quire_vm_config config = {.host = &host};
	struct quire_vm *vm;

	(void)state;
	fake_reset();
	host.alloc = alloc_object;
	host.free = free_object;
	for (uint32_t bits = 36; bits <= 48; bits += 12) {
		config.maxphyaddr = bits;
		config.table_offset = (uint64_t)(uintptr_t)object - (UINT64_C(1) << bits);
		assert_int_equal(quire_vm_create(&config, &vm), -EINVAL);
		assert_int_equal(objects, 0);
		config.table_offset += QUIRE_PAGE_SIZE;
		assert_int_equal(quire_vm_create(&config, &vm), 0);
		quire_vm_put(vm);
		assert_int_equal(objects, 0);
	}
	assert_int_equal(fake_reports, 0);
}

/* What a VM of @type has at first. */
static void check_first_state(enum quire_vm_type type)
{
	struct quire_vm *vm = fake_vm_make(type);
	const bool is_private = type == QUIRE_VM_SW_PROTECTED;

	assert_int_equal(quire_vm_address_spaces(vm), is_private ? 1 : QUIRE_AS_MAX);
	assert_int_equal(quire_vm_attributes(vm), is_private ? QUIRE_ATTRIBUTE_PRIVATE : 0);
	assert_false(quire_vm_is_dead(vm));
	assert_int_equal(vm->tunables->eager_page_split, 1);
	/* Each lock is where docs/LOCKING.md has it. */
	assert_int_equal(vm->slots_lock.rank, RANK_SLOTS);
	assert_int_equal(vm->vcpus_lock.rank, RANK_VCPUS);
	assert_int_equal(vm->pfn_caches.lock.rank, RANK_PFN_LIST);
	assert_int_equal(vm->mmu_lock.rank, RANK_MMU);
	assert_int_equal(vm->roots.pages_lock.rank, RANK_ROOTS);
	assert_int_equal(vm->invalidation.lock.rank, RANK_INVALIDATE);
	assert_int_equal(vm->flush.lock.rank, RANK_FLUSH);
	assert_int_equal(vm->arena.lock.rank, RANK_ARENA);
	/* A slot that goes takes all mappings along, unless the client says otherwise. */
	assert_int_equal(vm->slot_zap_all, 1);
	quire_vm_set_slot_zap_all(vm, 0);
	assert_int_equal(vm->slot_zap_all, 0);
	quire_vm_set_slot_zap_all(vm, 7);
	assert_int_equal(vm->slot_zap_all, 1);
	/* References are counted one by one. */
	quire_vm_get(vm);
	quire_vm_get(vm);
	quire_vm_put(vm);
	quire_vm_put(vm);
	assert_true(fake.live_allocs > 0);
	quire_vm_set_dead(vm);
	assert_int_equal(quire_vm_is_dead(vm), 1);
	fake_vm_end(vm);
}

/* A vCPU is made as a whole or not at all; and it hears that its VM is dead. */
static void test_vcpu(void **state)
{
	struct quire_vm *vm = fake_vm_make(QUIRE_VM_DEFAULT);
	struct quire_vcpu *vcpu = NULL;
	uint64_t live = fake.live_allocs;

	(void)state;
	fake_fail_in(1);
	assert_int_equal(quire_vcpu_create(vm, 3, NULL, &vcpu), -ENOMEM);
	fake_fail_in(0);
	assert_null(vcpu);
	assert_int_equal(fake.live_allocs, live);
	assert_int_equal(quire_vcpu_create(vm, 3, NULL, &vcpu), 0);
	assert_int_equal(quire_vcpu_take_requests(vcpu, UINT64_MAX), 0);
	quire_vm_set_dead(vm);
	assert_int_equal(quire_vcpu_take_requests(vcpu, UINT64_MAX), QUIRE_REQ_VM_DEAD);
	quire_vcpu_destroy(vcpu);
	assert_int_equal(fake.live_allocs, live);
	fake_vm_end(vm);
}

static void test_first_state(void **state)
{
	static const struct quire_tunables chosen;
	struct quire_vm_config config = {.type = QUIRE_VM_SW_PROTECTED,
					 .maxphyaddr = 48,
					 .host = &fake_ops,
					 .tunables = &chosen,
					 .gmem_in_place_conversion = 1};
	struct quire_vm *vm;

	(void)state;
	check_first_state(QUIRE_VM_DEFAULT);
	check_first_state(QUIRE_VM_SW_PROTECTED);
	fake_reset();
	assert_int_equal(quire_vm_create(&config, &vm), 0);
	assert_ptr_equal(vm->tunables, &chosen);
	/* Its files own the attributes. */
	assert_int_equal(quire_vm_attributes(vm), 0);
	fake_vm_end(vm);
}

/* Walkers of shadow pages are told of no MMIO entries, whatever those of the TDP MMU are told. */
static void test_formats_told(void **state)
{
	(void)state;
	for (uint32_t shadowed = 0; shadowed < 2; shadowed++) {
		struct quire_vm_config config = {.format = QUIRE_FORMAT_EPT,
						 .maxphyaddr = 47,
						 .mmio_caching = 1,
						 .host = &fake_ops};
		struct quire_vm *vm;

		fake_reset();
		config.mmu = shadowed ? QUIRE_MMU_SHADOW : QUIRE_MMU_TDP;
		assert_int_equal(quire_vm_create(&config, &vm), 0);
		assert_int_equal(vm->mmio_entries, !shadowed);
		assert_int_equal(vm->tdp_walk.mmio_mask != 0, !shadowed);
		assert_int_equal(vm->shadow_walk.mmio_mask, 0);
		assert_string_equal(vm->tdp_walk.name, "ept");
		assert_string_equal(vm->shadow_walk.name, "npt");
		assert_int_equal(vm->tdp_format.frames, UINT64_C(1) << 35);
		assert_int_equal(vm->shadow_format.frames, UINT64_C(1) << 35);
		assert_int_equal(vm->max_gfn.v, (UINT64_C(1) << 35) - 1);
		fake_vm_end(vm);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_without_platform), cmocka_unit_test(test_without_memory),
	    cmocka_unit_test(test_mmio_entries),     cmocka_unit_test(test_fork),
	    cmocka_unit_test(test_configurations),   cmocka_unit_test(test_last_address),
	    cmocka_unit_test(test_first_state),	     cmocka_unit_test(test_vcpu),
	    cmocka_unit_test(test_formats_told),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
