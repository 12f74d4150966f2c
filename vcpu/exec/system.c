/* Descriptor tables, flags with privilege, software interrupts, SYSCALL and SYSENTER, HLT. */
#include "vcpu/decode/code.h"
#include "vcpu/exec/exec.h"
#include "vcpu/exec/flags.h"
#include "vcpu/exec/operand.h"
#include "vcpu/exec/system.h"
#include "vcpu/mem/mem.h"
#include "vcpu/mem/mmu.h"
#include "vcpu/mem/segment.h"
#include "vcpu/run/debug.h"
#include "vcpu/run/event.h"
#include "vcpu/run/raise.h"
#include "vcpu/run/replay.h"
#include "vcpu/smm/smm.h"
#include "vcpu/svm/svm.h"

#define TYPE_TSS16 1u
#define TYPE_LDT 2u
#define TYPE_TSS 9u
#define TYPE_BUSY 2u

static enum step general_protection(struct cpu *cpu)
{
	return cpu_raise_error(cpu, VECTOR_GP, 0);
}

/* SGDT, SIDT, SLDT, STR, SMSW give addresses away: UMIP keeps them from user mode. */
static int umip_forbids(const struct cpu *cpu)
{
	return cpu->cpl && (cpu->s.cr4 & CR4_UMIP);
}

static struct cpu_table *table_of(struct cpu *cpu, const struct op *op)
{
	return op->aux ? &cpu->s.idt : &cpu->s.gdt;
}

static enum step load_table(struct cpu *cpu, const struct op *op)
{
	unsigned int base_bytes = cpu->code_bytes == 8 ? 8 : 4;
	struct cpu_table *table = table_of(cpu, op);
	uint64_t linear, limit, base = 0;
	enum step step;

	if (cpu->cpl)
		return general_protection(cpu);
	step = svm_intercept(cpu, op->aux ? INTERCEPT_LIDT : INTERCEPT_LGDT);
	if (!step)
		step = op_linear(cpu, op, &linear);
	if (!step)
		step = mem_load(cpu, linear, 2, &limit);
	if (!step)
		step = mem_load(cpu, linear + 2, base_bytes, &base);
	if (step)
		return step;
	if (cpu->code_bytes == 8 && !mmu_is_canonical_base(base))
		return general_protection(cpu);
	if (cpu->code_bytes != 8 && (cpu->code_bytes == 2) == !(op->flags & OP_OPSIZE_PREFIX))
		base &= 0xffffff;
	table->base = base;
	table->limit = limit;
	code_serialise(cpu);
	return STEP_END;
}

static enum step store_table(struct cpu *cpu, const struct op *op)
{
	const struct cpu_table *table = table_of(cpu, op);
	uint8_t image[10];
	uint64_t linear;
	enum step step;

	if (umip_forbids(cpu))
		return general_protection(cpu);
	step = svm_intercept(cpu, op->aux ? INTERCEPT_SIDT : INTERCEPT_SGDT);
	if (!step)
		step = op_linear(cpu, op, &linear);
	if (step)
		return step;
	memcpy(image, &table->limit, 2);
	memcpy(image + 2, &table->base, 8);
	return mem_write(cpu, linear, image, cpu->code_bytes == 8 ? 10 : 6);
}

static enum step store_selector(struct cpu *cpu, const struct op *op)
{
	uint16_t selector = cpu->s.seg[op->aux].selector;
	enum step step;

	if (!cpu_is_protected(cpu))
		return cpu_raise(cpu, VECTOR_UD);
	if (umip_forbids(cpu))
		return general_protection(cpu);
	step = svm_intercept(cpu, op->aux == CPU_TR ? INTERCEPT_STR : INTERCEPT_SLDT);
	if (step)
		return step;
	if (op->kind[0] == OPERAND_MEM)
		return op_store(cpu, op, 2, selector);
	reg_set(cpu, op->dst, op->size, selector);
	return STEP_NEXT;
}

