/* Running translated code, and seeing to what it comes back for. */
#include "hosts/process/guard.h"
#include "vcpu/exec/flags.h"
#include "vcpu/exec/operand.h"
#include "vcpu/exec/system.h"
#include "vcpu/mem/mmu.h"
#include "vcpu/mem/segment.h"
#include "vcpu/run/event.h"
#include "vcpu/run/raise.h"
#include "vcpu/translate/lockstep.h"

/* What to do after translated code came back. */
enum next { NEXT_ENTER, NEXT_LEAVE };

struct running {
	enum next next;
	enum step step; /* NEXT_LEAVE: the result */
};

/* What LAHF and SETO AL leave, and the six flags as RFLAGS has them. */
#define LAHF_FLAGS (FLAGS_ARITHMETIC & ~FLAG_OF)

static void fast_flags_set(struct cpu *cpu, uint64_t flags)
{
	cpu->fast.flags =
	    (uint32_t)((flags & LAHF_FLAGS) | FLAG_FIXED) << 8 | (flags & FLAG_OF ? 1 : 0);
}

static uint64_t fast_flags_get(const struct cpu *cpu)
{
	return (cpu->fast.flags >> 8 & LAHF_FLAGS) | (cpu->fast.flags & 1 ? FLAG_OF : 0);
}

static void flags_to_fast(struct cpu *cpu)
{
	fast_flags_set(cpu, flags_arithmetic(cpu));
}

static void flags_from_fast(struct cpu *cpu)
{
	flags_set_arithmetic(cpu, fast_flags_get(cpu));
}

/* What CR0 and CR4 say of SSE instructions, which no translated code changes. */
static void vectors_to_fast(struct cpu *cpu)
{
	cpu->fast.vectors_refused = (cpu->s.cr0 & (CR0_EM | CR0_TS)) | (~cpu->s.cr4 & CR4_OSFXSR);
}

static struct running leave_with(struct cpu *cpu, enum step step)
{
	flags_from_fast(cpu);
	return (struct running){NEXT_LEAVE, step};
}

static struct running enter_at(struct cpu *cpu, const struct unit *unit, unsigned int op)
{
	cpu->fast.entry = unit->code + unit->op[op].code;
	cpu->fast.retired = -(uint64_t)op;
	if (unlikely(cpu->translate->lockstep)) {
		cpu->s.rip = cpu->fast.rip_page + unit->op[op].offset;
		flags_from_fast(cpu);
		lockstep_begin(cpu, unit, op);
	}
	return (struct running){NEXT_ENTER, STEP_NEXT};
}

/* RIP is where to go on, and nothing waits: by its unit, or back to the interpreter. */
static struct running go_on(struct cpu *cpu, struct unit **found)
{
	struct block *block;
	enum step step;

	*found = NULL;
	if (unlikely(__atomic_load_n(cpu->doorbell, __ATOMIC_RELAXED)))
		return leave_with(cpu, STEP_JUMP);
	cpu->op = NULL;
	step = code_find(cpu, &block);
	if (unlikely(step))
		return leave_with(cpu, step);
	*found = translate_hot(cpu, block);
	if (!*found)
		return leave_with(cpu, STEP_JUMP);
	cpu->fast.epoch_negated = -cpu->code_epoch;
	cpu->fast.rip_page = cpu->s.rip & PAGE_NUMBER_MASK;
	return enter_at(cpu, *found, 0);
}

/* After an operation of the interpreter's: may the unit's code go on behind it? */
static int may_go_on(const struct cpu *cpu, const struct unit *unit)
{
	return cpu->block_end && cpu->tlb_mode == unit->mode && cpu->in_guest &&
	       !cpu->debug.armed && !cpu->s.interrupt_shadow && !(cpu->s.rflags & FLAG_TF) &&
	       cpu->fast.epoch_negated == -cpu->code_epoch && unit_is_current(unit);
}

/* Go on at @code, which the jump cache has for RIP. 0: it has none, or something waits. */
static int enter_known(struct cpu *cpu, uint64_t code, struct running *running)
{
	if (!code || unlikely(__atomic_load_n(cpu->doorbell, __ATOMIC_RELAXED)))
		return 0;
	cpu->fast.epoch_negated = -cpu->code_epoch;
	cpu->fast.rip_page = cpu->s.rip & PAGE_NUMBER_MASK;
	cpu->fast.entry = code;
	cpu->fast.retired = 0;
	*running = (struct running){NEXT_ENTER, STEP_NEXT};
	return 1;
}

