/* Making the path of shadow pages for one L2 address, and the leaf at its end. */
#include "src/shadow/internal.h"

#include <errno.h>

#include "src/base/assert.h"
#include "src/base/mutant.h"
#include "src/base/trace.h"
#include "src/entry/guest.h"
#include "src/gfn/level.h"
#include "src/vm/locks.h"
#include "src/walk/range.h"

static u32 base_role(const struct quire_vcpu *vcpu)
{
	const struct quire_nested *tables = &vcpu->nested.tables;
	u32 role = vcpu->as_id << ROLE_SMM_SHIFT;

	if (tables->levels == 3)
		role |= ROLE_PAE;
	if (tables->levels == 2)
		role |= ROLE_4_BYTES | (tables->pse ? 0 : ROLE_4_BYTES_NO_PSE);
	if (tables->nx)
		role |= ROLE_NX;
	if (!tables->paging)
		return role | ROLE_GUEST_MODE | ROLE_WP;
	if (tables->wp)
		return role | ROLE_WP;
	return role | (tables->smep ? ROLE_SMEP_NOT_WP : 0) | (tables->smap ? ROLE_SMAP_NOT_WP : 0);
}

struct shadow_key shadow_key_of(const struct quire_vcpu *vcpu, const struct shadow_walk *walk,
				u32 level)
{
	struct shadow_key key = {
	    .gfn = walk->tables[level],
	    .role = base_role(vcpu) | level | walk->access[level] << ROLE_ACCESS_SHIFT,
	};
	u32 index = walk_index(gfn_of(walk->gpa), level + 1);

	mmu_assert_exclusive(vcpu->vm);
	CHECK(level && level <= SHADOW_LEVEL_MAX);
	/* One table of L1's has several pages: of a directory four, of a table two. */
	if (key.role & ROLE_4_BYTES)
		key.role |= (level == QUIRE_LEVEL_4K ? index & 1 : index) << ROLE_QUADRANT_SHIFT;
	return key;
}

static int track(const struct shadow_change *change, struct shadow_page *page,
		 struct shadow_path *path) REQUIRES(&change->vm->mmu_lock)
{
	u32 as = role_as(page->role);
	int fresh;

	CHECK(!page->tracked && !page->unsync && !(page->role & ROLE_DIRECT));
	CHECK(path->count < ARRAY_LEN(path->fresh));
	fresh = gfn_track_add(change->vm, as, page->gfn, change->rmaps);
	if (fresh < 0)
		return fresh;
	page->tracked = 1;
	if (fresh) {
		/* L2 must not write it unnoticed either: its mappings of the table go. */
		shadow_zap_gfn_leaves(change, as, page->gfn);
		path->fresh[path->count++] = page->gfn;
	}
	return 0;
}

int shadow_page_follow(const struct shadow_change *change, const struct shadow_key *key,
		       struct shadow_path *path, u32 level)
{
	struct shadow_page *page;
	int made, err;

	mmu_assert_exclusive(change->vm);
	page = shadow_page_get(change, key, &made);
	if (!page)
		return -ENOMEM;
	path->pages[level] = page;
	if (made && level > QUIRE_LEVEL_4K)
		shadow_zap_unsync(change, role_as(key->role), key->gfn);
	err = page->tracked || page->unsync ? 0 : track(change, page, path);
	if (err) {
		shadow_page_zap(change, page);
		return err;
	}
	return made;
}

int shadow_path_get(const struct shadow_change *change, struct quire_vcpu *vcpu,
		    const struct shadow_walk *walk, struct shadow_path *path)
{
	int any = 0;

	mmu_assert_exclusive(change->vm);
	CHECK(walk->level >= QUIRE_LEVEL_4K && walk->level <= walk->top);
	path->count = 0;
	path->root_level = guest_format_of(&vcpu->nested.tables)->root_level;
	if (path->root_level == SHADOW_PAE_LEVEL) {
		path->pages[SHADOW_PAE_LEVEL] = shadow_pae_root_of(vcpu);
		if (!path->pages[SHADOW_PAE_LEVEL])
			return 1;
	}
	for (u32 level = walk->top; level >= walk->level; level--) {
		struct shadow_key key = shadow_key_of(vcpu, walk, level);
		int made = shadow_page_follow(change, &key, path, level);

		if (made < 0)
			return made;
		any |= made;
		path->pages[level]->kept |= level == walk->top;
	}
	return any;
}

/*
 * As if the guest had one entry at the highest level that allows everything: every page below the
 * root is a piece of it.
 */
