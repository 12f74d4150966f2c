/* Asynchronous page faults: while the host waits for a page, the guest does something else. */
#ifndef QUIRE_FRONTEND_STATE_ASYNC_PF_H
#define QUIRE_FRONTEND_STATE_ASYNC_PF_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct async_pf_work;
struct cpu_exit_info;
struct quire_place;
struct vcpu;
struct vm;

/* KVM's limit on the pages that one vCPU may leave to the host. */
#define ASYNC_PF_PER_VCPU 64u

/* By the vCPU mutex, but for .done. */
struct async_pf {
	uint64_t msr;	     /* MSR_KVM_ASYNC_PF_EN: address, and how the guest wants it */
	uint64_t vector_msr; /* MSR_KVM_ASYNC_PF_INT */
	struct quire_place *place;
	uint32_t next_id;      /* of the next token */
	uint64_t paging_turns; /* of the CPU, as they were when it was looked last */
	bool halted;	       /* asleep until a page comes, or an event */
	bool must_wait;	       /* for the page that the next turn needs */
	bool has_failed;       /* to bring in the last page that did not come */
	uint64_t failed_gfn;   /* that page */
	uint32_t count;	       /* works that have not been told to the guest */
	struct async_pf_work *works[ASYNC_PF_PER_VCPU];
	/* Those whose page has come, in this order: by the lock of async_pf.c. */
	struct async_pf_work *done;
	atomic_uint done_count;
	atomic_uint_fast64_t injected; /* #PF that the guest got */
};

/* By the thread that creates the VM. */
void async_pf_init_vm(struct vm *vm);
/* By the thread that creates the vCPU: 0 or -ENOMEM. */
int async_pf_init(struct vcpu *vcpu);
/* Pages that are still waited for are left to themselves. */
void async_pf_destroy(struct vcpu *vcpu);
/* By RESET and INIT. */
void async_pf_reset(struct vcpu *vcpu);

/* The MSRs: 0, or -EINVAL for a value that is not taken. No lock but the vCPU mutex held. */
int async_pf_set(struct vcpu *vcpu, uint64_t value);
int async_pf_set_vector(struct vcpu *vcpu, uint64_t value);
/* The guest has read a token: the next one may come. */
void async_pf_acknowledge(struct vcpu *vcpu);

/* By the thread in KVM_RUN, out of the CPU, no lock but the vCPU mutex held. */

/* May the CPU leave a page to the host in its next turn? */
bool async_pf_may_leave(struct vcpu *vcpu);
/* It did so (CPU_EXIT_WAIT): tell the guest, or halt. */
void async_pf_begin(struct vcpu *vcpu, const struct cpu_exit_info *info);
/* Tell the guest of pages that have come, as far as it has room for tokens. */
void async_pf_check(struct vcpu *vcpu);
/* Has a page come that it was not told of? Reads one word. */
static inline bool async_pf_is_due(struct async_pf *async_pf)
{
	return atomic_load_explicit(&async_pf->done_count, memory_order_acquire);
}

#endif
