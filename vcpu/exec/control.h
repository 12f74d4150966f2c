/* Writes of control and debug registers with the checks of MOV, for RSM, too. */
#ifndef QUIRE_VCPU_EXEC_CONTROL_H
#define QUIRE_VCPU_EXEC_CONTROL_H

#include "vcpu/inside.h"

/* MOV to CR @number by the kernel, past L1's intercepts; STEP_ABORT with #GP or #UD raised. */
enum step control_write(struct cpu *cpu, unsigned int number, uint64_t value);
/* DR6 or DR7. Nonzero: #GP, which is not raised. */
int control_write_debug(struct cpu *cpu, unsigned int number, uint64_t value);
/* May EFER have this value now? */
int control_efer_is_valid(struct cpu *cpu, uint64_t value);

#endif
