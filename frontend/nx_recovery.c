/* NX huge pages of a VM: follows the parameters, and gives huge pages back from time to time. */
#include "frontend/nx_recovery.h"

#include "frontend/client_call.h"
#include "frontend/params.h"
#include "frontend/vm.h"

#define MS_NS UINT64_C(1000000)
#define LOOK_NS (1000 * MS_NS)
#define HOUR_MS UINT64_C(3600000)

static bool is_wanted(const struct vm *vm)
{
	return !atomic_load(&vm->nx.disabled) && params_live(PARAMS_NX_HUGE_PAGES) > 0;
}

/* One in ratio of the tables a period, or all of them within an hour. 0: never. */
static uint64_t period_ns(long ratio)
{
	long period_ms = params_live(PARAMS_NX_RECOVERY_PERIOD_MS);

	if (!ratio)
		return 0;
	return (period_ms ? (uint64_t)period_ms : HOUR_MS / (uint64_t)ratio) * MS_NS;
}

static void recover(struct vm_timer *timer)
{
	struct vm *vm = (struct vm *)((char *)timer - offsetof(struct vm, nx.timer));
	struct nx_recovery *nx = &vm->nx;
	uint64_t now = timers_now_ns(), period, next = now + LOOK_NS;
	long ratio;

	client_call_begin();
	if (is_wanted(vm)) {
		ratio = params_live(PARAMS_NX_RECOVERY_RATIO);
		period = period_ns(ratio);
		if (period && now - nx->last_ns >= period) {
			quire_vm_recover_nx_pages(vm->memory, (uint32_t)ratio);
			nx->last_ns = now;
		}
		if (period && nx->last_ns + period < next)
			next = nx->last_ns + period;
		vm_timer_arm(&vm->timers, &nx->timer, next);
	} else {
		quire_vm_set_nx_huge_pages(vm->memory, 0);
		atomic_store(&nx->running, false);
	}
	client_call_end();
}

void nx_recovery_init(struct vm *vm)
{
	vm_timer_add(&vm->timers, &vm->nx.timer, recover);
	quire_vm_set_nx_huge_pages(vm->memory, is_wanted(vm));
}

void nx_recovery_poll(struct vm *vm)
{
	struct nx_recovery *nx = &vm->nx;
	bool wanted = is_wanted(vm);

	quire_vm_set_nx_huge_pages(vm->memory, wanted);
	if (!wanted || atomic_load_explicit(&nx->running, memory_order_relaxed) ||
	    atomic_exchange(&nx->running, true))
		return;
	nx->last_ns = timers_now_ns();
	vm_timer_arm(&vm->timers, &nx->timer, nx->last_ns + 1);
}
