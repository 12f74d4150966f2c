/* Making one unit: what its files share. */
#ifndef QUIRE_VCPU_TRANSLATE_MAKE_H
#define QUIRE_VCPU_TRANSLATE_MAKE_H

#include "vcpu/translate/unit.h"

/* Code that is seldom run stands behind the rest. */
enum cold_kind { COLD_MISS_READ, COLD_MISS_WRITE, COLD_OP, COLD_BRANCH };

/* At most, of one operation: a vector's alignment, its page, and the refusal of vectors. */
#define COLDS_OF_OP 3u

struct cold {
	uint8_t *distance; /* of the jump that leads there */
	uint8_t op;
	uint8_t kind;
};

struct making {
	struct emit e;
	struct translate *t;
	struct unit *unit;
	unsigned int index; /* the operation that is being made */
	const struct op *op;
	const uint8_t *bytes; /* its own */
	unsigned int natives; /* operations that became code */
	int ended;	      /* the last one leads elsewhere in any case */
	/* An operation before this one has looked at what CR0 and CR4 say of vectors, and since
	 * then there was none that could change them: those are the interpreter's. */
	int vectors_checked;
	unsigned int colds;
	struct cold cold[BLOCK_OPS_MAX * COLDS_OF_OP];
};

/* Code for the operation. Nonzero: the interpreter is to run it; what was written is taken back. */
int make_operation(struct making *m);
/* Jumps, calls and what moves RSP: as make_operation(), or 1 when it is none of these. */
int make_stack_or_jump(struct making *m);

/* SSE2's moves and integer arithmetic, as make_operation(), or 1 when it is none of these. */
int make_vector(struct making *m);

void make_exit(struct making *m, unsigned int op, enum exit_kind kind);
void make_cold(struct making *m, uint8_t *distance, enum cold_kind kind);
/* The instruction that is written next touches guest memory. */
void make_access_mark(struct making *m);
int make_address(struct making *m, struct host_mem *mem);
int make_linear(struct making *m);
void make_check(struct making *m, unsigned int size_bytes, enum cold_kind miss);
void make_go_to(struct making *m, unsigned int op, int64_t offset);
/* Go on at REG_LINEAR. */
void make_dispatch(struct making *m);

#endif