/* A descriptor of LDTR or TR, checked. */
static enum step system_segment(struct cpu *cpu, uint16_t selector, unsigned int type,
				struct cpu_segment *segment)
{
	uint32_t error = selector & ~3u;
	uint64_t low, high = 0;
	enum step step;

	if (selector & 4)
		return cpu_raise_error(cpu, VECTOR_GP, error);
	step = descriptor_read(cpu, selector, &low);
	if (!step && cpu_is_long(cpu))
		step = descriptor_read_high(cpu, selector, &high);
	if (step)
		return step;
	*segment = descriptor_decode(selector, low);
	segment->base |= high << 32;
	if (segment->s || (segment->type != type &&
			   !(type == TYPE_TSS && segment->type == TYPE_TSS16 && !cpu_is_long(cpu))))
		return cpu_raise_error(cpu, VECTOR_GP, error);
	if (!segment->present)
		return cpu_raise_error(cpu, VECTOR_NP, error);
	if (!mmu_is_canonical_base(segment->base))
		return cpu_raise_error(cpu, VECTOR_GP, error);
	if (type == TYPE_LDT)
		return STEP_NEXT;
	segment->type |= TYPE_BUSY;
	return descriptor_set_type(cpu, selector, TYPE_BUSY);
}

static enum step load_system(struct cpu *cpu, const struct op *op)
{
	unsigned int seg = op->aux;
	struct cpu_segment segment = {.unusable = 1};
	uint64_t selector;
	enum step step;

	if (!cpu_is_protected(cpu))
		return cpu_raise(cpu, VECTOR_UD);
	if (cpu->cpl)
		return general_protection(cpu);
	step = svm_intercept(cpu, seg == CPU_TR ? INTERCEPT_LTR : INTERCEPT_LLDT);
	if (!step)
		step = op_read(cpu, op, 0, 2, &selector);
	if (step)
		return step;
	if (selector & ~UINT64_C(3))
		step = system_segment(cpu, selector, seg == CPU_TR ? TYPE_TSS : TYPE_LDT, &segment);
	else if (seg == CPU_TR)
		step = general_protection(cpu);
	else
		segment.selector = selector;
	if (step)
		return step;
	cpu->s.seg[seg] = segment;
	code_serialise(cpu);
	return STEP_END;
}

/* LAR and LSL: ZF says whether the descriptor could be looked at. */
static int descriptor_is_visible(const struct cpu *cpu, const struct cpu_segment *segment,
				 int for_limit)
{
	unsigned int rpl = segment->selector & 3;
	uint32_t system_types = cpu_is_long(cpu) ? 0xa04 : 0xa0e;

	if (!for_limit)
		system_types |= cpu_is_long(cpu) ? 0x1000 : 0x1030;
	if (!segment->s && !(system_types >> segment->type & 1))
		return 0;
	if (segment->s && (segment->type & 0xc) == 0xc)
		return 1;
	return segment->dpl >= cpu->cpl && segment->dpl >= rpl;
}

static void set_zf(struct cpu *cpu, int zf)
{
	uint64_t flags = flags_arithmetic(cpu) & ~FLAG_ZF;

	flags_set_arithmetic(cpu, zf ? flags | FLAG_ZF : flags);
}

/* A failed look-up is no fault here. */
static enum step descriptor_peek(struct cpu *cpu, uint64_t selector, uint64_t *descriptor, int *ok)
{
	enum step step;

	*ok = 0;
	if (!(selector & 0xfffc))
		return STEP_NEXT;
	step = descriptor_read(cpu, selector, descriptor);
	if (step && cpu->stop == STOP_EXCEPTION && cpu->exception.vector == VECTOR_GP) {
		cpu->stop = STOP_NONE;
		return STEP_NEXT;
	}
	*ok = !step;
	return step;
}

enum look { LOOK_LAR, LOOK_LSL, LOOK_VERR, LOOK_VERW };

static enum step look_descriptor(struct cpu *cpu, const struct op *op)
{
	struct cpu_segment segment = {0};
	uint64_t selector, descriptor = 0;
	int ok;
	enum step step;

