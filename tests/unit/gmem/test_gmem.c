/* guest_memfd: bindings, the way to a page, punch, poison, release, and all of it failing. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "src/base/reclaim.h"
#include "src/gmem/gmem.h"
#include "src/vm/vm.h"
#include "tests/unit/fake_host.h"

#define PAGES(n) ((u64)(n) << QUIRE_PAGE_SHIFT)
#define FILE_PAGES 1536u

/* What the imagined hardware was told. */
static struct {
	int error;
	u32 made;
	u32 made_order;
	u64 made_gfn;
	u64 reclaimed;
} arch;

static int arch_make_private(void *ctx, gfn_t gfn, pfn_t pfn, unsigned int order)
{
	assert_int_not_equal(pfn.v, 0);
	if (arch.error)
		return arch.error;
	__atomic_fetch_add(&arch.made, 1, __ATOMIC_RELAXED);
	__atomic_store_n(&arch.made_order, order, __ATOMIC_RELAXED);
	__atomic_store_n(&arch.made_gfn, gfn.v, __ATOMIC_RELAXED);
	return 0;
}

static void arch_reclaim(void *ctx, pfn_t pfn, u64 npages)
{
	assert_int_not_equal(pfn.v, 0);
	__atomic_fetch_add(&arch.reclaimed, npages, __ATOMIC_RELAXED);
}

static const struct gmem_arch_ops arch_ops = {
    .make_private = arch_make_private,
    .reclaim = arch_reclaim,
};
static const struct gmem_arch imagined = {.ops = &arch_ops};

/* Hardware that knows one gfn: the last. */
static int arch_is_private(void *ctx, gfn_t gfn, pfn_t pfn, unsigned int order)
{
	return gfn.v == arch.made_gfn;
}

static const struct gmem_arch_ops forgetful_ops = {
    .make_private = arch_make_private,
    .is_private = arch_is_private,
};
static const struct gmem_arch forgetful = {.ops = &forgetful_ops};

struct fixture {
	struct quire_vm *vm;
	struct quire_gmem *gmem;
	struct fake_store *store;
};

static void begin(struct fixture *f, enum quire_vm_type type, uint64_t flags, u32 huge)
{
	static struct quire_tunables tunables;
	struct quire_vm_config config = {
	    .type = type, .maxphyaddr = 48, .host = &fake_ops, .tunables = &tunables};

	fake_reset();
	memset(&arch, 0, sizeof(arch));
	tunables.gmem_huge_pages = huge;
	fake.huge = huge;
	assert_int_equal(quire_vm_create(&config, &f->vm), 0);
	f->vm->gmem_arch = &imagined;
	assert_int_equal(quire_gmem_create(f->vm, PAGES(FILE_PAGES), flags, NULL, &f->gmem), 0);
	f->store = quire_gmem_store(f->gmem);
}

static void release(struct quire_gmem *gmem)
{
	mutex_lock(&gmem->vm->slots_lock);
	rwlock_write_lock(&gmem->inode->invalidate_lock);
	gmem_release_begin(gmem);
	gmem_release_end(gmem);
	rwlock_write_unlock(&gmem->inode->invalidate_lock);
	mutex_unlock(&gmem->vm->slots_lock);
	gmem_release_free(gmem);
}

static void end(struct fixture *f)
{
	if (f->gmem)
		release(f->gmem);
	assert_int_equal(fake.stores, 0);
	quire_vm_put(f->vm);
	assert_int_equal(fake.live_allocs, 0);
	assert_int_equal(fake_reports, 0);
}

static struct memslot slot_of(u64 gfn, u64 npages)
{
	return (struct memslot){.base_gfn = {gfn}, .npages = npages, .flags = QUIRE_SLOT_GMEM};
}

static int bind(struct fixture *f, struct memslot *slot, u64 pgoff)
{
	struct gmem_binding_change change;
	int error;

	mutex_lock(&f->vm->slots_lock);
	error = gmem_bind_prepare(slot, f->vm, f->gmem, PAGES(pgoff));
	if (!error)
		error = gmem_bind_commit(slot, &change);
	if (!error)
		gmem_binding_finish(&change);
	mutex_unlock(&f->vm->slots_lock);
	if (error)
		slot->gmem.file = NULL;
	return error;
}

static int unbind(struct quire_vm *vm, struct memslot *slot)
{
	struct gmem_binding_change change;
	int error;

	mutex_lock(&vm->slots_lock);
	error = gmem_unbind_prepare(slot, &change);
	if (!error) {
		gmem_unbind_commit(&change);
		gmem_binding_finish(&change);
	}
	mutex_unlock(&vm->slots_lock);
	return error;
}

