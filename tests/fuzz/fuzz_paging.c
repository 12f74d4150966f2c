/*
 * A guest's page tables: the CPU, interpreting or translating, reaches the page, raises the fault
 * and sets the marks that a walk of its own by tests/fuzz/paging_walker.c says. Entries are the
 * input's, and so is what was cached of them before.
 */
#include <stdlib.h>
#include <string.h>

#include "tests/fuzz/paging_machine.h"
#include "tests/fuzz/target.h"

#define PAGE UINT64_C(4096)
#define P UINT64_C(1)
#define W UINT64_C(2)
#define U UINT64_C(4)
#define MARK_A UINT64_C(0x20)
#define MARK_D UINT64_C(0x40)
#define PS_BIT 7u
#define PS (UINT64_C(1) << PS_BIT)
#define G UINT64_C(0x100)
#define HLT 0xf4
#define VECTOR_GP 13u
#define VECTOR_PF 14u
#define FLAG_AC (UINT64_C(1) << 18)
#define CR3_NO_FLUSH (UINT64_C(1) << 63)

/* Tables of the input's, which stand for any level. */
#define POOL UINT64_C(0x100000)
#define POOL_PAGES 8u
/* Pages of data, and where larger pages begin. */
#define DATA UINT64_C(0x400000)
#define WORDS_OF_A_STEP 16u
#define WORDS_MAX (WORDS_OF_A_STEP * FUZZ_RECORDS_MAX)

struct word {
	uint64_t gpa, value;
};

/* One that interprets and one that translates, if this machine can. */
static struct quire_vcpu *machines[2];
static struct quire_vcpu *vcpu;
static struct walker_modes modes;
static int is_made, has_modes;
/* Has the tables' memory changed since the translations of this PCID were dropped? */
#define PCIDS 2u
static int is_stale[PCIDS];
static uint64_t last_flush;
static int is_global_kept; /* and a translation that a write to CR3 leaves */
static uint64_t linear;	   /* of the last access */
/* What to put back: the oldest first. */
static struct word saved[WORDS_MAX];
static unsigned int saved_count;
/* Each has some 64 accesses: an input of nothing else would take long. */
#define SWEEPS_MAX 4u
static unsigned int sweeps_left;
static uint64_t history; /* of the input: a digest of its steps */

static void set_stale(int stale)
{
	for (unsigned int i = 0; i < PCIDS; i++)
		is_stale[i] = stale;
}

static uint8_t *ram(void)
{
	return vcpu->vm->ram;
}

static struct walker_memory memory(void)
{
	return (struct walker_memory){ram(), RAM_BYTES};
}

static uint64_t load(uint64_t gpa)
{
	uint64_t value;

	memcpy(&value, ram() + gpa, sizeof(value));
	return value;
}

static void save(uint64_t gpa)
{
	if (saved_count < WORDS_MAX && gpa + 8 <= RAM_BYTES)
		saved[saved_count++] = (struct word){gpa, load(gpa)};
}

static unsigned int entry_bytes(void)
{
	return modes.levels == 2 ? 4 : 8;
}

static unsigned int index_bits(void)
{
	return modes.levels == 2 ? 10 : 9;
}

static void store_entry(uint64_t table, uint64_t index, uint64_t entry)
{
	memcpy(ram() + table + index * entry_bytes(), &entry, entry_bytes());
}

static void draw_modes(struct fuzz_random *random)
{
	uint64_t bits = random_below(random, 0x100);

	modes.wp = bits & 1;
	modes.smep = bits >> 1 & 1;
	modes.smap = bits >> 2 & 1;
	modes.nxe = bits >> 3 & 1;
	modes.pke = bits >> 4 & 1;
	modes.pse = !(bits >> 5 & 1);
	modes.pge = bits >> 6 & 1;
	modes.pcide = bits >> 7 & 1 && modes.levels >= 4;
	modes.pkru = (uint32_t)random_below(random, 1ull << 32);
	/* Such changes flush, and the host makes them. */
	set_stale(1);
	has_modes = 1;
}

/* An index in a table. In the root, none that the machine itself needs. */
static uint64_t draw_index(struct fuzz_random *random, int is_root)
{
	static const uint16_t indices[] = {1, 2, 3, 1023, 0, 511, 256, 0};
	uint64_t index = indices[random_below(random, is_root ? 4 : 8)];

	if (is_root && modes.levels == 3)
		return 1 + index % 3;
	if (is_root && index == 1023 && modes.levels > 2)
		return 511;
	return modes.levels == 2 ? index : index & 511;
}

