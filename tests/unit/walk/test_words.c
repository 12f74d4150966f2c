/*
 * What table words say: physical addresses, whatever the library's pointers are; how a page is
 * cached, and whether the guest may execute from it, as the host said.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include <quire/format.h>
#include <quire/stats.h>

#include "tests/unit/fake_host.h"

#define GPA UINT64_C(0xc080604123) /* another index at each level, above 512 GiB */
#define SLOT_BYTES (UINT64_C(2) << 20)
#define SLOT_HVA SLOT_BYTES
#define FIRST_PFN UINT64_C(0x7654200)
#define OFFSET (UINT64_C(0x54321) << QUIRE_PAGE_SHIFT)

static uint64_t hva_pfn;	/* of the slot's first page */
static struct quire_page given; /* page_get() gives this, but for the frame */
static enum quire_level backing;
static unsigned int pages_out;
static uint64_t far_away; /* added to each table's address */
static uint64_t gpa;	  /* GPA, or one that fewer address bits reach */

static int page_get(void *ctx, hva_t hva, uint32_t flags, struct quire_page *page)
{
	(void)ctx, (void)flags;
	*page = given;
	page->pfn.v = hva_pfn + (hva.v - SLOT_HVA) / QUIRE_PAGE_SIZE;
	pages_out += page->refcounted;
	return 0;
}

static void page_put(void *ctx, const struct quire_page *page, enum quire_page_use use)
{
	(void)ctx, (void)page, (void)use;
	pages_out--;
}

static enum quire_level page_level(void *ctx, hva_t hva, enum quire_level max)
{
	(void)ctx, (void)hva;
	return backing < max ? backing : max;
}

/*
 * Physical memory whose order has nothing to do with that of the pointers, but that a root of
 * several tables is in one piece.
 */
#define SCRAMBLE (UINT64_C(0x5a0) << QUIRE_PAGE_SHIFT)
static uint64_t scramble;
static uint32_t root_entries; /* of the root that a vCPU entered with last */

static uint64_t table_phys(void *ctx, const uint64_t *table)
{
	(void)ctx;
	return ((uint64_t)(uintptr_t)table ^ scramble) + far_away;
}

static uint64_t *table_virt(void *ctx, uint64_t physical)
{
	(void)ctx;
	return (uint64_t *)(uintptr_t)((physical - far_away) ^ scramble);
}

struct machine {
	struct quire_host_ops host;
	struct quire_vm_config config;
	struct quire_vm *vm;
	struct quire_vcpu *vcpu;
};

static void machine_prepare(struct machine *machine)
{
	fake_reset();
	hva_pfn = FIRST_PFN;
	gpa = GPA;
	backing = QUIRE_LEVEL_4K;
	given = (struct quire_page){.writable = 1, .refcounted = 1};
	far_away = 0;
	scramble = SCRAMBLE;
	memset(machine, 0, sizeof(*machine));
	machine->host = fake_ops;
	machine->host.page_get = page_get;
	machine->host.page_put = page_put;
	machine->host.page_level = page_level;
	machine->config = (struct quire_vm_config){.maxphyaddr = 48, .mmio_caching = 1};
	machine->config.host = &machine->host;
}

static void set_slot(struct machine *machine, uint32_t flags)
{
	const struct quire_region region = {
	    .flags = flags,
	    .gpa = {gpa & ~(SLOT_BYTES - 1)},
	    .size_bytes = SLOT_BYTES,
	    .hva = {SLOT_HVA},
	};

	assert_int_equal(quire_vm_set_region(machine->vm, &region), 0);
}

static void machine_start(struct machine *machine)
{
	assert_int_equal(quire_vm_create(&machine->config, &machine->vm), 0);
	assert_int_equal(quire_vcpu_create(machine->vm, 0, NULL, &machine->vcpu), 0);
	set_slot(machine, 0);
}

static void machine_end(struct machine *machine)
{
	quire_vcpu_destroy(machine->vcpu);
	quire_vm_put(machine->vm);
	assert_int_equal(fake.live_allocs, 0);
	assert_int_equal(fake_reports, 0);
	assert_int_equal(pages_out, 0);
}

