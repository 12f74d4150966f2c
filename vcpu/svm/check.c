/* What L1 intercepts of L2: instructions, exceptions, interrupts. */
#include "vcpu/exec/operand.h"
#include "vcpu/run/raise.h"
#include "vcpu/svm/svm.h"

#define MSRS_A_RANGE 0x2000u

enum step svm_intercept_cr(struct cpu *cpu, unsigned int number, int is_write)
{
	const struct vmcb_control *control = &cpu->svm.control;
	unsigned int mask = is_write ? control->cr_writes : control->cr_reads;

	if (!cpu->svm.in_guest_mode || !(mask >> number & 1))
		return STEP_NEXT;
	return svm_exit(cpu, (is_write ? VMCB_EXIT_CR_WRITE : VMCB_EXIT_CR_READ) + number, 0, 0);
}

enum step svm_intercept_dr(struct cpu *cpu, unsigned int number, int is_write)
{
	const struct vmcb_control *control = &cpu->svm.control;
	unsigned int mask = is_write ? control->dr_writes : control->dr_reads;

	if (!cpu->svm.in_guest_mode || !(mask >> number & 1))
		return STEP_NEXT;
	return svm_exit(cpu, (is_write ? VMCB_EXIT_DR_WRITE : VMCB_EXIT_DR_READ) + number, 0, 0);
}

enum step svm_intercept_cr0(struct cpu *cpu, uint64_t value)
{
	enum step step = svm_intercept_cr(cpu, 0, 1);

	if (step || !((value ^ cpu->s.cr0) & ~(CR0_TS | CR0_MP)))
		return step;
	return svm_intercept(cpu, INTERCEPT_CR0_SELECTIVE);
}

enum step svm_intercept_lmsw(struct cpu *cpu)
{
	enum step step = svm_intercept_cr(cpu, 0, 1);

	return step ? step : svm_intercept(cpu, INTERCEPT_CR0_SELECTIVE);
}

int svm_wants_exception(const struct cpu *cpu, unsigned int vector)
{
	return cpu->svm.in_guest_mode && vector < 32 && (cpu->svm.control.exceptions >> vector & 1);
}

enum step svm_intercept_exception(struct cpu *cpu, enum vector vector)
{
	if (!svm_wants_exception(cpu, vector))
		return STEP_NEXT;
	return svm_exit(cpu, VMCB_EXIT_EXCEPTION + vector, 0, 0);
}

int svm_exception(struct cpu *cpu, const struct exception *exception)
{
	uint64_t address = 0;

	if (!svm_wants_exception(cpu, exception->vector))
		return 0;
	cpu->op = NULL;
	if (exception->vector == VECTOR_PF) {
		/* An intercepted page fault leaves CR2 alone. */
		address = cpu->s.cr2;
		cpu->s.cr2 = cpu->svm.cr2_before;
	}
	svm_exit(cpu, VMCB_EXIT_EXCEPTION + exception->vector,
		 exception->has_error ? exception->error : 0, address);
	cpu->stop = STOP_NONE;
	return 1;
}

static uint64_t describe_io(const struct svm_io *io)
{
	uint64_t info = (uint64_t)io->port << 16;

	info |= io->is_in;
	info |= (uint64_t)io->is_string << 2 | (uint64_t)io->is_repeated << 3;
	info |= (uint64_t)io->size_bytes << 4;	  /* bits 4 .. 6: one for each size */
	info |= (uint64_t)io->address_bytes << 6; /* 7 .. 9: 2, 4 or 8 bytes */
	if (io->is_string)
		info |= (uint64_t)io->segment << 10;
	return info;
}

/*
 * Every port of the access has a bit, in L1's memory as it is now. A map that is not there permits
 * nothing. What has asked a device already goes on, whatever L1 has written since. The next
 * instruction is the second information word.
 */
enum step svm_intercept_io(struct cpu *cpu, const struct svm_io *io)
{
	const struct svm *svm = &cpu->svm;
	unsigned int first = io->port % 8, wanted = ((1u << io->size_bytes) - 1) << first;
	gpa_t at = {(svm->control.iopm_gpa & PAGE_NUMBER_MASK) + io->port / 8};
	uint16_t bits = 0;

	if (!svm->in_guest_mode || !(svm->control.intercept >> INTERCEPT_IOIO & 1) ||
	    cpu->replay.unfinished)
		return STEP_NEXT;
	cpu_leave_guest(cpu);
	if (!quire_vcpu_read(cpu->vcpu, at, &bits, first + io->size_bytes > 8 ? 2 : 1) &&
	    !(bits & wanted))
		return STEP_NEXT;
	return svm_exit(cpu, VMCB_EXIT_INTR + INTERCEPT_IOIO, describe_io(io),
			op_next_rip(cpu, cpu->op));
}

