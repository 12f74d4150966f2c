/*
 * Parts of guest_memfd that are read without a lock, each by itself: blocks of pages, lost pages,
 * bindings, the end of a file, the reverse map. As in parts.c a plain word stands for what must not
 * be touched too early: what the host did to a page, or the hardware to a frame.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/reclaim.h"
#include "src/gmem/block.h"
#include "src/gmem/gmem.h"
#include "src/gmem/rmp.h"
#include "src/vm/vm.h"
#include "tests/sim/order/part_host.h"

#define PAGE 5u
#define LAST (GMEM_BLOCK_PAGES - 1)
#define USED (GMEM_PAGE_EXISTS | GMEM_PAGE_UP_TO_DATE)

static struct {
	struct gmem_pages pages;
	struct quire_vm *vm;
	struct quire_gmem *file;
	struct memslot *slots[2];
	const struct gmem_arch *arch;
	u32 told[GMEM_BLOCK_PAGES]; /* what hears that a frame changes hands notes it here */
} part;

static void pages_setup(void *ctx)
{
	(void)ctx;
	part_host_start();
	memset(&part, 0, sizeof(part));
	gmem_pages_init(&part.pages, &part_host, NULL, PART_PAGES);
}

static void use_page(u64 index)
{
	struct gmem_page page;

	if (gmem_page_use(&part.pages, index, NULL, &page))
		abort();
}

/* A page that is up to date is where it is said to be, and zeroed. */
static void look_at_page(u64 index)
{
	struct gmem_page page;

	gmem_page_read(&part.pages, index, &page);
	if (!(page.state & GMEM_PAGE_UP_TO_DATE))
		return;
	part_expect(page.pfn.v == PART_FRAME + (part_store.scattered ? 2 * index : index));
	(void)part_look(&part_store.pages[index]);
}

static void page_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread)
		use_page(PAGE);
	else
		look_at_page(PAGE);
}

/* The frames of pages 1 and 5 do not follow that of page 0, so the block has a list of them. */
static void scattered_setup(void *ctx)
{
	pages_setup(ctx);
	part_store.scattered = 1;
	use_page(0);
}

static void makers_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	use_page(thread ? PAGE : 1);
	look_at_page(thread ? PAGE : 1);
}

static struct gmem_block *block_of_page(void)
{
	struct gmem_block *block = gmem_block_make(&part.pages, 0);

	if (!block)
		abort();
	return block;
}

/* All pages of the block but @off have @state. */
static void block_setup(u32 off, u32 state)
{
	for (u32 i = 0; i < GMEM_BLOCK_PAGES; i++)
		if (i != off)
			gmem_block_set(block_of_page(), i, state);
}

static void unit_setup(void *ctx)
{
	pages_setup(ctx);
	block_setup(LAST, USED);
	gmem_block_set(block_of_page(), LAST, GMEM_PAGE_EXISTS);
}

/* The last page of the unit is zeroed: then all of them are. */
static void unit_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread) {
		part_touch(&part_store.pages[LAST]);
		gmem_block_set(block_of_page(), LAST, GMEM_PAGE_UP_TO_DATE);
	} else if (gmem_unit_has(&part.pages, PAGE, GMEM_BLOCK_ORDER, USED)) {
		(void)part_look(&part_store.pages[LAST]);
	}
}

/* Was the block one unit when the page's loss was told of? A fault would have mapped the page. */
static bool was_unit;

static void join_setup(void *ctx)
{
	pages_setup(ctx);
	block_setup(GMEM_BLOCK_PAGES, GMEM_PAGE_EXISTS);
	was_unit = false;
}

/* A block becomes one unit, or a page of it is lost. */
static void join_or_lose(bool loses)
{
	if (loses) {
		gmem_page_poison(&part.pages, PAGE);
		was_unit = gmem_block_is_unit(block_of_page());
		return;
	}
	rwlock_read_lock(&part.pages.punch_lock);
	gmem_block_join(block_of_page());
	rwlock_read_unlock(&part.pages.punch_lock);
}

static void join_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	join_or_lose(thread);
}

/* The other one begins: few preemptions reach other interleavings. */
static void lose_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	join_or_lose(!thread);
}

