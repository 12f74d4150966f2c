/* The hypervisor's own reads and writes of guest memory. */
#include <errno.h>

#include "src/base/reclaim.h"
#include "src/dirty/bitmap.h"
#include "src/vm/vcpu.h"

/* Where one page of an access is; the shared view, through the client's address. */
struct place {
	hva_t hva;
	u64 generation;
};

enum direction { ACCESS_READ, ACCESS_WRITE };

static int find_place(const struct quire_vm *vm, u32 as_id, gpa_t gpa, enum direction direction,
		      struct place *place)
{
	const struct memslot *slot;
	int ret = -EFAULT;

	reclaim_enter();
	place->generation = memslots_generation(vm, as_id);
	slot = memslot_lookup(vm, as_id, gfn_of(gpa), NULL);
	if (slot && !(slot->flags & MEMSLOT_INVALID) &&
	    !(direction == ACCESS_WRITE && (slot->flags & QUIRE_SLOT_READONLY))) {
		place->hva.v = memslot_hva(slot, gfn_of(gpa)).v + (gpa.v & ~QUIRE_PAGE_MASK);
		ret = 0;
	}
	reclaim_exit();
	return ret;
}

/* After the copy: the log hears of it; the slot may have been replaced, then its log is new. */
static void mark_written(const struct quire_vm *vm, u32 as_id, gfn_t gfn)
{
	const struct memslot *slot;

	reclaim_enter();
	slot = memslot_lookup(vm, as_id, gfn, NULL);
	if (slot)
		dirty_mark(slot, gfn);
	reclaim_exit();
}

static u64 page_part(gpa_t gpa, u64 size_bytes)
{
	return min_u64(size_bytes, QUIRE_PAGE_SIZE - (gpa.v & ~QUIRE_PAGE_MASK));
}

static int access_read(struct quire_vm *vm, u32 as_id, gpa_t gpa, u8 *dst, u64 size_bytes)
{
	while (size_bytes) {
		u64 part = page_part(gpa, size_bytes);
		struct place place;
		int err = find_place(vm, as_id, gpa, ACCESS_READ, &place);

		if (!err)
			err = vm->host->copy_from(vm->host_ctx, dst, place.hva, part);
		if (err)
			return err;
		dst += part;
		gpa.v += part;
		size_bytes -= part;
	}
	return 0;
}

static int access_write(struct quire_vm *vm, u32 as_id, gpa_t gpa, const u8 *src, u64 size_bytes)
{
	while (size_bytes) {
		u64 part = page_part(gpa, size_bytes);
		struct place place;
		int err = find_place(vm, as_id, gpa, ACCESS_WRITE, &place);

		if (!err)
			err = vm->host->copy_to(vm->host_ctx, place.hva, src, part);
		if (err)
			return err;
		mark_written(vm, as_id, gfn_of(gpa));
		src += part;
		gpa.v += part;
		size_bytes -= part;
	}
	return 0;
}

int quire_vcpu_read(struct quire_vcpu *vcpu, gpa_t gpa, void *dst, size_t size_bytes)
{
	return access_read(vcpu->vm, vcpu->as_id, gpa, dst, size_bytes);
}

int quire_vcpu_write(struct quire_vcpu *vcpu, gpa_t gpa, const void *src, size_t size_bytes)
{
	return access_write(vcpu->vm, vcpu->as_id, gpa, src, size_bytes);
}

int quire_vm_read(struct quire_vm *vm, gpa_t gpa, void *dst, size_t size_bytes)
{
	return access_read(vm, 0, gpa, dst, size_bytes);
}

int quire_vm_write(struct quire_vm *vm, gpa_t gpa, const void *src, size_t size_bytes)
{
	return access_write(vm, 0, gpa, src, size_bytes);
}
