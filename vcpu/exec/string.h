/* What string instructions and string I/O share. */
#ifndef QUIRE_VCPU_EXEC_STRING_H
#define QUIRE_VCPU_EXEC_STRING_H

#include "vcpu/inside.h"

/* Element size and source segment from the hidden operands. */
void string_bind(struct op *op, const struct decoded *decoded);
/* rSI, rDI or rCX cut to the address size. */
uint64_t string_register(const struct cpu *cpu, const struct op *op, unsigned int reg);
/* Move rSI or rDI by @bytes in the direction of DF. */
void string_advance(struct cpu *cpu, const struct op *op, unsigned int reg, uint64_t bytes);
/* Linear address of the element at rSI, or at ES:rDI. */
enum step string_source(struct cpu *cpu, const struct op *op, uint64_t *linear);
enum step string_target(struct cpu *cpu, const struct op *op, uint64_t *linear);
/* The same of an element that is stored. */
enum step string_target_store(struct cpu *cpu, const struct op *op, uint64_t *linear);

/*
 * One element of a repeated instruction, with rCX counted down. STEP_NEXT: the caller may go on
 * with the next (or finds rCX 0). Aborts for a restart when the doorbell rings.
 */
enum step string_repeat(struct cpu *cpu, const struct op *op, op_fn element);

#endif