static bool is_no_unit(void *ctx)
{
	(void)ctx;
	return !was_unit && !gmem_block_is_unit(gmem_block_find(&part.pages, 0));
}

static bool is_lost(const struct gmem_block *block)
{
	return gmem_block_state(block, PAGE) & GMEM_PAGE_POISONED;
}

/* A page is lost before its block is there, without memory to make one, while another makes it. */
static void lost_setup(void *ctx)
{
	pages_setup(ctx);
	part_store.starved = 1 + 1;
}

static void lost_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread)
		gmem_page_poison(&part.pages, PAGE);
	else
		(void)block_of_page();
}

static bool is_lost_then(void *ctx)
{
	(void)ctx;
	return is_lost(gmem_block_find(&part.pages, 0));
}

/* It was lost before: both makers know. */
static void lost_before_setup(void *ctx)
{
	pages_setup(ctx);
	part_store.starved = PART_SETUP + 1;
	gmem_page_poison(&part.pages, PAGE);
	part_store.starved = 0;
}

static void lost_before_body(uint32_t thread, void *ctx)
{
	(void)thread;
	(void)ctx;
	part_expect(is_lost(block_of_page()));
}

/* So many were lost that all count as lost, but for those there are. */
static void all_lost_setup(void *ctx)
{
	pages_setup(ctx);
	block_setup(PAGE, GMEM_PAGE_EXISTS);
	block_of_page()->heard = 0;
	part.pages.all_lost = 1;
}

/* Hooks of hardware: what it does to a frame is done when the frame is found to be so. */
static int tell_private(void *ctx, u64 index, pfn_t pfn, unsigned int order)
{
	(void)ctx;
	(void)index;
	(void)order;
	part_touch(&part.told[pfn.v - PART_FRAME]);
	return 0;
}

static int tell_shared(void *ctx, u64 index, pfn_t pfn)
{
	return tell_private(ctx, index, pfn, 0);
}

static void prepared_setup(void *ctx)
{
	const struct gmem_prepare prepare = {.make_private = tell_private};
	struct gmem_page page;

	pages_setup(ctx);
	if (gmem_page_use(&part.pages, PAGE, &prepare, &page))
		abort();
}

static void share_page(void)
{
	const struct gmem_prepare prepare = {.make_shared = tell_shared};
	struct gmem_page page;

	if (gmem_page_use(&part.pages, PAGE, &prepare, &page))
		abort();
}

static void shared_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread)
		share_page();
	else if (!gmem_unit_any(&part.pages, PAGE, 0, GMEM_PAGE_PREPARED))
		(void)part_look(&part.told[PAGE]);
}

static void tell_pages(void *ctx, pfn_t pfn, u64 npages)
{
	(void)tell_private(ctx, 0, (pfn_t){pfn.v + npages - 1}, 0);
}

/* By a conversion of all pages of a word. */
static void converted_body(uint32_t thread, void *ctx)
{
	const struct gmem_frames frames = {.tell = tell_pages};

	if (thread)
		gmem_pages_make_shared(&part.pages, 0, GMEM_WORD_PAGES, &frames);
	else
		shared_body(thread, ctx);
}

/* The pages of a word but the first, which is made while all are told of. */
static void word_setup(void *ctx)
{
	pages_setup(ctx);
	for (u32 i = 1; i < GMEM_WORD_PAGES; i++)
		use_page(i);
}

static void count_pages(void *ctx, pfn_t pfn, u64 npages)
{
	part_expect(pfn.v >= PART_FRAME && pfn.v + npages <= PART_FRAME + GMEM_WORD_PAGES);
	*(u64 *)ctx += npages;
}

static void word_body(uint32_t thread, void *ctx)
{
	u64 told = 0;
	const struct gmem_frames frames = {.tell = count_pages, .ctx = &told};

	(void)ctx;
	if (thread) {
		use_page(0);
		return;
	}
	gmem_pages_tell(&part.pages, 0, GMEM_WORD_PAGES, &frames);
	part_expect(told >= GMEM_WORD_PAGES - 1);
}