static int lookup(const struct memslot *slot, u64 gfn, enum gmem_access access,
		  struct gmem_lookup *result)
{
	int error;

	reclaim_enter();
	error = gmem_lookup_begin(slot, (gfn_t){gfn}, access, result);
	reclaim_leave();
	return error ? error : gmem_lookup_finish(result);
}

static void punch(struct fixture *f, u64 first, u64 npages)
{
	rwlock_write_lock(&f->gmem->inode->invalidate_lock);
	gmem_punch_pages(f->gmem->inode, first, npages);
	rwlock_write_unlock(&f->gmem->inode->invalidate_lock);
}

/* U-060, U-061, U-064. */
static void test_create(void **state)
{
	struct fixture f;
	struct quire_gmem *gmem;
	u64 live;

	begin(&f, QUIRE_VM_DEFAULT, 0, 0);
	for (u32 bit = 3; bit < 64; bit++)
		assert_int_equal(quire_gmem_create(f.vm, 0, 1ull << bit, NULL, &gmem), -EINVAL);
	assert_int_equal(quire_gmem_create(f.vm, 0, 0, NULL, &gmem), -EINVAL);
	assert_int_equal(quire_gmem_create(f.vm, 1, 0, NULL, &gmem), -EINVAL);
	assert_int_equal(quire_gmem_create(f.vm, 4095, 0, NULL, &gmem), -EINVAL);
	assert_int_equal(quire_gmem_create(f.vm, -PAGES(1), 0, NULL, &gmem), -EINVAL);
	assert_int_equal(quire_gmem_supported_flags(f.vm), 7);
	live = fake.live_allocs;
	for (u64 fail = 1; fail <= 2; fail++) {
		fake_fail_in(fail);
		assert_int_equal(quire_gmem_create(f.vm, PAGES(1), 0, NULL, &gmem), -ENOMEM);
		assert_int_equal(fake.live_allocs, live);
	}
	fake_fail_in(0);
	/* The largest size there is costs no more than the smallest. */
	assert_int_equal(quire_gmem_create(f.vm, INT64_MAX - 4095, 3, NULL, &gmem), 0);
	assert_int_equal(quire_gmem_size_bytes(gmem), INT64_MAX - 4095);
	assert_int_equal(quire_gmem_flags(gmem), 3);
	assert_int_equal(fake.live_allocs, live + 2);
	rwlock_write_lock(&gmem->inode->invalidate_lock);
	gmem_poison_page(gmem->inode, (INT64_MAX >> 12) - 1);
	gmem_punch_pages(gmem->inode, 0, UINT64_MAX);
	rwlock_write_unlock(&gmem->inode->invalidate_lock);
	release(gmem);
	end(&f);

	begin(&f, QUIRE_VM_SW_PROTECTED, 0, 0);
	assert_int_equal(quire_gmem_supported_flags(f.vm), QUIRE_GMEM_MMAP);
	assert_int_equal(quire_gmem_create(f.vm, PAGES(1), 2, NULL, &gmem), -EINVAL);
	end(&f);
}

/* U-036, U-038, C-010. */
static void test_bind_refused(void **state)
{
	struct fixture f;
	struct memslot slots[3] = {slot_of(0, 100), slot_of(1000, 100), slot_of(2000, 100)};

	begin(&f, QUIRE_VM_DEFAULT, QUIRE_GMEM_MMAP, 0);
	assert_int_equal(gmem_bind_prepare(&slots[0], NULL, f.gmem, 0), -EINVAL);
	assert_int_equal(bind(&f, &slots[0], FILE_PAGES - 99), -EINVAL);
	assert_int_equal(gmem_bind_prepare(&slots[0], f.vm, f.gmem, -PAGES(1)), -EINVAL);
	assert_int_equal(bind(&f, &slots[0], FILE_PAGES - 100), 0);
	assert_true(slots[0].flags & MEMSLOT_GMEM_ONLY);
	assert_int_equal(bind(&f, &slots[1], FILE_PAGES - 199), -EEXIST);
	assert_int_equal(bind(&f, &slots[1], FILE_PAGES - 200), 0);
	assert_int_equal(bind(&f, &slots[2], FILE_PAGES - 150), -EEXIST);
	assert_int_equal(unbind(f.vm, &slots[0]), 0);
	assert_null(slots[0].gmem.file);
	assert_int_equal(unbind(f.vm, &slots[0]), 0);
	assert_int_equal(bind(&f, &slots[2], FILE_PAGES - 100), 0);
	end(&f);
	/* I-16 */
	assert_null(slots[1].gmem.file);
	assert_null(slots[2].gmem.file);
}