	if (!cpu_is_protected(cpu))
		return cpu_raise(cpu, VECTOR_UD);
	step = op_read(cpu, op, op->aux >= LOOK_VERR ? 0 : 1, 2, &selector);
	if (!step)
		step = descriptor_peek(cpu, selector, &descriptor, &ok);
	if (step)
		return step;
	if (ok) {
		segment = descriptor_decode(selector, descriptor);
		ok = descriptor_is_visible(cpu, &segment, op->aux == LOOK_LSL);
	}
	if (op->aux == LOOK_VERR)
		ok = ok && segment.s && (!(segment.type & 8) || (segment.type & 2));
	if (op->aux == LOOK_VERW)
		ok = ok && segment.s && !(segment.type & 8) && (segment.type & 2);
	if (ok && op->aux == LOOK_LAR)
		reg_set(cpu, op->dst, op->size, descriptor >> 32 & 0xffff00);
	if (ok && op->aux == LOOK_LSL)
		reg_set(cpu, op->dst, op->size, segment.limit);
	set_zf(cpu, ok);
	return STEP_NEXT;
}

static unsigned int iopl(const struct cpu *cpu)
{
	return cpu->s.rflags >> 12 & 3;
}

static enum step cli(struct cpu *cpu, const struct op *op)
{
	if (cpu_is_protected(cpu) && cpu->cpl > iopl(cpu))
		return general_protection(cpu);
	cpu->s.rflags &= ~FLAG_IF;
	return STEP_NEXT;
}

/* Interrupts come after the instruction that follows. */
static enum step sti(struct cpu *cpu, const struct op *op)
{
	if (cpu_is_protected(cpu) && cpu->cpl > iopl(cpu))
		return general_protection(cpu);
	if (cpu->s.rflags & FLAG_IF)
		return STEP_NEXT;
	cpu->s.rflags |= FLAG_IF;
	cpu->s.interrupt_shadow = 1;
	return STEP_END;
}

static enum step pushf(struct cpu *cpu, const struct op *op)
{
	enum step step;

	if ((cpu->s.rflags & FLAG_VM) && iopl(cpu) < 3)
		return general_protection(cpu);
	step = svm_intercept(cpu, INTERCEPT_PUSHF);
	return step ? step : stack_push(cpu, op->aux, flags_get(cpu) & ~(FLAG_RF | FLAG_VM));
}

static enum step popf(struct cpu *cpu, const struct op *op)
{
	uint64_t mask = FLAGS_ARITHMETIC | FLAG_TF | FLAG_DF | FLAG_NT, old = cpu->s.rflags, value;
	enum step step;

	if ((cpu->s.rflags & FLAG_VM) && iopl(cpu) < 3)
		return general_protection(cpu);
	step = svm_intercept(cpu, INTERCEPT_POPF);
	if (!step)
		step = stack_pop(cpu, op->aux, &value);
	if (step)
		return step;
	if (op->aux > 2)
		mask |= FLAG_AC | FLAG_ID;
	if (cpu->cpl == 0)
		mask |= FLAG_IOPL;
	if (cpu->cpl <= iopl(cpu))
		mask |= FLAG_IF;
	flags_set(cpu, ((flags_get(cpu) & ~mask) | (value & mask)) & ~FLAG_RF);
	mmu_update_mode(cpu);
	return STEP_END | event_allowed(cpu, old);
}

static enum step change_ac(struct cpu *cpu, const struct op *op)
{
	if (cpu->cpl)
		return cpu_raise(cpu, VECTOR_UD);
	cpu->s.rflags = (cpu->s.rflags & ~FLAG_AC) | op->aux;
	mmu_update_mode(cpu);
	return STEP_NEXT;
}

static enum step hlt(struct cpu *cpu, const struct op *op)
{
	enum step step;

	if (cpu->cpl)
		return general_protection(cpu);
	step = svm_intercept(cpu, INTERCEPT_HLT);
	if (step)
		return step;
	cpu->s.halted = 1;
	return STEP_EVENTS;
}

/* An event that is an instruction's work. The handler is not stepped into: TF is clear there. */
static enum step deliver_own(struct cpu *cpu, const struct event *event)
{
	enum step step = event_deliver(cpu, event);

