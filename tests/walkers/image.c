/*
 * A memory image for the processors of tests/walkers: the library maps pages of a machine that this
 * process does not have, and the files in the folder get its tables, what shall be touched, and
 * what must come of it by the library's own walk.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <quire/dirty.h>
#include <quire/format.h>
#include <quire/vm.h>

#include "examples/embed/port.h"
#include "tests/walkers/probes.h"

#define GIB (UINT64_C(1) << 30)
#define MIB (UINT64_C(1) << 20)
#define CHUNK_BYTES (2 * MIB)
#define CHUNKS_MAX 16u
#define PROBES 3000u

/* One processor: how its root's register is written, and where its memory begins. */
struct target {
	const char *name;
	enum quire_format_id format;
	unsigned int maxphyaddr;
	unsigned int gpa_bits;
	uint64_t memory;
	uint64_t register_bits;
	unsigned int root_shift;
	uint64_t control;
};

#define RISCV_MEMORY UINT64_C(0x80000000)
#define ARM64_MEMORY UINT64_C(0x40000000)
#define POWER_MEMORY UINT64_C(0)
/* Modes of hgatp. */
#define SV39X4 (UINT64_C(8) << 60)
#define SV48X4 (UINT64_C(9) << 60)
/* Of a partition's entry: HR, 52 address bits, and a root of 2^13 entries. */
#define POWER_ROOT (UINT64_C(1) << 63 | UINT64_C(2) << 61 | 5 << 5 | 13)
/* Bits of VTCR_EL2: caches and sharing of the walks, 48 bits of address, and what is always set. */
#define VTCR (UINT64_C(0x80053500))
#define VTCR_HA (UINT64_C(1) << 21)
#define VTCR_HD (UINT64_C(1) << 22)
#define LEVELS_3 (24 | 1 << 6) /* T0SZ of 40 bits, SL0 */
#define LEVELS_4 (16 | 2 << 6) /* of 48 */
/* Bits of menvcfg: the page's memory type, and A and D by the processor. */
#define PBMTE (UINT64_C(1) << 62)
#define ADUE (UINT64_C(1) << 61)

static const struct target targets[] = {
    {"sv39x4", QUIRE_FORMAT_SV39X4, 48, 41, RISCV_MEMORY, SV39X4, 12, PBMTE | ADUE},
    {"sv39x4-no-ad", QUIRE_FORMAT_SV39X4_NO_AD, 48, 41, RISCV_MEMORY, SV39X4, 12, PBMTE},
    {"sv48x4", QUIRE_FORMAT_SV48X4, 52, 50, RISCV_MEMORY, SV48X4, 12, PBMTE | ADUE},
    {"sv48x4-no-ad", QUIRE_FORMAT_SV48X4_NO_AD, 52, 50, RISCV_MEMORY, SV48X4, 12, PBMTE},
    {"arm64-40", QUIRE_FORMAT_ARM64_3, 48, 40, ARM64_MEMORY, 0, 0, VTCR | VTCR_HA | LEVELS_3},
    {"arm64-40-no-af", QUIRE_FORMAT_ARM64_3_NO_AF, 48, 40, ARM64_MEMORY, 0, 0, VTCR | LEVELS_3},
    {"arm64-48", QUIRE_FORMAT_ARM64_4, 48, 48, ARM64_MEMORY, 0, 0, VTCR | VTCR_HA | LEVELS_4},
    {"arm64-48-no-af", QUIRE_FORMAT_ARM64_4_NO_AF, 48, 48, ARM64_MEMORY, 0, 0, VTCR | LEVELS_4},
    {"arm64-40-dbm", QUIRE_FORMAT_ARM64_3_DBM, 48, 40, ARM64_MEMORY, 0, 0,
     VTCR | VTCR_HA | VTCR_HD | LEVELS_3},
    {"arm64-48-dbm", QUIRE_FORMAT_ARM64_4_DBM, 48, 48, ARM64_MEMORY, 0, 0,
     VTCR | VTCR_HA | VTCR_HD | LEVELS_4},
    {"power", QUIRE_FORMAT_POWER, 52, 52, POWER_MEMORY, POWER_ROOT, 0, 0},
    {"power-no-rc", QUIRE_FORMAT_POWER_NO_RC, 52, 52, POWER_MEMORY, POWER_ROOT, 0, 0},
};

