/*
 * Rights to a page: every combination of rights in two entries and of the modes that decide,
 * in each way of paging, against rules written down here once more. Privilege changes without a
 * flush, so that what one access cached serves the next only where it may.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/vcpu/machine.h"

#define PAGE UINT64_C(4096)
#define VECTOR_GP 13u
#define VECTOR_PF 14u

/* Bits of an entry. */
#define P UINT64_C(1)
#define W UINT64_C(2)
#define U UINT64_C(4)
#define LARGE UINT64_C(0x80)
#define NX (UINT64_C(1) << 63)
#define KEY(n) ((uint64_t)(n) << 59)
#define BIT(n) (UINT64_C(1) << (n))
/* Bits of an error code. */
#define ERROR_P 1u
#define ERROR_W 2u
#define ERROR_U 4u
#define ERROR_RESERVED 8u
#define ERROR_FETCH 16u
#define ERROR_KEY 32u

#define CR0_WP UINT64_C(0x10000)
#define CR4_PSE UINT64_C(0x10)
#define CR4_PAE UINT64_C(0x20)
#define CR4_SMEP (UINT64_C(1) << 20)
#define CR4_SMAP (UINT64_C(1) << 21)
#define CR4_PKE (UINT64_C(1) << 22)
#define CR4_LA57 (UINT64_C(1) << 12)
#define EFER_NXE UINT64_C(0x800)
#define FLAG_AC (UINT64_C(1) << 18)

/* Tables, and where the target is. The lowest page of code is there twice, for users and not. */
#define ROOT 0x50000u
#define LOW_TABLE 0x51000u
#define TARGET_TABLE 0x52000u
#define UPPER 0x53000u /* of three pages: what is between the root and the tables */
#define CODE_SUPERVISOR GUEST_CODE
#define CODE_USER (GUEST_CODE + 0x1000u)
#define TARGET UINT64_C(0x400000) /* physical */
#define HLT 0xf4

/* A way of paging, and how large the target's page is in it. */
struct way {
	const char *name;
	uint8_t entry_bytes, is_long; /* is_long: 4 or 5 levels */
	uint8_t leaf_level;
	uint8_t has_parent; /* whose rights count */
	uint64_t linear;    /* of the target */
	uint64_t reserved;  /* a bit of its leaf; 0: there is none */
};

static const struct way ways[] = {
    {"32-bit, 4K", 4, 0, 1, 1, 0xc00000, 0},
    {"32-bit, 4M", 4, 0, 2, 0, 0xc00000, BIT(21)},
    {"PAE, 4K", 8, 0, 1, 1, 0xc00000, BIT(62)},
    {"PAE, 2M", 8, 0, 2, 0, 0xc00000, BIT(52)},
    {"4-level, 4K", 8, 4, 1, 1, 0xc00000, BIT(48)},
    {"4-level, 2M", 8, 4, 2, 1, 0x40c00000, BIT(20)},
    {"4-level, 1G", 8, 4, 3, 1, 0x8040400000, BIT(29)},
    {"5-level, 4K", 8, 5, 1, 1, 0xc00000, BIT(51)},
    {"5-level, 2M", 8, 5, 2, 1, 0xff00000040c00000, BIT(13)},
    {"5-level, 1G", 8, 5, 3, 1, 0x0080008040400000, BIT(13)},
};

enum access { ACCESS_READ, ACCESS_WRITE, ACCESS_FETCH, ACCESSES };

struct rights_case {
	const struct way *way;
	uint64_t parent, leaf; /* P, W, U, NX */
	uint64_t reserved;     /* and this in the leaf */
	uint8_t wp, smep, smap, nxe, pke;
	uint8_t key; /* of the leaf: enum key */
	uint8_t user, ac, access;
};

/* What PKRU, which stays as it is, says of the first keys. */
enum key { KEY_OPEN, KEY_NO_ACCESS, KEY_NO_WRITE, KEYS };
#define PKRU 0x24u

static int key_denies(const struct rights_case *c, uint64_t all)
{
	if (!c->pke || !c->way->is_long || c->access == ACCESS_FETCH || !(all & U))
		return 0;
	return c->key == KEY_NO_ACCESS ||
	       (c->key == KEY_NO_WRITE && c->access == ACCESS_WRITE && (c->user || c->wp));
}