static int fault(struct machine *machine, uint64_t code)
{
	struct quire_memory_fault exit;
	struct quire_stage2 stage2;
	uint64_t requests;
	int ret = quire_vcpu_enter(machine->vcpu, &requests, &stage2);

	if (ret)
		return ret;
	quire_vcpu_leave(machine->vcpu);
	return quire_vcpu_fault(machine->vcpu, (gpa_t){gpa}, code, &exit);
}

/* The frame's number, by the manuals: RISC-V's stands lower, POWER's word is big-endian. */
static uint64_t frame_by_hand(const struct quire_stage2 *stage2, uint64_t word)
{
	switch (stage2->format->name[0]) {
	case 's':
		return word >> 10 & UINT64_C(0xfffffffff);
	case 'p':
		return __builtin_bswap64(word) >> 12 & UINT64_C(0xfffffffff);
	default:
		return word >> 12 & UINT64_C(0xfffffffff);
	}
}

/* The leaf for GPA, by the words alone: @pointer says which table an address is. */
static uint64_t leaf_by_hand(const struct quire_stage2 *stage2, uint64_t *(*pointer)(uint64_t))
{
	uint64_t *table = pointer(stage2->root_physical);

	assert_ptr_equal(table, stage2->root);
	/* The entries of the root go on where those of one table end. */
	for (unsigned int shift = 3 + 9 * stage2->root_level; shift > 12; shift -= 9) {
		unsigned int mask = shift > 3 + 9 * stage2->root_level - 9 ? 8191 : 511;
		uint64_t word = table[GPA >> shift & mask];

		assert_true(quire_entry_is_present(stage2->format, word));
		table = pointer(frame_by_hand(stage2, word) << 12);
	}
	return table[GPA >> 12 & 511];
}

static uint64_t *behind_offset(uint64_t physical)
{
	return (uint64_t *)(uintptr_t)(physical + OFFSET);
}

static uint64_t *behind_scramble(uint64_t physical)
{
	return table_virt(NULL, physical);
}

static void check_mapping(struct machine *machine, uint64_t *(*pointer)(uint64_t))
{
	struct quire_translation found;
	struct quire_stage2 stage2;
	uint64_t requests, leaf;
	gpa_t beyond;

	machine_start(machine);
	assert_int_equal(fault(machine, QUIRE_PFERR_WRITE), QUIRE_FIXED);
	assert_int_equal(quire_vcpu_enter(machine->vcpu, &requests, &stage2), 0);
	leaf = leaf_by_hand(&stage2, pointer);
	assert_int_equal(frame_by_hand(&stage2, leaf), FIRST_PFN + (GPA >> 12) % 512);
	assert_true(quire_walk(&stage2, (gpa_t){GPA}, QUIRE_PFERR_WRITE, &found));
	assert_int_equal(found.address, (FIRST_PFN + (GPA >> 12) % 512) << 12 | GPA % 4096);
	assert_int_equal(found.level, QUIRE_LEVEL_4K);
	assert_true(quire_entry_is_dirty(stage2.format, *found.slot));
	/* A write sets D where it is clear, a read does not. */
	*found.slot &= ~stage2.format->dirty;
	assert_true(quire_walk(&stage2, (gpa_t){GPA}, 0, &found));
	assert_int_equal(quire_entry_is_dirty(stage2.format, found.entry), !stage2.format->dirty);
	assert_true(quire_walk(&stage2, (gpa_t){GPA}, QUIRE_PFERR_WRITE, &found));
	assert_int_equal(*found.slot, leaf);
	/* Its neighbours are not there, and neither is what no table reaches. */
	assert_false(quire_walk(&stage2, (gpa_t){GPA + 4096}, QUIRE_PFERR_WRITE, &found));
	assert_int_equal(found.error_code, QUIRE_PFERR_WRITE);
	beyond.v = quire_level_bytes(stage2.root_level) * stage2.format->root_entries;
	assert_false(quire_walk(&stage2, beyond, 0, &found));
	assert_null(found.slot);
	quire_vcpu_leave(machine->vcpu);
	/* Tables go by the same way. */
	quire_vm_set_nx_huge_pages(machine->vm, 1);
	assert_int_equal(fault(machine, 0), QUIRE_FIXED);
	machine_end(machine);
}

