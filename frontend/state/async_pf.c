/*
 * Asynchronous page faults.
 *
 * A page that the host waits for is a work, from the fault to the word that it has come:
 *
 *   QUEUED   made by the vCPU's thread; the guest got #PF with the token in CR2 ("not present"),
 *            or takes none now, and the vCPU halts
 *   BUSY     a worker of the process brings the page in
 *   DONE     the vCPU was woken; its thread maps the page and hands the token over ("ready") by an
 *            interrupt, if the guest was told before, and ends the work
 *
 * A vCPU that forgets its works (another value of the MSR, INIT, a change of CR0.PG, its end) does
 * not wait for a worker: a BUSY work loses its vCPU, and the worker ends it. A worker touches the
 * client's memory and holds nothing meanwhile. It may wait for as long as it likes, so each page
 * gets a worker of its own; where there are too few, the vCPU waits by itself.
 */
#include "frontend/state/async_pf.h"

#include <errno.h>
#include <stddef.h>
#include <linux/kvm_para.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <quire/place.h>

#include "frontend/object/vcpu.h"
#include "frontend/object/vm.h"
#include "hosts/process/fork.h"
#include "hosts/process/heap.h"
#include "hosts/process/helper.h"
#include "hosts/process/sys.h"
#include "src/base/trace.h"
#include "vcpu/arch.h"
#include "vcpu/svm/nested.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif

#define WORKERS_MAX 64u

#define MSR_ON ((uint64_t)(KVM_ASYNC_PF_ENABLED | KVM_ASYNC_PF_DELIVERY_AS_INT))
#define MSR_RESERVED UINT64_C(0x30)
#define MSR_ADDRESS (~UINT64_C(0x3f))

/* The guest's place: why it got #PF, and the token of a page that has come. */
#define PLACE_REASON 0u
#define PLACE_TOKEN 4u
#define PLACE_BYTES 8u

/* A token is the work's number and the vCPU's: 20 bits and 12. */
#define TOKEN_ID_SHIFT 12u
#define TOKEN_ALL UINT32_MAX

struct async_pf_work {
	struct async_pf_work *next; /* in the queue of workers, or among those done of the vCPU */
	struct vcpu *vcpu;	    /* NULL: forgotten */
	enum { WORK_QUEUED, WORK_BUSY, WORK_DONE } state;
	uint64_t gpa, gfn, error_code; /* of the fault, and L1's gfn */
	hva_t hva;
	uint32_t token;
	bool told;     /* "not present", to the guest */
	bool wakes_up; /* no page: all that the guest ever waited for */
	bool failed;   /* the page did not come */
};

/* Guards what is below, .next, .vcpu and .state of works, and .done of vCPUs. */
static struct process_lock async_lock;
static struct {
	struct async_pf_work *queue;
	struct process_event queued;
	uint32_t unfinished; /* works, QUEUED and BUSY */
	uint32_t workers;    /* threads, with those that are to start */
	uint32_t to_start;
	bool lacks_threads;
} pool;

/* Threads and works are the parent's. */
static void fork_child(void)
{
	(void)process_lock_start_anew(&async_lock);
	pool.queue = NULL;
	pool.unfinished = pool.workers = pool.to_start = 0;
	pool.lacks_threads = false;
}
FORK_CHILD(FORK_PAGES, async_lock, fork_child);

static void append_locked(struct async_pf_work **list, struct async_pf_work *work)
{
	while (*list)
		list = &(*list)->next;
	work->next = NULL;
	*list = work;
}

static bool remove_locked(struct async_pf_work **list, const struct async_pf_work *work)
{
	while (*list && *list != work)
		list = &(*list)->next;
	if (!*list)
		return false;
	*list = work->next;
	return true;
}