int shadow_path_direct(const struct shadow_change *change, u32 as_id, struct shadow_walk *walk,
		       struct shadow_path *path)
{
	struct shadow_key key = {
	    .role = ROLE_DIRECT | SHADOW_DIRECT_LEVEL | ACCESS_ALL << ROLE_ACCESS_SHIFT |
		    as_id << ROLE_SMM_SHIFT,
	};
	struct shadow_page *root;
	int made;

	mmu_assert_exclusive(change->vm);
	walk->top = walk->level = SHADOW_DIRECT_LEVEL;
	walk->leaf_access = ACCESS_ALL;
	path->count = 0;
	path->root_level = SHADOW_DIRECT_LEVEL;
	root = shadow_page_get(change, &key, &made);
	path->pages[SHADOW_DIRECT_LEVEL] = root;
	if (!root)
		return -ENOMEM;
	root->kept = 1;
	return 0;
}

/* The child that belongs below @entry at @level: L1's table, or a piece of its huge mapping. */
static struct shadow_page *child_get(const struct shadow_change *change, const u64 *entry,
				     const struct shadow_mapping *mapping, u32 level)
{
	const struct shadow_walk *walk = mapping->walk;
	u32 role = shadow_page_of(entry)->role & ~ROLE_OF_PAGE;
	u64 pages = level_pages((enum quire_level)level);
	struct shadow_key key;
	int made;

	if (level > walk->level)
		return mapping->path->pages[level - 1];
	key.gfn.v = round_down_u64(mapping->gfn.v, pages);
	key.role = role | ROLE_DIRECT | (level - 1) | walk->leaf_access << ROLE_ACCESS_SHIFT;
	if (role & ROLE_4_BYTES)
		key.role |= (shadow_index_of(entry) & 1) << ROLE_QUADRANT_SHIFT;
	return shadow_page_get(change, &key, &made);
}

/*
 * Make *@entry point to @child, whatever was there; a child of another gfn or role is not it.
 * Nonzero: start over. When a table goes, those below it that no other page needs go with it, and
 * pages of the path in hand may be among them.
 */
static int link_child(const struct shadow_change *change, u64 *entry, struct shadow_page *child)
{
	u64 old = atomic_load_relaxed_u64(entry);
	u32 level = role_level(shadow_page_of(entry)->role);

	CHECK(role_level(child->role) == level - 1);
	if (entry_is_present(SHADOW_BITS, old)) {
		bool leaf = entry_is_leaf(SHADOW_BITS, old, level);

		if (!leaf && shadow_page_of(entry_table(&change->vm->shadow_format, old)) == child)
			return 0;
		shadow_drop(change, entry);
		flush_debt_pay(change->debt);
		if (!leaf)
			return 1;
	}
	return shadow_link(change, entry, child);
}

/* Does the entry of @parent on the way to @gpa lead to @child? */
static bool is_linked(const struct shadow *shadow, const struct shadow_page *parent, gpa_t gpa,
		      const struct shadow_page *child)
{
	u32 level = role_level(parent->role);
	u64 entry =
	    atomic_load_relaxed_u64(&table_entries(parent->table)[walk_index(gfn_of(gpa), level)]);

	return entry_is_present(SHADOW_BITS, entry) && !entry_is_leaf(SHADOW_BITS, entry, level) &&
	       shadow_page_of(entry_table(&shadow->vm->shadow_format, entry)) == child;
}

/*
 * A page that lags is as good as a TLB for entries that already lead to it. Through another entry
 * L1 has mapped nothing before, and need not flush: what is linked there must be up to date.
 */
struct shadow_page *shadow_path_lags(const struct shadow *shadow, const struct shadow_path *path,
				     const struct shadow_walk *walk, struct shadow_key *key)
{
	mmu_assert_exclusive(shadow->vm);
	if (!shadow->unsync_pages || MUTANT(link_unsynced))
		return NULL;
	for (u32 level = path->root_level - 1; level >= walk->level; level--) {
		struct shadow_page *page = path->pages[level];

		if (is_linked(shadow, path->pages[level + 1], walk->gpa, page) ||
		    !shadow_lags_below(shadow, page))
			continue;
		*key = (struct shadow_key){.gfn = page->gfn, .role = page->role};
		return page;
	}
	return NULL;
}

static bool same_leaf(const u64 *entry, u64 old, u64 new, gfn_t gfn)
{
	const struct shadow_page *page = shadow_page_of(entry);

	return entry_is_leaf(SHADOW_BITS, old, role_level(page->role)) &&
	       entry_pfn(SHADOW_BITS, old).v == entry_pfn(SHADOW_BITS, new).v &&
	       shadow_leaf_gfn(page, shadow_index_of(entry)).v == gfn.v;
}