static uint64_t draw_address(struct fuzz_random *random)
{
	switch (random_below(random, 6)) {
	case 0:
		return DATA + random_below(random, 8) * PAGE;
	case 1:
		return DATA + random_below(random, 2) * 0x200000;
	case 2:
		return random_below(random, 1ull << 36) * PAGE;
	case 3:
		return 0;
	default:
		return POOL + random_below(random, POOL_PAGES) * PAGE;
	}
}

/* Most of them lead on, and allow something. */
static void change_entry(struct fuzz_random *random)
{
	uint64_t which = random_below(random, POOL_PAGES + 2);
	int is_root = which >= POOL_PAGES;
	uint64_t table = is_root ? ROOT : POOL + which * PAGE;
	uint64_t index = draw_index(random, is_root);
	uint64_t entry = draw_address(random) | (~random_below(random, 0x100) & 0xff);
	uint64_t more = random_below(random, 0x100);

	if (more & 1)
		entry &= ~PS;
	if (more & 2)
		entry |= UINT64_C(1) << 63;
	if (more & 4)
		entry |= random_below(random, 16) << 59;
	if ((more & 0xf0) == 0xf0)
		entry ^= UINT64_C(1) << random_below(random, 64);
	/* The bits of PAE's four that must be zero are looked at when CR3 is loaded. */
	if (is_root && modes.levels == 3)
		entry &= UINT64_C(0xfffffffff000) | P;
	save(table + (index * entry_bytes() & ~UINT64_C(7)));
	store_entry(table, index, entry);
	set_stale(1);
}

static uint64_t draw_linear(struct fuzz_random *random)
{
	uint64_t drawn = random_below(random, PAGE);

	/* Near the page's end as often as not. */
	if (random_once_in(random, 2))
		drawn |= 0xff8;
	for (unsigned int level = 1; level <= modes.levels; level++)
		drawn |= draw_index(random, level == modes.levels)
			 << (12 + index_bits() * (level - 1));
	if (modes.levels < 4)
		return drawn & UINT32_MAX;
	/* Canonical: the highest bit of the width fills all above it. */
	return (uint64_t)((int64_t)(drawn << (modes.levels == 4 ? 16 : 7)) >>
			  (modes.levels == 4 ? 16 : 7));
}

/* Entries from the root to a leaf that allow everything: for steps that take something away. With
 * their marks set, they are the fast walk's. */
static void make_path(struct fuzz_random *random)
{
	uint64_t pool = random_below(random, POOL_PAGES), table = ROOT, entry;
	unsigned int leaf = 1 + (unsigned int)random_below(random, modes.levels == 2 ? 2 : 3);
	uint64_t marks = random_once_in(random, 2) ? 0 : MARK_A | MARK_D;

	if (modes.levels == 3 && leaf == 3)
		leaf = 1;
	linear = draw_linear(random);
	for (unsigned int level = modes.levels; level >= leaf; level--, pool++) {
		uint64_t index = linear >> (12 + index_bits() * (level - 1));

		index &= (1u << index_bits()) - 1;
		entry = (POOL + pool % POOL_PAGES * PAGE) | P | W | U;
		if (level == leaf)
			entry = DATA | P | W | U | (level > 1 ? PS : 0);
		entry |= marks;
		if (modes.levels == 3 && level == 3)
			entry &= ~(W | U | MARK_A | MARK_D);
		/* The only one of this size is at the beginning, where the machine is. */
		if (level == leaf && level == 3)
			entry &= ~DATA;
		save(table + (index * entry_bytes() & ~UINT64_C(7)));
		store_entry(table, index, entry);
		table = POOL + pool % POOL_PAGES * PAGE;
	}
	set_stale(1);
}

static void store_changed(const struct walker_entry *entry, uint64_t value)
{
	save(entry->gpa & ~UINT64_C(7));
	memcpy(ram() + entry->gpa, &value, entry_bytes());
	set_stale(1);
}

static uint64_t load_entry(const struct walker_entry *entry)
{
	uint64_t value = 0;

	memcpy(&value, ram() + entry->gpa, entry_bytes());
	return value;
}

