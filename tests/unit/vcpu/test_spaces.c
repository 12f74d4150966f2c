/*
 * Random changes of page tables, of CR3 and its PCID, and invalidations, against a model of what a
 * TLB may hold: each access reaches a page that the tables named since the last invalidation.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/vcpu/fake_vcpu.h"
#include "tests/unit/vcpu/random_code.h"
#include "vcpu/mem/tlb.h"

#define PTE_FLAGS UINT64_C(0x67)
#define PTE_GLOBAL UINT64_C(0x100)
#define CR4_PGE UINT64_C(0x80)
#define CR4_PCIDE (UINT64_C(1) << 17)
#define CR3_KEEP (UINT64_C(1) << 63)
/* The second set of tables. */
#define OTHER_PML4 UINT64_C(0x51000)
#define OTHER_PDPT UINT64_C(0x52000)
#define OTHER_PD UINT64_C(0x53000)
#define OTHER_PT UINT64_C(0x54000)
#define TABLES 2u
/* More than are put aside at a time; each second one has the same tables. */
#define PCIDS (TLB_SPACES + 3)
/* Pages whose entries change; the last one is global in both tables. */
#define VIEWS 3u
#define GLOBAL_VIEW 2u
#define VIEW(n) (PAGED_LINEAR + (9 + (n)) * PAGE)
/* What they may show. Each holds mov $number, %eax; ret at CODE_AT, and no two have the same. */
#define FRAMES 8u
#define FRAME(n) (PAGED_LINEAR + (100 + (n)) * PAGE)
#define CODE_AT 0x10u
#define NUMBER_AT (CODE_AT + 1)

#define STEPS 40u
#define ROUNDS 800u
#define DESCRIPTOR_AT (GUEST_DATA + 0x40u)
#define LOG_AT (GUEST_DATA + 0x100u)

enum action { LOOK, CALL, STORE, CHANGE, SWITCH, DROP_PAGE, DROP_PCID, TURN_GLOBAL };

struct step {
	enum action action;
	unsigned int view, frame, table, pcid, type;
	int keep;
	uint32_t number;   /* to be stored */
	unsigned int logs; /* where what it read begins in the log */
};

struct spaces {
	struct quire_vcpu *vcpu;
	struct step steps[STEPS];
	unsigned int logged, code_size;
	uint32_t next_number;
	/* The model. */
	unsigned int pcid;
	uint32_t number[FRAMES];
	unsigned int entry[TABLES][VIEWS];  /* the frame in it */
	unsigned int allowed[PCIDS][VIEWS]; /* a bit for each frame */
	uint64_t stale;			    /* accesses to what the entry does not name */
};

static unsigned int table_of(unsigned int pcid)
{
	return pcid % TABLES;
}

static uint64_t cr3_of(unsigned int pcid)
{
	return (table_of(pcid) ? OTHER_PML4 : (uint64_t)GUEST_PML4) | (pcid + 1);
}

static uint64_t entry_at(unsigned int table, unsigned int view)
{
	return (table ? OTHER_PT : (uint64_t)GUEST_PT) + (VIEW(view) - PAGED_LINEAR) / PAGE * 8;
}

static uint64_t entry_value(unsigned int view, unsigned int frame)
{
	return FRAME(frame) | PTE_FLAGS | (view == GLOBAL_VIEW ? PTE_GLOBAL : 0);
}

static void put64(struct spaces *spaces, uint64_t gpa, uint64_t value)
{
	memcpy(spaces->vcpu->vm->ram + gpa, &value, sizeof(value));
}

/* Nothing is cached of @view in @pcid: what a global page has been filled by any tables may be. */
static void forget(struct spaces *spaces, unsigned int pcid, unsigned int view)
{
	unsigned int now = 0;

	for (unsigned int table = 0; table < TABLES; table++)
		if (view == GLOBAL_VIEW || table == table_of(pcid))
			now |= 1u << spaces->entry[table][view];
	spaces->allowed[pcid][view] = now;
}