#define SLOTS 40u

/* I-10 and I-11, by looking at every index. */
static void check_bindings(struct fixture *f, struct memslot *slots)
{
	u64 bound = 0, shown = 0;
	struct gmem_binding_iter iter;
	struct gmem_binding binding;
	u64 last = 0;

	gmem_for_binding(f->gmem->inode, 0, UINT64_MAX, &iter, &binding)
	{
		const struct memslot *slot = binding.slot;

		assert_ptr_equal(binding.file, f->gmem);
		assert_ptr_equal(slot->gmem.file, f->gmem);
		assert_true(slot->gmem.pgoff >= last);
		last = slot->gmem.pgoff + slot->npages;
		assert_int_equal(binding.npages, slot->npages);
		assert_int_equal(binding.gfn.v, slot->base_gfn.v);
		shown++;
	}
	for (u32 i = 0; i < SLOTS; i++)
		bound += slots[i].gmem.file != NULL;
	assert_int_equal(bound, shown);
}

static int model_overlap(const struct memslot *slots, u64 pgoff, u64 npages)
{
	for (u32 i = 0; i < SLOTS; i++)
		if (slots[i].gmem.file && slots[i].gmem.pgoff < pgoff + npages &&
		    pgoff < slots[i].gmem.pgoff + slots[i].npages)
			return 1;
	return 0;
}

/* Bind and unbind at random; each step fails at every allocation first, and is undone once. */
static void test_bind_model(void **state)
{
	struct memslot slots[SLOTS];
	struct gmem_binding_change change;
	struct fixture f;
	u32 failed = 0;

	memset(slots, 0, sizeof(slots));
	begin(&f, QUIRE_VM_DEFAULT, 0, 0);
	srand(9);
	for (u32 round = 0; round < 3000; round++) {
		struct memslot *slot = &slots[(u32)rand() % SLOTS];
		u64 live = fake.live_allocs;
		u64 pgoff = (u64)rand() % (FILE_PAGES - 60);
		bool undo = rand() % 3 == 0;
		int error, want = 0;

		mutex_lock(&f.vm->slots_lock);
		fake_fail_in((u64)rand() % 5);
		if (slot->gmem.file) {
			error = gmem_unbind_prepare(slot, &change);
			if (!error)
				gmem_unbind_commit(&change);
		} else {
			*slot = slot_of(round * 100, 1 + (u64)rand() % 60);
			want = model_overlap(slots, pgoff, slot->npages) ? -EEXIST : 0;
			assert_int_equal(gmem_bind_prepare(slot, f.vm, f.gmem, PAGES(pgoff)), 0);
			error = gmem_bind_commit(slot, &change);
			if (error)
				slot->gmem.file = NULL;
		}
		fake_fail_in(0);
		failed += error == -ENOMEM;
		if (error != -ENOMEM)
			assert_int_equal(error, want);
		if (error)
			assert_int_equal(fake.live_allocs, live);
		else if (undo)
			gmem_binding_undo(&change);
		else
			gmem_binding_finish(&change);
		mutex_unlock(&f.vm->slots_lock);
		if (undo)
			assert_int_equal(fake.live_allocs, live);
		check_bindings(&f, slots);
	}
	assert_true(failed > 100);
	end(&f);
}

/* Parts of slots in a range of indices. */
static void test_binding_ranges(void **state)
{
	struct memslot slots[2] = {slot_of(1000, 10), slot_of(50, 10)};
	struct gmem_binding_iter iter;
	struct gmem_binding binding;
	struct fixture f;

	begin(&f, QUIRE_VM_DEFAULT, 0, 0);
	assert_int_equal(bind(&f, &slots[0], 20), 0);
	assert_int_equal(bind(&f, &slots[1], 30), 0);
	assert_int_equal(gmem_binding_first(f.gmem->inode, 25, 8, &iter, &binding), 1);
	assert_ptr_equal(binding.slot, &slots[0]);
	assert_int_equal(binding.gfn.v, 1005);
	assert_int_equal(binding.npages, 5);
	assert_int_equal(gmem_binding_next(&iter, &binding), 1);
	assert_ptr_equal(binding.slot, &slots[1]);
	assert_int_equal(binding.gfn.v, 50);
	assert_int_equal(binding.npages, 3);
	assert_int_equal(gmem_binding_next(&iter, &binding), 0);
	assert_int_equal(gmem_binding_next(&iter, &binding), 0);
	assert_int_equal(gmem_binding_first(f.gmem->inode, 0, 20, &iter, &binding), 0);
	assert_int_equal(gmem_binding_first(f.gmem->inode, 40, 100, &iter, &binding), 0);
	end(&f);
}

