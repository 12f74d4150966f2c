/* Decoding: Zydis' view of an instruction becomes an operation bound to its handler. */
#include "vcpu/decode/decode.h"

#include <pthread.h>

#include "vcpu/decode/feature.h"
#include "vcpu/inside.h"
#include "vcpu/run/raise.h"

static const struct insn_desc *const tables[] = {
    exec_alu_table,	    exec_shift_table,  exec_move_table,	       exec_branch_table,
    exec_bit_table,	    exec_string_table, exec_io_table,	       exec_control_table,
    exec_system_table,	    exec_sse_table,    exec_sse_int_table,     exec_sse_float_table,
    exec_sse_shuffle_table, exec_x87_table,    exec_xsave_table,       exec_bits_table,
    exec_svm_table,	    exec_bcd_table,    exec_mmx_table,	       exec_paging_table,
    exec_avx_move_table,    exec_avx_table,    exec_avx_permute_table, exec_avx_float_table,
    exec_avx_memory_table,
};

/* Two tables may know one mnemonic (MOVSD, CMPSD): the first whose binder accepts wins. */
#define CANDIDATES 2
static const struct insn_desc *candidates[ZYDIS_MNEMONIC_MAX_VALUE + 1][CANDIDATES];
/* Which of them KVM's emulator knows: enum emulated. */
static uint8_t emulated[ZYDIS_MNEMONIC_MAX_VALUE + 1][CANDIDATES];
static ZydisDecoder decoder_16, decoder_32, decoder_64;
static pthread_once_t once = PTHREAD_ONCE_INIT;

/*
 * KVM carries out an access to a device by emulating its instruction, and its emulator moves, but
 * does not calculate with, the x87 and SSE registers. With a VEX prefix it knows moves alone.
 */
enum emulated { EMULATED_NEVER, EMULATED_LEGACY, EMULATED_VEX };

static enum emulated emulated_of(const struct insn_desc *table, ZydisMnemonic mnemonic)
{
	static const struct insn_desc *const beyond[] = {
	    exec_x87_table,	    exec_sse_int_table, exec_sse_float_table,
	    exec_sse_shuffle_table, exec_mmx_table,
	};

	if (table == exec_avx_move_table)
		return EMULATED_VEX;
	if (mnemonic == ZYDIS_MNEMONIC_FNSTCW || mnemonic == ZYDIS_MNEMONIC_FNSTSW ||
	    mnemonic == ZYDIS_MNEMONIC_MOVQ)
		return EMULATED_LEGACY;
	for (size_t i = 0; i < sizeof(beyond) / sizeof(beyond[0]); i++)
		if (beyond[i] == table)
			return EMULATED_NEVER;
	return EMULATED_LEGACY;
}

static void candidate_add(const struct insn_desc *table, const struct insn_desc *desc)
{
	const struct insn_desc **slot = candidates[desc->mnemonic];

	for (int c = 0; c < CANDIDATES; c++) {
		if (!slot[c] || slot[c] == desc) {
			slot[c] = desc;
			emulated[desc->mnemonic][c] = (uint8_t)emulated_of(table, desc->mnemonic);
			break;
		}
	}
}

static void decode_prepare(void)
{
	ZydisDecoderInit(&decoder_16, ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16);
	ZydisDecoderInit(&decoder_32, ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32);
	ZydisDecoderInit(&decoder_64, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]); i++) {
		for (const struct insn_desc *desc = tables[i]; desc->mnemonic; desc++)
			candidate_add(tables[i], desc);
	}
}

static uint16_t gpr_offset(unsigned int index)
{
	return offsetof(struct cpu, s.gpr) + index * sizeof(uint64_t);
}

/* Where an operand's register lives; its number for those that are not plain storage. */
static uint16_t register_offset(ZydisRegister reg)
{
	if (reg >= ZYDIS_REGISTER_AL && reg <= ZYDIS_REGISTER_BL)
		return gpr_offset(reg - ZYDIS_REGISTER_AL);
	if (reg >= ZYDIS_REGISTER_AH && reg <= ZYDIS_REGISTER_BH)
		return gpr_offset(reg - ZYDIS_REGISTER_AH) + 1;
	if (reg >= ZYDIS_REGISTER_SPL && reg <= ZYDIS_REGISTER_R15B)
		return gpr_offset(4 + reg - ZYDIS_REGISTER_SPL);
	if (reg >= ZYDIS_REGISTER_AX && reg <= ZYDIS_REGISTER_R15W)
		return gpr_offset(reg - ZYDIS_REGISTER_AX);
	if (reg >= ZYDIS_REGISTER_EAX && reg <= ZYDIS_REGISTER_R15D)
		return gpr_offset(reg - ZYDIS_REGISTER_EAX);
	if (reg >= ZYDIS_REGISTER_RAX && reg <= ZYDIS_REGISTER_R15)
		return gpr_offset(reg - ZYDIS_REGISTER_RAX);
	if (reg == ZYDIS_REGISTER_RIP || reg == ZYDIS_REGISTER_EIP)
		return offsetof(struct cpu, s.rip);
	if (reg >= ZYDIS_REGISTER_XMM0 && reg <= ZYDIS_REGISTER_XMM15)
		return offsetof(struct cpu, s.xmm) + (reg - ZYDIS_REGISTER_XMM0) * 16;
	if (reg >= ZYDIS_REGISTER_YMM0 && reg <= ZYDIS_REGISTER_YMM15)
		return offsetof(struct cpu, s.xmm) + (reg - ZYDIS_REGISTER_YMM0) * 16;
	if (reg >= ZYDIS_REGISTER_MM0 && reg <= ZYDIS_REGISTER_MM7)
		return offsetof(struct cpu, s.st) + (reg - ZYDIS_REGISTER_MM0) * 16;
	if (reg == ZYDIS_REGISTER_NONE)
		return offsetof(struct cpu, zero);
	return ZydisRegisterGetId(reg);
}

