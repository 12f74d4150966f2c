/* Protection keys: PKRU by its own instructions and as a component of XSAVE, and what it drops. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/vcpu/fake_vcpu.h"
#include "vcpu/exec/fpu_image.h"

#define PROGRAM(name, code)                                                          \
	__asm__(".pushsection .rodata\n" #name "_start:\n" code "\n" #name "_end:\n" \
		".popsection\n");                                                    \
	extern const uint8_t name##_start[], name##_end[]

#define VECTOR_UD 6u
#define VECTOR_GP 13u
#define VECTOR_PF 14u
#define CR4_OSXSAVE (UINT64_C(1) << 18)
#define CR4_PKE (UINT64_C(1) << 22)
#define HEADER_OFFSET 512u

static int setup(void **state)
{
	struct quire_vcpu *vcpu = fake_vcpu_create(fake_vm_create());
	uint64_t entry = PAGED_LINEAR | UINT64_C(5) << 59 | 0x67;

	memcpy(vcpu->vm->ram + GUEST_PT, &entry, sizeof(entry));
	cpu_state(vcpu->cpu)->cr4 |= CR4_PKE | CR4_OSXSAVE;
	cpu_state(vcpu->cpu)->xcr0 = 0x203;
	*state = vcpu;
	return 0;
}

#define RUN(vcpu, name) \
	assert_int_equal(fake_vcpu_run(vcpu, name##_start, name##_end), CPU_EXIT_HLT)
#define END_OF(name) (GUEST_CODE + (uint64_t)(name##_end - name##_start))

static void check_vector(struct quire_vcpu *vcpu, unsigned int vector)
{
	assert_int_equal(cpu_state(vcpu->cpu)->rip, GUEST_HANDLERS + vector * 16 + 1);
}

PROGRAM(write_read, "xor %ecx, %ecx; xor %edx, %edx; mov $0x12345678, %eax; wrpkru; mov $-1, %rax;"
		    "mov $-1, %rdx; rdpkru; hlt");
PROGRAM(read_other, "mov $1, %ecx; rdpkru; hlt");
PROGRAM(write_other, "xor %ecx, %ecx; mov $1, %edx; wrpkru; hlt");

static void test_instructions(void **state)
{
	struct quire_vcpu *vcpu = *state;
	struct cpu_state *s = cpu_state(vcpu->cpu);

	RUN(vcpu, write_read);
	assert_int_equal(cpu_state(vcpu->cpu)->rip, END_OF(write_read));
	assert_int_equal(s->gpr[CPU_RAX], 0x12345678);
	assert_int_equal(s->gpr[CPU_RDX], 0);
	assert_int_equal(s->pkru, 0x12345678);
	s->pkru = 0;
	RUN(vcpu, read_other);
	check_vector(vcpu, VECTOR_GP);
	RUN(vcpu, write_other);
	check_vector(vcpu, VECTOR_GP);
	s->cr4 &= ~CR4_PKE;
	RUN(vcpu, write_read);
	check_vector(vcpu, VECTOR_UD);
}

PROGRAM(close_key, "mov $4, %edi; 1: mov 0x400000, %ebx; mov %ebx, 0x400000; dec %edi; jnz 1b;"
		   "xor %ecx, %ecx; xor %edx, %edx; mov $0x400, %eax; wrpkru; mov 0x401000, %ebx;"
		   "mov 0x400000, %ebx; hlt");

/* What the key closes is not found in any cache. */
static void test_closes_cached_page(void **state)
{
	struct quire_vcpu *vcpu = *state;
	uint64_t error;

	RUN(vcpu, close_key);
	check_vector(vcpu, VECTOR_PF);
	assert_int_equal(cpu_state(vcpu->cpu)->cr2, PAGED_LINEAR);
	memcpy(&error, vcpu->vm->ram + cpu_state(vcpu->cpu)->gpr[CPU_RSP], sizeof(error));
	assert_int_equal(error, 0x21);
}

PROGRAM(save, "mov $0x200, %eax; xor %edx, %edx; xsave 0x30000; hlt");
PROGRAM(save_compacted, "mov $0x200, %eax; xor %edx, %edx; xsavec 0x30000; hlt");
PROGRAM(restore, "mov $0x200, %eax; xor %edx, %edx; xrstor 0x30000; hlt");

static void check_saved(struct quire_vcpu *vcpu, unsigned int offset, uint64_t compaction)
{
	uint8_t *image = vcpu->vm->ram + GUEST_DATA;
	uint64_t header[2];
	uint32_t pkru;

	memcpy(header, image + HEADER_OFFSET, sizeof(header));
	memcpy(&pkru, image + offset, sizeof(pkru));
	assert_int_equal(header[0], 0x200);
	assert_int_equal(header[1], compaction);
	assert_int_equal(pkru, 0x55555554);
}

static void test_component(void **state)
{
	struct quire_vcpu *vcpu = *state;
	struct cpu_state *s = cpu_state(vcpu->cpu);
	uint8_t *image = vcpu->vm->ram + GUEST_DATA;

	s->pkru = 0x55555554;
	RUN(vcpu, save);
	assert_int_equal(cpu_state(vcpu->cpu)->rip, END_OF(save));
	check_saved(vcpu, fpu_pkru_offset(), 0);
	s->pkru = 0;
	RUN(vcpu, restore);
	assert_int_equal(s->pkru, 0x55555554);
	memset(image, 0, fpu_pkru_offset() + 8);
	RUN(vcpu, save_compacted);
	check_saved(vcpu, HEADER_OFFSET + 64, UINT64_C(1) << 63 | 0x200);
	s->pkru = 0;
	RUN(vcpu, restore);
	assert_int_equal(s->pkru, 0x55555554);
	/* A component that is not present is as after a reset, and one not asked for stays. */
	memset(image, 0, fpu_pkru_offset() + 8);
	s->xcr0 = 3;
	RUN(vcpu, restore);
	assert_int_equal(s->pkru, 0x55555554);
	s->xcr0 = 0x203;
	RUN(vcpu, restore);
	assert_int_equal(s->pkru, 0);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_instructions, setup, fake_vcpu_teardown),
	    cmocka_unit_test_setup_teardown(test_closes_cached_page, setup, fake_vcpu_teardown),
	    cmocka_unit_test_setup_teardown(test_component, setup, fake_vcpu_teardown),
	};

	fake_signals_install();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