/* G-020 to G-027, each in its turn. */
static void test_lookup_order(void **state)
{
	struct memslot slot = slot_of(100, 10), stranger = slot_of(300, 10);
	struct gmem_lookup result;
	struct fixture f;

	begin(&f, QUIRE_VM_SW_PROTECTED, 0, 0);
	assert_int_equal(lookup(&slot, 100, GMEM_PRIVATE, &result), -EFAULT);
	assert_int_equal(bind(&f, &slot, 5), 0);
	stranger.gmem = slot.gmem;
	assert_int_equal(lookup(&stranger, 300, GMEM_PRIVATE, &result), -EIO);

	/* Each failure keeps what was reached before it, and the next try goes on from there. */
	fake.get_error = -ENOMEM;
	assert_int_equal(lookup(&slot, 103, GMEM_PRIVATE, &result), -ENOMEM);
	fake.get_error = 0;
	fake.zero_error = -EHWPOISON;
	assert_int_equal(lookup(&slot, 103, GMEM_PRIVATE, &result), -EHWPOISON);
	assert_int_equal(f.store->pages[8].content, FAKE_GARBAGE);
	fake.zero_error = 0;
	arch.error = -EINVAL;
	assert_int_equal(lookup(&slot, 103, GMEM_PRIVATE, &result), -EINVAL);
	assert_int_equal(f.store->pages[8].content, 0); /* I-14 */
	f.store->pages[8].content = 77;
	arch.error = 0;
	assert_int_equal(lookup(&slot, 103, GMEM_PRIVATE, &result), 0);
	assert_int_equal(result.pfn.v, f.store->pages[8].pfn);
	assert_int_equal(result.order, 0);
	assert_int_equal(f.store->pages[8].content, 77); /* zeroed once */
	assert_int_equal(f.store->pages[8].zeroed, 1);
	assert_int_equal(arch.made, 1);
	assert_int_equal(arch.made_gfn, 103);
	assert_int_equal(fake.gets, 1);

	/* Found at once the next time; no step is done twice. */
	reclaim_enter();
	assert_int_equal(gmem_lookup_begin(&slot, (gfn_t){103}, GMEM_PRIVATE, &result), 0);
	reclaim_leave();
	assert_true(result.found);
	assert_null(result.file);
	assert_int_equal(gmem_lookup_finish(&result), 0);
	assert_int_equal(arch.made, 1);
	end(&f);
	assert_int_equal(arch.reclaimed, 1);
	assert_int_equal(lookup(&slot, 103, GMEM_PRIVATE, &result), -EFAULT);
}

/* Shared pages are not made private; a page that was shared is when it is used privately. */
static void test_shared_access(void **state)
{
	struct memslot slot = slot_of(0, 10);
	struct gmem_lookup result;
	struct fixture f;

	begin(&f, QUIRE_VM_DEFAULT, 3, 0);
	assert_int_equal(bind(&f, &slot, 0), 0);
	assert_int_equal(lookup(&slot, 1, GMEM_SHARED, &result), 0);
	assert_int_equal(arch.made, 0);
	assert_int_equal(f.store->pages[1].content, 0);
	assert_int_equal(lookup(&slot, 1, GMEM_PRIVATE, &result), 0);
	assert_int_equal(arch.made, 1);
	punch(&f, 0, 1);
	assert_int_equal(arch.reclaimed, 0);
	punch(&f, 1, 1);
	assert_int_equal(arch.reclaimed, 1);
	end(&f);
	assert_int_equal(arch.reclaimed, 1);
}