static const struct target *target;
static uint8_t *chunks; /* CHUNKS_MAX in a row, as the machine shall have them */
static unsigned int chunks_used;
static struct quire_vm *vm;
static struct quire_vcpu *vcpu;

static void must(int truth, const char *what)
{
	if (truth)
		return;
	fprintf(stderr, "image: %s\n", what);
	exit(1);
}

/* splitmix64 */
static uint64_t random_below(uint64_t below)
{
	static uint64_t state = 1;
	uint64_t z = state += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return (z ^ (z >> 31)) % below;
}

/* The host: hva 0 is the first page of the machine that is the guest's. */

static void *chunk_alloc(void *ctx)
{
	(void)ctx;
	must(chunks_used < CHUNKS_MAX, "too many tables");
	return chunks + CHUNK_BYTES * chunks_used++;
}

static void chunk_free(void *ctx, void *chunk)
{
	(void)ctx, (void)chunk;
}

static uint64_t table_phys(void *ctx, const uint64_t *table)
{
	(void)ctx;
	return (uint64_t)((const uint8_t *)table - chunks) + target->memory + TABLES_OFFSET;
}

static uint64_t *table_virt(void *ctx, uint64_t physical)
{
	(void)ctx;
	return (uint64_t *)(chunks + (physical - target->memory - TABLES_OFFSET));
}

/* By the hva: the first GiB is one block, 64 MiB are blocks of 2 MiB, the rest is small. */
#define HVA_2M GIB
#define HVA_4K (GIB + 64 * MIB)

static enum quire_level page_level(void *ctx, hva_t hva, enum quire_level max)
{
	enum quire_level level = hva.v < HVA_2M	  ? QUIRE_LEVEL_1G
				 : hva.v < HVA_4K ? QUIRE_LEVEL_2M
						  : QUIRE_LEVEL_4K;

	(void)ctx;
	return level < max ? level : max;
}

static int page_get(void *ctx, hva_t hva, uint32_t flags, struct quire_page *page)
{
	uint64_t index = hva.v / QUIRE_PAGE_SIZE;

	(void)ctx, (void)flags;
	memset(page, 0, sizeof(*page));
	page->pfn.v = (target->memory + PAGES_OFFSET) / QUIRE_PAGE_SIZE + index;
	page->writable = 1;
	if (hva.v >= HVA_4K) {
		page->noexec = index % 5 == 3;
		page->memtype = (uint8_t)(index % 7 == 5 ? 1 + index % 2 : QUIRE_MEMTYPE_WB);
		page->writable = index % 11 != 7;
	}
	return 0;
}

/* The guest's memory. The last one is in the upper tables of a root of several: make_vm(). */
static struct quire_region slots[] = {
    {.slot = 0, .gpa = {1 * GIB}, .size_bytes = GIB, .hva = {0}},
    {.slot = 1, .gpa = {8 * GIB}, .size_bytes = 16 * MIB, .hva = {HVA_2M}},
    {.slot = 2,
     .flags = QUIRE_SLOT_LOG_DIRTY,
     .gpa = {9 * GIB + 2 * MIB},
     .size_bytes = 8 * MIB,
     .hva = {HVA_2M + 16 * MIB}},
    {.slot = 3,
     .flags = QUIRE_SLOT_READONLY,
     .gpa = {600 * GIB},
     .size_bytes = 4 * MIB,
     .hva = {HVA_2M + 32 * MIB}},
    {.slot = 4, .gpa = {700 * GIB + 4096}, .size_bytes = 4 * MIB, .hva = {HVA_4K + 8192}},
    {.slot = 5, .size_bytes = 4 * MIB, .hva = {HVA_4K + 8 * MIB}},
};
#define SLOTS (sizeof(slots) / sizeof(slots[0]))

