/* FXSAVE and XSAVE images, and the x87 part of a CPU's state in them. */
#ifndef QUIRE_VCPU_EXEC_FPU_IMAGE_H
#define QUIRE_VCPU_EXEC_FPU_IMAGE_H

#include <stddef.h>

#include "vcpu/arch.h"
#include "vcpu/cpu.h"

/* FXSAVE image in 64-bit form; everything is little-endian, as in memory. */
struct fpu_image {
	uint16_t fcw, fsw;
	uint8_t ftw, reserved0;
	uint16_t fop;
	uint64_t fip, fdp;
	uint32_t mxcsr, mxcsr_mask;
	uint8_t st[8][16];
	uint8_t xmm[16][16];
	uint8_t reserved1[96];
} __attribute__((aligned(64)));

struct xsave_header {
	uint64_t present;    /* XSTATE_BV */
	uint64_t compaction; /* XCOMP_BV */
	uint64_t reserved[6];
};

/*
 * XSAVE image with the one extended component whose place is the same everywhere: of those that
 * there are it comes first, in an image that is compacted, too.
 */
struct xsave_image {
	struct fpu_image legacy;
	struct xsave_header header;
	uint8_t ymm_high[16][16];
};

_Static_assert(sizeof(struct fpu_image) == 512, "fixed by the processor");
_Static_assert(offsetof(struct xsave_image, ymm_high) == 576, "fixed by the processor");
_Static_assert(sizeof(struct xsave_image) == 832, "fixed by the processor");
#define XSAVE_YMM_COMPONENT 2u
#define XSAVE_YMM_OFFSET offsetof(struct xsave_image, ymm_high)
#define XSAVE_YMM_BYTES 256u

/* Bits of MXCSR that exist. */
#define MXCSR_MASK 0xffffu
#define MXCSR_RESET 0x1f80u
#define FCW_RESET 0x37fu

/* The components that there are. */
#define XSTATE_KNOWN (XSTATE_X87 | XSTATE_SSE | XSTATE_AVX | XSTATE_PKRU)

/*
 * Where PKRU is in an image that is not compacted: where the machine has it, since clients ask the
 * machine's own CPUID; where Intel's processors have it if the machine has none.
 */
#define XSAVE_PKRU_COMPONENT 9u
#define XSAVE_PKRU_BYTES 8u
#define XSAVE_PKRU_MAX (4096u - XSAVE_PKRU_BYTES) /* of its offset: KVM_GET_XSAVE has 4 KiB */
uint32_t fpu_pkru_offset(void);
/* Does the machine itself have protection keys? */
int fpu_machine_has_keys(void);

/* Copy the x87 state (not MXCSR and XMM) between @state and @image. */
void fpu_get(const struct cpu_state *state, struct fpu_image *image);
void fpu_set(struct cpu_state *state, const struct fpu_image *image);

#endif
