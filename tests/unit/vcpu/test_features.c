/*
 * Every instruction that Zydis knows, in a guest that sees the bit of CPUID which it needs and in
 * one that does not: it is executed, or raises #UD. None ends the run as an unknown instruction.
 */
#include <cpuid.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <Zydis/Zydis.h>
#include <cmocka.h>

#include "tests/unit/vcpu/fake_vcpu.h"
#include "tests/unit/vcpu/insn_bits.h"

#define ALL_SHOWN SIZE_MAX
#define INSN_BYTES 15u
#define VECTOR_UD 6u

/* One form of an instruction. */
struct form {
	ZydisMnemonic mnemonic;
	ZydisISASet set;
	uint8_t code_bytes; /* 4 or 8: of the mode */
	uint8_t has_mmx, has_memory, is_string, is_wide;
	uint8_t bytes[INSN_BYTES];
};

static struct form *forms;
static size_t form_count, form_room;
static uint8_t seen[ZYDIS_MNEMONIC_MAX_VALUE + 1];
static ZydisDecoder decoders[2];

/* The bit that is not shown; ALL_SHOWN: none; @all_hidden: no bit is. */
static size_t hidden;
static int all_hidden;

static void show_bits(uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
	if (leaf == 0)
		out[0] = 0x20;
	if (leaf == 0x80000000)
		out[0] = 0x80000008;
	if (leaf == 1)
		out[0] = 0x600; /* there is a processor */
	for (size_t i = 0; !all_hidden && i < insn_bit_count; i++)
		if (i != hidden && insn_bits[i].leaf == leaf && insn_bits[i].subleaf == subleaf)
			out[insn_bits[i].which] |= 1u << insn_bits[i].bit;
}

static int names_mmx(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *operand)
{
	for (unsigned int i = 0; i < insn->operand_count_visible; i++)
		if (operand[i].type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    ZydisRegisterGetClass(operand[i].reg.value) == ZYDIS_REGCLASS_MMX)
			return 1;
	return 0;
}

static int has_memory(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *operand)
{
	for (unsigned int i = 0; i < insn->operand_count_visible; i++)
		if (operand[i].type == ZYDIS_OPERAND_TYPE_MEMORY)
			return 1;
	return 0;
}

/* Is it the first of its kind? */
static int is_new(const struct form *form)
{
	static uint8_t known[ZYDIS_MNEMONIC_MAX_VALUE + 1][ZYDIS_ISA_SET_MAX_VALUE + 1];
	uint8_t kind =
	    (uint8_t)(1u << (form->has_mmx | form->is_string << 1 | (form->code_bytes == 8) << 2));
	uint8_t *kinds = &known[form->mnemonic][form->set];
	int is_first = !(*kinds & kind);

	*kinds |= kind;
	return is_first;
}

static void form_add(const struct form *form)
{
	if (form_count == form_room) {
		form_room = form_room ? 2 * form_room : 1024;
		forms = realloc(forms, form_room * sizeof(*forms));
		assert_non_null(forms);
	}
	forms[form_count++] = *form;
}

/* What @size bytes are, in both modes. Displacements and immediates are 0. HLTs follow. */
static void consider(const uint8_t *bytes, size_t size)
{
	ZydisDecodedOperand operand[ZYDIS_MAX_OPERAND_COUNT];
	ZydisDecodedInstruction insn;

	for (unsigned int wide = 0; wide < 2; wide++) {
		struct form form = {.code_bytes = wide ? 8 : 4};

		memcpy(form.bytes, bytes, size);
		if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoders[wide], form.bytes, INSN_BYTES,
							 &insn, operand)))
			continue;
		form.mnemonic = insn.mnemonic;
		form.set = insn.meta.isa_set;
		form.has_mmx = names_mmx(&insn, operand);
		form.has_memory = (uint8_t)has_memory(&insn, operand);
		form.is_wide = insn.avx.vector_length > 128;
		form.is_string = insn.meta.category == ZYDIS_CATEGORY_STRINGOP;
		seen[insn.mnemonic] = 1;
		memset(form.bytes + insn.length, 0xf4, INSN_BYTES - insn.length);
		if (is_new(&form))
			form_add(&form);
	}
}

/* ModRM bytes that can make a difference: a memory operand, and every register number. */
static int is_telling(unsigned int modrm)
{
	return modrm >= 0xc0 || (modrm < 0x40 && (modrm & 7) == 0);
}