/* May code go on at RIP, behind an instruction that was not code, without a look for events? */
static int may_go_on_at_rip(const struct cpu *cpu, enum step step)
{
	return !(step & STEP_F_EVENTS) && cpu->in_guest && !cpu->debug.armed &&
	       !cpu->s.interrupt_shadow && !(cpu->s.rflags & (FLAG_TF | FLAG_RF));
}

/* As run_guest() goes on, but without leaving translated code for longer than it must. */
static struct running go_on_at_rip(struct cpu *cpu)
{
	struct running running;
	struct unit *unit;

	cpu->replay.position = 0;
	cpu->debug.no_trap = 0;
	cpu->debug.blocked = 0;
	if (enter_known(cpu, fast_find_jump(cpu), &running))
		return running;
	running = go_on(cpu, &unit);
	if (unit && !cpu->translate->lockstep)
		fast_note_jump(cpu, unit);
	return running;
}

/* An instruction of the interpreter's has ended a unit. */
static struct running go_on_behind(struct cpu *cpu, enum step step)
{
	if (!may_go_on_at_rip(cpu, step))
		return (struct running){NEXT_LEAVE, step};
	flags_to_fast(cpu);
	return go_on_at_rip(cpu);
}

/* SYSCALL or SYSRET that faults in nothing and traps nowhere. */
static int is_plain_system_call(const struct cpu *cpu, const struct op *op)
{
	if (op->mnemonic == ZYDIS_MNEMONIC_SYSCALL)
		return system_call_is_defined(cpu);
	return op->mnemonic == ZYDIS_MNEMONIC_SYSRET && op->aux && system_call_is_defined(cpu) &&
	       !cpu->cpl && mmu_is_canonical_now(cpu, cpu->s.gpr[CPU_RCX]) &&
	       !(cpu->s.gpr[11] & FLAG_TF);
}

/*
 * One that is_plain_system_call(), as the interpreter has it, but for the flags: those stay in the
 * form of translated code, as four conversions took a tenth of a call and return.
 */
static struct running system_call(struct cpu *cpu, const struct op *op)
{
	uint64_t old = cpu->s.rflags, flags;
	enum step step;

	if (op->mnemonic == ZYDIS_MNEMONIC_SYSCALL) {
		flags = (old & ~FLAGS_ARITHMETIC) | fast_flags_get(cpu) | FLAG_FIXED;
		flags = syscall_enter_long(cpu, op_next_rip(cpu, op), flags);
	} else {
		flags = sysret_long(cpu);
	}
	cpu->s.rflags = flags | FLAG_FIXED;
	fast_flags_set(cpu, flags);
	cpu_update_mode(cpu);
	cpu_count(&cpu->counts.interpreted);
	step = STEP_JUMP | event_allowed(cpu, old);
	if (may_go_on_at_rip(cpu, step))
		return go_on_at_rip(cpu);
	cpu->debug.no_trap = 1;
	return leave_with(cpu, step);
}

/* One operation as run_block() does it. */
static struct running interpret(struct cpu *cpu, struct unit *unit, unsigned int index)
{
	const struct op *op = &unit->block->ops[index];
	uint64_t recycled = cpu->translate->recycled;
	enum step step;

	flags_from_fast(cpu);
	cpu->op = op;
	cpu->block_end = unit->block->ops + unit->op_count;
	step = op->run(cpu, op);
	vectors_to_fast(cpu);
	if (!(step & STEP_F_ABORT))
		cpu_count(&cpu->counts.interpreted);
	if (unlikely(step & STEP_F_ABORT))
		return (struct running){NEXT_LEAVE, step};
	if (!(step & STEP_F_JUMPED))
		cpu->s.rip = op_next_rip(cpu, op);
	if (step || cpu->translate->recycled != recycled || !may_go_on(cpu, unit) ||
	    index + 1 == unit->op_count)
		return go_on_behind(cpu, step ? step : STEP_END);
	flags_to_fast(cpu);
	return enter_at(cpu, unit, index + 1);
}

