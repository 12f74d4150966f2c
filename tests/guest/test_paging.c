/*
 * All combinations of permission and reserved bits, access kinds and modes: of a guest's tables, of
 * L1's nested tables, and of both at once, against the model. '--whole' is all of both, which takes
 * some minutes.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "nest.h"
#include "paging_model.h"

#define EXIT_VMMCALL (VMCB_EXIT_INTR + INTERCEPT_VMMCALL)
#define EXIT_PAGE_FAULT (VMCB_EXIT_EXCEPTION + 14)
#define ENTRY_OPEN 0x67ul /* P W U A D */
#define ENTRY_PS 0x80ul
#define ERROR_FINAL (1ul << 32)
#define ERROR_TABLE (1ul << 33)

/* Pages of L1's memory from NEST_FREE on. Code is at its page number, for users and not. */
enum page {
	P_CODE,
	P_TARGET,
	P_G_PML4,
	P_G_PDPT,
	P_G_PD,
	P_G_PT,
	P_T_PDPT, /* the guest's tables of the target alone */
	P_T_PD,
	P_T_PT,
	P_N_PML4,
	P_N_PDPT,
	P_N_PD,
	P_N_PT,
	P_NT_PDPT, /* L1's tables of the target alone */
	P_NT_PD,
	P_NT_PT,
	P_COUNT
};

/* Where the target is in the guest's address space, and in L2's physical one. */
#define HIGH (1ul << 39)
#define USER_CODE 0x1000ul
#define SUPERVISOR_CODE 0x2000ul

/* Cases that L1 does without the client. */
#define BATCH 32u
#define BATCH_AT 0x40000ul
#define BATCH_BYTES 0x2000ul /* a VMCB and a box */

static struct paging {
	struct vm vm;
	struct nest nest;
	struct paging_case cases[BATCH];
	uint32_t waiting;
	uint8_t with_nxe; /* L1's EFER.NXE, as it is */
	uint64_t number, stride, done, faults, nested_faults;
} paging;

static uint64_t page_gpa(enum page page)
{
	return paging.nest.gpa + NEST_FREE + (uint64_t)page * PAGE;
}

static uint64_t *page_words(enum page page)
{
	return word_at(paging.nest.memory, NEST_FREE + (uint64_t)page * PAGE);
}

static uint64_t index_at(uint64_t gpa, unsigned int level)
{
	return gpa >> (12 + 9 * (level - 1)) & 511;
}

/* Where each entry of a case stands. */
static uint64_t entry_gpa(const struct paging_case *c, enum paging_entry entry)
{
	static const enum page guest[] = {0, P_T_PT, P_T_PD, P_T_PDPT, P_G_PML4};
	static const enum page nested[] = {0, P_NT_PT, P_NT_PD, P_NT_PDPT, P_N_PML4};
	uint64_t target = HIGH | page_gpa(P_TARGET);
	unsigned int level =
	    entry == GUEST_PARENT || entry == GUEST_LEAF ? c->guest_level : c->nested_level;

	switch (entry) {
	case NESTED_TABLE:
		return page_gpa(P_N_PT) + index_at(page_gpa(P_T_PT), 1) * 8;
	case GUEST_PARENT:
		return page_gpa(guest[level + 1]) + index_at(target, level + 1) * 8;
	case GUEST_LEAF:
		return page_gpa(guest[level]) + index_at(target, level) * 8;
	case NESTED_PARENT:
		return page_gpa(nested[level + 1]) + index_at(target, level + 1) * 8;
	default:
		return page_gpa(nested[level]) + index_at(target, level) * 8;
	}
}

static uint64_t entry_bits(uint8_t bits, uint8_t marks)
{
	uint64_t entry = bits & 7;

	if (bits & BIT_NX)
		entry |= 1ul << 63;
	if (marks & MARK_A)
		entry |= 0x20;
	if (marks & MARK_D)
		entry |= 0x40;
	return entry;
}

/* One of the reserved bits of such an entry, another one with each case. */
static uint64_t reserved_bit(unsigned int level, int is_leaf)
{
	uint64_t choice = paging.number % 6;

	if (choice == 4 && !is_leaf && level == 4)
		return ENTRY_PS;
	if (choice >= 4 && is_leaf && level > 1)
		return choice == 4 ? 1ul << 13 : 1ul << (12 + 9 * (level - 1) - 1);
	return 1ul << (48 + choice % 4);
}