static void test_offset(void **state)
{
	struct machine machine;

	(void)state;
	for (int format = 0; format <= QUIRE_FORMAT_ARM64_4_DBM; format++) {
		machine_prepare(&machine);
		machine.config.format = (enum quire_format_id)format;
		machine.config.table_offset = OFFSET;
		check_mapping(&machine, behind_offset);
	}
}

static void test_functions(void **state)
{
	struct machine machine;

	(void)state;
	for (int format = 0; format <= QUIRE_FORMAT_ARM64_4_DBM; format++) {
		machine_prepare(&machine);
		machine.config.format = (enum quire_format_id)format;
		machine.host.table_phys = table_phys;
		machine.host.table_virt = table_virt;
		/* They say it all. */
		machine.config.table_offset = OFFSET;
		check_mapping(&machine, behind_scramble);
	}
}

/* What cannot be named by an entry is refused, and nothing is kept. */
static void test_limits(void **state)
{
	struct machine machine;
	struct quire_stage2 stage2;
	uint64_t requests;

	(void)state;
	machine_prepare(&machine);
	machine.host.table_phys = table_phys;
	assert_int_equal(quire_vm_create(&machine.config, &machine.vm), -EINVAL);
	machine_prepare(&machine);
	machine.host.table_virt = table_virt;
	assert_int_equal(quire_vm_create(&machine.config, &machine.vm), -EINVAL);
	machine_prepare(&machine);
	machine.config.table_offset = 8;
	assert_int_equal(quire_vm_create(&machine.config, &machine.vm), -EINVAL);
	/* As if the pointers were a kernel's, and the direct map were not said. */
	machine.config.table_offset = UINT64_C(1) << 60;
	assert_int_equal(quire_vm_create(&machine.config, &machine.vm), -EINVAL);
	assert_int_equal(fake.live_allocs, 0);

	machine_prepare(&machine);
	machine.host.table_phys = table_phys;
	machine.host.table_virt = table_virt;
	machine_start(&machine);
	far_away = UINT64_C(1) << 48;
	assert_int_equal(quire_vcpu_enter(machine.vcpu, &requests, &stage2), -ENOMEM);
	assert_int_equal(fault(&machine, QUIRE_PFERR_WRITE), -ENOMEM);
	far_away = 0;
	assert_int_equal(fault(&machine, QUIRE_PFERR_WRITE), QUIRE_FIXED);
	machine_end(&machine);

	machine_prepare(&machine);
	machine_start(&machine);
	hva_pfn = UINT64_C(1) << 36;
	assert_int_equal(fault(&machine, QUIRE_PFERR_WRITE), -EFAULT);
	/* Of a page that is not counted there is nothing to give back. */
	given.refcounted = 0;
	assert_int_equal(fault(&machine, QUIRE_PFERR_WRITE), -EFAULT);
	hva_pfn = (UINT64_C(1) << 36) - 512;
	assert_int_equal(fault(&machine, QUIRE_PFERR_WRITE), QUIRE_FIXED);
	machine_end(&machine);
}

/* Memory at the end of what a machine has: chunks stand there one before the other. */
#define CHUNK (UINT64_C(2) << 20)
static uint64_t chunk_end, chunk_bases[4];
static unsigned int chunk_count;

static void *chunk_near_end(void *ctx)
{
	void *chunk = fake_ops.chunk_alloc(ctx);

	assert_true(chunk_count < 4);
	chunk_bases[chunk_count++] = (uint64_t)(uintptr_t)chunk;
	return chunk;
}

static uint64_t phys_near_end(void *ctx, const uint64_t *table)
{
	unsigned int i = 0;

	(void)ctx;
	while ((uint64_t)(uintptr_t)table - chunk_bases[i] >= CHUNK)
		i++;
	return (uint64_t)(uintptr_t)table - chunk_bases[i] + chunk_end - (i + 1) * CHUNK;
}

static uint64_t *virt_near_end(void *ctx, uint64_t physical)
{
	uint64_t before = chunk_end - 1 - physical;

	(void)ctx;
	return (uint64_t *)(uintptr_t)(chunk_bases[before / CHUNK] + CHUNK - 1 - before % CHUNK);
}

