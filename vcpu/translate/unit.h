/* The inside of the translator: units, the memory they are in, how they are entered and left. */
#ifndef QUIRE_VCPU_TRANSLATE_UNIT_H
#define QUIRE_VCPU_TRANSLATE_UNIT_H

#include "hosts/process/guard.h"
#include "vcpu/translate/emit.h"
#include "vcpu/translate/translate.h"

/* Why translated code came back: the low bits of fast.exit. */
enum exit_kind {
	EXIT_OP,	 /* the interpreter is to run this operation */
	EXIT_MISS_READ,	 /* the fast TLB has not this operation's page */
	EXIT_MISS_WRITE, /* nor for writing */
	EXIT_LINK,	 /* a jump inside the page whose target is not known yet */
	EXIT_STOP,	 /* at such a jump: the doorbell rings */
	EXIT_JUMP,	 /* RIP is set, by this operation or behind the last */
	EXIT_FAULT,	 /* an access was refused by the host: .scratch is where */
	EXIT_STEP,	 /* lockstep: this operation is next */
};

#define EXIT_KIND_BITS 3u
#define EXIT_OP_BITS 7u

/* One operation of a unit; the last is behind the last of the block. */
struct unit_op {
	uint32_t code;	 /* from the unit's code: where it begins */
	uint32_t link;	 /* where its jump's distance stands; 0: none */
	uint16_t offset; /* in the page */
	uint8_t is_code; /* not left to the interpreter */
	uint8_t is_write;
};

struct unit {
	struct block *block;
	uint64_t generation; /* of the page, when it was made */
	uint8_t *write;	     /* its code, to be written */
	uint64_t code;	     /* to be run */
	uint32_t code_bytes;
	uint32_t size_bytes; /* of this */
	uint32_t entry;	     /* from .code: where the jump cache enters; links lead to .code */
	uint16_t op_count;
	uint8_t mode;
	struct unit_op op[];
};

/*
 * Memory is used in parts, in turn: a part that is used again loses its units, and so do the pages
 * they were of, since links lead from unit to unit inside a page alone.
 */
#define PARTS 8u
#define PART_CODE_BYTES (UINT64_C(2) << 20)
#define PART_UNIT_BYTES (UINT64_C(1) << 20)
#define UNIT_ALIGN 64u
/* What one unit may need at most. */
#define UNIT_CODE_MAX (UINT64_C(24) << 10)
#define UNIT_BYTES_MAX (sizeof(struct unit) + (BLOCK_OPS_MAX + 1) * sizeof(struct unit_op) + 64)

struct part {
	uint64_t code_used, units_used;
};

/* Code of no unit, made once. */
struct stubs {
	uint64_t enter;		       /* void enter(struct cpu *) */
	uint64_t leave;		       /* saves the state and returns from enter() */
	uint64_t fault;		       /* a refused access lands here; RCX says which */
	uint64_t dispatch[FAST_MODES]; /* R10: RIP to go on at */
};

struct making;
struct lockstep;

struct translate {
	uint8_t *write;	   /* the code, to be written */
	uint64_t exec;	   /* and to be run */
	uint8_t *accesses; /* a bit for each byte of code: a guarded access begins there */
	char *units;
	struct making *making; /* the unit being made: too large for a client's stack */
	struct part part[PARTS];
	unsigned int now;  /* the part in use */
	uint64_t recycled; /* how often one was used again */
	uint64_t stub_bytes;
	unsigned int after; /* a block is translated when it ran so often */
	struct stubs stubs;
	ZydisDecoder decoder;
	struct guard_code guard;   /* tells the signal handler of the accesses */
	struct lockstep *lockstep; /* NULL: code runs alone */
};

#define CODE_BYTES (PARTS * PART_CODE_BYTES)

/* Make room for one more unit and set @e up for its code. */
void cache_reserve(struct cpu *cpu, struct emit *e);
struct unit *cache_alloc_unit(struct translate *t, unsigned int op_count);
void cache_commit(struct translate *t, const struct unit *unit);
void cache_forget(struct translate *t, const struct unit *unit);
/* The unit that runs at @address, and its operation; NULL: none. */
struct unit *cache_find(struct translate *t, uint64_t address, unsigned int *op);

static inline struct unit *unit_of_exit(const struct translate *t, uint32_t exit)
{
	uint64_t index = exit >> (EXIT_KIND_BITS + EXIT_OP_BITS);

	return (struct unit *)(t->units + index * UNIT_ALIGN);
}

static inline uint32_t exit_of(const struct translate *t, const struct unit *unit, unsigned int op,
			       enum exit_kind kind)
{
	uint64_t index = (uint64_t)((const char *)unit - t->units) / UNIT_ALIGN;

	return (uint32_t)(index << (EXIT_KIND_BITS + EXIT_OP_BITS) | op << EXIT_KIND_BITS | kind);
}

/* Is @unit still the code of its block, for the mode that it was made for? */
static inline int unit_is_current(const struct unit *unit)
{
	return unit->generation == unit->block->page->generation;
}

/* Take the page of @linear over from the interpreter's TLB. Nonzero: it has it not. */
int fast_fill(struct cpu *cpu, uint64_t linear, int is_write);
/* Take it over by the short walk, when the interpreter's TLB has it not. Nonzero: nothing is
 * said of the page, or that it is not to be stored to here. */
int fast_walk(struct cpu *cpu, uint64_t linear, int is_write);
/* RIP is where @unit begins. */
void fast_note_jump(struct cpu *cpu, const struct unit *unit);
/*
 * Where the code of RIP is, if the jump cache knows it and its page, which was not compared in this
 * epoch, turns out to be equal to memory; else 0.
 */
uint64_t fast_confirm_jump(struct cpu *cpu);
/* The same, or in this epoch already, in whatever mode the CPU is. */
uint64_t fast_find_jump(struct cpu *cpu);

/* Where the jump of @op leads, from the page's first byte; of the last: what follows the block. */
int64_t unit_target(const struct unit *unit, unsigned int op);

/* Write the stubs. */
void stubs_make(struct translate *t, struct emit *e);

/* Translate @block for @mode. NULL: too little of it would be code. */
struct unit *unit_make(struct cpu *cpu, struct block *block, unsigned int mode);

#define FAST(field) offsetof(struct cpu, fast.field)
#define VECTOR_AT(reg) (offsetof(struct cpu, s.xmm) + (reg) * sizeof(((struct cpu *)0)->s.xmm[0]))
#define GPR_AT(reg) (offsetof(struct cpu, s.gpr) + (reg) * sizeof(uint64_t))

/* Where the guest's register lives; HOST_NONE: in struct cpu. */
enum host_reg host_of(unsigned int guest_reg);

#endif