static void forget_pcid(struct spaces *spaces, unsigned int pcid)
{
	for (unsigned int view = 0; view < GLOBAL_VIEW; view++)
		forget(spaces, pcid, view);
}

static void forget_global(struct spaces *spaces)
{
	for (unsigned int pcid = 0; pcid < PCIDS; pcid++)
		forget(spaces, pcid, GLOBAL_VIEW);
}

static void forget_all_local(struct spaces *spaces)
{
	for (unsigned int pcid = 0; pcid < PCIDS; pcid++)
		forget_pcid(spaces, pcid);
}

static void build_memory(struct spaces *spaces)
{
	uint8_t *ram = spaces->vcpu->vm->ram;

	put64(spaces, OTHER_PML4, OTHER_PDPT | PTE_FLAGS);
	put64(spaces, OTHER_PDPT, OTHER_PD | PTE_FLAGS);
	memcpy(ram + OTHER_PD, ram + GUEST_PD, 32);
	put64(spaces, OTHER_PD + 16, OTHER_PT | PTE_FLAGS);
	memcpy(ram + OTHER_PT, ram + GUEST_PT, PAGE);
	for (unsigned int frame = 0; frame < FRAMES; frame++) {
		spaces->number[frame] = 0x100 + frame;
		ram[FRAME(frame) + CODE_AT] = 0xb8;
		memcpy(ram + FRAME(frame) + NUMBER_AT, &spaces->number[frame], 4);
		ram[FRAME(frame) + NUMBER_AT + 4] = 0xc3;
	}
	for (unsigned int i = 0; i < TABLES * VIEWS; i++) {
		spaces->entry[i % TABLES][i / TABLES] = i;
		put64(spaces, entry_at(i % TABLES, i / TABLES), entry_value(i / TABLES, i));
	}
}

static void emit(struct spaces *spaces, const char *bytes, unsigned int count, uint64_t value,
		 unsigned int value_bytes)
{
	uint8_t *at = spaces->vcpu->vm->ram + GUEST_CODE + spaces->code_size;

	memcpy(at, bytes, count);
	memcpy(at + count, &value, value_bytes);
	spaces->code_size += count + value_bytes;
}

/* mov $value, %rax; mov %rax, @gpa */
static void emit_store(struct spaces *spaces, uint64_t gpa, uint64_t value)
{
	emit(spaces, "\x48\xb8", 2, value, 8);
	emit(spaces, "\x48\x89\x04\x25", 4, gpa, 4);
}

/* mov %rax to the log */
static void emit_log(struct spaces *spaces)
{
	emit(spaces, "\x48\x89\x04\x25", 4, LOG_AT + 8 * spaces->logged++, 4);
}

static void emit_access(struct spaces *spaces, struct step *step)
{
	uint64_t linear = VIEW(step->view);

	if (step->action == STORE) {
		step->number = spaces->next_number++;
		/* movl $number */
		emit(spaces, "\xc7\x04\x25", 3, (linear + NUMBER_AT) | (uint64_t)step->number << 32,
		     8);
		for (unsigned int frame = 0; frame < FRAMES; frame++) {
			emit(spaces, "\x8b\x04\x25", 3, FRAME(frame) + NUMBER_AT, 4);
			emit_log(spaces);
		}
		return;
	}
	if (step->action == LOOK) {
		emit(spaces, "\x8b\x04\x25", 3, linear + NUMBER_AT, 4);
	} else {
		emit(spaces, "\x48\xbe", 2, linear + CODE_AT, 8);
		emit(spaces, "\xff\xd6", 2, 0, 0);
	}
	emit_log(spaces);
}