/* The same question of a whole unit. */
static void shared_unit_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread)
		share_page();
	else if (!gmem_unit_any(&part.pages, PAGE, GMEM_BLOCK_ORDER, GMEM_PAGE_PREPARED))
		(void)part_look(&part.told[PAGE]);
}

/* A file of a VM, and a slot that shows the first half of it from gfn 0 on. */
static void bind(u32 number)
{
	const struct quire_region region = {.gpa = {(u64)number << 32},
					    .size_bytes = PART_PAGES / 2 * QUIRE_PAGE_SIZE};
	struct memslot *slot = memslot_alloc(part.vm, &region);
	struct gmem_binding_change change;

	part.slots[number] = slot;
	mutex_lock(&part.vm->slots_lock);
	if (gmem_bind_prepare(slot, part.vm, part.file, number * region.size_bytes) ||
	    gmem_bind_commit(slot, &change))
		abort();
	gmem_binding_finish(&change);
	mutex_unlock(&part.vm->slots_lock);
}

static void file_setup(void *ctx)
{
	(void)ctx;
	memset(&part, 0, sizeof(part));
	part.vm = part_vm_start(QUIRE_VM_DEFAULT, NULL);
	if (quire_gmem_create(part.vm, PART_PAGES * QUIRE_PAGE_SIZE, QUIRE_GMEM_MMAP, NULL,
			      &part.file))
		abort();
	bind(0);
}

/* What a fault is told of the page: 0, or that there is none. */
static int look_up(void)
{
	struct gmem_lookup lookup;
	int error;

	reclaim_enter();
	error = gmem_lookup_begin(part.slots[0], (gfn_t){PAGE}, GMEM_SHARED, &lookup);
	reclaim_leave();
	return error ? error : gmem_lookup_finish(&lookup);
}

/* Another slot is bound meanwhile. */
static void bind_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread)
		bind(1);
	else
		part_expect(!look_up());
}

/* The slot is to go, and stays. No binding contradicts its slot meanwhile. */
static void undo_body(uint32_t thread, void *ctx)
{
	struct gmem_binding_change change;
	int error;

	(void)ctx;
	if (!thread) {
		error = look_up();
		part_expect(!error || error == -EFAULT);
		return;
	}
	mutex_lock(&part.vm->slots_lock);
	if (gmem_unbind_prepare(part.slots[0], &change))
		abort();
	gmem_unbind_commit(&change);
	gmem_binding_undo(&change);
	mutex_unlock(&part.vm->slots_lock);
}

static void release(void)
{
	mutex_lock(&part.vm->slots_lock);
	rwlock_write_lock(&part.file->inode->invalidate_lock);
	gmem_release_begin(part.file);
	gmem_release_end(part.file);
	rwlock_write_unlock(&part.file->inode->invalidate_lock);
	mutex_unlock(&part.vm->slots_lock);
}

/* The file is released, and freed by the one that has it last. */
static void release_body(uint32_t thread, void *ctx)
{
	int error;

	(void)ctx;
	if (thread) {
		release();
		gmem_release_free(part.file);
		return;
	}
	error = look_up();
	part_expect(!error || error == -EFAULT);
}

static int arch_private(void *ctx, gfn_t gfn, pfn_t pfn, unsigned int order)
{
	return tell_private(ctx, gfn.v, pfn, order);
}

static void arch_file_setup(void *ctx)
{
	static const struct gmem_arch_ops ops = {.make_private = arch_private};
	static const struct gmem_arch arch = {.ops = &ops};

	file_setup(ctx);
	part.file->inode->arch = &arch;
}

/* The slot is found bound, and once more when the page is made private. */
static void still_shown_body(uint32_t thread, void *ctx)
{
	struct gmem_lookup lookup;
	int error;

	(void)ctx;
	if (thread) {
		bind(1);
		return;
	}
	reclaim_enter();
	error = gmem_lookup_begin(part.slots[0], (gfn_t){PAGE}, GMEM_PRIVATE, &lookup);
	reclaim_leave();
	part_expect(!error && !gmem_lookup_finish(&lookup));
}

static int hardware_private(void *ctx, gfn_t gfn, pfn_t pfn, unsigned int order)
{
	return tell_private(ctx, gfn.v, pfn, order);
}

