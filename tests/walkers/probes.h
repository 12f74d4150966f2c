/* What image.c hands to the program that runs on the bare machine. */
#ifndef QUIRE_TESTS_WALKERS_PROBES_H
#define QUIRE_TESTS_WALKERS_PROBES_H

#include <stdint.h>

enum probe_access { PROBE_READ, PROBE_WRITE, PROBE_FETCH };

struct probe {
	uint64_t gpa;
	uint64_t access;
	uint64_t address; /* where the library's walk has led; 0: a fault */
};

struct probe_set {
	uint64_t root_register; /* the root, with its mode where the processor wants it there */
	uint64_t control;	/* how it walks: VTCR_EL2, menvcfg */
	uint64_t table_bytes;
	uint64_t count;
	struct probe probes[];
};

/* A write stores this and its probe's number. */
#define PROBE_WRITTEN UINT64_C(0xabc0000000000000)

/* Places in the machine's memory, of which there are 4 GiB. */
#ifdef __riscv
#define MEMORY_AT UINT64_C(0x80000000)
#endif
#ifdef __aarch64__
#define MEMORY_AT UINT64_C(0x40000000)
#endif
#ifdef __powerpc64__
#define MEMORY_AT UINT64_C(0)
#endif
#define PROBES_OFFSET UINT64_C(0x2000000)
#define TABLES_COPY_OFFSET UINT64_C(0x4000000)
#define TABLES_OFFSET UINT64_C(0x8000000)
#define PAGES_OFFSET UINT64_C(0x40000000) /* a whole GiB */
#define PROBES_AT (MEMORY_AT + PROBES_OFFSET)
#define TABLES_COPY_AT (MEMORY_AT + TABLES_COPY_OFFSET)
#define TABLES_AT (MEMORY_AT + TABLES_OFFSET)

#endif