/* The bits of PAE's four that must be zero are looked at when CR3 is loaded. */
static void flip_bit_of(const struct walker_entry *entry, uint64_t bit)
{
	if (bit < 8 * entry_bytes() && (entry->has_marks || !bit))
		store_changed(entry, load_entry(entry) ^ UINT64_C(1) << bit);
}

static void clear_address_of_large(const struct walker_entry *entry)
{
	uint64_t value = load_entry(entry);

	if (value & PS)
		store_changed(entry, value & ~UINT64_C(0xfffffffff000));
}

/* One bit of an entry on the way of the last access. */
static void flip_bit(struct fuzz_random *random)
{
	const struct walker_access access = {.linear = linear};
	struct walker_result walk = walker_walk(memory(), &modes, &access);
	unsigned int which = (unsigned int)random_below(random, WALKER_LEVELS_MAX);
	uint64_t bit = random_below(random, 8ull * entry_bytes());

	if (which >= walk.count)
		which = walk.count - 1;
	/* Address 0 is the machine's own. */
	if (linear && walk.count)
		flip_bit_of(&walk.path[which], bit);
}

struct access {
	struct walker_access walk;
	unsigned int bytes;
	/* Of its first byte, and of its last one where that is on another page. */
	struct walker_result first, last;
	int crosses;
};

static void predict(struct access *access)
{
	struct walker_access last = access->walk;

	access->first = walker_walk(memory(), &modes, &access->walk);
	last.linear += access->bytes - 1;
	if (modes.levels < 4)
		last.linear &= UINT32_MAX;
	access->crosses = (last.linear ^ access->walk.linear) >= PAGE;
	last.linear &= access->crosses ? ~(PAGE - 1) : ~UINT64_C(0);
	access->last = walker_walk(memory(), &modes, &last);
}

static int is_in_ram(uint64_t gpa)
{
	return gpa < RAM_BYTES;
}

/* The access is to data or a device: not to what the machine needs, nor to an entry of its own way.
 */
static int may_run(const struct access *access)
{
	const struct walker_result *walks[] = {&access->first, &access->last};

	for (size_t i = 0; i < 2; i++) {
		if (walks[i]->end == WALKER_OUTSIDE)
			return 0;
		if (walks[i]->end == WALKER_DONE && walks[i]->gpa < DATA)
			return 0;
		/* It would end behind the memory. */
		if (is_in_ram(walks[i]->gpa) && !is_in_ram(walks[i]->gpa + 7))
			return 0;
		/* Of a device the two halves come one by one. */
		if (walks[i]->end == WALKER_DONE && !is_in_ram(walks[i]->gpa) &&
		    (access->crosses || access->walk.kind == WALKER_FETCH))
			return 0;
	}
	return 1;
}

/* mov (%rbx) to a part of RAX or back, and HLT; or a jump to the HLT that the page has. */
static unsigned int put_code(const struct access *access)
{
	static const uint8_t prefixes[] = {0, 0, 0x66, 0, 0, 0, 0, 0, 0x48};
	uint8_t code[8] = {0}, opcode = access->walk.kind == WALKER_WRITE ? 0x88 : 0x8a;
	unsigned int size = 0;

	if (access->walk.kind == WALKER_FETCH) {
		memcpy(code, "\xff\xe3", 2);
		memcpy(ram() + GUEST_CODE, code, sizeof(code));
		return 0;
	}
	if (prefixes[access->bytes])
		code[size++] = prefixes[access->bytes];
	code[size++] = opcode | (access->bytes > 1);
	code[size++] = 0x03;
	code[size] = HLT;
	memcpy(ram() + GUEST_CODE, code, sizeof(code));
	return size;
}

static enum cpu_exit run(struct cpu_exit_info *info, int user, uint64_t rip)
{
	struct cpu_state *s = cpu_state(vcpu->cpu);

	paging_set_segments(s, &modes, user ? PAGING_USER : PAGING_SUPERVISOR);
	s->rip = rip;
	s->gpr[CPU_RSP] = GUEST_STACK;
	s->halted = 0;
	s->exception_pending = 0;
	cpu_state_changed(vcpu->cpu);
	return cpu_run(vcpu->cpu, 0, info);
}