/* Two bits an MSR in three ranges; all others are intercepted. */
static int msr_bit(uint32_t index, uint32_t *bit)
{
	static const uint32_t ranges[] = {0, 0xc0000000, 0xc0010000};

	for (unsigned int i = 0; i < 3; i++) {
		if (index - ranges[i] < MSRS_A_RANGE) {
			*bit = i * 0x800 * 8 + (index - ranges[i]) * 2;
			return 1;
		}
	}
	return 0;
}

enum step svm_intercept_msr(struct cpu *cpu, uint32_t index, int is_write)
{
	const struct svm *svm = &cpu->svm;
	uint8_t byte;
	uint32_t bit;

	if (!svm->in_guest_mode || !(svm->control.intercept >> INTERCEPT_MSR & 1))
		return STEP_NEXT;
	if (msr_bit(index, &bit)) {
		gpa_t at = {(svm->control.msrpm_gpa & PAGE_NUMBER_MASK) + bit / 8};

		cpu_leave_guest(cpu);
		bit += is_write != 0;
		if (!quire_vcpu_read(cpu->vcpu, at, &byte, 1) && !(byte >> (bit % 8) & 1))
			return STEP_NEXT;
	}
	return svm_exit(cpu, VMCB_EXIT_INTR + INTERCEPT_MSR, is_write, 0);
}

int svm_nested_gpa(struct cpu *cpu, uint64_t *gpa, int is_write)
{
	uint64_t error_code =
	    QUIRE_PFERR_GUEST_FINAL | QUIRE_PFERR_USER | (is_write ? QUIRE_PFERR_WRITE : 0);
	gpa_t found;

	if (quire_vcpu_walk_nested(cpu->vcpu, (gpa_t){*gpa}, error_code, &found))
		return -1;
	*gpa = found.v;
	return 0;
}

int svm_l1_takes_interrupts(const struct cpu *cpu)
{
	return cpu->svm.in_guest_mode && (cpu->svm.control.intercept >> INTERCEPT_INTR & 1);
}

/*
 * With V_INTR_MASKING it is L1's IF that holds physical interrupts back, else L2's. An interrupt
 * that L1 intercepts waits for no shadow of L2's.
 */
int svm_physical_allowed(const struct cpu *cpu)
{
	const struct svm *svm = &cpu->svm;
	uint64_t flags = cpu->s.rflags;

	if (svm->control.int_ctl & VMCB_V_INTR_MASKING)
		flags = svm->host.rflags;
	if (!svm->gif || !(flags & FLAG_IF))
		return 0;
	if (svm->control.intercept >> INTERCEPT_INTR & 1)
		return 1;
	return (cpu->s.rflags & FLAG_IF) && !cpu->s.interrupt_shadow;
}

int svm_virtual_due(const struct cpu *cpu)
{
	const struct svm *svm = &cpu->svm;
	uint32_t control = svm->control.int_ctl;

	if (!svm->in_guest_mode || !svm->gif || !(control & VMCB_V_IRQ))
		return 0;
	if ((control & VMCB_V_GIF_ENABLE) && !(control & VMCB_V_GIF))
		return 0;
	if (!(cpu->s.rflags & FLAG_IF) || cpu->s.interrupt_shadow)
		return 0;
	return (control & VMCB_V_IGNORE_TPR) ||
	       (control >> VMCB_V_PRIORITY_SHIFT & 15) > (control & 15);
}

uint64_t svm_interrupt_exit(struct cpu *cpu)
{
	const struct svm *svm = &cpu->svm;
	const struct cpu_state *s = &cpu->s;
	uint64_t intercept = svm->control.intercept;

	if (!svm->gif)
		return 0;
	if (s->smi_pending && !s->smm && (intercept >> INTERCEPT_SMI & 1))
		return VMCB_EXIT_INTR + INTERCEPT_SMI;
	if (s->nmi_pending && !s->nmi_masked && (intercept >> INTERCEPT_NMI & 1))
		return VMCB_EXIT_INTR + INTERCEPT_NMI;
	if ((intercept >> INTERCEPT_INTR & 1) && svm_physical_allowed(cpu) &&
	    cpu->ops->interrupt_waiting(cpu->ctx))
		return VMCB_EXIT_INTR + INTERCEPT_INTR;
	if ((intercept >> INTERCEPT_VINTR & 1) && svm_virtual_due(cpu))
		return VMCB_EXIT_INTR + INTERCEPT_VINTR;
	return 0;
}
