/* Entering L2: the checks of VMRUN, L2's registers and what L1 injects. */
#include "vcpu/svm/svm.h"

#include <errno.h>

#include "hosts/process/heap.h"
#include "vcpu/exec/exec.h"
#include "vcpu/mem/directories.h"
#include "vcpu/mem/mmu.h"
#include "vcpu/mem/watch.h"
#include "vcpu/svm/nested.h"

/* The I/O permission map: a bit a port, and some behind the last for accesses that reach over. */
#define IOPM_BYTES (3u * 4096u)
#define MSRPM_BYTES (2u * 4096u)
#define SAVE_BYTES offsetof(struct vmcb_save, reserved7)
#define CONTROL_BYTES offsetof(struct vmcb_control, reserved5)

#define CPUID_SKINIT (UINT32_C(1) << 12) /* leaf 80000001, ECX */

#define EFER_KNOWN (EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE | EFER_SVME)
#define CR4_KNOWN                                                                                 \
	(CR4_VME | CR4_PVI | CR4_TSD | CR4_DE | CR4_PSE | CR4_PAE | CR4_MCE | CR4_PGE | CR4_PCE | \
	 CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_UMIP | CR4_FSGSBASE | CR4_PCIDE | CR4_OSXSAVE |        \
	 CR4_SMEP | CR4_SMAP | CR4_PKE)

static int gpa_is_valid(const struct cpu *cpu, uint64_t gpa, uint64_t size_bytes)
{
	uint64_t end = (UINT64_C(1) << cpu->svm.phys_bits) - size_bytes;

	return gpa <= end;
}

/* #DE to #XM without the reserved ones and NMI, and the two that only a hypervisor injects. */
#define EXCEPTIONS_THAT_ARE UINT32_C(0x500f7dfb)

static int event_is_valid(uint64_t event)
{
	unsigned int type = event >> VMCB_EVENT_TYPE_SHIFT & 7, vector = event & 0xff;

	if (!(event & VMCB_EVENT_VALID))
		return 1;
	if (type == EVENT_EXCEPTION)
		return vector < 32 && (EXCEPTIONS_THAT_ARE >> vector & 1);
	return type == EVENT_INTERRUPT || type == EVENT_NMI || type == EVENT_SOFT_INTERRUPT;
}

void svm_sanitize(struct cpu *cpu, struct vmcb_control *control)
{
	const uint64_t misc = control->misc, misc2 = control->misc2;
	const uint32_t int_ctl = control->int_ctl;
	uint32_t features[4], basic[4], structured[4];

	cpu->ops->cpuid(cpu->ctx, SVM_CPUID_LEAF, 0, features);
	cpu->ops->cpuid(cpu->ctx, UINT32_C(0x80000001), 0, basic);
	cpu->ops->cpuid(cpu->ctx, 7, 0, structured);
	if (!(features[3] & SVM_CPUID_NPT))
		control->misc &= ~VMCB_NESTED_PAGING;
	if (!(features[3] & SVM_CPUID_VIRTUAL_VMLOAD))
		control->misc2 &= ~VMCB_VIRTUAL_VMLOAD;
	if (!(features[3] & SVM_CPUID_V_GIF))
		control->int_ctl &= ~VMCB_V_GIF_ENABLE;
	if (!(basic[2] & CPUID_SKINIT))
		control->intercept &= ~(UINT64_C(1) << INTERCEPT_SKINIT);
	cpu->svm.ignored.misc = misc & ~control->misc;
	cpu->svm.ignored.misc2 = misc2 & ~control->misc2;
	cpu->svm.ignored.int_ctl = int_ctl & ~control->int_ctl;
	cpu->svm.phys_bits = directories_phys_bits(cpu);
	cpu->svm.has_la57 = structured[2] >> 16 & 1;
	cpu->svm.has_next_rip = (features[3] & SVM_CPUID_NEXT_RIP) != 0;
}

void svm_set_gif(struct cpu *cpu, int gif)
{
	cpu->svm.gif = gif != 0;
	if (!gif || !cpu->svm.awaits_gif)
		return;
	cpu->svm.awaits_gif = 0;
	cpu->deferred_requests |= UINT64_C(1) << QUIRE_REQ_CLIENT_SHIFT;
}

