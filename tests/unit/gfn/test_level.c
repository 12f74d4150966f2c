/* The mapping level, over all combinations of what may keep it down, against its definition. */
#include "tests/unit/support.h"

#include <quire/gmem.h>

#include "src/base/reclaim.h"
#include "src/fault/fault.h"
#include "src/gfn/level.h"
#include "src/gfn/track.h"

#define PAGES_2M UINT64_C(512)
#define PAGES_1G (PAGES_2M * 512)
#define NOWHERE UINT64_MAX
/* The slot lies about gfns 2 GiB to 4 GiB; its client memory is never touched. */
#define BASE (2 * PAGES_1G)
#define HVA_PAGE (UINT64_C(1) << 30)
#define FILE_PAGES (4 * PAGES_1G)
/* A frame that is aligned to 1 GiB, and so is the gfn BASE. */
#define PFN_BASE (UINT64_C(8) * PAGES_1G)

enum backing { BY_HVA, BY_HVA_LOGGED, BY_FILE, BY_FILE_ALONE, BACKINGS };

/* One combination. Numbers are pages. */
struct combination {
	/* The slot. */
	enum backing backing;
	uint64_t head, tail; /* it begins so far after BASE, and ends so far before 2 GiB more */
	uint64_t hva_shift, file_shift;
	/* What else is going on. */
	uint64_t tracked, attribute, changing; /* a gfn, or NOWHERE */
	/* The access, and what was found for it. */
	uint64_t gfn;
	uint64_t pfn_shift;
	uint32_t host_level, order;
	bool from_file, nx, fetch, prefault, writable;
};

static struct quire_host_ops ops;
static struct gfn_track track;
static uint32_t host_level;
static uint64_t checked, huge;
static struct quire_gmem *file;

static enum quire_level any_level(void *ctx, hva_t hva, enum quire_level max)
{
	(void)ctx;
	(void)hva;
	return host_level < max ? (enum quire_level)host_level : max;
}

/* Is @gfn in the block of @pages around @at? */
static bool in_block(uint64_t at, uint64_t pages, uint64_t gfn)
{
	return gfn != NOWHERE && gfn / pages == at / pages;
}

/* What slot, attributes, tracking and logging allow: the definition. */
static bool slot_allows(const struct combination *c, uint64_t pages)
{
	uint64_t first = c->gfn / pages * pages, base = BASE + c->head;

	if (c->backing == BY_HVA_LOGGED)
		return false;
	/* The block sticks out of the slot at its head or its tail. */
	if (first < base || first + pages > BASE + 2 * PAGES_1G - c->tail)
		return false;
	/* Slot and backing are not aligned together. */
	if (c->backing != BY_FILE_ALONE && c->hva_shift % pages)
		return false;
	if (c->backing >= BY_FILE && c->file_shift % pages)
		return false;
	/* One page is write-tracked, or has other attributes than its neighbours. */
	return !in_block(c->gfn, pages, c->tracked) && !in_block(c->gfn, pages, c->attribute);
}

/* What the workaround does not decide. */
static uint32_t wanted_level(const struct combination *c)
{
	for (uint32_t level = QUIRE_LEVEL_1G; level > QUIRE_LEVEL_4K; level--) {
		uint64_t pages = level == QUIRE_LEVEL_1G ? PAGES_1G : PAGES_2M;
		uint32_t backed = c->host_level;

		if (c->from_file)
			backed = c->order >= 18	 ? QUIRE_LEVEL_1G
				 : c->order >= 9 ? QUIRE_LEVEL_2M
						 : QUIRE_LEVEL_4K;
		if (level > backed || !slot_allows(c, pages) ||
		    in_block(c->gfn, pages, c->changing))
			continue;
		/* Frame and gfn are not aligned together: the smallest. */
		return c->pfn_shift % pages ? QUIRE_LEVEL_4K : level;
	}
	return QUIRE_LEVEL_4K;
}

static struct found found_of(const struct combination *c)
{
	struct found found = {.has_slot = true, .from_gmem = c->from_file};

	found.hva.v = (HVA_PAGE + c->gfn) << QUIRE_PAGE_SHIFT;
	found.gmem.order = c->order;
	found.page.pfn.v = PFN_BASE + (c->gfn - BASE) + c->pfn_shift;
	found.page.writable = c->writable;
	return found;
}

static struct tdp_mapping mapping_of(const struct combination *c)
{
	struct quire_vm *vm = machine.vm;
	struct fault fault = {
	    .gfn = {c->gfn},
	    .error_code = c->fetch ? QUIRE_PFERR_FETCH : 0,
	    .prefault = c->prefault,
	};
	struct found found = found_of(c);
	struct tdp_mapping mapping;

