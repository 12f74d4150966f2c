/* The device node of KVM: what it is, opening it, and its ioctls on a descriptor of the machine's.
 */
#ifndef QUIRE_BOUNDARY_NODE_H
#define QUIRE_BOUNDARY_NODE_H

#include <stdbool.h>

#include "boundary/call.h"

#define NODE_MAJOR 10
#define NODE_MINOR 232

/* Is @fd open on the device number 10:232, or on what node_open() makes of it in any process? */
bool node_is_kvm(int fd);

/* Is @fd, which is no object of this process, a VM or a vCPU of another one's? */
bool node_is_strangers(int fd);

/* A new descriptor for an open with @flags: its number or -errno. */
long node_open(int flags);

/* For calls that lead to another root: KVM's first use may come there. OBJECT_FORWARD. */
long node_leave_root(const struct boundary_call *call);

/* Calls that may cover or take away /proc: the same where their target can be that. */
long node_mount(const struct boundary_call *call);
long node_unmount(const struct boundary_call *call);

/* An ioctl of KVM's on a descriptor of which node_is_kvm(). */
long node_ioctl(const struct boundary_call *call);

#endif
