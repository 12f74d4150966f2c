/* System management mode: an interrupt that the guest does not see, and RSM, which ends it. */
#ifndef QUIRE_VCPU_SMM_SMM_H
#define QUIRE_VCPU_SMM_SMM_H

#include "vcpu/inside.h"

#define SMM_SPACE 1u /* the address space that has SMRAM */

/* All of these: out of guest mode, but for smm_due(). */

/* Does an SMI wait that may be taken between two instructions? */
int smm_due(const struct cpu *cpu);
/*
 * Take it: the registers go to SMRAM, and the handler is next. Nonzero: there is no SMRAM for them,
 * and with L2 there may be nothing left of it.
 */
int smm_enter(struct cpu *cpu);
/*
 * RSM: registers come back from SMRAM. Nonzero: they are none that a processor can have, or there
 * are none; it shuts down.
 */
int smm_leave(struct cpu *cpu);
/* What both begin or end with: the mode and its address space. -EINVAL: the VM has no such one. */
int smm_switch(struct cpu *cpu, int on);
/* Has the guest's processor long mode, and so the larger of the layouts? */
int smm_has_long_mode(struct cpu *cpu);

#endif