static uint8_t segment_number(ZydisRegister reg)
{
	return reg >= ZYDIS_REGISTER_ES && reg <= ZYDIS_REGISTER_GS ? reg - ZYDIS_REGISTER_ES
								    : CPU_DS;
}

static void fill_memory(struct op *op, const struct decoded *d, const ZydisDecodedOperand *operand)
{
	const ZydisDecodedOperandMem *mem = &operand->mem;

	op->base = register_offset(mem->base);
	op->index = register_offset(mem->index);
	op->scale_shift = mem->scale ? __builtin_ctz(mem->scale) : 0;
	op->disp = mem->disp.has_displacement ? mem->disp.value : 0;
	if (mem->base == ZYDIS_REGISTER_RIP || mem->base == ZYDIS_REGISTER_EIP)
		op->disp += d->insn.length;
	op->mem_size = operand->size / 8 > 255 ? 0 : operand->size / 8;
	op->seg = segment_number(mem->segment);
	if (operand->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
		op->flags |= OP_STORES;
	op->seg_base = offsetof(struct cpu, zero);
	if (d->code_bytes != 8 || op->seg == CPU_FS || op->seg == CPU_GS)
		op->seg_base = offsetof(struct cpu, s.seg) + op->seg * sizeof(struct cpu_segment) +
			       offsetof(struct cpu_segment, base);
}

static void fill_operand(struct op *op, const struct decoded *d, unsigned int which)
{
	const ZydisDecodedOperand *operand = &d->operand[which];
	uint16_t *reg = &op->dst;

	switch (operand->type) {
	case ZYDIS_OPERAND_TYPE_REGISTER:
		if (which < 3) {
			op->kind[which] = OPERAND_REG;
			reg[which] = register_offset(operand->reg.value);
		} else {
			op->imm = register_offset(operand->reg.value);
		}
		break;
	case ZYDIS_OPERAND_TYPE_MEMORY:
		if (which < 3)
			op->kind[which] = OPERAND_MEM;
		fill_memory(op, d, operand);
		break;
	case ZYDIS_OPERAND_TYPE_IMMEDIATE:
		if (which < 3)
			op->kind[which] = OPERAND_IMM;
		op->imm2 = op->imm;
		op->imm = operand->imm.value.u;
		break;
	case ZYDIS_OPERAND_TYPE_POINTER:
		op->kind[which] = OPERAND_IMM;
		op->imm = operand->ptr.offset;
		op->disp = operand->ptr.segment;
		break;
	default:
		break;
	}
}

/*
 * Does an operand, or the index of a gather, have 256 bits? The prefix's own bit does not tell:
 * instructions on one element ignore it.
 */
static int has_wide_operand(const struct decoded *d)
{
	for (unsigned int i = 0; i < d->insn.operand_count_visible; i++) {
		const ZydisDecodedOperand *operand = &d->operand[i];
		int is_memory = operand->type == ZYDIS_OPERAND_TYPE_MEMORY;

		if (operand->size == 256 ||
		    (is_memory && ZydisRegisterGetClass(operand->mem.index) == ZYDIS_REGCLASS_YMM))
			return 1;
	}
	return 0;
}

static int ends_block(const ZydisDecodedInstruction *insn)
{
	switch (insn->meta.category) {
	case ZYDIS_CATEGORY_UNCOND_BR:
	case ZYDIS_CATEGORY_CALL:
	case ZYDIS_CATEGORY_RET:
	case ZYDIS_CATEGORY_INTERRUPT:
	case ZYDIS_CATEGORY_SYSCALL:
	case ZYDIS_CATEGORY_SYSRET:
		return 1;
	default:
		return insn->mnemonic == ZYDIS_MNEMONIC_HLT ||
		       insn->mnemonic == ZYDIS_MNEMONIC_UD2 ||
		       insn->mnemonic == ZYDIS_MNEMONIC_VMRUN;
	}
}

static void fill_op(struct op *op, const struct decoded *d)
{
	const ZydisDecodedInstruction *insn = &d->insn;
	ZydisInstructionAttributes attributes = insn->attributes;

	memset(op, 0, sizeof(*op));
	op->mnemonic = insn->mnemonic;
	op->length = insn->length;
	op->address_bytes = insn->address_width / 8;
	op->seg = CPU_DS;
	op->base = op->index = op->seg_base = offsetof(struct cpu, zero);
	if (attributes & ZYDIS_ATTRIB_HAS_LOCK)
		op->flags |= OP_LOCK;
	if (attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE))
		op->flags |= OP_REP;
	if (attributes & ZYDIS_ATTRIB_HAS_REPNE)
		op->flags |= OP_REPNE;
	if (attributes & ZYDIS_ATTRIB_HAS_OPERANDSIZE)
		op->flags |= OP_OPSIZE_PREFIX;
	if (d->code_bytes != 8)
		op->flags |= OP_SEGMENTED;
	if (ends_block(insn))
		op->flags |= OP_ENDS_BLOCK;
	for (unsigned int i = 0; i < insn->operand_count_visible; i++)
		fill_operand(op, d, i);
	if (insn->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX)
		op->vector_bytes = has_wide_operand(d) ? 32 : 16;
	op->size = insn->operand_width / 8;
	if (insn->operand_count_visible && d->operand[0].size && d->operand[0].size <= 64)
		op->size = d->operand[0].size / 8;
}

