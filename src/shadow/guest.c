/* Walking the guest's tables in its memory, as the processor would. */

#include "src/base/assert.h"
#include "src/base/reclaim.h"
#include "src/base/trace.h"
#include "src/entry/guest.h"
#include "src/gfn/log.h"
#include "src/shadow/internal.h"
#include "src/vm/locks.h"
#include "src/walk/range.h"

/* Where one entry of L1's tables is. */
struct entry_at {
	hva_t hva;
	gfn_t gfn;
	bool writable;
};

/* Among the vCPU's own copies of the slot that a fault found last: no read section, as there. */
static bool entry_of_hint(const struct quire_vcpu *vcpu, struct entry_at *at, u64 offset_bytes)
{
	const struct memslot_hint *hint = &vcpu->hint;

	if (!memslot_hint_holds(&vcpu->vm->slots, vcpu->as_id, hint, at->gfn) ||
	    (hint->flags & MEMSLOT_INVALID))
		return false;
	at->hva.v = memslot_hint_hva(hint, at->gfn).v + offset_bytes;
	at->writable = !(hint->flags & QUIRE_SLOT_READONLY);
	return true;
}

/* QUIRE_FIXED, QUIRE_RETRY, or 0: there is no memory. */
static int find_entry(const struct quire_vcpu *vcpu, gpa_t gpa, struct entry_at *at)
{
	u64 offset_bytes = gpa.v & ~QUIRE_PAGE_MASK;
	const struct memslot *slot;
	int ret = 0;

	at->gfn = gfn_of(gpa);
	if (likely(entry_of_hint(vcpu, at, offset_bytes)))
		return QUIRE_FIXED;
	reclaim_enter();
	slot = memslot_lookup(vcpu->vm, vcpu->as_id, at->gfn, NULL);
	if (slot && (slot->flags & MEMSLOT_INVALID)) {
		ret = QUIRE_RETRY;
	} else if (slot) {
		at->hva.v = memslot_hva(slot, at->gfn).v + offset_bytes;
		at->writable = !(slot->flags & QUIRE_SLOT_READONLY);
		ret = QUIRE_FIXED;
	}
	reclaim_leave();
	return ret;
}

static inline void trace_marks(const struct entry_at *at, u64 marks)
{
	u64 gpa = gpa_of(at->gfn).v | (at->hva.v & ~QUIRE_PAGE_MASK);

	if (marks & GUEST_A)
		QUIRE_TRACE(kvm_mmu_set_accessed_bit, gpa);
	if (marks & GUEST_D)
		QUIRE_TRACE(kvm_mmu_set_dirty_bit, gpa);
}

/* Is the entry still where it was found? */
static bool is_still_at(const struct quire_vcpu *vcpu, const struct entry_at *at)
{
	gpa_t gpa = {gpa_of(at->gfn).v | (at->hva.v & ~QUIRE_PAGE_MASK)};
	struct entry_at now;

	return find_entry(vcpu, gpa, &now) == QUIRE_FIXED && now.hva.v == at->hva.v && now.writable;
}

/* The word of the host's around an entry of L1's, and where the entry is in it. */
#define HALF_BITS 32u

static bool has_4_bytes(const struct quire_vcpu *vcpu)
{
	return vcpu->nested.tables.levels == 2;
}

static u32 shift_in_word(hva_t hva)
{
	return hva.v & sizeof(u32) ? HALF_BITS : 0;
}

static hva_t word_around(hva_t hva)
{
	return (hva_t){hva.v & ~(u64)(sizeof(u64) - 1)};
}

static int load_entry(const struct quire_vcpu *vcpu, hva_t hva, u64 *entry)
{
	const struct quire_vm *vm = vcpu->vm;
	int err;

	if (likely(!has_4_bytes(vcpu)))
		return vm->host->load_u64(vm->host_ctx, hva, entry);
	err = vm->host->load_u64(vm->host_ctx, word_around(hva), entry);
	*entry = (u32)(*entry >> shift_in_word(hva));
	return err;
}

/*
 * cmpxchg_u64() of 4 bytes: one that changes beside it is no reason to look again. A processor that
 * stores there without end must not keep this thread in its section, for which a change of slots
 * waits: QUIRE_RETRY after so many attempts.
 */
#define MARK_ATTEMPTS 16u

