/* The VM's shadow MMU: its making and its end; roots, and memory in hand for a fault. */
#include "src/base/assert.h"
#include "src/entry/guest.h"
#include "src/shadow/internal.h"
#include "src/vm/locks.h"

#include <errno.h>

/* What one path and one leaf may take: a header and a parent's descriptor a page, a leaf's. */
#define FAULT_OBJECTS 16u
/*
 * A page and its gfns for each level; rmap and track pages for each table and the leaf. A PAE root
 * with its four directories takes no more.
 */
#define FAULT_TABLES (2 * SHADOW_LEVEL_MAX + (SHADOW_LEVEL_MAX + 1) * SPARSE_DEPTH)

/* The library wrote to guest memory, which may hold L1's tables. */
static void written(struct quire_vm *vm, u32 as_id, gpa_t gpa, u64 size_bytes)
{
	struct flush_debt debt;
	int tracked;

	biglock_read_lock(&vm->mmu_lock, NULL);
	tracked = gfn_track_block(vm, as_id, gfn_of(gpa), 1);
	biglock_read_unlock(&vm->mmu_lock, NULL);
	if (!tracked)
		return;
	flush_debt_init(&debt, &vm->flush);
	biglock_write_lock(&vm->mmu_lock);
	shadow_written(vm, &(struct shadow_write){as_id, gpa, size_bytes}, &debt);
	vm_count(vm, QUIRE_VM_STAT_mmu_pte_write);
	shadow_commit(vm, &debt);
	shadow_unlock(vm);
}

static int make_locked(struct quire_vm *vm)
{
	struct shadow *shadow;
	struct gfn_track *track;

	slots_assert(vm);
	CHECK(!vm->shadow == !vm->track);
	if (vm->shadow)
		return 0;
	shadow = vm_alloc(vm, sizeof(*shadow));
	track = vm_alloc(vm, sizeof(*track));
	if (!shadow || !track) {
		vm_free(vm, shadow, sizeof(*shadow));
		vm_free(vm, track, sizeof(*track));
		return -ENOMEM;
	}
	shadow->vm = vm;
	shadow->slabs.arena = &vm->arena;
	shadow->root_turn = 1;
	track->written = written;
	atomic_store_release_ptr(&vm->track, track);
	atomic_store_release_ptr(&vm->shadow, shadow);
	return 0;
}

int shadow_init(struct quire_vm *vm)
{
	int err;

	locks_assert_none();
	if (shadow_of(vm))
		return 0;
	mutex_lock(&vm->slots_lock);
	err = make_locked(vm);
	mutex_unlock(&vm->slots_lock);
	return err;
}

static void pae_roots_free(struct quire_vm *vm)
{
	struct shadow *shadow = shadow_of(vm);
	struct table_cache freed = {0};

	locks_assert_none();
	for (struct shadow_page *page = shadow->pae_roots; page; page = page->hash_next)
		table_cache_put(&freed, page->table);
	table_cache_drain(&freed, &vm->arena);
}

void shadow_destroy(struct quire_vm *vm)
{
	struct shadow *shadow = vm->shadow;

	locks_assert_none();
	if (!shadow)
		return;
	CHECK(!shadow->pages && !shadow->newest && !shadow->zapped);
	CHECK(!shadow->unsync_pages && !shadow->orphans && !vm->track->pages);
	pae_roots_free(vm);
	table_cache_drain(&shadow->split_pages, &vm->arena);
	table_cache_drain(&shadow->split_rmaps, &vm->arena);
	for (u32 as = 0; as < QUIRE_AS_MAX; as++) {
		for (u32 level = 0; level < ARRAY_LEN(shadow->rmaps[as]); level++)
			sparse_free(&shadow->rmaps[as][level], &vm->arena);
		sparse_free(&vm->track->counts[as], &vm->arena);
	}
	object_slabs_free(&shadow->slabs);
	vm_free(vm, vm->track, sizeof(*vm->track));
	vm_free(vm, shadow, sizeof(*shadow));
	vm->track = NULL;
	vm->shadow = NULL;
}

int shadow_reserve_apart(struct quire_vcpu *vcpu, struct object_cache *objects)
{
	int err = table_cache_fill(&vcpu->tables, &vcpu->vm->arena, FAULT_TABLES);

	locks_assert_none();
	CHECK(err || vcpu->tables.count >= FAULT_TABLES);
	return err ? err : object_cache_fill(objects, &shadow_of(vcpu->vm)->slabs, FAULT_OBJECTS);
}