static enum step exec_hint(struct cpu *cpu, const struct op *op)
{
	return STEP_NEXT;
}

/* LZCNT and TZCNT are BSR and BSF with a prefix that older processors ignore. */
static int has_older_meaning(struct op *op)
{
	if (op->mnemonic == ZYDIS_MNEMONIC_LZCNT)
		op->mnemonic = ZYDIS_MNEMONIC_BSR;
	else if (op->mnemonic == ZYDIS_MNEMONIC_TZCNT)
		op->mnemonic = ZYDIS_MNEMONIC_BSF;
	else
		return 0;
	return 1;
}

/* Does the guest see what the instruction needs? Else it is undefined, or does nothing. */
static int bind_feature(struct op *op, const struct decoded *d, uint64_t features)
{
	enum feature needed = feature_needed(d);

	if (needed == FEATURE_ALWAYS || (needed < FEATURE_COUNT && (features >> needed & 1)))
		return 1;
	if (needed < FEATURE_COUNT && has_older_meaning(op))
		return 1;
	op->run = needed == FEATURE_HINT ? exec_hint : exec_undefined;
	return 0;
}

static void bind_op(struct op *op, const struct decoded *d, uint64_t features)
{
	if (!bind_feature(op, d, features))
		return;
	op->run = exec_unknown;
	for (int c = 0; c < CANDIDATES; c++) {
		const struct insn_desc *desc = candidates[op->mnemonic][c];
		op_fn run;

		if (!desc)
			return;
		op->aux = desc->aux;
		run = desc->bind ? desc->bind(op, d) : desc->run;
		if (run) {
			op->run = run;
			if (emulated[op->mnemonic][c] !=
			    (op->vector_bytes ? EMULATED_VEX : EMULATED_LEGACY))
				op->flags |= OP_NO_DEVICE;
			return;
		}
	}
}

static void make_undefined(struct op *op)
{
	memset(op, 0, sizeof(*op));
	op->run = exec_undefined;
	op->length = 1;
	op->flags = OP_ENDS_BLOCK;
}

void decode_start(void)
{
	pthread_once(&once, decode_prepare);
}

enum decode_result decode_one(const struct decode_input *input, struct op *op)
{
	struct decoded d;
	const ZydisDecoder *decoder = &decoder_64;
	ZyanStatus status;

	decode_start();
	if (input->code_bytes != 8)
		decoder = input->code_bytes == 4 ? &decoder_32 : &decoder_16;
	d.code_bytes = input->code_bytes;
	status =
	    ZydisDecoderDecodeFull(decoder, input->bytes, input->size_bytes, &d.insn, d.operand);
	if (status == ZYDIS_STATUS_NO_MORE_DATA)
		return DECODE_SHORT;
	if (!ZYAN_SUCCESS(status)) {
		make_undefined(op);
		return DECODE_INVALID;
	}
	fill_op(op, &d);
	bind_op(op, &d, input->features);
	return DECODE_OK;
}

const char *decode_mnemonic(unsigned int mnemonic)
{
	const char *name = ZydisMnemonicGetString(mnemonic);

	return name ? name : "?";
}
