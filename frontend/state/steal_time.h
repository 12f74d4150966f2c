/* Steal time: how long the vCPU's thread waited for a processor, told to the guest. */
#ifndef QUIRE_FRONTEND_STATE_STEAL_TIME_H
#define QUIRE_FRONTEND_STATE_STEAL_TIME_H

#include <stdint.h>
#include <sys/types.h>

struct quire_place;
struct vcpu;

/* By the vCPU mutex. */
struct steal_time {
	uint64_t msr;	    /* MSR_KVM_STEAL_TIME: address, bit 0 on */
	int fd;		    /* hidden: what the kernel says of @thread; -1 before the first look */
	pid_t thread;	    /* whose waiting @waited_ns is */
	uint64_t waited_ns; /* what the guest has been told of */
	uint64_t looked_ns; /* when */
};

/* Does this machine account for the waiting of threads? */
int steal_time_is_offered(void);
void steal_time_init(struct vcpu *vcpu);
void steal_time_destroy(struct vcpu *vcpu);
/* The MSR: 0, or -EINVAL for a value it does not take. */
int steal_time_set(struct vcpu *vcpu, uint64_t value);
/*
 * By the thread in KVM_RUN, out of the CPU: tell the guest, if it asked and if that is due.
 * @pace: at each entry, or while it runs on and on.
 */
enum steal_pace { STEAL_AT_ENTRY, STEAL_RUNNING };
void steal_time_update(struct vcpu *vcpu, enum steal_pace pace);

#endif