static int mark_half(struct quire_vcpu *vcpu, hva_t hva, u64 *expected, u64 marks)
{
	const struct quire_vm *vm = vcpu->vm;
	u32 shift = shift_in_word(hva);
	u64 word, seen;
	int err = vm->host->load_u64(vm->host_ctx, word_around(hva), &word);

	for (u32 tries = 0; !err && (u32)(word >> shift) == *expected; tries++) {
		if (tries == MARK_ATTEMPTS)
			return QUIRE_RETRY;
		seen = word;
		err = vm->host->cmpxchg_u64(vm->host_ctx, word_around(hva), &seen,
					    word | marks << shift);
		if (!err && seen == word)
			return 0;
		word = seen;
	}
	*expected = (u32)(word >> shift);
	return err;
}

/* The memory must still be the slot's: a change of slots waits for the section. */
static int write_marks(struct quire_vcpu *vcpu, const struct entry_at *at, u64 entry, u64 marks)
{
	const struct quire_vm *vm = vcpu->vm;
	u32 section = long_section_enter(&vcpu->vm->accesses);
	int ret = QUIRE_RETRY;
	u64 seen = entry;

	if (is_still_at(vcpu, at)) {
		if (unlikely(has_4_bytes(vcpu)))
			ret = mark_half(vcpu, at->hva, &seen, marks);
		else
			ret = vm->host->cmpxchg_u64(vm->host_ctx, at->hva, &seen, entry | marks);
		if (!ret)
			ret = seen == entry ? QUIRE_FIXED : QUIRE_RETRY;
	}
	if (ret == QUIRE_FIXED)
		dirty_log_mark_own(vcpu->vm, vcpu, vcpu->as_id, at->gfn);
	long_section_leave(&vcpu->vm->accesses, section);
	return ret;
}

/* Set @marks in L1's entry. QUIRE_RETRY: it was changed meanwhile. */
static int mark_entry(struct quire_vcpu *vcpu, const struct entry_at *at, u64 entry, u64 marks)
{
	/* Tables in ROM have the bits set, or do without. */
	if ((entry & marks) == marks || !at->writable)
		return QUIRE_FIXED;
	trace_marks(at, marks & ~entry);
	return write_marks(vcpu, at, entry, marks);
}

static int refuse_walk(const struct quire_vcpu *vcpu, struct shadow_walk *walk, u64 why)
{
	const struct quire_nested *tables = &vcpu->nested.tables;
	u64 kept = QUIRE_PFERR_WRITE | QUIRE_PFERR_FETCH;

	/* Without NX a fetch is a read like any other, but for SMEP. */
	if (!tables->nx && !tables->smep)
		kept &= ~(u64)QUIRE_PFERR_FETCH;
	if (tables->paging) {
		kept |= QUIRE_PFERR_USER;
	} else {
		/* Every access to nested tables is a user's. */
		why |= QUIRE_PFERR_USER;
		kept |= QUIRE_PFERR_GUEST_FINAL | QUIRE_PFERR_GUEST_PAGE;
	}
	walk->refused = (walk->error_code & kept) | why;
	QUIRE_TRACE(kvm_mmu_walker_error, walk->refused);
	return QUIRE_NESTED_FAULT;
}

static u32 entry_access(u64 entry)
{
	u32 access = ACCESS_READ | (entry & GUEST_NX ? 0 : ACCESS_EXEC);

	if (entry & GUEST_W)
		access |= ACCESS_WRITE;
	if (entry & GUEST_U)
		access |= ACCESS_USER;
	return access;
}

static bool permits_nested(u32 access, u64 error_code)
{
	if (!(access & ACCESS_USER))
		return false;
	if ((error_code & QUIRE_PFERR_WRITE) && !(access & ACCESS_WRITE))
		return false;
	return !(error_code & QUIRE_PFERR_FETCH) || (access & ACCESS_EXEC);
}

static bool permits_supervisor(const struct quire_nested *tables, u32 access, u64 error_code)
{
	if (error_code & QUIRE_PFERR_FETCH)
		return (access & ACCESS_EXEC) && !((access & ACCESS_USER) && tables->smep);
	if ((error_code & QUIRE_PFERR_SMAP) && (access & ACCESS_USER))
		return false;
	return !(error_code & QUIRE_PFERR_WRITE) || (access & ACCESS_WRITE) || !tables->wp;
}

static bool path_permits(const struct quire_vcpu *vcpu, u32 access, u64 error_code)
{
	const struct quire_nested *tables = &vcpu->nested.tables;

	if (tables->paging && !(error_code & QUIRE_PFERR_USER))
		return permits_supervisor(tables, access, error_code);
	return permits_nested(access, error_code);
}

/*
 * A supervisor's write where only CR0.WP allows it: the page becomes one of the supervisor's alone,
 * which must not be executed where SMEP keeps user pages from that. SMAP has no such way out.
 */
