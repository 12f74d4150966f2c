/* The stage-2 walk: what the nested-paging hardware would do with the library's tables. */
#include "vcpu/mem/stage2.h"

#include "src/entry/format.h"

static uint64_t access_error(enum mmu_access access)
{
	switch (access) {
	case MMU_WRITE:
		return QUIRE_PFERR_WRITE | QUIRE_PFERR_USER;
	case MMU_FETCH:
		return QUIRE_PFERR_FETCH | QUIRE_PFERR_USER;
	default:
		return QUIRE_PFERR_USER;
	}
}

static int entry_permits(const struct entry_format *format, uint64_t entry, enum mmu_access access)
{
	switch (access) {
	case MMU_WRITE:
		return (entry & format->writable) && (entry & format->readable) == format->readable;
	case MMU_FETCH:
		return !(entry & format->noexec) &&
		       (!format->executable || (entry & format->executable));
	default:
		return (entry & format->readable) == format->readable;
	}
}

/* EPT: writing without reading means nothing, which is what its MMIO entries are made of. */
static int is_misconfigured(const struct entry_format *format, uint64_t entry)
{
	return format->executable && (entry & format->writable) && !(entry & format->readable);
}

int stage2_entry_mark(uint64_t *slot, uint64_t entry, uint64_t bits)
{
	if ((entry & bits) == bits)
		return 1;
	return __atomic_compare_exchange_n(slot, &entry, entry | bits, 0, __ATOMIC_SEQ_CST,
					   __ATOMIC_RELAXED);
}

/*
 * Walk down to the leaf. Zero and *@host, or the error code of the fault. Table pages are the
 * library's own memory, which stays until this vCPU leaves guest mode.
 */
static uint64_t stage2_walk(struct cpu *cpu, const struct stage2_request *request, uint64_t *host)
{
	const struct entry_format *format = cpu->stage2.format;
	unsigned int level = cpu->stage2.root_level;
	uint64_t *table = cpu->stage2.root;
	uint64_t error = access_error(request->access);

	if (request->gpa >> (QUIRE_PAGE_SHIFT + QUIRE_TABLE_BITS * level))
		return error;
	for (;;) {
		unsigned int shift = QUIRE_PAGE_SHIFT + QUIRE_TABLE_BITS * (level - 1);
		uint64_t *slot = &table[request->gpa >> shift & (QUIRE_TABLE_ENTRIES - 1)];
		uint64_t entry = __atomic_load_n(slot, __ATOMIC_ACQUIRE);
		uint64_t span = UINT64_C(1) << shift;
		uint64_t marks = format->accessed;
		int is_leaf = level == 1 || (entry & format->large);

		if (!(entry & format->hw_present))
			return error;
		if ((entry & STAGE2_RESERVED) || is_misconfigured(format, entry))
			return error | QUIRE_PFERR_PRESENT | QUIRE_PFERR_RSVD;
		if (!entry_permits(format, entry, request->access))
			return error | QUIRE_PFERR_PRESENT;
		if (is_leaf && request->access == MMU_WRITE)
			marks |= format->dirty;
		if (!stage2_entry_mark(slot, entry, marks))
			continue;
		if (is_leaf) {
			*host = (entry & ENTRY_ADDRESS_MASK & ~(span - 1)) |
				(request->gpa & (span - 1));
			return 0;
		}
		table = (uint64_t *)(uintptr_t)(entry & ENTRY_ADDRESS_MASK);
		level--;
	}
}

int stage2_is_marked_device(const struct cpu *cpu, uint64_t gpa, enum mmu_access access)
{
	uint64_t frame = gpa >> QUIRE_PAGE_SHIFT;

	for (unsigned int i = 0; i < cpu->replay.emulated_count; i++) {
		uint64_t mark = cpu->replay.emulated_frame[i];

		if (mark >> 1 == frame && (!(mark & 1) || access == MMU_WRITE))
			return 1;
	}
	return 0;
}

int stage2_mark_device(struct cpu *cpu, const struct stage2_device *device)
{
	struct replay *replay = &cpu->replay;
	uint8_t at = replay->emulated_count;

	if (at == EMULATED_MAX)
		return -1;
	replay->emulated_frame[at] =
	    device->gpa >> QUIRE_PAGE_SHIFT << 1 | (device->access == MMU_WRITE);
	replay->emulated_gpa[at] = device->where & PAGE_NUMBER_MASK;
	if (device->is_memory)
		replay->emulated_gpa[at] |= EMULATED_IS_MEMORY;
	replay->emulated_count++;
	return 0;
}

uint64_t stage2_device_address(const struct cpu *cpu, uint64_t gpa, int *is_memory)
{
	const struct replay *replay = &cpu->replay;

	*is_memory = 0;
	for (unsigned int i = 0; i < replay->emulated_count; i++) {
		uint64_t where = replay->emulated_gpa[i];

		if (replay->emulated_frame[i] >> 1 != gpa >> QUIRE_PAGE_SHIFT)
			continue;
		*is_memory = where & EMULATED_IS_MEMORY;
		return (where & PAGE_NUMBER_MASK) | (gpa & PAGE_OFFSET_MASK);
	}
	return gpa;
}

enum stage2_result stage2_translate(struct cpu *cpu, const struct stage2_request *request,
				    uint64_t *host)
{
	uint64_t error;

	if (unlikely(cpu->replay.emulated_count) &&
	    stage2_is_marked_device(cpu, request->gpa, request->access))
		return STAGE2_DEVICE;
	error = stage2_walk(cpu, request, host);
	if (likely(!error))
		return STAGE2_MAPPED;
	cpu->stop = STOP_FAULT;
	cpu->fault_gpa = request->gpa;
	cpu->fault_error = error | request->origin;
	cpu->fault_was_guard = 0;
	return STAGE2_FAULT;
}
