/* A VM for guest hypervisors: each vCPU is an L1 of ours with a VMCB, driven through its box. */
#ifndef TESTS_GUEST_NEST_H
#define TESTS_GUEST_NEST_H

#include "box.h"
#include "l1.h"
#include "tests/rules/client.h"
#include "vcpu/svm/vmcb.h"

/* L1's own memory, a MiB a vCPU, and what is where in it. */
#define NEST_GPA(index) (0x20000000ul + (index)*0x100000ul)
#define NEST_BYTES 0x100000ul
#define NEST_BOX 0x20000ul
#define NEST_VMCB 0x21000ul
#define NEST_MAPS 0x22000ul
#define NEST_FREE 0x28000ul /* up to the end: for tests */
#define NEST_SLOT(index) (100u + (index))

struct nest {
	struct vm *vm;
	struct vcpu vcpu;
	uint64_t gpa; /* of the memory */
	uint8_t *memory;
	struct box *box;
	struct vmcb *vmcb;
};

/* vCPU @index of @vm, with L1 up to its first wait. */
void nest_open(struct nest *nest, struct vm *vm, unsigned int index);
/* Clear the box; a VMCB for 64-bit code at the linear address @rip. */
void nest_reset(struct nest *nest, uint64_t rip);

enum nest_end { NEST_DONE, NEST_MMIO };
/* One turn of L1, or what is left of it after an MMIO exit, which stands in nest->vcpu.run. */
enum nest_end nest_turn(struct nest *nest);

#endif