static void ignore_write_protection(const struct quire_vcpu *vcpu, struct shadow_walk *walk)
{
	const struct quire_nested *tables = &vcpu->nested.tables;

	if (!tables->paging || !(walk->error_code & QUIRE_PFERR_WRITE) ||
	    (walk->leaf_access & ACCESS_WRITE))
		return;
	walk->by_hand = tables->smap && (walk->leaf_access & ACCESS_USER);
	if (tables->smep && (walk->leaf_access & ACCESS_USER))
		walk->leaf_access &= ~ACCESS_EXEC;
	walk->leaf_access = (walk->leaf_access | ACCESS_WRITE) & ~ACCESS_USER;
}

/* Where in L1's table entry @index of a shadow page of the lowest level is. */
static u64 leaf_offset(u32 role, u32 index)
{
	if (!(role & ROLE_4_BYTES))
		return index * sizeof(u64);
	return (role_quadrant(role) * QUIRE_TABLE_ENTRIES + index) * sizeof(u32);
}

struct step {
	u64 entry;
	struct entry_at at;
};

/* Read L1's entry for the walked address in its table at @level. */
static int read_step(struct quire_vcpu *vcpu, struct shadow_walk *walk, u32 level,
		     struct step *step)
{
	gpa_t gpa = gpa_of(walk->tables[level]);
	int ret;

	gpa.v += guest_entry_offset(guest_format_of(&vcpu->nested.tables), walk->gpa, level);
	ret = find_entry(vcpu, gpa, &step->at);
	if (ret == QUIRE_RETRY)
		return ret;
	if (!ret || load_entry(vcpu, step->at.hva, &step->entry))
		return refuse_walk(vcpu, walk, 0);
	QUIRE_TRACE(kvm_mmu_paging_element, step->entry, level);
	if (!(step->entry & GUEST_P))
		return refuse_walk(vcpu, walk, 0);
	if (step->entry & guest_reserved_bits(&vcpu->nested.tables, vcpu->vm->config.maxphyaddr,
					      step->entry, level))
		return refuse_walk(vcpu, walk, QUIRE_PFERR_PRESENT | QUIRE_PFERR_RSVD);
	return QUIRE_FIXED;
}

int shadow_read_table(const struct quire_vcpu *vcpu, const struct shadow_key *key,
		      const u64 *wanted, u64 *entries)
{
	struct entry_at at;

	locks_assert_none();
	CHECK(!(key->role & ROLE_4_BYTES) == !has_4_bytes(vcpu));
	if (find_entry(vcpu, gpa_of(key->gfn), &at) != QUIRE_FIXED)
		return 1;
	for (u32 i = 0; i < QUIRE_TABLE_ENTRIES; i++) {
		hva_t hva = {at.hva.v + leaf_offset(key->role, i)};

		if ((wanted[i / 64] >> i % 64 & 1) && load_entry(vcpu, hva, &entries[i]))
			return 1;
	}
	return 0;
}

/* Without A the entry must be walked to be used, and without D to be written through. */
struct shadow_guest_leaf shadow_guest_leaf_of(const struct quire_vcpu *vcpu, u64 entry)
{
	struct shadow_guest_leaf leaf = {.gfn = guest_entry_gfn(entry)};

	if (!(entry & GUEST_P) || !(entry & GUEST_A) ||
	    (entry & guest_reserved_bits(&vcpu->nested.tables, vcpu->vm->config.maxphyaddr, entry,
					 QUIRE_LEVEL_4K)))
		return leaf;
	leaf.access = entry_access(entry);
	if (!(entry & GUEST_D))
		leaf.access &= ~ACCESS_WRITE;
	return leaf;
}

/* The shadow of the guest's table, from entry group->first on. */
static u32 read_indirect(const struct quire_vcpu *vcpu, const struct shadow_group *group,
			 struct shadow_neighbour *neighbours)
{
	u32 filled = 0;
	struct entry_at at;

	if (find_entry(vcpu, gpa_of(group->key.gfn), &at) != QUIRE_FIXED)
		return 0;
	for (u32 i = 0; i < SHADOW_GROUP_PAGES; i++) {
		hva_t hva = {at.hva.v + leaf_offset(group->key.role, group->first + i)};
		struct shadow_guest_leaf leaf;
		u64 entry;

		if (!(group->empty >> i & 1))
			continue;
		if (load_entry(vcpu, hva, &entry))
			break;
		leaf = shadow_guest_leaf_of(vcpu, entry);
		leaf.access &= role_access(group->key.role);
		if (!leaf.access)
			break;
		/* Each access of a nested guest is a user's, and its processor looks at no such bit
		 * in entries of ours. */
		if (!vcpu->nested.tables.paging && !(leaf.access & ACCESS_USER))
			continue;
		neighbours[i] = (struct shadow_neighbour){leaf.gfn, leaf.access};
		filled |= 1u << i;
	}
	return filled;
}