/* The guest executes @code, which ends in HLT. */
static void flush_by(const uint8_t *code, size_t size, const struct cpu_state *with)
{
	struct cpu_state *s = cpu_state(vcpu->cpu);
	struct cpu_exit_info info;

	memcpy(ram() + GUEST_CODE, code, size);
	s->gpr[CPU_RAX] = with->gpr[CPU_RAX];
	s->gpr[CPU_RBX] = with->gpr[CPU_RBX];
	s->gpr[CPU_RCX] = with->gpr[CPU_RCX];
	s->rflags = 2;
	if (run(&info, 0, GUEST_CODE) != CPU_EXIT_HLT || s->rip != GUEST_CODE + size)
		fuzz_fail("a flush ends at %#lx", s->rip);
}

/* INVLPG of the pages, which leaves the others. */
static void flush_pages(const struct access *access)
{
	/* invlpg (%rbx); invlpg (%rcx) */
	static const uint8_t code[] = {0x0f, 0x01, 0x3b, 0x0f, 0x01, 0x39, HLT};
	struct cpu_state with = {.gpr = {[CPU_RBX] = access->walk.linear,
					 [CPU_RCX] = access->walk.linear + access->bytes - 1}};

	flush_by(code, sizeof(code), &with);
}

/* CR4.PGE there and back, or INVPCID: all PCIDs, and what is global. */
static void flush_all(int by_invpcid)
{
	/* mov %rbx, %cr4; mov %rcx, %cr4; or invpcid (%rcx), %rbx */
	static const uint8_t toggle[] = {0x0f, 0x22, 0xe3, 0x0f, 0x22, 0xe1, HLT};
	static const uint8_t invpcid[] = {0x66, 0x0f, 0x38, 0x82, 0x19, HLT};
	uint64_t cr4 = cpu_state(vcpu->cpu)->cr4;
	struct cpu_state with = {.gpr = {[CPU_RBX] = cr4 ^ CR4_PGE, [CPU_RCX] = cr4}};

	if (by_invpcid) {
		memset(ram() + GUEST_CODE + 64, 0, 16);
		with.gpr[CPU_RBX] = 2;
		with.gpr[CPU_RCX] = GUEST_CODE + 64;
		flush_by(invpcid, sizeof(invpcid), &with);
	} else {
		flush_by(toggle, sizeof(toggle), &with);
	}
	set_stale(0);
	is_global_kept = 0;
}

static unsigned int pcid_now(void)
{
	return modes.pcide ? cpu_state(vcpu->cpu)->cr3 & 1 : 0;
}

/* A write to CR3 that keeps translations only where none is stale. */
static void load_cr3(int to_other)
{
	/* mov %rbx, %cr3 */
	static const uint8_t code[] = {0x0f, 0x22, 0xdb, HLT};
	unsigned int pcid = modes.pcide ? pcid_now() ^ (to_other != 0) : 0;
	struct cpu_state with = {.gpr = {[CPU_RBX] = ROOT | pcid}};

	if (modes.pcide && !is_stale[pcid])
		with.gpr[CPU_RBX] |= CR3_NO_FLUSH;
	flush_by(code, sizeof(code), &with);
	is_stale[pcid] = 0;
	/* Without PCIDs there is but one. */
	if (!modes.pcide)
		set_stale(0);
}

/* What is stale goes: by the host, which loads CR3, or by the guest. */
static void flush(const struct access *access, uint64_t how)
{
	struct cpu_state *s = cpu_state(vcpu->cpu);

	last_flush = how;
	if (has_modes || how < 2) {
		paging_set_modes(s, &modes);
		/* Another value each time, which flushes. */
		s->cr3 = modes.pcide ? ROOT | (~s->cr3 & 1) : ROOT | (~s->cr3 & 8);
		cpu_state_changed(vcpu->cpu);
		set_stale(0);
		has_modes = is_global_kept = 0;
	} else if (how < 4) {
		flush_pages(access);
	} else if (is_global_kept) {
		flush_all(how & 1);
	} else {
		load_cr3(how & 1);
	}
}

static uint64_t frame_word(unsigned int index)
{
	unsigned int size = modes.levels >= 4 ? 8 : 4;
	uint64_t value = 0;

	memcpy(&value, ram() + cpu_state(vcpu->cpu)->gpr[CPU_RSP] + index * size, size);
	return value;
}

