/* Random guest code: mostly instructions that decode, of every kind, with operands near trouble. */
#include "guest_code.h"

#include <string.h>

struct emitter {
	struct fuzz_random *random;
	const struct guest_code *code;
	uint8_t bytes[GUEST_CODE_LONGEST];
	size_t count;
};

static void put(struct emitter *emitter, uint64_t value, size_t bytes)
{
	for (size_t i = 0; i < bytes && emitter->count < GUEST_CODE_LONGEST; i++)
		emitter->bytes[emitter->count++] = (uint8_t)(value >> (8 * i));
}

static uint8_t any_byte(struct emitter *emitter)
{
	return (uint8_t)random_below(emitter->random, 256);
}

static uint8_t pick(struct emitter *emitter, const uint8_t *bytes, size_t count)
{
	return bytes[random_below(emitter->random, count)];
}
#define PICK(emitter, ...) \
	pick(emitter, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

uint64_t guest_code_address(struct fuzz_random *random, uint64_t memory_bytes)
{
	uint64_t page = random_below(random, memory_bytes / 4096) * 4096;

	switch (random_below(random, 8)) {
	case 0:
		return random_edge(random);
	case 1:
		return page + 4096 - random_below(random, 20);
	case 2:
		return memory_bytes - 10 + random_below(random, 20);
	case 3:
		return 0xfee00000 + random_below(random, 64) * 16;
	case 4:
		return (1ull << 20) - 16 + random_below(random, 0x12000);
	default:
		return page + random_below(random, 4096);
	}
}

uint32_t guest_code_msr(struct fuzz_random *random)
{
	static const uint32_t msrs[] = {
	    0x10,	0x11,	    0x12,	0x1b,	    0x3a,	0x3b,	    0x48,
	    0x49,	0x79,	    0x8b,	0xc1,	    0xc2,	0xe7,	    0xe8,
	    0xfe,	0x10a,	    0x10b,	0x122,	    0x140,	0x174,	    0x175,
	    0x176,	0x179,	    0x17a,	0x17b,	    0x186,	0x198,	    0x19c,
	    0x1a0,	0x1d9,	    0x1db,	0x1dc,	    0x1c9,	0x200,	    0x201,
	    0x250,	0x258,	    0x268,	0x277,	    0x2ff,	0x345,	    0x38d,
	    0x38f,	0x400,	    0x401,	0x402,	    0x480,	0x6e0,	    0x800,
	    0x802,	0x808,	    0x80b,	0x80f,	    0x830,	0x832,	    0x838,
	    0x83e,	0x83f,	    0xda0,	0x4b564d00, 0x4b564d01, 0x4b564d02, 0x4b564d03,
	    0x4b564d04, 0x4b564d05, 0x4b564d06, 0x4b564d08, 0x40000000, 0x40000001, 0x40000020,
	    0xc0000080, 0xc0000081, 0xc0000082, 0xc0000083, 0xc0000084, 0xc0000100, 0xc0000101,
	    0xc0000102, 0xc0000103, 0xc0000104, 0xc0010000, 0xc0010015, 0xc001001f, 0xc0010055,
	    0xc0010058, 0xc0010114, 0xc0010117, 0xc001011f, 0xc0010140, 0xc0011029, 0xc0011022,
	};

	if (random_once_in(random, 6))
		return (uint32_t)random_edge(random);
	return msrs[random_below(random, ARRAY_SIZE(msrs))];
}

static uint64_t address(struct emitter *emitter)
{
	return guest_code_address(emitter->random, emitter->code->memory_bytes);
}

static void put_prefixes(struct emitter *emitter)
{
	size_t count = random_below(emitter->random, 4);

	while (count-- && random_once_in(emitter->random, 2))
		put(emitter,
		    PICK(emitter, 0x66, 0x66, 0x66, 0x67, 0xf2, 0xf2, 0xf3, 0xf3, 0xf0, 0x2e, 0x36,
			 0x3e, 0x26, 0x64, 0x65),
		    1);
	if (emitter->code->bits == 64 && random_once_in(emitter->random, 3))
		put(emitter, 0x40 | random_below(emitter->random, 16), 1);
}

/* Operands of the last opcode: a ModRM byte, most often of registers, and plain numbers. */
static void put_operands(struct emitter *emitter)
{
	put(emitter, any_byte(emitter), 1);
	if (random_once_in(emitter->random, 2))
		put(emitter, address(emitter), 4);
	if (random_once_in(emitter->random, 2))
		put(emitter, any_byte(emitter), 1);
}

/* mov $value, register: of the width that the mode has without prefixes. */
static void put_load(struct emitter *emitter, unsigned int reg, uint64_t value)
{
	if (emitter->code->bits == 64)
		put(emitter, 0x48, 1);
	put(emitter, 0xb8 + reg, 1);
	put(emitter, value, emitter->code->bits / 8);
}

static void put_one_byte(struct emitter *emitter)
{
	put_prefixes(emitter);
	put(emitter, any_byte(emitter), 1);
	put_operands(emitter);
}

static void put_two_bytes(struct emitter *emitter)
{
	put_prefixes(emitter);
	put(emitter, 0x0f, 1);
	put(emitter, any_byte(emitter), 1);
	put_operands(emitter);
}

static void put_three_bytes(struct emitter *emitter)
{
	put_prefixes(emitter);
	put(emitter, random_once_in(emitter->random, 2) ? 0x380f : 0x3a0f, 2);
	put(emitter, any_byte(emitter), 1);
	put_operands(emitter);
}

static void put_vex(struct emitter *emitter)
{
	put(emitter, PICK(emitter, 0xc4, 0xc5, 0x62, 0x8f), 1);
	put(emitter, random_word(emitter->random), 2 + random_below(emitter->random, 3));
	put_operands(emitter);
}

static void put_x87(struct emitter *emitter)
{
	put_prefixes(emitter);
	put(emitter, 0xd8 + random_below(emitter->random, 8), 1);
	put_operands(emitter);
}

static void put_string(struct emitter *emitter)
{
	put_load(emitter, 6, address(emitter));
	put_load(emitter, 7, address(emitter));
	put_load(emitter, 1, random_edge(emitter->random));
	if (random_once_in(emitter->random, 4))
		put(emitter, PICK(emitter, 0xfc, 0xfd), 1);
	put(emitter, PICK(emitter, 0xf2, 0xf3), 1);
	put(emitter,
	    PICK(emitter, 0xa4, 0xa5, 0xa6, 0xa7, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf, 0x6c, 0x6d,
		 0x6e, 0x6f),
	    1);
}

static void put_msr(struct emitter *emitter)
{
	put_load(emitter, 1, guest_code_msr(emitter->random));
	put_load(emitter, 0,
		 random_once_in(emitter->random, 2) ? address(emitter)
						    : random_edge(emitter->random));
	put_load(emitter, 2, random_once_in(emitter->random, 2) ? 0 : random_edge(emitter->random));
	put(emitter, random_once_in(emitter->random, 4) ? 0x320f : 0x300f, 2);
}

/* mov %rax, %crN or %drN, the value made of the bits that these registers have. */
static void put_control(struct emitter *emitter)
{
	static const uint64_t bits[] = {0x80000001, 0x80000011, 0x80050033, 0x620,  0x6f8,
					0x300620,   0x400,	0xffff0ff0, 0x10000};
	uint64_t value = bits[random_below(emitter->random, ARRAY_SIZE(bits))];

	if (random_once_in(emitter->random, 2))
		value ^= 1ull << random_below(emitter->random, 32);
	if (random_once_in(emitter->random, 3))
		value = address(emitter);
	put_load(emitter, 0, value);
	put(emitter, 0x0f, 1);
	put(emitter, PICK(emitter, 0x20, 0x21, 0x22, 0x22, 0x22, 0x23), 1);
	put(emitter, 0xc0 | (random_below(emitter->random, 9) << 3), 1);
}

static void put_system(struct emitter *emitter)
{
	static const char forms[][3] = {
	    "\x0f\x01\xd8", "\x0f\x01\xd9", "\x0f\x01\xda", "\x0f\x01\xdb", "\x0f\x01\xdc",
	    "\x0f\x01\xdd", "\x0f\x01\xde", "\x0f\x01\xdf", "\x0f\x01\xd0", "\x0f\x01\xd1",
	    "\x0f\x01\xf8", "\x0f\x01\xf9", "\x0f\x01\xc1", "\x0f\x01\xc8", "\x0f\x01\xca",
	    "\x0f\x01\xcb", "\x0f\x05\x90", "\x0f\x07\x90", "\x0f\x34\x90", "\x0f\x35\x90",
	    "\x0f\x31\x90", "\x0f\xa2\x90", "\x0f\x06\x90", "\x0f\x08\x90", "\x0f\x09\x90",
	    "\x0f\x33\x90", "\x0f\xaa\x90", "\x0f\x0b\x90", "\xcf\x90\x90", "\x48\xcf\x90",
	    "\x48\x0f\x07", "\xfb\xf4\x90", "\xfa\x90\x90", "\xfb\x90\x90", "\x9d\x90\x90",
	    "\xcb\x90\x90", "\xf1\x90\x90", "\xcc\x90\x90", "\xc9\x90\x90", "\xfb\xeb\xfe",
	};

	if (random_once_in(emitter->random, 2)) {
		put_load(emitter, 0, address(emitter) & ~0xfffull);
		memcpy(emitter->bytes + emitter->count, forms[random_below(emitter->random, 40)],
		       3);
		emitter->count += 3;
		return;
	}
	put_prefixes(emitter);
	put(emitter, 0x0f, 1);
	put(emitter,
	    PICK(emitter, 0x00, 0x01, 0x02, 0x03, 0xae, 0xc7, 0xb2, 0xb4, 0xb5, 0xa1, 0xa9), 1);
	put_operands(emitter);
}

static void put_far(struct emitter *emitter)
{
	put(emitter, PICK(emitter, 0x9a, 0xea, 0xc8, 0xcd, 0xca, 0x62, 0xc4, 0xc5, 0xff, 0x8e), 1);
	put(emitter, address(emitter), emitter->code->bits == 16 ? 2 : 4);
	put(emitter, random_below(emitter->random, 0x80), 2);
}

/* A store into the code itself, a few instructions on. */
static void put_self_modify(struct emitter *emitter)
{
	put(emitter, 0xc7, 1);
	put(emitter, 0x05, 1);
	put(emitter, random_below(emitter->random, 64) - 24, 4);
	put(emitter, random_word(emitter->random), 4);
}

static void put_jump(struct emitter *emitter)
{
	put(emitter, PICK(emitter, 0xeb, 0xe2, 0x74, 0x75, 0x72, 0xe0), 1);
	put(emitter, random_below(emitter->random, 96) - 64, 1);
}

static void put_port(struct emitter *emitter)
{
	put_load(emitter, 2, random_edge(emitter->random) & 0xffff);
	put_prefixes(emitter);
	put(emitter, PICK(emitter, 0xec, 0xed, 0xee, 0xef, 0xe4, 0xe6), 1);
	put(emitter, any_byte(emitter), 1);
}

static void put_address(struct emitter *emitter)
{
	put_load(emitter, (unsigned int)random_below(emitter->random, 8), address(emitter));
	put_one_byte(emitter);
}

size_t guest_code_one(struct fuzz_random *random, const struct guest_code *code)
{
	static void (*const kinds[])(struct emitter *) = {
	    put_one_byte, put_one_byte, put_two_bytes, put_two_bytes, put_three_bytes, put_vex,
	    put_x87,	  put_string,	put_msr,       put_control,   put_system,      put_far,
	    put_jump,	  put_port,	put_address,   put_address,   put_self_modify,
	};
	struct emitter emitter = {.random = random, .code = code};

	kinds[random_below(random, ARRAY_SIZE(kinds))](&emitter);
	if (emitter.count > code->size)
		emitter.count = code->size;
	memcpy(code->bytes, emitter.bytes, emitter.count);
	return emitter.count;
}

void guest_code_fill(struct fuzz_random *random, const struct guest_code *code)
{
	struct guest_code rest = *code;

	while (rest.size) {
		size_t made = guest_code_one(random, &rest);

		rest.bytes += made;
		rest.size -= made;
	}
}
