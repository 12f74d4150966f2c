/*
 * A flush against vCPUs that enter and leave, in every interleaving with few preemptions: when it
 * returns, no vCPU uses what it took in before. And closing guest mode.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include <quire/platform.h>

#include "hosts/sim/sched.h"
#include "src/tlb/flush.h"

#define VCPUS 2u
#define PREEMPTIONS 2u

static struct {
	struct flush_domain domain;
	struct biglock mmu_lock; /* of its VM */
	struct guest_mode modes[VCPUS];
	uint64_t cached[VCPUS]; /* what each vCPU's TLB holds; 0: nothing */
	uint64_t table;		/* the entry: 1, then 2 */
	uint32_t in_guest;
	bool closed, wrong;
} world;

static void kick(void *ctx, void *cookie)
{
}

static const struct quire_host_ops ops = {.kick = kick};

static void setup(void *ctx)
{
	memset(&world, 0, sizeof(world));
	biglock_init(&world.mmu_lock, RANK_MMU);
	flush_domain_init(&world.domain, &ops, NULL);
	for (uint32_t i = 0; i < VCPUS; i++)
		flush_domain_add(&world.domain, &world.modes[i]);
	world.table = 1;
}

/* A vCPU uses its TLB, which an earlier run has filled, and polls its doorbell. */
static void run_guest(uint32_t vcpu)
{
	uint64_t requests = guest_mode_enter(&world.modes[vcpu]);

	if (requests & QUIRE_REQ_TLB_FLUSH)
		world.cached[vcpu] = 0;
	if (!world.cached[vcpu])
		world.cached[vcpu] = atomic_load_acquire_u64(&world.table);
	sched_yield_point();
	/* The flusher has said that nothing uses the first entry any more. */
	world.wrong |= world.table == 3 && world.cached[vcpu] == 1;
	guest_mode_leave(&world.modes[vcpu]);
}

static void flush_body(uint32_t thread, void *ctx)
{
	struct flush_debt debt;

	if (thread < VCPUS) {
		run_guest(thread);
		run_guest(thread);
		return;
	}
	flush_debt_init(&debt, &world.domain);
	atomic_store_release_u64(&world.table, 2);
	flush_debt_owe(&debt);
	flush_debt_pay(&debt);
	atomic_store_release_u64(&world.table, 3);
}

static bool is_right(void *ctx)
{
	return !world.wrong;
}

static void explore(void (*body)(uint32_t thread, void *ctx))
{
	const struct sched_test test = {
	    .threads = VCPUS + 1,
	    .preemptions_max = PREEMPTIONS,
	    .setup = setup,
	    .body = body,
	    .check = is_right,
	};
	struct sched_verdict verdict = sched_explore(&test);

	assert_false(verdict.failed);
	/* Fewer where hosts/sim/sched.h says so. */
	assert_true(verdict.runs > 100 || getenv("QUIRE_PREEMPTIONS"));
}

static void test_flush(void **state)
{
	explore(flush_body);
}

/* As quire_vcpu_enter() does: out again while it is closed. */
static void enter_open(uint32_t vcpu)
{
	(void)guest_mode_enter(&world.modes[vcpu]);
	while (flush_domain_is_closed(&world.domain)) {
		guest_mode_leave(&world.modes[vcpu]);
		flush_domain_wait_open(&world.domain);
		(void)guest_mode_enter(&world.modes[vcpu]);
	}
}

static void close_body(uint32_t thread, void *ctx)
{
	if (thread < VCPUS) {
		enter_open(thread);
		world.in_guest++;
		sched_yield_point();
		world.wrong |= world.closed;
		world.in_guest--;
		guest_mode_leave(&world.modes[thread]);
		return;
	}
	biglock_write_lock(&world.mmu_lock);
	if (flush_domain_close(&world.domain)) {
		world.closed = true;
		sched_yield_point();
		world.wrong |= world.in_guest > 0;
		world.closed = false;
		flush_domain_open(&world.domain);
	}
	biglock_write_unlock(&world.mmu_lock);
}

static void test_close(void **state)
{
	explore(close_body);
}

/* Close guest mode and open it again; could it be closed? */
static bool closes(void)
{
	bool closed;

	biglock_write_lock(&world.mmu_lock);
	closed = flush_domain_close(&world.domain);
	assert_int_equal(flush_domain_is_closed(&world.domain), closed);
	if (closed)
		flush_domain_open(&world.domain);
	biglock_write_unlock(&world.mmu_lock);
	return closed;
}

