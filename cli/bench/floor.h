/* Floors: the least that any implementation must do, on a private copy of tables. */
#ifndef QUIRE_CLI_BENCH_FLOOR_H
#define QUIRE_CLI_BENCH_FLOOR_H

#include "src/base/types.h"

/*
 * Tables that map 1 GiB with 4K leaves: one of each upper level and 512 of the lowest, resident
 * and 2 MiB-backed where the machine has it, as the library's own are.
 */
struct floor_tables {
	u64 *root;
	u64 *leaves; /* 262,144 entries in a row: the lowest tables */
	void *mem;
	u64 mem_bytes;
};

int floor_tables_init(struct floor_tables *tables);
void floor_tables_destroy(struct floor_tables *tables);

/* Each returns its CPU time in ns. */

/* For each page: touch it, walk from the root, compare-exchange the empty entry. */
double floor_populate(struct floor_tables *tables, uint8_t *memory);
/* The same with one 2M page each. */
double floor_populate_2m(struct floor_tables *tables, uint8_t *memory);
/* For each page: walk from the root, compare-exchange W into the entry. */
double floor_redirty(struct floor_tables *tables);
/* Read every entry of the lowest tables, one at a time, and count those present. */
double floor_read_pass(struct floor_tables *tables);
/* Write every entry of 513 tables, one at a time. */
double floor_write_pass(struct floor_tables *tables);
/* The same in the widest vectors that the machine has. */
double floor_vector_pass(struct floor_tables *tables);
/* Clear a bit in every entry of the lowest tables with plain, vectorised code. */
double floor_clear_pass(struct floor_tables *tables);
/* Scan a bitmap and clear a bit in the entries it names. */
double floor_clear_named(struct floor_tables *tables, const u64 *words);
/* Scan a bitmap. */
double floor_scan(const u64 *words);

#endif