	host_level = c->host_level;
	biglock_read_lock(&vm->mmu_lock, NULL);
	reclaim_enter();
	mapping = fault_make_mapping(vm, memslot_lookup(vm, 0, fault.gfn, NULL), &fault, &found);
	reclaim_leave();
	biglock_read_unlock(&vm->mmu_lock, NULL);
	return mapping;
}

static void check_rights(const struct combination *c, const struct tdp_mapping *mapping)
{
	bool tracked = c->tracked == c->gfn;
	bool withheld = c->prefault && c->backing == BY_HVA_LOGGED;

	assert_int_equal(mapping->leaf.host_writable, c->writable);
	assert_int_equal(mapping->leaf.mmu_writable, c->writable && !tracked);
	assert_int_equal(mapping->leaf.writable, c->writable && !tracked && !withheld);
	assert_int_equal(mapping->leaf.accessed, !c->prefault);
	/* The workaround: nothing huge is executable. */
	assert_int_equal(mapping->leaf.executable, !c->nx || mapping->leaf.level == QUIRE_LEVEL_4K);
}

static void check_one(const struct combination *c)
{
	struct tdp_mapping mapping = mapping_of(c);
	uint32_t wanted = wanted_level(c), level = c->nx && c->fetch ? QUIRE_LEVEL_4K : wanted;
	uint64_t pages = level_pages((enum quire_level)level);

	assert_int_equal(mapping.wanted_level, wanted);
	assert_int_equal(mapping.leaf.level, level);
	/* The block's frame: what the gfn's own is a part of, in the same place. */
	assert_int_equal(mapping.leaf.pfn.v % pages, 0);
	assert_int_equal(mapping.leaf.pfn.v + c->gfn % pages, found_of(c).page.pfn.v);
	check_rights(c, &mapping);
	checked++;
	huge += level > QUIRE_LEVEL_4K;
}

/* The access and what was found for it. */
static void check_accesses(struct combination *c)
{
	static const uint64_t pfn_shifts[] = {0, 1, PAGES_2M};
	static const uint32_t orders[] = {0, 8, 9, 17, 18};

	c->from_file = c->backing >= BY_FILE;
	for (uint32_t size = 0; size < (c->from_file ? 5 : 3); size++)
		for (uint32_t shift = 0; shift < 3; shift++)
			for (uint32_t bits = 0; bits < 4; bits++) {
				c->order = c->from_file ? orders[size] : 0;
				c->host_level = c->from_file ? QUIRE_LEVEL_1G : size + 1;
				c->pfn_shift = pfn_shifts[shift];
				c->nx = bits & 1;
				c->fetch = bits & 2;
				/* The level asks for neither: they take turns. */
				c->prefault = (checked + checked / 4) & 1;
				c->writable = (checked + checked / 4) & 2;
				machine.vm->nx.on = c->nx;
				check_one(c);
			}
}

/* A host invalidation in the neighbourhood, or none. */
static void check_changes(struct combination *c)
{
	struct quire_vm *vm = machine.vm;
	const uint64_t places[] = {NOWHERE, c->gfn ^ 1, c->gfn ^ PAGES_2M, c->gfn ^ PAGES_1G};

	for (uint32_t i = 0; i < 4; i++) {
		c->changing = places[i];
		biglock_write_lock(&vm->mmu_lock);
		if (c->changing != NOWHERE) {
			invalidation_begin(vm);
			invalidation_add_range(vm, (gfn_t){c->changing}, (gfn_t){c->changing + 1});
		}
		biglock_write_unlock(&vm->mmu_lock);
		check_accesses(c);
		biglock_write_lock(&vm->mmu_lock);
		if (c->changing != NOWHERE)
			invalidation_end(vm);
		biglock_write_unlock(&vm->mmu_lock);
	}
}

static void set_tracked(uint64_t gfn, bool on)
{
	struct quire_vm *vm = machine.vm;

	if (gfn == NOWHERE)
		return;
	assert_int_equal(table_cache_fill(&machine.vcpus[0]->tables, &vm->arena, TRACK_TABLES), 0);
	biglock_write_lock(&vm->mmu_lock);
	if (on)
		assert_int_equal(gfn_track_add(vm, 0, (gfn_t){gfn}, &machine.vcpus[0]->tables), 1);
	else
		gfn_track_remove(vm, 0, (gfn_t){gfn});
	biglock_write_unlock(&vm->mmu_lock);
}

static void set_attribute(uint64_t gfn, uint64_t value)
{
	if (gfn != NOWHERE)
		assert_int_equal(quire_vm_set_attributes(machine.vm, gpa_of((gfn_t){gfn}),
							 QUIRE_PAGE_SIZE, value),
				 0);
}