static uint64_t entry_value(const struct paging_case *c, enum paging_entry entry)
{
	static const enum page guest[] = {0, P_T_PT, P_T_PD, P_T_PDPT};
	static const enum page nested[] = {0, P_NT_PT, P_NT_PD, P_NT_PDPT};
	int is_guest = entry == GUEST_PARENT || entry == GUEST_LEAF;
	int is_leaf = entry != GUEST_PARENT && entry != NESTED_PARENT;
	unsigned int level = is_guest ? c->guest_level : c->nested_level;
	uint64_t value = entry_bits(c->bits[entry], c->marks[entry]), span;

	if (entry == NESTED_TABLE)
		level = 1;
	if (c->bits[entry] & BIT_RESERVED)
		value |= reserved_bit(is_leaf ? level : level + 1, is_leaf);
	if (entry == NESTED_TABLE)
		return value | page_gpa(P_T_PT);
	if (!is_leaf)
		return value | page_gpa((is_guest ? guest : nested)[level]);
	span = (1ul << (12 + 9 * (level - 1))) - 1;
	value |= page_gpa(P_TARGET) & ~span;
	/* With two stages the guest's leaf leads to where only L1's tables of the target are. */
	if (is_guest && c->nested_level)
		value |= HIGH;
	return level > 1 ? value | ENTRY_PS : value;
}

static void build_fixed(void)
{
	page_words(P_G_PML4)[0] = page_gpa(P_G_PDPT) | ENTRY_OPEN;
	page_words(P_G_PML4)[1] = page_gpa(P_T_PDPT) | ENTRY_OPEN;
	page_words(P_G_PDPT)[0] = page_gpa(P_G_PD) | ENTRY_OPEN;
	page_words(P_G_PD)[0] = page_gpa(P_G_PT) | ENTRY_OPEN;
	page_words(P_G_PT)[USER_CODE / PAGE] = page_gpa(P_CODE) | ENTRY_OPEN;
	page_words(P_G_PT)[SUPERVISOR_CODE / PAGE] = page_gpa(P_CODE) | (ENTRY_OPEN & ~4ul);
	page_words(P_N_PML4)[0] = page_gpa(P_N_PDPT) | ENTRY_OPEN;
	page_words(P_N_PDPT)[0] = page_gpa(P_N_PD) | ENTRY_OPEN;
	page_words(P_N_PD)[index_at(paging.nest.gpa, 2)] = page_gpa(P_N_PT) | ENTRY_OPEN;
	for (uint64_t i = 0; i < 512; i++)
		page_words(P_N_PT)[i] = (paging.nest.gpa + i * PAGE) | ENTRY_OPEN;
	l2_copy((uint8_t *)page_words(P_CODE));
	/* A jump to the target finds vmmcall. */
	memset(page_words(P_TARGET), 0, PAGE);
	page_words(P_TARGET)[0] = 0xd9010f;
}

static void store(struct box *box, uint64_t at, uint64_t value)
{
	box->stores[box->store_count++] = (struct box_store){at, value};
}

/* The tables between the top and the parent are open; those of the guest's own are L2's memory. */
static void set_tables(const struct paging_case *c, struct box *box)
{
	uint64_t target = HIGH | page_gpa(P_TARGET);

	store(box, page_gpa(P_G_PML4) + 8, page_gpa(P_T_PDPT) | ENTRY_OPEN);
	store(box, page_gpa(P_T_PDPT) + index_at(target, 3) * 8, page_gpa(P_T_PD) | ENTRY_OPEN);
	store(box, page_gpa(P_N_PML4) + 8, page_gpa(P_NT_PDPT) | ENTRY_OPEN);
	store(box, page_gpa(P_NT_PDPT) + index_at(target, 3) * 8, page_gpa(P_NT_PD) | ENTRY_OPEN);
	for (enum paging_entry entry = 0; entry < PAGING_ENTRIES; entry++) {
		if (!c->nested_level && entry >= NESTED_PARENT)
			break;
		store(box, entry_gpa(c, entry), entry_value(c, entry));
		box->after_at[entry] = entry_gpa(c, entry);
	}
}

