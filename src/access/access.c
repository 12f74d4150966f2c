/* The hypervisor's own reads and writes of guest memory. */
#include "src/access/access.h"

#include <errno.h>

#include "src/base/mutant.h"
#include "src/base/reclaim.h"
#include "src/gfn/log.h"
#include "src/gfn/track.h"
#include "src/vm/locks.h"

int access_hva(const struct accessor *by, gpa_t gpa, enum access_kind kind, hva_t *hva)
{
	const struct memslot *slot;
	int ret = -EFAULT;

	locks_assert_none();
	reclaim_enter();
	slot = memslot_lookup(by->vm, by->as_id, gfn_of(gpa), NULL);
	if (slot && !(slot->flags & MEMSLOT_INVALID) &&
	    !(kind == ACCESS_STORE && (slot->flags & QUIRE_SLOT_READONLY))) {
		hva->v = memslot_hva(slot, gfn_of(gpa)).v + (gpa.v & ~QUIRE_PAGE_MASK);
		ret = 0;
		/* A write for no vCPU has no ring to be told in. */
		if (kind == ACCESS_STORE && !by->vcpu && !slot->dirty &&
		    (slot->flags & QUIRE_SLOT_LOG_DIRTY))
			ret = -ENXIO;
	}
	reclaim_leave();
	return ret;
}

void access_written(struct quire_vcpu *vcpu, u32 as_id, gpa_t gpa, u64 size_bytes)
{
	locks_assert_none();
	if (!size_bytes)
		return;
	dirty_log_mark_own(vcpu->vm, vcpu, as_id, gfn_of(gpa));
	gfn_track_written(vcpu->vm, as_id, gpa, size_bytes);
}

static u64 page_part(gpa_t gpa, u64 size_bytes)
{
	return min_u64(size_bytes, QUIRE_PAGE_SIZE - (gpa.v & ~QUIRE_PAGE_MASK));
}

static int read_part(const struct accessor *by, gpa_t gpa, u8 *dst, u64 size_bytes)
{
	u32 section = long_section_enter(&by->vm->accesses);
	hva_t hva;
	int err = access_hva(by, gpa, ACCESS_LOAD, &hva);

	if (!err)
		err = by->vm->host->copy_from(by->vm->host_ctx, dst, hva, size_bytes);
	long_section_leave(&by->vm->accesses, section);
	return err;
}

static int access_read(const struct accessor *by, gpa_t gpa, u8 *dst, u64 size_bytes)
{
	while (size_bytes) {
		u64 part = page_part(gpa, size_bytes);
		int err = read_part(by, gpa, dst, part);

		if (err)
			return err;
		dst += part;
		gpa.v += part;
		size_bytes -= part;
	}
	return 0;
}

/* The copy and its mark in one section, so that the mark goes to the slot that was written. */
static int write_part(const struct accessor *by, gpa_t gpa, const u8 *src, u64 size_bytes)
{
	u32 section = long_section_enter(&by->vm->accesses);
	hva_t hva;
	int err = access_hva(by, gpa, ACCESS_STORE, &hva);

	if (!err && by->vcpu && !dirty_log_takes_own(by->vcpu))
		err = -ENOSPC;
	if (!err && MUTANT(own_marks_first))
		dirty_log_mark_own(by->vm, by->vcpu, by->as_id, gfn_of(gpa));
	if (!err)
		err = by->vm->host->copy_to(by->vm->host_ctx, hva, src, size_bytes);
	if (!err && !MUTANT(own_marks_first))
		dirty_log_mark_own(by->vm, by->vcpu, by->as_id, gfn_of(gpa));
	long_section_leave(&by->vm->accesses, section);
	return err;
}

static int access_write(const struct accessor *by, gpa_t gpa, const u8 *src, u64 size_bytes)
{
	while (size_bytes) {
		u64 part = page_part(gpa, size_bytes);
		int err = write_part(by, gpa, src, part);

		if (err)
			return err;
		gfn_track_written(by->vm, by->as_id, gpa, part);
		src += part;
		gpa.v += part;
		size_bytes -= part;
	}
	return 0;
}

int quire_vcpu_read(struct quire_vcpu *vcpu, gpa_t gpa, void *dst, size_t size_bytes)
{
	if (!dst && size_bytes)
		return -EINVAL;
	return access_read(&(struct accessor){vcpu->vm, vcpu, vcpu->as_id}, gpa, dst, size_bytes);
}

int quire_vcpu_write(struct quire_vcpu *vcpu, gpa_t gpa, const void *src, size_t size_bytes)
{
	if (!src && size_bytes)
		return -EINVAL;
	return access_write(&(struct accessor){vcpu->vm, vcpu, vcpu->as_id}, gpa, src, size_bytes);
}

int quire_vm_read(struct quire_vm *vm, gpa_t gpa, void *dst, size_t size_bytes)
{
	if (!dst && size_bytes)
		return -EINVAL;
	return access_read(&(struct accessor){vm, NULL, 0}, gpa, dst, size_bytes);
}

int quire_vm_write(struct quire_vm *vm, gpa_t gpa, const void *src, size_t size_bytes)
{
	if (!src && size_bytes)
		return -EINVAL;
	return access_write(&(struct accessor){vm, NULL, 0}, gpa, src, size_bytes);
}
