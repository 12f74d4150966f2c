/* Random cases of a form: operands, their encoding, and the state they start from. */
#include "tests/unit/vcpu-diff/diff.h"

#include <string.h>

/* A number that sits at a border more often than chance would have it. */
static uint64_t value_integer(struct fuzz_random *rng)
{
	uint64_t bits = random_word(rng), shift = (bits >> 8) & 63;

	switch (bits & 7) {
	case 0:
		return (bits >> 16) & 31;
	case 1:
		return -((bits >> 16) & 31);
	case 2:
		return UINT64_C(1) << shift;
	case 3:
		return (UINT64_C(1) << shift) - 1;
	case 4:
		return UINT64_MAX << shift;
	default:
		return random_word(rng);
	}
}

static uint64_t value_double(struct fuzz_random *rng)
{
	static const uint64_t special[] = {
	    0, /* zero, one, infinity, NaNs, denormals, the largest, 2^31, 2^63 and their like */
	    0x3ff0000000000000,
	    0x7ff0000000000000,
	    0x7ff8000000000000,
	    0x7ff0000000000001,
	    1,
	    0x000fffffffffffff,
	    0x7fefffffffffffff,
	    0x41e0000000000000,
	    0x43e0000000000000,
	    0x3fe0000000000000,
	    0x4004000000000000,
	    0x41dfffffffc00000,
	    0x0010000000000000,
	    0x36a0000000000000,
	    0x47efffffe0000000};
	uint64_t bits = random_word(rng), sign = bits & (UINT64_C(1) << 63);

	switch (bits & 3) {
	case 0:
		return special[(bits >> 2) % (sizeof(special) / sizeof(special[0]))] | sign;
	case 1:
		return random_word(rng);
	default: /* near one, where sums and products round */
		return sign | ((UINT64_C(0x3e8) + ((bits >> 8) & 47)) << 52) |
		       (random_word(rng) >> 12);
	}
}

static uint32_t value_single(struct fuzz_random *rng)
{
	static const uint32_t special[] = {
	    0,		0x3f800000, 0x7f800000, 0x7fc00000, 0x7f800001, 1,	    0x007fffff,
	    0x7f7fffff, 0x4f000000, 0x5f000000, 0x3f000000, 0x40200000, 0x4effffff, 0x00800000};
	uint64_t bits = random_word(rng);
	uint32_t sign = (uint32_t)(bits >> 32) & 0x80000000;

	switch (bits & 3) {
	case 0:
		return special[(bits >> 2) % (sizeof(special) / sizeof(special[0]))] | sign;
	case 1:
		return (uint32_t)(bits >> 16);
	default:
		return sign | ((0x68u + ((bits >> 8) & 47)) << 23) |
		       (uint32_t)((bits >> 20) & 0x7fffff);
	}
}

static uint64_t value_any(struct fuzz_random *rng, const struct form *form)
{
	if (!(form->family->flags & (FORM_FLOAT | FORM_X87)))
		return value_integer(rng);
	switch (random_below(rng, 4)) {
	case 0:
		return value_integer(rng);
	case 1:
		return value_double(rng);
	default:
		return value_single(rng) | (uint64_t)value_single(rng) << 32;
	}
}

/* An 80-bit number of the formats that the x87 makes itself, and some that it refuses. */
static void value_extended(struct fuzz_random *rng, uint8_t out[10])
{
	uint64_t bits = random_word(rng), mantissa = random_word(rng) | UINT64_C(1) << 63;
	uint16_t top = (uint16_t)(0x3fe0 + (bits & 63)) | (uint16_t)((bits >> 16) & 0x8000);

	switch ((bits >> 8) & 15) {
	case 0:
		mantissa = 0;
		top &= 0x8000;
		break;
	case 1:
		mantissa = UINT64_C(1) << 63;
		top |= 0x7fff;
		break;
	case 2:
		top |= 0x7fff;
		break;
	case 3:
		top &= 0x8000;
		mantissa = random_word(rng) >> 1;
		break;
	case 4:
		mantissa = random_word(rng);
		top = (uint16_t)random_word(rng);
		break;
	case 5:
		mantissa = UINT64_C(1) << 63;
		break;
	default:
		break;
	}
	memcpy(out, &mantissa, 8);
	memcpy(out + 8, &top, 2);
}