/* The low bits of the maps' addresses are ignored. */
int svm_check_control(const struct cpu *cpu, const struct vmcb_control *control)
{
	if (!(control->intercept >> INTERCEPT_VMRUN & 1) || !control->asid)
		return -EINVAL;
	if ((control->misc & VMCB_NESTED_PAGING) && !gpa_is_valid(cpu, control->nested_cr3, 0x1000))
		return -EINVAL;
	if (!gpa_is_valid(cpu, control->iopm_gpa & PAGE_NUMBER_MASK, IOPM_BYTES) ||
	    !gpa_is_valid(cpu, control->msrpm_gpa & PAGE_NUMBER_MASK, MSRPM_BYTES))
		return -EINVAL;
	return event_is_valid(control->event_inj) ? 0 : -EINVAL;
}

int svm_check_save(const struct cpu *cpu, const struct vmcb_save *save)
{
	unsigned int code = save->cs.attributes;

	if (!(save->efer & EFER_SVME) || (save->efer & ~EFER_KNOWN))
		return -EINVAL;
	if (save->cr0 >> 32 || (!(save->cr0 & CR0_CD) && (save->cr0 & CR0_NW)))
		return -EINVAL;
	if ((save->cr4 & ~(CR4_KNOWN | (cpu->svm.has_la57 ? CR4_LA57 : 0))) || save->dr6 >> 32 ||
	    save->dr7 >> 32)
		return -EINVAL;
	if (save->cr3 >> cpu->svm.phys_bits)
		return -EINVAL;
	if (!(save->efer & EFER_LME) || !(save->cr0 & CR0_PG))
		return 0;
	if (!(save->cr4 & CR4_PAE) || !(save->cr0 & CR0_PE))
		return -EINVAL;
	return (code >> 9 & 1) && (code >> 10 & 1) ? -EINVAL : 0;
}

/* PAE's directories are read when L2 is entered, and not again while it runs. */
static void read_directories(struct cpu *cpu, uint64_t nested_cr3, struct quire_nested *nested)
{
	gpa_t gpa = {nested_cr3 & ~(uint64_t)(sizeof(nested->directories) - 1)};

	if (quire_vcpu_read(cpu->vcpu, gpa, nested->directories, sizeof(nested->directories)))
		memset(nested->directories, 0, sizeof(nested->directories));
}

/* L1's nested tables have the format of its own paging, which need not be on. */
static struct quire_nested nested_tables_of(struct cpu *cpu, const struct vmcb_control *control,
					    const struct svm_l1 *l1)
{
	struct quire_nested nested = {
	    .root = {control->nested_cr3 & PAGE_NUMBER_MASK},
	    .levels = l1->cr4 & CR4_PAE ? 3 : 2,
	    .smep = (l1->cr4 & CR4_SMEP) != 0,
	};

	if (l1->efer & EFER_LMA)
		nested.levels = l1->cr4 & CR4_LA57 ? 5 : 4;
	if (nested.levels == 2)
		nested.pse = (l1->cr4 & CR4_PSE) != 0;
	else
		nested.nx = (l1->efer & EFER_NXE) != 0;
	if (nested.levels == 3)
		read_directories(cpu, control->nested_cr3, &nested);
	return nested;
}

static int take_nested_tables(struct cpu *cpu, const struct vmcb_control *control,
			      const struct svm_l1 *l1)
{
	int wanted = (control->misc & VMCB_NESTED_PAGING) != 0;
	struct quire_nested nested = {0};
	int error = 0;

	/* A processor without a second stage has none for guests of guests. */
	if (wanted && cpu->single_stage)
		return -EOPNOTSUPP;
	if (wanted)
		nested = nested_tables_of(cpu, control, l1);
	if (wanted || cpu->svm.nested_paging)
		error = quire_vcpu_set_nested(cpu->vcpu, wanted ? &nested : NULL);
	if (error)
		return error;
	cpu->svm.nested_paging = wanted;
	if (wanted && (control->tlb_control || control->asid != cpu->svm.control.asid))
		quire_vcpu_flush_nested(cpu->vcpu);
	return 0;
}

int svm_take_control(struct cpu *cpu, const struct vmcb_control *control, const struct svm_l1 *l1)
{
	struct svm *svm = &cpu->svm;
	int error = take_nested_tables(cpu, control, l1);

	if (error)
		return error;
	svm->control = *control;
	svm->tsc_offset = control->tsc_offset;
	return 0;
}

