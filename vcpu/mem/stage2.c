/* The stage-2 walk: what the nested-paging hardware would do with the library's tables. */
#include "vcpu/mem/stage2.h"

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
	struct quire_translation found;

	if (unlikely(cpu->replay.emulated_count) &&
	    stage2_is_marked_device(cpu, request->gpa, request->access))
		return STAGE2_DEVICE;
	/* Table pages are the library's own memory, which stays until this vCPU leaves guest mode.
	 */
	if (likely(quire_walk(&cpu->stage2, (gpa_t){request->gpa}, access_error(request->access),
			      &found))) {
		*host = found.address;
		return STAGE2_MAPPED;
	}
	cpu->stop = STOP_FAULT;
	cpu->fault_gpa = request->gpa;
	cpu->fault_error = found.error_code | request->origin;
	cpu->fault_was_guard = 0;
	return STAGE2_FAULT;
}
