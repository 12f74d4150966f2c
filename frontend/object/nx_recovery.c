/* NX huge pages of a VM: follows the parameters, and gives huge pages back from time to time. */
#include "frontend/object/nx_recovery.h"

#include "frontend/file/client_call.h"
#include "frontend/object/vm.h"
#include "frontend/param/params.h"
#include "hosts/process/fork.h"
#include "hosts/process/heap.h"
#include "hosts/process/lock.h"

#define MS_NS UINT64_C(1000000)
#define LOOK_NS (1000 * MS_NS)
#define HOUR_MS 3600000L
/* As in KVM: no more often than once a second, where the parameters name no period. */
#define RATIO_MAX 3600L

/* The VMs of this process, by nx.next and nx.link. */
static struct process_lock nx_vms_lock;
static struct vm *vms;
static size_t vm_count;

/* They are the parent's. */
static void fork_child(void)
{
	vms = NULL;
	vm_count = 0;
	(void)process_lock_start_anew(&nx_vms_lock);
}
FORK_CHILD(FORK_PARAMS, nx_vms_lock, fork_child);

static bool is_wanted(const struct vm *vm)
{
	return !atomic_load(&vm->nx.disabled) && params_live(PARAMS_NX_HUGE_PAGES) > 0;
}

/*
 * The time between two recoveries, each of one in @ratio of the tables. Without a period in the
 * parameters, the recoveries of an hour come to all tables. 0: never.
 */
static uint64_t period_ns(long ratio)
{
	long period_ms = params_live(PARAMS_NX_RECOVERY_PERIOD_MS);

	if (!ratio)
		return 0;
	if (!period_ms)
		period_ms = HOUR_MS / (ratio < RATIO_MAX ? ratio : RATIO_MAX);
	return (uint64_t)period_ms * MS_NS;
}

/*
 * Set the timer by the parameters of now: to when the next recovery is due, and to a look at them
 * before, for a write that was not seen (libc's own).
 */
static void schedule_locked(struct vm *vm)
{
	struct nx_recovery *nx = &vm->nx;
	uint64_t period = period_ns(params_live(PARAMS_NX_RECOVERY_RATIO));
	uint64_t next = timers_now_ns() + LOOK_NS;

	if (period && nx->last_ns + period < next)
		next = nx->last_ns + period;
	vm_timer_arm(&vm->timers, &nx->timer, is_wanted(vm) ? next : 0);
}

static bool is_due_locked(const struct nx_recovery *nx, long ratio)
{
	uint64_t period = period_ns(ratio);

	return period && timers_now_ns() - nx->last_ns >= period;
}

static void recover(struct vm_timer *timer)
{
	struct vm *vm = (struct vm *)((char *)timer - offsetof(struct vm, nx.timer));
	long ratio = params_live(PARAMS_NX_RECOVERY_RATIO);
	struct nx_recovery *nx = &vm->nx;
	bool due;

	client_call_begin();
	process_lock_acquire(&nx->lock);
	due = is_wanted(vm) && is_due_locked(nx, ratio);
	if (due)
		nx->last_ns = timers_now_ns();
	process_lock_release(&nx->lock);
	if (due)
		quire_vm_recover_nx_pages(vm->memory, (uint32_t)ratio);
	nx_recovery_apply(vm);
	client_call_end();
}

/* Time counts from when the workaround is on and the guest runs. */
void nx_recovery_apply(struct vm *vm)
{
	struct nx_recovery *nx = &vm->nx;
	bool wanted = is_wanted(vm);

	quire_vm_set_nx_huge_pages(vm->memory, wanted);
	if (!atomic_load(&nx->has_run))
		return;
	process_lock_acquire(&nx->lock);
	if (wanted && !nx->running)
		nx->last_ns = timers_now_ns();
	atomic_store(&nx->running, wanted);
	schedule_locked(vm);
	process_lock_release(&nx->lock);
}

/*
 * All that VMs do by a parameter. Every VM is held, and no lock while it changes: that may wait for
 * its vCPUs.
 */
static void apply_all(void)
{
	struct vm **held;
	size_t count = 0;

	client_call_begin();
	params_refresh();
	process_lock_acquire(&nx_vms_lock);
	held = process_heap_array(vm_count + 1, sizeof(struct vm *));
	for (struct vm *vm = vms; held && vm; vm = vm->nx.next)
		if (vm_try_get(vm))
			held[count++] = vm;
	process_lock_release(&nx_vms_lock);
	for (size_t i = 0; i < count; i++) {
		nx_recovery_apply(held[i]);
		split_ahead_apply(held[i]);
		vm_put(held[i]);
	}
	process_heap_free(held);
	client_call_end();
}

int nx_recovery_prepare(struct vm *vm)
{
	return is_wanted(vm) ? vm_timers_start(&vm->timers) : 0;
}

void nx_recovery_init(struct vm *vm)
{
	struct nx_recovery *nx = &vm->nx;

	nx->lock = (struct process_lock){0};
	vm_timer_add(&vm->timers, &nx->timer, recover);
	process_lock_acquire(&nx_vms_lock);
	nx->next = vms;
	nx->link = &vms;
	if (vms)
		vms->nx.link = &nx->next;
	vms = vm;
	vm_count++;
	process_lock_release(&nx_vms_lock);
	/* Here and not at KVM_RUN, where a client's own filter may let no thread be made. */
	params_watch(apply_all);
	quire_vm_set_nx_huge_pages(vm->memory, is_wanted(vm));
}

void nx_recovery_forget(struct vm *vm)
{
	struct nx_recovery *nx = &vm->nx;

	process_lock_acquire(&nx_vms_lock);
	*nx->link = nx->next;
	if (nx->next)
		nx->next->nx.link = nx->link;
	vm_count--;
	process_lock_release(&nx_vms_lock);
}

void nx_recovery_poll(struct vm *vm)
{
	struct nx_recovery *nx = &vm->nx;

	if (!atomic_load_explicit(&nx->has_run, memory_order_relaxed)) {
		atomic_store(&nx->has_run, true);
		nx_recovery_apply(vm);
	} else if (is_wanted(vm) != atomic_load_explicit(&nx->running, memory_order_relaxed)) {
		nx_recovery_apply(vm);
	}
}
