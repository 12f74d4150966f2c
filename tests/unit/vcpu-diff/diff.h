/* Differential test of the interpreter: one instruction, random state, here and on the machine. */
#ifndef QUIRE_TESTS_VCPU_DIFF_H
#define QUIRE_TESTS_VCPU_DIFF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <Zydis/Zydis.h>

#include "tests/fuzz/draws.h"

/*
 * Both sides run at the same addresses, so that pointers compare equal: one arena of 2 MiB, which
 * the guest's page tables map to itself.
 */
#define ARENA_BASE UINT64_C(0x20000000)
#define ARENA_SIZE UINT64_C(0x200000)
#define CODE_BASE ARENA_BASE
#define DATA_BASE (ARENA_BASE + 0x10000)
#define DATA_SIZE UINT64_C(0x2000)
/* The page past it is mapped on neither side. */
#define DATA_END (DATA_BASE + DATA_SIZE)
#define SYSTEM_BASE (ARENA_BASE + 0x20000)

/* Where operands live: away from the ends, for bit offsets and strings reach around them. */
#define DATA_MIDDLE (DATA_BASE + DATA_SIZE / 2)
#define DATA_REACH UINT64_C(0x600)

/* What else a form needs of the generator, and what to compare of it. */
enum form_flags {
	FORM_STACK = 1u << 0,		 /* uses the stack: RSP and RBP point to data */
	FORM_STRING = 1u << 1,		 /* RSI and RDI point to data, RCX is small */
	FORM_BIT_OFFSET = 1u << 2,	 /* register operand 1 is a bit offset into memory */
	FORM_LOCK = 1u << 3,		 /* may carry LOCK with a memory destination */
	FORM_REP = 1u << 4,		 /* may carry REP */
	FORM_REPE = 1u << 5,		 /* may carry REPE or REPNE */
	FORM_FLOAT = 1u << 6,		 /* floating point values and modes */
	FORM_X87 = 1u << 7,		 /* compare the x87 state; MXCSR stays */
	FORM_NO_SHIFT_OF = 1u << 8,	 /* OF undefined unless the count is 1 */
	FORM_RESULT_IF_SOURCE = 1u << 9, /* operand 0 undefined for a source of 0 */
	FORM_SMALL_COUNT = 1u << 10,	 /* immediate below the operand's bits */
	FORM_IMAGE = 1u << 11,		 /* the memory operand is an FXSAVE or XSAVE image */
	FORM_DIVIDE = 1u << 12,		 /* keep most quotients in range */
	FORM_MASKED = 1u << 13, /* several roundings: which exception comes first is not kept */
	FORM_EDGE = 1u << 14,	/* now and then the memory operand ends in a page that is absent */
};

/* A row of the table: mnemonics x operand patterns; see forms.c for the letters. */
struct family {
	const char *mnemonics;
	const char *patterns;
	uint32_t undefined; /* flags that are undefined after it */
	uint32_t flags;	    /* enum form_flags */
	uint32_t feature;   /* enum feature */
};

/* What the machine must have: see feature_present(). */
enum feature {
	FEATURE_BASE,
	FEATURE_SSE3,
	FEATURE_SSSE3,
	FEATURE_SSE41,
	FEATURE_SSE42,
	FEATURE_POPCNT,
	FEATURE_MOVBE,
	FEATURE_LZCNT,
	FEATURE_BMI1,
	FEATURE_BMI2,
	FEATURE_ADX,
	FEATURE_CX16,
	FEATURE_LAHF,
	FEATURE_PCLMUL,
	FEATURE_XSAVE, /* and the system has turned it on */
	FEATURE_XSAVEOPT,
	FEATURE_XSAVEC,
	FEATURE_AVX, /* and the system has turned it on; those below, too */
	FEATURE_AVX2,
	FEATURE_FMA,
	FEATURE_F16C,
	FEATURE_AVX_PCLMUL,
};

struct form {
	const struct family *family;
	ZydisMnemonic mnemonic;
	char pattern[24];
	uint32_t size_bytes; /* of operands with letter 'v' or 'l' */
	uint64_t runs, unencodable, faults, mismatches;
};

/* The table, expanded; *@count forms. NULL: out of memory, or a row is wrong (said on stderr). */
struct form *forms_expand(size_t *count);

bool feature_present(enum feature feature);
/* Has the machine YMM registers, which its system saves? */
bool has_ymm(void);

/* What both sides load and store. */
struct machine_state {
	uint64_t gpr[16];
	uint64_t rflags;
	_Alignas(64) uint8_t fx[512]; /* FXSAVE64 image: x87, MXCSR and XMM */
	uint8_t ymm_high[16][16];     /* where the machine has YMM registers, else ignored */
	/* Set by the side that ran: 0, or 1 + vector of the exception. */
	uint32_t fault;
};

/* In rflags: run in user mode with alignment checked. */
#define CHECK_ALIGNMENT (UINT64_C(1) << 18)

/* One case: the code and what it starts from. */
struct test_case {
	const struct form *form;
	uint8_t code[16];
	size_t code_size_bytes;
	struct machine_state before;
	uint8_t data[DATA_SIZE];
	uint32_t undefined; /* flags not to compare */
	uint64_t target;    /* address of the memory operand; 0: none */
	ZydisRegister destination;
	ZydisRegister mask; /* of a gather */
	uint32_t mask_element_bytes;
	bool result_undefined; /* do not compare operand 0 */
};

/* What a case is made of: what the instruction is like, and what registers and memory hold. */
struct case_draws {
	struct fuzz_random *shape, *values;
};

/* The memory that it starts from. */
void case_fill(struct test_case *test, struct fuzz_random *rng);
/* Fill @test for @form but for that; false when these draws have no encoding. */
bool case_generate(struct test_case *test, const struct form *form, struct case_draws draws);

/* Both sides did the same, with or without an exception; or not. */
enum case_end {
	CASE_DONE,
	CASE_FAULT,
	CASE_UNREPEATED, /* the machine does something else the second time */
	CASE_DIFFERS,
};

enum case_end case_check(const struct test_case *test);
/* Prints the case, and where the sides differ. */
void case_explain(const struct test_case *test);
/* Valid until the next call. */
const char *form_name(const struct form *form);

/* Run the code in place from @state, on the data in place; @state receives what is left. */
int native_init(void);
void native_run(struct machine_state *state);
int interpreter_init(void);
/* From now on what can be translated is, or nothing is. Nonzero: this machine cannot. */
int interpreter_translate(bool on);
/* NULL, or what ended the run other than the code's end, which is at @code_end, or an exception. */
const char *interpreter_run(struct machine_state *state, uint64_t code_end);
void interpreter_exit(void);

/* Put the instruction in place, followed by what ends it on the side that runs next. */
enum code_end { CODE_END_NATIVE, CODE_END_INTERPRETER };
void code_place(const struct test_case *test, enum code_end end);

#endif