/* Wakes the vCPU, which lives: to end it takes the lock first. */
static void done_locked(struct async_pf_work *work)
{
	struct vcpu *vcpu = work->vcpu;

	work->state = WORK_DONE;
	append_locked(&vcpu->async_pf.done, work);
	atomic_fetch_add_explicit(&vcpu->async_pf.done_count, 1, memory_order_release);
	vcpu_wake(vcpu);
}

static void finish_locked(struct async_pf_work *work)
{
	pool.unfinished--;
	QUIRE_TRACE(kvm_async_pf_completed, work->hva.v, work->gpa);
	if (work->vcpu)
		done_locked(work);
	else
		process_heap_free(work);
}

static struct async_pf_work *take_queued_locked(void)
{
	struct async_pf_work *work = pool.queue;

	if (work) {
		pool.queue = work->next;
		work->state = WORK_BUSY;
	}
	return work;
}

/*
 * As KVM does: for writing, where the client may write; a mapping without that right is -EINVAL.
 * What came of it the vCPU finds out when it looks again.
 */
static void bring_in(struct async_pf_work *work)
{
	uint64_t page = work->hva.v & QUIRE_PAGE_MASK;
	long error = sys_call(SYS_madvise, page, QUIRE_PAGE_SIZE, MADV_POPULATE_WRITE);

	if (error == -EINVAL)
		error = sys_call(SYS_madvise, page, QUIRE_PAGE_SIZE, MADV_POPULATE_READ);
	work->failed = error != 0;
}

static void *worker(void *unused)
{
	process_lock_acquire(&async_lock);
	for (;;) {
		uint32_t seen = process_event_count(&pool.queued);
		struct async_pf_work *work = take_queued_locked();

		process_lock_release(&async_lock);
		if (work)
			bring_in(work);
		else
			process_event_wait(&pool.queued, seen, PROCESS_EVENT_FOREVER);
		process_lock_acquire(&async_lock);
		if (work)
			finish_locked(work);
	}
	return unused;
}

/* No thread can be made: what the others are too busy for is for the vCPUs to wait for. */
static void lack_locked(void)
{
	struct async_pf_work *work;

	pool.lacks_threads = true;
	while (pool.unfinished > pool.workers && (work = take_queued_locked()))
		finish_locked(work);
}

/*
 * On the thread of a VM's timers, which was there before the client put filters on its own: no
 * thread may be made in KVM_RUN.
 */
static void start_workers(struct vm_timer *timer)
{
	process_lock_acquire(&async_lock);
	while (pool.to_start) {
		int error;

		pool.to_start--;
		process_lock_release(&async_lock);
		error = helper_start(NULL, worker, NULL);
		process_lock_acquire(&async_lock);
		if (error) {
			pool.workers--;
			lack_locked();
		}
	}
	process_lock_release(&async_lock);
}

void async_pf_init_vm(struct vm *vm)
{
	vm_timer_add(&vm->timers, &vm->async_pf_timer, start_workers);
}

/* False: no worker would be free for it. */
static bool queue_work(struct async_pf_work *work)
{
	bool queued, short_of_workers;

	process_lock_acquire(&async_lock);
	queued = pool.unfinished < (pool.lacks_threads ? pool.workers : WORKERS_MAX);
	if (queued) {
		append_locked(&pool.queue, work);
		if (++pool.unfinished > pool.workers) {
			pool.workers++;
			pool.to_start++;
		}
		process_event_happen(&pool.queued);
	}
	short_of_workers = pool.to_start;
	process_lock_release(&async_lock);
	if (short_of_workers)
		vm_timer_arm(&work->vcpu->vm->timers, &work->vcpu->vm->async_pf_timer, 1);
	return queued;
}

static bool is_on(const struct vcpu *vcpu)
{
	return (vcpu->async_pf.msr & MSR_ON) == MSR_ON;
}