	if (step != STEP_ABORT)
		cpu->debug.no_trap = 1;
	return step;
}

static enum step soft_event(struct cpu *cpu, const struct op *op)
{
	struct event event = {.type = EVENT_SOFT_INTERRUPT,
			      .vector = op->aux ? op->aux : op->imm,
			      .return_rip = op_next_rip(cpu, op)};
	enum step step;

	if (op->aux == VECTOR_BP && cpu->debug.client.int3)
		return debug_exit(cpu, VECTOR_BP, cpu->s.dr6);
	if (op->aux)
		event.type = EVENT_SOFT_EXCEPTION;
	step = op->aux ? svm_intercept_exception(cpu, op->aux) : svm_intercept(cpu, INTERCEPT_INTN);
	return step ? step : deliver_own(cpu, &event);
}

static enum step into(struct cpu *cpu, const struct op *op)
{
	return flag_of(cpu) ? soft_event(cpu, op) : STEP_NEXT;
}

/*
 * INT1 raises #DB as hardware would, without a gate check. What MOV SS hit just before is told by
 * the same #DB.
 */
static enum step int1(struct cpu *cpu, const struct op *op)
{
	struct event event = {
	    .type = EVENT_EXCEPTION, .vector = VECTOR_DB, .return_rip = op_next_rip(cpu, op)};
	enum step step = svm_intercept(cpu, INTERCEPT_ICEBP);

	/* A client that takes #DB takes this one, too. */
	if (!step && (cpu->debug.client.hardware || (cpu->run_flags & CPU_RUN_STEP))) {
		cpu->s.rip = event.return_rip;
		return debug_exit(cpu, VECTOR_DB, DR6_FIXED | cpu->debug.hits);
	}
	if (!step)
		step = svm_intercept_exception(cpu, VECTOR_DB);
	if (!step)
		step = deliver_own(cpu, &event);
	if (step == STEP_ABORT)
		return step;
	cpu->s.dr6 = (cpu->s.dr6 & ~DR6_HITS) | cpu->debug.hits;
	cpu->debug.hits = 0;
	return step;
}

/* Flat segments, as SYSCALL and its kin load them without looking at a table. */
static struct cpu_segment flat_segment(uint16_t selector, unsigned int dpl, int is_code)
{
	return (struct cpu_segment){
	    .limit = UINT32_MAX,
	    .selector = selector,
	    .type = is_code ? 0xb : 3,
	    .s = 1,
	    .dpl = dpl,
	    .present = 1,
	    .db = 1,
	    .g = 1,
	};
}

static struct cpu_segment flat_code64(uint16_t selector, unsigned int dpl)
{
	struct cpu_segment segment = flat_segment(selector, dpl, 1);

	segment.l = 1;
	segment.db = 0;
	return segment;
}

int system_call_is_defined(const struct cpu *cpu)
{
	return (cpu->s.efer & EFER_SCE) && (cpu->s.cr0 & CR0_PE);
}

uint64_t syscall_enter_long(struct cpu *cpu, uint64_t next_rip, uint64_t flags)
{
	struct cpu_state *s = &cpu->s;
	uint16_t selector = s->star >> 32 & 0xfffc;

	flags &= ~FLAG_RF;
	s->gpr[CPU_RCX] = next_rip;
	s->gpr[11] = flags;
	s->rip = cpu->code_bytes == 8 ? s->lstar : s->cstar;
	s->seg[CPU_CS] = flat_code64(selector, 0);
	s->seg[CPU_SS] = flat_segment(selector + 8, 0, 0);
	return flags & ~s->sfmask;
}

static enum step syscall_enter(struct cpu *cpu, const struct op *op)
{
	struct cpu_state *s = &cpu->s;
	uint16_t selector = s->star >> 32 & 0xfffc;
	uint64_t next_rip = op_next_rip(cpu, op), flags = flags_get(cpu);