/* C-048: what was punched is new, and reads as zero; the rest stays (I-17). */
static void test_punch(void **state)
{
	struct memslot slot = slot_of(0, FILE_PAGES);
	struct gmem_lookup result;
	struct fixture f;
	static u64 content[FILE_PAGES];

	begin(&f, QUIRE_VM_DEFAULT, 0, 0);
	fake.scatter = 1;
	memset(content, 0, sizeof(content));
	assert_int_equal(bind(&f, &slot, 0), 0);
	srand(10);
	for (u32 round = 0; round < 4000; round++) {
		u64 index = (u64)rand() % FILE_PAGES;

		if (rand() % 40 == 0) {
			u64 npages = (u64)rand() % 700;

			punch(&f, index, npages);
			for (u64 i = index; i < index + npages && i < FILE_PAGES; i++)
				content[i] = 0;
			continue;
		}
		assert_int_equal(lookup(&slot, index, rand() & 1, &result), 0);
		assert_int_equal(result.pfn.v, f.store->pages[index].pfn);
		assert_int_equal(f.store->pages[index].content, content[index]);
		content[index] = f.store->pages[index].content = round + 1;
	}
	end(&f);
	assert_int_equal(arch.reclaimed, arch.made);
}

static int interrupted_after;
static int interrupted(void)
{
	return interrupted_after-- == 0;
}

/* U-071, C-050. */
static void test_allocate(void **state)
{
	struct memslot slot = slot_of(0, 10);
	struct gmem_lookup result;
	struct fixture f;

	begin(&f, QUIRE_VM_DEFAULT, 0, 0);
	assert_int_equal(quire_gmem_allocate(f.gmem, 1, PAGES(1), NULL), -EINVAL);
	assert_int_equal(quire_gmem_allocate(f.gmem, 0, 1, NULL), -EINVAL);
	assert_int_equal(quire_gmem_allocate(f.gmem, PAGES(FILE_PAGES), PAGES(1), NULL), -EINVAL);
	assert_int_equal(quire_gmem_allocate(f.gmem, PAGES(1), PAGES(FILE_PAGES), NULL), -EINVAL);
	assert_int_equal(quire_gmem_allocate(f.gmem, PAGES(1), -PAGES(1), NULL), -EINVAL);
	interrupted_after = 3;
	assert_int_equal(quire_gmem_allocate(f.gmem, 0, PAGES(10), interrupted), -EINTR);
	assert_int_equal(fake.gets, 3);
	fake.get_error = -ENOMEM;
	assert_int_equal(quire_gmem_allocate(f.gmem, 0, PAGES(10), NULL), -ENOMEM);
	fake.get_error = 0;
	assert_int_equal(quire_gmem_allocate(f.gmem, 0, PAGES(FILE_PAGES), NULL), 0);
	assert_int_equal(fake.gets, FILE_PAGES);
	assert_int_equal(f.store->pages[2].content, FAKE_GARBAGE);
	assert_int_equal(bind(&f, &slot, 0), 0);
	assert_int_equal(lookup(&slot, 2, GMEM_SHARED, &result), 0);
	assert_int_equal(f.store->pages[2].content, 0);
	assert_int_equal(fake.gets, FILE_PAGES);
	end(&f);
}

/* G-024, G-050: lost until it is punched. */
static void test_poison(void **state)
{
	struct memslot slot = slot_of(0, 10);
	struct gmem_lookup result;
	struct fixture f;

	begin(&f, QUIRE_VM_DEFAULT, 0, 0);
	assert_int_equal(bind(&f, &slot, 0), 0);
	assert_int_equal(lookup(&slot, 1, GMEM_SHARED, &result), 0);
	rwlock_read_lock(&f.gmem->inode->invalidate_lock);
	gmem_poison_page(f.gmem->inode, 1);
	gmem_poison_page(f.gmem->inode, 2);
	gmem_poison_page(f.gmem->inode, FILE_PAGES + 1);
	rwlock_read_unlock(&f.gmem->inode->invalidate_lock);
	assert_int_equal(lookup(&slot, 1, GMEM_SHARED, &result), -EHWPOISON);
	assert_int_equal(lookup(&slot, 2, GMEM_SHARED, &result), -EHWPOISON);
	assert_int_equal(lookup(&slot, 3, GMEM_SHARED, &result), 0);
	assert_int_equal(quire_gmem_allocate(f.gmem, 0, PAGES(4), NULL), 0);
	assert_int_equal(lookup(&slot, 1, GMEM_SHARED, &result), -EHWPOISON);
	punch(&f, 1, 2);
	assert_int_equal(lookup(&slot, 1, GMEM_SHARED, &result), 0);
	assert_int_equal(lookup(&slot, 2, GMEM_SHARED, &result), 0);
	end(&f);
}

