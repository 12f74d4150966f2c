/* One case on the machine and in the interpreter: registers, flags, memory and exceptions. */
#include "tests/unit/vcpu-diff/diff.h"

#include <stdio.h>
#include <string.h>

/* Status flags and the direction flag. */
#define FLAGS_COMPARED 0xcd5u

struct outcome {
	struct machine_state state;
	uint8_t data[DATA_SIZE];
	const char *failure;
};

const char *form_name(const struct form *form)
{
	static char text[64];

	snprintf(text, sizeof(text), "%s %s %u", ZydisMnemonicGetString(form->mnemonic),
		 form->pattern, form->size_bytes);
	return text;
}

static void case_describe(const struct test_case *test)
{
	ZydisDisassembledInstruction insn;

	printf("MISMATCH %s:", form_name(test->form));
	for (size_t i = 0; i < test->code_size_bytes; i++)
		printf(" %02x", test->code[i]);
	if (ZYAN_SUCCESS(ZydisDisassembleIntel(ZYDIS_MACHINE_MODE_LONG_64, CODE_BASE, test->code,
					       test->code_size_bytes, &insn)))
		printf("  %s", insn.text);
	printf("\n");
	for (int i = 0; i < 16; i++)
		printf("%s%2d %016lx", i % 4 ? "  " : "\n   before ", i, test->before.gpr[i]);
	printf("\n   before flags %lx\n", test->before.rflags);
}

static void bytes_print(const char *label, const uint8_t *bytes, size_t size)
{
	printf("   %-24s", label);
	for (size_t i = size; i-- > 0;)
		printf("%02x", bytes[i]);
	printf("\n");
}

/* What is compared: a register file's name, the register's number, and whether to tell. */
struct field {
	const char *name;
	int index;
	size_t size;
	bool verbose;
};

static bool same_bytes(struct field field, const void *native, const void *interpreted)
{
	if (!memcmp(native, interpreted, field.size))
		return true;
	if (field.verbose) {
		printf("   %s %d differs\n", field.name, field.index);
		bytes_print("machine", native, field.size);
		bytes_print("interpreter", interpreted, field.size);
	}
	return false;
}

static bool same_gprs(const struct test_case *test, const struct outcome *native,
		      const struct outcome *interpreted, bool verbose)
{
	bool same = true;

	for (int i = 0; i < 16; i++) {
		if (test->result_undefined && i == ZydisRegisterGetId(test->destination))
			continue;
		same &= same_bytes((struct field){"gpr", i, 8, verbose}, &native->state.gpr[i],
				   &interpreted->state.gpr[i]);
	}
	return same;
}

/* The registers of an image in the order of the file, with TOP clear. */
static void turn_stack(uint8_t fx[512])
{
	unsigned int top = fx[3] >> 3 & 7;
	uint8_t old[8 * 16];

	memcpy(old, fx + 32, sizeof(old));
	for (unsigned int i = 0; i < 8; i++)
		memcpy(fx + 32 + 16 * i, old + 16 * ((i - top) & 7), 16);
	fx[3] &= (uint8_t)~0x38;
}

/* Processors of Intel with AMX have cleared TOP when they find that an MMX store is not aligned. */
static bool may_have_turned(const struct test_case *test, const struct outcome *native)
{
	return native->state.fault == 1 + 17 && strstr(test->form->pattern, ",Pq");
}

/*
 * After the fault of a gather the mask says what is left to do, by its signs. Some processors have
 * made all bits of an element like its sign, and cleared what is beyond the vector, others have
 * not.
 */
static void keep_signs(const struct test_case *test, uint8_t vector[16])
{
	uint32_t size_bytes = test->mask_element_bytes;

	for (uint32_t i = 0; i < 16; i++)
		vector[i] &= i % size_bytes == size_bytes - 1 ? 0x80 : 0;
}

static bool same_high(struct field field, const struct test_case *test,
		      const struct outcome *native, const struct outcome *interpreted)
{
	static const uint8_t zero[16];
	uint8_t a[16], b[16];

	memcpy(a, native->state.ymm_high[field.index], sizeof(a));
	memcpy(b, interpreted->state.ymm_high[field.index], sizeof(b));
	if (native->state.fault && test->mask && field.index == ZydisRegisterGetId(test->mask)) {
		if (!memcmp(b, zero, sizeof(b)))
			return true;
		keep_signs(test, a);
		keep_signs(test, b);
	}
	return same_bytes(field, a, b);
}

