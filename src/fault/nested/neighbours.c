/* The neighbours of a leaf of the shadow tables, mapped ahead of any access (F-107). */
#include "src/base/mutant.h"
#include "src/base/reclaim.h"
#include "src/fault/fault.h"
#include "src/gmem/privacy.h"
#include "src/shadow/shadow.h"
#include "src/vm/locks.h"

/* What was found of the empty entries of one group: bit i of each bitmap is about entry i. */
struct neighbours {
	const struct shadow_group *group;
	struct shadow_neighbour each[SHADOW_GROUP_PAGES];
	hva_t hva[SHADOW_GROUP_PAGES];
	struct quire_page pages[SHADOW_GROUP_PAGES];
	u64 snapshot;	/* of the invalidation sequence */
	u64 generation; /* of the slots */
	u32 there;	/* a slot shows it, and then: its page is there */
};

/*
 * The client's own memory behind @neighbour, which it may write. A page that gets W without a write
 * would be marked in the log without one.
 */
static bool find_hva(struct quire_vcpu *vcpu, const struct shadow_neighbour *neighbour, hva_t *hva)
{
	const struct quire_vm *vm = vcpu->vm;
	const struct memslot *slot = memslot_lookup(vm, vcpu->as_id, neighbour->gfn, &vcpu->hint);

	if (!slot || (slot->flags & (MEMSLOT_INVALID | MEMSLOT_GMEM_ONLY | QUIRE_SLOT_READONLY)))
		return false;
	if ((slot->flags & QUIRE_SLOT_LOG_DIRTY) && (neighbour->access & ACCESS_WRITE))
		return false;
	if (privacy_get(vm, slot, neighbour->gfn) & QUIRE_ATTRIBUTE_PRIVATE)
		return false;
	*hva = memslot_hva(slot, neighbour->gfn);
	return true;
}

static u32 find_slots(struct quire_vcpu *vcpu, struct neighbours *found, u32 wanted)
{
	u32 with_slot = 0;

	reclaim_enter();
	for (u32 i = 0; i < SHADOW_GROUP_PAGES; i++)
		if ((wanted >> i & 1) && find_hva(vcpu, &found->each[i], &found->hva[i]))
			with_slot |= 1u << i;
	reclaim_leave();
	return with_slot;
}

static void put_pages(const struct quire_vm *vm, const struct neighbours *found, u32 which,
		      enum quire_page_use use)
{
	for (u32 i = 0; i < SHADOW_GROUP_PAGES; i++)
		if ((which >> i & 1) && found->pages[i].refcounted)
			vm->host->page_put(vm->host_ctx, &found->pages[i], use);
}

/* The host is asked once for pages that follow each other there. */
static u32 find_pages(const struct quire_vm *vm, struct neighbours *found, u32 wanted)
{
	u32 there = 0;

	for (u32 i = 0, count; i < SHADOW_GROUP_PAGES; i += count) {
		count = 1;
		if (!(wanted >> i & 1))
			continue;
		while (i + count < SHADOW_GROUP_PAGES && (wanted >> (i + count) & 1) &&
		       found->hva[i + count].v == found->hva[i].v + count * QUIRE_PAGE_SIZE)
			count++;
		there |=
		    (u32)vm->host->pages_there(vm->host_ctx, found->hva[i], count, &found->pages[i])
		    << i;
	}
	for (u32 i = 0; i < SHADOW_GROUP_PAGES; i++)
		if ((there >> i & 1) && !entry_holds_page(&vm->tdp_format, &found->pages[i])) {
			put_pages(vm, found, 1u << i, QUIRE_PAGE_UNUSED);
			there &= ~(1u << i);
		}
	return there;
}

/*
 * As KVM goes on: of a run of @wanted entries it maps the pages before the first that is not there,
 * and it ends where that is the run's first. In a table of the guest's each entry is a run.
 */