/* The first chunk can be named, the others cannot. */
static void *chunk_too_far(void *ctx)
{
	far_away = chunk_count++ ? UINT64_C(1) << 48 : 0;
	return fake_ops.chunk_alloc(ctx);
}

static int enter(struct machine *machine)
{
	struct quire_stage2 stage2;
	uint64_t requests;
	int ret = quire_vcpu_enter(machine->vcpu, &requests, &stage2);

	if (!ret) {
		root_entries = stage2.format->root_entries;
		quire_vcpu_leave(machine->vcpu);
	}
	return ret;
}

static void start_scrambled(struct machine *machine, int format)
{
	machine_prepare(machine);
	machine->config.format = (enum quire_format_id)format;
	machine->host.table_phys = table_phys;
	machine->host.table_virt = table_virt;
	machine_start(machine);
}

/* A root of several tables is one piece of memory, or there is none. Later there may be. */
static void check_large_root(struct machine *machine, int format)
{
	start_scrambled(machine, format);
	/* No table follows the one before. */
	scramble = 1 << QUIRE_PAGE_SHIFT;
	assert_int_equal(fault(machine, QUIRE_PFERR_WRITE), -ENOMEM);
	scramble = SCRAMBLE;
	assert_int_equal(fault(machine, QUIRE_PFERR_WRITE), QUIRE_FIXED);
	machine_end(machine);
	start_scrambled(machine, format);
	chunk_count = 0;
	machine->host.chunk_alloc = chunk_too_far;
	assert_int_equal(enter(machine), -ENOMEM);
	assert_int_equal(chunk_count, 2);
	machine->host.chunk_alloc = fake_ops.chunk_alloc;
	far_away = 0;
	assert_int_equal(fault(machine, QUIRE_PFERR_WRITE), QUIRE_FIXED);
	machine_end(machine);
}

static void test_roots(void **state)
{
	uint32_t large = 0;
	struct machine machine;

	(void)state;
	for (int format = 0; format <= QUIRE_FORMAT_ARM64_4_DBM; format++) {
		start_scrambled(&machine, format);
		/* A table's address is a page's. */
		far_away = 8;
		assert_int_equal(enter(&machine), -ENOMEM);
		far_away = 0;
		assert_int_equal(enter(&machine), 0);
		machine_end(&machine);
		if (root_entries > 512) {
			check_large_root(&machine, format);
			large++;
		}
	}
	assert_true(large > 0);
}

static unsigned int fewer(unsigned int bits, unsigned int limit)
{
	return bits < limit ? bits : limit;
}

/* Slots end where guests' addresses do: of the machine's bits, or of the format's. */
static void check_last_slot(struct machine *machine)
{
	static const uint8_t gpa_bits[] = {48, 48, 48, 41, 41, 50, 50, 40,
					   40, 48, 48, 48, 52, 52, 40, 48};
	unsigned int bits = fewer(machine->config.maxphyaddr, gpa_bits[machine->config.format]);
	struct quire_region region = {.slot = 1, .size_bytes = 4096, .hva = {SLOT_HVA}};

	region.gpa.v = UINT64_C(1) << bits;
	assert_int_equal(quire_vm_set_region(machine->vm, &region), -EINVAL);
	region.gpa.v -= 4096;
	assert_int_equal(quire_vm_set_region(machine->vm, &region), 0);
}

/* The last frame and the last tables that the machine's addresses reach are taken, the next not. */
static void check_width(struct machine *machine)
{
	const unsigned int bits = fewer(machine->config.maxphyaddr, 48);
	const uint64_t frames = UINT64_C(1) << (bits - 12);
	struct quire_translation found;
	struct quire_stage2 stage2;
	uint64_t requests;

	chunk_count = 0;
	chunk_end = (frames << 12) + 4096;
	gpa = GPA % (1 << 30);
	machine_start(machine);
	assert_int_equal(quire_vcpu_enter(machine->vcpu, &requests, &stage2), -ENOMEM);
	chunk_count = 0;
	chunk_end = frames << 12;
	assert_int_equal(quire_vcpu_enter(machine->vcpu, &requests, &stage2), 0);
	quire_vcpu_leave(machine->vcpu);
	hva_pfn = frames - (GPA >> 12) % 512;
	assert_int_equal(fault(machine, QUIRE_PFERR_WRITE), -EFAULT);
	hva_pfn--;
	assert_int_equal(fault(machine, QUIRE_PFERR_WRITE), QUIRE_FIXED);
	assert_int_equal(quire_vcpu_enter(machine->vcpu, &requests, &stage2), 0);
	assert_true(quire_walk(&stage2, (gpa_t){gpa}, QUIRE_PFERR_WRITE, &found));
	assert_int_equal(found.address >> 12, frames - 1);
	/* x86's walkers refuse longer addresses by themselves. */
	if (stage2.format->table_rights)
		assert_int_equal(stage2.format->reserved,
				 UINT64_C(0xfffffffffffff) & -UINT64_C(1)
								 << machine->config.maxphyaddr);
	quire_vcpu_leave(machine->vcpu);
	check_last_slot(machine);
	machine_end(machine);
}

