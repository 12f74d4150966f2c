/* Random blocks of instructions that become translated code. */
#include "tests/unit/vcpu/random_code.h"

#include <string.h>

static uint64_t seed = 88172645463325252ull;

uint64_t rnd(uint64_t below)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed % below;
}

static void put(struct code *code, unsigned int byte)
{
	code->bytes[code->size++] = (uint8_t)byte;
}

static void put32(struct code *code, uint32_t value)
{
	memcpy(code->bytes + code->size, &value, sizeof(value));
	code->size += sizeof(value);
}

/* Any register that may change. */
static unsigned int any_reg(void)
{
	static const uint8_t regs[] = {0, 1, 2, 5, 6, 7, 8, 9, 10, 11, 13, 14, 15};

	return regs[rnd(sizeof(regs))];
}

struct form {
	uint8_t map_0f, opcode;
	uint8_t wide, opsize, lock;
	uint8_t extension; /* 8: ModRM.reg is a register */
	uint8_t immediate; /* bytes */
};

/* [RBX + R12 * scale + disp] with a page of its own, or a register. */
static void put_rm(struct code *code, unsigned int reg, unsigned int rm, int is_memory)
{
	uint32_t at = (uint32_t)(code->accesses * PAGE + rnd(PAGE - 256));

	if (!is_memory) {
		put(code, 0xc0 | (reg & 7) << 3 | (rm & 7));
		return;
	}
	/* One in eight goes over the page's end. */
	if (!rnd(8))
		at = (uint32_t)(code->accesses * PAGE + PAGE - 1 - rnd(8));
	put(code, 0x80 | (reg & 7) << 3 | 4);
	put(code, (unsigned int)rnd(4) << 6 | 4 << 3 | 3);
	put32(code, at);
	code->accesses += 2;
}

static void put_form(struct code *code, const struct form *form, int is_memory)
{
	unsigned int reg = form->extension == 8 ? any_reg() : form->extension;
	unsigned int rm = any_reg(), rex = 0x40;

	if (form->lock && is_memory)
		put(code, 0xf0);
	if (form->opsize)
		put(code, 0x66);
	rex |= form->wide ? 8 : 0;
	rex |= form->extension == 8 && (reg & 8) ? 4 : 0;
	rex |= is_memory ? 2 : rm & 8 ? 1 : 0;
	/* Without one, four numbers name AH .. BH. */
	if (rex != 0x40 || rnd(2))
		put(code, rex);
	else if (!is_memory && !form->wide && !form->opsize && ((reg & 7) == 7 || (rm & 7) == 7))
		put(code, rex); /* BH is part of the pointer */
	if (form->map_0f)
		put(code, 0x0f);
	put(code, form->opcode);
	put_rm(code, reg, rm, is_memory);
	for (unsigned int i = 0; i < form->immediate; i++)
		put(code, (unsigned int)rnd(256));
}

static void put_fixed(struct code *code, const char *bytes, unsigned int count)
{
	for (unsigned int i = 0; i < count; i++)
		put(code, (uint8_t)bytes[i]);
}

/* All six flags have a defined value after it. */
static void put_compare(struct code *code)
{
	static const struct form compare = {0, 0x39, 1, 0, 0, 8, 0};

	put_form(code, &compare, 0);
}

static void put_arithmetic(struct code *code)
{
	static const uint8_t opcodes[] = {0x00, 0x02, 0x08, 0x0a, 0x10, 0x12, 0x18, 0x1a, 0x20,
					  0x22, 0x28, 0x2a, 0x30, 0x32, 0x38, 0x3a, 0x84};
	struct form form = {0, opcodes[rnd(sizeof(opcodes))], 0, 0, 0, 8, 0};

	form.opcode |= rnd(4) != 0; /* a byte, or not */
	form.wide = (uint8_t)rnd(2);
	form.opsize = !form.wide && !rnd(4);
	/* Those that write memory and are no compare may be locked. */
	form.lock = !(form.opcode & 2) && form.opcode < 0x38 && !rnd(3);
	put_form(code, &form, (int)rnd(2));
}

