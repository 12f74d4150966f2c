/* The x87 unit of the guest and the FXSAVE and XSAVE images of its state. */
#ifndef QUIRE_VCPU_FPU_H
#define QUIRE_VCPU_FPU_H

#include "vcpu/internal.h"

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

_Static_assert(sizeof(struct fpu_image) == 512, "fixed by the processor");

/* Bits of MXCSR that exist. */
#define MXCSR_MASK 0xffffu
#define MXCSR_RESET 0x1f80u
#define FCW_RESET 0x37fu

/* Components of XCR0. */
#define XSTATE_X87 (UINT64_C(1) << 0)
#define XSTATE_SSE (UINT64_C(1) << 1)
#define XSTATE_KNOWN (XSTATE_X87 | XSTATE_SSE)

/* The x87 registers of @cpu as FNINIT leaves them; those of SSE are not touched. */
void fpu_init(struct cpu *cpu);

/* Copy the x87 state (not MXCSR and XMM) between @cpu and @image. */
void fpu_get(const struct cpu *cpu, struct fpu_image *image);
void fpu_set(struct cpu *cpu, const struct fpu_image *image);

/*
 * One x87 instruction of the host: @memory is its operand, @flags the arithmetic flags before
 * it; returns those after it.
 */
typedef uint64_t (*fpu_kernel)(void *memory, uint64_t flags);

/* Run @kernel on @image's x87 state. Any exception stays pending in @image, none reaches us. */
uint64_t fpu_run(struct fpu_image *image, fpu_kernel kernel, void *memory, uint64_t flags);

#endif
