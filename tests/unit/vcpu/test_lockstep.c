/* Lockstep finds code that does something else than the interpreter: some is spoilt on purpose. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/unit/vcpu/fake_vcpu.h"

/* An immediate that is found in the translated code, and what it becomes. */
#define IMMEDIATE UINT32_C(0x1f3d5b79)
#define SPOILT UINT32_C(0x1f3d5b78)

#define PROGRAM(name, code)                                                            \
	__asm__(".pushsection .rodata\n.balign 64\n" #name "_start:\n" code "\n" #name \
		"_end:\n.popsection\n");                                               \
	extern const uint8_t name##_start[], name##_end[]

/* A register, flags, memory, the stack. */
PROGRAM(in_register, "mov $7, %eax; add $0x1f3d5b79, %eax; hlt");
PROGRAM(in_flags, "mov $0x1f3d5b78, %eax; inc %eax; cmp $0x1f3d5b79, %eax; mov $0, %eax; hlt");
PROGRAM(in_memory, "mov $1, %eax; nop; movl $0x1f3d5b79, 0x30000; nop; hlt");
PROGRAM(on_stack, "mov $1, %eax; nop; push $0x1f3d5b79; nop; hlt");

static int setup(void **state)
{
	struct quire_vcpu *vcpu = fake_vcpu_create(fake_vm_create());

	*state = vcpu;
	if (cpu_translate_after(vcpu->cpu, 0))
		return -1;
	return cpu_translate_lockstep(vcpu->cpu);
}

/* Where this process writes translated code; of @size bytes. */
static uint8_t *code_view(size_t *size)
{
	FILE *maps = fopen("/proc/self/maps", "r");
	char line[512], rights[8];
	unsigned long start, end;
	uint8_t *found = NULL;

	assert_non_null(maps);
	while (fgets(line, sizeof(line), maps)) {
		if (strstr(line, "quire code") &&
		    sscanf(line, "%lx-%lx %7s", &start, &end, rights) == 3 && rights[1] == 'w') {
			found = (uint8_t *)start;
			*size = end - start;
		}
	}
	fclose(maps);
	assert_non_null(found);
	return found;
}

static void spoil_all(void)
{
	const uint32_t from = IMMEDIATE, to = SPOILT;
	unsigned int found = 0;
	size_t size;
	uint8_t *view = code_view(&size);

	for (size_t at = 0; at + sizeof(from) <= size; at++) {
		if (memcmp(view + at, &from, sizeof(from)))
			continue;
		memcpy(view + at, &to, sizeof(to));
		found++;
	}
	assert_true(found > 0);
}

static enum cpu_exit run(struct quire_vcpu *vcpu)
{
	struct cpu_state *s = cpu_state(vcpu->cpu);
	struct cpu_exit_info info;

	s->rip = GUEST_CODE;
	s->gpr[CPU_RSP] = GUEST_STACK - 64;
	s->halted = 0;
	return cpu_run(vcpu->cpu, 0, &info);
}

/* What is right runs on; once it is spoilt the run ends at that instruction. */
static void check(struct quire_vcpu *vcpu, const uint8_t *start, const uint8_t *end,
		  const char *mnemonic)
{
	memcpy(vcpu->vm->ram + GUEST_CODE, start, (size_t)(end - start));
	for (int i = 0; i < 3; i++)
		assert_int_equal(run(vcpu), CPU_EXIT_HLT);
	assert_true(cpu_counts(vcpu->cpu)->translated > 0);
	assert_string_equal(vcpu->log, "");
	spoil_all();
	assert_int_equal(run(vcpu), CPU_EXIT_EMULATION);
	assert_non_null(strstr(vcpu->log, "translated code differs"));
	assert_non_null(strstr(vcpu->log, mnemonic));
}

static void test_register(void **state)
{
	check(*state, in_register_start, in_register_end, "add");
}

static void test_flags(void **state)
{
	check(*state, in_flags_start, in_flags_end, "cmp");
}

static void test_memory(void **state)
{
	check(*state, in_memory_start, in_memory_end, "mov");
}

static void test_stack(void **state)
{
	check(*state, on_stack_start, on_stack_end, "push");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, fake_vcpu_teardown)

/* A client's store into what the guest only reads is never taken back. */
PROGRAM(waits, "1: cmpb $0, 0x30000; je 1b; hlt");
#define STORES 200u

static void *store_later(void *opaque)
{
	uint8_t *flag = opaque;

	usleep(500);
	__atomic_store_n(flag, 1, __ATOMIC_SEQ_CST);
	return NULL;
}

static void test_client_stores(void **state)
{
	struct quire_vcpu *vcpu = *state;
	uint8_t *flag = vcpu->vm->ram + GUEST_DATA;
	pthread_t thread;

	alarm(30);
	for (unsigned int i = 0; i < STORES; i++) {
		*flag = 0;
		assert_int_equal(pthread_create(&thread, NULL, store_later, flag), 0);
		cpu_state(vcpu->cpu)->rip = GUEST_CODE;
		cpu_state(vcpu->cpu)->halted = 0;
		assert_int_equal(fake_vcpu_run(vcpu, waits_start, waits_end), CPU_EXIT_HLT);
		assert_int_equal(pthread_join(thread, NULL), 0);
		assert_int_equal(*flag, 1);
	}
	alarm(0);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
	    TEST(test_register), TEST(test_flags),	   TEST(test_memory),
	    TEST(test_stack),	 TEST(test_client_stores),
	};
	void *state;

	if (setup(&state)) {
		printf("this machine does not translate\n");
		return 77;
	}
	fake_vcpu_teardown(&state);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