int shadow_reserve(struct quire_vcpu *vcpu)
{
	struct quire_vm *vm = vcpu->vm;
	struct shadow *shadow = shadow_of(vm);
	struct object_cache more = {0};
	int err;

	locks_assert_none();
	if (atomic_load_relaxed_u32(&shadow->pool.count) >= FAULT_OBJECTS)
		return table_cache_fill(&vcpu->tables, &vm->arena, FAULT_TABLES);
	err = shadow_reserve_apart(vcpu, &more);
	biglock_write_lock(&vm->mmu_lock);
	object_cache_move(&shadow->pool, &more);
	shadow_unlock(vm);
	return err;
}

struct shadow_change shadow_change_of(struct quire_vcpu *vcpu, struct flush_debt *debt)
{
	struct shadow *shadow = shadow_of(vcpu->vm);

	return (struct shadow_change){
	    .vm = vcpu->vm,
	    .shadow = shadow,
	    .debt = debt,
	    .headers = &shadow->pool,
	    .descriptors = &shadow->pool,
	    .pages = &vcpu->tables,
	    .rmaps = &vcpu->tables,
	};
}

int shadow_has_reserve(const struct quire_vcpu *vcpu)
{
	mmu_assert_exclusive(vcpu->vm);
	return shadow_of(vcpu->vm)->pool.count >= FAULT_OBJECTS &&
	       vcpu->tables.count >= FAULT_TABLES;
}

/*
 * Tables of long mode are shadowed level by level, up to their root of level 4 or 5. PAE's and
 * 32-bit tables have no table of L1's at level 3: PAE's four entries there are registers, and an
 * entry of 4 bytes maps so much that four shadow pages (quadrants) stand for one directory. So each
 * vCPU has a PAE root of its own, whose four entries lead to the shadow pages of the directories;
 * it is filled when L1's tables are loaded, and follows no memory of L1's.
 *
 *   4 bytes:   address  31 30 | 29 .. 22  21 | 20 .. 12      PAE: 31 30 | 29 .. 21 | 20 .. 12
 *              directory   quadrant, index / 2               an entry of directories, and so on
 *              table                      quadrant, index
 *
 * I-45: no other vCPU walks a PAE root, and its own leaves it only for another one's tables.
 */
#define PAE_ENTRIES 4u

struct shadow_page *shadow_pae_root_of(const struct quire_vcpu *vcpu)
{
	mmu_assert_exclusive(vcpu->vm);
	return shadow_root_is_valid(vcpu) && vcpu->shadow.page == vcpu->pae_root ? vcpu->pae_root
										 : NULL;
}

/* The vCPU's PAE root, made if it has none. NULL: no memory. */
static struct shadow_page *pae_root_make(const struct shadow_change *change,
					 struct quire_vcpu *vcpu, const struct shadow_key *key)
{
	struct shadow_page *page = vcpu->pae_root;

	mmu_assert_exclusive(change->vm);
	if (page)
		return page;
	if (!change->pages->count)
		return NULL;
	page = object_take(change->headers);
	if (!page)
		return NULL;
	page->table = table_cache_take(change->pages);
	shadow_page_init(change, page, key);
	page->hash_next = change->shadow->pae_roots;
	change->shadow->pae_roots = page;
	vcpu->pae_root = page;
	CHECK(shadow_page_of(table_entries(page->table)) == page);
	return page;
}

/* What the vCPU knew by its PAE root is not known by it any more. */
static void forget_pae_roots(struct quire_vcpu *vcpu)
{
	for (u32 i = 0; i < VCPU_PREVIOUS_ROOTS; i++)
		if (vcpu->previous[i].shadow.page == vcpu->pae_root)
			vcpu->previous[i].shadow.page = NULL;
}

/* The walk to the directory of quadrant @index. Nonzero: L1 has none, or where no slot can be. */
static int directory_walk(const struct quire_vcpu *vcpu, u32 index, struct shadow_walk *walk)
{
	const struct quire_nested *tables = &vcpu->nested.tables;
	u64 directory = tables->levels == 3 ? tables->directories[index] : tables->root.v;

	*walk = (struct shadow_walk){
	    .gpa = gpa_of((gfn_t){index * level_pages(SHADOW_PAE_LEVEL)}),
	    .top = QUIRE_LEVEL_2M,
	    .level = QUIRE_LEVEL_2M,
	};
	walk->tables[QUIRE_LEVEL_2M] = guest_entry_gfn(directory);
	walk->access[QUIRE_LEVEL_2M] = ACCESS_ALL;
	if (walk->tables[QUIRE_LEVEL_2M].v > vcpu->vm->max_gfn.v)
		return 1;
	return tables->levels == 3 && !(directory & GUEST_P);
}

