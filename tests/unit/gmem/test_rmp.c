/* Private pages on their way into a guest: the reverse map, and what it refuses. */
#include "tests/unit/gmem/support.h"

#include "src/base/reclaim.h"
#include "src/gmem/gmem.h"
#include "src/gmem/rmp.h"
#include "src/vm/vm.h"

#define FILE_PAGES 8u
#define GFN 16u

/* Slot 1 shows the file from @gfn on; its gfns are as they are. */
static void bind_at(uint64_t gfn)
{
	struct quire_region region = {
	    .slot = 1,
	    .flags = QUIRE_SLOT_GMEM,
	    .gpa = gpa_of((gfn_t){gfn}),
	    .size_bytes = FILE_PAGES * QUIRE_PAGE_SIZE,
	    .hva = sim_hva(0),
	    .gmem = gmem,
	};

	assert_int_equal(quire_vm_set_region(machine.vm, &region), 0);
}

/* The same, and they are private. */
static void show_at(uint64_t gfn)
{
	bind_at(gfn);
	convert(gfn, FILE_PAGES, QUIRE_ATTRIBUTE_PRIVATE);
}

static void hide(void)
{
	struct quire_region region = {.slot = 1};

	assert_int_equal(quire_vm_set_region(machine.vm, &region), 0);
}

static void private_begin_flags(uint64_t flags)
{
	vm_begin_type(QUIRE_VM_SW_PROTECTED);
	assert_int_equal(
	    quire_gmem_create(machine.vm, FILE_PAGES * QUIRE_PAGE_SIZE, flags, NULL, &gmem), 0);
	show_at(GFN);
}

static void private_begin(void)
{
	private_begin_flags(0);
}

static void private_end(void)
{
	quire_gmem_release(gmem);
	vm_end();
}

static pfn_t pfn_of(uint64_t index)
{
	struct gmem_page page;

	gmem_page_read(&gmem->inode->pages, index, &page);
	return page.pfn;
}

static struct rmp_entry entry_of(uint64_t index)
{
	struct rmp_entry entry;

	rmp_read(machine.vm->rmp, pfn_of(index), &entry);
	return entry;
}

/* A private page is this VM's at its gfn from the fault to the punch. */
static void test_assigned(void **state)
{
	pfn_t pfn;

	(void)state;
	private_begin();
	assert_int_equal(fault_at(GFN + 3, QUIRE_PFERR_WRITE), QUIRE_FIXED);
	pfn = pfn_of(3);
	assert_int_equal(entry_of(3).vm_id, machine.vm->rmp->id);
	assert_int_equal(entry_of(3).gfn.v, GFN + 3);
	assert_true(entry_of(3).valid);
	assert_int_equal(entry_of(3).level, QUIRE_LEVEL_4K);
	assert_true(rmp_allows(machine.vm->rmp, (gfn_t){GFN + 3}, pfn));
	assert_false(rmp_allows(machine.vm->rmp, (gfn_t){GFN + 4}, pfn));
	assert_int_equal(quire_gmem_punch(gmem, 3 * QUIRE_PAGE_SIZE, QUIRE_PAGE_SIZE), 0);
	assert_false(rmp_allows(machine.vm->rmp, (gfn_t){GFN + 3}, pfn));
	assert_int_equal(machine.vm->gmem_arch->ops->make_private(machine.vm->gmem_arch->ctx,
								  (gfn_t){99}, pfn, 0),
			 0);
	machine.vm->gmem_arch->ops->reclaim(machine.vm->gmem_arch->ctx, pfn, 1);
	private_end();
}