/* Of one of @vcpu's works: a worker that has it may go on. */
static void forget_locked(struct async_pf_work *work)
{
	struct async_pf *async_pf = &work->vcpu->async_pf;

	if (work->state == WORK_BUSY) {
		work->vcpu = NULL;
		return;
	}
	if (work->state == WORK_QUEUED && remove_locked(&pool.queue, work))
		pool.unfinished--;
	else if (remove_locked(&async_pf->done, work))
		atomic_fetch_sub_explicit(&async_pf->done_count, 1, memory_order_relaxed);
	process_heap_free(work);
}

static void forget_all(struct vcpu *vcpu)
{
	struct async_pf *async_pf = &vcpu->async_pf;

	process_lock_acquire(&async_lock);
	while (async_pf->count)
		forget_locked(async_pf->works[--async_pf->count]);
	process_lock_release(&async_lock);
	/* Nothing would end it. */
	async_pf->halted = false;
}

/* A guest that changes CR0.PG is another from then on, and knows nothing of tokens. */
static void forget_stale(struct vcpu *vcpu)
{
	uint64_t turns = cpu_counts(vcpu->cpu)->paging_turns;

	if (vcpu->async_pf.paging_turns == turns)
		return;
	vcpu->async_pf.paging_turns = turns;
	forget_all(vcpu);
}

static struct async_pf_work *make_work(struct vcpu *vcpu)
{
	struct async_pf *async_pf = &vcpu->async_pf;
	struct async_pf_work *work;

	if (async_pf->count == ASYNC_PF_PER_VCPU)
		return NULL;
	work = process_heap_alloc(sizeof(*work));
	if (!work)
		return NULL;
	work->vcpu = vcpu;
	async_pf->works[async_pf->count++] = work;
	return work;
}

/* It is in no list of the lock's any more. */
static void end_work(struct async_pf_work *work)
{
	struct async_pf *async_pf = &work->vcpu->async_pf;
	uint32_t i = 0;

	while (async_pf->works[i] != work)
		i++;
	async_pf->works[i] = async_pf->works[--async_pf->count];
	process_heap_free(work);
}

/* Never 0, which says in the guest's place that there is room for one. */
static uint32_t next_token(struct vcpu *vcpu)
{
	uint32_t *id = &vcpu->async_pf.next_id;

	if (!(uint32_t)(*id << TOKEN_ID_SHIFT))
		*id = 1;
	return (*id)++ << TOKEN_ID_SHIFT | vcpu->id;
}

int async_pf_init(struct vcpu *vcpu)
{
	return quire_place_create(vcpu->memory, &vcpu->async_pf.place);
}

void async_pf_destroy(struct vcpu *vcpu)
{
	forget_all(vcpu);
	if (vcpu->async_pf.place)
		quire_place_destroy(vcpu->async_pf.place);
}

void async_pf_reset(struct vcpu *vcpu)
{
	struct async_pf *async_pf = &vcpu->async_pf;

	forget_all(vcpu);
	async_pf->msr = async_pf->vector_msr = 0;
	async_pf->must_wait = false;
	/* Nothing is shown: this cannot fail. */
	(void)!quire_place_set(async_pf->place, (gpa_t){0}, 0);
}

/* The guest, or its state that a client brought, begins: tasks that wait for old tokens go on. */
static void wake_all(struct vcpu *vcpu)
{
	struct async_pf_work *work = async_pf_is_due(&vcpu->async_pf) ? NULL : make_work(vcpu);

	if (!work)
		return;
	work->wakes_up = true;
	work->token = TOKEN_ALL;
	process_lock_acquire(&async_lock);
	done_locked(work);
	process_lock_release(&async_lock);
}

static int show(struct vcpu *vcpu, uint64_t msr)
{
	gpa_t gpa = {msr & MSR_ADDRESS};

	return quire_place_set(vcpu->async_pf.place, gpa,
			       (msr & MSR_ON) == MSR_ON ? PLACE_BYTES : 0);
}

