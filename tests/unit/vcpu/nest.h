/* A hypervisor of a few instructions with a VMCB, for tests of AMD's virtualisation. */
#ifndef TESTS_UNIT_VCPU_NEST_H
#define TESTS_UNIT_VCPU_NEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/vcpu/fake_vcpu.h"
#include "vcpu/svm/nested.h"

#define PROGRAM(name, code)                                                          \
	__asm__(".pushsection .rodata\n" #name "_start:\n" code "\n" #name "_end:\n" \
		".popsection\n");                                                    \
	extern const uint8_t name##_start[], name##_end[]
/* Put a program where the guest finds it. */
#define PUT(nest, gpa, name) nest_put(nest, gpa, name##_start, name##_end)

#define VMCB_GPA 0x40000u
#define MAP_GPA 0x50000u
#define HSAVE_GPA 0x48000u
#define L2_CODE 0x60000u
#define L2_STACK 0x70000u
#define EFER_SVME (UINT64_C(1) << 12)
#define RFLAGS_IF UINT64_C(0x200)

struct nest {
	struct quire_vcpu *vcpu;
	struct vmcb *vmcb;
};

/* For cmocka: a struct nest whose L1 runs L2, sets RBX to 11 and halts. */
int nest_setup(void **state);
int nest_teardown(void **state);
void nest_put(struct nest *nest, uint64_t gpa, const uint8_t *start, const uint8_t *end);
/* Run until L1 halts behind its VMRUN, and check why L2 was left. */
void nest_run(struct nest *nest, uint64_t code);
/* L1 does it all again. */
void nest_restart(struct nest *nest);
void nest_intercept(struct nest *nest, enum vmcb_intercept which);

#endif
