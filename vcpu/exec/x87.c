/* The x87 instructions, each executed by the host's unit on the guest's state. */
#include "vcpu/exec/flags.h"
#include "vcpu/exec/fpu.h"
#include "vcpu/exec/operand.h"
#include "vcpu/mem/mem.h"
#include "vcpu/run/raise.h"

#define FSW_ERROR_SUMMARY 0x80u
#define FSW_EXCEPTIONS 0x3fu
#define FSW_PRECISION 0x20u

/*
 * One kernel for each encoding: opcodes D8 .. DF with every ModRM that names registers, and with
 * every memory operation on (%rdi). RFLAGS comes in RSI and goes out in RAX.
 */
#define KERNEL_BODY(modrm)                 \
	".balign 8\n"                      \
	"push %rsi\n"                      \
	"popfq\n"                          \
	".byte kernel_opcode, " modrm "\n" \
	"pushfq\n"                         \
	"pop %rax\n"                       \
	"ret\n"

extern const uint8_t x87_register_kernels[8][64][8];
extern const uint8_t x87_memory_kernels[8][8][8];

asm(".pushsection .text\n"
    ".hidden x87_register_kernels\n"
    ".hidden x87_memory_kernels\n"
    ".balign 16\n"
    "x87_register_kernels:\n"
    ".set kernel_opcode, 0xd8\n"
    ".rept 8\n"
    ".set kernel_modrm, 0xc0\n"
    ".rept 64\n" KERNEL_BODY(
	"kernel_modrm") ".set kernel_modrm, kernel_modrm + 1\n"
			".endr\n"
			".set kernel_opcode, kernel_opcode + 1\n"
			".endr\n"
			"x87_memory_kernels:\n"
			".set kernel_opcode, 0xd8\n"
			".rept 8\n"
			".set kernel_modrm, 7\n"
			".rept 8\n" KERNEL_BODY(
			    "kernel_modrm") ".set kernel_modrm, kernel_modrm + 8\n"
					    ".endr\n"
					    ".set kernel_opcode, kernel_opcode + 1\n"
					    ".endr\n"
					    ".popsection\n");

/* FLDENV, FNSTENV, FRSTOR and FNSAVE on images of 16-bit form. */
#define NARROW_KERNEL(name, insn)                                              \
	static uint64_t name##_narrow(void *memory, uint64_t flags)            \
	{                                                                      \
		asm volatile(insn " (%0)" : : "r"(memory) : "memory", ST_ALL); \
		return flags;                                                  \
	}
#define ST_ALL "st", "st(1)", "st(2)", "st(3)", "st(4)", "st(5)", "st(6)", "st(7)"

NARROW_KERNEL(fldenv, ".byte 0x66; fldenv")
NARROW_KERNEL(fnstenv, ".byte 0x66; fnstenv")
NARROW_KERNEL(frstor, ".byte 0x66; frstor")
NARROW_KERNEL(fnsave, ".byte 0x66; fnsave")

static fpu_kernel narrow_kernel(ZydisMnemonic mnemonic)
{
	switch (mnemonic) {
	case ZYDIS_MNEMONIC_FLDENV:
		return fldenv_narrow;
	case ZYDIS_MNEMONIC_FNSTENV:
		return fnstenv_narrow;
	case ZYDIS_MNEMONIC_FRSTOR:
		return frstor_narrow;
	default:
		return fnsave_narrow;
	}
}

/* What an instruction does besides computing; op->aux of the table, op->imm once bound. */
enum x87_class {
	X87_PLAIN = 0,
	X87_LOADS = 1u << 0,   /* a memory operand is read */
	X87_STORES = 1u << 1,  /* ... written */
	X87_FLAGS = 1u << 2,   /* reads or writes RFLAGS */
	X87_CONTROL = 1u << 3, /* leaves the last instruction's pointers */
	X87_NO_WAIT = 1u << 4, /* does not report pending exceptions */
};
#define X87_FOP_SHIFT 16

/* An exception that an earlier instruction left is reported by the next one that waits. */
static enum step x87_check(struct cpu *cpu, uint64_t class)
{
	if (unlikely(cpu->s.cr0 & (CR0_EM | CR0_TS)))
		return cpu_raise(cpu, VECTOR_NM);
	if (unlikely((cpu->s.fsw & FSW_ERROR_SUMMARY) && !(class & X87_NO_WAIT)))
		return cpu_raise(cpu, VECTOR_MF);
	return STEP_NEXT;
}

/* An unmasked exception other than "inexact" keeps a store from being done. */
static int x87_store_suppressed(const struct fpu_image *image, uint64_t class)
{
	uint32_t raised = image->fsw & ~image->fcw & FSW_EXCEPTIONS & ~FSW_PRECISION;

	return !(class & X87_CONTROL) && raised;
}

static void x87_pointers_set(struct cpu *cpu, const struct op *op, struct fpu_image *image,
			     uint64_t linear)
{
	image->fip = cpu->s.rip;
	image->fop = (uint16_t)(op->imm >> X87_FOP_SHIFT);
	if (op->imm & (X87_LOADS | X87_STORES))
		image->fdp = linear;
}

