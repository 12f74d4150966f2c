/* The end of a VM. */
#include "src/change/change.h"
#include "src/dirty/bitmap.h"
#include "src/gmem/rmp.h"
#include "src/vm/locks.h"

static void free_slot(struct quire_vm *vm, struct memslot *slot)
{
	dirty_bitmap_put(vm->host, vm->host_ctx, slot->dirty);
	memslot_free(vm, slot);
}

/* No reference is left: no vCPU, no guest_memfd file, no call is left. */
static void vm_destroy(struct quire_vm *vm)
{
	const struct quire_host_ops *host = vm->host;
	void *host_ctx = vm->host_ctx;

	CHECK(!vm->vcpus && !vm->flush.members);
	CHECK(!vm->invalidation.in_progress && !vm->pfn_caches.active_elsewhere);
	change_zap_all(vm);
	CHECK(!vm->leaves[QUIRE_LEVEL_4K] && !vm->leaves[QUIRE_LEVEL_2M]);
	CHECK(!vm->leaves[QUIRE_LEVEL_1G] && !vm->nx.oldest);
	shadow_destroy(vm);
	memslots_destroy(vm, free_slot);
	range_map_destroy(&vm->attributes, vm->host, vm->host_ctx);
	rmp_leave(vm, vm->rmp);
	arena_destroy(&vm->arena);
	host->free(host_ctx, vm, sizeof(*vm));
}

void quire_vm_put(struct quire_vm *vm)
{
	CHECK(atomic_load_relaxed_u32(&vm->refs));
	mmu_assert_free(vm);
	if (atomic_fetch_sub_u32(&vm->refs, 1) == 1)
		vm_destroy(vm);
}
