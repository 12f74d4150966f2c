/* Known bugs that a test build can switch on, one at a time, to see that the tests catch them, and
 * fast paths that it can switch off. */
#ifndef QUIRE_BASE_MUTANT_H
#define QUIRE_BASE_MUTANT_H

#include "src/base/types.h"

/*
 * MUTANT(name) is nonzero where the bug of that name is on; in all but the mutant build it is the
 * constant 0. tests/sim/mutants.c runs the pairs against each of QUIRE_MUTANT_LIST,
 * QUIRE_AGE_MUTANT_LIST and QUIRE_BREAK_MUTANT_LIST, tests/unit/shadow/mutants.c its tests against
 * each of QUIRE_SHADOW_MUTANT_LIST, tests/sim/sim_mutants.c simulations against each of
 * QUIRE_SIM_MUTANT_LIST. Each fails when one survives.
 */
#define QUIRE_MUTANT_LIST(X)                                                                \
	X(sequence_unchecked, "a fault installs although an invalidation came and went")    \
	X(progress_unchecked, "a fault installs inside an invalidation")                    \
	X(generation_unchecked, "a fault installs through a slot that was replaced")        \
	X(hint_unchecked, "a fault trusts what it remembers of a slot that was replaced")   \
	X(root_unchecked, "a fault installs into a root that is no longer valid")           \
	X(gone_slot_believed, "a fault reports memory as lost that went with its slot")     \
	X(hole_counted, "a prefault reports a hole as large as it is")                      \
	X(block_unchecked, "a huge mapping covers a neighbour that is being changed")       \
	X(privacy_unchecked, "a fault maps what the attribute was before it began to look") \
	X(invalid_slot_used, "a slot that is being deleted serves faults")                  \
	X(host_unflushed, "a host invalidation returns before the TLBs are flushed")        \
	X(host_unbalanced, "the slots change between begin and end of a host invalidation") \
	X(punch_unflushed, "guest_memfd frees a page before the TLBs are flushed")          \
	X(punch_unended, "a punch does not end its invalidation")                           \
	X(page_unzeroed, "a fresh page of guest_memfd shows what was there before")         \
	X(claim_unchecked, "a late lookup of guest_memfd claims a page that it lost")       \
	X(loss_asked_early, "a page is lost that a punch made anew at the lost frame")      \
	X(slot_unflushed, "a slot is deleted before the TLBs are flushed")                  \
	X(access_unwaited, "a slot goes while the library still writes to its memory")      \
	X(section_waits_once, "a waiter for sections misses one that was slow to begin")    \
	X(flush_unwaited, "a flush does not wait for vCPUs in guest mode")                  \
	X(reload_ignored, "guest mode is entered with a root that was invalidated")         \
	X(roots_left_late,                                                                  \
	  "all roots go, and the next to take memory away comes before vCPUs left them")    \
	X(reload_unflushed, "a new root is used with the translations of the old")          \
	X(grace_skipped, "tables are freed while a thread still walks them")                \
	X(zap_spares_huge, "a zap leaves the huge leaf that its range cuts")                \
	X(mmio_generation_unchecked, "an MMIO entry outlives the slots it was made for")    \
	X(fast_marks_first, "the fast path marks the page before it gives W")               \
	X(harvest_unflushed, "a harvest returns before the TLBs are flushed")               \
	X(harvest_unarmed, "a harvest leaves W to the pages it names")                      \
	X(ring_unarmed, "a reset of rings leaves W to the pages it takes")                  \
	X(ring_unflushed, "a reset of rings returns before the TLBs are flushed")           \
	X(log_start_unflushed, "logging starts before the TLBs are flushed")                \
	X(clear_takes_words, "CLEAR takes bits that it was not told to")                    \
	X(ring_drops_batch, "an interrupted reset of rings forgets what it has taken")      \
	X(log_start_unprotected, "pages that are writable when logging starts stay so")     \
	X(log_start_huge, "a huge leaf is installed in a slot that logs")                   \
	X(recover_unchecked, "a huge leaf comes back over a page that is being changed")    \
	X(cache_unchecked, "a pfn cache shows a page that was replaced during its lookup")  \
	X(own_marks_first, "the library's own write is logged before it is done")           \
	X(own_joins_reset, "the library's own write joins a ring entry that is reset")      \
	X(own_mark_unlocked, "the library marks its own write while a harvest is alone")    \
	X(shadow_unflushed, "shadow pages are freed before the TLBs are flushed")           \
	X(quota_unchecked, "the limit on shadow pages is set and nothing goes")             \
	X(line_unlocked, "a vCPU goes while a writer waits for its lock line")              \
	X(fill_early, "a lookup finds a private page before it is filled")                  \
	X(punch_one_file, "a punch takes a page from one VM's file and from no other")      \
	X(link_unfreed, "a second file is made, and the pages stay the first VM's")         \
	X(file_unheld, "a guest_memfd goes on without its VM")                              \
	X(alone_unarmed, "with guest mode closed nothing is armed")                         \
	X(alone_unflushed, "what is armed with guest mode closed owes no flush")            \
	X(shared_unarmed, "under a guest that runs nothing is armed")                       \
	X(shared_unflushed, "what is armed under a guest that runs owes no flush")          \
	X(huge_unarmed, "a huge leaf keeps W when its pages are armed")                     \
	X(huge_unflushed, "a huge leaf that is armed owes no flush")                        \
	X(unfound_unarmed, "pages that had no table at the first look are not armed")       \
	X(split_writable, "the pieces of a huge leaf without W get it")                     \
	X(recover_unflushed, "split tables are freed before the TLBs are flushed")          \
	X(attributes_unflushed, "attributes change and the TLBs are not flushed")           \
	X(attributes_late, "an attribute change flushes after it has dropped mmu_lock")     \
	X(attributes_end_first, "an invalidation ends before the attributes change")        \
	X(convert_unhidden, "a page becomes private, and the client goes on seeing it")     \
	X(reshape_narrow, "a huge page moves while guests have others of its pages")        \
	X(pins_unseen, "a page becomes private that a vCPU has in its hands")               \
	X(slots_unsynced, "a slot is freed while a reader has it")                          \
	X(host_late, "a host invalidation flushes after it has dropped mmu_lock")           \
	X(punch_late, "a punch flushes after it has dropped mmu_lock")                      \
	X(slot_late, "a slot's deletion flushes after it has dropped mmu_lock")             \
	X(nx_unflushed, "NX recovery takes small pages away and flushes no TLB")            \
	X(nx_late, "NX recovery flushes after it has dropped mmu_lock")                     \
	X(cache_end_first, "an invalidation is over before the pfn caches know that it was")

