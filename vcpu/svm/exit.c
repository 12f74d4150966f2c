/* Leaving L2: recording an exit, writing L1's VMCB, bringing L1's registers back. */
#include "vcpu/svm/svm.h"

#include "vcpu/exec/flags.h"
#include "vcpu/exec/operand.h"
#include "vcpu/mem/mmu.h"
#include "vcpu/mem/segment.h"
#include "vcpu/mem/watch.h"
#include "vcpu/run/run.h"

/* The part of the control area that #VMEXIT writes. */
#define WRITTEN_FIRST offsetof(struct vmcb_control, int_ctl)
#define WRITTEN_END offsetof(struct vmcb_control, reserved5)
#define SAVE_BYTES offsetof(struct vmcb_save, reserved7)
#define SAVE_OFFSET offsetof(struct vmcb, save)

enum step svm_exit(struct cpu *cpu, uint64_t code, uint64_t info1, uint64_t info2)
{
	cpu->svm.exit.code = code;
	cpu->svm.exit.info1 = info1;
	cpu->svm.exit.info2 = info2;
	cpu->svm.exit.next_rip = cpu->op ? op_next_rip(cpu, cpu->op) : 0;
	cpu->stop = STOP_VMEXIT;
	return STEP_ABORT;
}

/* VMRUN and VMLOAD make bases canonical: the highest bit of an address is copied upwards. */
struct cpu_segment svm_segment_load(const struct vmcb_segment *from)
{
	struct cpu_segment segment = {
	    .base = mmu_make_canonical_base(from->base),
	    .limit = from->limit,
	    .selector = from->selector,
	};

	segment_set_attributes(&segment, from->attributes);
	segment.unusable = !segment.present;
	return segment;
}

struct vmcb_segment svm_segment_store(const struct cpu_segment *from)
{
	struct cpu_segment segment = *from;

	segment.present = from->present && !from->unusable;
	return (struct vmcb_segment){
	    .selector = segment.selector,
	    .attributes = (uint16_t)segment_attributes(&segment),
	    .limit = segment.limit,
	    .base = segment.base,
	};
}

static struct vmcb_segment store_table(const struct cpu_table *from)
{
	return (struct vmcb_segment){.limit = from->limit, .base = from->base};
}

void svm_store_registers(const struct cpu *cpu, struct vmcb_save *save)
{
	const struct cpu_state *s = &cpu->s;

	save->es = svm_segment_store(&s->seg[CPU_ES]);
	save->cs = svm_segment_store(&s->seg[CPU_CS]);
	save->ss = svm_segment_store(&s->seg[CPU_SS]);
	save->ds = svm_segment_store(&s->seg[CPU_DS]);
	save->gdtr = store_table(&s->gdt);
	save->idtr = store_table(&s->idt);
	save->cpl = cpu->cpl;
	save->efer = s->efer;
	save->cr0 = s->cr0;
	save->cr2 = s->cr2;
	save->cr3 = s->cr3;
	save->cr4 = s->cr4;
	save->dr6 = s->dr6;
	save->dr7 = s->dr7;
	save->rflags = flags_get(cpu);
	save->rip = s->rip;
	save->rsp = s->gpr[CPU_RSP];
	save->rax = s->gpr[CPU_RAX];
}

void svm_load_registers(struct cpu *cpu, const struct vmcb_save *save)
{
	struct cpu_state *s = &cpu->s;

	s->seg[CPU_ES] = svm_segment_load(&save->es);
	s->seg[CPU_CS] = svm_segment_load(&save->cs);
	s->seg[CPU_SS] = svm_segment_load(&save->ss);
	s->seg[CPU_DS] = svm_segment_load(&save->ds);
	s->seg[CPU_SS].dpl = save->cpl & 3;
	s->gdt = (struct cpu_table){mmu_make_canonical_base(save->gdtr.base), save->gdtr.limit};
	s->idt = (struct cpu_table){mmu_make_canonical_base(save->idtr.base), save->idtr.limit};
	s->efer = save->efer & ~EFER_LMA;
	if ((save->efer & EFER_LME) && (save->cr0 & CR0_PG))
		s->efer |= EFER_LMA;
	s->cr0 = save->cr0 | CR0_ET;
	s->cr2 = save->cr2;
	s->cr3 = save->cr3;
	s->cr4 = save->cr4;
	/* Those of the CR3 above, before any code runs by them. */
	s->directories_loaded = 0;
	s->dr6 = save->dr6;
	s->dr7 = save->dr7;
	flags_set(cpu, save->rflags);
	s->rip = save->rip;
	s->gpr[CPU_RSP] = save->rsp;
	s->gpr[CPU_RAX] = save->rax;
	/* Translations carry no ASID, but for the watch, whose flushes are the callers'. */
	tlb_drop_all(cpu);
	cpu_note_paging(cpu);
	cpu_update_mode(cpu);
}