static void claim(u64 gfn, u64 offset)
{
	const struct gmem_arch *arch = part.vm->gmem_arch;

	if (arch->ops->make_private(arch->ctx, (gfn_t){gfn}, (pfn_t){PART_FRAME + offset}, 0))
		abort();
}

static void map_setup(void *ctx)
{
	static const struct quire_confidential_ops hardware = {.make_private = hardware_private};

	(void)ctx;
	memset(&part, 0, sizeof(part));
	part.vm = part_vm_start(QUIRE_VM_SW_PROTECTED, &hardware);
}

static void look_at_frame(u64 gfn, u64 offset)
{
	if (rmp_allows(part.vm->rmp, (gfn_t){gfn}, (pfn_t){PART_FRAME + offset}))
		(void)part_look(&part.told[offset]);
}

static void claim_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread)
		claim(PAGE, PAGE);
	else
		look_at_frame(PAGE, PAGE);
}

/* The frame was another gfn's, and is free: that gfn does not get it. */
#define BEFORE 7u

static void moved_setup(void *ctx)
{
	const struct gmem_arch *arch;

	(void)ctx;
	memset(&part, 0, sizeof(part));
	part.vm = part_vm_start(QUIRE_VM_SW_PROTECTED, NULL);
	arch = part.vm->gmem_arch;
	claim(BEFORE, PAGE);
	arch->ops->reclaim(arch->ctx, (pfn_t){PART_FRAME + PAGE}, 1);
}

static void moved_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread)
		claim(PAGE, PAGE);
	else
		part_expect(!rmp_allows(part.vm->rmp, (gfn_t){BEFORE}, (pfn_t){PART_FRAME + PAGE}));
}

/* Two frames of a new block. */
static void claims_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	claim(thread, thread);
}

/* The block's claims do not follow each other, so it has a list. */
#define ELSEWHERE 100u

static void list_setup(void *ctx)
{
	map_setup(ctx);
	claim(0, 0);
}

static void list_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread)
		claim(ELSEWHERE, PAGE);
	else
		look_at_frame(ELSEWHERE, PAGE);
}

static void lists_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	claim(ELSEWHERE * (thread + 1), PAGE + thread);
}

/* A frame that was listed goes over to a new base: it never was what the old one says of it. */
static void unlisted_setup(void *ctx)
{
	list_setup(ctx);
	claim(ELSEWHERE, PAGE);
}

static void unlisted_body(uint32_t thread, void *ctx)
{
	const struct gmem_arch *arch = part.vm->gmem_arch;

	(void)ctx;
	if (!thread) {
		part_expect(!rmp_allows(part.vm->rmp, (gfn_t){PAGE}, (pfn_t){PART_FRAME + PAGE}));
		return;
	}
	arch->ops->reclaim(arch->ctx, (pfn_t){PART_FRAME}, PAGE + 1);
	claim(BEFORE, PAGE);
}

static void huge_setup(void *ctx)
{
	const struct gmem_arch *arch;

	map_setup(ctx);
	arch = part.vm->gmem_arch;
	if (arch->ops->make_private(arch->ctx, (gfn_t){0}, (pfn_t){PART_FRAME}, GMEM_BLOCK_ORDER))
		abort();
	arch->ops->invalidate(arch->ctx, (pfn_t){PART_FRAME + LAST}, 1);
}

static void huge_body(uint32_t thread, void *ctx)
{
	struct rmp_entry entry;

	(void)ctx;
	if (thread) {
		claim(LAST, LAST);
		return;
	}
	rmp_read(part.vm->rmp, (pfn_t){PART_FRAME}, &entry);
	if (entry.level == QUIRE_LEVEL_2M)
		(void)part_look(&part.told[LAST]);
}

/*
 * All frames but one are valid by the block's base; then none is, and that one goes over to a new
 * base. The block never was huge, whichever of that a look sees.
 */
static void rebased_setup(void *ctx)
{
	map_setup(ctx);
	for (u32 i = 0; i < GMEM_BLOCK_PAGES; i++)
		claim(i == PAGE ? ELSEWHERE : GMEM_BLOCK_PAGES + i, i);
}