static void test_widths(void **state)
{
	struct machine machine;

	(void)state;
	for (unsigned int format = 0; format <= QUIRE_FORMAT_ARM64_4_DBM; format++)
		for (unsigned int bits = 35; bits <= 53; bits++) {
			machine_prepare(&machine);
			machine.host.chunk_alloc = chunk_near_end;
			machine.host.table_phys = phys_near_end;
			machine.host.table_virt = virt_near_end;
			machine.config.format = (enum quire_format_id)format;
			machine.config.maxphyaddr = bits;
			if (bits == 35 || bits == 53)
				assert_int_equal(quire_vm_create(&machine.config, &machine.vm),
						 -EINVAL);
			else
				check_width(&machine);
		}
	/* As a process has them: pointers, which are longer than what such a machine has. */
	machine_prepare(&machine);
	machine.config.maxphyaddr = 36;
	assert_int_equal(quire_vm_create(&machine.config, &machine.vm), -EINVAL);
	assert_int_equal(fake.live_allocs, 0);
}

static int load_word(void *ctx, hva_t src, uint64_t *value)
{
	(void)ctx, (void)src, (void)value;
	return -EFAULT;
}

static int change_word(void *ctx, hva_t dst, uint64_t *expected, uint64_t desired)
{
	(void)ctx, (void)dst, (void)expected, (void)desired;
	return -EFAULT;
}

/* Nested guests are x86's: their tables are no other processor's. */
static void test_other_processors(void **state)
{
	const struct quire_nested nested = {.levels = 4};
	struct machine machine;

	(void)state;
	for (int format = 0; format <= QUIRE_FORMAT_ARM64_4_DBM; format++) {
		machine_prepare(&machine);
		machine.config.format = (enum quire_format_id)format;
		machine.host.load_u64 = load_word;
		machine.host.cmpxchg_u64 = change_word;
		machine_start(&machine);
		assert_int_equal(quire_vcpu_set_nested(machine.vcpu, &nested),
				 format <= QUIRE_FORMAT_EPT_NO_AD ? 0 : -EOPNOTSUPP);
		machine_end(&machine);
	}
	machine_prepare(&machine);
	machine.config.format = (enum quire_format_id)(QUIRE_FORMAT_ARM64_4_DBM + 1);
	assert_int_equal(quire_vm_create(&machine.config, &machine.vm), -EINVAL);
}

/* The leaf that a read makes. */
static uint64_t leaf_of_read(struct machine *machine, const struct quire_format **format)
{
	struct quire_translation found;
	struct quire_stage2 stage2;
	uint64_t requests;

	int ret = fault(machine, 0);

	assert_true(ret == QUIRE_FIXED || ret == QUIRE_SPURIOUS);
	assert_int_equal(quire_vcpu_enter(machine->vcpu, &requests, &stage2), 0);
	assert_true(quire_walk(&stage2, (gpa_t){GPA}, 0, &found));
	quire_vcpu_leave(machine->vcpu);
	*format = stage2.format;
	return found.entry;
}