/* It can be when no vCPU is in guest mode, and only then. */
static void test_idle(void **state)
{
	(void)state;
	setup(NULL);
	for (uint32_t i = 0; i < VCPUS; i++) {
		assert_true(flush_domain_is_idle(&world.domain));
		assert_true(closes());
		(void)guest_mode_enter(&world.modes[i]);
		assert_false(flush_domain_is_idle(&world.domain));
		assert_false(closes());
		guest_mode_leave(&world.modes[i]);
	}
	assert_true(closes());
}

/* A vCPU takes the request where it is, and leaves guest mode after the thread that asked is done.
 */
static void request_body(uint32_t thread, void *ctx)
{
	if (thread < VCPUS) {
		struct guest_mode *mode = &world.modes[thread];

		if (guest_mode_enter(mode) & QUIRE_REQ_RELOAD) {
			guest_mode_leave(mode);
			return;
		}
		while (atomic_load_acquire_u64(&world.table) != 2) {
			(void)atomic_fetch_and_u64(&mode->doorbell, ~(uint64_t)QUIRE_REQ_RELOAD);
			sched_platform.relax(0);
		}
		guest_mode_leave(mode);
		return;
	}
	flush_domain_request(&world.domain, QUIRE_REQ_RELOAD);
	atomic_store_release_u64(&world.table, 2);
}

static void test_request_taken_in_place(void **state)
{
	explore(request_body);
}

/* A debt that nothing is owed on costs nothing; one that is forgiven, neither. */
static void test_debts(void **state)
{
	struct flush_debt debt;

	setup(NULL);
	flush_debt_init(&debt, &world.domain);
	flush_debt_pay(&debt);
	flush_debt_owe(&debt);
	flush_debt_forgive(&debt, "test");
	flush_debt_pay(&debt);
	assert_int_equal(world.domain.flushes, 0);
	assert_int_equal(world.domain.requests, 0);
	flush_debt_owe(&debt);
	flush_debt_pay(&debt);
	flush_debt_pay(&debt);
	assert_int_equal(world.domain.flushes, 1);
	assert_int_equal(world.domain.requests, 1);
	for (uint32_t i = 0; i < VCPUS; i++)
		assert_int_equal(guest_mode_enter(&world.modes[i]), QUIRE_REQ_TLB_FLUSH);
}

/* Which vCPU was kicked, and how often the library looked again. */
static struct {
	uint32_t kicks, turns, last_turn;
	bool takes_request; /* the vCPU takes the request where it is, at the last turn */
	void *ctx, *cookie;
} seen;

static void note_kick(void *ctx, void *cookie)
{
	seen.kicks++;
	seen.ctx = ctx;
	seen.cookie = cookie;
}

static const struct quire_host_ops noting_ops = {.kick = note_kick};

/* The second vCPU does at the last turn what is waited for. */
static void note_turn(unsigned int turn)
{
	struct guest_mode *mode = &world.modes[1];

	assert_int_equal(turn, ++seen.turns);
	assert_in_range(turn, 1, seen.last_turn);
	if (turn != seen.last_turn)
		return;
	if (seen.takes_request)
		(void)atomic_fetch_and_u64(&mode->doorbell, ~(uint64_t)QUIRE_REQ_RELOAD);
	else
		atomic_store_release_u32(&mode->turns, mode->turns + 1);
}

/* Both vCPUs with names, and hosts that are told of. */
static void setup_noting(void)
{
	memset(&seen, 0, sizeof(seen));
	setup(NULL);
	flush_domain_remove(&world.domain, &world.modes[1]);
	flush_domain_remove(&world.domain, &world.modes[0]);
	flush_domain_init(&world.domain, &noting_ops, &world);
	for (uint32_t i = 0; i < VCPUS; i++) {
		world.modes[i].cookie = &world.cached[i];
		flush_domain_add(&world.domain, &world.modes[i]);
	}
}

/* A vCPU that stays in guest mode is kicked after 200 turns of the wait, and after as many again.
 */
