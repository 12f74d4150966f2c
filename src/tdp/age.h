/* Aging of the TDP tables. */
#ifndef QUIRE_TDP_AGE_H
#define QUIRE_TDP_AGE_H

#include "src/tdp/tdp.h"

struct tdp_age_range {
	u32 as_id;
	gfn_t start, end;
	enum quire_age kind;
};

/* --- mmu_lock exclusive, or a read section --- */

/*
 * Nonzero: some leaf of @range is young. Entries change by
 * compare-exchange, and a table that is unlinked meanwhile stays until the section ends. A
 * harvest that writes plainly (tdp_protect_entries()) may put
 * back what was taken here: a page then looks used once too often.
 */
must_check int tdp_age_range(struct quire_vm *vm, const struct tdp_age_range *range);

#endif
