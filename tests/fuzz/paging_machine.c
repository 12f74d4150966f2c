/* The machine of the paging fuzzer: its own pages, its segments and its control registers. */
#include "tests/fuzz/paging_machine.h"

#include <string.h>

#define PAGE UINT64_C(4096)
#define P UINT64_C(1)
#define W UINT64_C(2)
#define U UINT64_C(4)
#define CR0_WP UINT64_C(0x10000)
#define CR4_PSE UINT64_C(0x10)
#define CR4_PAE UINT64_C(0x20)
#define CR4_PCIDE (UINT64_C(1) << 17)
#define CR4_LA57 UINT64_C(0x1000)
#define CR4_SMEP (UINT64_C(1) << 20)
#define CR4_SMAP (UINT64_C(1) << 21)
#define CR4_PKE (UINT64_C(1) << 22)
#define EFER_NXE 0x800u
#define LOW_TABLES UINT64_C(0x51000) /* one a level, from the lowest */

static void store(uint8_t *ram, const struct walker_modes *modes, uint64_t table, uint64_t index,
		  uint64_t entry)
{
	unsigned int bytes = modes->levels == 2 ? 4 : 8;

	memcpy(ram + table + index * bytes, &entry, bytes);
}

void paging_build_tables(uint8_t *ram, const struct walker_modes *modes)
{
	uint64_t table = LOW_TABLES;

	memset(ram + ROOT, 0, 6 * PAGE);
	for (uint64_t i = 0; i < 512; i++)
		store(ram, modes, table, i, i * PAGE | P | W);
	store(ram, modes, table, CODE_USER_LINEAR / PAGE, GUEST_CODE | P | U);
	for (unsigned int level = 2; level < modes->levels; level++, table += PAGE)
		store(ram, modes, table + PAGE, 0, table | P | W | U);
	store(ram, modes, ROOT, 0, table | P | (modes->levels == 3 ? 0 : W | U));
}

void paging_build_events(uint8_t *ram, const struct walker_modes *modes)
{
	static const uint64_t code32 = UINT64_C(0x00cf9b000000ffff);
	static const uint32_t stack[2] = {GUEST_STACK, SELECTOR_DATA};

	memset(ram + GUEST_IDT, 0, PAGE);
	guest_build_events(ram);
	/* Those of long mode are made with the memory. */
	if (modes->levels >= 4)
		return;
	memcpy(ram + GUEST_GDT + SELECTOR_CODE32, &code32, sizeof(code32));
	memcpy(ram + GUEST_TSS + 4, stack, sizeof(stack));
	for (uint64_t vector = 0; vector < 32; vector++) {
		uint64_t at = GUEST_HANDLERS + vector * 16;
		uint64_t gate = (at & 0xffff) | SELECTOR_CODE32 << 16 | UINT64_C(0xee00) << 32;

		memcpy(ram + GUEST_IDT + vector * 8, &gate, sizeof(gate));
	}
}

void paging_set_segments(struct cpu_state *s, const struct walker_modes *modes,
			 enum paging_privilege privilege)
{
	int user = privilege == PAGING_USER;
	int is_long = modes->levels >= 4;

	fake_flat_segments(s);
	s->seg[CPU_CS].l = (uint8_t)is_long;
	s->seg[CPU_CS].db = !is_long;
	s->seg[CPU_CS].selector = user	    ? SELECTOR_USER_CODE
				  : is_long ? SELECTOR_CODE
					    : SELECTOR_CODE32;
	s->seg[CPU_SS].selector = user ? SELECTOR_USER_DATA : SELECTOR_DATA;
	s->seg[CPU_CS].dpl = s->seg[CPU_SS].dpl = user ? 3 : 0;
}

void paging_set_modes(struct cpu_state *s, const struct walker_modes *modes)
{
	s->cr0 = UINT64_C(0x80000033) | (modes->wp ? CR0_WP : 0);
	s->cr4 = (modes->pse ? CR4_PSE : 0) | (modes->levels > 2 ? CR4_PAE : 0) |
		 (modes->levels == 5 ? CR4_LA57 : 0) | (modes->smep ? CR4_SMEP : 0) |
		 (modes->smap ? CR4_SMAP : 0) | (modes->pke ? CR4_PKE : 0) |
		 (modes->pge ? CR4_PGE : 0) | (modes->pcide ? CR4_PCIDE : 0);
	s->efer = (modes->levels >= 4 ? 0x500u : 0) | (modes->nxe ? EFER_NXE : 0);
	s->pkru = modes->pkru;
}