static enum step exec_x87(struct cpu *cpu, const struct op *op)
{
	uint64_t class = op->imm, linear = 0, flags = FLAG_FIXED;
	enum step step = x87_check(cpu, class);
	struct fpu_image image = {0};
	uint8_t memory[128] = {0};

	if (unlikely(step))
		return step;
	if (class & (X87_LOADS | X87_STORES))
		step = op_linear(cpu, op, &linear);
	if (!step && (class & X87_LOADS))
		step = mem_read(cpu, linear, memory, op->size);
	if (unlikely(step))
		return step;
	fpu_get(&cpu->s, &image);
	if (class & X87_FLAGS)
		flags |= flags_arithmetic(cpu);
	flags = fpu_run(&image, (fpu_kernel)(uintptr_t)op->aux, memory, flags);
	/* Where an exception keeps the store from being done, its page is looked at even so, but
	 * not how its address is aligned. */
	if (class & X87_STORES)
		step = x87_store_suppressed(&image, class)
			   ? mem_probe_write_any(cpu, linear, op->size)
			   : mem_write(cpu, linear, memory, op->size);
	if (unlikely(step))
		return step;
	if (!(class & X87_CONTROL))
		x87_pointers_set(cpu, op, &image, linear);
	fpu_set(&cpu->s, &image);
	if (class & X87_FLAGS)
		flags_set_arithmetic(cpu, flags & FLAGS_ARITHMETIC);
	return STEP_NEXT;
}

static uint8_t x87_memory_bytes(const struct decoded *decoded)
{
	unsigned int size_bytes = 0;

	for (unsigned int i = 0; i < decoded->insn.operand_count_visible; i++) {
		if (decoded->operand[i].type == ZYDIS_OPERAND_TYPE_MEMORY)
			size_bytes = decoded->operand[i].size / 8;
	}
	return (uint8_t)size_bytes;
}

static op_fn bind_x87(struct op *op, const struct decoded *decoded)
{
	unsigned int opcode = decoded->insn.opcode & 7;
	uint8_t modrm = (uint8_t)(decoded->insn.raw.modrm.mod << 6 |
				  decoded->insn.raw.modrm.reg << 3 | decoded->insn.raw.modrm.rm);
	uint64_t class = op->aux;

	if (modrm >= 0xc0) {
		class &= ~(uint64_t)(X87_LOADS | X87_STORES);
		op->aux = (uint64_t)(uintptr_t)x87_register_kernels[opcode][modrm & 0x3f];
	} else {
		op->size = x87_memory_bytes(decoded);
		op->aux = (uint64_t)(uintptr_t)x87_memory_kernels[opcode][modrm >> 3 & 7];
		if (op->size == 14 || op->size == 94)
			op->aux = (uint64_t)(uintptr_t)narrow_kernel(decoded->insn.mnemonic);
	}
	op->imm = class | (uint64_t)(opcode << 8 | modrm) << X87_FOP_SHIFT;
	return exec_x87;
}

static enum step exec_fnstsw_ax(struct cpu *cpu, const struct op *op)
{
	enum step step = x87_check(cpu, X87_NO_WAIT);

	if (likely(!step))
		reg_set(cpu, op->dst, 2, cpu->s.fsw);
	return step;
}

static op_fn bind_fnstsw(struct op *op, const struct decoded *decoded)
{
	return op->kind[0] == OPERAND_REG ? exec_fnstsw_ax : bind_x87(op, decoded);
}

static enum step exec_fwait(struct cpu *cpu, const struct op *op)
{
	if ((cpu->s.cr0 & (CR0_MP | CR0_TS)) == (CR0_MP | CR0_TS))
		return cpu_raise(cpu, VECTOR_NM);
	return cpu->s.fsw & FSW_ERROR_SUMMARY ? cpu_raise(cpu, VECTOR_MF) : STEP_NEXT;
}

static uint64_t emms_kernel(void *memory, uint64_t flags)
{
	asm volatile("emms" : : : ST_ALL);
	return flags;
}

static enum step exec_emms(struct cpu *cpu, const struct op *op)
{
	struct fpu_image image = {0};
	enum step step;

	if (cpu->s.cr0 & CR0_EM)
		return cpu_raise(cpu, VECTOR_UD);
	step = x87_check(cpu, X87_PLAIN);
	if (unlikely(step))
		return step;
	fpu_get(&cpu->s, &image);
	fpu_run(&image, emms_kernel, NULL, 0);
	fpu_set(&cpu->s, &image);
	return STEP_NEXT;
}

#define X87(name, class)                                     \
	{                                                    \
		ZYDIS_MNEMONIC_##name, NULL, bind_x87, class \
	}
#define X87_NONWAITING (X87_CONTROL | X87_NO_WAIT)