/* The rules. Zero: the access is done; else 1 + the error code of #PF. */
static uint32_t rule(const struct rights_case *c)
{
	int has_nx = c->way->entry_bytes == 8;
	uint64_t all = c->way->has_parent ? c->parent & c->leaf : c->leaf;
	uint64_t any = c->way->has_parent ? c->parent | c->leaf : c->leaf;
	uint32_t error = c->user ? ERROR_U : 0;
	int allowed = 1;

	if (c->access == ACCESS_WRITE)
		error |= ERROR_W;
	if (c->access == ACCESS_FETCH && (c->smep || (has_nx && c->nxe)))
		error |= ERROR_FETCH;
	/* From the root down: what is absent hides all below it, what is reserved too. */
	if (c->way->has_parent && !(c->parent & P))
		return 1 + error;
	if (c->way->has_parent && (c->parent & NX) && !c->nxe)
		return 1 + (error | ERROR_P | ERROR_RESERVED);
	if (!(c->leaf & P))
		return 1 + error;
	if (((c->leaf & NX) && !c->nxe) || c->reserved)
		return 1 + (error | ERROR_P | ERROR_RESERVED);
	if (c->user && !(all & U))
		allowed = 0;
	if (c->access == ACCESS_FETCH && ((any & NX) || (!c->user && (all & U) && c->smep)))
		allowed = 0;
	if (c->access != ACCESS_FETCH && !c->user && (all & U) && c->smap && !c->ac)
		allowed = 0;
	if (c->access == ACCESS_WRITE && !(all & W) && (c->user || c->wp))
		allowed = 0;
	if (key_denies(c, all))
		return 1 + (error | ERROR_P | ERROR_KEY);
	return allowed ? 0 : 1 + (error | ERROR_P);
}

static void put(struct machine *machine, const struct way *way, uint64_t table, uint64_t index,
		uint64_t entry)
{
	machine_write(machine, table + index * way->entry_bytes, &entry, way->entry_bytes);
}

static uint64_t index_of(const struct way *way, unsigned int level)
{
	unsigned int bits = way->entry_bytes == 8 ? 9 : 10;

	return way->linear >> (12 + bits * (level - 1)) & ((1u << bits) - 1);
}

/* The table that holds the entry of @level for the target. */
static uint64_t table_of(const struct way *way, unsigned int level)
{
	unsigned int levels = way->is_long ? way->is_long : way->entry_bytes == 8 ? 3 : 2;

	if (level == levels)
		return ROOT;
	return level == 1 ? TARGET_TABLE : UPPER + (level - 2) * PAGE;
}

/* Everything but the target: below 2 MiB, for the supervisor, and one page of code for users. */
static void build_tables(struct machine *machine, const struct way *way)
{
	static const uint8_t zeroes[UPPER + 3 * PAGE - ROOT];
	uint64_t open = P | W | U, pointers = way->is_long || way->entry_bytes == 4 ? open : P;

	machine_write(machine, ROOT, zeroes, sizeof(zeroes));
	for (uint64_t i = 0; i < 512; i++)
		put(machine, way, LOW_TABLE, i, i * PAGE | P | W);
	put(machine, way, LOW_TABLE, CODE_USER / PAGE, GUEST_CODE | P | U);
	if (way->entry_bytes == 4) {
		put(machine, way, ROOT, 0, LOW_TABLE | open);
		put(machine, way, ROOT, index_of(way, 2), TARGET_TABLE | open);
		return;
	}
	if (way->is_long) {
		if (way->is_long == 5) {
			put(machine, way, ROOT, 0, table_of(way, 4) | open);
			put(machine, way, ROOT, index_of(way, 5), table_of(way, 4) | open);
		}
		put(machine, way, table_of(way, 4), 0, table_of(way, 3) | open);
		put(machine, way, table_of(way, 4), index_of(way, 4), table_of(way, 3) | open);
		put(machine, way, table_of(way, 3), 0, UPPER | open);
		put(machine, way, table_of(way, 3), index_of(way, 3), UPPER | open);
	} else {
		put(machine, way, ROOT, 0, UPPER | pointers);
	}
	put(machine, way, UPPER, 0, LOW_TABLE | open);
	put(machine, way, UPPER, index_of(way, 2), TARGET_TABLE | open);
}

