/* Splitting a VM's huge pages in the background, ahead of a dirty log: kvm.quire_split_ahead. */
#include "frontend/object/split_ahead.h"

#include <errno.h>
#include <stddef.h>

#include <quire/dirty.h>
#include <quire/stats.h>

#include "frontend/file/client_call.h"
#include "frontend/object/vm.h"
#include "frontend/param/params.h"

#define LOOK_NS UINT64_C(1000000000)
/* No guest has memory behind it. */
#define GPA_END (UINT64_C(1) << 52)

static bool is_wanted(void)
{
	return params_live(PARAMS_SPLIT_AHEAD) > 0;
}

static bool has_huge(const struct vm *vm)
{
	return quire_vm_stat(vm->memory, QUIRE_VM_STAT_pages_2m) ||
	       quire_vm_stat(vm->memory, QUIRE_VM_STAT_pages_1g);
}

/* One step. False when a pass has ended: behind the last slot, or where it cannot go on for now. */
static bool split_step(struct vm *vm)
{
	struct split_ahead *ahead = &vm->split_ahead;
	uint64_t done_bytes = 0;
	int error = quire_vm_split(vm->memory, ahead->as_id, (gpa_t){ahead->gpa},
				   GPA_END - ahead->gpa, &done_bytes);

	/* Holes, and slots that cannot log, are gone by. Without memory there may be some later. */
	if (error && error != -ENOENT && (error != -EOPNOTSUPP || !done_bytes))
		return false;
	ahead->gpa += done_bytes;
	if (ahead->gpa < GPA_END)
		return true;
	ahead->gpa = 0;
	return ++ahead->as_id < quire_vm_address_spaces(vm->memory);
}

/*
 * On the thread of its own. The parameter may change at any point: the thread that writes it arms
 * the timer or disarms it, and a turn that is armed here after that finds the parameter as it is.
 */
static void go_on(struct vm_timer *timer)
{
	struct vm *vm = (struct vm *)((char *)timer - offsetof(struct vm, split_ahead.timer));
	struct split_ahead *ahead = &vm->split_ahead;
	bool wanted, more;

	client_call_begin();
	wanted = is_wanted();
	atomic_store(&ahead->running, wanted);
	more = wanted && has_huge(vm) && split_step(vm);
	if (!more) {
		ahead->as_id = 0;
		ahead->gpa = 0;
	}
	if (wanted)
		vm_timer_arm(&ahead->timers, timer, timers_now_ns() + (more ? 1 : LOOK_NS));
	client_call_end();
}

void split_ahead_apply(struct vm *vm)
{
	struct split_ahead *ahead = &vm->split_ahead;
	bool wanted = is_wanted();

	atomic_store(&ahead->running, wanted);
	vm_timer_arm(&ahead->timers, &ahead->timer, wanted ? timers_now_ns() : 0);
}

void split_ahead_init(struct vm *vm)
{
	vm_timers_init(&vm->split_ahead.timers);
	vm_timer_add(&vm->split_ahead.timers, &vm->split_ahead.timer, go_on);
}

void split_ahead_destroy(struct vm *vm)
{
	vm_timers_destroy(&vm->split_ahead.timers);
}

void split_ahead_poll(struct vm *vm)
{
	if (is_wanted() != atomic_load_explicit(&vm->split_ahead.running, memory_order_relaxed))
		split_ahead_apply(vm);
}