static _Noreturn void tell(const struct access *access, const char *what)
{
	const struct cpu_state *s = cpu_state(vcpu->cpu);

	fuzz_fail("%s: %u levels, kind %d of %u bytes at %#lx, user %u, ac %u, wp %u smep %u smap "
		  "%u nxe %u pke %u pkru %#x: fault %d %#x, then %d %#x; RIP %#lx, CR2 %#lx, "
		  "frame %#lx; pge %d, pcid %d, last flush %d",
		  what, modes.levels, (int)access->walk.kind, access->bytes, access->walk.linear,
		  access->walk.user, access->walk.ac, modes.wp, modes.smep, modes.smap, modes.nxe,
		  modes.pke, modes.pkru, access->first.end, access->first.error, access->last.end,
		  access->last.error, s->rip, s->cr2, frame_word(0), modes.pge, modes.pcide,
		  (int)last_flush);
}

/* Do these walks have one entry in two roles? */
static int shares_entries(const struct walker_result *one, const struct walker_result *other)
{
	for (unsigned int i = 0; i < one->count; i++)
		for (unsigned int k = 0; k < other->count; k++)
			if (i != k && one->path[i].gpa == other->path[k].gpa)
				return 1;
	return 0;
}

/* Entries on the way of an access that is done have A, the leaf of a write D, and nothing else new.
 */
static void check_marks(const struct access *access, const struct walker_result *walk)
{
	uint64_t free_marks = 0;

	if (shares_entries(walk, walk) || shares_entries(&access->first, &access->last))
		free_marks = MARK_A | MARK_D;
	for (unsigned int i = 0; i < walk->count; i++) {
		const struct walker_entry *entry = &walk->path[i];
		int is_leaf = i + 1 == walk->count;
		uint64_t now = 0, expected = entry->value;

		memcpy(&now, ram() + entry->gpa, entry_bytes());
		if (walk->end == WALKER_DONE && entry->has_marks)
			expected |= MARK_A;
		if (walk->end == WALKER_DONE && is_leaf && access->walk.kind == WALKER_WRITE)
			expected |= MARK_D;
		/* A walk that ends in a fault may have marked what it came through. */
		if (walk->end == WALKER_FAULT && !is_leaf && entry->has_marks)
			expected |= now & MARK_A;
		if (now != (expected | (now & free_marks)))
			tell(access, "an entry has other marks");
	}
}

static void check_fault(const struct access *access, const struct walker_result *walk, uint64_t at)
{
	const struct cpu_state *s = cpu_state(vcpu->cpu);
	uint64_t cr2 = access->walk.linear;

	if (walk == &access->last && access->crosses)
		cr2 = (cr2 + access->bytes - 1) & ~(PAGE - 1);
	if (modes.levels < 4)
		cr2 &= UINT32_MAX;
	if (at != GUEST_HANDLERS + VECTOR_PF * 16)
		tell(access, "there is no #PF");
	if (s->cr2 != cr2 || (uint32_t)frame_word(0) != walk->error)
		tell(access, "another #PF");
}

/* It ends at the HLT, which a user may not execute. */
static void check_end(const struct access *access, uint64_t at, uint64_t end)
{
	if (!access->walk.user && at == end)
		return;
	if (access->walk.user && at == GUEST_HANDLERS + VECTOR_GP * 16 && frame_word(1) == end)
		return;
	tell(access, "the access is not done");
}

struct seen {
	enum cpu_exit exit;
	uint64_t rax, end;
	uint8_t expected[8]; /* in memory, afterwards */
};

static void read_bytes(const struct access *access, uint8_t bytes[8])
{
	unsigned int first = access->bytes;

	memset(bytes, 0, 8);
	if (access->crosses)
		first = (unsigned int)(PAGE - (access->walk.linear & (PAGE - 1)));
	memcpy(bytes, ram() + access->first.gpa, first);
	if (access->crosses)
		memcpy(bytes + first, ram() + access->last.gpa, access->bytes - first);
}

static void check_data(const struct access *access, const struct seen *seen)
{
	uint64_t rax = cpu_state(vcpu->cpu)->gpr[CPU_RAX];
	uint8_t bytes[8];

	read_bytes(access, bytes);
	if (access->walk.kind == WALKER_WRITE && memcmp(bytes, &seen->rax, access->bytes))
		tell(access, "it wrote elsewhere");
	if (access->walk.kind == WALKER_READ && memcmp(seen->expected, &rax, access->bytes))
		tell(access, "it read elsewhere");
}