/* A slot may go and come back at other gfns: the pages follow it, the old gfns lose them. */
static void test_rebound(void **state)
{
	uint32_t level;
	uint8_t byte = 0;

	(void)state;
	private_begin();
	assert_int_equal(machine_store(&machine, 0, gpa_of((gfn_t){GFN + 1}).v, 7), 0);
	hide();
	assert_int_equal(entry_of(1).vm_id, machine.vm->rmp->id);
	assert_false(entry_of(1).valid);
	show_at(GFN + 100);
	assert_int_equal(machine_load(&machine, 0, gpa_of((gfn_t){GFN + 101}).v, &byte), 0);
	assert_int_equal(byte, 7);
	assert_true(leaf_at(GFN + 101, &level));
	assert_int_equal(entry_of(1).gfn.v, GFN + 101);
	assert_true(entry_of(1).valid);
	private_end();
}

/* A frame that is another VM's, or valid at another gfn, is refused: -EIO, and where. */
static void test_double_assignment(void **state)
{
	struct quire_memory_fault fault;
	const struct gmem_arch *arch;
	struct rmp_vm *other;
	uint32_t level;
	pfn_t pfn;

	(void)state;
	private_begin();
	assert_int_equal(quire_gmem_allocate(gmem, 0, QUIRE_PAGE_SIZE, NULL), 0);
	pfn = pfn_of(0);
	assert_int_equal(rmp_join(machine.vm, &other), 0);
	assert_ptr_equal(other->map, machine.vm->rmp->map);
	arch = &other->arch;
	assert_int_equal(arch->ops->make_private(arch->ctx, (gfn_t){GFN}, pfn, 0), 0);
	assert_int_equal(
	    quire_vcpu_fault(machine.vcpus[0], gpa_of((gfn_t){GFN}), QUIRE_PFERR_WRITE, &fault),
	    -EIO);
	assert_int_equal(fault.gpa.v, gpa_of((gfn_t){GFN}).v);
	assert_int_equal(fault.flags, QUIRE_ATTRIBUTE_PRIVATE);
	assert_int_equal(leaf_at(GFN, &level), 0);
	/* The other VM's end of a mapping does not free its frame. */
	arch->ops->invalidate(arch->ctx, pfn, 1);
	assert_int_equal(fault_at(GFN, QUIRE_PFERR_WRITE), -EIO);
	arch->ops->reclaim(arch->ctx, pfn, 1);
	assert_int_equal(fault_at(GFN, QUIRE_PFERR_WRITE), QUIRE_FIXED);

	arch = machine.vm->gmem_arch;
	assert_int_equal(arch->ops->make_private(arch->ctx, (gfn_t){GFN + 1}, pfn, 0), -EIO);
	assert_int_equal(arch->ops->make_private(arch->ctx, (gfn_t){GFN}, pfn, 0), 0);
	/* What another VM says of this frame changes nothing. */
	other->arch.ops->reclaim(other, pfn, 1);
	assert_true(entry_of(0).valid);
	rmp_leave(machine.vm, other);
	private_end();
}

/* A converted page is no VM's at once: another VM may have the frame, and then this one not. */
static void test_converted(void **state)
{
	const struct gmem_arch *arch;
	struct rmp_vm *other;
	uint8_t byte = 0;

	(void)state;
	private_begin();
	assert_int_equal(rmp_join(machine.vm, &other), 0);
	arch = &other->arch;
	for (uint64_t i = 0; i < 4; i++)
		assert_int_equal(machine_store(&machine, 0, gpa_of((gfn_t){GFN + i}).v, 7), 0);
	convert(GFN + 1, 2, 0);
	for (uint64_t i = 0; i < 4; i++) {
		int free = i == 1 || i == 2;

		assert_int_equal(entry_of(i).vm_id, free ? 0 : machine.vm->rmp->id);
		assert_int_equal(rmp_is_free(other, pfn_of(i)), free);
		assert_int_equal(arch->ops->make_private(arch->ctx, (gfn_t){i}, pfn_of(i), 0),
				 free ? 0 : -EIO);
	}
	/* The page is still in the file; that it became another's is found out. */
	convert(GFN + 1, 2, QUIRE_ATTRIBUTE_PRIVATE);
	assert_int_equal(machine_load(&machine, 0, gpa_of((gfn_t){GFN + 1}).v, &byte), -EIO);
	arch->ops->make_shared(arch->ctx, pfn_of(1), 1);
	arch->ops->reclaim(arch->ctx, pfn_of(2), 1);
	assert_int_equal(machine_load(&machine, 0, gpa_of((gfn_t){GFN + 1}).v, &byte), 0);
	assert_int_equal(byte, 7);
	assert_int_equal(entry_of(1).gfn.v, GFN + 1);
	assert_true(entry_of(1).valid);
	rmp_leave(machine.vm, other);
	private_end();
}