static void list_legacy(void)
{
	static const uint8_t prefixes[] = {0, 0x66, 0xf2, 0xf3};
	static const uint8_t escapes[][2] = {{0, 0}, {0x0f, 0}, {0x0f, 0x38}, {0x0f, 0x3a}};

	for (unsigned int i = 0; i < 4 * 4 * 2 * 0x10000; i++) {
		const uint8_t *escape = escapes[i >> 16 & 3];
		unsigned int prefix = prefixes[i >> 18 & 3];
		uint8_t bytes[INSN_BYTES];
		size_t size = 0;

		if (!is_telling(i & 0xff) || (escape[1] && (i & 0xc7) > 0xc0))
			continue;
		if (prefix)
			bytes[size++] = (uint8_t)prefix;
		if (i >> 20 & 1)
			bytes[size++] = 0x48;
		for (unsigned int e = 0; e < 2 && escape[e]; e++)
			bytes[size++] = escape[e];
		bytes[size++] = (uint8_t)(i >> 8);
		bytes[size++] = (uint8_t)i;
		consider(bytes, size);
	}
	for (unsigned int suffix = 0; suffix < 256; suffix++)
		consider((const uint8_t[]){0x0f, 0x0f, 0xc1, (uint8_t)suffix}, 4);
}

/* VEX, and XOP, which has the same form behind another first byte. */
static void list_vex(uint8_t first, unsigned int map)
{
	for (unsigned int i = 0; i < 32 * 0x10000; i++) {
		unsigned int modrm = i & 0xff, l = i >> 16 & 1, w = i >> 17 & 1;
		uint8_t vvvv = i >> 18 & 1 ? 0 : 0x78;
		uint8_t bytes[] = {first,
				   (uint8_t)(0xe0 | map),
				   (uint8_t)(w << 7 | vvvv | l << 2 | (i >> 19 & 3)),
				   (uint8_t)(i >> 8),
				   (uint8_t)modrm,
				   0x40,
				   0};

		if ((modrm & 7) < 1 || (modrm & 0xc7) == 4 || (modrm & 0xc7) == 0xc1)
			consider(bytes, (modrm & 0xc7) == 4 ? 6 : 5);
	}
}

/* The opcodes whose ModRM has a part of them. */
static int is_evex_group(unsigned int opcode)
{
	return (opcode >= 0x71 && opcode <= 0x73) || opcode == 0xc6 || opcode == 0xc7;
}

static void list_evex(unsigned int map)
{
	for (unsigned int i = 0; i < 3 * 32 * 256 * 24; i++) {
		unsigned int shape = i % 3, reg = i / 3 % 8, opcode = i / 24 % 256;
		unsigned int rest = i / 24 / 256, l = rest / 32;
		uint8_t vvvv = rest & 1 ? 0 : 0x78, w = rest >> 1 & 1, k = rest >> 2 & 1;
		uint8_t bytes[] = {0x62,
				   (uint8_t)(0xf0 | map),
				   (uint8_t)(w << 7 | vvvv | 4 | (rest >> 3 & 3)),
				   (uint8_t)(l << 5 | 8 | k),
				   (uint8_t)opcode,
				   (uint8_t)(reg << 3 | (shape == 0   ? 0
							 : shape == 1 ? 4
								      : 0xc2)),
				   0x40};

		if (reg == 1 || is_evex_group(opcode))
			consider(bytes, shape == 1 ? 7 : 6);
	}
}