/* One case being made. */
struct draw {
	struct test_case *test;
	struct fuzz_random *rng;    /* what the instruction is like */
	struct fuzz_random *values; /* what its operands hold */
	ZydisEncoderRequest request;
	uint32_t pinned;   /* registers whose value is an address of data already */
	uint32_t reserved; /* registers that must not be part of an address */
	uint64_t target;   /* address of the memory operand; 0: none */
	uint32_t target_size_bytes;
};

/* Upper halves of YMM registers: all clear now and then, as after VZEROUPPER. */
static void state_fill_ymm(struct draw *draw)
{
	uint64_t mask = random_word(draw->values) & 7 ? UINT64_MAX : 0;

	for (int i = 0; i < 32; i++) {
		uint64_t value = value_any(draw->values, draw->test->form) & mask;

		memcpy(draw->test->before.ymm_high[i / 2] + i % 2 * 8, &value, 8);
	}
}

static void state_fill_fx(struct draw *draw)
{
	struct machine_state *state = &draw->test->before;
	bool x87 = draw->test->form->family->flags & FORM_X87;
	uint64_t bits = random_word(draw->values);
	uint16_t fcw = 0x37f, fsw = 0;
	/*
	 * Rounding, flush and denormal modes, flags; every eighth has unmasked exceptions, but
	 * for overflow and underflow: see sse_float_enter().
	 */
	uint32_t mxcsr = (uint32_t)(bits & 0xe07f);

	mxcsr |= ((bits >> 20) & 7) || (draw->test->form->family->flags & FORM_MASKED)
		     ? 0x1f80
		     : 0x0c00 | (bits & 0x1380);
	memset(state->fx, 0, sizeof(state->fx));
	if (x87) {
		mxcsr = 0x1f80;
		fcw = (uint16_t)(0x40 | (bits & 0xf00) | ((bits >> 32) & 7 ? 0x3f : bits & 0x3f));
		fsw = (uint16_t)((bits >> 16) & 0x7f3f);
		if (fsw & 0x3f & ~fcw) {
			if (bits & (1 << 13))
				fsw &= (uint16_t)~0x3fu;
			else
				fsw |= 0x8080; /* pending */
		}
		state->fx[4] = (uint8_t)(bits & (1 << 12) ? 0xff : bits >> 40);
	}
	memcpy(state->fx, &fcw, 2);
	memcpy(state->fx + 2, &fsw, 2);
	memcpy(state->fx + 24, &mxcsr, 4);
	for (int i = 0; i < 8; i++)
		value_extended(draw->values, state->fx + 32 + 16 * i);
	for (int i = 0; i < 32; i++) {
		uint64_t value = value_any(draw->values, draw->test->form);

		memcpy(state->fx + 160 + 8 * i, &value, 8);
	}
}

static uint64_t target_draw(struct draw *draw, uint32_t size_bytes)
{
	uint64_t bits = random_bits(draw->rng);
	uint64_t address = DATA_MIDDLE - DATA_REACH + (bits >> 8) % (2 * DATA_REACH);

	if ((draw->test->form->family->flags & FORM_EDGE) && !(bits & 0xf0))
		return DATA_END - (bits >> 8) % (2 * size_bytes);
	/* Locked accesses stay in one line: kernels make those that do not wait for long. */
	if (draw->test->form->family->flags & FORM_LOCK)
		return address & -(uint64_t)size_bytes;
	if (!(bits & 15)) /* across the border of two pages */
		return DATA_MIDDLE - 1 - (bits >> 8) % size_bytes;
	if (size_bytes & (size_bytes - 1)) /* the images: 512 bytes at 16, 576 at 64 */
		size_bytes = size_bytes > 128 ? 64 : 1;
	return bits & 0x70 ? address & -(uint64_t)size_bytes : address;
}