void svm_drop_nested_tables(struct cpu *cpu)
{
	if (!cpu->svm.nested_paging)
		return;
	cpu->svm.nested_paging = 0;
	/* Leaving needs no memory. */
	(void)!quire_vcpu_set_nested(cpu->vcpu, NULL);
}

int svm_restore_host(struct cpu *cpu)
{
	struct svm *svm = &cpu->svm;
	struct cpu_state *s = &cpu->s;

	if (svm_has_own_pat(cpu))
		s->pat = svm->host.pat;
	svm_drop_nested_tables(cpu);
	svm->in_guest_mode = 0;
	svm->run_pending = 0;
	svm->tsc_offset = 0;
	svm->has_soft_rip = 0;
	svm->host.cr2 = s->cr2;
	svm->host.dr6 = s->dr6;
	svm->host.dr7 = DR7_FIXED;
	svm->host.cpl = 0;
	svm->host.cr0 |= CR0_PE;
	svm->host.rflags &= ~FLAG_VM;
	tlb_watch_leave_nested(cpu);
	svm_load_registers(cpu, &svm->host);
	tlb_watch_enter_host(cpu);
	s->halted = 0;
	s->interrupt_shadow = 0;
	s->exception_pending = 0;
	s->exception_injected = 0;
	s->interrupt_injected = 0;
	s->nmi_injected = 0;
	return 0;
}

static uint64_t describe_event(const struct event *event)
{
	unsigned int type = event->type == EVENT_SOFT_EXCEPTION ? EVENT_EXCEPTION : event->type;
	uint64_t info = VMCB_EVENT_VALID | type << VMCB_EVENT_TYPE_SHIFT | event->vector;

	if (event->has_error)
		info |= VMCB_EVENT_HAS_ERROR | (uint64_t)event->error << 32;
	return info;
}

/* L1 single-steps its VMRUN, which is done now. */
static void trap_after_vmrun(struct cpu *cpu)
{
	struct cpu_state *s = &cpu->s;

	if (!(s->rflags & FLAG_TF))
		return;
	s->exception_pending = 1;
	s->exception_vector = VECTOR_DB;
	s->exception_has_error = 0;
	s->exception_has_payload = 0;
}

int svm_vmexit(struct cpu *cpu, const struct event *first)
{
	struct svm *svm = &cpu->svm;
	struct vmcb_control *control = &svm->control;
	struct vmcb_save save;
	struct quire_map map;
	int error = quire_vcpu_map(cpu->vcpu, (gpa_t){svm->vmcb_gpa}, QUIRE_MAP_WRITE, &map);
	int mapped = !error;

	if (!error)
		error = quire_map_read(cpu->vcpu, &map, SAVE_OFFSET, &save, SAVE_BYTES);

	svm_store_registers(cpu, &save);
	if (svm_has_own_pat(cpu))
		save.pat = cpu->s.pat;
	control->int_state = cpu->s.interrupt_shadow ? VMCB_INT_STATE_SHADOW : 0;
	control->exit_code = svm->exit.code;
	control->exit_info1 = svm->exit.info1;
	control->exit_info2 = svm->exit.info2;
	control->exit_int_info = first ? describe_event(first) : 0;
	if (svm->has_next_rip)
		control->next_rip = svm->exit.next_rip;
	control->event_inj = 0;
	control->int_ctl |= svm->ignored.int_ctl;
	control->misc |= svm->ignored.misc;
	control->misc2 |= svm->ignored.misc2;
	if (!error)
		error = quire_map_write(cpu->vcpu, &map, SAVE_OFFSET, &save, SAVE_BYTES);
	if (!error)
		error = quire_map_write(cpu->vcpu, &map, WRITTEN_FIRST,
					(const char *)control + WRITTEN_FIRST,
					WRITTEN_END - WRITTEN_FIRST);
	if (mapped)
		quire_vcpu_unmap(cpu->vcpu, &map);
	svm->gif = 0;
	svm_restore_host(cpu);
	trap_after_vmrun(cpu);
	return error ? SVM_NO_MEMORY_THERE : SVM_DONE;
}

int svm_vmexit_code(struct cpu *cpu, uint64_t code, const struct event *first)
{
	cpu->op = NULL;
	svm_exit(cpu, code, 0, 0);
	cpu->stop = STOP_NONE;
	return svm_vmexit(cpu, first);
}