static void test_memtypes(void **state)
{
	/* NPT: PWT and PCD, an index into Linux's PAT. EPT: bits 3 to 5, with IPAT. RISC-V: bits 61
	 * and 62: I/O is 2, not cacheable 1. arm64: MemAttr and SH. POWER: bits 4 and 5 of the
	 * highest byte in memory. */
	static const uint64_t words[5][3] = {{0, 0x18, 0x8},
					     {0x70, 0x40, 0x48},
					     {0, UINT64_C(2) << 61, UINT64_C(1) << 61},
					     {0x33c, 0x304, 0x314},
					     {0, UINT64_C(2) << 60, UINT64_C(3) << 60}};
	static const uint8_t rows[] = {0, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 1, 4, 4, 3, 3};
	const struct quire_format *f;
	struct machine machine;
	uint64_t leaf;

	(void)state;
	for (unsigned int which = 0; which < 3 * (QUIRE_FORMAT_ARM64_4_DBM + 1); which++) {
		unsigned int type = which % 3, format = which / 3;

		machine_prepare(&machine);
		machine.config.format = (enum quire_format_id)format;
		given.memtype = (uint8_t)type;
		machine_start(&machine);
		leaf = leaf_of_read(&machine, &f);
		assert_int_equal(leaf & f->memtype, words[rows[format]][type]);
		machine_end(&machine);
	}
	/* POWER fetches nothing from registers of a device, whatever the host says. */
	for (unsigned int type = 0; type <= QUIRE_MEMTYPE_WC; type++) {
		machine_prepare(&machine);
		machine.config.format = QUIRE_FORMAT_POWER;
		given.memtype = (uint8_t)type;
		machine_start(&machine);
		leaf = leaf_of_read(&machine, &f);
		assert_int_equal(quire_entry_is_executable(f, leaf), type != QUIRE_MEMTYPE_UC);
		assert_int_equal(fault(&machine, QUIRE_PFERR_FETCH | QUIRE_PFERR_PRESENT),
				 type == QUIRE_MEMTYPE_UC ? -EFAULT : QUIRE_SPURIOUS);
		machine_end(&machine);
	}
	machine_prepare(&machine);
	given.memtype = QUIRE_MEMTYPE_WC + 1;
	machine_start(&machine);
	assert_int_equal(fault(&machine, 0), -EFAULT);
	machine_end(&machine);
}

/* The host's word holds with the workaround for huge pages as without. */
static void test_noexec(void **state)
{
	const struct quire_format *f;
	struct machine machine;
	uint64_t leaf;

	(void)state;
	for (unsigned int which = 0; which < 2 * (QUIRE_FORMAT_ARM64_4_DBM + 1); which++) {
		machine_prepare(&machine);
		machine.config.format = (enum quire_format_id)(which / 2);
		given.noexec = 1;
		machine_start(&machine);
		quire_vm_set_nx_huge_pages(machine.vm, which % 2);
		assert_int_equal(fault(&machine, QUIRE_PFERR_FETCH), -EFAULT);
		leaf = leaf_of_read(&machine, &f);
		assert_false(quire_entry_is_executable(f, leaf));
		assert_int_equal(fault(&machine, QUIRE_PFERR_FETCH | QUIRE_PFERR_PRESENT), -EFAULT);
		machine_end(&machine);

		given.noexec = 0;
		machine_start(&machine);
		leaf = leaf_of_read(&machine, &f);
		assert_true(quire_entry_is_executable(f, leaf));
		machine_end(&machine);
	}
}

/*
 * What recovery makes huge, the next start of logging cuts again, and the workaround gives what it
 * cuts the right to execute.
 */
static void test_noexec_recovered(void **state)
{
	const struct quire_format *f;
	struct machine machine;
	uint64_t leaf;

	(void)state;
	for (unsigned int which = 0; which < 2 * (QUIRE_FORMAT_ARM64_4_DBM + 1); which++) {
		machine_prepare(&machine);
		machine.config.format = (enum quire_format_id)(which / 2);
		backing = QUIRE_LEVEL_2M;
		given.noexec = which % 2;
		machine_start(&machine);
		quire_vm_set_nx_huge_pages(machine.vm, 1);
		set_slot(&machine, QUIRE_SLOT_LOG_DIRTY);
		leaf = leaf_of_read(&machine, &f);
		assert_int_equal(quire_entry_is_executable(f, leaf), !given.noexec);
		set_slot(&machine, 0);
		set_slot(&machine, QUIRE_SLOT_LOG_DIRTY);
		leaf = leaf_of_read(&machine, &f);
		assert_int_equal(quire_entry_is_executable(f, leaf), !given.noexec);
		machine_end(&machine);
	}
}

