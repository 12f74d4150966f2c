/* The machine of the paging fuzzer: its own pages, its segments and its control registers. */
#ifndef QUIRE_TESTS_FUZZ_PAGING_MACHINE_H
#define QUIRE_TESTS_FUZZ_PAGING_MACHINE_H

#include "tests/fuzz/paging_walker.h"
#include "tests/unit/vcpu/fake_vcpu.h"

/* The root's first entry shows the machine's own pages, and stays; its others change. */
#define ROOT UINT64_C(0x50000)
#define CODE_USER_LINEAR (GUEST_CODE + 0x1000u)
#define CR4_PGE UINT64_C(0x80)

enum paging_privilege { PAGING_SUPERVISOR, PAGING_USER };

/* All below 2 MiB for the supervisor, and one page of code for users. */
void paging_build_tables(uint8_t *ram, const struct walker_modes *modes);
/* A handler for each exception, which halts. */
void paging_build_events(uint8_t *ram, const struct walker_modes *modes);
void paging_set_segments(struct cpu_state *s, const struct walker_modes *modes,
			 enum paging_privilege privilege);
/* All control registers but CR3. */
void paging_set_modes(struct cpu_state *s, const struct walker_modes *modes);

#endif