	if (!system_call_is_defined(cpu))
		return cpu_raise(cpu, VECTOR_UD);
	if (cpu_is_long(cpu)) {
		flags_set(cpu, syscall_enter_long(cpu, next_rip, flags));
	} else {
		reg_set(cpu, GPR_OFFSET(CPU_RCX), 4, next_rip);
		s->rip = (uint32_t)s->star;
		flags_set(cpu, flags & ~(FLAG_RF | FLAG_IF));
		s->seg[CPU_CS] = flat_segment(selector, 0, 1);
		s->seg[CPU_SS] = flat_segment(selector + 8, 0, 0);
	}
	cpu_update_mode(cpu);
	/* A handler that masks TF is not stepped into. */
	cpu->debug.no_trap = !(s->rflags & FLAG_TF);
	return STEP_JUMP;
}

/* TF that SYSRET loads traps at once: as if SYSCALL had just ended. */
static enum step sysret_trap(struct cpu *cpu)
{
	struct cpu_state *s = &cpu->s;

	cpu->debug.no_trap = 1;
	s->exception_pending = 1;
	s->exception_injected = 0;
	s->exception_vector = VECTOR_DB;
	s->exception_has_error = 0;
	s->exception_has_payload = 0;
	s->dr6 = (s->dr6 & ~UINT64_C(0xf)) | DR6_BS;
	return STEP_JUMP_EVENTS;
}

#define SYSRET_FLAGS UINT64_C(0x3c7fd7)

uint64_t sysret_long(struct cpu *cpu)
{
	struct cpu_state *s = &cpu->s;
	uint16_t selector = (s->star >> 48) | 3;

	s->rip = s->gpr[CPU_RCX];
	s->seg[CPU_CS] = flat_code64((selector + 16) | 3, 3);
	s->seg[CPU_SS] = flat_segment((selector + 8) | 3, 3, 0);
	return s->gpr[11] & SYSRET_FLAGS;
}

static enum step sysret(struct cpu *cpu, const struct op *op)
{
	struct cpu_state *s = &cpu->s;
	uint16_t selector = (s->star >> 48) | 3;
	uint64_t old = s->rflags, flags;
	int wide = op->aux != 0;

	if (!system_call_is_defined(cpu))
		return cpu_raise(cpu, VECTOR_UD);
	if (cpu->cpl || (wide && !mmu_is_canonical_now(cpu, s->gpr[CPU_RCX])))
		return general_protection(cpu);
	flags = cpu_is_long(cpu) ? s->gpr[11] & SYSRET_FLAGS : flags_get(cpu) | FLAG_IF;
	if (wide) {
		(void)sysret_long(cpu);
	} else {
		s->rip = (uint32_t)s->gpr[CPU_RCX];
		s->seg[CPU_CS] = flat_segment(selector, 3, 1);
		s->seg[CPU_SS] = flat_segment((selector + 8) | 3, 3, 0);
	}
	flags_set(cpu, flags);
	cpu_update_mode(cpu);
	cpu->debug.no_trap = 1;
	if (s->rflags & FLAG_TF)
		return sysret_trap(cpu);
	return STEP_JUMP | event_allowed(cpu, old);
}

static enum step sysenter(struct cpu *cpu, const struct op *op)
{
	struct cpu_state *s = &cpu->s;
	uint16_t selector = s->sysenter_cs & 0xfffc;

	if (!(s->cr0 & CR0_PE) || !selector)
		return general_protection(cpu);
	s->rflags &= ~(FLAG_VM | FLAG_IF | FLAG_RF);
	s->rip = cpu_is_long(cpu) ? s->sysenter_eip : (uint32_t)s->sysenter_eip;
	s->gpr[CPU_RSP] = cpu_is_long(cpu) ? s->sysenter_esp : (uint32_t)s->sysenter_esp;
	s->seg[CPU_CS] = cpu_is_long(cpu) ? flat_code64(selector, 0) : flat_segment(selector, 0, 1);
	s->seg[CPU_SS] = flat_segment(selector + 8, 0, 0);
	cpu_update_mode(cpu);
	return STEP_JUMP;
}