static void set_target(struct machine *machine, const struct rights_case *c)
{
	const struct way *way = c->way;
	unsigned int level = way->leaf_level;
	uint64_t span = PAGE << (way->entry_bytes == 8 ? 9 : 10) * (level - 1);

	put(machine, way, table_of(way, level), index_of(way, level),
	    (TARGET & ~(span - 1)) | c->leaf | c->reserved | KEY(c->key) | (level > 1 ? LARGE : 0));
	if (way->has_parent)
		put(machine, way, table_of(way, level + 1), index_of(way, level + 1),
		    table_of(way, level) | c->parent);
}

static void build_events(struct machine *machine, const struct way *way)
{
	static const uint64_t code = UINT64_C(0x00cf9b000000ffff);
	static const uint32_t stack[2] = {GUEST_STACK, SELECTOR_DATA};

	if (way->is_long)
		return;
	memcpy(machine->ram + GUEST_GDT + 0x30, &code, sizeof(code));
	memcpy(machine->ram + GUEST_TSS + 4, stack, sizeof(stack));
	for (uint64_t vector = 0; vector < 32; vector++) {
		uint64_t at = GUEST_HANDLERS + vector * 16;
		uint64_t gate = (at & 0xffff) | 0x30 << 16 | UINT64_C(0xee00) << 32;

		memcpy(machine->ram + GUEST_IDT + vector * 8, &gate, sizeof(gate));
	}
}

static void set_modes(struct machine *machine, const struct rights_case *c)
{
	struct cpu_state *s = cpu_state(machine->cpu);
	int is_long = c->way->is_long != 0;

	s->cr0 = UINT64_C(0x80000033) | (c->wp ? CR0_WP : 0);
	/* Another value each time, which flushes. */
	s->cr3 = ROOT | (~s->cr3 & 8);
	s->cr4 = CR4_PSE | (c->way->entry_bytes == 8 ? CR4_PAE : 0) | (c->smep ? CR4_SMEP : 0) |
		 (c->smap ? CR4_SMAP : 0) | (c->pke ? CR4_PKE : 0) |
		 (c->way->is_long == 5 ? CR4_LA57 : 0);
	s->pkru = PKRU;
	s->efer = (is_long ? 0x500u : 0) | (c->nxe ? EFER_NXE : 0);
	for (int i = 0; i <= CPU_GS; i++)
		s->seg[i] = (struct cpu_segment){.limit = UINT32_MAX,
						 .selector = SELECTOR_DATA,
						 .type = i == CPU_CS ? 11 : 3,
						 .s = 1,
						 .present = 1,
						 .l = is_long && i == CPU_CS,
						 .db = !(is_long && i == CPU_CS),
						 .g = 1};
}

/* The same code in both modes: the access twice, or a jump to the HLT of the target. */
static const uint8_t codes[ACCESSES][8] = {
    [ACCESS_READ] = {0x8a, 0x03, 0x8a, 0x03, HLT},
    [ACCESS_WRITE] = {0x88, 0x03, 0x88, 0x03, HLT},
    [ACCESS_FETCH] = {0xff, 0xe3},
};
#define CODE_STRIDE 64u

/* Where an access that is done ends. */
static uint64_t end_of(const struct rights_case *c, uint64_t code)
{
	return c->access == ACCESS_FETCH ? c->way->linear : code + 4;
}

static uint64_t frame_word(struct machine *machine, const struct way *way, unsigned int index)
{
	unsigned int size = way->is_long ? 8 : 4;
	uint64_t value = 0;

	memcpy(&value, machine->ram + cpu_state(machine->cpu)->gpr[CPU_RSP] + index * size, size);
	return value;
}

/* As rule() says it; UINT32_MAX: it ended otherwise. */
static uint32_t result(struct machine *machine, const struct rights_case *c, uint64_t code)
{
	struct cpu_state *s = cpu_state(machine->cpu);
	uint64_t at = s->rip - 1;

	if (!c->user && at == end_of(c, code))
		return 0;
	if (c->user && at == GUEST_HANDLERS + VECTOR_GP * 16 &&
	    frame_word(machine, c->way, 1) == end_of(c, code))
		return 0;
	if (at == GUEST_HANDLERS + VECTOR_PF * 16 && s->cr2 == c->way->linear)
		return 1 + (uint32_t)frame_word(machine, c->way, 0);
	return UINT32_MAX;
}