static bool suffices(u64 old, u64 new, const struct shadow_mapping *mapping)
{
	const struct entry_format *f = SHADOW_BITS;

	if ((old ^ new) & SHADOW_USER)
		return false;
	if (mapping->write && !entry_is_writable(f, old))
		return false;
	return !mapping->leaf.executable || entry_is_executable(f, old);
}

/* May @leaf replace what maps the same page, with nothing to take back from any processor? */
static bool gains_only(const u64 *entry, u64 old, const struct shadow_leaf *leaf)
{
	const struct shadow_page *page = shadow_page_of(entry);

	if (!(page->role & ROLE_DIRECT) || !same_leaf(entry, old, leaf->value, leaf->gfn))
		return false;
	/* A direct page's role says whether its leaves are the user's, too. */
	CHECK(!((old ^ leaf->value) & SHADOW_USER));
	return (!entry_is_writable(SHADOW_BITS, old) ||
		entry_is_writable(SHADOW_BITS, leaf->value)) &&
	       (!entry_is_executable(SHADOW_BITS, old) ||
		entry_is_executable(SHADOW_BITS, leaf->value));
}

static bool is_protected(const struct shadow_mapping *mapping)
{
	return mapping->write && !mapping->leaf.writable;
}

static __attribute__((noinline, cold)) void trace_request(const struct shadow_mapping *mapping)
{
	QUIRE_TRACE_SEEN(kvm_mmu_spte_requested, mapping->gfn.v, mapping->leaf.pfn.v,
			 mapping->leaf.level, mapping->walk->leaf_access);
}

static __attribute__((noinline, cold)) void trace_leaf(const u64 *entry, gfn_t gfn)
{
	const struct entry_format *f = SHADOW_BITS;
	u64 value = atomic_load_relaxed_u64(entry);

	QUIRE_TRACE_SEEN(kvm_mmu_set_spte, gfn.v, value, (u64)(uintptr_t)entry,
			 role_level(shadow_page_of(entry)->role), entry_is_present(f, value),
			 entry_is_executable(f, value), (value & SHADOW_USER) != 0);
}

static void note_group(const struct shadow_change *change, const u64 *entry,
		       struct shadow_group *group)
{
	const struct shadow_page *page = shadow_page_of(entry);
	const u64 *entries = table_entries(page->table);

	group->key = (struct shadow_key){.gfn = page->gfn, .role = page->role};
	group->write_turn = change->shadow->write_turn;
	group->first = shadow_index_of(entry) & ~(SHADOW_GROUP_PAGES - 1);
	group->empty = 0;
	for (u32 i = 0; i < SHADOW_GROUP_PAGES; i++)
		if (!entry_is_present(SHADOW_BITS,
				      atomic_load_relaxed_u64(&entries[group->first + i])))
			group->empty |= 1u << i;
}

/* The leaf is in place. */
static enum quire_outcome leaf_is_put(const struct shadow_change *change, const u64 *entry,
				      const struct shadow_mapping *mapping, gfn_t gfn)
{
	if (quire_trace_is_on())
		trace_leaf(entry, gfn);
	if (mapping->group && mapping->leaf.level == QUIRE_LEVEL_4K)
		note_group(change, entry, mapping->group);
	return is_protected(mapping) ? QUIRE_WRITE_PROTECTED : QUIRE_FIXED;
}

static enum quire_outcome put_leaf(const struct shadow_change *change, u64 *entry,
				   const struct shadow_mapping *mapping)
{
	const struct entry_format *f = SHADOW_BITS;
	u64 old = atomic_load_relaxed_u64(entry), pages;
	struct shadow_leaf leaf = {
	    .access = mapping->walk->leaf_access,
	    .value = entry_make_leaf(f, &mapping->leaf),
	};

	CHECK(role_level(shadow_page_of(entry)->role) == mapping->leaf.level);
	CHECK(!mapping->leaf.writable || mapping->leaf.host_writable);
	if (!(leaf.access & ACCESS_USER))
		leaf.value &= ~SHADOW_USER;
	pages = level_pages((enum quire_level)mapping->leaf.level);
	leaf.gfn.v = round_down_u64(mapping->gfn.v, pages);
	if (entry_is_present(f, old)) {
		if (same_leaf(entry, old, leaf.value, leaf.gfn) &&
		    suffices(old, leaf.value, mapping))
			return QUIRE_SPURIOUS;
		if (gains_only(entry, old, &leaf)) {
			(void)shadow_store(change, entry, mapping->leaf.level,
					   leaf.value | (old & (f->accessed | f->dirty)));
			return leaf_is_put(change, entry, mapping, leaf.gfn);
		}
		shadow_drop(change, entry);
		flush_debt_pay(change->debt);
	}
	if (shadow_add_leaf(change, entry, &leaf))
		return QUIRE_RETRY;
	return leaf_is_put(change, entry, mapping, leaf.gfn);
}