static enum step sysexit(struct cpu *cpu, const struct op *op)
{
	struct cpu_state *s = &cpu->s;
	uint16_t selector = s->sysenter_cs & 0xfffc;
	int wide = op->aux != 0;

	if (!(s->cr0 & CR0_PE) || !selector || cpu->cpl)
		return general_protection(cpu);
	if (wide && (!mmu_is_canonical_now(cpu, s->gpr[CPU_RDX]) ||
		     !mmu_is_canonical_now(cpu, s->gpr[CPU_RCX])))
		return general_protection(cpu);
	s->rip = wide ? s->gpr[CPU_RDX] : (uint32_t)s->gpr[CPU_RDX];
	s->gpr[CPU_RSP] = wide ? s->gpr[CPU_RCX] : (uint32_t)s->gpr[CPU_RCX];
	selector += wide ? 32 : 16;
	s->seg[CPU_CS] = wide ? flat_code64(selector | 3, 3) : flat_segment(selector | 3, 3, 1);
	s->seg[CPU_SS] = flat_segment((selector + 8) | 3, 3, 0);
	cpu_update_mode(cpu);
	return STEP_JUMP;
}

/* A REX.W prefix: the return is to 64-bit code. The binder leaves it in aux. */
static op_fn bind_wide_return(struct op *op, const struct decoded *decoded)
{
	int is_sysret = op->aux;

	op->aux = (decoded->insn.attributes & ZYDIS_ATTRIB_HAS_REX) && decoded->insn.raw.rex.W;
	return is_sysret ? sysret : sysexit;
}

static enum step swapgs(struct cpu *cpu, const struct op *op)
{
	uint64_t base = cpu->s.seg[CPU_GS].base;

	if (cpu->code_bytes != 8)
		return cpu_raise(cpu, VECTOR_UD);
	if (cpu->cpl)
		return general_protection(cpu);
	cpu->s.seg[CPU_GS].base = cpu->s.kernel_gs_base;
	cpu->s.kernel_gs_base = base;
	return STEP_NEXT;
}

static int may_use_fsgsbase(const struct cpu *cpu)
{
	return cpu->code_bytes == 8 && (cpu->s.cr4 & CR4_FSGSBASE);
}

static enum step rdbase(struct cpu *cpu, const struct op *op)
{
	if (!may_use_fsgsbase(cpu))
		return cpu_raise(cpu, VECTOR_UD);
	reg_set(cpu, op->dst, op->size, cpu->s.seg[op->aux].base);
	return STEP_NEXT;
}

static enum step wrbase(struct cpu *cpu, const struct op *op)
{
	uint64_t base = reg_get(cpu, op->dst, op->size);

	if (!may_use_fsgsbase(cpu))
		return cpu_raise(cpu, VECTOR_UD);
	if (!mmu_is_canonical_base(base))
		return general_protection(cpu);
	cpu->s.seg[op->aux].base = base;
	return STEP_NEXT;
}

/* The two hypercall instructions; aux of each is its last byte. */
enum { HYPERCALL_INTEL = 0xc1, HYPERCALL_AMD = 0xd9 };

/* Leaf 0, EBX: the first letters of AuthenticAMD and HygonGenuine. */
#define VENDOR_AMD 0x68747541u
#define VENDOR_HYGON 0x6f677948u

/* The same instruction once more, from the beginning. */
static enum step again(struct cpu *cpu)
{
	cpu->stop = STOP_NONE;
	return STEP_ABORT;
}

/*
 * The hypercall instruction of the processor that the guest sees: with SVM enabled always AMD's.
 * The first call asks CPUID, for which it leaves guest mode, and returns 0: run the instruction
 * again. The answer is kept, since CPUID does not change once the guest has run.
 */
static uint8_t native_hypercall(struct cpu *cpu)
{
	uint8_t known = cpu->native_hypercall;
	uint32_t leaf[4];

	if (cpu->s.efer & EFER_SVME)
		return HYPERCALL_AMD;
	if (likely(known))
		return known;
	cpu_leave_guest(cpu);
	cpu->ops->cpuid(cpu->ctx, 0, 0, leaf);
	cpu->native_hypercall =
	    leaf[1] == VENDOR_AMD || leaf[1] == VENDOR_HYGON ? HYPERCALL_AMD : HYPERCALL_INTEL;
	return 0;
}

