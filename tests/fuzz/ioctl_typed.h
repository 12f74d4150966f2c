/* Calls that KVM takes, but for a word or two; and what holds of a vCPU whatever was called. */
#ifndef QUIRE_TESTS_FUZZ_IOCTL_TYPED_H
#define QUIRE_TESTS_FUZZ_IOCTL_TYPED_H

#include "tests/fuzz/draws.h"

#define TYPED_WORDS 136u

struct typed_call {
	unsigned long number;
	int on_vcpu;		     /* else on the VM */
	uint32_t words[TYPED_WORDS]; /* the argument */
	uint32_t used;		     /* of them; those behind are zero */
};

/* @eventfd and @memory stand wherever a call wants such a thing. */
void typed_draw(struct fuzz_random *random, int eventfd, void *memory, struct typed_call *call);

/* A call that answers a list, on @kvm or @vcpu, with some room for it: nothing is written behind.
 */
void typed_list(struct fuzz_random *random, int kvm, int vcpu);

/* What is set of a vCPU is what is read: something else first, then what there was. */
void typed_check_saved(int vcpu);

#endif
