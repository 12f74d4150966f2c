/* Dirty logging of nested guests: beside each step on the TDP tables, one on the shadow tables. */
#ifndef QUIRE_CHANGE_NESTED_H
#define QUIRE_CHANGE_NESTED_H

#include "src/dirty/span.h"
#include "src/shadow/shadow.h"
#include "src/tdp/tdp.h"

/* --- slots_lock --- */

/* All take mmu_lock, in holds that do not grow with the range; nothing happens while there is no
 * nested guest. */

/* Split what maps the range, as far as memory and the quota go. */
void change_nested_split(struct quire_vm *vm, u32 as_id, gfn_t start, gfn_t end)
    REQUIRES(&vm->slots_lock);
/* Take W from what maps the range, or the gfns that @span names. */
void change_nested_protect(struct quire_vm *vm, u32 as_id, gfn_t start, gfn_t end,
			   struct flush_debt *debt) REQUIRES(&vm->slots_lock);
void change_nested_protect_span(struct quire_vm *vm, const struct log_span *span,
				struct flush_debt *debt) REQUIRES(&vm->slots_lock);
/* The range does not log any more: what can be larger is so at the next fault, the rest stays. */
void change_nested_recover(struct quire_vm *vm, struct shadow_recovery *recovery)
    REQUIRES(&vm->slots_lock);

#endif