static struct box *box_of(uint32_t slot)
{
	return (struct box *)(void *)(paging.nest.memory + BATCH_AT + slot * BATCH_BYTES + PAGE);
}

static struct vmcb *vmcb_of(uint32_t slot)
{
	return (struct vmcb *)(void *)(paging.nest.memory + BATCH_AT + slot * BATCH_BYTES);
}

static void set_modes(const struct paging_case *c, struct vmcb *vmcb)
{
	static const enum l2_code codes[] = {L2_LOAD, L2_STORE, L2_CALL};

	*vmcb = *paging.nest.vmcb;
	vmcb->control.tlb_control = 1;
	vmcb->control.misc = c->nested_level ? VMCB_NESTED_PAGING : 0;
	vmcb->control.nested_cr3 = page_gpa(P_N_PML4);
	vmcb->save.cr3 = page_gpa(P_G_PML4);
	vmcb->save.cpl = c->user ? 3 : 0;
	if (c->user) {
		vmcb->save.cs.selector = 0x23;
		vmcb->save.cs.attributes |= 3 << 5;
		vmcb->save.ss.selector = 0x1b;
		vmcb->save.ss.attributes |= 3 << 5;
	}
	vmcb->save.cr0 = 1u << 31 | 1u << 5 | 1u << 4 | 1u | (c->wp ? 1u << 16 : 0);
	vmcb->save.cr4 = 1u << 5 | (c->smep ? 1u << 20 : 0) | (c->smap ? 1u << 21 : 0);
	vmcb->save.rflags = 2 | (c->ac ? 1u << 18 : 0);
	if (!c->nxe)
		vmcb->save.efer &= ~(1ul << 11);
	vmcb->save.rip = (c->user ? USER_CODE : SUPERVISOR_CODE) + l2_entry(codes[c->access]);
}

static void complain(const struct paging_case *c, const struct paging_result *wanted,
		     const struct vmcb_control *got)
{
	static const char *const ends[] = {"none", "#PF", "nested fault on a table",
					   "nested fault"};

	fprintf(stderr, "bits");
	for (int i = 0; i < PAGING_ENTRIES; i++)
		fprintf(stderr, " %#x/%u", c->bits[i], c->marks[i]);
	fprintf(
	    stderr,
	    " (parent, leaf, nested parent, nested leaf, table; bits P W U NX R), levels %u %u, "
	    "access %u, user %u wp %u smep %u smap %u ac %u nxe %u %u\n",
	    c->guest_level, c->nested_level, c->access, c->user, c->wp, c->smep, c->smap, c->ac,
	    c->nxe, c->nested_nxe);
	fprintf(stderr, "exit %#lx, %#lx, %#lx; wanted: %s, error %#x\n", got->exit_code,
		got->exit_info1, got->exit_info2, ends[wanted->end], wanted->error);
}

static int same_end(const struct paging_result *wanted, const struct vmcb_control *got)
{
	uint64_t target = HIGH | page_gpa(P_TARGET);

	switch (wanted->end) {
	case PAGING_DONE:
		return got->exit_code == EXIT_VMMCALL;
	case PAGING_GUEST_FAULT:
		return got->exit_code == EXIT_PAGE_FAULT && got->exit_info1 == wanted->error &&
		       got->exit_info2 == target;
	case PAGING_NESTED_TABLE_FAULT:
		return got->exit_code == VMCB_EXIT_NPF &&
		       got->exit_info1 == (ERROR_TABLE | wanted->error) &&
		       got->exit_info2 == page_gpa(P_T_PT) + index_at(target, 1) * 8;
	default:
		return got->exit_code == VMCB_EXIT_NPF &&
		       got->exit_info1 == (ERROR_FINAL | wanted->error) &&
		       got->exit_info2 == target;
	}
}

static int same_marks(const struct paging_case *c, const struct paging_result *wanted,
		      const struct box *box)
{
	for (int i = 0; i < (c->nested_level ? PAGING_ENTRIES : NESTED_PARENT); i++) {
		uint8_t marks = box->after[i] >> 5 & 3, fresh = marks & ~c->marks[i];

		if ((marks & wanted->set[i]) != wanted->set[i] || (fresh & wanted->clear[i]) ||
		    (c->marks[i] & ~marks)) {
			fprintf(stderr, "entry %d has marks %u now\n", i, marks);
			return 0;
		}
	}
	return 1;
}

