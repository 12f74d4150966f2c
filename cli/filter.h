/* The filter of system calls that a whole run inherits. */
#ifndef QUIRE_CLI_FILTER_H
#define QUIRE_CLI_FILTER_H

/* What an ioctl of KVM answers that reaches the kernel: the errno of a device that is not there. */
#define FILTER_KVM_ERRNO ENODEV

/*
 * Keep this process, and everything it starts, from the machine's own KVM: an ioctl of type 0xAE
 * that reaches the kernel answers FILTER_KVM_ERRNO, whatever its descriptor. Quire makes none.
 * Sets no_new_privs where the caller lacks CAP_SYS_ADMIN. 0 or -errno: the kernel has no filters.
 */
int filter_install(void);

#endif