/* Where the file is all of a slot's memory, the same frame is private, shared, private. */
static void test_converted_in_place(void **state)
{
	uint32_t level;
	uint8_t byte = 0;

	(void)state;
	private_begin_flags(QUIRE_GMEM_MMAP);
	assert_int_equal(machine_store(&machine, 0, gpa_of((gfn_t){GFN}).v, 7), 0);
	for (uint32_t round = 0; round < 3; round++) {
		convert(GFN, 1, 0);
		assert_true(rmp_is_free(machine.vm->rmp, pfn_of(0)));
		/* The checker looks at the owner of each frame that is mapped. */
		assert_int_equal(machine_load(&machine, 0, gpa_of((gfn_t){GFN}).v, &byte), 0);
		assert_int_equal(byte, 7);
		assert_true(leaf_at(GFN, &level));
		convert(GFN, 1, QUIRE_ATTRIBUTE_PRIVATE);
		assert_int_equal(leaf_at(GFN, &level), 0);
		assert_int_equal(machine_load(&machine, 0, gpa_of((gfn_t){GFN}).v, &byte), 0);
		assert_true(rmp_allows(machine.vm->rmp, (gfn_t){GFN}, pfn_of(0)));
	}
	private_end();
}

static int lookup_begin(uint64_t gfn, enum gmem_access access, struct gmem_lookup *lookup)
{
	int error;

	reclaim_enter();
	error = gmem_lookup_begin(memslot_lookup(machine.vm, 0, (gfn_t){gfn}, NULL), (gfn_t){gfn},
				  access, lookup);
	reclaim_leave();
	return error;
}

/* No slot showed the pages when their gfns were converted: each is found at its first shared use.
 */
static void test_converted_unbound(void **state)
{
	static const uint64_t pairs[][2] = {{0, 1}, {FILE_PAGES - 1, FILE_PAGES - 2}};
	struct gmem_lookup again;

	(void)state;
	for (uint32_t i = 0; i < 2; i++) {
		const uint64_t index = pairs[i][0], other = pairs[i][1];

		private_begin_flags(QUIRE_GMEM_MMAP);
		assert_int_equal(quire_gmem_allocate(gmem, 0, PAGES(FILE_PAGES), NULL), 0);
		assert_int_equal(fault_at(GFN + index, QUIRE_PFERR_WRITE), QUIRE_FIXED);
		assert_int_equal(fault_at(GFN + other, QUIRE_PFERR_WRITE), QUIRE_FIXED);
		hide();
		convert(GFN, FILE_PAGES, 0);
		assert_int_equal(entry_of(index).vm_id, machine.vm->rmp->id);
		bind_at(GFN);
		assert_int_equal(fault_at(GFN + index, QUIRE_PFERR_WRITE), QUIRE_FIXED);
		assert_true(rmp_is_free(machine.vm->rmp, pfn_of(index)));
		assert_int_equal(entry_of(other).vm_id, machine.vm->rmp->id);
		/* The next lookup needs no lock of the page's for that. */
		assert_int_equal(lookup_begin(GFN + index, GMEM_SHARED, &again), 0);
		assert_true(again.found);
		private_end();
	}
}