int async_pf_set(struct vcpu *vcpu, uint64_t value)
{
	if ((value & MSR_RESERVED) ||
	    ((value & KVM_ASYNC_PF_DELIVERY_AS_PF_VMEXIT) &&
	     !msr_pv_has(vcpu, KVM_FEATURE_ASYNC_PF_VMEXIT)) ||
	    ((value & KVM_ASYNC_PF_DELIVERY_AS_INT) && !msr_pv_has(vcpu, KVM_FEATURE_ASYNC_PF_INT)))
		return -EINVAL;
	if (!vcpu->lapic.present)
		return value ? -EINVAL : 0;
	/* KVM looks the slot up here, and no further: what memory is behind it shows later. */
	if (show(vcpu, value) ||
	    ((value & MSR_ON) == MSR_ON && quire_place_check(vcpu->async_pf.place))) {
		(void)!show(vcpu, vcpu->async_pf.msr);
		return -EINVAL;
	}
	vcpu->async_pf.msr = value;
	if (is_on(vcpu))
		wake_all(vcpu);
	else
		forget_all(vcpu);
	/* The CPU learns in its next turn what it may do. */
	vcpu_wake(vcpu);
	return 0;
}

int async_pf_set_vector(struct vcpu *vcpu, uint64_t value)
{
	if (value >> 8 || !vcpu->lapic.present)
		return -EINVAL;
	vcpu->async_pf.vector_msr = value;
	return 0;
}

void async_pf_acknowledge(struct vcpu *vcpu)
{
	async_pf_check(vcpu);
}

bool async_pf_may_leave(struct vcpu *vcpu)
{
	bool must_wait = vcpu->async_pf.must_wait;

	vcpu->async_pf.must_wait = false;
	return is_on(vcpu) && !must_wait;
}

/* Would the guest take #PF of ours now? L1 does so by an exit of L2, if it asked for that. */
static bool can_deliver(const struct vcpu *vcpu)
{
	const struct cpu_state *state = cpu_state(vcpu->cpu);
	uint64_t msr = vcpu->async_pf.msr;

	if (!is_on(vcpu) || (!(msr & KVM_ASYNC_PF_SEND_ALWAYS) && !state->seg[CPU_SS].dpl))
		return false;
	if (cpu_nested_active(vcpu->cpu))
		return msr & KVM_ASYNC_PF_DELIVERY_AS_PF_VMEXIT;
	return state->cr0 & CR0_PG;
}

static bool put_word(struct vcpu *vcpu, uint64_t offset, uint32_t word)
{
	return !quire_place_write(vcpu->async_pf.place, offset, &word, sizeof(word));
}

static void inject(struct vcpu *vcpu, uint32_t token)
{
	struct cpu_state *state = cpu_state(vcpu->cpu);

	stat_count(&vcpu->async_pf.injected);
	if (cpu_nested_active(vcpu->cpu)) {
		if (!cpu_nested_page_fault(vcpu->cpu, token))
			vcpu->triple_fault = true;
		return;
	}
	state->exception_pending = 1;
	state->exception_injected = 0;
	state->exception_vector = VECTOR_PF;
	state->exception_has_error = 1;
	state->exception_error = 0;
	/* At once, for a client that knows of no payloads saves it as it is. */
	state->exception_has_payload = 0;
	state->cr2 = token;
	cpu_state_changed(vcpu->cpu);
}

static void say_not_present(struct vcpu *vcpu, struct async_pf_work *work)
{
	QUIRE_TRACE(kvm_async_pf_not_present, work->token, work->gpa);
	work->told =
	    can_deliver(vcpu) && put_word(vcpu, PLACE_REASON, KVM_PV_REASON_PAGE_NOT_PRESENT);
	/* Perhaps an interrupt comes, and with it another task. */
	if (work->told)
		inject(vcpu, work->token);
	else
		vcpu->async_pf.halted = true;
}

static bool is_waited_for(const struct async_pf *async_pf, uint64_t gfn)
{
	for (uint32_t i = 0; i < async_pf->count; i++)
		if (!async_pf->works[i]->wakes_up && async_pf->works[i]->gfn == gfn)
			return true;
	return false;
}