/* Those of tables without A bits: tests/sim/mutants.c runs the suite with such tables. */
#define QUIRE_AGE_MUTANT_LIST(X)                                                        \
	X(age_blind, "aging stores an entry over what came there meanwhile")            \
	X(aged_unflushed, "a harvest finds no W, which aging took, and flushes no TLB") \
	X(restore_forgets_x, "the fast path gives R and W back to an old leaf and no X")

/* That of formats that break before they make: tests/sim/mutants.c runs the suite with such tables.
 */
#define QUIRE_BREAK_MUTANT_LIST(X)                                                           \
	X(break_unflushed, "a huge leaf turns into a table, or back, and no TLB is flushed " \
			   "between")

/* Those of the shadow MMU, which tests/unit/shadow/mutants.c catches. */
#define QUIRE_SHADOW_MUTANT_LIST(X)                                                            \
	X(root_unsynced, "L2 is entered without comparing the pages that lag")                 \
	X(link_unsynced, "a page that lags is used through an entry that is new")              \
	X(unsync_unmarked, "L1 writes its table and the shadow page is not marked")            \
	X(sync_keeps_turn, "a fault that walked L1's table before a sync installs after")      \
	X(rmap_unlocked, "aging goes through a set of entries that changes")                   \
	X(sync_unflushed, "a page is synced while a vCPU can still write its table")           \
	X(nested_start_unprotected, "logging starts, and L2 goes on writing")                  \
	X(nested_unarmed, "a harvest leaves W to L2")                                          \
	X(nested_huge_unprotected, "a huge mapping of L2's keeps W when logging starts")       \
	X(nested_split_writable, "the pieces of L2's huge mapping get W")                      \
	X(piece_unflushed, "mmu_lock is dropped within a zap that has not flushed")            \
	X(nested_recover_unflushed, "L2's split tables are freed before the TLBs are flushed") \
	X(group_unchecked, "a neighbour is mapped as L1's table was before it changed")        \
	X(neighbour_unchecked, "a neighbour is mapped whose page has gone meanwhile")

/* Those that quire-sim's simulations must catch: tests/sim/sim_mutants.c. */
#define QUIRE_SIM_MUTANT_LIST(X)                                                         \
	X(convert_unzeroed, "what a conversion was to zero is kept")                     \
	X(convert_zeroes, "what a conversion was to keep is zeroed")                     \
	X(convert_zeroes_first, "pages are zeroed while guests can write them")          \
	X(convert_end_first, "an invalidation ends before a page is converted in place") \
	X(map_unkept, "a page in a vCPU's hands has no reference")                       \
	X(map_unmarked, "what is written to a page in hand is in no log")                \
	X(nowait_waits, "a fault waits for a page that it was to leave to the host")     \
	X(noexec_unseen, "a leaf lets the guest execute what the host does not")         \
	X(noread_unseen, "a leaf lets the guest read what it may only execute")

/*
 * Fast paths that a test build can do without, one at a time. Such a build has no bug: nothing but
 * time and statistics may change, so the pairs, the simulations and the rules pass with each.
 */
#define QUIRE_SLOW_LIST(X)                                                           \
	X(fast_fault_off, "every fault looks up its page and takes mmu_lock for it") \
	X(hint_off, "every fault looks up its slot, whatever the vCPU remembers")    \
	X(biglock_plain, "readers of a big lock come one after the other, as its writers")

/* The same of the process's host port, which the simulated host has no part in. */
#define QUIRE_HOST_SLOW_LIST(X) \
	X(ahead_off, "a guest_memfd's pages are made one by one, when they are needed")

enum quire_mutant {
	MUTANT_NONE,
#define MUTANT_ID(name, what) MUTANT_##name,
	QUIRE_MUTANT_LIST(MUTANT_ID) QUIRE_AGE_MUTANT_LIST(MUTANT_ID)
	    QUIRE_BREAK_MUTANT_LIST(MUTANT_ID) QUIRE_SHADOW_MUTANT_LIST(MUTANT_ID)
		QUIRE_SIM_MUTANT_LIST(MUTANT_ID) QUIRE_SLOW_LIST(MUTANT_ID)
		    QUIRE_HOST_SLOW_LIST(MUTANT_ID)
#undef MUTANT_ID
};

#ifdef QUIRE_MUTANTS
extern enum quire_mutant quire_mutant; /* the test's */
#define MUTANT(name) (quire_mutant == MUTANT_##name)
#else
#define MUTANT(name) 0
#endif

#endif