/* A page is lost before the library knew of it, and there is no memory to note it in. */
static void test_poison_without_memory(void **state)
{
	struct memslot slot = slot_of(0, 10);
	struct gmem_lookup result;
	struct fixture f;

	begin(&f, QUIRE_VM_DEFAULT, 0, 0);
	assert_int_equal(bind(&f, &slot, 0), 0);
	rwlock_read_lock(&f.gmem->inode->invalidate_lock);
	for (u64 page = 1; page <= 2; page++) {
		fake.fail_at = fake.allocs + 1;
		gmem_poison_page(f.gmem->inode, page);
	}
	fake.fail_at = 0;
	rwlock_read_unlock(&f.gmem->inode->invalidate_lock);
	punch(&f, 2, 1);
	assert_int_equal(lookup(&slot, 2, GMEM_SHARED, &result), 0);
	assert_int_equal(lookup(&slot, 1, GMEM_SHARED, &result), -EHWPOISON);
	assert_int_equal(quire_gmem_allocate(f.gmem, 0, PAGES(4), NULL), 0);
	assert_int_equal(lookup(&slot, 1, GMEM_SHARED, &result), -EHWPOISON);
	assert_int_equal(lookup(&slot, 3, GMEM_SHARED, &result), 0);
	/* The block has heard of it: there is room for other lost pages. */
	for (u32 i = 0; i < GMEM_LOST_PAGES; i++)
		assert_int_equal(f.gmem->inode->pages.lost[i], 0);
	punch(&f, 1, 1);
	assert_int_equal(lookup(&slot, 1, GMEM_SHARED, &result), 0);
	end(&f);
}

/* More than can be noted: then none of the pages whose blocks are not there yet is believed. */
static void test_poison_of_many_without_memory(void **state)
{
	struct memslot slot = slot_of(0, FILE_PAGES);
	struct gmem_lookup result;
	struct fixture f;

	begin(&f, QUIRE_VM_DEFAULT, 0, 0);
	assert_int_equal(bind(&f, &slot, 0), 0);
	rwlock_read_lock(&f.gmem->inode->invalidate_lock);
	for (u64 page = 0; page <= GMEM_LOST_PAGES; page++) {
		fake.fail_at = fake.allocs + 1;
		gmem_poison_page(f.gmem->inode, page);
	}
	fake.fail_at = 0;
	rwlock_read_unlock(&f.gmem->inode->invalidate_lock);
	for (u64 page = 0; page <= GMEM_LOST_PAGES; page++)
		assert_int_equal(lookup(&slot, page, GMEM_SHARED, &result), -EHWPOISON);
	punch(&f, 0, FILE_PAGES);
	for (u64 page = 0; page < FILE_PAGES; page++)
		assert_int_equal(lookup(&slot, page, GMEM_SHARED, &result), 0);
	end(&f);
}

static struct gmem_inode *losing;

static void lose_many(void)
{
	for (u64 page = 0; page <= GMEM_LOST_PAGES; page++) {
		fake.fail_at = fake.allocs + 1;
		gmem_page_poison(&losing->pages, page);
	}
	fake.fail_at = 0;
}

/* The same while another thread makes their block. */
static void test_poison_of_many_meanwhile(void **state)
{
	struct memslot slot = slot_of(0, FILE_PAGES);
	struct gmem_lookup result;
	struct fixture f;

	begin(&f, QUIRE_VM_DEFAULT, 0, 0);
	assert_int_equal(bind(&f, &slot, 0), 0);
	losing = f.gmem->inode;
	fake.meanwhile = lose_many;
	for (u64 page = GMEM_LOST_PAGES + 1; page; page--)
		assert_int_equal(lookup(&slot, page - 1, GMEM_SHARED, &result), -EHWPOISON);
	end(&f);
}

/* A page costs a byte where frames are consecutive: under 0.1 % of what it holds. */
static void test_metadata(void **state)
{
	struct memslot slot = slot_of(0, FILE_PAGES);
	struct gmem_lookup result;
	struct fixture f;
	u64 before;

	begin(&f, QUIRE_VM_DEFAULT, 0, 0);
	assert_int_equal(bind(&f, &slot, 0), 0);
	before = fake.live_bytes;
	for (u64 i = 0; i < FILE_PAGES; i++)
		assert_int_equal(lookup(&slot, i, GMEM_SHARED, &result), 0);
	/* The radix node serves a gibibyte, of which this file is the smallest part. */
	assert_in_range(fake.live_bytes - before, FILE_PAGES, 4096 + FILE_PAGES * 4096 / 1000);
	end(&f);
}

