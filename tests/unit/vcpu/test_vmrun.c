/* What VMRUN refuses: each condition of the manual by itself, on a VMCB that is good otherwise. */
#include "tests/unit/vcpu/nest.h"
#include "vcpu/arch.h"

#define CONTROL(member) \
	offsetof(struct vmcb, control.member), sizeof(((struct vmcb *)0)->control.member)
#define SAVE(member) offsetof(struct vmcb, save.member), sizeof(((struct vmcb *)0)->save.member)
#define BIT(n) (UINT64_C(1) << (n))
#define VMRUN_MASK BIT(INTERCEPT_VMRUN)
#define INJECT(type, vector) \
	(VMCB_EVENT_VALID | (uint64_t)(type) << VMCB_EVENT_TYPE_SHIFT | (vector))
#define PG_PE (BIT(31) | BIT(0))
#define LONG (BIT(12) | BIT(10) | BIT(8)) /* EFER: SVME LMA LME */

PROGRAM(l2_stop, "vmmcall");

/* Up to two changes of the VMCB: bits cleared, then bits set. */
struct change {
	size_t offset, bytes;
	uint64_t clear, set;
};

struct row {
	const char *what;
	int is_refused;
	struct change changes[2];
};

static const struct row rows[] = {
    {"a good one", 0, {{0}}},
    {"EFER.SVME is clear", 1, {{SAVE(efer), BIT(12), 0}}},
    {"EFER has a bit that is none", 1, {{SAVE(efer), 0, BIT(1)}}},
    {"EFER has a high bit", 1, {{SAVE(efer), 0, BIT(40)}}},
    {"CR0.NW without CD", 1, {{SAVE(cr0), 0, BIT(29)}}},
    {"CR0.CD and NW", 0, {{SAVE(cr0), 0, BIT(29) | BIT(30)}}},
    {"CR0.CD alone", 0, {{SAVE(cr0), 0, BIT(30)}}},
    {"CR0 has bit 32", 1, {{SAVE(cr0), 0, BIT(32)}}},
    {"CR0 has bit 63", 1, {{SAVE(cr0), 0, BIT(63)}}},
    {"CR3 beyond the address width", 1, {{SAVE(cr3), 0, BIT(48)}}},
    {"CR3 has bit 62", 1, {{SAVE(cr3), 0, BIT(62)}}},
    {"CR4 has a bit that is none", 1, {{SAVE(cr4), 0, BIT(15)}}},
    {"CR4.LA57 is not there", 1, {{SAVE(cr4), 0, BIT(12)}}},
    {"CR4 has a high bit", 1, {{SAVE(cr4), 0, BIT(32)}}},
    {"DR6 has bit 32", 1, {{SAVE(dr6), 0, BIT(32)}}},
    {"DR7 has bit 32", 1, {{SAVE(dr7), 0, BIT(32)}}},
    {"long mode without PAE", 1, {{SAVE(cr4), BIT(5), 0}}},
    {"long mode without PE", 1, {{SAVE(cr0), BIT(0), 0}}},
    {"LME without PG, not PAE", 0, {{SAVE(cr0), PG_PE, BIT(0)}, {SAVE(cr4), BIT(5), 0}}},
    {"CS.L and CS.D", 1, {{SAVE(cs.attributes), 0, BIT(10)}}},
    {"CS.L and CS.D without PG", 0, {{SAVE(cs.attributes), 0, BIT(10)}, {SAVE(cr0), BIT(31), 0}}},
    {"VMRUN is not intercepted", 1, {{CONTROL(intercept), VMRUN_MASK, 0}}},
    {"ASID 0", 1, {{CONTROL(asid), UINT32_MAX, 0}}},
    {"the last ASID", 0, {{CONTROL(asid), UINT32_MAX, 7}}},
    {"the port map ends beyond", 1, {{CONTROL(iopm_gpa), UINT64_MAX, BIT(48) - 0x2000}}},
    {"the port map ends at the end", 0, {{CONTROL(iopm_gpa), UINT64_MAX, BIT(48) - 0x3000}}},
    {"the MSR map ends beyond", 1, {{CONTROL(msrpm_gpa), UINT64_MAX, BIT(48) - 0x1000}}},
    {"the MSR map ends at the end", 0, {{CONTROL(msrpm_gpa), UINT64_MAX, BIT(48) - 0x2000}}},
    {"low bits of the last port map", 0, {{CONTROL(iopm_gpa), UINT64_MAX, BIT(48) - 0x2001}}},
    {"low bits of the last MSR map", 0, {{CONTROL(msrpm_gpa), UINT64_MAX, BIT(48) - 0x1001}}},
    {"PAE's pointers with reserved bits", 1, {{SAVE(efer), BIT(10) | BIT(8), 0}}},
    {"the same under nested paging",
     0,
     {{SAVE(efer), BIT(10) | BIT(8), 0}, {CONTROL(misc), 0, VMCB_NESTED_PAGING}}},
    {"PAE's pointers without",
     0,
     {{SAVE(efer), BIT(10) | BIT(8), 0}, {SAVE(cr3), UINT64_MAX, 0x100000}}},
    {"PAE's pointers that are no memory",
     1,
     {{SAVE(efer), BIT(10) | BIT(8), 0}, {SAVE(cr3), UINT64_MAX, RAM_BYTES}}},
    {"low bits of maps", 0, {{CONTROL(iopm_gpa), 0, 0xfff}, {CONTROL(msrpm_gpa), 0, 0xfff}}},
    {"nested CR3 beyond the width",
     1,
     {{CONTROL(misc), 0, VMCB_NESTED_PAGING}, {CONTROL(nested_cr3), 0, BIT(48)}}},
    {"nested CR3 without nested paging", 0, {{CONTROL(nested_cr3), 0, BIT(48)}}},
    {"event of type 1", 1, {{CONTROL(event_inj), 0, INJECT(1, 0x20)}}},
    {"event of type 5", 1, {{CONTROL(event_inj), 0, INJECT(5, 0x20)}}},
    {"event of type 7", 1, {{CONTROL(event_inj), 0, INJECT(7, 0x20)}}},
    {"exception 2", 1, {{CONTROL(event_inj), 0, INJECT(3, 2)}}},
    {"exception 9", 1, {{CONTROL(event_inj), 0, INJECT(3, 9)}}},
    {"exception 15", 1, {{CONTROL(event_inj), 0, INJECT(3, 15)}}},
    {"exception 21, which CPUID does not have", 1, {{CONTROL(event_inj), 0, INJECT(3, 21)}}},
    {"exception 31", 1, {{CONTROL(event_inj), 0, INJECT(3, 31)}}},
    {"exception 32", 1, {{CONTROL(event_inj), 0, INJECT(3, 32)}}},
    {"exception 255", 1, {{CONTROL(event_inj), 0, INJECT(3, 255)}}},
    {"exception 6", 0, {{CONTROL(event_inj), 0, INJECT(3, 6)}}},
    {"a bad event that is not valid", 0, {{CONTROL(event_inj), 0, UINT64_C(5) << 8}}},
};

