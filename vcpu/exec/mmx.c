/*
 * Instructions with MMX registers. Those are the significands of the x87's: register n is physical
 * register n, whatever the top of the stack is. An instruction leaves the top at 0 and no register
 * empty.
 */
#include "vcpu/exec/exec.h"
#include "vcpu/exec/operand.h"
#include "vcpu/exec/sse.h"
#include "vcpu/mem/mem.h"
#include "vcpu/run/raise.h"

#define FSW_TOP_SHIFT 11
#define FSW_TOP (7u << FSW_TOP_SHIFT)
#define FSW_ERROR_SUMMARY 0x80u

typedef uint64_t (*mmx_fn)(uint64_t dst, uint64_t src);

/* A kernel is the very instruction on two registers of the host. */
#define MMX_KERNEL(name)                                                  \
	static uint64_t name##_kernel(uint64_t dst, uint64_t src)         \
	{                                                                 \
		asm volatile("movq %0, %%mm0\n\tmovq %1, %%mm1\n\t" #name \
			     " %%mm1, %%mm0\n\tmovq %%mm0, %0\n\temms"    \
			     : "+r"(dst)                                  \
			     : "r"(src)                                   \
			     : "mm0", "mm1");                             \
		return dst;                                               \
	}

/* clang-format off */
#define BINARY_INSTRUCTIONS(X)                                                      \
	X(paddb, PADDB) X(paddw, PADDW) X(paddd, PADDD) X(paddq, PADDQ)             \
	X(paddsb, PADDSB) X(paddsw, PADDSW) X(paddusb, PADDUSB) X(paddusw, PADDUSW) \
	X(psubb, PSUBB) X(psubw, PSUBW) X(psubd, PSUBD) X(psubq, PSUBQ)             \
	X(psubsb, PSUBSB) X(psubsw, PSUBSW) X(psubusb, PSUBUSB) X(psubusw, PSUBUSW) \
	X(pmullw, PMULLW) X(pmulhw, PMULHW) X(pmulhuw, PMULHUW) X(pmuludq, PMULUDQ) \
	X(pmaddwd, PMADDWD) X(pavgb, PAVGB) X(pavgw, PAVGW) X(psadbw, PSADBW)       \
	X(pminub, PMINUB) X(pmaxub, PMAXUB) X(pminsw, PMINSW) X(pmaxsw, PMAXSW)     \
	X(pand, PAND) X(pandn, PANDN) X(por, POR) X(pxor, PXOR)                     \
	X(pcmpeqb, PCMPEQB) X(pcmpeqw, PCMPEQW) X(pcmpeqd, PCMPEQD)                 \
	X(pcmpgtb, PCMPGTB) X(pcmpgtw, PCMPGTW) X(pcmpgtd, PCMPGTD)                 \
	X(packsswb, PACKSSWB) X(packssdw, PACKSSDW) X(packuswb, PACKUSWB)           \
	X(punpcklbw, PUNPCKLBW) X(punpcklwd, PUNPCKLWD) X(punpckldq, PUNPCKLDQ)     \
	X(punpckhbw, PUNPCKHBW) X(punpckhwd, PUNPCKHWD) X(punpckhdq, PUNPCKHDQ)     \
	X(psllw, PSLLW) X(pslld, PSLLD) X(psllq, PSLLQ) X(psrlw, PSRLW)             \
	X(psrld, PSRLD) X(psrlq, PSRLQ) X(psraw, PSRAW) X(psrad, PSRAD)             \
	/* SSSE3 */                                                                 \
	X(phaddw, PHADDW) X(phaddd, PHADDD) X(phaddsw, PHADDSW) X(phsubw, PHSUBW)   \
	X(phsubd, PHSUBD) X(phsubsw, PHSUBSW) X(pmaddubsw, PMADDUBSW)               \
	X(pmulhrsw, PMULHRSW) X(psignb, PSIGNB) X(psignw, PSIGNW) X(psignd, PSIGND) \
	X(pabsb, PABSB) X(pabsw, PABSW) X(pabsd, PABSD) X(pshufb, PSHUFB)
/* clang-format on */

#define KERNEL_OF(name, mnemonic) MMX_KERNEL(name)
BINARY_INSTRUCTIONS(KERNEL_OF)
#undef KERNEL_OF

static enum step mmx_check(struct cpu *cpu)
{
	if (unlikely(cpu->s.cr0 & (CR0_EM | CR0_TS)))
		return cpu_raise(cpu, cpu->s.cr0 & CR0_EM ? VECTOR_UD : VECTOR_NM);
	return unlikely(cpu->s.fsw & FSW_ERROR_SUMMARY) ? cpu_raise(cpu, VECTOR_MF) : STEP_NEXT;
}

