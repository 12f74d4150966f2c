/* AMD's virtualisation instructions inside: entering L2, what L1 intercepts, leaving L2. */
#ifndef QUIRE_VCPU_SVM_SVM_H
#define QUIRE_VCPU_SVM_SVM_H

#include <quire/place.h>

#include "vcpu/inside.h"
#include "vcpu/run/event.h"

/* How VMRUN and #VMEXIT end: enum below, or -errno of the library. */
enum svm_result {
	SVM_DONE,
	SVM_NO_MEMORY_THERE, /* the VMCB's address is no memory */
};

/*
 * Intercepts, for handlers in guest mode: STEP_NEXT when L1 does not want the instruction, else
 * STEP_ABORT with the exit recorded. Called after the checks that precede the intercept and before
 * anything changes.
 */
enum step svm_exit(struct cpu *cpu, uint64_t code, uint64_t info1, uint64_t info2);

static inline enum step svm_intercept(struct cpu *cpu, enum vmcb_intercept which)
{
	if (likely(!cpu->svm.in_guest_mode) || !(cpu->svm.control.intercept >> which & 1))
		return STEP_NEXT;
	return svm_exit(cpu, VMCB_EXIT_INTR + which, 0, 0);
}

enum step svm_intercept_cr(struct cpu *cpu, unsigned int number, int is_write);
enum step svm_intercept_dr(struct cpu *cpu, unsigned int number, int is_write);
/* MOV to CR0: also the intercept of changes beyond TS and MP. LMSW: that, whatever it changes. */
enum step svm_intercept_cr0(struct cpu *cpu, uint64_t value);
enum step svm_intercept_lmsw(struct cpu *cpu);
enum step svm_intercept_exception(struct cpu *cpu, enum vector vector);

/* One port access, as the exit's information word describes it. */
struct svm_io {
	uint16_t port;
	uint8_t size_bytes;
	uint8_t address_bytes;
	uint8_t is_in, is_string, is_repeated;
	uint8_t segment;
};
enum step svm_intercept_io(struct cpu *cpu, const struct svm_io *io);
/* Leaves guest mode when the bitmap must be looked at. */
enum step svm_intercept_msr(struct cpu *cpu, uint32_t index, int is_write);

/*
 * Out of guest mode from here on. Leave L2: the exit is in cpu->svm.exit, @first the event under
 * delivery or NULL.
 */
int svm_vmexit(struct cpu *cpu, const struct event *first);
/* As svm_vmexit() with this exit. */
int svm_vmexit_code(struct cpu *cpu, uint64_t code, const struct event *first);
/* L1 intercepts the exception @vector of L2? */
int svm_wants_exception(const struct cpu *cpu, unsigned int vector);
/* Does it, the exit is recorded in cpu->svm.exit. */
int svm_exception(struct cpu *cpu, const struct exception *exception);

/* GIF; what waits for it to be set gets a turn. */
void svm_set_gif(struct cpu *cpu, int gif);
/* The global interrupt flag that L2 itself sets and clears, as V_GIF in its VMCB. */
static inline int svm_has_virtual_gif(const struct cpu *cpu)
{
	return cpu->svm.in_guest_mode && (cpu->svm.control.int_ctl & VMCB_V_GIF_ENABLE);
}

/* Interrupts: may a physical one be taken now (by L2 or by L1)? Is a virtual one due? */
int svm_physical_allowed(const struct cpu *cpu);
/* In L2: does L1 intercept physical interrupts? Then L2 takes none. */
int svm_l1_takes_interrupts(const struct cpu *cpu);
int svm_virtual_due(const struct cpu *cpu);
/* Exit code of the interrupt, NMI or virtual interrupt that L1 intercepts now; 0: none. */
uint64_t svm_interrupt_exit(struct cpu *cpu);

/* Clear in @control what L1's CPUID does not have, and learn its address width. Out of guest mode.
 */
void svm_sanitize(struct cpu *cpu, struct vmcb_control *control);
/* L1's VMCB at @gpa is checked and entered; @next_rip is where L1 goes on afterwards. */
int svm_enter(struct cpu *cpu, uint64_t gpa, uint64_t next_rip);
/*
 * An SMI in L2, and the RSM that ends it: L1's registers are in its host save area meanwhile
 * (cpu_state.vm_hsave), L2's in its VMCB. Nonzero: one of them is not there, or is nothing that
 * VMRUN takes.
 */
int svm_suspend(struct cpu *cpu);
int svm_resume(struct cpu *cpu, uint64_t gpa);
/* Would the processor enter L2 with this? Nonzero: no. */
int svm_check_control(const struct cpu *cpu, const struct vmcb_control *control);
int svm_check_save(const struct cpu *cpu, const struct vmcb_save *save);
/* Registers to and from the part of a VMCB that VMRUN and #VMEXIT move. */
void svm_store_registers(const struct cpu *cpu, struct vmcb_save *save);
void svm_load_registers(struct cpu *cpu, const struct vmcb_save *save);
/* L1's registers after L2; out of guest mode. */
int svm_restore_host(struct cpu *cpu);
/* The registers of L1 that say what form its nested tables have. */
struct svm_l1 {
	uint64_t efer, cr4;
};
/*
 * Take over @control as L2's: bitmaps, TSC, nested tables. 0 or -errno; -EOPNOTSUPP: nested tables
 * of a form that is not offered.
 */
int svm_take_control(struct cpu *cpu, const struct vmcb_control *control, const struct svm_l1 *l1);
/* L2's PAT is its own. */
static inline int svm_has_own_pat(const struct cpu *cpu)
{
	return cpu->svm.separate_pat && cpu->svm.nested_paging;
}

/*
 * L2 physical to L1 physical by L1's nested tables. Nonzero: they lead nowhere. Out of guest mode.
 */
int svm_nested_gpa(struct cpu *cpu, uint64_t *gpa, int is_write);

/* Stage 2 is L1's own again. */
void svm_drop_nested_tables(struct cpu *cpu);

struct cpu_segment svm_segment_load(const struct vmcb_segment *from);
struct vmcb_segment svm_segment_store(const struct cpu_segment *from);

#endif