static void put_unary(struct code *code)
{
	static const struct form forms[] = {
	    {0, 0xfe, 0, 0, 0, 0, 0}, {0, 0xff, 0, 0, 0, 0, 0}, {0, 0xff, 1, 0, 0, 1, 0},
	    {0, 0xf7, 1, 0, 0, 2, 0}, {0, 0xf7, 0, 0, 0, 3, 0}, {0, 0xf6, 0, 0, 0, 3, 0},
	    {0, 0x83, 1, 0, 0, 0, 1}, {0, 0x83, 0, 0, 0, 7, 1}, {0, 0x80, 0, 0, 0, 3, 1},
	    {0, 0xc7, 1, 0, 0, 0, 4}, {0, 0xc6, 0, 0, 0, 0, 1}, {0, 0x81, 1, 0, 1, 5, 4},
	};

	put_form(code, &forms[rnd(sizeof(forms) / sizeof(forms[0]))], (int)rnd(2));
}

static void put_move(struct code *code)
{
	static const struct form forms[] = {
	    {0, 0x89, 1, 0, 0, 8, 0}, {0, 0x8b, 1, 0, 0, 8, 0}, {0, 0x89, 0, 0, 0, 8, 0},
	    {0, 0x8b, 0, 1, 0, 8, 0}, {0, 0x88, 0, 0, 0, 8, 0}, {0, 0x8a, 0, 0, 0, 8, 0},
	    {1, 0xb6, 1, 0, 0, 8, 0}, {1, 0xbf, 1, 0, 0, 8, 0}, {1, 0xbe, 0, 0, 0, 8, 0},
	    {0, 0x63, 1, 0, 0, 8, 0}, {0, 0x87, 1, 0, 0, 8, 0}, {0, 0x86, 0, 0, 0, 8, 0},
	    {1, 0xc1, 1, 0, 1, 8, 0}, {1, 0xb1, 1, 0, 1, 8, 0}, {1, 0xb1, 0, 0, 0, 8, 0},
	};
	struct form form = forms[rnd(sizeof(forms) / sizeof(forms[0]))];

	put_form(code, &form, (int)rnd(2));
}

static void put_condition(struct code *code)
{
	struct form set = {1, (uint8_t)(0x90 + rnd(16)), 0, 0, 0, 0, 0};
	struct form move = {1, (uint8_t)(0x40 + rnd(16)), (uint8_t)rnd(2), 0, 0, 8, 0};

	if (rnd(2)) {
		put_form(code, rnd(2) ? &set : &move, (int)rnd(2));
		return;
	}
	put(code, 0x70 + (unsigned int)rnd(16)); /* over two bytes */
	put(code, 2);
	put_fixed(code, "\xff\xc0", 2); /* inc %eax */
}

/* Flags are undefined after these, so a compare follows. */
static void put_shift(struct code *code)
{
	static const struct form forms[] = {
	    {0, 0xc1, 1, 0, 0, 4, 1}, {0, 0xc1, 0, 0, 0, 5, 1}, {0, 0xd3, 1, 0, 0, 7, 0},
	    {0, 0xd3, 0, 0, 0, 4, 0}, {0, 0xd1, 1, 0, 0, 0, 0}, {0, 0xc0, 0, 0, 0, 1, 1},
	    {1, 0xa4, 1, 0, 0, 8, 1}, {1, 0xad, 1, 0, 0, 8, 0}, {0, 0xd2, 0, 0, 0, 5, 0},
	    {1, 0xaf, 1, 0, 0, 8, 0}, {0, 0x69, 0, 0, 0, 8, 4}, {0, 0xf7, 1, 0, 0, 4, 0},
	    {1, 0xba, 1, 0, 0, 5, 1}, {0, 0xd3, 1, 0, 0, 2, 0},
	};

	put_form(code, &forms[rnd(sizeof(forms) / sizeof(forms[0]))], (int)rnd(2));
	put_compare(code);
}

static void put_stack(struct code *code)
{
	static const struct form push = {0, 0xff, 0, 0, 0, 6, 0};
	unsigned int reg = any_reg();

	if (!rnd(3)) {
		put_form(code, &push, 1);
		return;
	}
	if (reg & 8)
		put(code, 0x41);
	put(code, (rnd(2) ? 0x50 : 0x58) + (reg & 7));
}

/* [RBX + disp], aligned to 16 bytes more often than not. */
static void put_aligned(struct code *code, unsigned int reg)
{
	put(code, 0x80 | (reg & 7) << 3 | 3);
	put32(code, (uint32_t)(code->accesses * PAGE + rnd(240) * 16 + (rnd(16) ? 0 : 8)));
	code->accesses++;
}