static uint64_t in_slot(unsigned int which)
{
	return slots[which].gpa.v + random_below(slots[which].size_bytes / 8) * 8;
}

static void fault(uint64_t gpa, uint64_t access)
{
	struct quire_memory_fault told;
	struct quire_stage2 stage2;
	uint64_t requests;

	must(!quire_vcpu_enter(vcpu, &requests, &stage2), "no guest mode");
	quire_vcpu_leave(vcpu);
	/* A page that may not be written, or not be executed, is refused. */
	(void)!quire_vcpu_fault(vcpu, (gpa_t){gpa}, access, &told);
}

static int take_bits(void *ctx, uint64_t offset_bytes, const void *src, uint64_t size_bytes)
{
	(void)ctx, (void)offset_bytes, (void)src, (void)size_bytes;
	return 0;
}

static uint64_t pick_access(void)
{
	static const uint64_t accesses[] = {0, QUIRE_PFERR_WRITE, QUIRE_PFERR_FETCH};

	return accesses[random_below(3)];
}

/* What happens to the tables: each kind of leaf, in each state that the library brings it to. */
static void map_memory(void)
{
	uint64_t done;

	for (unsigned int i = 0; i < 1200; i++)
		fault(in_slot((unsigned int)random_below(SLOTS)), pick_access());
	must(!quire_vm_get_dirty_log(vm, 2, take_bits, NULL), "no log");
	(void)!quire_vm_age(vm, (hva_t){0}, (hva_t){HVA_4K + 16 * MIB}, QUIRE_AGE_CLEAR);
	for (unsigned int i = 0; i < 200; i++)
		fault(in_slot(2), pick_access());
	for (unsigned int i = 0; i < 600; i++)
		fault(in_slot((unsigned int)random_below(SLOTS)), pick_access());
	/* The guest's own code is there (arm64.c). */
	fault(slots[0].gpa.v, QUIRE_PFERR_FETCH);
	must(!quire_vcpu_prefault(vcpu, (gpa_t){slots[5].gpa.v + 64 * 4096}, 4096 * 32, &done),
	     "no prefault");
	/* Addresses without memory, beside some with it. */
	for (unsigned int i = 0; i < 20; i++)
		fault(slots[4].gpa.v + slots[4].size_bytes + i * 4096, 0);
	slots[1].flags = QUIRE_SLOT_LOG_DIRTY;
	must(!quire_vm_set_region(vm, &slots[1]), "no logging");
	slots[2].flags = 0;
	must(!quire_vm_set_region(vm, &slots[2]), "no end of logging");
}

/* Pages whose leaves may be written and have lost A and D. */
static uint64_t unmarked[512];
static unsigned int unmarked_count;

/* The library sets D with W. Here many leaves lose it, and A, so that the processors have D to set.
 */
static void take_marks(const struct quire_stage2 *stage2)
{
	const uint64_t marks = stage2->format->accessed | stage2->format->dirty;

	for (unsigned int i = 0; i < 8000 && unmarked_count < 512; i++) {
		gpa_t gpa = {in_slot((unsigned int)random_below(SLOTS))};
		struct quire_translation found;

		if (!quire_walk(stage2, gpa, QUIRE_PFERR_WRITE, &found))
			continue;
		*found.slot &= ~marks;
		if (found.level == QUIRE_LEVEL_4K)
			unmarked[unmarked_count++] = gpa.v;
	}
	must(unmarked_count != 0, "no leaf may be written");
}

static uint64_t pick_gpa(void)
{
	unsigned int slot = (unsigned int)random_below(SLOTS);

	switch (random_below(16)) {
	case 0: /* around a slot */
		return slots[slot].gpa.v - 32768 + random_below(8192) * 8;
	case 1:
		return slots[slot].gpa.v + slots[slot].size_bytes + random_below(8192) * 8;
	case 2: /* the same place below another root entry */
		return in_slot(slot) ^ UINT64_C(1) << (30 + random_below(target->gpa_bits - 31));
	case 3: /* beyond all tables */
		return in_slot(slot) | UINT64_C(1) << target->gpa_bits;
	case 4:
	case 5:
	case 6:
		return unmarked[random_below(unmarked_count)];
	default:
		return in_slot(slot);
	}
}