/* Lookups that outlast a conversion change nothing, in either direction. */
static void test_late_lookup(void **state)
{
	struct gmem_lookup late, shared;

	(void)state;
	private_begin_flags(QUIRE_GMEM_MMAP);
	assert_int_equal(lookup_begin(GFN, GMEM_PRIVATE, &late), 0);
	assert_false(late.found);
	convert(GFN, 1, 0);
	assert_int_equal(gmem_lookup_finish(&late), -ESTALE);
	assert_true(rmp_is_free(machine.vm->rmp, pfn_of(0)));

	assert_int_equal(fault_at(GFN + 1, QUIRE_PFERR_WRITE), QUIRE_FIXED);
	hide();
	convert(GFN, FILE_PAGES, 0);
	bind_at(GFN);
	assert_int_equal(lookup_begin(GFN + 1, GMEM_SHARED, &shared), 0);
	assert_false(shared.found);
	convert(GFN, FILE_PAGES, QUIRE_ATTRIBUTE_PRIVATE);
	assert_int_equal(fault_at(GFN + 1, QUIRE_PFERR_WRITE), QUIRE_FIXED);
	assert_int_equal(gmem_lookup_finish(&shared), -ESTALE);
	assert_true(rmp_allows(machine.vm->rmp, (gfn_t){GFN + 1}, pfn_of(1)));
	private_end();
}

/* U-083: an access found a frame lost. The page of the file is, then; what it was is not read. */
static void test_lost_frame(void **state)
{
	struct quire_memory_fault fault;
	uint32_t level;
	uint8_t byte = 0;

	(void)state;
	private_begin();
	for (uint64_t i = 2; i < 5; i++)
		assert_int_equal(machine_store(&machine, 0, gpa_of((gfn_t){GFN + i}).v, 7), 0);
	assert_int_equal(quire_vcpu_lose_frame(machine.vcpus[1], (pfn_t){1}), 0);
	assert_int_equal(quire_vcpu_lose_frame(machine.vcpus[1], (pfn_t){pfn_of(2).v + 100}), 0);
	assert_int_equal(machine_load(&machine, 0, gpa_of((gfn_t){GFN + 3}).v, &byte), 0);
	fail_frame(pfn_of(3));
	assert_int_equal(quire_vcpu_lose_frame(machine.vcpus[1], pfn_of(3)), 1);
	assert_int_equal(leaf_at(GFN + 3, &level), 0);
	assert_int_equal(
	    quire_vcpu_fault(machine.vcpus[0], gpa_of((gfn_t){GFN + 3}), QUIRE_PFERR_WRITE, &fault),
	    -EHWPOISON);
	assert_int_equal(fault.gpa.v, gpa_of((gfn_t){GFN + 3}).v);
	assert_int_equal(fault.flags, QUIRE_ATTRIBUTE_PRIVATE);
	assert_int_equal(machine_load(&machine, 0, gpa_of((gfn_t){GFN + 2}).v, &byte), 0);
	assert_int_equal(machine_load(&machine, 0, gpa_of((gfn_t){GFN + 4}).v, &byte), 0);
	assert_int_equal(byte, 7);
	assert_int_equal(quire_gmem_punch(gmem, 3 * QUIRE_PAGE_SIZE, QUIRE_PAGE_SIZE), 0);
	assert_int_equal(machine_load(&machine, 0, gpa_of((gfn_t){GFN + 3}).v, &byte), 0);
	assert_int_equal(byte, 0);
	private_end();
}