static void apply(struct vmcb *vmcb, const struct change *change)
{
	uint64_t value = 0;

	memcpy(&value, (char *)vmcb + change->offset, change->bytes);
	value = (value & ~change->clear) | change->set;
	memcpy((char *)vmcb + change->offset, &value, change->bytes);
}

static void test_each_condition(void **state)
{
	struct nest *nest = *state;
	const struct vmcb good = *nest->vmcb;
	struct cpu_exit_info info;

	PUT(nest, L2_CODE, l2_stop);
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		int refused;

		*nest->vmcb = good;
		apply(nest->vmcb, &rows[i].changes[0]);
		apply(nest->vmcb, &rows[i].changes[1]);
		nest->vmcb->control.intercept |= BIT(INTERCEPT_SHUTDOWN) | BIT(INTERCEPT_HLT);
		nest->vmcb->control.exceptions = UINT32_MAX;
		nest_restart(nest);
		assert_int_equal(cpu_run(nest->vcpu->cpu, 0, &info), CPU_EXIT_HLT);
		refused = nest->vmcb->control.exit_code == VMCB_EXIT_INVALID;
		if (refused != rows[i].is_refused ||
		    cpu_state(nest->vcpu->cpu)->gpr[CPU_RBX] != 0x11)
			fail_msg("%s: exit %#llx", rows[i].what,
				 (unsigned long long)nest->vmcb->control.exit_code);
		/* Refused it changes nothing but the exit, and L1 goes on behind it. */
		assert_int_equal(cpu_state(nest->vcpu->cpu)->gpr[CPU_RBX], 0x11);
		assert_int_equal(cpu_nested_active(nest->vcpu->cpu), 0);
		if (refused && rows[i].changes[0].bytes &&
		    rows[i].changes[0].offset >= offsetof(struct vmcb, save))
			assert_int_equal(nest->vmcb->save.rip, good.save.rip);
	}
}

/* L1 has told of no host save area: #GP comes at VMRUN itself. */
static void test_no_host_save_area(void **state)
{
	struct nest *nest = *state;
	struct cpu_exit_info info;
	struct cpu_state *s = cpu_state(nest->vcpu->cpu);

	PUT(nest, L2_CODE, l2_stop);
	s->vm_hsave = 0;
	nest_restart(nest);
	assert_int_equal(cpu_run(nest->vcpu->cpu, 0, &info), CPU_EXIT_HLT);
	assert_int_equal(s->rip, GUEST_HANDLERS + VECTOR_GP * 16 + 1);
	s->vm_hsave = HSAVE_GPA;
	nest_restart(nest);
	nest_run(nest, VMCB_EXIT_INTR + INTERCEPT_VMMCALL);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_each_condition, nest_setup, nest_teardown),
	    cmocka_unit_test_setup_teardown(test_no_host_save_area, nest_setup, nest_teardown),
	};

	fake_signals_install();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