static int list_forms(void **state)
{
	static const uint8_t evex_maps[] = {1, 2, 3, 5, 6};

	ZydisDecoderInit(&decoders[0], ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32);
	ZydisDecoderInit(&decoders[1], ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	list_legacy();
	for (unsigned int map = 0; map < 4; map++)
		list_vex(0xc4, map);
	for (unsigned int map = 8; map < 11; map++)
		list_vex(0x8f, map);
	for (size_t i = 0; i < sizeof(evex_maps); i++)
		list_evex(evex_maps[i]);
	return 0;
}

/* Each mnemonic is among the forms. */
static void test_all_are_listed(void **state)
{
	for (int i = 1; i <= ZYDIS_MNEMONIC_MAX_VALUE; i++) {
		const char *name = ZydisMnemonicGetString((ZydisMnemonic)i);

		if (!seen[i] && !insn_is_in(insn_not_listed, name))
			fail_msg("no form of %s", name);
	}
}

/* Does AVX have it, and AVX2? */
static int is_in_both(const char *mnemonic)
{
	int count = 0;

	for (size_t i = 0; i < insn_bit_count; i++)
		if (!strncmp(insn_bits[i].name, "avx", 3))
			count += insn_is_in(insn_bits[i].mnemonics, mnemonic);
	return count == 2;
}

/* Does the bit @name bring a form of @form's mnemonic that is not this one? */
static int is_other_form(const struct form *form, const char *name)
{
	const char *mnemonic = ZydisMnemonicGetString(form->mnemonic);
	int is_avx2 = form->is_wide;

	/* Integer instructions on 256 bits came later, as did broadcasts from a register. */
	if (!is_in_both(mnemonic))
		return 0;
	if (!strncmp(mnemonic, "vbroadcast", 10))
		is_avx2 = !form->has_memory;
	return strcmp(name, is_avx2 ? "avx2" : "avx") != 0;
}

/* YMM registers need a machine that has them. */
static int is_beyond_machine(const struct insn_bit *bit)
{
	int is_avx = !strncmp(bit->name, "avx", 3);
	uint32_t out[4] = {0};

	if (!is_avx && strcmp(bit->name, "fma") && strcmp(bit->name, "f16c"))
		return 0;
	__get_cpuid_count(bit->leaf, bit->subleaf, &out[0], &out[1], &out[2], &out[3]);
	/* The compiler's function asks whether the system saves them, too. */
	return !__builtin_cpu_supports("avx") || !(out[bit->which] >> bit->bit & 1);
}

/* Is @form #UD without the bit @absent? */
static int is_undefined_without(const struct form *form, size_t absent)
{
	const char *name = ZydisMnemonicGetString(form->mnemonic);
	ZydisMnemonic mnemonic = form->mnemonic;
	int is_flags = mnemonic == ZYDIS_MNEMONIC_LAHF || mnemonic == ZYDIS_MNEMONIC_SAHF;
	int is_sse2 = mnemonic == ZYDIS_MNEMONIC_MOVSD || mnemonic == ZYDIS_MNEMONIC_CMPSD;
	int is_sse4 = mnemonic == ZYDIS_MNEMONIC_PEXTRW && form->bytes[2] == 0x3a;

	/* Trailing bit manipulation and Knights Corner have forms of the same names. */
	if (form->set == ZYDIS_ISA_SET_TBM || form->set == ZYDIS_ISA_SET_KNCV)
		return 1;
	if (insn_is_in(insn_always, name) || insn_is_in(insn_hints, name) ||
	    (is_flags && form->code_bytes == 4) || (is_sse2 && form->is_string))
		return 0;
	/* AVX-512's forms; of VPCLMULQDQ that of 256 bits has its own bit. */
	if (name[0] == 'v' &&
	    (form->bytes[0] == 0x62 || (mnemonic == ZYDIS_MNEMONIC_VPCLMULQDQ && form->is_wide)))
		return 1;
	for (size_t i = 0; i < insn_bit_count; i++) {
		const struct insn_bit *bit = &insn_bits[i];
		int is_own = insn_is_in(form->has_mmx ? bit->mmx : bit->mnemonics, name);

		/* These mix both kinds of register, and have no other form. */
		if (form->has_mmx && !strncmp(name, "cvt", 3))
			is_own = insn_is_in(bit->mnemonics, name);
		if (form->has_mmx &&
		    (mnemonic == ZYDIS_MNEMONIC_MOVDQ2Q || mnemonic == ZYDIS_MNEMONIC_MOVQ2DQ))
			is_own = insn_is_in(bit->mnemonics, name);
		/* The form that stores to memory came later. */
		if (is_sse4)
			is_own = !strcmp(bit->name, "sse4.1");
		if (is_own && is_other_form(form, bit->name))
			continue;
		if (is_own && is_beyond_machine(bit))
			return 1;
		if (is_own || (is_sse2 && !strcmp(bit->name, "sse2")))
			return all_hidden || i == absent;
	}
	return 1;
}

/* Is @form #UD with the bits that are shown now? */
static int should_be_undefined(const struct form *form)
{
	return is_undefined_without(form, hidden);
}

/* Nothing new: it is #UD with every bit shown. */
static int is_told(const struct form *form)
{
	return !all_hidden && hidden != ALL_SHOWN && is_undefined_without(form, ALL_SHOWN);
}

static void prepare_mode(struct quire_vcpu *vcpu, const struct form *form)
{
	static const struct cpu_segment flat = {
	    .limit = UINT32_MAX, .selector = 8, .type = 11, .s = 1, .present = 1, .g = 1};
	struct cpu_state *s = cpu_state(vcpu->cpu);
	int is_long = form->code_bytes == 8;

	s->seg[CPU_CS] = flat;
	s->seg[CPU_CS].l = is_long;
	s->seg[CPU_CS].db = !is_long;
	s->cr0 = is_long ? 0x80010033 : 0x33;
	/* PKE, OSXSAVE, FSGSBASE, OSXMMEXCPT, OSFXSR, PAE */
	s->cr4 = 0x450620;
	s->efer = is_long ? 0xd01 : 1;
	s->xcr0 = 7;
	s->star = GUEST_DATA;
	s->lstar = s->cstar = GUEST_DATA;
	s->rflags = 2;
	s->fcw = 0x37f;
	s->fsw = 0;
	s->mxcsr = 0x1f80;
	memset(s->xmm, 0, sizeof(s->xmm)); /* indices of gathers */
	for (int i = 0; i < 16; i++)
		s->gpr[i] = GUEST_DATA;
	s->gpr[CPU_RCX] = 0;
	s->gpr[CPU_RSP] = GUEST_STACK;
	s->rip = GUEST_CODE;
	s->halted = 0;
	s->exception_pending = s->interrupt_shadow = s->nmi_masked = 0;
	for (int i = 0; i <= CPU_GS; i++) {
		if (i == CPU_CS)
			continue;
		s->seg[i] = flat;
		s->seg[i].type = 3;
		s->seg[i].db = 1;
		s->seg[i].selector = 16;
	}
	s->gdt = (struct cpu_table){GUEST_GDT, 0x37};
	s->idt = (struct cpu_table){GUEST_IDT, 32 * (is_long ? 16 : 8) - 1};
}

/* The IDT of 32-bit code has its own form. */
static void prepare_memory(struct quire_vcpu *vcpu, const struct form *form)
{
	uint8_t *ram = vcpu->vm->ram;

	memset(ram + GUEST_HANDLERS, 0xf4, 32 * 16);
	memset(ram + GUEST_DATA - 0x1000, 0xf4, 0x3000);
	for (uint64_t vector = 0; vector < 32; vector++) {
		uint64_t gate = (GUEST_HANDLERS + vector * 16) | 8 << 16 | UINT64_C(0xee00) << 32;

		memcpy(ram + GUEST_IDT + vector * form->code_bytes * 2, &gate, 8);
		if (form->code_bytes == 8)
			memset(ram + GUEST_IDT + vector * 16 + 8, 0, 8);
	}
	memcpy(ram + GUEST_GDT + 8,
	       &(uint64_t){form->code_bytes == 8 ? UINT64_C(0x00af9b000000ffff)
						 : UINT64_C(0x00cf9b000000ffff)},
	       8);
	memset(ram + GUEST_CODE - 64, 0xf4, 128);
	memcpy(ram + GUEST_CODE, form->bytes, sizeof(form->bytes));
	for (uint64_t at = 0; at < 64; at += 8) /* where a RET goes */
		memcpy(ram + GUEST_STACK + at, &(uint64_t){GUEST_DATA}, 8);
	/* Flags for an IRETD: not those of virtual-8086 mode, where nothing is executed. */
	if (form->code_bytes == 4)
		memcpy(ram + GUEST_STACK + 8, &(uint32_t){2}, 4);
}

/* Did it raise #UD? */
static int raises_ud(struct quire_vcpu *vcpu, const struct form *form)
{
	struct cpu_exit_info info;
	enum cpu_exit reason;

	prepare_memory(vcpu, form);
	prepare_mode(vcpu, form);
	cpu_state_changed(vcpu->cpu);
	reason = cpu_run(vcpu->cpu, 0, &info);
	if (cpu_is_pending(vcpu->cpu))
		cpu_cancel_pending(vcpu->cpu);
	if (reason == CPU_EXIT_EMULATION || reason == CPU_EXIT_ERROR ||
	    reason == CPU_EXIT_SHUTDOWN || vcpu->log[0])
		fail_msg("%s of %u-byte code ends in exit %d %s",
			 ZydisMnemonicGetString(form->mnemonic), form->code_bytes, reason,
			 vcpu->log);
	return reason == CPU_EXIT_HLT &&
	       cpu_state(vcpu->cpu)->rip == GUEST_HANDLERS + VECTOR_UD * 16 + 1;
}

static void check_forms(void)
{
	struct fake_vm *vm = fake_vm_create();
	struct quire_vcpu *vcpu = fake_vcpu_create(vm);
	unsigned int wrong = 0;

	vcpu->cpuid = show_bits;
	for (size_t i = 0; i < form_count; i++) {
		const struct form *form = &forms[i];
		int want = should_be_undefined(form);

		if (is_told(form) || raises_ud(vcpu, form) == want)
			continue;
		print_error("%s%s of %u-byte code: should %sraise #UD (%02x %02x %02x %02x)\n",
			    ZydisMnemonicGetString(form->mnemonic), form->has_mmx ? " mm" : "",
			    form->code_bytes, want ? "" : "not ", form->bytes[0], form->bytes[1],
			    form->bytes[2], form->bytes[3]);
		wrong++;
	}
	fake_vcpu_destroy(vcpu);
	fake_vm_destroy(vm);
	assert_int_equal(wrong, 0);
}

static void test_all_bits_shown(void **state)
{
	hidden = ALL_SHOWN;
	all_hidden = 0;
	check_forms();
}

static void test_no_bit_shown(void **state)
{
	all_hidden = 1;
	check_forms();
}

static void test_each_bit_hidden(void **state)
{
	all_hidden = 0;
	for (hidden = 0; hidden < insn_bit_count; hidden++)
		check_forms();
}

/* LZCNT of what it hides is BSR, and TZCNT BSF, as on processors that do not know their prefix. */
static void test_older_meaning(void **state)
{
	struct fake_vm *vm = fake_vm_create();
	static const struct {
		struct form form;
		int all_hidden;
		uint64_t result;
	} cases[] = {
	    {{.code_bytes = 8, .bytes = {0xf3, 0x48, 0x0f, 0xbd, 0xc3, 0xf4}}, 0, 46},
	    {{.code_bytes = 8, .bytes = {0xf3, 0x48, 0x0f, 0xbd, 0xc3, 0xf4}}, 1, 17},
	    {{.code_bytes = 8, .bytes = {0xf3, 0x0f, 0xbc, 0xc1, 0xf4}}, 0, 32},
	    {{.code_bytes = 8, .bytes = {0xf3, 0x0f, 0xbc, 0xc1, 0xf4}}, 1, GUEST_DATA},
	};

	hidden = ALL_SHOWN;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct quire_vcpu *vcpu = fake_vcpu_create(vm);

		vcpu->cpuid = show_bits;
		all_hidden = cases[i].all_hidden;
		assert_false(raises_ud(vcpu, &cases[i].form));
		assert_int_equal(cpu_state(vcpu->cpu)->gpr[CPU_RAX], cases[i].result);
		fake_vcpu_destroy(vcpu);
	}
	fake_vm_destroy(vm);
}