/* Each allocation of the map fails in turn and leaves nothing; the next try works. */
static void test_no_memory(void **state)
{
	struct quire_memory_fault fault;
	uint32_t failed = 0;

	(void)state;
	private_begin();
	assert_int_equal(quire_gmem_allocate(gmem, 0, QUIRE_PAGE_SIZE, NULL), 0);
	/* The root and the tables are there: what fails is the map. */
	assert_int_equal(fault_at(GFN + 1, QUIRE_PFERR_WRITE), QUIRE_FIXED);
	machine.vm->gmem_arch->ops->reclaim(machine.vm->gmem_arch->ctx, pfn_of(1), 1);
	for (uint64_t fail = 1;; fail++) {
		struct rmp_vm *fresh = machine.vm->rmp;
		pfn_t far = {pfn_of(0).v + (UINT64_C(1) << 30)};
		int error;

		machine.host.fail_at = machine.host.allocations + fail;
		error = fresh->arch.ops->make_private(fresh, (gfn_t){GFN}, far, 0);
		machine.host.fail_at = 0;
		fresh->arch.ops->reclaim(fresh, far, 1);
		if (!error)
			break;
		assert_int_equal(error, -ENOMEM);
		failed++;
	}
	assert_in_range(failed, 2, 6);
	assert_int_equal(
	    quire_vcpu_fault(machine.vcpus[0], gpa_of((gfn_t){GFN}), QUIRE_PFERR_WRITE, &fault),
	    QUIRE_FIXED);
	machine.host.fail_at = 0;
	private_end();
}

static int refuse_left;

static int refusing_make_private(void *ctx, gfn_t gfn, pfn_t pfn, unsigned int order)
{
	if (refuse_left && refuse_left--)
		return -EINVAL;
	return machine.vm->rmp->arch.ops->make_private(ctx, gfn, pfn, order);
}

/* G-026: refused once, the page is kept, zeroed and not prepared; retried, it works. */
static void test_refused(void **state)
{
	struct gmem_arch_ops ops;
	struct gmem_arch arch;
	struct gmem_page page;
	pfn_t first;

	(void)state;
	private_begin();
	ops = *machine.vm->rmp->arch.ops;
	ops.make_private = refusing_make_private;
	arch = (struct gmem_arch){.ops = &ops, .ctx = machine.vm->rmp};
	gmem->inode->arch = &arch;
	refuse_left = 1;
	assert_int_equal(fault_at(GFN + 2, QUIRE_PFERR_WRITE), -EINVAL);
	gmem_page_read(&gmem->inode->pages, 2, &page);
	assert_int_equal(page.state &
			     (GMEM_PAGE_EXISTS | GMEM_PAGE_UP_TO_DATE | GMEM_PAGE_PREPARED),
			 GMEM_PAGE_EXISTS | GMEM_PAGE_UP_TO_DATE);
	first = page.pfn;
	assert_int_equal(entry_of(2).vm_id, 0);
	assert_int_equal(fault_at(GFN + 2, QUIRE_PFERR_WRITE), QUIRE_FIXED);
	assert_int_equal(pfn_of(2).v, first.v);
	assert_true(entry_of(2).valid);
	gmem->inode->arch = machine.vm->gmem_arch;
	private_end();
}