enum vector_operand { IN_EITHER, IN_MEMORY, IN_REGISTER, IN_ALIGNED };

/* SSE2's moves, and some of its arithmetic; one on MMX registers. */
struct vector_form {
	uint8_t prefix, opcode, wide;
	uint8_t operand;   /* enum vector_operand */
	uint8_t extension; /* 8: ModRM.reg is a register */
	uint8_t immediate;
};

static const struct vector_form vector_forms[] = {
    {0xf3, 0x6f, 0, IN_EITHER, 8, 0},	{0xf3, 0x7f, 0, IN_EITHER, 8, 0},
    {0, 0x10, 0, IN_EITHER, 8, 0},	{0, 0x11, 0, IN_MEMORY, 8, 0},
    {0x66, 0x6f, 0, IN_ALIGNED, 8, 0},	{0, 0x28, 0, IN_REGISTER, 8, 0},
    {0x66, 0x7f, 0, IN_ALIGNED, 8, 0},	{0x66, 0xda, 0, IN_ALIGNED, 8, 0},
    {0xf3, 0x7e, 0, IN_EITHER, 8, 0},	{0x66, 0xd6, 0, IN_EITHER, 8, 0},
    {0x66, 0x6e, 0, IN_EITHER, 8, 0},	{0x66, 0x6e, 1, IN_EITHER, 8, 0},
    {0x66, 0x7e, 0, IN_EITHER, 8, 0},	{0x66, 0x7e, 1, IN_EITHER, 8, 0},
    {0x66, 0xd7, 0, IN_REGISTER, 8, 0}, {0x66, 0x70, 0, IN_ALIGNED, 8, 1},
    {0x66, 0x71, 0, IN_REGISTER, 4, 1}, {0x66, 0x72, 0, IN_REGISTER, 2, 1},
    {0x66, 0x73, 0, IN_REGISTER, 7, 1}, {0x66, 0x74, 0, IN_REGISTER, 8, 0},
    {0x66, 0xef, 0, IN_REGISTER, 8, 0}, {0, 0x57, 0, IN_ALIGNED, 8, 0},
    {0x66, 0x60, 0, IN_REGISTER, 8, 0}, {0x66, 0xf6, 0, IN_REGISTER, 8, 0},
    {0x66, 0xd4, 0, IN_REGISTER, 8, 0}, {0, 0xef, 0, IN_REGISTER, 8, 0},
};

static void put_vector(struct code *code)
{
	const struct vector_form *form =
	    &vector_forms[rnd(sizeof(vector_forms) / sizeof(vector_forms[0]))];
	int is_memory = form->operand == IN_MEMORY || (form->operand != IN_REGISTER && rnd(2));
	int is_aligned = is_memory && form->operand == IN_ALIGNED;
	unsigned int reg = form->extension == 8 ? any_reg() : form->extension;
	unsigned int rm = any_reg(), rex = 0x40 | (form->wide ? 8 : 0);

	if (form->prefix)
		put(code, form->prefix);
	rex |= form->extension == 8 && (reg & 8) ? 4 : 0;
	rex |= is_aligned ? 0 : is_memory ? 2 : rm & 8 ? 1 : 0;
	put(code, rex);
	put(code, 0x0f);
	put(code, form->opcode);
	if (is_aligned)
		put_aligned(code, reg);
	else
		put_rm(code, reg, rm, is_memory);
	if (form->immediate)
		put(code, (unsigned int)rnd(40));
}

static void put_swapgs(struct code *code)
{
	put_fixed(code, "\x0f\x01\xf8", 3);
}

void code_make(struct code *code, unsigned int insns)
{
	void (*const kinds[])(struct code *) = {
	    put_arithmetic, put_arithmetic, put_unary,	put_move,   put_move,  put_condition,
	    put_shift,	    put_stack,	    put_swapgs, put_vector, put_vector};

	memset(code, 0, sizeof(*code));
	for (unsigned int i = 0; i < insns && code->accesses < ACCESSES_MAX; i++)
		kinds[rnd(sizeof(kinds) / sizeof(kinds[0]))](code);
	put(code, 0xf4);
}