/* Entry @index of the PAE root, which is empty, leads to L1's directory: -ENOMEM. */
static int lead_to_directory(const struct shadow_change *change, struct quire_vcpu *vcpu, u32 index,
			     struct shadow_path *path)
{
	u64 *entry = &table_entries(vcpu->pae_root->table)[index];
	struct shadow_page *child;
	struct shadow_walk walk;
	struct shadow_key key;
	int err;

	mmu_assert_exclusive(change->vm);
	if (directory_walk(vcpu, index, &walk))
		return 0;
	key = shadow_key_of(vcpu, &walk, QUIRE_LEVEL_2M);
	err = shadow_page_follow(change, &key, path, QUIRE_LEVEL_2M);
	if (err < 0)
		return err;
	child = path->pages[QUIRE_LEVEL_2M];
	CHECK(!child->orphan && child->gfn.v == key.gfn.v);
	child->kept = 1;
	return shadow_link(change, entry, child) ? -ENOMEM : 0;
}

/*
 * The entries change under no processor's eyes (I-45), and the vCPU flushes as it goes over to
 * them: what goes is owed to none. A page that only they led to stays.
 */
static int pae_root_load(const struct shadow_change *shared, struct quire_vcpu *vcpu,
			 struct shadow_path *path)
{
	struct shadow_change change = *shared;
	struct shadow_walk walk = {0};
	struct shadow_key key;
	struct flush_debt own;
	int err = 0;

	mmu_assert_exclusive(shared->vm);
	walk.access[SHADOW_PAE_LEVEL] = ACCESS_ALL;
	key = shadow_key_of(vcpu, &walk, SHADOW_PAE_LEVEL);
	path->pages[SHADOW_PAE_LEVEL] = pae_root_make(shared, vcpu, &key);
	if (!path->pages[SHADOW_PAE_LEVEL])
		return -ENOMEM;
	flush_debt_init(&own, &shared->vm->flush);
	change.debt = &own;
	forget_pae_roots(vcpu);
	vcpu->pae_root->role = key.role;
	vcpu->pae_root->generation = shared->vm->mmu_valid_gen;
	for (u32 i = 0; i < PAE_ENTRIES; i++)
		shadow_drop(&change, &table_entries(vcpu->pae_root->table)[i]);
	flush_debt_forgive(&own, "the vCPU's own root, and its translations go");
	for (u32 i = 0; !err && i < PAE_ENTRIES; i++)
		err = lead_to_directory(shared, vcpu, i, path);
	CHECK(!guest_mode_is_on(&vcpu->mode));
	atomic_fetch_or_relaxed_u64(&vcpu->mode.doorbell, QUIRE_REQ_TLB_FLUSH);
	return err;
}

/*
 * As shadow_page_follow(), for the root of a table where no slot can be: it follows nothing and
 * stays empty, as each walk of L1's tables ends before its first entry.
 */
static int empty_root_get(const struct shadow_change *change, const struct shadow_key *key,
			  struct shadow_path *path)
{
	const struct shadow_key empty = {.gfn = key->gfn, .role = key->role | ROLE_DIRECT};
	int made;

	mmu_assert_exclusive(change->vm);
	CHECK(key->gfn.v > change->vm->max_gfn.v);
	path->pages[path->root_level] = shadow_page_get(change, &empty, &made);
	return path->pages[path->root_level] ? made : -ENOMEM;
}

int shadow_root_get(const struct shadow_change *change, struct quire_vcpu *vcpu,
		    struct shadow_path *path)
{
	struct shadow_walk walk = {0};
	struct shadow_key key;
	int made;

	mmu_assert_exclusive(change->vm);
	if (!vcpu->nested.on)
		return shadow_path_direct(change, vcpu->as_id, &walk, path);
	path->count = 0;
	path->root_level = guest_format_of(&vcpu->nested.tables)->root_level;
	if (path->root_level == SHADOW_PAE_LEVEL)
		return pae_root_load(change, vcpu, path);
	walk.tables[path->root_level] = gfn_of(vcpu->nested.tables.root);
	walk.access[path->root_level] = ACCESS_ALL;
	key = shadow_key_of(vcpu, &walk, path->root_level);
	if (unlikely(key.gfn.v > change->vm->max_gfn.v))
		made = empty_root_get(change, &key, path);
	else
		made = shadow_page_follow(change, &key, path, path->root_level);
	if (made < 0)
		return made;
	path->pages[path->root_level]->kept = 1;
	CHECK(shadow_page_is_root(path->pages[path->root_level]));
	return 0;
}
