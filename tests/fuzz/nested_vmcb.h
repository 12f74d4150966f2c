/* A VMCB that VMRUN takes, and the fields in it that mean something. */
#ifndef QUIRE_TESTS_FUZZ_NESTED_VMCB_H
#define QUIRE_TESTS_FUZZ_NESTED_VMCB_H

#include "vcpu/svm/vmcb.h"

struct vmcb_places {
	uint64_t rip, tables, maps, stack;
};

struct vmcb_field {
	uint16_t offset;
	uint8_t bytes;
};

/* So many are there. */
#define VMCB_FIELDS 59u
struct vmcb_field vmcb_field(uint64_t index);
void vmcb_reset(struct vmcb *vmcb, struct vmcb_places places);

#endif