/* Rights that a page has, by the host's answer. */
struct rights {
	uint8_t noexec, noread;
	uint8_t user, supervisor, reads; /* executed by, and is it read and written? */
};

static void check_access(struct machine *machine, uint64_t access, int allowed)
{
	struct quire_translation found;
	struct quire_stage2 stage2;
	uint64_t requests;
	int result, mapped;

	result = fault(machine, access);
	if (!allowed)
		assert_int_equal(result, -EFAULT);
	else
		assert_true(result == QUIRE_FIXED || result == QUIRE_SPURIOUS);
	assert_int_equal(quire_vcpu_enter(machine->vcpu, &requests, &stage2), 0);
	mapped = quire_walk(&stage2, (gpa_t){GPA}, access, &found);
	quire_vcpu_leave(machine->vcpu);
	assert_int_equal(mapped, allowed);
	if (!mapped)
		assert_int_equal(fault(machine, found.error_code), -EFAULT);
}

/* Each kind of page by each access, in every order of the first two, at 4K and 2M. */
static void check_rights(const struct rights *rights, enum quire_level level)
{
	const uint64_t accesses[] = {0, QUIRE_PFERR_WRITE, QUIRE_PFERR_FETCH,
				     QUIRE_PFERR_FETCH | QUIRE_PFERR_USER};
	const int allowed[] = {rights->reads, rights->reads, rights->supervisor, rights->user};
	struct machine machine;

	for (unsigned int first = 0; first < 4; first++) {
		machine_prepare(&machine);
		machine.config.format = QUIRE_FORMAT_EPT_MODES;
		backing = level;
		given.noexec = rights->noexec;
		given.noread = rights->noread;
		given.writable = !rights->noread;
		machine_start(&machine);
		check_access(&machine, accesses[first], allowed[first]);
		for (unsigned int i = 0; i < 4; i++)
			check_access(&machine, accesses[i], allowed[i]);
		machine_end(&machine);
	}
}

static void test_modes(void **state)
{
	static const struct rights all[] = {
	    {QUIRE_EXEC_ALL, 0, 1, 1, 1},	   {QUIRE_NOEXEC, 0, 0, 0, 1},
	    {QUIRE_NOEXEC_USER, 0, 0, 1, 1},	   {QUIRE_NOEXEC_SUPERVISOR, 0, 1, 0, 1},
	    {QUIRE_EXEC_ALL, 1, 1, 1, 0},	   {QUIRE_NOEXEC_USER, 1, 0, 1, 0},
	    {QUIRE_NOEXEC_SUPERVISOR, 1, 1, 0, 0},
	};

	(void)state;
	for (unsigned int i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		check_rights(&all[i], QUIRE_LEVEL_4K);
		check_rights(&all[i], QUIRE_LEVEL_2M);
	}
}

/* The words by Intel's manual: R, W and X are bits 0 to 2, X of user mode is bit 10. */
static void test_words_of_modes(void **state)
{
	static const struct {
		uint8_t noexec, noread;
		uint64_t access, word;
	} all[] = {
	    {QUIRE_EXEC_ALL, 0, 0, 0x407},
	    {QUIRE_NOEXEC, 0, 0, 0x003},
	    {QUIRE_NOEXEC_USER, 0, 0, 0x007},
	    {QUIRE_NOEXEC_SUPERVISOR, 0, 0, 0x403},
	    {QUIRE_EXEC_ALL, 1, QUIRE_PFERR_FETCH, 0x404},
	};
	struct quire_translation found;
	struct quire_stage2 stage2;
	struct machine machine;
	uint64_t requests;

	(void)state;
	for (unsigned int i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		machine_prepare(&machine);
		machine.config.format = QUIRE_FORMAT_EPT_MODES;
		given.noexec = all[i].noexec;
		given.noread = all[i].noread;
		given.writable = !all[i].noread;
		machine_start(&machine);
		assert_int_equal(fault(&machine, all[i].access), QUIRE_FIXED);
		assert_int_equal(quire_vcpu_enter(machine.vcpu, &requests, &stage2), 0);
		assert_true(quire_walk(&stage2, (gpa_t){GPA}, all[i].access, &found));
		quire_vcpu_leave(machine.vcpu);
		assert_int_equal(found.entry & 0x407, all[i].word);
		machine_end(&machine);
	}
	/* Where the modes are one, less is executed rather than more, and all is readable. */
	machine_prepare(&machine);
	given.noexec = QUIRE_NOEXEC_USER;
	machine_start(&machine);
	assert_int_equal(fault(&machine, QUIRE_PFERR_FETCH), -EFAULT);
	given.noexec = QUIRE_EXEC_ALL;
	given.noread = 1;
	given.writable = 0;
	assert_int_equal(fault(&machine, QUIRE_PFERR_FETCH), -EFAULT);
	machine_end(&machine);
}