/* SSE's part of an instruction on both kinds of register. */
static enum step mixed_check(struct cpu *cpu, const struct op *op)
{
	enum step step = sse_check(cpu, op);

	return unlikely(step) ? step : mmx_check(cpu);
}

/* The image holds the registers from the top of the stack on; @offset names a physical one. */
static uint8_t *mmx_register(struct cpu *cpu, unsigned int offset)
{
	unsigned int number = (offset - offsetof(struct cpu, s.st)) / 16;

	return cpu->s.st[(number - (cpu->s.fsw >> FSW_TOP_SHIFT)) & 7];
}

static uint64_t mmx_get(struct cpu *cpu, unsigned int offset)
{
	uint64_t value;

	memcpy(&value, mmx_register(cpu, offset), sizeof(value));
	return value;
}

/* What every instruction but EMMS does to the x87. */
static void mmx_take(struct cpu *cpu)
{
	unsigned int top = cpu->s.fsw >> FSW_TOP_SHIFT & 7;
	uint8_t old[8][16];

	cpu->s.ftw = 0xff;
	if (!top)
		return;
	memcpy(old, cpu->s.st, sizeof(old));
	for (unsigned int i = 0; i < 8; i++)
		memcpy(cpu->s.st[i], old[(i - top) & 7], sizeof(old[0]));
	cpu->s.fsw &= (uint16_t)~FSW_TOP;
}

static void mmx_set(struct cpu *cpu, unsigned int offset, uint64_t value)
{
	uint8_t *at;

	mmx_take(cpu);
	at = mmx_register(cpu, offset);
	memcpy(at, &value, sizeof(value));
	memset(at + sizeof(value), 0xff, 2);
}

/* Operand 1: a register, an immediate of 8 bits, or memory of @op->mem_size bytes. */
static enum step mmx_source(struct cpu *cpu, const struct op *op, uint64_t *src)
{
	if (op->kind[1] == OPERAND_MEM)
		return op_load(cpu, op, op->mem_size, src);
	*src = op->kind[1] == OPERAND_IMM ? op->imm & 0xff : mmx_get(cpu, op->src);
	return STEP_NEXT;
}

static enum step exec_binary(struct cpu *cpu, const struct op *op)
{
	mmx_fn kernel = (mmx_fn)(uintptr_t)op->aux;
	uint64_t src;
	enum step step = mmx_check(cpu);

	if (!step)
		step = mmx_source(cpu, op, &src);
	if (!step)
		mmx_set(cpu, op->dst, kernel(mmx_get(cpu, op->dst), src));
	return step;
}

static op_fn bind_binary(struct op *op, const struct decoded *decoded)
{
	return sse_is_mmx(decoded) ? exec_binary : NULL;
}

static enum step exec_pshufw(struct cpu *cpu, const struct op *op)
{
	uint64_t src, result = 0;
	enum step step = mmx_check(cpu);

	if (!step)
		step = mmx_source(cpu, op, &src);
	if (step)
		return step;
	for (unsigned int i = 0; i < 4; i++)
		result |= (src >> (op->imm >> 2 * i & 3) * 16 & 0xffff) << 16 * i;
	mmx_set(cpu, op->dst, result);
	return STEP_NEXT;
}

static enum step exec_palignr(struct cpu *cpu, const struct op *op)
{
	unsigned int shift = (op->imm & 0xff) * 8;
	enum step step = mmx_check(cpu);
	unsigned __int128 both;
	uint64_t src;

	if (!step)
		step = mmx_source(cpu, op, &src);
	if (step)
		return step;
	both = (unsigned __int128)mmx_get(cpu, op->dst) << 64 | src;
	mmx_set(cpu, op->dst, shift < 128 ? (uint64_t)(both >> shift) : 0);
	return STEP_NEXT;
}

static op_fn bind_palignr(struct op *op, const struct decoded *decoded)
{
	return sse_is_mmx(decoded) ? exec_palignr : NULL;
}

/* MOVD, MOVQ, MOVNTQ: op->aux is the width of the other operand. */

static enum step exec_load(struct cpu *cpu, const struct op *op)
{
	enum step step = mmx_check(cpu);
	uint64_t value;

	if (!step)
		step = op_read(cpu, op, 1, op->aux, &value);
	if (!step)
		mmx_set(cpu, op->dst, value);
	return step;
}

static enum step exec_store(struct cpu *cpu, const struct op *op)
{
	enum step step = mmx_check(cpu);

	if (!step)
		step = op_write(cpu, op, op->aux, mmx_get(cpu, op->src));
	if (!step)
		mmx_take(cpu);
	return step;
}

static enum step exec_move(struct cpu *cpu, const struct op *op)
{
	enum step step = mmx_check(cpu);

	if (!step)
		mmx_set(cpu, op->dst, mmx_get(cpu, op->src));
	return step;
}