static void emit_invalidation(struct spaces *spaces, const struct step *step)
{
	if (step->action == DROP_PAGE) {
		emit(spaces, "\x0f\x01\x3c\x25", 4, VIEW(step->view), 4);
		return;
	}
	emit_store(spaces, DESCRIPTOR_AT, step->type < 2 ? step->pcid + 1 : 0);
	emit_store(spaces, DESCRIPTOR_AT + 8, VIEW(step->view));
	emit(spaces, "\x48\xb8", 2, step->type, 8);
	emit(spaces, "\x66\x0f\x38\x82\x04\x25", 6, DESCRIPTOR_AT, 4);
}

static void emit_step(struct spaces *spaces, struct step *step)
{
	step->logs = spaces->logged;
	switch (step->action) {
	case CHANGE:
		emit_store(spaces, entry_at(step->table, step->view),
			   entry_value(step->view, step->frame));
		return;
	case SWITCH:
		emit(spaces, "\x48\xb8", 2, cr3_of(step->pcid) | (step->keep ? CR3_KEEP : 0), 8);
		emit(spaces, "\x0f\x22\xd8", 3, 0, 0);
		return;
	case TURN_GLOBAL:
		/* mov %cr4, %rax; twice xor $0x80, %al; mov %rax, %cr4 */
		emit(spaces, "\x0f\x20\xe0\x34\x80\x0f\x22\xe0\x34\x80\x0f\x22\xe0", 13, 0, 0);
		return;
	case DROP_PAGE:
	case DROP_PCID:
		emit_invalidation(spaces, step);
		return;
	default:
		emit_access(spaces, step);
		return;
	}
}

/* One of a few more often than not, so that something is cached of it. */
static unsigned int any_pcid(void)
{
	return (unsigned int)rnd(rnd(4) ? 3 : PCIDS);
}

static unsigned int any_view(void)
{
	return (unsigned int)rnd(rnd(4) ? 1 : VIEWS);
}

static void step_make(struct step *step)
{
	static const enum action actions[] = {
	    LOOK, LOOK, LOOK, CALL, CALL, STORE, STORE, CHANGE, CHANGE, SWITCH, SWITCH, SWITCH,
	};

	*step = (struct step){
	    .action = actions[rnd(sizeof(actions) / sizeof(actions[0]))],
	    .view = any_view(),
	    .frame = (unsigned int)rnd(FRAMES),
	    .table = (unsigned int)rnd(TABLES),
	    .pcid = any_pcid(),
	    .keep = rnd(4) != 0,
	    .type = (unsigned int)rnd(rnd(3) ? 2 : 4),
	};
	if (!rnd(8))
		step->action = (unsigned int)rnd(2) ? DROP_PAGE : DROP_PCID;
	if (!rnd(64))
		step->action = TURN_GLOBAL;
}

static uint32_t logged(const struct spaces *spaces, unsigned int at)
{
	uint64_t value;

	memcpy(&value, spaces->vcpu->vm->ram + LOG_AT + 8 * at, sizeof(value));
	return (uint32_t)value;
}

/* The access of @step went to @frame. */
static void check_frame(struct spaces *spaces, const struct step *step, unsigned int frame)
{
	assert_true(frame < FRAMES);
	assert_true(spaces->allowed[spaces->pcid][step->view] >> frame & 1);
	spaces->stale += spaces->entry[table_of(spaces->pcid)][step->view] != frame;
}

static void check_access(struct spaces *spaces, const struct step *step)
{
	unsigned int found = FRAMES;

	for (unsigned int frame = 0; frame < FRAMES; frame++) {
		uint32_t seen = logged(spaces, step->logs + frame);

		if (step->action != STORE) {
			if (logged(spaces, step->logs) == spaces->number[frame])
				found = frame;
		} else if (seen == step->number) {
			assert_int_equal(found, FRAMES);
			found = frame;
		} else {
			assert_int_equal(seen, spaces->number[frame]);
		}
	}
	check_frame(spaces, step, found);
	if (step->action == STORE)
		spaces->number[found] = step->number;
}