/* What L1 injects passes by its intercepts. */
static void inject(struct cpu *cpu, uint64_t event)
{
	struct cpu_state *s = &cpu->s;
	unsigned int type = event >> VMCB_EVENT_TYPE_SHIFT & 7;
	uint8_t vector = event;

	cpu->svm.has_soft_rip = 0;
	if (!(event & VMCB_EVENT_VALID))
		return;
	/* Without that feature L1 moves RIP itself. */
	cpu->svm.soft_rip = cpu->svm.has_next_rip ? cpu->svm.control.next_rip : s->rip;
	switch (type) {
	case EVENT_EXCEPTION:
		s->exception_pending = 1;
		s->exception_injected = 1;
		s->exception_vector = vector;
		s->exception_has_error = (event & VMCB_EVENT_HAS_ERROR) != 0;
		s->exception_error = event >> 32;
		s->exception_has_payload = 0;
		cpu->svm.has_soft_rip = vector == VECTOR_BP || vector == VECTOR_OF;
		break;
	case EVENT_NMI:
		s->nmi_injected = 1;
		break;
	default:
		s->interrupt_injected = 1;
		s->interrupt_vector = vector;
		s->interrupt_soft = type == EVENT_SOFT_INTERRUPT;
		cpu->svm.has_soft_rip = s->interrupt_soft;
		break;
	}
}

/* VMRUN fails: L1 goes on behind it and finds the reason in its VMCB. */
static int refuse(struct cpu *cpu, uint64_t gpa, struct vmcb_control *control)
{
	struct quire_map map;
	int error;

	control->exit_code = VMCB_EXIT_INVALID;
	control->exit_info1 = 0;
	control->exit_info2 = 0;
	control->exit_int_info = 0;
	control->event_inj = 0;
	cpu->svm.gif = 0;
	if (quire_vcpu_map(cpu->vcpu, (gpa_t){gpa}, QUIRE_MAP_WRITE, &map))
		return SVM_NO_MEMORY_THERE;
	error = quire_map_write(cpu->vcpu, &map, 0, control, CONTROL_BYTES);
	quire_vcpu_unmap(cpu->vcpu, &map);
	return error ? SVM_NO_MEMORY_THERE : SVM_DONE;
}

/* A shared PAT is not looked at. */
static int pat_will_do(const struct cpu *cpu, const struct vmcb_control *control,
		       const struct vmcb_save *save)
{
	return !cpu->svm.separate_pat || !(control->misc & VMCB_NESTED_PAGING) ||
	       cpu_pat_is_valid(save->pat);
}

/*
 * May VMRUN load PAE's directory entries from the CR3 of @save? Under nested paging it loads none:
 * each is read when a walk needs it.
 */
static int directories_of_save_will_do(struct cpu *cpu, const struct vmcb_control *control,
				       const struct vmcb_save *save)
{
	if ((control->misc & VMCB_NESTED_PAGING) || !(save->cr0 & CR0_PG) ||
	    !(save->cr4 & CR4_PAE) || (save->efer & EFER_LME))
		return 1;
	return directories_will_do(cpu, save->cr3);
}

/* -EINVAL: the processor refuses it. */
static int take_vmcb(struct cpu *cpu, const struct vmcb *vmcb, const struct svm_l1 *l1)
{
	struct vmcb_control control = vmcb->control;

	svm_sanitize(cpu, &control);
	if (svm_check_control(cpu, &control) || svm_check_save(cpu, &vmcb->save) ||
	    !pat_will_do(cpu, &control, &vmcb->save) ||
	    !directories_of_save_will_do(cpu, &control, &vmcb->save))
		return -EINVAL;
	return svm_take_control(cpu, &control, l1);
}

static int read_vmcb(struct cpu *cpu, uint64_t gpa, struct vmcb *vmcb)
{
	struct quire_map map;
	int error = quire_vcpu_map(cpu->vcpu, (gpa_t){gpa}, QUIRE_MAP_READ, &map);

	if (error)
		return error;
	error = quire_map_read(cpu->vcpu, &map, 0, vmcb, offsetof(struct vmcb, save) + SAVE_BYTES);
	quire_vcpu_unmap(cpu->vcpu, &map);
	return error;
}