const struct insn_desc exec_x87_table[] = {
    X87(FADD, X87_LOADS),
    X87(FADDP, X87_PLAIN),
    X87(FIADD, X87_LOADS),
    X87(FSUB, X87_LOADS),
    X87(FSUBP, X87_PLAIN),
    X87(FISUB, X87_LOADS),
    X87(FSUBR, X87_LOADS),
    X87(FSUBRP, X87_PLAIN),
    X87(FISUBR, X87_LOADS),
    X87(FMUL, X87_LOADS),
    X87(FMULP, X87_PLAIN),
    X87(FIMUL, X87_LOADS),
    X87(FDIV, X87_LOADS),
    X87(FDIVP, X87_PLAIN),
    X87(FIDIV, X87_LOADS),
    X87(FDIVR, X87_LOADS),
    X87(FDIVRP, X87_PLAIN),
    X87(FIDIVR, X87_LOADS),
    X87(FCOM, X87_LOADS),
    X87(FCOMP, X87_LOADS),
    X87(FICOM, X87_LOADS),
    X87(FICOMP, X87_LOADS),
    X87(FCOMPP, X87_PLAIN),
    X87(FUCOM, X87_PLAIN),
    X87(FUCOMP, X87_PLAIN),
    X87(FUCOMPP, X87_PLAIN),
    X87(FCOMI, X87_FLAGS),
    X87(FCOMIP, X87_FLAGS),
    X87(FUCOMI, X87_FLAGS),
    X87(FUCOMIP, X87_FLAGS),
    X87(FCMOVB, X87_FLAGS),
    X87(FCMOVE, X87_FLAGS),
    X87(FCMOVBE, X87_FLAGS),
    X87(FCMOVU, X87_FLAGS),
    X87(FCMOVNB, X87_FLAGS),
    X87(FCMOVNE, X87_FLAGS),
    X87(FCMOVNBE, X87_FLAGS),
    X87(FCMOVNU, X87_FLAGS),
    X87(FLD, X87_LOADS),
    X87(FST, X87_STORES),
    X87(FSTP, X87_STORES),
    X87(FSTPNCE, X87_PLAIN),
    X87(FFREEP, X87_PLAIN),
    X87(FENI8087_NOP, X87_NONWAITING),
    X87(FDISI8087_NOP, X87_NONWAITING),
    X87(FSETPM287_NOP, X87_NONWAITING),
    X87(FILD, X87_LOADS),
    X87(FIST, X87_STORES),
    X87(FISTP, X87_STORES),
    X87(FISTTP, X87_STORES),
    X87(FBLD, X87_LOADS),
    X87(FBSTP, X87_STORES),
    X87(FXCH, X87_PLAIN),
    X87(FLD1, X87_PLAIN),
    X87(FLDZ, X87_PLAIN),
    X87(FLDPI, X87_PLAIN),
    X87(FLDL2E, X87_PLAIN),
    X87(FLDL2T, X87_PLAIN),
    X87(FLDLG2, X87_PLAIN),
    X87(FLDLN2, X87_PLAIN),
    X87(FCHS, X87_PLAIN),
    X87(FABS, X87_PLAIN),
    X87(FSQRT, X87_PLAIN),
    X87(FRNDINT, X87_PLAIN),
    X87(FSCALE, X87_PLAIN),
    X87(FPREM, X87_PLAIN),
    X87(FPREM1, X87_PLAIN),
    X87(FTST, X87_PLAIN),
    X87(FXAM, X87_PLAIN),
    X87(FXTRACT, X87_PLAIN),
    X87(FSIN, X87_PLAIN),
    X87(FCOS, X87_PLAIN),
    X87(FSINCOS, X87_PLAIN),
    X87(FPTAN, X87_PLAIN),
    X87(FPATAN, X87_PLAIN),
    X87(F2XM1, X87_PLAIN),
    X87(FYL2X, X87_PLAIN),
    X87(FYL2XP1, X87_PLAIN),
    X87(FINCSTP, X87_PLAIN),
    X87(FDECSTP, X87_PLAIN),
    X87(FFREE, X87_PLAIN),
    X87(FNOP, X87_PLAIN),
    X87(FLDCW, X87_LOADS | X87_CONTROL),
    X87(FNSTCW, X87_STORES | X87_NONWAITING),
    X87(FLDENV, X87_LOADS | X87_CONTROL),
    X87(FNSTENV, X87_STORES | X87_NONWAITING),
    X87(FRSTOR, X87_LOADS | X87_CONTROL),
    X87(FNSAVE, X87_STORES | X87_NONWAITING),
    X87(FNINIT, X87_NONWAITING),
    X87(FNCLEX, X87_NONWAITING),
    {ZYDIS_MNEMONIC_FNSTSW, NULL, bind_fnstsw, X87_STORES | X87_NONWAITING},
    {ZYDIS_MNEMONIC_FWAIT, exec_fwait, NULL, 0},
    {ZYDIS_MNEMONIC_EMMS, exec_emms, NULL, 0},
    {0},
};