static void state_fill(struct draw *draw)
{
	struct machine_state *state = &draw->test->before;
	uint32_t flags = draw->test->form->family->flags;

	for (int i = 0; i < 16; i++)
		state->gpr[i] = value_integer(draw->values);
	state->rflags = (random_bits(draw->rng) & 0x8d5) | 0x202;
	state->fault = 0;
	if (flags & FORM_STACK) {
		state->gpr[4] = target_draw(draw, 8);
		state->gpr[5] = target_draw(draw, 8);
		draw->pinned |= 1u << 4 | 1u << 5;
	}
	if (flags & FORM_STRING) {
		state->gpr[1] = random_below(draw->rng, 40);
		state->gpr[6] = target_draw(draw, 8);
		state->gpr[7] = target_draw(draw, 8);
		state->rflags |= random_bits(draw->rng) & 0x400;
		draw->pinned |= 1u << 6 | 1u << 7;
		draw->reserved |= 1u << 1;
	}
	if (flags & (FORM_DIVIDE | FORM_IMAGE))
		draw->reserved |= 1u << 0 | 1u << 2;
	state_fill_fx(draw);
	state_fill_ymm(draw);
}

static ZydisRegister gpr_named(unsigned int number, uint32_t size_bytes)
{
	switch (size_bytes) {
	case 1: /* skip AH and its like: those come from operand_register() */
		return (ZydisRegister)((number < 4 ? ZYDIS_REGISTER_AL : ZYDIS_REGISTER_SPL - 4) +
				       number);
	case 2:
		return (ZydisRegister)(ZYDIS_REGISTER_AX + number);
	case 4:
		return (ZydisRegister)(ZYDIS_REGISTER_EAX + number);
	default:
		return (ZydisRegister)(ZYDIS_REGISTER_RAX + number);
	}
}

static ZydisRegister operand_register(struct draw *draw, uint32_t size_bytes)
{
	uint64_t bits = random_bits(draw->rng);

	if (size_bytes == 1 && (bits & 0x700) == 0)
		return (ZydisRegister)(ZYDIS_REGISTER_AH + (bits & 3));
	return gpr_named(bits & 15, size_bytes);
}

static unsigned int address_register(struct draw *draw)
{
	unsigned int number;

	do
		number = random_bits(draw->rng) & 15;
	while (draw->reserved & (1u << number));
	return number;
}

/* An image with the YMM registers, and the size that Zydis has for any. */
#define XSAVE_IMAGE 832u
#define XSAVE_NAMED 576u

/* Choose base, index, scale and displacement, and set the registers so that they meet target. */
static void operand_memory(struct draw *draw, ZydisEncoderOperand *operand, uint32_t size_bytes)
{
	uint64_t *gpr = draw->test->before.gpr;
	uint64_t bits = random_bits(draw->rng);
	uint64_t displacement = 0, target = target_draw(draw, size_bytes);
	uint32_t width = bits & 0xf00 ? 8 : 4; /* of the address */
	unsigned int base = address_register(draw), index = address_register(draw);

	operand->type = ZYDIS_OPERAND_TYPE_MEMORY;
	operand->mem.size = (uint16_t)(size_bytes == XSAVE_IMAGE ? XSAVE_NAMED : size_bytes);
	draw->target = target;
	draw->target_size_bytes = size_bytes;
	if (!(bits & 0xf000)) {
		operand->mem.base = ZYDIS_REGISTER_RIP;
		operand->mem.displacement = (int64_t)target;
		return;
	}
	if (bits & 1)
		displacement = (bits & 2) ? (uint64_t)(int8_t)(bits >> 16)
					  : (uint64_t)(int32_t)(bits >> 32) >> 8;
	operand->mem.base = gpr_named(base, width);
	if ((bits & 4) && index != 4 && index != base && !(draw->pinned & (1u << index))) {
		operand->mem.index = gpr_named(index, width);
		operand->mem.scale = (uint8_t)(1u << ((bits >> 4) & 3));
		gpr[index] = (uint64_t)(int8_t)(bits >> 24);
		target -= gpr[index] * operand->mem.scale;
	}
	if (draw->pinned & (1u << base))
		displacement = target - gpr[base];
	else
		gpr[base] = target - displacement;
	operand->mem.displacement = (int64_t)displacement;
	if (width == 4 && !(draw->pinned & (1u << base)))
		gpr[base] += random_bits(draw->rng) << 32;
}