static void check(uint32_t slot)
{
	const struct paging_case *c = &paging.cases[slot];
	const struct vmcb_control *got = &vmcb_of(slot)->control;
	struct paging_result wanted = paging_model(c);

	if (!same_end(&wanted, got) || !same_marks(c, &wanted, box_of(slot))) {
		complain(c, &wanted, got);
		FAIL("case %lu differs", paging.number - paging.waiting + slot);
	}
	paging.done++;
	paging.faults += wanted.end == PAGING_GUEST_FAULT;
	paging.nested_faults += wanted.end >= PAGING_NESTED_TABLE_FAULT;
}

static void run_batch(void)
{
	if (!paging.waiting)
		return;
	box_of(paging.waiting - 1)->next = 0;
	paging.nest.box->next = paging.nest.gpa + BATCH_AT + PAGE;
	CHECK_EQ(nest_turn(&paging.nest), NEST_DONE);
	for (uint32_t slot = 0; slot < paging.waiting; slot++)
		check(slot);
	paging.waiting = 0;
}

/* L1's NXE is the vCPU's. */
static void set_l1_nxe(uint8_t nxe)
{
	struct kvm_sregs sregs;

	if (nxe == paging.with_nxe)
		return;
	run_batch();
	CHECK_OK(ioctl(paging.nest.vcpu.fd, KVM_GET_SREGS, &sregs));
	sregs.efer = nxe ? sregs.efer | 1ul << 11 : sregs.efer & ~(1ul << 11);
	CHECK_OK(ioctl(paging.nest.vcpu.fd, KVM_SET_SREGS, &sregs));
	paging.with_nxe = nxe;
}

/* The box of @slot, in which L2 makes the access of @c. Nothing is stored before it. */
static struct box *place(uint32_t slot, const struct paging_case *c)
{
	struct box *box = box_of(slot);

	memset(box, 0, sizeof(*box));
	set_modes(c, vmcb_of(slot));
	box->vmcb = paging.nest.gpa + BATCH_AT + slot * BATCH_BYTES;
	box->rbx = HIGH | page_gpa(P_TARGET);
	box->rdx = 0xd9010f;
	box->next = paging.nest.gpa + BATCH_AT + (slot + 1) * BATCH_BYTES + PAGE;
	return box;
}

static void add(const struct paging_case *wanted)
{
	struct paging_case *c;
	uint32_t slot;

	if (++paging.number % paging.stride)
		return;
	set_l1_nxe(wanted->nested_nxe);
	slot = paging.waiting++;
	c = &paging.cases[slot];
	*c = *wanted;
	for (int i = 0; i < PAGING_ENTRIES; i++)
		c->marks[i] = paging.number * 2654435761u >> (8 + 2 * i) & 3;
	set_tables(c, place(slot, c));
	if (paging.waiting == BATCH)
		run_batch();
}

static void start(void)
{
	vm_open(&paging.vm, KVM_X86_DEFAULT_VM);
	vm_add_agent(&paging.vm);
	nest_open(&paging.nest, &paging.vm, 0);
	nest_reset(&paging.nest, 0);
	paging.with_nxe = 1;
	paging.number = paging.done = paging.waiting = 0;
	build_fixed();
}

static void finish(void)
{
	run_batch();
	printf("  %lu of %lu combinations, %lu #PF, %lu nested faults\n", paging.done,
	       paging.number, paging.faults, paging.nested_faults);
	CHECK(paging.done && paging.faults + paging.nested_faults < paging.done);
}

static struct paging_case open_case(void)
{
	struct paging_case c = {.guest_level = 1, .wp = 1, .nxe = 1, .nested_nxe = 1};

	memset(c.bits, BITS_OPEN, sizeof(c.bits));
	return c;
}

/* Each access kind and mode of @c. */
static void add_modes(struct paging_case *c)
{
	for (unsigned int modes = 0; modes < 3 * 64; modes++) {
		c->access = modes / 64;
		c->user = modes & 1;
		c->wp = modes >> 1 & 1;
		c->smep = modes >> 2 & 1;
		c->smap = modes >> 3 & 1;
		c->ac = modes >> 4 & 1;
		c->nxe = modes >> 5 & 1;
		add(c);
	}
}

