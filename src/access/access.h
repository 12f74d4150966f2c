/* What every write of the hypervisor's own ends with. */
#ifndef QUIRE_ACCESS_ACCESS_H
#define QUIRE_ACCESS_ACCESS_H

#include "src/vm/vcpu.h"

/*
 * @vcpu has written @size_bytes at @gpa, within one page: the log hears of it, and what shadows
 * that goes. After the copy, no lock held; may take mmu_lock.
 */
void access_written(struct quire_vcpu *vcpu, u32 as_id, gpa_t gpa, u64 size_bytes);

#endif