static void check(const struct access *access, const struct seen *seen,
		  const struct cpu_exit_info *info)
{
	uint64_t at = cpu_state(vcpu->cpu)->rip - 1;
	const struct walker_result *fault = NULL;

	/* Behind the last address of 32 bits is the first. */
	if (modes.levels < 4)
		at &= UINT32_MAX;
	if (access->first.end == WALKER_FAULT)
		fault = &access->first;
	else if (access->last.end == WALKER_FAULT)
		fault = &access->last;
	if (!fault && !is_in_ram(access->first.gpa)) {
		if (seen->exit != CPU_EXIT_MMIO || info->io.address != access->first.gpa)
			tell(access, "it did not go to the device");
		return;
	}
	if (seen->exit != CPU_EXIT_HLT)
		fuzz_fail("exit %d at %#lx", (int)seen->exit, at + 1);
	if (fault) {
		check_fault(access, fault, at);
	} else {
		check_end(access, at, seen->end);
		check_data(access, seen);
	}
	/* Where the first half is done and the other faults, no rule says what the first one marks.
	 */
	if (fault != &access->last || !access->crosses)
		check_marks(access, &access->first);
	if (access->crosses && !fault)
		check_marks(access, &access->last);
}

static int may_be_global(const struct walker_result *walk)
{
	return modes.pge && walk->is_complete && (walk->path[walk->count - 1].value & G);
}

static void make_access(struct fuzz_random *random, int is_elsewhere)
{
	static const uint8_t sizes[] = {1, 2, 4, 8};
	struct cpu_state *s = cpu_state(vcpu->cpu);
	uint64_t bits = random_below(random, 0x100), rip = GUEST_CODE;
	struct access access = {.walk.kind = (enum walker_kind)(bits % WALKER_KINDS),
				.walk.user = bits >> 2 & 1,
				.walk.ac = bits >> 3 & 1,
				.bytes = sizes[random_below(random, modes.levels < 4 ? 3 : 4)]};
	struct seen seen = {0};
	struct cpu_exit_info info = {0};
	unsigned int size;

	if (access.walk.kind == WALKER_FETCH)
		access.bytes = 1;
	if (is_elsewhere)
		linear = draw_linear(random);
	access.walk.linear = linear;
	/* What goes on behind the last address is a matter of segments. */
	if (linear + access.bytes - 1 < linear ||
	    (modes.levels < 4 && linear + access.bytes - 1 > UINT32_MAX))
		return;
	predict(&access);
	if (!may_run(&access))
		return;
	if (is_stale[pcid_now()] || (modes.pcide && bits >> 7 && !is_global_kept))
		flush(&access, bits >> 4 & 7);
	save(access.first.gpa);
	save(access.last.gpa & ~UINT64_C(7));
	if (access.walk.kind == WALKER_FETCH && access.first.end == WALKER_DONE)
		ram()[access.first.gpa] = HLT;
	/* The flush may have marked entries: predict again from what is there now. */
	predict(&access);
	is_global_kept |= may_be_global(&access.first) || may_be_global(&access.last);
	if (access.first.end == WALKER_DONE && access.last.end == WALKER_DONE &&
	    is_in_ram(access.first.gpa) && is_in_ram(access.last.gpa))
		read_bytes(&access, seen.expected);
	size = put_code(&access);
	seen.rax = s->gpr[CPU_RAX] = random_word(random);
	s->gpr[CPU_RBX] = access.walk.linear;
	s->rflags = 2 | (access.walk.ac ? FLAG_AC : 0);
	if (access.walk.user)
		rip = CODE_USER_LINEAR;
	seen.end = access.walk.kind == WALKER_FETCH ? access.walk.linear : rip + size;
	/* The alignment check would raise another fault. */
	if (access.walk.user && access.walk.ac && access.walk.linear % access.bytes)
		return;
	seen.exit = run(&info, access.walk.user, rip);
	check(&access, &seen, &info);
	if (cpu_is_pending(vcpu->cpu))
		cpu_cancel_pending(vcpu->cpu);
}