static void test_kicks(void **state)
{
	static const uint32_t lengths[] = {1, 199, 200, 399, 400, 401};
	struct quire_platform platform = sched_platform;

	(void)state;
	platform.relax = note_turn;
	for (uint32_t i = 0; i < 2 * sizeof(lengths) / sizeof(lengths[0]); i++) {
		setup_noting();
		seen.last_turn = lengths[i / 2];
		seen.takes_request = i % 2;
		(void)guest_mode_enter(&world.modes[1]);
		quire_platform_install(&platform);
		flush_domain_request(&world.domain, QUIRE_REQ_RELOAD);
		quire_platform_install(&sched_platform);
		assert_int_equal(seen.turns, lengths[i / 2]);
		assert_int_equal(seen.kicks, lengths[i / 2] / 200);
		if (seen.kicks) {
			assert_ptr_equal(seen.ctx, &world);
			assert_ptr_equal(seen.cookie, &world.cached[1]);
		}
		/* The other vCPU was not in guest mode: it takes the request as it enters. */
		assert_int_equal(world.modes[0].doorbell, QUIRE_REQ_RELOAD);
		assert_int_equal(world.modes[1].doorbell,
				 seen.takes_request ? 0 : QUIRE_REQ_RELOAD);
		assert_int_equal(world.domain.requests + world.domain.flushes, 0);
	}
}

/* A request of one vCPU kicks that one, waits for none, and is no other's. */
static void test_request_of_one(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < VCPUS; i++) {
		setup_noting();
		(void)guest_mode_enter(&world.modes[i]);
		guest_mode_request(&world.domain, &world.modes[i], QUIRE_REQ_RELOAD);
		assert_int_equal(seen.kicks, 1);
		assert_ptr_equal(seen.ctx, &world);
		assert_ptr_equal(seen.cookie, &world.cached[i]);
		assert_int_equal(world.modes[i].doorbell, QUIRE_REQ_RELOAD);
		assert_int_equal(world.modes[!i].doorbell, 0);
		/* It adds to what is there. */
		guest_mode_request(&world.domain, &world.modes[i], QUIRE_REQ_TLB_FLUSH);
		assert_int_equal(world.modes[i].doorbell, QUIRE_REQ_RELOAD | QUIRE_REQ_TLB_FLUSH);
		assert_int_equal(seen.kicks, 2);
		guest_mode_leave(&world.modes[i]);
	}
}

#define MEMBERS 3u

/* Whichever of three vCPUs goes, the others hear, and it does not; then the next one goes. */
static void test_members(void **state)
{
	(void)state;
	for (uint32_t order = 0; order < MEMBERS * 2; order++) {
		uint32_t first = order / 2, second = (first + 1 + order % 2) % MEMBERS;
		struct guest_mode modes[MEMBERS];

		memset(modes, 0, sizeof(modes));
		memset(&world, 0, sizeof(world));
		flush_domain_init(&world.domain, &ops, NULL);
		for (uint32_t i = 0; i < MEMBERS; i++)
			flush_domain_add(&world.domain, &modes[i]);
		flush_domain_remove(&world.domain, &modes[first]);
		flush_domain_request(&world.domain, QUIRE_REQ_RELOAD);
		for (uint32_t i = 0; i < MEMBERS; i++)
			assert_int_equal(modes[i].doorbell, i == first ? 0 : QUIRE_REQ_RELOAD);
		flush_domain_remove(&world.domain, &modes[second]);
		flush_domain_request(&world.domain, QUIRE_REQ_TLB_FLUSH);
		for (uint32_t i = 0; i < MEMBERS; i++)
			assert_int_equal(modes[i].doorbell & QUIRE_REQ_TLB_FLUSH,
					 i == first || i == second ? 0 : QUIRE_REQ_TLB_FLUSH);
		(void)guest_mode_enter(&modes[first]);
		assert_true(flush_domain_is_idle(&world.domain));
		guest_mode_leave(&modes[first]);
		flush_domain_remove(&world.domain, &modes[MEMBERS - first - second]);
		assert_null(world.domain.members);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_flush),	   cmocka_unit_test(test_close),
	    cmocka_unit_test(test_idle),	   cmocka_unit_test(test_request_taken_in_place),
	    cmocka_unit_test(test_debts),	   cmocka_unit_test(test_kicks),
	    cmocka_unit_test(test_request_of_one), cmocka_unit_test(test_members),
	};

	quire_platform_install(&sched_platform);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