/* KVM writes the right instruction over the wrong one, which then runs in its place. */
static enum step mend_hypercall(struct cpu *cpu, uint8_t native)
{
	const uint8_t code[] = {0x0f, 0x01, native};
	uint64_t linear = cpu->s.rip;
	enum step step;

	if (cpu->run_flags & CPU_RUN_KEEP_HYPERCALLS)
		return cpu_raise(cpu, VECTOR_UD);
	if (cpu->code_bytes != 8)
		linear = (uint32_t)(linear + cpu->s.seg[CPU_CS].base);
	step = mem_write(cpu, linear, code, sizeof(code));
	return step ? step : again(cpu);
}

static enum step hypercall(struct cpu *cpu, const struct op *op)
{
	struct cpu_io io = {.size_bytes = 8};
	const struct replay_entry *entry;
	uint8_t native = native_hypercall(cpu);
	enum step step;

	if (!native)
		return again(cpu);
	if (op->aux != native)
		return mend_hypercall(cpu, native);
	step = svm_intercept(cpu, INTERCEPT_VMMCALL);
	if (!step)
		step = replay_ask(cpu, REPLAY_HYPERCALL, &io, &entry);
	if (step)
		return step;
	if (entry->failed)
		return general_protection(cpu);
	memcpy(&cpu->s.gpr[CPU_RAX], entry->io.data, sizeof(uint64_t));
	return STEP_EVENTS;
}

/* Back to what the SMI interrupted. */
static enum step rsm(struct cpu *cpu, const struct op *op)
{
	enum step step = svm_intercept(cpu, INTERCEPT_RSM);

	if (step)
		return step;
	if (!cpu->s.smm)
		return cpu_raise(cpu, VECTOR_UD);
	cpu_leave_guest(cpu);
	if (smm_leave(cpu))
		return cpu_stop_exit(cpu, CPU_EXIT_SHUTDOWN);
	return STEP_JUMP_EVENTS;
}

#define CPUID_MWAIT 3 /* leaf 1, ECX */

/*
 * MWAIT goes on at once, as in KVM, and whether CPUID has it matters only to a client that asked
 * for that. The bit can change: it may follow MISC_ENABLE.
 */
static enum step monitor(struct cpu *cpu, const struct op *op)
{
	uint32_t leaf[4];
	enum step step;

	if (cpu->cpl)
		return cpu_raise(cpu, VECTOR_UD);
	step = svm_intercept(cpu, op->aux);
	if (step || !(cpu->run_flags & CPU_RUN_MWAIT_FAULTS))
		return step;
	cpu_leave_guest(cpu);
	cpu->ops->cpuid(cpu->ctx, 1, 0, leaf);
	return leaf[2] >> CPUID_MWAIT & 1 ? STEP_END : cpu_raise(cpu, VECTOR_UD);
}

