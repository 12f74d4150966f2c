/* What the hypervisor's own reads and writes have in common: where they begin, how they end. */
#ifndef QUIRE_ACCESS_ACCESS_H
#define QUIRE_ACCESS_ACCESS_H

#include "src/vm/vcpu.h"

/* Whose access it is. */
struct accessor {
	struct quire_vm *vm;
	struct quire_vcpu *vcpu; /* NULL: the VM's own */
	u32 as_id;
};

enum access_kind { ACCESS_LOAD, ACCESS_STORE };

/* --- no lock, no read section --- */

/*
 * Where the client has @gpa; stale at once. -EFAULT: no memory, or read-only memory for a store;
 * -ENXIO: a store of the VM's own that no log can tell of.
 */
must_check int access_hva(const struct accessor *by, gpa_t gpa, enum access_kind kind, hva_t *hva);

/*
 * @vcpu has written @size_bytes, which may be 0, at @gpa, within one page: the log hears of it, and
 * what shadows that goes. After the copy; may take mmu_lock.
 */
void access_written(struct quire_vcpu *vcpu, u32 as_id, gpa_t gpa, u64 size_bytes);

#endif