/* L2's registers, once L1's are kept. */
static void begin_l2(struct cpu *cpu, uint64_t gpa, const struct vmcb *vmcb)
{
	struct svm *svm = &cpu->svm;

	svm_load_registers(cpu, &vmcb->save);
	tlb_watch_enter_nested(cpu, vmcb->control.asid, vmcb->control.tlb_control);
	if (svm_has_own_pat(cpu))
		cpu->s.pat = vmcb->save.pat;
	cpu->s.interrupt_shadow = vmcb->control.int_state & VMCB_INT_STATE_SHADOW;
	svm->vmcb_gpa = gpa;
	svm->in_guest_mode = 1;
	svm->run_pending = 1;
	svm_set_gif(cpu, 1);
	cpu->debug.no_trap = 1;
	cpu_count(&cpu->counts.nested_enters);
	inject(cpu, vmcb->control.event_inj);
}

int svm_enter(struct cpu *cpu, uint64_t gpa, uint64_t next_rip)
{
	struct svm *svm = &cpu->svm;
	struct vmcb vmcb;
	int error;

	if (read_vmcb(cpu, gpa, &vmcb))
		return SVM_NO_MEMORY_THERE;
	error = take_vmcb(cpu, &vmcb, &(struct svm_l1){cpu->s.efer, cpu->s.cr4});
	if (error == -EINVAL || error == -EOPNOTSUPP) {
		cpu->s.rip = next_rip;
		return refuse(cpu, gpa, &vmcb.control);
	}
	if (error)
		return error;
	svm_store_registers(cpu, &svm->host);
	svm->host.rip = next_rip;
	svm->host.pat = cpu->s.pat;
	begin_l2(cpu, gpa, &vmcb);
	return SVM_DONE;
}

/* The host save area has the layout of a VMCB's. What VMRUN does not move stays as it is there. */
static int access_host_save(struct cpu *cpu, struct vmcb_save *save, enum quire_map_kind kind)
{
	struct quire_map map;
	int error = quire_vcpu_map(cpu->vcpu, (gpa_t){cpu->s.vm_hsave}, kind, &map);

	if (error)
		return error;
	if (kind == QUIRE_MAP_READ)
		error =
		    quire_map_read(cpu->vcpu, &map, offsetof(struct vmcb, save), save, SAVE_BYTES);
	else
		error =
		    quire_map_write(cpu->vcpu, &map, offsetof(struct vmcb, save), save, SAVE_BYTES);
	quire_vcpu_unmap(cpu->vcpu, &map);
	return error;
}

int svm_suspend(struct cpu *cpu)
{
	struct vmcb_save save;
	uint64_t cr2, dr6, dr7;

	if (svm_vmexit_code(cpu, VMCB_EXIT_SW, NULL) != SVM_DONE)
		return -EFAULT;
	if (access_host_save(cpu, &save, QUIRE_MAP_READ))
		return -EFAULT;
	cr2 = save.cr2;
	dr6 = save.dr6;
	dr7 = save.dr7;
	svm_store_registers(cpu, &save);
	save.cpl = 0;
	save.cr2 = cr2;
	save.dr6 = dr6;
	save.dr7 = dr7;
	return access_host_save(cpu, &save, QUIRE_MAP_WRITE);
}

int svm_resume(struct cpu *cpu, uint64_t gpa)
{
	struct vmcb_save *l1 = &cpu->svm.host;
	struct vmcb vmcb;
	int error = access_host_save(cpu, l1, QUIRE_MAP_READ);

	if (!error)
		error = read_vmcb(cpu, gpa, &vmcb);
	if (!error)
		error = take_vmcb(cpu, &vmcb, &(struct svm_l1){l1->efer, l1->cr4});
	if (error)
		return error;
	l1->pat = cpu->s.pat;
	begin_l2(cpu, gpa, &vmcb);
	return 0;
}

void cpu_nested_get(const struct cpu *cpu, struct cpu_nested *nested)
{
	memset(nested, 0, sizeof(*nested));
	nested->gif = cpu->svm.gif;
	nested->in_guest_mode = cpu->svm.in_guest_mode;
	nested->run_pending = cpu->svm.run_pending;
	if (!nested->in_guest_mode)
		return;
	nested->vmcb_gpa = cpu->svm.vmcb_gpa;
	nested->vmcb.control = cpu->svm.control;
	nested->vmcb.control.next_rip = cpu->svm.has_soft_rip ? cpu->svm.soft_rip : cpu->s.rip;
	nested->vmcb.save = cpu->svm.host;
	nested->pat = cpu->s.pat;
}

