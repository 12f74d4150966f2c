/* The hypervisor's own reads and writes of guest memory. */
#include "src/access/access.h"

#include <errno.h>

#include "src/base/mutant.h"
#include "src/base/reclaim.h"
#include "src/dirty/log.h"
#include "src/gfn/track.h"

/* Whose access it is. */
struct accessor {
	struct quire_vm *vm;
	struct quire_vcpu *vcpu; /* NULL: the VM's own */
	u32 as_id;
};

enum direction { ACCESS_READ, ACCESS_WRITE };

static int find_place(const struct accessor *by, gpa_t gpa, enum direction direction, hva_t *hva)
{
	const struct memslot *slot;
	int ret = -EFAULT;

	reclaim_enter();
	slot = memslot_lookup(by->vm, by->as_id, gfn_of(gpa), NULL);
	if (slot && !(slot->flags & MEMSLOT_INVALID) &&
	    !(direction == ACCESS_WRITE && (slot->flags & QUIRE_SLOT_READONLY))) {
		hva->v = memslot_hva(slot, gfn_of(gpa)).v + (gpa.v & ~QUIRE_PAGE_MASK);
		ret = 0;
		/* Nobody's write has no ring to be told in. */
		if (direction == ACCESS_WRITE && !by->vcpu && !slot->dirty &&
		    (slot->flags & QUIRE_SLOT_LOG_DIRTY))
			ret = -ENXIO;
	}
	reclaim_exit();
	return ret;
}

/* After the copy: the log hears of it; the slot may have been replaced, then its log is new. */
static void mark_written(const struct accessor *by, gfn_t gfn)
{
	const struct memslot *slot;

	reclaim_enter();
	slot = memslot_lookup(by->vm, by->as_id, gfn, NULL);
	if (slot)
		dirty_log_mark_own(by->vcpu, slot, gfn);
	reclaim_exit();
}

void access_written(struct quire_vcpu *vcpu, u32 as_id, gpa_t gpa, u64 size_bytes)
{
	mark_written(&(struct accessor){vcpu->vm, vcpu, as_id}, gfn_of(gpa));
	gfn_track_written(vcpu->vm, as_id, gpa, size_bytes);
}

static u64 page_part(gpa_t gpa, u64 size_bytes)
{
	return min_u64(size_bytes, QUIRE_PAGE_SIZE - (gpa.v & ~QUIRE_PAGE_MASK));
}

static int access_read(const struct accessor *by, gpa_t gpa, u8 *dst, u64 size_bytes)
{
	while (size_bytes) {
		u64 part = page_part(gpa, size_bytes);
		hva_t hva;
		int err = find_place(by, gpa, ACCESS_READ, &hva);

		if (!err)
			err = by->vm->host->copy_from(by->vm->host_ctx, dst, hva, part);
		if (err)
			return err;
		dst += part;
		gpa.v += part;
		size_bytes -= part;
	}
	return 0;
}

static int access_write(const struct accessor *by, gpa_t gpa, const u8 *src, u64 size_bytes)
{
	while (size_bytes) {
		u64 part = page_part(gpa, size_bytes);
		hva_t hva;
		int err = find_place(by, gpa, ACCESS_WRITE, &hva);

		if (!err && by->vcpu && !dirty_ring_takes_own(by->vcpu))
			err = -ENOSPC;
		if (!err && MUTANT(own_marks_first))
			mark_written(by, gfn_of(gpa));
		if (!err)
			err = by->vm->host->copy_to(by->vm->host_ctx, hva, src, part);
		if (err)
			return err;
		if (!MUTANT(own_marks_first))
			mark_written(by, gfn_of(gpa));
		gfn_track_written(by->vm, by->as_id, gpa, part);
		src += part;
		gpa.v += part;
		size_bytes -= part;
	}
	return 0;
}

int quire_vcpu_read(struct quire_vcpu *vcpu, gpa_t gpa, void *dst, size_t size_bytes)
{
	return access_read(&(struct accessor){vcpu->vm, vcpu, vcpu->as_id}, gpa, dst, size_bytes);
}

int quire_vcpu_write(struct quire_vcpu *vcpu, gpa_t gpa, const void *src, size_t size_bytes)
{
	return access_write(&(struct accessor){vcpu->vm, vcpu, vcpu->as_id}, gpa, src, size_bytes);
}

int quire_vm_read(struct quire_vm *vm, gpa_t gpa, void *dst, size_t size_bytes)
{
	return access_read(&(struct accessor){vm, NULL, 0}, gpa, dst, size_bytes);
}

int quire_vm_write(struct quire_vm *vm, gpa_t gpa, const void *src, size_t size_bytes)
{
	return access_write(&(struct accessor){vm, NULL, 0}, gpa, src, size_bytes);
}
