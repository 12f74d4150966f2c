/* The invalidation sequence against a model: all short histories of begins, ranges and ends. */
#include "tests/unit/support.h"

#include "src/vm/invalidate.h"

#define STEPS 6u
#define GFNS 8u

/* One step of a history. */
enum step { BEGIN_LOW, BEGIN_HIGH, BEGIN_NOWHERE, END, STEP_KINDS };

/* What the sequence says, from its definition. */
struct model {
	uint64_t ended;
	unsigned int open;
	uint64_t first, end; /* union of what was named since nothing was open */
};

static void model_begin(struct model *model, uint64_t first, uint64_t end)
{
	if (!model->open++) {
		model->first = UINT64_MAX;
		model->end = 0;
	}
	if (first == end)
		return;
	model->first = first < model->first ? first : model->first;
	model->end = end > model->end ? end : model->end;
}

static void take_step_locked(struct model *model, enum step step)
{
	static const uint64_t ranges[][2] = {{1, 3}, {5, 6}, {0, 0}};
	struct quire_vm *vm = machine.vm;

	if (step == END) {
		model->open--;
		model->ended++;
		invalidation_end(vm);
		return;
	}
	model_begin(model, ranges[step][0], ranges[step][1]);
	invalidation_begin(vm);
	if (ranges[step][0] != ranges[step][1])
		invalidation_add_range(vm, (gfn_t){ranges[step][0]}, (gfn_t){ranges[step][1]});
}

static void take_step(struct model *model, enum step step)
{
	biglock_write_lock(&machine.vm->mmu_lock);
	take_step_locked(model, step);
	biglock_write_unlock(&machine.vm->mmu_lock);
}

static bool model_touches(const struct model *model, uint64_t first, uint64_t end)
{
	return model->open && first < model->end && model->first < end;
}

static void check(const struct model *model, const uint64_t *snapshots, unsigned int taken)
{
	struct quire_vm *vm = machine.vm;

	assert_int_equal(vm->invalidation.in_progress, model->open);
	for (unsigned int i = 0; i < taken; i++)
		for (uint64_t gfn = 0; gfn < GFNS; gfn++) {
			/* Ended since, for whatever gfn; or in progress around this one. */
			bool retry =
			    snapshots[i] != model->ended || model_touches(model, gfn, gfn + 1);

			assert_int_equal(
			    invalidation_retry(&vm->invalidation, snapshots[i], (gfn_t){gfn}),
			    retry);
			/* No other thread runs: the hint is as good. */
			assert_int_equal(
			    invalidation_retry_hint(&vm->invalidation, snapshots[i], (gfn_t){gfn}),
			    retry);
		}
	for (uint64_t first = 0; first < GFNS; first++)
		for (uint64_t end = first + 1; end <= GFNS; end++)
			assert_int_equal(
			    invalidation_touches(&vm->invalidation, (gfn_t){first}, (gfn_t){end}),
			    model_touches(model, first, end));
}

static void test_histories(void **state)
{
	unsigned int histories = 1;

	(void)state;
	for (unsigned int i = 0; i < STEPS; i++)
		histories *= STEP_KINDS;
	vm_begin();
	for (unsigned int history = 0; history < histories; history++) {
		struct model model = {.ended = machine.vm->invalidation.seq};
		uint64_t snapshots[STEPS + 1];
		unsigned int taken = 0, rest = history;

		for (; taken < STEPS; rest /= STEP_KINDS) {
			enum step step = (enum step)(rest % STEP_KINDS);

			if (step == END && !model.open)
				break;
			snapshots[taken++] = invalidation_snapshot(&machine.vm->invalidation);
			take_step(&model, step);
			check(&model, snapshots, taken);
		}
		while (model.open)
			take_step(&model, END);
	}
	vm_end();
}

static unsigned int reports;

static void note_report(const char *text)
{
	(void)text;
	reports++;
}

/* An end without a begin is reported, and the VM is dead. */
static void test_unbalanced(void **state)
{
	(void)state;
	vm_begin();
	reports = 0;
	sched_on_report(note_report);
	biglock_write_lock(&machine.vm->mmu_lock);
	invalidation_end(machine.vm);
	biglock_write_unlock(&machine.vm->mmu_lock);
	sched_on_report(NULL);
	assert_int_equal(reports, 1);
	assert_true(quire_vm_is_dead(machine.vm));
	machine.vm->dead = 0;
	vm_end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_histories),
	    cmocka_unit_test(test_unbalanced),
	};

	return run_formats(tests, sizeof(tests) / sizeof(tests[0]));
}
