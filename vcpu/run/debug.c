/* Breakpoints: the guest's own debug registers, or the client's in their place. */
#include "vcpu/run/debug.h"
#include "vcpu/run/raise.h"

enum watch_kind { WATCH_EXECUTE, WATCH_WRITE, WATCH_PORT, WATCH_ACCESS };

#define ENABLED(dr7, i) ((dr7) >> (2 * (i)) & 3)
#define KIND(dr7, i) ((enum watch_kind)((dr7) >> (16 + 4 * (i)) & 3))

/* The length field counts 1, 2, 8, 4. */
static uint64_t length_of(uint64_t dr7, unsigned int i)
{
	static const uint8_t lengths[] = {1, 2, 8, 4};

	return lengths[dr7 >> (18 + 4 * i) & 3];
}

static uint64_t effective_dr7(const struct cpu *cpu)
{
	return cpu->debug.client.hardware ? cpu->debug.client.dr7 : cpu->s.dr7;
}

static const uint64_t *effective_dr(const struct cpu *cpu)
{
	return cpu->debug.client.hardware ? cpu->debug.client.dr : cpu->s.dr;
}

void cpu_set_debug(struct cpu *cpu, const struct cpu_debug *debug)
{
	cpu->debug.client = *debug;
}

void debug_update(struct cpu *cpu)
{
	struct debug *debug = &cpu->debug;
	uint64_t dr7 = effective_dr7(cpu);
	const uint64_t *dr = effective_dr(cpu);
	uint8_t watched = 0;

	debug->armed = (dr7 & 0xff) != 0;
	if (!debug->armed && !debug->watched)
		return;
	for (unsigned int i = 0; i < 4; i++)
		if (ENABLED(dr7, i) && KIND(dr7, i) != WATCH_EXECUTE && KIND(dr7, i) != WATCH_PORT)
			watched |= 1u << i;
	/* Pages that are watched from now on may be in the TLB. */
	if (watched != debug->watched || memcmp(dr, debug->seen, sizeof(debug->seen)))
		tlb_forget_all(cpu);
	debug->watched = watched;
	memcpy(debug->seen, dr, sizeof(debug->seen));
}

int debug_watches_page(const struct cpu *cpu, uint64_t linear)
{
	for (unsigned int i = 0; i < 4; i++)
		if ((cpu->debug.watched >> i & 1) &&
		    (cpu->debug.seen[i] ^ linear) < QUIRE_PAGE_SIZE)
			return 1;
	return 0;
}

void debug_note(struct cpu *cpu, uint64_t linear, unsigned int size_bytes, enum mmu_access access)
{
	uint64_t dr7;

	if (likely(!cpu->debug.watched))
		return;
	dr7 = effective_dr7(cpu);
	for (unsigned int i = 0; i < 4; i++) {
		uint64_t length = length_of(dr7, i), at = cpu->debug.seen[i] & ~(length - 1);

		if (!(cpu->debug.watched >> i & 1) || linear >= at + length ||
		    at >= linear + size_bytes)
			continue;
		if (access == MMU_WRITE || KIND(dr7, i) == WATCH_ACCESS)
			cpu->debug.hits |= 1u << i;
	}
}

void debug_note_port(struct cpu *cpu, unsigned int port, unsigned int size_bytes)
{
	uint64_t dr7;

	if (likely(!cpu->debug.armed))
		return;
	dr7 = effective_dr7(cpu);
	for (unsigned int i = 0; i < 4; i++) {
		uint64_t length = length_of(dr7, i), at = effective_dr(cpu)[i] & ~(length - 1);

		if (ENABLED(dr7, i) && KIND(dr7, i) == WATCH_PORT && (cpu->s.cr4 & CR4_DE) &&
		    port < at + length && at < port + size_bytes)
			cpu->debug.hits |= 1u << i;
	}
}

enum step debug_exit(struct cpu *cpu, unsigned int vector, uint64_t dr6)
{
	cpu->info->debug_pc = cpu->s.rip;
	cpu->info->debug_dr6 = (uint32_t)dr6;
	cpu->info->debug_exception = (uint8_t)vector;
	return cpu_stop_exit(cpu, CPU_EXIT_DEBUG);
}

/* The client's, or an exception of the guest's. */
static void stop_for(struct cpu *cpu, uint64_t dr6, int is_clients)
{
	if (is_clients) {
		debug_exit(cpu, VECTOR_DB, DR6_FIXED | dr6);
		return;
	}
	cpu->s.dr6 = (cpu->s.dr6 & ~DR6_HITS) | dr6;
	cpu_raise(cpu, VECTOR_DB);
}

int debug_before(struct cpu *cpu)
{
	uint64_t dr7 = effective_dr7(cpu), linear = cpu->s.rip, hits = 0;
	const uint64_t *dr = effective_dr(cpu);

	/* Those behind MOV SS that are not told yet come with the ones of this instruction. */
	if (cpu->debug.blocked)
		return 0;
	cpu->debug.hits = 0;
	if (!(cpu->s.efer & EFER_LMA) || !cpu->s.seg[CPU_CS].l)
		linear = (uint32_t)(linear + cpu->s.seg[CPU_CS].base);
	for (unsigned int i = 0; i < 4; i++)
		if (ENABLED(dr7, i) && KIND(dr7, i) == WATCH_EXECUTE && dr[i] == linear)
			hits |= 1u << i;
	/* RF lets one instruction pass, that which a handler returns to, with all of its faults. */
	if (!hits || cpu->debug.passing)
		return 0;
	stop_for(cpu, hits, cpu->debug.client.hardware);
	return 1;
}

int debug_after(struct cpu *cpu, uint64_t dr6)
{
	uint64_t hits = cpu->debug.hits;
	int is_step = (cpu->run_flags & CPU_RUN_STEP) != 0;

	if (cpu->debug.passing)
		cpu->s.rflags &= ~FLAG_RF;
	cpu->debug.passing = 0;
	if (cpu->debug.blocked)
		return 0;
	cpu->debug.hits = 0;
	if (!(dr6 | hits))
		return 0;
	stop_for(cpu, dr6 | hits, is_step || (hits && cpu->debug.client.hardware));
	return 1;
}