/* 2 MiB at once, and what a part that goes makes of it. */
static void test_block(void **state)
{
	const pfn_t pfn = {UINT64_C(1) << 25};
	const struct gmem_arch *arch;
	struct rmp_entry entry;

	(void)state;
	private_begin();
	arch = machine.vm->gmem_arch;
	assert_int_equal(arch->ops->make_private(arch->ctx, (gfn_t){512}, pfn, 9), 0);
	rmp_read(arch->ctx, (pfn_t){pfn.v + 5}, &entry);
	assert_int_equal(entry.level, QUIRE_LEVEL_2M);
	assert_int_equal(entry.gfn.v, 517);
	assert_true(arch->ops->is_private(arch->ctx, (gfn_t){512}, pfn, 9));
	/* A page of it is so at its own gfn, not at the block's. */
	assert_true(arch->ops->is_private(arch->ctx, (gfn_t){517}, (pfn_t){pfn.v + 5}, 0));
	assert_false(arch->ops->is_private(arch->ctx, (gfn_t){512}, (pfn_t){pfn.v + 5}, 0));
	assert_false(arch->ops->is_private(arch->ctx, (gfn_t){1024}, pfn, 9));
	/* Nor is more than that, where what follows is no one's. */
	assert_false(arch->ops->is_private(arch->ctx, (gfn_t){512}, pfn, 10));
	arch->ops->reclaim(arch->ctx, (pfn_t){pfn.v + 7}, 1);
	rmp_read(arch->ctx, (pfn_t){pfn.v + 5}, &entry);
	assert_int_equal(entry.level, QUIRE_LEVEL_4K);
	assert_false(arch->ops->is_private(arch->ctx, (gfn_t){512}, pfn, 9));
	/* One frame at a foreign gfn keeps all of a block out. */
	assert_int_equal(arch->ops->make_private(arch->ctx, (gfn_t){9}, (pfn_t){pfn.v + 7}, 0), 0);
	assert_int_equal(arch->ops->make_private(arch->ctx, (gfn_t){512}, pfn, 9), -EIO);
	arch->ops->invalidate(arch->ctx, (pfn_t){pfn.v + 7}, 1);
	assert_int_equal(arch->ops->make_private(arch->ctx, (gfn_t){512}, pfn, 9), 0);
	rmp_read(arch->ctx, pfn, &entry);
	assert_int_equal(entry.level, QUIRE_LEVEL_2M);
	arch->ops->reclaim(arch->ctx, pfn, 512);
	rmp_read(arch->ctx, pfn, &entry);
	assert_int_equal(entry.vm_id, 0);
	private_end();
}

/* No map has room for such frames, nor a block for what begins in its middle. */
static void test_out_of_range(void **state)
{
	/* 9 bits of a block, and 36 of the tree above it. */
	const pfn_t far = {UINT64_C(1) << 45}, last = {far.v - 1}, block = {UINT64_C(1) << 25};
	const struct gmem_arch *arch;
	struct rmp_entry entry;

	(void)state;
	private_begin();
	arch = machine.vm->gmem_arch;
	assert_int_equal(arch->ops->make_private(arch->ctx, (gfn_t){GFN}, far, 0), -EINVAL);
	assert_int_equal(arch->ops->make_private(arch->ctx, (gfn_t){512}, far, 9), -EINVAL);
	assert_false(arch->ops->is_private(arch->ctx, (gfn_t){GFN}, far, 0));
	assert_false(arch->ops->is_private(arch->ctx, (gfn_t){512}, far, 9));
	assert_false(rmp_allows(arch->ctx, (gfn_t){GFN}, far));
	assert_true(rmp_is_free(arch->ctx, far));
	rmp_read(arch->ctx, far, &entry);
	assert_int_equal(entry.vm_id, 0);
	assert_false(entry.valid);
	assert_int_equal(arch->ops->make_private(arch->ctx, (gfn_t){GFN}, last, 0), 0);
	assert_true(arch->ops->is_private(arch->ctx, (gfn_t){GFN}, last, 0));
	arch->ops->reclaim(arch->ctx, last, 1);
	assert_int_equal(arch->ops->make_private(arch->ctx, (gfn_t){512}, (pfn_t){block.v + 1}, 9),
			 -EINVAL);
	assert_true(rmp_is_free(arch->ctx, (pfn_t){block.v + 1}));
	assert_false(arch->ops->is_private(arch->ctx, (gfn_t){512}, (pfn_t){block.v + 1}, 9));
	private_end();
}

