/* One VMRUN whose outcome is known beforehand, on a machine of its own. */
#ifndef QUIRE_TESTS_FUZZ_NESTED_VERDICT_H
#define QUIRE_TESTS_FUZZ_NESTED_VERDICT_H

#include "tests/fuzz/draws.h"

/* Of the VM, on half of the machines: L2 has a PAT of its own under nested paging. */
int nested_separate_pat(int vm);

struct kvm_nested_state;
/* @state, which is of guest mode, with a size that is too small: it may not be set. */
void nested_refuses_short(struct fuzz_random *random, int vcpu, struct kvm_nested_state *state);

/*
 * L1 starts an L2 of one instruction. What the processor does about the VMCB, the intercepts, PAT
 * and L1's registers is worked out here from AMD's manual, and has to come.
 */
void nested_verdict(struct fuzz_random *random);

#endif
