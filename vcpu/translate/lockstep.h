/* Lockstep: each instruction that became code runs in the interpreter too, and both must agree. */
#ifndef QUIRE_VCPU_TRANSLATE_LOCKSTEP_H
#define QUIRE_VCPU_TRANSLATE_LOCKSTEP_H

#include "vcpu/translate/unit.h"

/* Memory that an instruction may touch: an operand, and for CALL the stack. */
struct lockstep_piece {
	uint8_t *host;
	uint8_t size_bytes, is_written; /* by the instruction; else the client alone may */
	uint8_t before[16], after[16];	/* as the interpreter found and left it */
};

#define LOCKSTEP_PIECES 2u

struct lockstep {
	const struct unit *unit;
	unsigned int op;
	int is_checked; /* the interpreter has run it, and all was put back */
	uint64_t gpr[16], rip, flags;
	uint64_t gs_base, kernel_gs_base;
	uint8_t xmm[16][16];
	unsigned int pieces;
	struct lockstep_piece piece[LOCKSTEP_PIECES];
};

/* Code of @op of @unit is about to be entered; the state is in @cpu, its flags as cc_*. */
void lockstep_begin(struct cpu *cpu, const struct unit *unit, unsigned int op);
/*
 * Code came back with RIP set and flags as cc_*: did it do what the interpreter had done? Nonzero:
 * it did not; that was logged, and cpu->stop says that the run ends.
 */
int lockstep_differs(struct cpu *cpu);

#endif