static bool same_fx(const struct test_case *test, const struct outcome *native,
		    const struct outcome *interpreted, bool verbose)
{
	uint8_t a[512], b[512];
	bool same;

	memcpy(a, native->state.fx, sizeof(a));
	memcpy(b, interpreted->state.fx, sizeof(b));
	if (may_have_turned(test, native)) {
		turn_stack(a);
		turn_stack(b);
	}
	if (native->state.fault && test->mask) {
		keep_signs(test, a + 160 + 16 * ZydisRegisterGetId(test->mask));
		keep_signs(test, b + 160 + 16 * ZydisRegisterGetId(test->mask));
	}
	/* See has_two_faults(). */
	same = (native->state.fault && test->form->mnemonic == ZYDIS_MNEMONIC_VCVTPS2PH) ||
	       same_bytes((struct field){"mxcsr", 0, 4, verbose}, a + 24, b + 24);

	for (int i = 0; i < 16; i++)
		same &= same_bytes((struct field){"xmm", i, 16, verbose}, a + 160 + 16 * i,
				   b + 160 + 16 * i);
	for (int i = 0; i < 16 && has_ymm(); i++) {
		/* After the fault of a gather it depends on how many elements were on their way. */
		if (native->state.fault && strpbrk(test->form->pattern, "XY") &&
		    i == ZydisRegisterGetId(test->destination))
			continue;
		same &= same_high((struct field){"upper half of ymm", i, 16, verbose}, test, native,
				  interpreted);
	}
	if (!(test->form->family->flags & FORM_X87))
		return same;
	/* A processor may have left the x87's mode before it finds the operand misaligned. */
	if (native->state.fault == 1 + 17)
		return same;
	same &= same_bytes((struct field){"fcw, fsw, ftw", 0, 5, verbose}, a, b);
	for (int i = 0; i < 8; i++)
		same &= same_bytes((struct field){"st", i, 10, verbose}, a + 32 + 16 * i,
				   b + 32 + 16 * i);
	return same;
}

static bool same_memory(const struct outcome *native, const struct outcome *interpreted,
			bool verbose)
{
	if (!memcmp(native->data, interpreted->data, DATA_SIZE))
		return true;
	for (size_t i = 0; verbose && i < DATA_SIZE; i++) {
		if (native->data[i] != interpreted->data[i])
			printf("   memory %lx: machine %02x, interpreter %02x\n", DATA_BASE + i,
			       native->data[i], interpreted->data[i]);
	}
	return false;
}

/*
 * A store of the x87 that an exception of its own keeps from being made touches no memory. Some
 * processors ask for its alignment first, all the same.
 */
static bool is_store_not_made(const struct test_case *test, const struct outcome *native,
			      const struct outcome *interpreted)
{
	const uint8_t error_summary = 0x80; /* in FSW */

	return (test->form->family->flags & FORM_X87) && native->state.fault == 1 + 17 &&
	       !interpreted->state.fault && (interpreted->state.fx[2] & error_summary);
}

/* Whether the conversion or the store comes first differs among processors. */
static bool has_two_faults(const struct test_case *test, const struct outcome *native,
			   const struct outcome *interpreted)
{
	return test->form->mnemonic == ZYDIS_MNEMONIC_VCVTPS2PH && native->state.fault == 1 + 14 &&
	       interpreted->state.fault == 1 + 19;
}

static bool outcome_compare(const struct test_case *test, const struct outcome *native,
			    const struct outcome *interpreted, bool verbose)
{
	uint64_t flags = FLAGS_COMPARED & ~test->undefined;
	uint64_t a = native->state.rflags & flags, b = interpreted->state.rflags & flags;
	bool same = true;

	if (interpreted->failure) {
		if (verbose)
			printf("   interpreter: %s\n", interpreted->failure);
		return false;
	}
	if (is_store_not_made(test, native, interpreted) ||
	    has_two_faults(test, native, interpreted))
		return true;
	if (native->state.fault != interpreted->state.fault) {
		if (verbose)
			printf("   exception (vector + 1): machine %u, interpreter %u\n",
			       native->state.fault, interpreted->state.fault);
		return false;
	}
	/* A processor may have loaded a part of an image before it finds the rest wrong. */
	if (native->state.fault && (test->form->family->flags & FORM_IMAGE))
		return true;
	same &= same_gprs(test, native, interpreted, verbose);
	same &= same_fx(test, native, interpreted, verbose);
	same &= same_memory(native, interpreted, verbose);
	if (!native->state.fault && a != b) {
		if (verbose)
			printf("   flags: machine %03lx, interpreter %03lx\n", a, b);
		same = false;
	}
	return same;
}

static void case_run(const struct test_case *test, enum code_end side, struct outcome *outcome)
{
	outcome->state = test->before;
	outcome->failure = NULL;
	memcpy((void *)DATA_BASE, test->data, DATA_SIZE);
	code_place(test, side);
	if (side == CODE_END_NATIVE)
		native_run(&outcome->state);
	else
		outcome->failure =
		    interpreter_run(&outcome->state, CODE_BASE + test->code_size_bytes);
	memcpy(outcome->data, (void *)DATA_BASE, DATA_SIZE);
	/* MXCSR_MASK tells which of the processor's own bits exist. */
	if ((test->form->family->flags & FORM_IMAGE) && !outcome->state.fault)
		memset(outcome->data + (test->target - DATA_BASE) + 28, 0, 4);
}

enum case_end case_check(const struct test_case *test)
{
	static struct outcome native, interpreted;

	case_run(test, CODE_END_NATIVE, &native);
	case_run(test, CODE_END_INTERPRETER, &interpreted);
	if (outcome_compare(test, &native, &interpreted, false))
		return native.state.fault ? CASE_FAULT : CASE_DONE;
	/* A machine that is virtual itself raises #UD once in a while where its own hypervisor had
	 * to step in: what it does not repeat says nothing of us. */
	case_run(test, CODE_END_NATIVE, &native);
	return outcome_compare(test, &native, &interpreted, false) ? CASE_UNREPEATED : CASE_DIFFERS;
}

void case_explain(const struct test_case *test)
{
	static struct outcome native, interpreted;

	case_run(test, CODE_END_NATIVE, &native);
	case_run(test, CODE_END_INTERPRETER, &interpreted);
	case_describe(test);
	outcome_compare(test, &native, &interpreted, true);
}
