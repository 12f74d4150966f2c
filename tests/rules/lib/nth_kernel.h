/* System calls of the library, of which the Nth fails (struct nth). */
#ifndef QUIRE_TESTS_RULES_LIB_NTH_KERNEL_H
#define QUIRE_TESTS_RULES_LIB_NTH_KERNEL_H

/* For nth_gate_install(): what system call @number answers on a machine whose .fails_below is set;
 * 0 lets it through. */
long nth_kernel_error(long number);

#endif