static void start(void)
{
	fake_signals_install();
	machines[0] = fake_vcpu_create(fake_vm_create());
	machines[1] = fake_vcpu_create(fake_vm_create());
	machines[0]->cpuid = machines[1]->cpuid = fake_cpuid_with_pcid;
	if (cpu_translate_after(machines[1]->cpu, 0))
		machines[1] = machines[0];
	for (unsigned int i = 0; i < 2; i++)
		for (uint64_t gpa = DATA; gpa < RAM_BYTES; gpa += 4)
			memcpy(machines[i]->vm->ram + gpa, &(uint32_t){(uint32_t)gpa * 0x9e3779b1u},
			       4);
}

static void begin(void)
{
	is_made = 0;
	saved_count = 0;
	sweeps_left = SWEEPS_MAX;
	history = 0;
}

static void restore(unsigned int down_to)
{
	while (saved_count > down_to) {
		const struct word *word = &saved[--saved_count];

		memcpy(ram() + word->gpa, &word->value, sizeof(word->value));
	}
}

static void make_machine(struct fuzz_random *random)
{
	static const uint8_t levels[] = {4, 5, 3, 2};

	vcpu = machines[random_below(random, 2)];
	modes = (struct walker_modes){.levels = levels[random_below(random, 4)], .root = ROOT};
	linear = 0;
	paging_build_tables(ram(), &modes);
	paging_build_events(ram(), &modes);
	memset(ram() + POOL, 0, POOL_PAGES * PAGE);
	draw_modes(random);
}

/*
 * Each bit of one entry in turn, by accesses of any kind, in any mode. A rule of paging is about
 * one bit of one level and holds for some accesses only: few inputs have a step for each of them.
 * Once before, so that the second stage has the page and the fast walk alone decides. All draws are
 * other ones after any change of the steps before: an input out of others sweeps what they did not.
 */
static void sweep_entry(struct fuzz_random *random)
{
	struct fuzz_random values;
	struct walker_access access = {.kind = WALKER_READ};
	struct walker_result walk;
	const struct walker_entry *entry;
	/* What another entry of the way has or lacks meanwhile. */
	static const uint8_t bits[] = {0, 1, 2, 5, 6, 8, 59, 63};

	random_seed(&values, random_word(random) ^ history);
	restore(0);
	make_machine(&values);
	make_path(&values);
	make_access(&values, 0);
	access.linear = linear;
	walk = walker_walk(memory(), &modes, &access);
	if (!linear || !walk.count)
		return;
	entry = &walk.path[random_below(&values, walk.count)];
	if (random_once_in(&values, 2))
		flip_bit_of(&walk.path[random_below(&values, walk.count)],
			    bits[random_below(&values, sizeof(bits))]);
	for (unsigned int bit = 0; bit < 8 * entry_bytes() && entry->has_marks; bit++) {
		unsigned int before = saved_count;

		flip_bit_of(entry, bit);
		/* Where a table was, no large page may begin. */
		if (bit == PS_BIT && random_once_in(&values, 2))
			clear_address_of_large(entry);
		make_access(&values, 0);
		restore(before);
	}
	set_stale(1);
}

enum kind {
	PATH,
	BIT,
	ACCESS,
	BIT_AGAIN,
	ACCESS_AGAIN,
	ACCESS_ELSEWHERE,
	ENTRY,
	MODES,
	SWEEP,
	KINDS
};

static void do_step(enum kind kind, struct fuzz_random *random)
{
	switch (kind) {
	case PATH:
		make_path(random);
		break;
	case BIT:
	case BIT_AGAIN:
		flip_bit(random);
		break;
	case ENTRY:
		change_entry(random);
		break;
	case MODES:
		draw_modes(random);
		break;
	case SWEEP:
		if (sweeps_left) {
			sweeps_left--;
			sweep_entry(random);
		}
		break;
	default:
		make_access(random, kind == ACCESS_ELSEWHERE);
	}
}

/* The first step says what the machine is like. */
static int step(unsigned int kind, struct fuzz_random *random)
{
	struct fuzz_random copy = *random;

	history = (history ^ random_word(&copy)) * 0x100000001b3ull;
	if (!is_made)
		make_machine(random);
	else
		do_step((enum kind)kind, random);
	is_made = 1;
	return saved_count + WORDS_OF_A_STEP < WORDS_MAX;
}

static void end(void)
{
	restore(0);
}

const struct fuzz_target fuzz_target = {
    .kinds = KINDS,
    .start = start,
    .begin = begin,
    .step = step,
    .end = end,
};
