/* One decoded instruction: what the decoder resolves once and the handlers read at every turn. */
#ifndef QUIRE_VCPU_DECODE_OP_H
#define QUIRE_VCPU_DECODE_OP_H

#include <stdint.h>
#include <Zydis/Zydis.h>

struct cpu;
struct op;

/*
 * What a handler returns. Bits, so that the dispatcher tests one at a time. While a handler runs,
 * RIP is the address of its own instruction; the dispatcher adds the length unless STEP_F_JUMPED
 * or STEP_F_ABORT says otherwise.
 */
enum step {
	STEP_F_END = 1u << 0,	 /* leave the block after this instruction */
	STEP_F_JUMPED = 1u << 1, /* the handler has set RIP */
	STEP_F_EVENTS = 1u << 2, /* leave guest mode and look for events: IF, TPR ... changed */
	STEP_F_ABORT = 1u << 3,	 /* not retired: cpu->stop says why; no register has changed */

	STEP_NEXT = 0,
	STEP_END = STEP_F_END,
	STEP_JUMP = STEP_F_END | STEP_F_JUMPED,
	STEP_EVENTS = STEP_F_END | STEP_F_EVENTS,
	STEP_JUMP_EVENTS = STEP_JUMP | STEP_F_EVENTS,
	STEP_ABORT = STEP_F_END | STEP_F_ABORT,
};

/*
 * A handler executes one instruction. It may run several times before the instruction retires
 * (a fault that the hypervisor repairs, an answer from a device), so it changes registers and
 * flags only after its last access to memory.
 */
typedef enum step (*op_fn)(struct cpu *cpu, const struct op *op);

enum operand_kind { OPERAND_NONE, OPERAND_REG, OPERAND_MEM, OPERAND_IMM };

enum op_flags {
	OP_LOCK = 1u << 0,
	OP_REP = 1u << 1,	/* F3 */
	OP_REPNE = 1u << 2,	/* F2 */
	OP_SEGMENTED = 1u << 3, /* not 64-bit mode: limits are checked */
	OP_ENDS_BLOCK = 1u << 4,
	OP_OPSIZE_PREFIX = 1u << 5, /* a 66 prefix stands before it */
	OP_NO_DEVICE = 1u << 6,	    /* KVM's emulator does not know it: no operand in a device */
	OP_STORES = 1u << 7,	    /* its memory operand is written */
	OP_ANY_ALIGNMENT = 1u << 8, /* of its memory operand, where others are checked, too */
};

/*
 * The generic part is filled for every instruction before it is bound to a handler, from its
 * explicit operands (at most one is memory). Registers are byte offsets into struct cpu: general
 * registers (AH .. BH are their odd byte), XMM and YMM (s.xmm[n]), MMX (s.st[n]); segment, control
 * and debug registers are their number instead.
 */
struct op {
	op_fn run;
	uint64_t imm;		 /* last immediate, sign-extended as the instruction says;
				  * or the vector register of operand 3 (VBLENDVPS) */
	int64_t disp;		 /* RIP-relative: the length is added in, base is RIP */
	uint16_t dst, src, src2; /* register operands 0, 1, 2 */
	uint16_t base, index;	 /* of the memory operand; cpu->zero when absent */
	uint16_t seg_base;	 /* offset of the segment base to add, or of cpu->zero */
	uint8_t scale_shift;	 /* index << scale_shift */
	uint8_t seg;		 /* enum cpu_segreg of the memory operand */
	uint8_t address_bytes;	 /* address size: 2, 4, 8 */
	uint8_t size;		 /* operand size in bytes: operand 0's, or operand_width / 8 */
	uint8_t mem_size;	 /* bytes of the memory operand; 0 without (up to 64 exactly) */
	uint8_t length;		 /* of the instruction */
	uint8_t kind[3];	 /* enum operand_kind of operands 0, 1, 2 */
	uint8_t imm2;		 /* second immediate (ENTER, EXTRQ) */
	uint8_t vector_bytes;	 /* 16 or 32 with a VEX prefix; 0 without */
	uint16_t mnemonic;	 /* ZydisMnemonic */
	uint16_t flags;		 /* enum op_flags */
	uint64_t aux;		 /* the binder's own: condition, variant, table */
};

_Static_assert(sizeof(struct op) == 64, "one cache line");

/* An instruction as Zydis sees it, for binders. */
struct decoded {
	ZydisDecodedInstruction insn;
	ZydisDecodedOperand operand[ZYDIS_MAX_OPERAND_COUNT];
	uint8_t code_bytes; /* 2, 4, 8: the mode of the code segment */
};

/*
 * How a mnemonic becomes a handler. Each file of exec/ exports one table of these, ended by a row
 * of zeros, which decode.c lists. Without @bind the handler is @run. @bind may change @op and
 * returns the handler, or NULL when this form is not its own (a later table is asked, e.g. MOVSD
 * the string instruction and MOVSD the SSE one). op->aux holds @aux before @bind runs.
 */
struct insn_desc {
	ZydisMnemonic mnemonic;
	op_fn run;
	op_fn (*bind)(struct op *op, const struct decoded *decoded);
	uint64_t aux;
};

extern const struct insn_desc exec_alu_table[];	    /* add .. cmp, test, inc, neg */
extern const struct insn_desc exec_shift_table[];   /* shifts, rotates, multiply, divide */
extern const struct insn_desc exec_move_table[];    /* mov, push, lea, cmov, xchg, cbw ... */
extern const struct insn_desc exec_branch_table[];  /* jumps, calls, loops, far transfers */
extern const struct insn_desc exec_bit_table[];	    /* bt.., bsf, bswap, shld, cmpxchg, xadd */
extern const struct insn_desc exec_string_table[];  /* movs .. scas */
extern const struct insn_desc exec_io_table[];	    /* in, out, ins, outs */
extern const struct insn_desc exec_control_table[]; /* control registers, MSRs, CPUID ... */
extern const struct insn_desc exec_system_table[];  /* descriptor tables, interrupts, SYSCALL ... */
extern const struct insn_desc exec_sse_table[];	    /* SSE .. SSE4.2: moves */
extern const struct insn_desc exec_sse_int_table[];
extern const struct insn_desc exec_sse_float_table[];
extern const struct insn_desc exec_sse_shuffle_table[];
extern const struct insn_desc exec_avx_move_table[];	/* VMOVAPS ..: KVM emulates these */
extern const struct insn_desc exec_avx_table[];		/* other moves, broadcasts */
extern const struct insn_desc exec_avx_permute_table[]; /* permutes, blends, variable shifts */
extern const struct insn_desc exec_avx_float_table[];	/* FMA, F16C, comparisons */
extern const struct insn_desc exec_avx_memory_table[];	/* masked moves, gathers */
extern const struct insn_desc exec_mmx_table[];		/* MMX registers */
extern const struct insn_desc exec_x87_table[];		/* x87 */
extern const struct insn_desc exec_xsave_table[];	/* FXSAVE, XSAVE, MXCSR */
extern const struct insn_desc exec_svm_table[];		/* VMRUN and its kin */
extern const struct insn_desc exec_bcd_table[];		/* DAA .. AAD, BOUND, ARPL, SALC */
extern const struct insn_desc exec_paging_table[];	/* INVLPG, INVPCID, protection keys */
extern const struct insn_desc exec_bits_table[]; /* POPCNT, LZCNT, TZCNT, BMI, CRC32, ADX ... */

#endif
