/* The x87 unit of the guest. */
#ifndef QUIRE_VCPU_EXEC_FPU_H
#define QUIRE_VCPU_EXEC_FPU_H

#include "vcpu/exec/fpu_image.h"
#include "vcpu/inside.h"

/* The x87 registers of @cpu as FNINIT leaves them; those of SSE are not touched. */
void fpu_init(struct cpu *cpu);

/* The components of XCR0 that are not in their initial state, whether XCR0 has them or not. */
uint64_t xsave_in_use(const struct cpu *cpu);

/*
 * One x87 instruction of the host: @memory is its operand, @flags the arithmetic flags before
 * it; returns those after it.
 */
typedef uint64_t (*fpu_kernel)(void *memory, uint64_t flags);

/* Run @kernel on @image's x87 state. Any exception stays pending in @image, none reaches us. */
uint64_t fpu_run(struct fpu_image *image, fpu_kernel kernel, void *memory, uint64_t flags);

#endif