int cpu_nested_set(struct cpu *cpu, const struct cpu_nested *nested)
{
	const struct vmcb_save *save = &nested->vmcb.save;
	struct vmcb_control control = nested->vmcb.control;
	int error;

	if (!nested->in_guest_mode) {
		cpu_nested_leave(cpu);
		cpu->svm.gif = nested->gif;
		return 0;
	}
	svm_sanitize(cpu, &control);
	if (svm_check_control(cpu, &control) || svm_check_save(cpu, save) ||
	    !(save->cr0 & CR0_PG) || !(save->cr0 & CR0_PE) || (save->rflags & FLAG_VM))
		return -EINVAL;
	if (cpu->svm.separate_pat && (control.misc & VMCB_NESTED_PAGING) &&
	    !(cpu_pat_is_valid(nested->pat) && cpu_pat_is_valid(save->pat)))
		return -EINVAL;
	error = svm_take_control(cpu, &control, &(struct svm_l1){save->efer, save->cr4});
	if (error)
		return error;
	cpu->svm.host = *save;
	if (svm_has_own_pat(cpu))
		cpu->s.pat = nested->pat;
	cpu->svm.vmcb_gpa = nested->vmcb_gpa;
	cpu->svm.in_guest_mode = 1;
	cpu->svm.run_pending = nested->run_pending;
	cpu->svm.gif = nested->gif;
	tlb_flush_all(cpu);
	tlb_watch_enter_nested(cpu, control.asid, 1);
	return 0;
}

void cpu_nested_separate_pat(struct cpu *cpu, int separate)
{
	cpu->svm.separate_pat = separate != 0;
}

uint64_t *cpu_nested_l1_pat(struct cpu *cpu)
{
	return svm_has_own_pat(cpu) ? &cpu->svm.host.pat : &cpu->s.pat;
}

int cpu_nested_active(const struct cpu *cpu)
{
	return cpu->svm.in_guest_mode;
}

uint64_t cpu_nested_tsc_offset(const struct cpu *cpu)
{
	return cpu->svm.tsc_offset;
}

int cpu_nested_gif(const struct cpu *cpu)
{
	return cpu->svm.gif;
}

void cpu_nested_await_gif(struct cpu *cpu)
{
	cpu->svm.awaits_gif = 1;
}

void cpu_nested_leave(struct cpu *cpu)
{
	if (cpu->svm.in_guest_mode)
		svm_restore_host(cpu);
	cpu->svm.gif = 1;
}

void cpu_nested_forget(struct cpu *cpu)
{
	svm_drop_nested_tables(cpu);
	cpu->svm.in_guest_mode = 0;
	cpu->svm.run_pending = 0;
	cpu->svm.awaits_gif = 0;
	cpu->svm.tsc_offset = 0;
	cpu->svm.has_soft_rip = 0;
	cpu->svm.gif = 1;
	/* In this order: a flush while L2 runs is L2's, and leaves L1's nested tables held. */
	tlb_watch_enter_host(cpu);
	tlb_watch_flush_all(cpu);
}

static int leave_if_intercepted(struct cpu *cpu, enum vmcb_intercept which)
{
	if (!cpu->svm.in_guest_mode || !(cpu->svm.control.intercept >> which & 1))
		return 0;
	return svm_vmexit_code(cpu, VMCB_EXIT_INTR + which, NULL) == SVM_DONE;
}

int cpu_nested_shutdown(struct cpu *cpu)
{
	return leave_if_intercepted(cpu, INTERCEPT_SHUTDOWN);
}

int cpu_nested_page_fault(struct cpu *cpu, uint64_t address)
{
	cpu->op = NULL;
	svm_exit(cpu, VMCB_EXIT_EXCEPTION + VECTOR_PF, 0, address);
	cpu->stop = STOP_NONE;
	return svm_vmexit(cpu, NULL) == SVM_DONE;
}

int cpu_nested_init(struct cpu *cpu)
{
	return leave_if_intercepted(cpu, INTERCEPT_INIT);
}