/* Frames of a whole block, each at its own gfn again, but one of them noted apart. */
static void test_block_in_parts(void **state)
{
	const pfn_t pfn = {UINT64_C(1) << 25};
	const struct gmem_arch *arch;
	struct rmp_entry entry;

	(void)state;
	private_begin();
	arch = machine.vm->gmem_arch;
	/* The first frame says where the block begins: at gfn 9. The others do not follow it. */
	assert_int_equal(arch->ops->make_private(arch->ctx, (gfn_t){9}, pfn, 0), 0);
	assert_int_equal(arch->ops->make_private(arch->ctx, (gfn_t){513}, (pfn_t){pfn.v + 1}, 0),
			 0);
	arch->ops->invalidate(arch->ctx, pfn, 1);
	assert_int_equal(arch->ops->make_private(arch->ctx, (gfn_t){512}, pfn, 9), 0);
	assert_true(arch->ops->is_private(arch->ctx, (gfn_t){512}, pfn, 9));
	rmp_read(arch->ctx, (pfn_t){pfn.v + 5}, &entry);
	assert_int_equal(entry.level, QUIRE_LEVEL_4K);
	assert_int_equal(entry.gfn.v, 517);
	/* Another gfn is refused for the whole, and changes none of it. */
	assert_int_equal(arch->ops->make_private(arch->ctx, (gfn_t){1024}, pfn, 9), -EIO);
	assert_int_equal(arch->ops->claim(arch->ctx, (gfn_t){512}, pfn, 9), -EEXIST);
	assert_true(arch->ops->is_private(arch->ctx, (gfn_t){512}, pfn, 9));
	arch->ops->reclaim(arch->ctx, pfn, 512);
	private_end();
}

/* All frames of a block are valid, and one of them at a gfn of its own: the block is not whole. */
static void test_block_but_one(void **state)
{
	const pfn_t pfn = {UINT64_C(1) << 25};
	const struct gmem_arch *arch;

	(void)state;
	private_begin();
	arch = machine.vm->gmem_arch;
	for (u64 i = 0; i < 512; i++)
		assert_int_equal(arch->ops->make_private(arch->ctx, (gfn_t){i == 7 ? 9 : 512 + i},
							 (pfn_t){pfn.v + i}, 0),
				 0);
	assert_false(arch->ops->is_private(arch->ctx, (gfn_t){512}, pfn, 9));
	assert_true(arch->ops->is_private(arch->ctx, (gfn_t){518}, (pfn_t){pfn.v + 6}, 0));
	assert_true(arch->ops->is_private(arch->ctx, (gfn_t){9}, (pfn_t){pfn.v + 7}, 0));
	arch->ops->reclaim(arch->ctx, pfn, 512);
	private_end();
}

/* A block around a frame that it does not follow: refused without a list, or listed as a whole. */
static void test_block_around_a_frame(void **state)
{
	const pfn_t pfn = {UINT64_C(1) << 25}, seventh = {pfn.v + 7};
	const struct gmem_arch *arch;
	struct rmp_entry entry;
	uint64_t allocations;

	(void)state;
	private_begin();
	arch = machine.vm->gmem_arch;
	assert_int_equal(arch->ops->make_private(arch->ctx, (gfn_t){9}, seventh, 0), 0);
	allocations = machine.host.allocations;
	assert_int_equal(arch->ops->make_private(arch->ctx, (gfn_t){512}, pfn, 9), -EIO);
	assert_int_equal(machine.host.allocations, allocations);
	assert_true(rmp_is_free(arch->ctx, pfn));
	arch->ops->invalidate(arch->ctx, seventh, 1);
	assert_int_equal(arch->ops->make_private(arch->ctx, (gfn_t){512}, pfn, 9), 0);
	assert_int_equal(machine.host.allocations, allocations + 1);
	assert_true(arch->ops->is_private(arch->ctx, (gfn_t){512}, pfn, 9));
	rmp_read(arch->ctx, seventh, &entry);
	assert_int_equal(entry.gfn.v, 519);
	assert_int_equal(entry.level, QUIRE_LEVEL_4K);
	arch->ops->reclaim(arch->ctx, pfn, 512);
	private_end();
}