u32 shadow_group_read(const struct quire_vcpu *vcpu, const struct shadow_group *group,
		      struct shadow_neighbour *neighbours)
{
	locks_assert_none();
	if (!(group->key.role & ROLE_DIRECT))
		return read_indirect(vcpu, group, neighbours);
	for (u32 i = 0; i < SHADOW_GROUP_PAGES; i++) {
		neighbours[i].gfn.v = group->key.gfn.v + group->first + i;
		neighbours[i].access = role_access(group->key.role);
	}
	return group->empty;
}

/* The highest table: what CR3 or the loaded directory entry leads to. */
static int walk_top(const struct quire_vcpu *vcpu, struct shadow_walk *walk)
{
	const struct quire_nested *tables = &vcpu->nested.tables;
	u64 root = tables->root.v;

	walk->top = guest_format_of(tables)->top;
	if (tables->levels == 3) {
		root = tables->directories[walk_index(gfn_of(walk->gpa), SHADOW_PAE_LEVEL)];
		QUIRE_TRACE(kvm_mmu_paging_element, root, SHADOW_PAE_LEVEL);
		if (!(root & GUEST_P))
			return refuse_walk(vcpu, walk, 0);
	}
	walk->tables[walk->top] = guest_entry_gfn(root);
	return QUIRE_FIXED;
}

/* Down to the leaf, whose entries are left in @steps. */
static int walk_down(struct quire_vcpu *vcpu, struct shadow_walk *walk, struct step *steps)
{
	u32 access = ACCESS_ALL;

	for (u32 level = walk->top;; level--) {
		u64 entry;
		int ret;

		walk->access[level] = access;
		ret = read_step(vcpu, walk, level, &steps[level]);
		if (ret != QUIRE_FIXED)
			return ret;
		entry = steps[level].entry;
		access &= entry_access(entry);
		if (!guest_entry_is_leaf(&vcpu->nested.tables, entry, level)) {
			walk->tables[level - 1] = guest_entry_gfn(entry);
			continue;
		}
		walk->level = level;
		walk->leaf_access = access;
		walk->gfn =
		    guest_leaf_gfn(guest_format_of(&vcpu->nested.tables), entry, level, walk->gpa);
		return path_permits(vcpu, access, walk->error_code)
			   ? QUIRE_FIXED
			   : refuse_walk(vcpu, walk, QUIRE_PFERR_PRESENT);
	}
}

static int mark_path(struct quire_vcpu *vcpu, const struct shadow_walk *walk,
		     const struct step *steps)
{
	for (u32 level = walk->top; level >= walk->level; level--) {
		u64 marks = GUEST_A;
		int ret;

		if (level == walk->level && (walk->error_code & QUIRE_PFERR_WRITE))
			marks |= GUEST_D;
		ret = mark_entry(vcpu, &steps[level].at, steps[level].entry, marks);
		if (ret != QUIRE_FIXED)
			return ret;
	}
	return QUIRE_FIXED;
}

int shadow_walk_guest(struct quire_vcpu *vcpu, struct shadow_walk *walk)
{
	struct step steps[SHADOW_LEVEL_MAX + 1];
	int ret;

	locks_assert_none();
	QUIRE_TRACE(kvm_mmu_pagetable_walk, walk->gpa.v, walk->error_code);
	if (walk->gpa.v >> guest_format_of(&vcpu->nested.tables)->address_bits)
		return refuse_walk(vcpu, walk, 0);
	walk->write_turn = atomic_load_acquire_u64(&shadow_of(vcpu->vm)->write_turn);
	ret = walk_top(vcpu, walk);
	if (ret == QUIRE_FIXED)
		ret = walk_down(vcpu, walk, steps);
	if (ret == QUIRE_FIXED)
		ret = mark_path(vcpu, walk, steps);
	if (ret != QUIRE_FIXED)
		return ret;
	ignore_write_protection(vcpu, walk);
	/* While D is clear the first write must come here, to set it. */
	if (!(steps[walk->level].entry & GUEST_D) && !(walk->error_code & QUIRE_PFERR_WRITE))
		walk->leaf_access &= ~ACCESS_WRITE;
	return QUIRE_FIXED;
}