/* NULL: no more than this, or no memory. */
static struct async_pf_work *start_work(struct vcpu *vcpu, const struct cpu_exit_info *info)
{
	struct async_pf_work *work = make_work(vcpu);

	if (!work)
		return NULL;
	work->gpa = info->gpa;
	work->gfn = info->fault.gpa.v >> QUIRE_PAGE_SHIFT;
	work->error_code = info->error_code;
	work->hva = info->fault.hva;
	work->token = next_token(vcpu);
	if (queue_work(work))
		return work;
	end_work(work);
	return NULL;
}

void async_pf_begin(struct vcpu *vcpu, const struct cpu_exit_info *info)
{
	bool halts_inside =
	    atomic_load(&vcpu->vm->settings.disabled_exits) & KVM_X86_DISABLE_EXITS_HLT;
	uint64_t gfn = info->fault.gpa.v >> QUIRE_PAGE_SHIFT;
	struct async_pf_work *work;

	forget_stale(vcpu);
	if (halts_inside && !can_deliver(vcpu)) {
		vcpu->async_pf.must_wait = true;
		return;
	}
	/* The host says that it waits, and a touch fails: the vCPU itself finds out why. */
	if (vcpu->async_pf.has_failed && vcpu->async_pf.failed_gfn == gfn) {
		vcpu->async_pf.has_failed = false;
		vcpu->async_pf.must_wait = true;
		return;
	}
	QUIRE_TRACE(kvm_try_async_get_page, info->gpa, gfn);
	if (is_waited_for(&vcpu->async_pf, gfn)) {
		QUIRE_TRACE(kvm_async_pf_repeated_fault, info->gpa, gfn);
		vcpu->async_pf.halted = true;
		return;
	}
	work = start_work(vcpu, info);
	if (work)
		say_not_present(vcpu, work);
	else
		vcpu->async_pf.must_wait = true;
}

/* A token in the guest's place stands until the guest has read it, and put 0 there. */
static bool has_room_for_token(struct vcpu *vcpu)
{
	uint32_t token;

	if (!is_on(vcpu))
		return true;
	return lapic_is_enabled(vcpu) &&
	       !quire_place_read(vcpu->async_pf.place, PLACE_TOKEN, &token, sizeof(token)) &&
	       !token;
}

static struct async_pf_work *take_done(struct async_pf *async_pf)
{
	struct async_pf_work *work;

	process_lock_acquire(&async_lock);
	work = async_pf->done;
	async_pf->done = work->next;
	atomic_fetch_sub_explicit(&async_pf->done_count, 1, memory_order_relaxed);
	process_lock_release(&async_lock);
	return work;
}

static void say_ready(struct vcpu *vcpu, const struct async_pf_work *work)
{
	const struct apic_message message = {
	    .delivery_mode = APIC_MODE_FIXED,
	    .vector = (uint8_t)vcpu->async_pf.vector_msr,
	};

	QUIRE_TRACE(kvm_async_pf_ready, work->token, work->gpa);
	if ((work->wakes_up || work->told) && is_on(vcpu) &&
	    put_word(vcpu, PLACE_TOKEN, work->token))
		(void)lapic_accept(vcpu, &message);
	vcpu->async_pf.halted = false;
	cpu_state(vcpu->cpu)->halted = 0;
}

void async_pf_check(struct vcpu *vcpu)
{
	forget_stale(vcpu);
	while (async_pf_is_due(&vcpu->async_pf) && has_room_for_token(vcpu)) {
		struct async_pf_work *work = take_done(&vcpu->async_pf);

		if (!work->wakes_up)
			quire_vcpu_page_ready(vcpu->memory, (gpa_t){work->gpa}, work->error_code);
		if (work->failed) {
			vcpu->async_pf.has_failed = true;
			vcpu->async_pf.failed_gfn = work->gfn;
		}
		say_ready(vcpu, work);
		end_work(work);
	}
}