static void follow_invalidation(struct spaces *spaces, const struct step *step)
{
	if (step->action == DROP_PAGE) {
		forget(spaces, spaces->pcid, step->view);
		if (step->view == GLOBAL_VIEW)
			forget_global(spaces);
	} else if (step->type == 0) {
		/* Global translations stay. */
		if (step->view != GLOBAL_VIEW)
			forget(spaces, step->pcid, step->view);
	} else if (step->type == 1) {
		forget_pcid(spaces, step->pcid);
	} else {
		forget_all_local(spaces);
		if (step->type == 2)
			forget_global(spaces);
	}
}

static void follow_change(struct spaces *spaces, const struct step *step)
{
	spaces->entry[step->table][step->view] = step->frame;
	for (unsigned int pcid = 0; pcid < PCIDS; pcid++)
		if (step->view == GLOBAL_VIEW || table_of(pcid) == step->table)
			spaces->allowed[pcid][step->view] |= 1u << step->frame;
}

static void follow(struct spaces *spaces, const struct step *step)
{
	switch (step->action) {
	case CHANGE:
		follow_change(spaces, step);
		return;
	case SWITCH:
		spaces->pcid = step->pcid;
		if (!step->keep)
			forget_pcid(spaces, step->pcid);
		return;
	case TURN_GLOBAL:
		forget_all_local(spaces);
		forget_global(spaces);
		return;
	case DROP_PAGE:
	case DROP_PCID:
		follow_invalidation(spaces, step);
		return;
	default:
		check_access(spaces, step);
		return;
	}
}

/* Between two runs the library or the client makes all translations invalid. */
static void invalidate_outside(struct spaces *spaces)
{
	struct cpu_state *s = cpu_state(spaces->vcpu->cpu);

	if (rnd(2)) {
		fake_vm_zap(spaces->vcpu->vm, spaces->vcpu);
	} else {
		spaces->pcid = (spaces->pcid + 1) % PCIDS;
		s->cr3 = cr3_of(spaces->pcid);
	}
	forget_all_local(spaces);
	forget_global(spaces);
}

static void run_round(struct spaces *spaces)
{
	struct cpu_state *s = cpu_state(spaces->vcpu->cpu);
	struct cpu_exit_info info;

	spaces->logged = spaces->code_size = 0;
	for (unsigned int i = 0; i < STEPS; i++) {
		step_make(&spaces->steps[i]);
		emit_step(spaces, &spaces->steps[i]);
	}
	emit(spaces, "\xf4", 1, 0, 0);
	s->rip = GUEST_CODE;
	s->halted = 0;
	assert_int_equal(cpu_run(spaces->vcpu->cpu, 0, &info), CPU_EXIT_HLT);
	assert_int_equal(s->rip, GUEST_CODE + spaces->code_size);
	for (unsigned int i = 0; i < STEPS; i++)
		follow(spaces, &spaces->steps[i]);
	assert_int_equal(s->cr3, cr3_of(spaces->pcid));
	if (!rnd(40))
		invalidate_outside(spaces);
}

static void test_random_spaces(void **state)
{
	static struct spaces spaces;
	struct cpu_state *s;

	spaces.vcpu = *state;
	spaces.vcpu->cpuid = fake_cpuid_with_pcid;
	spaces.next_number = 0x1000;
	s = cpu_state(spaces.vcpu->cpu);
	build_memory(&spaces);
	s->cr3 = cr3_of(0);
	s->cr4 |= CR4_PGE | CR4_PCIDE;
	forget_all_local(&spaces);
	forget_global(&spaces);
	for (unsigned int round = 0; round < ROUNDS; round++)
		run_round(&spaces);
	/* There was something to find. */
	assert_true(spaces.stale > ROUNDS / 10);
}

static int setup(void **state)
{
	*state = fake_vcpu_create(fake_vm_create());
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_random_spaces, setup, fake_vcpu_teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