/* The guest executes below the table at this place: no huge leaf instead of it. */
static bool table_must_stay(const struct quire_vm *vm, const u64 *entry, u32 level)
{
	u64 value = atomic_load_relaxed_u64(entry);

	return entry_is_present(SHADOW_BITS, value) && !entry_is_leaf(SHADOW_BITS, value, level) &&
	       table_of(entry_table(&vm->shadow_format, value))->nx_disallowed;
}

/* One level down, to the part of the block that holds the gfn. */
static void shrink(struct shadow_mapping *mapping)
{
	u64 offset, pages;

	pages = level_pages((enum quire_level)mapping->leaf.level--);
	CHECK(mapping->leaf.level >= QUIRE_LEVEL_4K);
	offset = mapping->gfn.v & (pages - 1);
	mapping->leaf.pfn.v +=
	    round_down_u64(offset, level_pages((enum quire_level)mapping->leaf.level));
}

/* @page stands where a huge leaf could, had the guest not executed below it. */
static void keep_table(const struct shadow_change *change, const struct shadow_page *page)
{
	mmu_assert_exclusive(change->vm);
	if (page->table->nx_disallowed || !nx_is_on(change->vm))
		return;
	page->table->nx_disallowed = 1;
	nx_list_add(change->vm, page->table);
}

enum quire_outcome shadow_map(const struct shadow_change *change,
			      const struct shadow_mapping *request)
{
	struct shadow_mapping mapping = *request;
	u32 root_level = mapping.path->root_level;
	struct shadow_page *page = mapping.path->pages[root_level];
	gfn_t at = gfn_of(mapping.walk->gpa);

	mmu_assert_exclusive(change->vm);
	CHECK(page->table->level == root_level);
	CHECK(mapping.leaf.level <= mapping.wanted_level);
	if (quire_trace_is_on())
		trace_request(&mapping);
	for (u32 level = root_level;; level--) {
		u64 *entry = &table_entries(page->table)[walk_index(at, level)];
		bool keep = mapping.fetch && level <= mapping.wanted_level;

		if (level == mapping.leaf.level && level > QUIRE_LEVEL_4K &&
		    unlikely(table_must_stay(change->vm, entry, level))) {
			shrink(&mapping);
			keep = true;
		}
		if (level == mapping.leaf.level)
			return put_leaf(change, entry, &mapping);
		page = child_get(change, entry, &mapping, level);
		if (!page || link_child(change, entry, page))
			return QUIRE_RETRY;
		/* With other rights it may be another page than the one that had to stay. */
		if (unlikely(keep))
			keep_table(change, page);
	}
}

struct shadow_page *shadow_group_find(const struct shadow *shadow, const struct shadow_group *group)
{
	mmu_assert_exclusive(shadow->vm);
	if (shadow->write_turn != group->write_turn && !MUTANT(group_unchecked))
		return NULL;
	return shadow_page_find(shadow, &group->key);
}

int shadow_group_put(const struct shadow_change *change, struct shadow_page *page, u32 index,
		     const struct shadow_neighbour *neighbour, const struct entry_leaf *leaf)
{
	u64 *entry = &table_entries(page->table)[index];
	struct shadow_leaf made = {
	    .gfn = neighbour->gfn,
	    .access = neighbour->access,
	    .value = entry_make_leaf(SHADOW_BITS, leaf),
	};

	mmu_assert_exclusive(change->vm);
	if (!(made.access & ACCESS_USER))
		made.value &= ~SHADOW_USER;
	if (entry_is_present(SHADOW_BITS, atomic_load_relaxed_u64(entry)) ||
	    shadow_add_leaf(change, entry, &made))
		return 1;
	if (quire_trace_is_on())
		trace_leaf(entry, made.gfn);
	return 0;
}

u32 shadow_level_at(const struct quire_vm *vm, const struct shadow_page *root, gfn_t at)
{
	const u64 *table = table_entries(root->table);

	mmu_assert_held(vm);
	for (u32 level = role_level(root->role);; level--) {
		u64 entry = atomic_load_relaxed_u64(&table[walk_index(at, level)]);

		if (!entry_is_present(SHADOW_BITS, entry))
			return QUIRE_LEVEL_4K;
		if (entry_is_leaf(SHADOW_BITS, entry, level))
			return level;
		table = entry_table(&vm->shadow_format, entry);
	}
}
