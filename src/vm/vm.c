/* The VM object: its fields at the start, and what every part may ask of it. */
#include "src/vm/vm.h"

#include "src/base/assert.h"
#include "src/vm/locks.h"

#include <errno.h>

static const struct quire_tunables default_tunables = {.eager_page_split = 1};

static int config_check(const struct quire_vm_config *config)
{
	if (config->type != QUIRE_VM_DEFAULT && config->type != QUIRE_VM_SW_PROTECTED)
		return -EINVAL;
	if (config->format >= ENTRY_FORMATS)
		return -EINVAL;
	if (config->maxphyaddr < QUIRE_MAXPHYADDR_MIN || config->maxphyaddr > QUIRE_MAXPHYADDR_MAX)
		return -EINVAL;
	if (config->confidential && config->type != QUIRE_VM_SW_PROTECTED)
		return -EINVAL;
	if (config->format == QUIRE_FORMAT_EPT_MODES && config->mmu != QUIRE_MMU_TDP)
		return -EINVAL;
	/* Shadow pages know one view of a gfn. */
	if (config->mmu != QUIRE_MMU_TDP && config->type != QUIRE_VM_DEFAULT)
		return -EINVAL;
	if (!config->host->table_phys != !config->host->table_virt ||
	    config->table_offset % QUIRE_PAGE_SIZE)
		return -EINVAL;
	return 0;
}

static void formats_init(struct quire_vm *vm, const struct quire_vm_config *config)
{
	const struct entry_tables tables = {
	    .offset = config->table_offset,
	    .phys = config->host->table_phys,
	    .virt = config->host->table_virt,
	    .ctx = config->host_ctx,
	    .odd = config->host->table_virt != NULL,
	};

	vm->tdp_format = *entry_formats[config->format];
	vm->shadow_format = entry_npt;
	CHECK(vm->tdp_format.mmio_mask && vm->shadow_format.mmio_mask);
	vm->tdp_format.tables = vm->shadow_format.tables = tables;
	vm->tdp_format.tables.odd |= vm->tdp_format.odd;
	vm->tdp_format.frames = vm->shadow_format.frames =
	    ENTRY_FRAMES >> (ENTRY_ADDRESS_BITS - min_u64(config->maxphyaddr, ENTRY_ADDRESS_BITS));
	vm->tdp_walk = entry_describe(&vm->tdp_format, config->maxphyaddr);
	vm->shadow_walk = entry_describe(&vm->shadow_format, config->maxphyaddr);
	/* NPT's MMIO entries need a reserved address bit. */
	vm->mmio_entries =
	    config->mmio_caching && !vm_is_shadowed(vm) &&
	    (config->maxphyaddr < 52 || !(vm->tdp_format.mmio_value & vm->tdp_format.address));
	if (!vm->mmio_entries)
		vm->tdp_walk.mmio_mask = 0;
	vm->shadow_walk.mmio_mask = 0;
	CHECK(!vm->mmio_entries == !vm->tdp_walk.mmio_mask);
	CHECK(vm->tdp_walk.mmio_mask == 0 || !vm_is_shadowed(vm));
}

/*
 * Tables come from the host as this VM's own memory does: when its address does not fit into an
 * entry, theirs would not either (arena_grow() looks at each).
 */
static bool is_addressable(const struct quire_vm *vm)
{
	return vm->host->table_phys || ((u64)(uintptr_t)vm - vm->config.table_offset) >>
					   QUIRE_PAGE_SHIFT < vm->tdp_format.frames;
}

static void vm_init(struct quire_vm *vm, const struct quire_vm_config *config)
{
	vm->config = *config;
	vm->host = config->host;
	vm->host_ctx = config->host_ctx;
	vm->tunables = config->tunables ? config->tunables : &default_tunables;
	vm->address_spaces = vm_has_private_mem(vm) ? 1 : QUIRE_AS_MAX;
	formats_init(vm, config);
	vm->max_gfn.v = (UINT64_C(1) << (min_u64(config->maxphyaddr, vm->tdp_format.gpa_bits) -
					 QUIRE_PAGE_SHIFT)) -
			1;
	vm->refs = 1;
	vm->slot_zap_all = 1;
	mutex_init(&vm->slots_lock, RANK_SLOTS);
	mutex_init(&vm->vcpus_lock, RANK_VCPUS);
	mutex_init(&vm->roots.pages_lock, RANK_ROOTS);
	biglock_init(&vm->mmu_lock, RANK_MMU);
	invalidation_init(&vm->invalidation);
	mutex_init(&vm->pfn_caches.lock, RANK_PFN_LIST);
	flush_domain_init(&vm->flush, vm->host, vm->host_ctx);
	arena_init(&vm->arena, vm->host, vm->host_ctx, &vm->tdp_format);
	memslots_init(vm, vm->address_spaces);
	CHECK(vm->max_gfn.v && vm->slots.nr_as == vm->address_spaces);
}

int vm_make(const struct quire_vm_config *config, struct quire_vm **result)
{
	int err = config_check(config);

	if (err)
		return err;
	*result = config->host->alloc(config->host_ctx, sizeof(**result));
	if (!*result)
		return -ENOMEM;
	vm_init(*result, config);
	if (!is_addressable(*result)) {
		config->host->free(config->host_ctx, *result, sizeof(**result));
		return -EINVAL;
	}
	return 0;
}

void quire_vm_get(struct quire_vm *vm)
{
	CHECK(atomic_load_relaxed_u32(&vm->refs));
	/* Relaxed: the caller's reference keeps the VM. */
	atomic_add_relaxed_u32(&vm->refs, 1);
}

int quire_vm_is_dead(const struct quire_vm *vm)
{
	return vm_is_dead(vm);
}

/* Without an order: nothing is handed over with it. */
void vm_poison(struct quire_vm *vm)
{
	atomic_store_relaxed_u32(&vm->dead, 1);
}

void quire_vm_set_dead(struct quire_vm *vm)
{
	locks_assert_none();
	vm_poison(vm);
	flush_domain_request(&vm->flush, QUIRE_REQ_VM_DEAD);
	CHECK(vm_is_dead(vm));
}

unsigned int quire_vm_address_spaces(const struct quire_vm *vm)
{
	return vm->address_spaces;
}

uint64_t quire_vm_attributes(const struct quire_vm *vm)
{
	return vm_has_private_mem(vm) && !vm->config.gmem_in_place_conversion
		   ? QUIRE_ATTRIBUTE_PRIVATE
		   : 0;
}

void quire_vm_set_slot_zap_all(struct quire_vm *vm, int on)
{
	atomic_store_relaxed_u32(&vm->slot_zap_all, on != 0);
}
