/* Floors: the least that any implementation must do, on a private copy of tables. */
#include "cli/bench/floor.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "cli/bench/bench.h"

#define TABLES 515u /* root, two more, and 512 of the lowest */
#define LEAVES (512u * 512u)
#define CHUNK (UINT64_C(2) << 20)

#define PRESENT UINT64_C(1)
#define WRITABLE UINT64_C(2)
#define ADDRESS UINT64_C(0x000ffffffffff000)

int floor_tables_init(struct floor_tables *tables)
{
	u64 size_bytes = round_up_u64(TABLES * QUIRE_PAGE_SIZE, CHUNK) + CHUNK;
	u64 *at;

	tables->mem =
	    mmap(NULL, size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (tables->mem == MAP_FAILED)
		return -ENOMEM;
	tables->mem_bytes = size_bytes;
	at = (u64 *)(uintptr_t)round_up_u64((u64)(uintptr_t)tables->mem, CHUNK);
	madvise(at, size_bytes - CHUNK, MADV_HUGEPAGE);
	memset(at, 0, TABLES * QUIRE_PAGE_SIZE);
	tables->root = at;
	tables->leaves = at + UINT64_C(3) * 512;
	at[0] = (u64)(uintptr_t)(at + 512) | PRESENT;
	at[512] = (u64)(uintptr_t)(at + 1024) | PRESENT;
	for (u32 i = 0; i < 512; i++)
		at[1024 + i] = (u64)(uintptr_t)(tables->leaves + i * UINT64_C(512)) | PRESENT;
	return 0;
}

void floor_tables_destroy(struct floor_tables *tables)
{
	if (tables->mem_bytes)
		munmap(tables->mem, tables->mem_bytes);
}

/* The entry at @lowest that maps @gfn: as many dependent loads as there are levels above. */
static inline u64 *walk(u64 *table, u64 gfn, u32 lowest)
{
	for (u32 level = 4; level > lowest; level--) {
		u64 entry = __atomic_load_n(&table[gfn >> 9 * (level - 1) & 511], __ATOMIC_ACQUIRE);

		table = (u64 *)(uintptr_t)(entry & ADDRESS);
	}
	return &table[gfn >> 9 * (lowest - 1) & 511];
}

static inline void exchange(u64 *entry, u64 old, u64 new)
{
	__atomic_compare_exchange_n(entry, &old, new, 0, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
}

static void fill(struct floor_tables *tables, u64 value)
{
	for (u32 i = 0; i < LEAVES; i++)
		tables->leaves[i] = value;
}

double floor_populate(struct floor_tables *tables, uint8_t *memory)
{
	double start;

	fill(tables, 0);
	start = bench_now();
	for (u64 gfn = 0; gfn < LEAVES; gfn++) {
		volatile uint8_t *page = memory + gfn * QUIRE_PAGE_SIZE;

		*page = 1;
		exchange(walk(tables->root, gfn, 1), 0, (u64)(uintptr_t)page | PRESENT | WRITABLE);
	}
	return bench_now() - start;
}

double floor_populate_2m(struct floor_tables *tables, uint8_t *memory)
{
	u64 *entries = tables->root + 1024;
	u64 saved[512];
	double start;

	memcpy(saved, entries, sizeof(saved));
	memset(entries, 0, sizeof(saved));
	start = bench_now();
	for (u64 gfn = 0; gfn < LEAVES; gfn += 512) {
		volatile uint8_t *page = memory + gfn * QUIRE_PAGE_SIZE;

		*page = 1;
		exchange(walk(tables->root, gfn, 2), 0, (u64)(uintptr_t)page | PRESENT | WRITABLE);
	}
	start = bench_now() - start;
	memcpy(entries, saved, sizeof(saved));
	return start;
}

double floor_redirty(struct floor_tables *tables)
{
	double start;

	fill(tables, PRESENT);
	start = bench_now();
	for (u64 gfn = 0; gfn < LEAVES; gfn++)
		exchange(walk(tables->root, gfn, 1), PRESENT, PRESENT | WRITABLE);
	return bench_now() - start;
}

double floor_read_pass(struct floor_tables *tables)
{
	u64 present = 0;
	double start;

	fill(tables, PRESENT);
	start = bench_now();
	for (u32 i = 0; i < LEAVES; i++) {
		present += tables->leaves[i] & PRESENT;
		bench_keep(present);
	}
	return present == LEAVES ? bench_now() - start : -1;
}

double floor_write_pass(struct floor_tables *tables)
{
	u64 *upper = tables->leaves - 512, *end = tables->leaves + LEAVES;
	u64 saved[512], value = PRESENT;
	double start;

	memcpy(saved, upper, sizeof(saved));
	start = bench_now();
	for (u64 *entry = upper; entry < end; entry++) {
		*entry = value;
		value += QUIRE_PAGE_SIZE;
		bench_keep(value);
	}
	start = bench_now() - start;
	memcpy(upper, saved, sizeof(saved));
	return start;
}

typedef u64 eight_entries __attribute__((vector_size(64), may_alias));

/* Whole tables. As many instructions eight entries as the caller's vectors are narrower. */
static always_inline void count_up(u64 *entry, const u64 *end)
{
	eight_entries value;

	for (u32 i = 0; i < 8; i++)
		value[i] = PRESENT + i * QUIRE_PAGE_SIZE;
	for (; entry < end; entry += 8) {
		*(eight_entries *)(void *)entry = value;
		value += 8 * QUIRE_PAGE_SIZE;
	}
}

#ifdef __x86_64__
__attribute__((target("avx512f"))) static void count_up_512(u64 *entry, const u64 *end)
{
	count_up(entry, end);
}

__attribute__((target("avx2"))) static void count_up_256(u64 *entry, const u64 *end)
{
	count_up(entry, end);
}
#endif

static void count_up_widest(u64 *entry, const u64 *end)
{
#ifdef __x86_64__
	if (__builtin_cpu_supports("avx512f")) {
		count_up_512(entry, end);
		return;
	}
	if (__builtin_cpu_supports("avx2")) {
		count_up_256(entry, end);
		return;
	}
#endif
	count_up(entry, end);
}

double floor_vector_pass(struct floor_tables *tables)
{
	u64 *upper = tables->leaves - 512, *end = tables->leaves + LEAVES;
	u64 saved[512];
	double start;

	memcpy(saved, upper, sizeof(saved));
	/* As near as the library's are, which were just swept. */
	count_up_widest(upper, end);
	bench_keep(upper);
	start = bench_now();
	count_up_widest(upper, end);
	bench_keep(upper);
	start = bench_now() - start;
	memcpy(upper, saved, sizeof(saved));
	return start;
}

double floor_clear_pass(struct floor_tables *tables)
{
	u64 *leaves = tables->leaves;
	double start;

	fill(tables, PRESENT | WRITABLE);
	start = bench_now();
	for (u32 i = 0; i < LEAVES; i++)
		leaves[i] &= ~WRITABLE;
	bench_keep(leaves);
	return bench_now() - start;
}

double floor_clear_named(struct floor_tables *tables, const u64 *words)
{
	double start;

	fill(tables, PRESENT | WRITABLE);
	start = bench_now();
	for (u32 i = 0; i < LEAVES / 64; i++) {
		for (u64 word = words[i]; word; word &= word - 1)
			tables->leaves[i * 64 + (u32)__builtin_ctzll(word)] &= ~WRITABLE;
	}
	bench_keep(tables);
	return bench_now() - start;
}

double floor_scan(const u64 *words)
{
	double start = bench_now();
	u64 seen = 0;

	for (u32 i = 0; i < LEAVES / 64; i++) {
		if (words[i])
			seen += (u64)__builtin_ctzll(words[i]);
		bench_keep(seen);
	}
	return bench_now() - start;
}