/* Orders: given by the host, used where file and guest agree, lost by a partial punch. */
static void test_huge(void **state)
{
	struct memslot slot = slot_of(1024, 1024), skewed = slot_of(5001, 512);
	struct gmem_lookup result;
	struct fixture f;

	begin(&f, QUIRE_VM_SW_PROTECTED, 0, 1);
	assert_int_equal(bind(&f, &slot, 0), 0);
	assert_int_equal(bind(&f, &skewed, 1024), 0);
	assert_int_equal(lookup(&slot, 1024 + 700, GMEM_PRIVATE, &result), 0);
	assert_int_equal(result.order, 9);
	assert_int_equal(result.pfn.v, f.store->pages[700].pfn);
	assert_int_equal(arch.made, 1);
	assert_int_equal(arch.made_order, 9);
	assert_int_equal(arch.made_gfn, 1024 + 512);
	assert_int_equal(f.store->pages[512].zeroed + f.store->pages[1023].zeroed, 2);
	assert_int_equal(lookup(&slot, 1024 + 513, GMEM_PRIVATE, &result), 0);
	assert_int_equal(result.order, 9);
	assert_int_equal(arch.made, 1);

	punch(&f, 600, 1);
	assert_int_equal(arch.reclaimed, 1);
	assert_int_equal(lookup(&slot, 1024 + 700, GMEM_PRIVATE, &result), 0);
	assert_int_equal(result.order, 0);
	punch(&f, 512, 512);
	assert_int_equal(arch.reclaimed, 512);
	assert_int_equal(lookup(&slot, 1024 + 600, GMEM_PRIVATE, &result), 0);
	assert_int_equal(result.order, 9);

	/* The file has a block; the guest sees it off by one. */
	assert_int_equal(lookup(&skewed, 5001, GMEM_PRIVATE, &result), 0);
	assert_int_equal(result.order, 0);
	assert_int_equal(result.pfn.v, f.store->pages[1024].pfn);
	rwlock_read_lock(&f.gmem->inode->invalidate_lock);
	gmem_poison_page(f.gmem->inode, 900);
	rwlock_read_unlock(&f.gmem->inode->invalidate_lock);
	assert_int_equal(lookup(&slot, 1024 + 600, GMEM_PRIVATE, &result), 0);
	assert_int_equal(result.order, 0);
	end(&f);
	assert_int_equal(arch.reclaimed, 512 + 512 + 1);
}

/* G-060 to G-062: the release comes between the two halves of a lookup, and before an unbind. */
static void test_release(void **state)
{
	struct memslot slot = slot_of(0, 10);
	struct gmem_lookup result, late;
	struct fixture f;

	begin(&f, QUIRE_VM_DEFAULT, 0, 0);
	assert_int_equal(bind(&f, &slot, 0), 0);
	reclaim_enter();
	assert_int_equal(gmem_lookup_begin(&slot, (gfn_t){1}, GMEM_SHARED, &late), 0);
	reclaim_leave();
	assert_non_null(late.file);
	release(f.gmem);
	f.gmem = NULL;
	assert_null(slot.gmem.file);
	assert_int_equal(fake.stores, 1); /* pinned by the lookup */
	assert_int_equal(lookup(&slot, 1, GMEM_SHARED, &result), -EFAULT);
	assert_int_equal(unbind(f.vm, &slot), 0);
	assert_int_equal(gmem_lookup_finish(&late), 0);
	assert_int_equal(fake.stores, 0);
	end(&f);
}

/* A lookup waits while the page is bound elsewhere and made private there: it claims nothing. */
static void test_stale(void **state)
{
	struct memslot slot = slot_of(0, 10), elsewhere = slot_of(500, 10), part = slot_of(0, 3);
	struct gmem_lookup result, late[3];
	struct fixture f;

	begin(&f, QUIRE_VM_SW_PROTECTED, 0, 0);
	f.gmem->inode->arch = &forgetful;
	assert_int_equal(bind(&f, &slot, 0), 0);
	reclaim_enter();
	for (u64 i = 0; i < 3; i++)
		assert_int_equal(gmem_lookup_begin(&slot, (gfn_t){2 * i}, GMEM_PRIVATE, &late[i]),
				 0);
	reclaim_leave();
	assert_int_equal(unbind(f.vm, &slot), 0);
	assert_int_equal(bind(&f, &elsewhere, 0), 0);
	assert_int_equal(lookup(&elsewhere, 500, GMEM_PRIVATE, &result), 0);
	assert_int_equal(arch.made, 1);
	assert_int_equal(gmem_lookup_finish(&late[0]), -ESTALE);
	assert_int_equal(arch.made, 1);
	assert_int_equal(arch.made_gfn, 500);
	/* Back where it was, by a slot that has gfn 2 and no longer gfn 4. */
	assert_int_equal(unbind(f.vm, &elsewhere), 0);
	assert_int_equal(bind(&f, &part, 0), 0);
	assert_int_equal(gmem_lookup_finish(&late[1]), 0);
	assert_int_equal(arch.made_gfn, 2);
	assert_int_equal(gmem_lookup_finish(&late[2]), -ESTALE);
	assert_int_equal(arch.made, 2);
	end(&f);
}