static void look_at_block(void)
{
	const struct gmem_arch *arch = part.vm->gmem_arch;

	part_expect(!arch->ops->is_private(arch->ctx, (gfn_t){GMEM_BLOCK_PAGES},
					   (pfn_t){PART_FRAME}, GMEM_BLOCK_ORDER));
}

static void rebased_body(uint32_t thread, void *ctx)
{
	const struct gmem_arch *arch = part.vm->gmem_arch;

	(void)ctx;
	if (!thread) {
		look_at_block();
		return;
	}
	/* So many steps that none of them is one here; what they store is seen at once. */
	base_sched_pause();
	arch->ops->reclaim(arch->ctx, (pfn_t){PART_FRAME}, GMEM_BLOCK_PAGES);
	base_sched_resume();
	claim(PAGE, PAGE);
}

/* All of them, as one huge page, in one step. */
static void all_rebased_body(uint32_t thread, void *ctx)
{
	const struct gmem_arch *arch = part.vm->gmem_arch;

	(void)ctx;
	if (!thread) {
		look_at_block();
		return;
	}
	base_sched_pause();
	arch->ops->reclaim(arch->ctx, (pfn_t){PART_FRAME}, GMEM_BLOCK_PAGES);
	part_expect(!arch->ops->make_private(arch->ctx, (gfn_t){2 * GMEM_BLOCK_PAGES},
					     (pfn_t){PART_FRAME}, GMEM_BLOCK_ORDER));
	base_sched_resume();
}

const struct pair pairs_gmem_part[] = {
    {"page, maker and lookup", 2, pages_setup, page_body, part_is_good, 0},
    {"scattered page, maker and lookup", 2, scattered_setup, page_body, part_is_good, 0},
    {"pages of a block, two makers", 2, pages_setup, makers_body, part_is_good, 0},
    {"scattered pages, two makers", 2, scattered_setup, makers_body, part_is_good, 0},
    {"unit, its last page and a lookup", 1, unit_setup, unit_body, part_is_good, 0},
    {"unit and a lost page", 2, join_setup, join_body, is_no_unit, 0},
    {"lost page and its unit", 2, join_setup, lose_body, is_no_unit, 0},
    {"lost page and its block", 2, lost_setup, lost_body, is_lost_then, 0},
    {"lost page, two makers of its block", 2, lost_before_setup, lost_before_body, part_is_good, 0},
    {"all pages lost, two makers of a block", 1, all_lost_setup, lost_before_body, part_is_good, 0},
    {"page made shared and a lookup", 2, prepared_setup, shared_body, part_is_good, 0},
    {"page converted and a lookup", 1, prepared_setup, converted_body, part_is_good, 0},
    {"page made, and a word of pages told of", 2, word_setup, word_body, part_is_good, 0},
    {"page made shared and a lookup of its unit", 1, prepared_setup, shared_unit_body, part_is_good,
     0},
    {"lookup and a bind", 2, file_setup, bind_body, part_is_good, 0},
    {"lookup and an unbind that is undone", 3, file_setup, undo_body, part_is_good, 0},
    {"lookup and a release", 2, file_setup, release_body, part_is_good, 0},
    {"private lookup and a bind", 2, arch_file_setup, still_shown_body, part_is_good, 0},
    {"frame, claim and look", 2, map_setup, claim_body, part_is_good, 0},
    {"frame that was another gfn's, claim and look", 2, moved_setup, moved_body, part_is_good, 0},
    {"frames of a block, two claims", 2, map_setup, claims_body, part_is_good, 0},
    {"listed frame, claim and look", 2, list_setup, list_body, part_is_good, 0},
    {"listed frames, two claims", 2, list_setup, lists_body, part_is_good, 0},
    {"frame that is listed no more, and a look", 2, unlisted_setup, unlisted_body, part_is_good, 0},
    {"huge claim, its last frame and a look", 1, huge_setup, huge_body, part_is_good, 0},
    {"frames that go over to a new base, and a look", 2, rebased_setup, rebased_body, part_is_good,
     0},
    {"frames that all go over to a new base, and a look", 2, rebased_setup, all_rebased_body,
     part_is_good, 0},
    {.name = NULL},
};