/* Tracked pages and odd attributes: nowhere, beside the gfn, in the next 2M, in the next 1G. */
static void check_neighbours(struct combination *c)
{
	const uint64_t places[] = {NOWHERE, c->gfn ^ 1, c->gfn ^ PAGES_2M, c->gfn ^ PAGES_1G,
				   c->gfn};
	bool attributes = machine.vm->config.type == QUIRE_VM_SW_PROTECTED;

	for (uint32_t i = 0; i < 5; i++)
		for (uint32_t j = 0; j < (attributes ? 5 : 1); j++) {
			c->tracked = places[i];
			c->attribute = places[j];
			set_tracked(c->tracked, true);
			set_attribute(c->attribute, QUIRE_ATTRIBUTE_PRIVATE);
			check_changes(c);
			set_attribute(c->attribute, 0);
			set_tracked(c->tracked, false);
		}
}

static void set_slot(const struct combination *c)
{
	struct quire_region region = {
	    .gpa = gpa_of((gfn_t){BASE + c->head}),
	    .size_bytes = (2 * PAGES_1G - c->tail - c->head) << QUIRE_PAGE_SHIFT,
	    .hva = {(HVA_PAGE + c->head + c->hva_shift) << QUIRE_PAGE_SHIFT},
	};

	if (c->backing == BY_HVA_LOGGED)
		region.flags = QUIRE_SLOT_LOG_DIRTY;
	if (c->backing >= BY_FILE) {
		region.flags = QUIRE_SLOT_GMEM;
		region.gmem = file;
		region.gmem_offset_bytes = (c->head + c->file_shift) << QUIRE_PAGE_SHIFT;
	}
	assert_int_equal(quire_vm_set_region(machine.vm, &region), 0);
}

/* First and last gfn of the slot, and those on both sides of its middle. */
static void check_slot(struct combination *c)
{
	const uint64_t gfns[] = {BASE + c->head, BASE + 3 * PAGES_2M + 7, BASE + PAGES_1G - 1,
				 BASE + PAGES_1G, BASE + 2 * PAGES_1G - c->tail - 1};
	struct quire_region gone = {.slot = 0};

	set_slot(c);
	for (uint32_t i = 0; i < 5; i++) {
		c->gfn = gfns[i];
		check_neighbours(c);
	}
	assert_int_equal(quire_vm_set_region(machine.vm, &gone), 0);
}

static void check_backing(enum backing backing)
{
	static const uint64_t cuts[] = {0, PAGES_2M, 1}, shifts[] = {0, PAGES_2M, 1};
	struct combination c = {.backing = backing};
	uint32_t file_shifts = backing >= BY_FILE ? 3 : 1;

	for (uint32_t i = 0; i < 3 * 3 * 3 * file_shifts; i++) {
		c.head = cuts[i % 3];
		c.tail = cuts[i / 3 % 3];
		c.hva_shift = shifts[i / 9 % 3];
		c.file_shift = shifts[i / 27];
		check_slot(&c);
	}
}

static void begin(enum quire_vm_type type)
{
	vm_begin_type(type);
	ops = sim_host_ops;
	ops.page_level = any_level;
	machine.vm->host = &ops;
	memset(&track, 0, sizeof(track));
	machine.vm->track = &track;
	checked = huge = 0;
}

static void end(void)
{
	sparse_free(&track.counts[0], &machine.vm->arena);
	machine.vm->track = NULL;
	machine.vm->nx.on = 0;
	print_message("%llu combinations, %llu of them huge\n", (unsigned long long)checked,
		      (unsigned long long)huge);
	assert_true(huge > 1000 && huge < checked / 2);
	vm_end();
}

static void make_file(uint64_t flags)
{
	assert_int_equal(
	    quire_gmem_create(machine.vm, FILE_PAGES << QUIRE_PAGE_SHIFT, flags, NULL, &file), 0);
}

static void test_client_memory(void **state)
{
	(void)state;
	begin(QUIRE_VM_DEFAULT);
	check_backing(BY_HVA);
	end();
}

/* No combination makes a logged slot huge. */
static void test_logged(void **state)
{
	(void)state;
	begin(QUIRE_VM_DEFAULT);
	check_backing(BY_HVA_LOGGED);
	assert_int_equal(huge, 0);
	huge = 1001;
	end();
}

static void test_private_memory(void **state)
{
	(void)state;
	begin(QUIRE_VM_SW_PROTECTED);
	make_file(0);
	check_backing(BY_FILE);
	quire_gmem_release(file);
	end();
}

static void test_file_alone(void **state)
{
	(void)state;
	begin(QUIRE_VM_DEFAULT);
	make_file(QUIRE_GMEM_MMAP | QUIRE_GMEM_INIT_SHARED);
	check_backing(BY_FILE_ALONE);
	quire_gmem_release(file);
	end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_client_memory),
	    cmocka_unit_test(test_logged),
	    cmocka_unit_test(test_private_memory),
	    cmocka_unit_test(test_file_alone),
	};

	int failed;

	/* No format is asked here. */
	machine_init(&machine);
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	machine_destroy(&machine);
	return failed;
}
