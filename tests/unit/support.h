/* What the tests of the fault path share: a machine, in every table format. */
#ifndef QUIRE_TESTS_UNIT_SUPPORT_H
#define QUIRE_TESTS_UNIT_SUPPORT_H

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include <quire/stats.h>
#include <quire/vcpu.h>
#include <quire/vm.h>

#include "hosts/sim/machine.h"
#include "src/vm/vcpu.h"

extern struct machine machine;

#define PAGES(n) ((uint64_t)(n) << QUIRE_PAGE_SHIFT)
/* Blocks of 2 MiB in one of 1 GiB, and a page in the middle of everything. */
#define BLOCKS (SIM_GIGANTIC / SIM_BLOCK)
#define MIDDLE (SIM_GIGANTIC / 2 + 77)

/* The test's group: every test runs once in each table format. */
int run_formats(const struct CMUnitTest *tests, size_t count);
/* The same on a machine with @rows rows of 1 GiB. */
int run_formats_rows(const struct CMUnitTest *tests, size_t count, uint32_t rows);

/*
 * The same in one format of each kind, where all take too long: with A and D, without, another
 * processor's, and one whose entries turn into tables through an invalid one.
 */
int run_formats_kinds(const struct CMUnitTest *tests, size_t count, uint32_t rows);

/* The same in x86's formats alone: guests with guests of their own are x86's. */
int run_formats_x86(const struct CMUnitTest *tests, size_t count, uint32_t rows);

/* A fresh VM; its end, which must leave nothing behind and have broken no rule of the host's. */
void vm_begin(void);
void vm_begin_type(enum quire_vm_type type);
void vm_end(void);

/* Client pages [page, page + npages) mapped, and slot 0 over them from gfn 0. */
void map_pages(uint32_t page, uint32_t npages, uint32_t flags);
void add_slot(uint32_t page, uint32_t npages, uint32_t flags);

/* vCPU 0 reads or writes the first byte of the page: both must succeed. */
uint8_t load(uint64_t gfn);
void store(uint64_t gfn, uint8_t byte);
/* The same, and it is in the frame behind client page @gfn. */
void store_backed(uint64_t gfn, uint8_t byte);

/* In check builds: exclusive holds of mmu_lock are counted from holds_begin() on, and holds_end()
 * says how many have ended. */
void holds_begin(void);
uint32_t holds_end(void);

/* A fault of vCPU 0 at @gfn with @error (QUIRE_PFERR_*), RETRY repeated. */
int fault_at(uint64_t gfn, uint64_t error);

static inline uint64_t stat(enum quire_vm_stat which)
{
	return quire_vm_stat(machine.vm, which);
}

static inline struct sim_frame *frame_of(uint32_t page)
{
	return &machine.host.frames[machine.host.pages[page].frame];
}

/* The leaf that maps @gfn, 0 without one; *@level is where it stands. */
uint64_t leaf_at(uint64_t gfn, uint32_t *level);
/* Its level, or 0; and may it be written? */
uint32_t level_at(uint64_t gfn);
bool writable_at(uint64_t gfn);
/* What the VM's counters say of its leaves. */
void leaves_are(uint64_t gigantic, uint64_t huge, uint64_t small);

/* The bits of the log harvested last; how many; and is the one of page @page among them? */
extern uint64_t log_bits[SIM_GIGANTIC / 64];
uint64_t log_harvest(uint32_t slot);
bool log_has(uint64_t page);
/* Slot 0: clear the pages that are set in @word, which stands for each 64 of the range. */
void log_clear(uint64_t first, uint32_t npages, uint64_t word);

#endif
