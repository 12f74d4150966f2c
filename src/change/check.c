/* Check builds: the tables of a VM against what slots and attributes say, at every lock release. */
#include "src/vm/check.h"

#ifdef QUIRE_CHECK

#include "src/base/assert.h"
#include "src/base/reclaim.h"
#include "src/gfn/level.h"
#include "src/gmem/privacy.h"
#include "src/gmem/rmp.h"
#include "src/shadow/shadow.h"
#include "src/tdp/tdp.h"
#include "src/vm/locks.h"

/*
 * Written from the formats' definition and from the invariants alone: it shares no walk with the
 * code it checks. Numbers are those of docs/INVARIANTS.md.
 */
struct checker {
	struct quire_vm *vm;
	const struct entry_format *f;
	u32 as_id;
	struct vm_leaves leaves;
};

/* I-18: frames of a private leaf are assigned to the gfn, those of a shared one to no VM. */
static void check_owner(const struct checker *check, u64 entry, gfn_t gfn, u32 level, bool private)
{
	const struct rmp_vm *rmp = check->vm->rmp;

	/* A test may have put another arch in the map's place. */
	if (!rmp || check->vm->gmem_arch != &rmp->arch)
		return;
	for (u64 i = 0; i < level_pages((enum quire_level)level); i++) {
		pfn_t pfn = {entry_pfn(check->f, entry).v + i};

		CHECK(private ? rmp_allows(rmp, (gfn_t){gfn.v + i}, pfn) : rmp_is_free(rmp, pfn));
	}
}

/* I-15, I-20, I-21, I-24: what one leaf may be, given the slot that holds its gfn. */
static void check_backing(const struct checker *check, u64 entry, gfn_t gfn, u32 level,
			  const struct memslot *slot)
{
	struct quire_gmem *file = atomic_load_relaxed_ptr(&slot->gmem.file);
	bool private = privacy_get(check->vm, slot, gfn) & QUIRE_ATTRIBUTE_PRIVATE;
	struct gmem_page page;

	/* Where files own the attributes, nothing says what a leaf is from the release of its file
	 * to the zap. */
	if (!file && (slot->flags & QUIRE_SLOT_GMEM) && check->vm->config.gmem_in_place_conversion)
		return;
	/* From the release of its file to the zap a private leaf has no owner to ask; and pages of
	 * several VMs have none. */
	if (!private || (file && gmem_arch(file->inode)))
		check_owner(check, entry, gfn, level, private);
	CHECK(!((slot->flags & QUIRE_SLOT_READONLY) && entry_is_writable(check->f, entry)));
	if (!file || !(private || (slot->flags & MEMSLOT_GMEM_ONLY)))
		return;
	for (u64 i = 0; i < level_pages((enum quire_level)level); i++) {
		gmem_page_read(&file->inode->pages, memslot_gmem_index(slot, gfn) + i, &page);
		CHECK(page.state & GMEM_PAGE_UP_TO_DATE);
		CHECK(page.pfn.v == entry_pfn(check->f, entry).v + i);
	}
}

/*
 * I-30: the leaf as a use makes it. A processor that sets A sees its rights always. For another a
 * leaf that was aged may not be used, and what a use gives back waits.
 */
static u64 check_rights(const struct entry_format *f, u64 entry)
{
	u64 used = entry_make_young(f, entry);

	CHECK(entry_is_readable(f, used) || (f->unreadable && entry_is_executable(f, used)));
	CHECK(entry_is_young(f, entry) || entry == entry_make_old(f, used) || f->marks);
	CHECK(!entry_is_young(f, entry) || !(entry >> f->aside_shift & f->aside));
	return used;
}