static u32 keep_runs(const struct shadow_group *group, u32 wanted, u32 there)
{
	u32 kept = 0, begins = wanted;
	bool ended = false;

	if (group->key.role & ROLE_DIRECT)
		begins &= ~(wanted << 1);
	for (u32 i = 0; i < SHADOW_GROUP_PAGES; i++) {
		u32 bit = 1u << i;

		if (begins & bit)
			ended = false;
		if (!(wanted & bit) || ended)
			continue;
		ended = !(there & bit);
		if (ended && (begins & bit))
			break;
		kept |= there & bit;
	}
	return kept;
}

static bool is_stale(const struct quire_vcpu *vcpu, const struct neighbours *found, gfn_t gfn)
{
	return invalidation_retry(&vcpu->vm->invalidation, found->snapshot, gfn) &&
	       !MUTANT(neighbour_unchecked);
}

/* Map entry @i of the group in @page: nonzero when it was not done. */
static int map_one(struct quire_vcpu *vcpu, const struct shadow_change *change,
		   const struct neighbours *found, struct shadow_page *page, u32 i)
{
	const struct shadow_neighbour *neighbour = &found->each[i];
	const struct fault fault = {
	    .gfn = neighbour->gfn, .prefault = true, .largest = QUIRE_LEVEL_4K};
	const struct found memory = {
	    .has_slot = true, .hva = found->hva[i], .page = found->pages[i]};
	const struct memslot *slot;
	struct entry_leaf leaf;

	mmu_assert_exclusive(vcpu->vm);
	if (is_stale(vcpu, found, neighbour->gfn))
		return 1;
	slot = memslot_lookup(vcpu->vm, vcpu->as_id, neighbour->gfn, &vcpu->hint);
	leaf = fault_make_mapping(vcpu->vm, slot, &fault, &memory).leaf;
	shadow_limit_leaf(&leaf, neighbour->access);
	return shadow_group_put(change, page, found->group->first + i, neighbour, &leaf);
}

static int map_neighbours(struct quire_vcpu *vcpu, const void *ctx, struct flush_debt *debt)
{
	const struct neighbours *found = ctx;
	const struct shadow_group *group = found->group;
	struct shadow_change change = shadow_change_of(vcpu, debt);
	struct shadow_page *page = shadow_group_find(change.shadow, group);
	u32 mapped = 0;

	mmu_assert_exclusive(vcpu->vm);
	/* The guest's table is memory, too. */
	if (page && memslots_generation(vcpu->vm, vcpu->as_id) == found->generation &&
	    ((group->key.role & ROLE_DIRECT) || !is_stale(vcpu, found, group->key.gfn)))
		for (u32 i = 0; i < SHADOW_GROUP_PAGES; i++)
			if ((found->there >> i & 1) && !map_one(vcpu, &change, found, page, i))
				mapped |= 1u << i;
	/* Any of them may get W from a fault that does not ask the host. */
	put_pages(vcpu->vm, found, mapped, QUIRE_PAGE_DIRTY);
	put_pages(vcpu->vm, found, found->there & ~mapped, QUIRE_PAGE_UNUSED);
	return QUIRE_FIXED;
}

void fault_neighbours(struct quire_vcpu *vcpu, const struct shadow_group *group)
{
	const struct found none = {0};
	struct neighbours found = {.group = group};
	u32 wanted, there;

	locks_assert_none();
	if (!group->empty || !vcpu->vm->host->pages_there)
		return;
	/* I-55. Before anything is looked up, as in a fault. */
	found.snapshot = invalidation_snapshot(&vcpu->vm->invalidation);
	found.generation = memslots_generation_of(&vcpu->vm->slots, vcpu->as_id);
	wanted = shadow_group_read(vcpu, group, found.each);
	there = wanted ? find_pages(vcpu->vm, &found, find_slots(vcpu, &found, wanted)) : 0;
	found.there = keep_runs(group, wanted, there);
	if (there != found.there)
		put_pages(vcpu->vm, &found, there & ~found.there, QUIRE_PAGE_UNUSED);
	if (found.there)
		(void)!fault_map_shadow(vcpu, &none, map_neighbours, &found);
}