static uint32_t letter_size(const struct form *form, char letter)
{
	switch (letter) {
	case 'b':
		return 1;
	case 'w':
		return 2;
	case 'd':
		return 4;
	case 'q':
		return 8;
	case 'x':
		return 16;
	case 't':
		return 10;
	case 'e':
		return 28;
	case 's':
		return 108;
	case 'h':
		return 14;
	case 'i':
		return 94;
	case 'f':
		return 512;
	case 'g':
		return XSAVE_IMAGE;
	case 'o':
		return 32;
	case 'z':
		return form->size_bytes < 4 ? form->size_bytes : 4;
	default:
		return form->size_bytes;
	}
}

static void operand_immediate(struct draw *draw, ZydisEncoderOperand *operand, char kind,
			      uint32_t size_bytes)
{
	uint64_t value = value_integer(draw->rng);
	unsigned int shift = 64 - 8 * size_bytes;

	operand->type = ZYDIS_OPERAND_TYPE_IMMEDIATE;
	if (kind == '1')
		operand->imm.u = 1;
	else if (kind == 'I')
		operand->imm.s = (int64_t)(value << shift) >> shift;
	else
		operand->imm.u = value << shift >> shift;
	if (draw->test->form->family->flags & FORM_SMALL_COUNT)
		operand->imm.u &= 7;
}

static ZydisRegister vector_named(unsigned int number, uint32_t size_bytes)
{
	return (ZydisRegister)((size_bytes == 32 ? ZYDIS_REGISTER_YMM0 : ZYDIS_REGISTER_XMM0) +
			       number);
}

/* The elements that a gather reads: their size is the last letter of its name. */
static uint32_t gather_element_bytes(const struct form *form)
{
	const char *name = ZydisMnemonicGetString(form->mnemonic);
	size_t length = strlen(name);

	if (name[1] == 'p') /* VPGATHERDD and its like */
		return name[length - 1] == 'q' ? 8 : 4;
	return name[length - 1] == 'd' ? 8 : 4;
}

/* A base and a vector of indices that lead to data, now and then past its end. */
static void operand_indices(struct draw *draw, ZydisEncoderOperand *operand, const char *pattern)
{
	uint32_t size_bytes = letter_size(draw->test->form, pattern[1]);
	uint32_t index_bytes = pattern[0] == 'X' ? 4 : 8;
	struct machine_state *state = &draw->test->before;
	unsigned int number = (unsigned int)random_below(draw->rng, 16),
		     base = address_register(draw);
	uint64_t bits = random_bits(draw->rng);

	operand->type = ZYDIS_OPERAND_TYPE_MEMORY;
	operand->mem.size = (uint16_t)gather_element_bytes(draw->test->form);
	operand->mem.base = gpr_named(base, 8);
	operand->mem.index = vector_named(number, size_bytes);
	operand->mem.scale = (uint8_t)(1u << (bits & 3));
	operand->mem.displacement = bits & 4 ? (int8_t)(bits >> 8) : 0;
	state->gpr[base] = DATA_MIDDLE - (uint64_t)operand->mem.displacement;
	for (uint32_t at = 0; at < size_bytes; at += index_bytes) {
		int64_t index = (int64_t)random_below(draw->rng, 0xf00) / operand->mem.scale;

		bits = random_bits(draw->rng);
		if (!(bits & 0xf0))
			index =
			    (int64_t)(DATA_SIZE / 2 - 16 + (bits >> 8 & 31)) / operand->mem.scale;
		else if (bits & 1)
			index = -index;
		if (at < 16)
			memcpy(state->fx + 160 + 16 * number + at, &index, index_bytes);
		else
			memcpy(&state->ymm_high[number][at - 16], &index, index_bytes);
	}
	draw->target_size_bytes = 16; /* in parts */
}

static ZydisRegister one_of_eight(struct draw *draw, ZydisRegister first)
{
	return (ZydisRegister)(first + random_below(draw->rng, 8));
}