/* I-22, I-25, I-29: the shape of one leaf. */
static void check_leaf(struct checker *check, u64 entry, gfn_t gfn, u32 level)
{
	const struct quire_vm *vm = check->vm;
	u64 pages = level_pages((enum quire_level)level), rights, value;
	const struct memslot *slot = memslot_lookup(vm, check->as_id, gfn, NULL);

	mmu_assert_exclusive(vm);
	check->leaves.tdp[level]++;
	CHECK(level <= QUIRE_LEVEL_1G);
	CHECK(is_aligned_u64(entry_pfn(check->f, entry).v, pages));
	rights = check_rights(check->f, entry);
	/* I-26. */
	CHECK(level == QUIRE_LEVEL_4K || !entry_is_executable(check->f, rights) || !nx_is_on(vm));
	if (entry_is_writable(check->f, entry)) {
		CHECK(entry & check->f->mmu_writable);
		CHECK(!check->f->dirty || (entry & check->f->dirty));
	}
	if (entry & check->f->mmu_writable)
		CHECK(entry & check->f->host_writable);
	/* A slot that is going away keeps its leaves until its own zap. */
	if (slot && (slot->flags & MEMSLOT_INVALID))
		return;
	CHECK(slot != NULL);
	if (!slot)
		return;
	/* I-21: what a nested guest's mappings follow is not written unnoticed. */
	CHECK(!(entry & (check->f->writable | check->f->mmu_writable)) ||
	      !(pages == 1 ? gfn_is_tracked(vm, check->as_id, gfn)
			   : gfn_track_block(vm, check->as_id, gfn, pages)));
	CHECK(gfn.v + pages <= memslot_end(slot).v);
	CHECK(level == QUIRE_LEVEL_4K || privacy_uniform(vm, slot, gfn, pages, &value));
	check_backing(check, entry, gfn, level, slot);
}

static void check_table(struct checker *check, const u64 *table, gfn_t gfn, u32 level)
{
	u64 pages = level_pages((enum quire_level)level);

	for (u32 i = 0; i < QUIRE_TABLE_ENTRIES; i++, gfn.v += pages) {
		u64 entry = table[i];

		/* I-27, I-28: MMIO and frozen entries are not present; no entry is owned now. */
		CHECK(!entry_is_frozen(check->f, entry));
		CHECK(entry_is_legal(check->f, entry, level));
		if (!(entry & check->f->present)) {
			CHECK(entry == check->f->nonpresent || entry_is_mmio(check->f, entry));
			continue;
		}
		if (vm_check_visits)
			vm_check_visits(check->vm, check->as_id, gfn);
		if (entry_is_leaf(check->f, entry, level)) {
			check_leaf(check, entry, gfn, level);
			continue;
		}
		CHECK(entry & check->f->hw_present);
		/* I-35, I-37. */
		CHECK(table_of(entry_table(check->f, entry))->level == level - 1);
		check_table(check, entry_table(check->f, entry), gfn, level - 1);
	}
}

void (*vm_check_also)(const struct quire_vm *vm);
void (*vm_check_tells)(const struct quire_vm *vm, const struct vm_leaves *leaves);
void (*vm_check_visits)(const struct quire_vm *vm, u32 as_id, gfn_t gfn);

static void check_root(struct checker *check, const struct table *root)
{
	const struct entry_format *f = check->f;

	for (u32 i = 0; i < entry_root_tables(f); i++)
		check_table(check, table_entries(&root[i]), root[i].gfn, f->root_level);
}

static void check_tables(struct quire_vm *vm)
{
	struct checker check = {.vm = vm, .f = &vm->tdp_format};

	mmu_assert_exclusive(vm);
	reclaim_enter();
	for (u32 as = 0; as < vm->address_spaces; as++) {
		/* A root is made without mmu_lock. */
		struct table *root = atomic_load_acquire_ptr(&vm->roots.valid[as]);

		check.as_id = as;
		if (root)
			check_root(&check, root);
	}
	shadow_check(vm, check.leaves.shadow);
	reclaim_leave();
	if (vm_check_tells)
		vm_check_tells(vm, &check.leaves);
}

void vm_check(struct quire_vm *vm)
{
	mmu_assert_exclusive(vm);
	base_sched_pause();
	if (vm_check_also)
		vm_check_also(vm);
	/* Between begin and end of an invalidation tables and memory may differ. */
	if (!vm->invalidation.in_progress)
		check_tables(vm);
	base_sched_resume();
}

#endif