const struct insn_desc exec_system_table[] = {
    {ZYDIS_MNEMONIC_LGDT, load_table, NULL, 0},
    {ZYDIS_MNEMONIC_LIDT, load_table, NULL, 1},
    {ZYDIS_MNEMONIC_SGDT, store_table, NULL, 0},
    {ZYDIS_MNEMONIC_SIDT, store_table, NULL, 1},
    {ZYDIS_MNEMONIC_SLDT, store_selector, NULL, CPU_LDTR},
    {ZYDIS_MNEMONIC_STR, store_selector, NULL, CPU_TR},
    {ZYDIS_MNEMONIC_LLDT, load_system, NULL, CPU_LDTR},
    {ZYDIS_MNEMONIC_LTR, load_system, NULL, CPU_TR},
    {ZYDIS_MNEMONIC_LAR, look_descriptor, NULL, LOOK_LAR},
    {ZYDIS_MNEMONIC_LSL, look_descriptor, NULL, LOOK_LSL},
    {ZYDIS_MNEMONIC_VERR, look_descriptor, NULL, LOOK_VERR},
    {ZYDIS_MNEMONIC_VERW, look_descriptor, NULL, LOOK_VERW},
    {ZYDIS_MNEMONIC_CLI, cli, NULL, 0},
    {ZYDIS_MNEMONIC_STI, sti, NULL, 0},
    {ZYDIS_MNEMONIC_PUSHF, pushf, NULL, 2},
    {ZYDIS_MNEMONIC_PUSHFD, pushf, NULL, 4},
    {ZYDIS_MNEMONIC_PUSHFQ, pushf, NULL, 8},
    {ZYDIS_MNEMONIC_POPF, popf, NULL, 2},
    {ZYDIS_MNEMONIC_POPFD, popf, NULL, 4},
    {ZYDIS_MNEMONIC_POPFQ, popf, NULL, 8},
    {ZYDIS_MNEMONIC_CLAC, change_ac, NULL, 0},
    {ZYDIS_MNEMONIC_STAC, change_ac, NULL, FLAG_AC},
    {ZYDIS_MNEMONIC_HLT, hlt, NULL, 0},
    {ZYDIS_MNEMONIC_INT, soft_event, NULL, 0},
    {ZYDIS_MNEMONIC_INT3, soft_event, NULL, VECTOR_BP},
    {ZYDIS_MNEMONIC_INTO, into, NULL, VECTOR_OF},
    {ZYDIS_MNEMONIC_INT1, int1, NULL, 0},
    {ZYDIS_MNEMONIC_UD0, exec_undefined, NULL, 0},
    {ZYDIS_MNEMONIC_UD1, exec_undefined, NULL, 0},
    {ZYDIS_MNEMONIC_UD2, exec_undefined, NULL, 0},
    {ZYDIS_MNEMONIC_SYSCALL, syscall_enter, NULL, 0},
    {ZYDIS_MNEMONIC_SYSRET, NULL, bind_wide_return, 1},
    {ZYDIS_MNEMONIC_SYSENTER, sysenter, NULL, 0},
    {ZYDIS_MNEMONIC_SYSEXIT, NULL, bind_wide_return, 0},
    {ZYDIS_MNEMONIC_SWAPGS, swapgs, NULL, 0},
    {ZYDIS_MNEMONIC_RDFSBASE, rdbase, NULL, CPU_FS},
    {ZYDIS_MNEMONIC_RDGSBASE, rdbase, NULL, CPU_GS},
    {ZYDIS_MNEMONIC_WRFSBASE, wrbase, NULL, CPU_FS},
    {ZYDIS_MNEMONIC_WRGSBASE, wrbase, NULL, CPU_GS},
    {ZYDIS_MNEMONIC_VMCALL, hypercall, NULL, HYPERCALL_INTEL},
    {ZYDIS_MNEMONIC_VMMCALL, hypercall, NULL, HYPERCALL_AMD},
    {ZYDIS_MNEMONIC_MONITOR, monitor, NULL, INTERCEPT_MONITOR},
    {ZYDIS_MNEMONIC_MWAIT, monitor, NULL, INTERCEPT_MWAIT},
    /* Intel's virtualisation is not offered to the guest. */
    {ZYDIS_MNEMONIC_VMXON, exec_undefined, NULL, 0},
    {ZYDIS_MNEMONIC_VMXOFF, exec_undefined, NULL, 0},
    {ZYDIS_MNEMONIC_VMPTRLD, exec_undefined, NULL, 0},
    {ZYDIS_MNEMONIC_VMCLEAR, exec_undefined, NULL, 0},
    {ZYDIS_MNEMONIC_VMREAD, exec_undefined, NULL, 0},
    {ZYDIS_MNEMONIC_VMWRITE, exec_undefined, NULL, 0},
    {ZYDIS_MNEMONIC_VMLAUNCH, exec_undefined, NULL, 0},
    {ZYDIS_MNEMONIC_VMRESUME, exec_undefined, NULL, 0},
    {ZYDIS_MNEMONIC_RSM, rsm, NULL, 0},
    {0, NULL, NULL, 0},
};