/* Frames that do not follow need a list: without memory for it nothing is assigned. */
static void test_list_without_memory(void **state)
{
	const pfn_t pfn = {UINT64_C(1) << 25};
	const struct gmem_arch *arch;
	struct rmp_entry entry;

	(void)state;
	private_begin();
	arch = machine.vm->gmem_arch;
	assert_int_equal(arch->ops->make_private(arch->ctx, (gfn_t){9}, pfn, 0), 0);
	for (uint32_t i = 1; i < 5; i++) {
		pfn_t at = {pfn.v + i};

		machine.host.fail_at = machine.host.allocations + 1;
		assert_int_equal(arch->ops->make_private(arch->ctx, (gfn_t){600 + i}, at, 0),
				 i == 1 ? -ENOMEM : 0);
		machine.host.fail_at = 0;
		assert_int_equal(rmp_is_free(arch->ctx, at), i == 1);
		/* The list is made once. */
		assert_int_equal(arch->ops->make_private(arch->ctx, (gfn_t){600 + i}, at, 0), 0);
	}
	/* The end of one listed frame is not its neighbours'. */
	arch->ops->invalidate(arch->ctx, (pfn_t){pfn.v + 2}, 1);
	arch->ops->reclaim(arch->ctx, (pfn_t){pfn.v + 3}, 1);
	for (uint32_t i = 0; i < 5; i++) {
		rmp_read(arch->ctx, (pfn_t){pfn.v + i}, &entry);
		assert_int_equal(entry.vm_id, i == 3 ? 0 : machine.vm->rmp->id);
		assert_int_equal(entry.valid, i != 2 && i != 3);
		assert_int_equal(entry.gfn.v, i == 3 ? 0 : i ? 600 + i : 9);
	}
	arch->ops->reclaim(arch->ctx, pfn, 5);
	private_end();
}

/* Each host has a map of its own, whose VMs are numbered apart; it ends with the last of them. */
static void test_hosts(void **state)
{
	static struct sim_host others[2];
	struct quire_vm_config config;
	struct quire_vm *vms[3];

	(void)state;
	private_begin();
	config = machine.vm->config;
	for (uint32_t i = 0; i < 3; i++) {
		if (i < 2) {
			assert_true(sim_host_init(&others[i]));
			config.host_ctx = &others[i];
		}
		assert_int_equal(quire_vm_create(&config, &vms[i]), 0);
	}
	assert_int_equal(vms[0]->rmp->id, 1);
	assert_int_equal(vms[1]->rmp->id, 1);
	assert_int_equal(vms[2]->rmp->id, 2);
	assert_ptr_equal(vms[1]->rmp->map, vms[2]->rmp->map);
	assert_ptr_not_equal(vms[0]->rmp->map, vms[1]->rmp->map);
	/* In the order in which they came: the others of the row stay. */
	for (uint32_t i = 0; i < 3; i++)
		quire_vm_put(vms[i]);
	for (uint32_t i = 0; i < 2; i++) {
		assert_int_equal(others[i].allocated_bytes, 0);
		sim_host_destroy(&others[i]);
	}
	assert_int_equal(fault_at(GFN, QUIRE_PFERR_WRITE), QUIRE_FIXED);
	private_end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_assigned),
	    cmocka_unit_test(test_rebound),
	    cmocka_unit_test(test_double_assignment),
	    cmocka_unit_test(test_no_memory),
	    cmocka_unit_test(test_refused),
	    cmocka_unit_test(test_block),
	    cmocka_unit_test(test_converted),
	    cmocka_unit_test(test_converted_in_place),
	    cmocka_unit_test(test_converted_unbound),
	    cmocka_unit_test(test_late_lookup),
	    cmocka_unit_test(test_lost_frame),
	    cmocka_unit_test(test_out_of_range),
	    cmocka_unit_test(test_block_in_parts),
	    cmocka_unit_test(test_block_but_one),
	    cmocka_unit_test(test_block_around_a_frame),
	    cmocka_unit_test(test_hosts),
	    cmocka_unit_test(test_list_without_memory),
	};

	return run_formats(tests, sizeof(tests) / sizeof(tests[0]));
}