static void operand_draw(struct draw *draw, ZydisEncoderOperand *operand, const char *pattern)
{
	uint32_t size_bytes = letter_size(draw->test->form, pattern[1]);
	bool coin = random_bits(draw->rng) & 1;

	operand->type = ZYDIS_OPERAND_TYPE_REGISTER;
	switch (pattern[0]) {
	case 'E':
		if (coin) {
			operand_memory(draw, operand, size_bytes);
			break;
		} /* fall through */
	case 'G':
	case 'R':
		operand->reg.value = operand_register(draw, size_bytes);
		break;
	case 'M':
		operand_memory(draw, operand, size_bytes);
		break;
	case 'W':
		if (coin) {
			operand_memory(draw, operand, size_bytes);
			break;
		} /* fall through */
	case 'V':
	case 'U':
		operand->reg.value =
		    vector_named((unsigned int)random_below(draw->rng, 16), size_bytes);
		break;
	case 'X':
	case 'Y':
		operand_indices(draw, operand, pattern);
		break;
	case 'Q':
		if (coin) {
			operand_memory(draw, operand, size_bytes);
			break;
		} /* fall through */
	case 'P':
	case 'N':
		operand->reg.value = one_of_eight(draw, ZYDIS_REGISTER_MM0);
		break;
	case 'A':
		operand->reg.value = gpr_named(0, size_bytes);
		break;
	case 'C':
		operand->reg.value = ZYDIS_REGISTER_CL;
		break;
	case 'F':
		operand->reg.value = one_of_eight(draw, ZYDIS_REGISTER_ST0);
		break;
	case 'f':
		operand->reg.value = ZYDIS_REGISTER_ST0;
		break;
	default:
		operand_immediate(draw, operand, pattern[0], size_bytes);
		break;
	}
}

/* The bit offset in a register decides which memory is touched: keep it near. */
static void bit_offset_prepare(struct draw *draw)
{
	ZydisEncoderOperand *operand = &draw->request.operands[1];
	unsigned int number = (unsigned int)ZydisRegisterGetId(operand->reg.value);

	draw->test->before.gpr[number] = random_below(draw->rng, 4000) - 2000;
	draw->reserved |= 1u << number;
}

static void prefixes_draw(struct draw *draw)
{
	uint32_t flags = draw->test->form->family->flags;
	uint64_t bits = random_bits(draw->rng);

	if ((flags & FORM_LOCK) && (bits & 1) &&
	    draw->request.operands[0].type == ZYDIS_OPERAND_TYPE_MEMORY)
		draw->request.prefixes |= ZYDIS_ATTRIB_HAS_LOCK;
	if ((flags & FORM_REP) && (bits & 1))
		draw->request.prefixes |= ZYDIS_ATTRIB_HAS_REP;
	if ((flags & FORM_REPE) && (bits & 1))
		draw->request.prefixes |= bits & 2 ? ZYDIS_ATTRIB_HAS_REPE : ZYDIS_ATTRIB_HAS_REPNE;
}

/* Registers that decide whether there is a result at all. */
static void values_adjust(struct draw *draw)
{
	struct test_case *test = draw->test;
	uint64_t *gpr = test->before.gpr;
	uint64_t bits = random_bits(draw->rng);

	if ((test->form->family->flags & FORM_DIVIDE) && (bits & 3)) {
		bool is_signed = test->form->mnemonic == ZYDIS_MNEMONIC_IDIV;

		gpr[0] = bits & 4 ? (uint8_t)gpr[0] & 0x7f : gpr[0];
		gpr[2] = is_signed && (int64_t)gpr[0] < 0 ? UINT64_MAX : 0;
	}
	if (test->form->family->flags & FORM_IMAGE) {
		gpr[0] &= has_ymm() ? 7 : 3; /* the components that both sides have */
		gpr[2] = 0;
	}
	/* Let comparisons succeed often enough. */
	if (test->form->mnemonic == ZYDIS_MNEMONIC_CMPXCHG && (bits & 1) && draw->target &&
	    !((draw->pinned | draw->reserved) & 1))
		memcpy(test->data + (draw->target - DATA_BASE), &gpr[0],
		       draw->target_size_bytes < 8 ? draw->target_size_bytes : 8);
}

