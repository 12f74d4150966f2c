/* Requests, kicks and flushes. */
#include "src/tlb/flush.h"

#include "src/base/assert.h"
#include "src/base/mutant.h"

/* Turns of a spin before the vCPU is kicked, and between two kicks. */
#define SPINS_BEFORE_KICK 200u

void flush_domain_init(struct flush_domain *domain, const struct quire_host_ops *host,
		       void *host_ctx)
{
	CHECK(!domain->members && !domain->closed);
	mutex_init(&domain->lock, RANK_FLUSH);
	domain->host = host;
	domain->host_ctx = host_ctx;
}

#ifdef QUIRE_CHECK
/* Under the domain's lock. */
static bool is_member(const struct flush_domain *domain, const struct guest_mode *member)
{
	const struct guest_mode *at = domain->members;

	while (at && at != member)
		at = at->next;
	return at;
}
#endif

void flush_domain_add(struct flush_domain *domain, struct guest_mode *member)
{
	mutex_lock(&domain->lock);
	CHECK(!is_member(domain, member));
	CHECK(!guest_mode_is_on(member));
	member->next = domain->members;
	domain->members = member;
	mutex_unlock(&domain->lock);
}

void flush_domain_remove(struct flush_domain *domain, struct guest_mode *member)
{
	struct guest_mode **link = &domain->members;

	mutex_lock(&domain->lock);
	CHECK(is_member(domain, member));
	CHECK(!guest_mode_is_on(member));
	while (*link != member)
		link = &(*link)->next;
	*link = member->next;
	mutex_unlock(&domain->lock);
}

static void kick(struct flush_domain *domain, struct guest_mode *member)
{
	domain->host->kick(domain->host_ctx, member->cookie);
}

void guest_mode_request(struct flush_domain *domain, struct guest_mode *member, u64 request)
{
	CHECK(request);
	atomic_fetch_or_u64(&member->doorbell, request);
	kick(domain, member);
}

/* Wait until @member left guest mode once or took @request; see the comment in the header. */
static void wait_for(struct flush_domain *domain, struct guest_mode *member, u64 request)
{
	u32 turn = atomic_load_acquire_u32(&member->turns);

	if (!(turn & 1) || MUTANT(flush_unwaited))
		return;
	for (unsigned int spins = 1;; spins++) {
		if (atomic_load_acquire_u32(&member->turns) != turn)
			return;
		if (!(atomic_load_acquire_u64(&member->doorbell) & request))
			return;
		if (spins % SPINS_BEFORE_KICK == 0)
			kick(domain, member);
		base_platform->relax(spins);
	}
}

void flush_domain_request(struct flush_domain *domain, u64 request)
{
	CHECK(request && !(request & ~LIBRARY_REQUESTS));
	CHECK(!flush_domain_is_closed(domain) || !lock_rank_is_held(RANK_MMU));
	mutex_lock(&domain->lock);
	for (struct guest_mode *member = domain->members; member; member = member->next)
		atomic_fetch_or_u64(&member->doorbell, request);
	for (struct guest_mode *member = domain->members; member; member = member->next)
		wait_for(domain, member, request);
	mutex_unlock(&domain->lock);
}

int flush_domain_is_idle(struct flush_domain *domain)
{
	u32 odd = 0;

	mutex_lock(&domain->lock);
	for (struct guest_mode *member = domain->members; member; member = member->next)
		odd |= atomic_load_acquire_u32(&member->turns);
	mutex_unlock(&domain->lock);
	return !(odd & 1);
}

int flush_domain_close(struct flush_domain *domain)
{
	CHECK(!flush_domain_is_closed(domain));
	CHECK(lock_rank_is_held(RANK_MMU));
	/* A full fence, partner of the fetch_add in guest_mode_enter(). */
	(void)atomic_exchange_u32(&domain->closed, GATE_CLOSED);
	if (flush_domain_is_idle(domain))
		return 1;
	flush_domain_open(domain);
	return 0;
}

void flush_domain_open(struct flush_domain *domain)
{
	CHECK(flush_domain_is_closed(domain));
	gate_open(&domain->closed);
}

void flush_domain_wait_open(struct flush_domain *domain)
{
	CHECK(!base_self()->held_count && !base_self()->nesting);
	gate_wait(&domain->closed);
}

void flush_debt_pay(struct flush_debt *debt)
{
	if (!debt->owed)
		return;
	CHECK(debt->domain && !lock_rank_is_held(RANK_FLUSH));
	atomic_add_relaxed_u64(&debt->domain->requests, 1);
	flush_domain_request(debt->domain, QUIRE_REQ_TLB_FLUSH);
	atomic_add_relaxed_u64(&debt->domain->flushes, 1);
	debt->owed = false;
}