/* Where the miss was: the operand, or the stack. */
static uint64_t missed_linear(struct cpu *cpu, const struct op *op)
{
	uint64_t rsp = cpu->s.gpr[CPU_RSP];

	switch (op->mnemonic) {
	case ZYDIS_MNEMONIC_PUSH:
	case ZYDIS_MNEMONIC_CALL:
		if (op->kind[0] != OPERAND_MEM ||
		    (cpu->fast.exit & ((1u << EXIT_KIND_BITS) - 1)) == EXIT_MISS_WRITE)
			return rsp - 8;
		break;
	case ZYDIS_MNEMONIC_POP:
	case ZYDIS_MNEMONIC_RET:
		return rsp;
	case ZYDIS_MNEMONIC_LEAVE:
		return cpu->s.gpr[CPU_RBP];
	default:
		break;
	}
	return op_effective(cpu, op) + *(const uint64_t *)((const char *)cpu + op->seg_base);
}

/*
 * A call through memory and a push of it read there and write the stack. When both pages fall into
 * one set of the fast TLB, each takes the other's place.
 */
static int touches_two_pages(const struct op *op)
{
	return (op->mnemonic == ZYDIS_MNEMONIC_CALL || op->mnemonic == ZYDIS_MNEMONIC_PUSH) &&
	       op->kind[0] == OPERAND_MEM;
}

/*
 * The fast TLB has not the page: from the large one, by a walk, or by way of the interpreter. Code
 * enters the same operation again only if that operation cannot miss again, because nothing else
 * here reads the doorbell.
 */
static struct running miss(struct cpu *cpu, struct unit *unit, unsigned int index, int is_write)
{
	const struct op *op = &unit->block->ops[index];
	uint64_t linear = missed_linear(cpu, op);
	struct running running;

	if (!touches_two_pages(op) &&
	    (!fast_fill(cpu, linear, is_write) || !fast_walk(cpu, linear, is_write)))
		return enter_at(cpu, unit, index);
	running = interpret(cpu, unit, index);
	if (running.next == NEXT_ENTER)
		(void)fast_fill(cpu, linear, is_write);
	return running;
}

/* Translated code came back, at @op of a unit, or at 0 when it left a unit by its end. */
static void count_retired(struct cpu *cpu, unsigned int op)
{
	cpu_count_add(&cpu->counts.translated, cpu->fast.retired + op);
}

/* What a jump has done to RSP. */
static int64_t stack_moved(const struct op *op)
{
	switch (op->mnemonic) {
	case ZYDIS_MNEMONIC_CALL:
		return -8;
	case ZYDIS_MNEMONIC_RET:
		return 8 + (op->kind[0] == OPERAND_IMM ? (int64_t)(uint16_t)op->imm : 0);
	default:
		return 0;
	}
}

/*
 * A jump to an address that is not canonical faults itself. It is not made once more: a call may
 * have written its return address over what it read.
 */
static struct running jump_refused(struct cpu *cpu, const struct unit *unit, unsigned int index)
{
	cpu->op = &unit->block->ops[index];
	cpu->s.gpr[CPU_RSP] -= (uint64_t)stack_moved(cpu->op);
	cpu->s.rip = cpu->fast.rip_page + unit->op[index].offset;
	return leave_with(cpu, cpu_raise_error(cpu, VECTOR_GP, 0));
}

static struct running jump(struct cpu *cpu, struct unit *from, unsigned int op)
{
	struct unit *unit;
	struct running running;

	if (unlikely(!mmu_is_canonical(cpu, cpu->s.rip)) && op < from->op_count) {
		cpu->fast.retired--;
		count_retired(cpu, 0);
		return jump_refused(cpu, from, op);
	}
	count_retired(cpu, 0);
	if (enter_known(cpu, fast_confirm_jump(cpu), &running))
		return running;
	running = go_on(cpu, &unit);
	if (unit && !cpu->translate->lockstep)
		fast_note_jump(cpu, unit);
	return running;
}

/* Find the target of a jump inside the page and let it lead there from now on. */
static struct running link_jump(struct cpu *cpu, struct unit *from, unsigned int op)
{
	uint64_t recycled = cpu->translate->recycled;
	struct unit *to;
	struct running running;

	cpu->s.rip = cpu->fast.rip_page + (uint64_t)unit_target(from, op);
	running = go_on(cpu, &to);
	if (to && !cpu->translate->lockstep && cpu->translate->recycled == recycled &&
	    unit_is_current(from) && from->block->page == to->block->page && from->mode == to->mode)
		emit_aim(from->write + from->op[op].link, to->write);
	return running;
}

