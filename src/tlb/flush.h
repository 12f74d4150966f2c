/* TLB flushes: vCPU requests and kicks, and the debt a change of a table leaves behind. */
#ifndef QUIRE_TLB_FLUSH_H
#define QUIRE_TLB_FLUSH_H

#include <quire/host.h>
#include <quire/vcpu.h>

#include "src/base/assert.h"
#include "src/base/lock.h"

/*
 * A vCPU in guest mode acts on translations it took from the tables at any time since it last
 * looked at its doorbell. The thread that takes a translation away rings the doorbell of every vCPU
 * and waits for those in guest mode, and for them only.
 *
 *   vCPU, entering                        flusher
 *   turns++, now odd   (full fence)       change the table
 *   take the doorbell's requests          doorbell |= TLB_FLUSH  (full fence)
 *   drop the TLB if asked                 read turns: wait while odd, the same, and the
 *   walk the tables                         request not taken
 *
 * Either the flusher sees the odd turn and waits, or the vCPU sees the request.
 *
 * A vCPU in guest mode holds no lock and no read section, so a flusher may wait with locks held. It
 * polls the doorbell at every block end; one that is blocked in the kernel on a host page is
 * kicked out of the access by a signal, again and again until it hears (a kick that comes just
 * before the thread blocks is lost).
 */
struct guest_mode {
	cache_aligned u64 doorbell; /* QUIRE_REQ_*, client bits */
	u32 turns;		    /* entries plus exits: odd in guest mode */
	void *cookie;		    /* for the host's kick() */
	struct guest_mode *next;    /* under flush_domain.lock */
};

/* The requests that the library itself takes at entry; all others are the client's. */
#define LIBRARY_REQUESTS ((UINT64_C(1) << QUIRE_REQ_CLIENT_SHIFT) - 1)

/* All vCPUs that may hold translations of one VM's tables. */
struct flush_domain {
	struct mutex lock;
	struct guest_mode *members GUARDED_BY(lock);
	const struct quire_host_ops *host;
	void *host_ctx;
	u64 flushes;  /* remote_tlb_flush */
	u64 requests; /* remote_tlb_flush_requests */
	u32 closed;   /* (a) a gate: closed to vCPUs that want into guest mode */
};

void flush_domain_init(struct flush_domain *domain, const struct quire_host_ops *host,
		       void *host_ctx);
void flush_domain_add(struct flush_domain *domain, struct guest_mode *member);
void flush_domain_remove(struct flush_domain *domain, struct guest_mode *member);

/* Raise @request at one vCPU, and kick it if it is in guest mode. Does not wait. */
void guest_mode_request(struct flush_domain *domain, struct guest_mode *member, u64 request);
/* Raise @request at every vCPU and wait until none is in guest mode without having taken it. */
void flush_domain_request(struct flush_domain *domain, u64 request);

/*
 * Close guest mode: while it is closed no vCPU walks the tables, so that none sets A or D in
 * them. Nonzero when that worked; 0, with nothing changed, when a vCPU is in guest mode: it is not
 * disturbed. Under mmu_lock exclusive, and briefly: vCPUs that want to enter wait, and nothing
 * that waits for a vCPU may happen meanwhile.
 *
 *   vCPU, entering                        closer
 *   turns++, now odd   (full fence)       closed = 1  (full fence)
 *   read closed: if set, leave, wait      read every turns: if one is odd, open again
 */
must_check int flush_domain_close(struct flush_domain *domain);
void flush_domain_open(struct flush_domain *domain);
/* A vCPU that has found it closed waits for the opening. */
void flush_domain_wait_open(struct flush_domain *domain);
/* Is no vCPU in guest mode? True a moment ago: to decide whether closing is worth a try. */
int flush_domain_is_idle(struct flush_domain *domain);

/* With mmu_lock held, in either mode: has the caller closed it? */
static inline bool flush_domain_is_closed(const struct flush_domain *domain)
{
	return atomic_load_relaxed_u32(&domain->closed);
}

/* For CHECK() on the vCPU's own thread: is it in guest mode? */
static inline bool guest_mode_is_on(const struct guest_mode *member)
{
	return atomic_load_relaxed_u32(&member->turns) & 1;
}

/* Guest mode begins: returns the library's requests, taken. A full fence. */
static inline u64 guest_mode_enter(struct guest_mode *member)
{
	CHECK(!guest_mode_is_on(member));
	CHECK(!base_self()->held_count && !base_self()->nesting);
	/* A full fence, partner of the fetch_or in flush_domain_request(). */
	(void)atomic_fetch_add_u32(&member->turns, 1);
	if (likely(!atomic_load_relaxed_u64(&member->doorbell)))
		return 0;
	return atomic_fetch_and_u64(&member->doorbell, ~LIBRARY_REQUESTS);
}

static inline void guest_mode_leave(struct guest_mode *member)
{
	CHECK(guest_mode_is_on(member));
	CHECK(!base_self()->held_count && !base_self()->nesting);
	atomic_store_release_u32(&member->turns, atomic_load_relaxed_u32(&member->turns) + 1);
}

struct table;

/*
 * What a change of the tables still owes: a flush, before the memory taken away is reused; and
 * tables that were unlinked, to be freed after that flush and a grace period. A debt is made with
 * flush_debt_init() and ends in tdp_debt_settle(); flush_debt_pay() between the two is for
 * callers that must have flushed before they drop a lock.
 */
struct flush_debt {
	struct flush_domain *domain;
	struct table *tables; /* unlinked, linked by table.next */
	u64 table_count;
	bool owed;
};

static inline void flush_debt_init(struct flush_debt *debt, struct flush_domain *domain)
{
	*debt = (struct flush_debt){.domain = domain};
}
/* A translation was taken away, or lost a right. */
static inline void flush_debt_owe(struct flush_debt *debt)
{
	CHECK(debt->domain);
	debt->owed = true;
}
/* Flush now if anything is owed. Any lock may be held. */
void flush_debt_pay(struct flush_debt *debt);
/* Forget the flush: no processor can have cached what was changed (@why is for the reader). */
static inline void flush_debt_forgive(struct flush_debt *debt, const char *why)
{
	(void)why;
	CHECK(why);
	CHECK(debt->domain);
	debt->owed = false;
}

#endif
