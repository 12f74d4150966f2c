/* The stage-2 walk: what the nested-paging hardware would do with the library's tables. */
#ifndef QUIRE_VCPU_MEM_STAGE2_H
#define QUIRE_VCPU_MEM_STAGE2_H

#include <quire/format.h>

#include "vcpu/mem/mmu.h"

struct stage2_request {
	uint64_t gpa;
	enum mmu_access access;
	uint64_t origin; /* QUIRE_PFERR_GUEST_FINAL or _GUEST_PAGE, for the error code */
};

enum stage2_result {
	STAGE2_MAPPED,
	STAGE2_FAULT,  /* cpu->stop is set */
	STAGE2_DEVICE, /* the fault path said so for this instruction */
};

enum stage2_result stage2_translate(struct cpu *cpu, const struct stage2_request *request,
				    uint64_t *host);

/* Was the frame of @gpa marked below, for @access? A frame that is no memory for reads is none for
 * writes; not the other way round (ROM). */
int stage2_is_marked_device(const struct cpu *cpu, uint64_t gpa, enum mmu_access access);

/* The fault path called the frame of @gpa, which is at @where for L1, a device: remember it until
 * the instruction retires. Zero, or -1 when there are too many. */
struct stage2_device {
	uint64_t gpa, where;
	enum mmu_access access;
	uint8_t is_memory; /* of L1's tables: the write is the hypervisor's to do */
};
int stage2_mark_device(struct cpu *cpu, const struct stage2_device *device);
/* Where an access to the marked frame of @gpa goes, and whether there is memory. */
uint64_t stage2_device_address(const struct cpu *cpu, uint64_t gpa, int *is_memory);

#endif