/* Mapped ahead, with no access behind it: a leaf that allows nothing is none. */
static void test_modes_ahead(void **state)
{
	struct machine machine;
	uint64_t done = 0;

	(void)state;
	for (int nx = 0; nx < 2; nx++) {
		machine_prepare(&machine);
		machine.config.format = QUIRE_FORMAT_EPT_MODES;
		backing = QUIRE_LEVEL_2M;
		given.noread = 1;
		given.writable = 0;
		machine_start(&machine);
		quire_vm_set_nx_huge_pages(machine.vm, nx);
		assert_int_equal(quire_vcpu_prefault(machine.vcpu, (gpa_t){GPA}, 1, &done), 0);
		assert_int_equal(quire_vm_stat(machine.vm, QUIRE_VM_STAT_pages_2m), !nx);
		assert_int_equal(quire_vm_stat(machine.vm, QUIRE_VM_STAT_pages_4k), nx);
		check_access(&machine, QUIRE_PFERR_FETCH, 1);
		check_access(&machine, 0, 0);
		/* Split for a log, and huge again where that may be. */
		set_slot(&machine, QUIRE_SLOT_LOG_DIRTY);
		check_access(&machine, QUIRE_PFERR_FETCH, 1);
		check_access(&machine, 0, 0);
		set_slot(&machine, 0);
		assert_int_equal(quire_vm_stat(machine.vm, QUIRE_VM_STAT_pages_2m), !nx);
		check_access(&machine, QUIRE_PFERR_FETCH, 1);
		check_access(&machine, 0, 0);
		machine_end(&machine);
	}
	/* A page that was waited for comes for the mode that asked. */
	machine_prepare(&machine);
	machine.config.format = QUIRE_FORMAT_EPT_MODES;
	given.noexec = QUIRE_NOEXEC_SUPERVISOR;
	machine_start(&machine);
	quire_vcpu_page_ready(machine.vcpu, (gpa_t){GPA}, QUIRE_PFERR_FETCH);
	assert_int_equal(quire_vm_stat(machine.vm, QUIRE_VM_STAT_pages_4k), 0);
	quire_vcpu_page_ready(machine.vcpu, (gpa_t){GPA}, QUIRE_PFERR_FETCH | QUIRE_PFERR_USER);
	assert_int_equal(quire_vm_stat(machine.vm, QUIRE_VM_STAT_pages_4k), 1);
	machine_end(&machine);
	/* Neither read nor executed. */
	machine_prepare(&machine);
	machine.config.format = QUIRE_FORMAT_EPT_MODES;
	given.noread = 1;
	given.noexec = QUIRE_NOEXEC;
	given.writable = 0;
	machine_start(&machine);
	assert_int_equal(quire_vcpu_prefault(machine.vcpu, (gpa_t){GPA}, 1, &done), -EFAULT);
	check_access(&machine, QUIRE_PFERR_FETCH, 0);
	check_access(&machine, 0, 0);
	machine_end(&machine);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_offset),	cmocka_unit_test(test_functions),
	    cmocka_unit_test(test_limits),	cmocka_unit_test(test_roots),
	    cmocka_unit_test(test_memtypes),	cmocka_unit_test(test_other_processors),
	    cmocka_unit_test(test_noexec),	cmocka_unit_test(test_noexec_recovered),
	    cmocka_unit_test(test_modes),	cmocka_unit_test(test_words_of_modes),
	    cmocka_unit_test(test_modes_ahead), cmocka_unit_test(test_widths),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