/* The same for a whole block, of which the new slot has only the beginning. */
static void test_stale_block(void **state)
{
	struct memslot slot = slot_of(0, 512), part = slot_of(0, 300);
	struct gmem_lookup result, late;
	struct fixture f;

	begin(&f, QUIRE_VM_SW_PROTECTED, 0, 1);
	assert_int_equal(bind(&f, &slot, 0), 0);
	reclaim_enter();
	assert_int_equal(gmem_lookup_begin(&slot, (gfn_t){7}, GMEM_PRIVATE, &late), 0);
	reclaim_leave();
	assert_int_equal(unbind(f.vm, &slot), 0);
	assert_int_equal(bind(&f, &part, 0), 0);
	assert_int_equal(gmem_lookup_finish(&late), -ESTALE);
	assert_int_equal(arch.made, 0);
	assert_int_equal(lookup(&part, 7, GMEM_PRIVATE, &result), 0);
	assert_int_equal(arch.made_order, 0);
	end(&f);
}

struct race {
	struct fixture f;
	struct memslot slot;
	u32 stop;
};

static void *toucher(void *arg)
{
	struct race *race = arg;
	struct gmem_lookup result;
	u64 bad = 0;

	for (u64 i = 0; !__atomic_load_n(&race->stop, __ATOMIC_RELAXED); i++) {
		int error = lookup(&race->slot, i * 7 % 64, i & 1, &result);

		bad += error && error != -EFAULT && error != -ESTALE;
	}
	return (void *)(uintptr_t)bad;
}

/* Lookups against punch, unbind and its undoing, and at last the release. */
static void test_races(void **state)
{
	struct race race = {.slot = slot_of(0, 64)};
	struct gmem_binding_change change;
	pthread_t threads[2];

	begin(&race.f, QUIRE_VM_DEFAULT, 0, 0);
	assert_int_equal(bind(&race.f, &race.slot, 0), 0);
	for (u32 i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, toucher, &race), 0);
	/* Not before the threads have made a fair number of pages. */
	for (u32 round = 0; round < 300 || __atomic_load_n(&arch.made, __ATOMIC_RELAXED) < 500;
	     round++) {
		punch(&race.f, round % 64, 1 + round % 9);
		if (round % 10)
			continue;
		mutex_lock(&race.f.vm->slots_lock);
		assert_int_equal(gmem_unbind_prepare(&race.slot, &change), 0);
		gmem_unbind_commit(&change);
		gmem_binding_undo(&change);
		mutex_unlock(&race.f.vm->slots_lock);
	}
	release(race.f.gmem);
	race.f.gmem = NULL;
	__atomic_store_n(&race.stop, 1, __ATOMIC_RELAXED);
	for (u32 i = 0; i < 2; i++) {
		void *bad;

		pthread_join(threads[i], &bad);
		assert_null(bad);
	}
	end(&race.f);
	assert_int_equal(arch.reclaimed, arch.made);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_create),
	    cmocka_unit_test(test_bind_refused),
	    cmocka_unit_test(test_bind_model),
	    cmocka_unit_test(test_binding_ranges),
	    cmocka_unit_test(test_lookup_order),
	    cmocka_unit_test(test_shared_access),
	    cmocka_unit_test(test_punch),
	    cmocka_unit_test(test_allocate),
	    cmocka_unit_test(test_poison),
	    cmocka_unit_test(test_poison_without_memory),
	    cmocka_unit_test(test_poison_of_many_without_memory),
	    cmocka_unit_test(test_poison_of_many_meanwhile),
	    cmocka_unit_test(test_metadata),
	    cmocka_unit_test(test_huge),
	    cmocka_unit_test(test_release),
	    cmocka_unit_test(test_stale),
	    cmocka_unit_test(test_stale_block),
	    cmocka_unit_test(test_races),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