static int is_of_class(const struct decoded *decoded, unsigned int which, ZydisRegisterClass class)
{
	const ZydisDecodedOperand *operand = &decoded->operand[which];

	return operand->type == ZYDIS_OPERAND_TYPE_REGISTER &&
	       ZydisRegisterGetClass(operand->reg.value) == class;
}

static op_fn bind_move(struct op *op, const struct decoded *decoded)
{
	if (!sse_is_mmx(decoded))
		return NULL;
	if (!is_of_class(decoded, 0, ZYDIS_REGCLASS_MMX))
		return exec_store;
	return is_of_class(decoded, 1, ZYDIS_REGCLASS_MMX) ? exec_move : exec_load;
}

static enum step exec_movdq2q(struct cpu *cpu, const struct op *op)
{
	enum step step = mixed_check(cpu, op);

	if (!step)
		mmx_set(cpu, op->dst, (uint64_t)(*sse_register(cpu, op->src))[0]);
	return step;
}

static enum step exec_movq2dq(struct cpu *cpu, const struct op *op)
{
	enum step step = mixed_check(cpu, op);

	if (step)
		return step;
	*sse_register(cpu, op->dst) = (vec){(long long)mmx_get(cpu, op->src), 0};
	mmx_take(cpu);
	return STEP_NEXT;
}

static enum step exec_pmovmskb(struct cpu *cpu, const struct op *op)
{
	enum step step = mmx_check(cpu);
	uint64_t tops;

	if (step)
		return step;
	tops = mmx_get(cpu, op->src) & UINT64_C(0x8080808080808080);
	/* The multiplication gathers a bit of every byte in the highest. */
	reg_set(cpu, op->dst, 8, tops * UINT64_C(0x0002040810204081) >> 56);
	mmx_take(cpu);
	return STEP_NEXT;
}

static op_fn bind_pmovmskb(struct op *op, const struct decoded *decoded)
{
	return sse_is_mmx(decoded) ? exec_pmovmskb : NULL;
}

static enum step exec_pinsrw(struct cpu *cpu, const struct op *op)
{
	unsigned int shift = (op->imm & 3) * 16;
	enum step step = mmx_check(cpu);
	uint64_t value;

	if (!step)
		step = op_read(cpu, op, 1, 2, &value);
	if (step)
		return step;
	mmx_set(cpu, op->dst,
		(mmx_get(cpu, op->dst) & ~(UINT64_C(0xffff) << shift)) | (value << shift));
	return STEP_NEXT;
}

static op_fn bind_pinsrw(struct op *op, const struct decoded *decoded)
{
	return sse_is_mmx(decoded) ? exec_pinsrw : NULL;
}

static enum step exec_pextrw(struct cpu *cpu, const struct op *op)
{
	enum step step = mmx_check(cpu);

	if (step)
		return step;
	reg_set(cpu, op->dst, 8, mmx_get(cpu, op->src) >> (op->imm & 3) * 16 & 0xffff);
	mmx_take(cpu);
	return STEP_NEXT;
}

static op_fn bind_pextrw(struct op *op, const struct decoded *decoded)
{
	return sse_is_mmx(decoded) ? exec_pextrw : NULL;
}

static enum step exec_maskmovq(struct cpu *cpu, const struct op *op)
{
	uint64_t bytes = mmx_get(cpu, op->dst), mask = mmx_get(cpu, op->src), linear;
	enum step step = mmx_check(cpu);

	if (!step)
		step = op_linear(cpu, op, &linear);
	if (!step)
		step = mem_check_alignment(cpu, linear, 8);
	for (unsigned int i = 0; !step && i < 8; i++) {
		if (mask >> (8 * i + 7) & 1)
			step = mem_probe_write(cpu, linear + i, 1);
	}
	for (unsigned int i = 0; !step && i < 8; i++) {
		if (mask >> (8 * i + 7) & 1)
			step = mem_store(cpu, linear + i, 1, bytes >> 8 * i);
	}
	if (!step)
		mmx_take(cpu);
	return step;
}

static op_fn bind_maskmovq(struct op *op, const struct decoded *decoded)
{
	sse_bind_at_rdi(op, decoded, 8);
	return exec_maskmovq;
}

/* Conversions. A kernel takes and gives the 64 bits, and changes XMM in the other direction. */

typedef vec (*from_mmx_fn)(vec dst, uint64_t src);
typedef uint64_t (*to_mmx_fn)(vec src);

#define FROM_MMX_KERNEL(name)                                                \
	static vec name##_kernel(vec dst, uint64_t src)                      \
	{                                                                    \
		asm volatile("movq %1, %%mm0\n\t" #name " %%mm0, %0\n\temms" \
			     : "+x"(dst)                                     \
			     : "r"(src)                                      \
			     : "mm0");                                       \
		return dst;                                                  \
	}