/* A bit that AMD's processors have, and that no CPUID of ours offers. */
#define MXCSR_MISALIGNED (UINT64_C(1) << 17)

/* An image to restore: another state, and a header that is mostly right. */
static void image_fill(struct draw *draw, uint8_t *target)
{
	struct machine_state *state = &draw->test->before;
	uint64_t components = has_ymm() ? 7 : 3;
	uint64_t header[8] = {random_bits(draw->rng) & components}, bits = random_bits(draw->rng);
	uint8_t own[sizeof(state->fx)];

	memcpy(own, state->fx, sizeof(own));
	state_fill_fx(draw);
	memcpy(target, state->fx, sizeof(state->fx));
	memcpy(state->fx, own, sizeof(own));
	if (!(bits & 7))
		target[26] = 1; /* MXCSR with a bit that does not exist */
	if (bits & 8)
		header[1] = (bits >> 8 & components) | UINT64_C(1) << 63;
	if (!(bits & 0x70))
		header[bits >> 10 & 7] |= UINT64_C(1) << (20 + (bits >> 16 & 31)); /* in no XCR0 */
	if (draw->target_size_bytes > sizeof(own))
		memcpy(target + sizeof(own), header, sizeof(header));
}

static void target_fill(struct draw *draw)
{
	uint8_t *target;
	uint64_t value[4];
	uint32_t size_bytes = draw->target_size_bytes;
	uint16_t control;

	if (!draw->target)
		return;
	for (int i = 0; i < 4; i++)
		value[i] = value_any(draw->rng, draw->test->form);
	control = 0x7f | (value[1] & 0xf00);
	if (draw->target >= DATA_END)
		return;
	if (size_bytes > DATA_END - draw->target)
		size_bytes = (uint32_t)(DATA_END - draw->target);
	target = draw->test->data + (draw->target - DATA_BASE);
	if (draw->test->form->mnemonic == ZYDIS_MNEMONIC_LDMXCSR)
		value[0] &= value[1] & 7 ? 0xffff : ~MXCSR_MISALIGNED;
	if (draw->test->form->mnemonic == ZYDIS_MNEMONIC_FLDCW)
		memcpy(value, &control, 2);
	if (draw->target_size_bytes == 10)
		value_extended(draw->rng, (uint8_t *)value);
	if (size_bytes <= sizeof(value))
		memcpy(target, value, size_bytes);
	if (draw->target_size_bytes >= sizeof(draw->test->before.fx))
		image_fill(draw, target);
}

static void operands_draw(struct draw *draw)
{
	const char *pattern = draw->test->form->pattern;
	size_t count = pattern[0] == '-' ? 0 : (strlen(pattern) + 1) / 3;

	draw->request.operand_count = (uint8_t)count;
	/* The last first: a bit offset is known before its memory operand is made. */
	for (size_t i = count; i-- > 0;) {
		operand_draw(draw, &draw->request.operands[i], pattern + 3 * i);
		/* The fourth register stands in the immediate. */
		draw->request.operands[i].reg.is4 = i == 3;
		if (i == 1 && (draw->test->form->family->flags & FORM_BIT_OFFSET))
			bit_offset_prepare(draw);
	}
}

static bool source_is_zero(const struct test_case *test, const struct draw *draw)
{
	const ZydisEncoderOperand *source = &draw->request.operands[1];
	uint64_t value = 0;

	if (source->type == ZYDIS_OPERAND_TYPE_MEMORY)
		memcpy(&value, test->data + (draw->target - DATA_BASE), source->mem.size);
	else
		value = test->before.gpr[ZydisRegisterGetId(source->reg.value)]
			<< (64 - 8 * test->form->size_bytes);
	return !value;
}

/*
 * Now and then with alignment checked. Not for operands of 16 bytes, images and halves of floating
 * point: how these are to be aligned differs among processors.
 */