static void write_file(const char *name, const void *bytes, size_t size)
{
	FILE *file = fopen(name, "wb");

	must(file && fwrite(bytes, 1, size, file) == size && !fclose(file), name);
}

/*
 * The library's walk of each probe, in the order of the processor's, with A and D: a line for each
 * has the access, where it leads, and at which address of the machine the deciding entry is.
 */
static void take_probes(const struct quire_stage2 *stage2, struct probe_set *set)
{
	static const uint64_t accesses[] = {0, QUIRE_PFERR_WRITE, QUIRE_PFERR_FETCH};
	FILE *lines = fopen("expected", "w");

	must(lines != NULL, "expected");
	for (unsigned int i = 0; i < PROBES; i++) {
		struct probe *probe = &set->probes[set->count++];
		struct quire_translation found;

		probe->gpa = pick_gpa();
		probe->access = random_below(3);
		if (quire_walk(stage2, (gpa_t){probe->gpa}, accesses[probe->access], &found))
			probe->address = found.address;
		fprintf(lines, "%" PRIx64 " %" PRIu64 " %" PRIx64 " %" PRIx64 " %u\n", probe->gpa,
			probe->access, probe->address,
			found.slot ? table_phys(NULL, found.slot) - target->memory - TABLES_OFFSET
				   : 0,
			found.level);
	}
	must(!fclose(lines), "expected");
}

static void make_files(void)
{
	static struct {
		struct probe_set set;
		struct probe room[PROBES];
	} probes;
	struct quire_stage2 stage2;
	uint64_t requests;

	must(!quire_vcpu_enter(vcpu, &requests, &stage2), "no guest mode");
	take_marks(&stage2);
	probes.set.root_register =
	    target->register_bits | stage2.root_physical >> target->root_shift;
	probes.set.control = target->control;
	probes.set.table_bytes = CHUNK_BYTES * chunks_used;
	write_file("tables", chunks, CHUNK_BYTES * chunks_used);
	take_probes(&stage2, &probes.set);
	write_file("after", chunks, CHUNK_BYTES * chunks_used);
	write_file("probes", &probes, sizeof(probes));
	quire_vcpu_leave(vcpu);
}

/* The slots may use @gpa_bits of an address. */
static void make_vm(unsigned int gpa_bits)
{
	static struct quire_platform platform;
	static struct quire_host_ops host;
	struct quire_vm_config config = {.mmio_caching = 1, .host = &host};

	fill_tables(&platform, &host);
	host.chunk_alloc = chunk_alloc;
	host.chunk_free = chunk_free;
	host.table_phys = table_phys;
	host.table_virt = table_virt;
	host.page_get = page_get;
	host.page_level = page_level;
	quire_platform_install(&platform);
	chunks = zeroed(CHUNK_BYTES, CHUNKS_MAX * CHUNK_BYTES);
	config.format = target->format;
	config.maxphyaddr = target->maxphyaddr;
	must(chunks && !quire_vm_create(&config, &vm), "no VM");
	must(!quire_vcpu_create(vm, 0, NULL, &vcpu), "no vCPU");
	slots[SLOTS - 1].gpa.v = (UINT64_C(1) << gpa_bits) - 8 * MIB;
	for (unsigned int i = 0; i < SLOTS; i++)
		must(!quire_vm_set_region(vm, &slots[i]), "no slot");
}

/*
 * image FORMAT half|all: the files go into this folder. Half: no slot has the highest bit in its
 * addresses, which QEMU before 8.1 takes for a sign.
 */
int main(int argc, char **argv)
{
	for (unsigned int i = 0; argc == 3 && i < sizeof(targets) / sizeof(targets[0]); i++)
		if (!strcmp(targets[i].name, argv[1]))
			target = &targets[i];
	must(target != NULL, "which format?");
	make_vm(target->gpa_bits - (strcmp(argv[2], "half") == 0));
	map_memory();
	make_files();
	quire_vcpu_destroy(vcpu);
	quire_vm_put(vm);
	return 0;
}