/* The host refused an access, or a signal broke it off: the interpreter finds out what to do. */
static struct running fault(struct cpu *cpu)
{
	unsigned int index = 0;
	struct unit *unit = cache_find(cpu->translate, cpu->fast.scratch, &index);

	count_retired(cpu, index);
	cpu->s.rip = cpu->fast.rip_page + unit->op[index].offset;
	if (guard_last_reason != GUARD_ABORT)
		return interpret(cpu, unit, index);
	cpu->stop = STOP_RESTART;
	return leave_with(cpu, STEP_ABORT);
}

/* Lockstep: an instruction has ended, unless code came back for something else. */
static int exit_differs(struct cpu *cpu, const struct unit *unit, unsigned int op,
			enum exit_kind kind)
{
	if (kind == EXIT_STEP)
		cpu->s.rip = cpu->fast.rip_page + unit->op[op].offset;
	else if (kind == EXIT_LINK || kind == EXIT_STOP)
		cpu->s.rip = cpu->fast.rip_page + (uint64_t)unit_target(unit, op);
	else if (kind != EXIT_JUMP)
		return 0;
	flags_from_fast(cpu);
	return lockstep_differs(cpu);
}

/* What translated code came back for. */
static struct running see_to_exit(struct cpu *cpu)
{
	uint32_t exit = cpu->fast.exit;
	struct unit *unit = unit_of_exit(cpu->translate, exit);
	unsigned int op = exit >> EXIT_KIND_BITS & ((1u << EXIT_OP_BITS) - 1);
	enum exit_kind kind = exit & ((1u << EXIT_KIND_BITS) - 1);

	if (kind == EXIT_FAULT)
		return fault(cpu);
	if (unlikely(cpu->translate->lockstep) && exit_differs(cpu, unit, op, kind))
		return leave_with(cpu, STEP_ABORT);
	switch (kind) {
	case EXIT_JUMP:
		return jump(cpu, unit, op);
	case EXIT_LINK:
		count_retired(cpu, 0);
		return link_jump(cpu, unit, op);
	case EXIT_STOP:
		count_retired(cpu, 0);
		cpu->s.rip = cpu->fast.rip_page + (uint64_t)unit_target(unit, op);
		return leave_with(cpu, STEP_JUMP);
	default:
		break;
	}
	count_retired(cpu, op);
	cpu->s.rip = cpu->fast.rip_page + unit->op[op].offset;
	if (kind == EXIT_STEP)
		return enter_at(cpu, unit, op);
	if (kind == EXIT_OP && is_plain_system_call(cpu, &unit->block->ops[op]))
		return system_call(cpu, &unit->block->ops[op]);
	if (kind == EXIT_OP)
		return interpret(cpu, unit, op);
	return miss(cpu, unit, op, kind == EXIT_MISS_WRITE);
}

enum step translate_run(struct cpu *cpu, struct unit *unit)
{
	void (*enter)(struct cpu * cpu) =
	    (void (*)(struct cpu *))(uintptr_t)cpu->translate->stubs.enter;
	struct running running;

	flags_to_fast(cpu);
	vectors_to_fast(cpu);
	cpu->fast.epoch_negated = -cpu->code_epoch;
	cpu->fast.rip_page = cpu->s.rip & PAGE_NUMBER_MASK;
	running = enter_at(cpu, unit, 0);
	do {
		enter(cpu);
		running = see_to_exit(cpu);
	} while (running.next == NEXT_ENTER);
	return running.step;
}

struct unit *translate_hot(struct cpu *cpu, struct block *block)
{
	struct unit *unit;

	if (unlikely(cpu->tlb_mode >= FAST_MODES))
		return NULL;
	unit = block->unit[cpu->tlb_mode];
	if (likely(unit && unit_is_current(unit)))
		return unit;
	if (block->runs < cpu->translate->after) {
		block->runs++;
		return NULL;
	}
	if (block->never)
		return NULL;
	unit = unit_make(cpu, block, cpu->tlb_mode);
	block->unit[cpu->tlb_mode] = unit;
	block->never = !unit;
	if (unit)
		cpu_count(&cpu->counts.units);
	block->runs = 0;
	return unit;
}