static void check_access(struct machine *machine, const struct rights_case *c)
{
	struct cpu_state *s = cpu_state(machine->cpu);
	uint64_t code = (c->user ? CODE_USER : CODE_SUPERVISOR) + c->access * CODE_STRIDE;
	struct cpu_exit_info info;
	uint32_t got = UINT32_MAX;

	s->seg[CPU_CS].selector = c->user ? SELECTOR_USER_CODE : c->way->is_long ? 8 : 0x30;
	s->seg[CPU_SS].selector = c->user ? SELECTOR_USER_DATA : SELECTOR_DATA;
	s->seg[CPU_CS].dpl = s->seg[CPU_SS].dpl = c->user ? 3 : 0;
	s->seg[CPU_CS].l = c->way->is_long != 0;
	s->seg[CPU_CS].db = !c->way->is_long;
	s->seg[CPU_CS].type = 11;
	s->rflags = 2 | (c->ac ? FLAG_AC : 0);
	s->rip = code;
	s->gpr[CPU_RAX] = HLT;
	s->gpr[CPU_RBX] = c->way->linear;
	s->gpr[CPU_RSP] = GUEST_STACK;
	s->halted = 0;
	cpu_state_changed(machine->cpu);
	if (cpu_run(machine->cpu, 0, &info) == CPU_EXIT_HLT)
		got = result(machine, c, code);
	if (got == rule(c))
		return;
	print_error(
	    "%s: parent %#lx, leaf %#lx key %u, wp %u smep %u smap %u nxe %u pke %u user %u "
	    "ac %u access %u: %#x, not %#x; RIP %#lx\n",
	    c->way->name, c->parent, c->leaf, c->key, c->wp, c->smep, c->smap, c->nxe, c->pke,
	    c->user, c->ac, c->access, got - 1, rule(c) - 1, s->rip);
	fail();
}

static uint64_t entry_bits(unsigned int bits)
{
	return (bits & 7) | (bits & 8 ? NX : 0);
}

/* All accesses to one pair of entries; each privilege follows each other one. */
static void check_entries(struct machine *machine, struct rights_case *c)
{
	set_target(machine, c);
	set_modes(machine, c);
	for (unsigned int turn = 0; turn < 24; turn++) {
		unsigned int which = turn * 5 % 12;

		c->user = which & 1;
		c->ac = which >> 1 & 1;
		c->access = (uint8_t)(which >> 2);
		check_access(machine, c);
	}
}

/* An entry has a key in long mode alone. */
static void check_keys(struct machine *machine, struct rights_case *c)
{
	unsigned int cases = c->way->is_long && machine->has_keys ? 2u * KEYS : 1u;

	for (unsigned int keys = 0; keys < cases; keys++) {
		c->pke = keys & 1;
		c->key = (uint8_t)(keys >> 1);
		check_entries(machine, c);
	}
}

static void build(struct machine *machine, const struct way *way)
{
	build_tables(machine, way);
	build_events(machine, way);
	for (unsigned int access = 0; access < ACCESSES; access++)
		memcpy(machine->ram + GUEST_CODE + access * CODE_STRIDE, codes[access], 8);
	machine->ram[TARGET] = HLT;
}

static void check_way(struct machine *machine, const struct way *way)
{
	unsigned int kinds = way->entry_bytes == 8 ? 16 : 8;
	struct rights_case c = {.way = way};

	build(machine, way);
	for (unsigned int bits = 0; bits < kinds * kinds * 16; bits++) {
		unsigned int modes = bits / kinds / kinds;

		c.leaf = entry_bits(bits % kinds);
		c.parent = entry_bits(bits / kinds % kinds);
		if (!way->has_parent && bits / kinds % kinds)
			continue;
		c.wp = modes & 1;
		c.smep = modes >> 1 & 1;
		c.smap = modes >> 2 & 1;
		c.nxe = modes >> 3 & 1;
		check_keys(machine, &c);
	}
}

static void test_rights(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
		struct machine machine;

		machine_create(&machine);
		check_way(&machine, &ways[i]);
		machine_destroy(&machine);
	}
}

/* A reserved bit of an entry that allows everything, or is not there; with and without NXE. */
static void test_reserved_bits(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
		struct rights_case c = {.way = &ways[i], .parent = P | W | U};
		struct machine machine;

		machine_create(&machine);
		build(&machine, &ways[i]);
		for (unsigned int bits = 0; bits < 8; bits++) {
			c.leaf = bits & 1 ? P | W | U : W | U;
			c.nxe = bits >> 1 & 1;
			c.reserved = bits & 4 ? ways[i].reserved : 0;
			check_entries(&machine, &c);
		}
		machine_destroy(&machine);
	}
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_rights),
	    cmocka_unit_test(test_reserved_bits),
	};

	machines_start();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