static void guest_tables(void)
{
	struct paging_case c = open_case();

	start();
	for (c.guest_level = 1; c.guest_level <= 3; c.guest_level++)
		for (unsigned int bits = 0; bits < BITS_ALL * BITS_ALL; bits++) {
			c.bits[GUEST_PARENT] = bits / BITS_ALL;
			c.bits[GUEST_LEAF] = bits % BITS_ALL;
			add_modes(&c);
		}
	finish();
}

static void nested_tables(void)
{
	struct paging_case c = open_case();

	start();
	paging.stride = 1;
	for (unsigned int modes = 0; modes < 4 * PAGING_ACCESSES; modes++) {
		c.nested_nxe = modes & 1;
		c.user = modes >> 1 & 1;
		c.access = modes / 4;
		for (c.nested_level = 1; c.nested_level <= 3; c.nested_level++)
			for (unsigned int bits = 0; bits < BITS_ALL * BITS_ALL; bits++) {
				c.bits[NESTED_PARENT] = bits / BITS_ALL;
				c.bits[NESTED_LEAF] = bits % BITS_ALL;
				add(&c);
			}
	}
	finish();
}

/* The guest's leaf, L1's leaf of the page and L1's leaf of the guest's table, in all modes. */
static void both(void)
{
	struct paging_case c = open_case();

	start();
	for (unsigned int levels = 0; levels < 9; levels++) {
		c.guest_level = 1 + levels / 3;
		c.nested_level = 1 + levels % 3;
		for (unsigned int bits = 0; bits < BITS_ALL * BITS_ALL * BITS_ALL; bits++) {
			c.bits[GUEST_LEAF] = bits % BITS_ALL;
			c.bits[NESTED_LEAF] = bits / BITS_ALL % BITS_ALL;
			c.bits[NESTED_TABLE] = bits / BITS_ALL / BITS_ALL;
			/* Larger leaves are not in that table. */
			if (c.guest_level == 1 || c.bits[NESTED_TABLE] == BITS_OPEN)
				add_modes(&c);
		}
	}
	finish();
}

/* L1's leaf of one of the guest's tables is @bits from now on, and L2 makes the access of @c. */
static const struct vmcb_control *run_with(const struct paging_case *c, enum page table,
					   uint64_t bits)
{
	struct box *box = place(0, c);

	store(box, page_gpa(P_N_PT) + index_at(page_gpa(table), 1) * 8, page_gpa(table) | bits);
	box->next = 0;
	paging.nest.box->next = paging.nest.gpa + BATCH_AT + PAGE;
	CHECK_EQ(nest_turn(&paging.nest), NEST_DONE);
	return &vmcb_of(0)->control;
}

/* A walk is a write to L1's tables, also of tables that L2 went through before, all bits set. */
static void tables_become_read_only(void)
{
	static const enum page tables[] = {P_T_PT, P_T_PD, P_T_PDPT};
	struct paging_case c = open_case();

	start();
	paging.stride = 1;
	c.nested_level = 1;
	add(&c);
	run_batch();
	for (unsigned int i = 0; i < sizeof(tables) / sizeof(tables[0]); i++) {
		uint64_t entry =
		    page_gpa(tables[i]) + index_at(HIGH | page_gpa(P_TARGET), i + 1) * 8;
		const struct vmcb_control *got = run_with(&c, tables[i], ENTRY_OPEN & ~2ul);

		CHECK_EQ(got->exit_code, VMCB_EXIT_NPF);
		CHECK_EQ(got->exit_info1, ERROR_TABLE | 7);
		CHECK_EQ(got->exit_info2, entry);
		CHECK_EQ(run_with(&c, tables[i], ENTRY_OPEN)->exit_code, EXIT_VMMCALL);
	}
}

int main(int argc, char **argv)
{
	static const struct check_test tests[] = {
	    TEST(guest_tables),
	    TEST(nested_tables),
	    TEST(both),
	    TEST(tables_become_read_only),
	};

	paging.stride = 1;
	if (argc > 1 && !strcmp(argv[1], "--whole")) {
		both();
		return 0;
	}
	/* --stride N: every Nth combination alone. */
	if (argc > 2 && !strcmp(argv[1], "--stride")) {
		paging.stride = strtoul(argv[2], NULL, 10);
		argv[2] = argv[0];
		argv += 2;
		argc -= 2;
	}
	return check_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
