/* AMD's virtualisation, as data. */
#ifndef QUIRE_VCPU_SVM_STATE_H
#define QUIRE_VCPU_SVM_STATE_H

#include <stdint.h>

#include "vcpu/svm/vmcb.h"

/* AMD's virtualisation: L1's side of L2; see svm.h. */
struct svm {
	uint8_t in_guest_mode;
	uint8_t gif;
	uint8_t separate_pat;  /* under nested paging L2 has a PAT of its own */
	uint8_t nested_paging; /* stage 2 is the shadow of L1's nested tables */
	uint8_t has_soft_rip;  /* the injected event returns to soft_rip */
	uint8_t has_next_rip;  /* L1's processor tells the next instruction */
	uint8_t has_la57;      /* in L1's CPUID */
	uint8_t run_pending;   /* VMRUN is done, and L2 has not been entered */
	uint8_t awaits_gif;    /* the surroundings hold an INIT back until GIF is set */
	uint8_t phys_bits;     /* of L1's physical addresses */
	uint64_t soft_rip;     /* not to RIP */
	uint64_t tsc_offset;   /* of L2 beyond L1's */
	uint64_t cr2_before;   /* the last page fault */
	uint64_t vmcb_gpa;     /* of L1 */
	struct vmcb_control control;
	/* What L1's VMCB says where its processor has not the feature: #VMEXIT leaves it so. */
	struct {
		uint64_t misc, misc2;
		uint32_t int_ctl;
	} ignored;
	struct vmcb_save host; /* L1's registers */
	struct {
		uint64_t code, info1, info2, next_rip;
	} exit;
};

#endif