static void alignment_draw(struct draw *draw)
{
	uint32_t size_bytes = draw->target_size_bytes;

	if (size_bytes == 16 || size_bytes == 32 || size_bytes > 128 ||
	    (draw->test->form->family->flags & FORM_IMAGE) ||
	    draw->test->form->mnemonic == ZYDIS_MNEMONIC_VCVTPH2PS ||
	    draw->test->form->mnemonic == ZYDIS_MNEMONIC_VCVTPS2PH ||
	    draw->test->form->mnemonic == ZYDIS_MNEMONIC_MASKMOVDQU ||
	    draw->test->form->mnemonic == ZYDIS_MNEMONIC_VMASKMOVDQU ||
	    draw->test->form->mnemonic == ZYDIS_MNEMONIC_MASKMOVQ)
		return;
	if (!(random_bits(draw->rng) & 7))
		draw->test->before.rflags |= CHECK_ALIGNMENT;
}

static bool is_prefix(uint8_t byte)
{
	return byte == 0x26 || byte == 0x2e || byte == 0x36 || byte == 0x3e ||
	       (byte >= 0x64 && byte <= 0x67);
}

/*
 * Which length is refused differs among processors where one element counts (VADDSS, VCVTSD2SI).
 * VPCLMULQDQ on 32 bytes is a feature of its own, which no guest is offered.
 */
static bool may_flip_length(unsigned int mnemonic)
{
	const char *name = ZydisMnemonicGetString((ZydisMnemonic)mnemonic);

	return !strstr(name, "ss") && !strstr(name, "sd") && !strstr(name, "si") &&
	       mnemonic != ZYDIS_MNEMONIC_VPCLMULQDQ && feature_present(FEATURE_AVX2);
}

/*
 * Now and then the other length of vectors, which some instructions do not have. The operand in
 * memory may have 16 bytes then: see alignment_draw().
 */
static void vector_length_flip(const struct draw *draw)
{
	uint8_t *byte = draw->test->code;

	while (is_prefix(*byte))
		byte++;
	if ((*byte != 0xc4 && *byte != 0xc5) || (random_bits(draw->rng) & 15) ||
	    !may_flip_length(draw->test->form->mnemonic))
		return;
	byte[*byte == 0xc4 ? 2 : 1] ^= 4;
	draw->test->before.rflags &= ~(uint64_t)CHECK_ALIGNMENT;
}

void case_fill(struct test_case *test, struct fuzz_random *rng)
{
	for (size_t i = 0; i < DATA_SIZE; i += 8)
		memcpy(test->data + i, &(uint64_t){random_word(rng)}, 8);
}

bool case_generate(struct test_case *test, const struct form *form, struct case_draws draws)
{
	struct draw draw = {.test = test, .rng = draws.shape, .values = draws.values};
	ZyanUSize size = sizeof(test->code);

	test->form = form;
	test->undefined = form->family->undefined;
	draw.request.machine_mode = ZYDIS_MACHINE_MODE_LONG_64;
	draw.request.mnemonic = form->mnemonic;
	draw.request.allowed_encodings =
	    ZYDIS_ENCODABLE_ENCODING_LEGACY | ZYDIS_ENCODABLE_ENCODING_VEX;
	state_fill(&draw);
	operands_draw(&draw);
	prefixes_draw(&draw);
	target_fill(&draw);
	values_adjust(&draw);
	alignment_draw(&draw);
	if (!ZYAN_SUCCESS(
		ZydisEncoderEncodeInstructionAbsolute(&draw.request, test->code, &size, CODE_BASE)))
		return false;
	test->code_size_bytes = size;
	vector_length_flip(&draw);
	test->target = draw.target;
	test->destination = ZYDIS_REGISTER_NONE;
	if (draw.request.operands[0].type == ZYDIS_OPERAND_TYPE_REGISTER)
		test->destination = draw.request.operands[0].reg.value;
	test->mask = ZYDIS_REGISTER_NONE;
	if (strpbrk(form->pattern, "XY")) {
		test->mask = draw.request.operands[2].reg.value;
		test->mask_element_bytes = gather_element_bytes(form);
	}
	test->result_undefined =
	    (form->family->flags & FORM_RESULT_IF_SOURCE) && source_is_zero(test, &draw);
	return true;
}