/* A translation before the first run does not fix what CPUID shows. */
static void test_asked_when_run(void **state)
{
	static const struct form popcnt = {.code_bytes = 8,
					   .bytes = {0xf3, 0x0f, 0xb8, 0xc3, 0xf4}};
	struct fake_vm *vm = fake_vm_create();
	struct quire_vcpu *vcpu = fake_vcpu_create(vm);
	gpa_t gpa;

	all_hidden = 1;
	assert_true(cpu_translate(vcpu->cpu, GUEST_DATA, &gpa));
	vcpu->cpuid = show_bits;
	assert_true(raises_ud(vcpu, &popcnt));
	fake_vcpu_destroy(vcpu);
	fake_vm_destroy(vm);
}

/* However long memory changes, an address has a translation. */
static void test_translation_while_memory_changes(void **state)
{
	struct fake_vm *vm = fake_vm_create();
	struct quire_vcpu *vcpu = fake_vcpu_create(vm);
	gpa_t gpa;

	vcpu->retries = 1000;
	assert_true(cpu_translate(vcpu->cpu, GUEST_DATA, &gpa));
	assert_int_equal(vcpu->retries, 0);
	fake_vcpu_destroy(vcpu);
	fake_vm_destroy(vm);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_all_are_listed),
	    cmocka_unit_test(test_all_bits_shown),
	    cmocka_unit_test(test_no_bit_shown),
	    cmocka_unit_test(test_each_bit_hidden),
	    cmocka_unit_test(test_older_meaning),
	    cmocka_unit_test(test_asked_when_run),
	    cmocka_unit_test(test_translation_while_memory_changes),
	};

	fake_signals_install();
	return cmocka_run_group_tests(tests, list_forms, NULL);
}