#define TO_MMX_KERNEL(name)                                               \
	static uint64_t name##_kernel(vec src)                            \
	{                                                                 \
		uint64_t value;                                           \
                                                                          \
		asm volatile(#name " %1, %%mm0\n\tmovq %%mm0, %0\n\temms" \
			     : "=r"(value)                                \
			     : "x"(src)                                   \
			     : "mm0");                                    \
		return value;                                             \
	}

FROM_MMX_KERNEL(cvtpi2ps)
FROM_MMX_KERNEL(cvtpi2pd)
TO_MMX_KERNEL(cvtps2pi)
TO_MMX_KERNEL(cvttps2pi)
TO_MMX_KERNEL(cvtpd2pi)
TO_MMX_KERNEL(cvttpd2pi)

static enum step exec_from_mmx(struct cpu *cpu, const struct op *op)
{
	from_mmx_fn kernel = (from_mmx_fn)(uintptr_t)op->aux;
	int uses_register = op->kind[1] == OPERAND_REG;
	enum step step = uses_register ? mixed_check(cpu, op) : sse_check(cpu, op);
	struct sse_float_scope scope;
	uint64_t src;
	vec result;

	if (!step)
		step = mmx_source(cpu, op, &src);
	if (step)
		return step;
	if (uses_register)
		mmx_take(cpu);
	sse_float_enter(cpu, &scope);
	result = kernel(*sse_register(cpu, op->dst), src);
	step = sse_float_leave(cpu, &scope);
	if (!step)
		*sse_register(cpu, op->dst) = result;
	return step;
}

static enum step exec_to_mmx(struct cpu *cpu, const struct op *op)
{
	to_mmx_fn kernel = (to_mmx_fn)(uintptr_t)op->aux;
	enum step step = mixed_check(cpu, op);
	struct sse_float_scope scope;
	uint64_t result;
	vec src;

	if (!step)
		step = sse_operand(cpu, op, 1, &src);
	if (step)
		return step;
	mmx_take(cpu);
	sse_float_enter(cpu, &scope);
	result = kernel(src);
	step = sse_float_leave(cpu, &scope);
	if (!step)
		mmx_set(cpu, op->dst, result);
	return step;
}

#define ROW_OF(name, mnemonic) \
	{ZYDIS_MNEMONIC_##mnemonic, NULL, bind_binary, KERNEL_ADDRESS(name##_kernel)},

const struct insn_desc exec_mmx_table[] = {
    /* clang-format off */
    BINARY_INSTRUCTIONS(ROW_OF)
    /* clang-format on */
    {ZYDIS_MNEMONIC_PSHUFW, exec_pshufw, NULL, 0},
    {ZYDIS_MNEMONIC_PALIGNR, NULL, bind_palignr, 0},
    {ZYDIS_MNEMONIC_MOVD, NULL, bind_move, 4},
    {ZYDIS_MNEMONIC_MOVQ, NULL, bind_move, 8},
    {ZYDIS_MNEMONIC_MOVNTQ, NULL, bind_move, 8},
    {ZYDIS_MNEMONIC_MOVDQ2Q, exec_movdq2q, NULL, 0},
    {ZYDIS_MNEMONIC_MOVQ2DQ, exec_movq2dq, NULL, 0},
    {ZYDIS_MNEMONIC_PMOVMSKB, NULL, bind_pmovmskb, 0},
    {ZYDIS_MNEMONIC_PINSRW, NULL, bind_pinsrw, 0},
    {ZYDIS_MNEMONIC_PEXTRW, NULL, bind_pextrw, 0},
    {ZYDIS_MNEMONIC_MASKMOVQ, NULL, bind_maskmovq, 0},
    {ZYDIS_MNEMONIC_CVTPI2PS, exec_from_mmx, NULL, KERNEL_ADDRESS(cvtpi2ps_kernel)},
    {ZYDIS_MNEMONIC_CVTPI2PD, exec_from_mmx, NULL, KERNEL_ADDRESS(cvtpi2pd_kernel)},
    {ZYDIS_MNEMONIC_CVTPS2PI, exec_to_mmx, NULL, KERNEL_ADDRESS(cvtps2pi_kernel)},
    {ZYDIS_MNEMONIC_CVTTPS2PI, exec_to_mmx, NULL, KERNEL_ADDRESS(cvttps2pi_kernel)},
    {ZYDIS_MNEMONIC_CVTPD2PI, exec_to_mmx, NULL, KERNEL_ADDRESS(cvtpd2pi_kernel)},
    {ZYDIS_MNEMONIC_CVTTPD2PI, exec_to_mmx, NULL, KERNEL_ADDRESS(cvttpd2pi_kernel)},
    {0},
};
