/* Eventfds that raise a guest's interrupt. */
#ifndef QUIRE_FRONTEND_IRQ_IRQFD_H
#define QUIRE_FRONTEND_IRQ_IRQFD_H

struct ioctl_call;
struct vm;

/* Before a VM is made: what the process needs to assign one. 0 or -errno. */
int irqfds_prepare(void);
/* KVM_IRQFD: -EBUSY when the eventfd is assigned already, in whichever VM of the process. */
long vm_irqfd(struct ioctl_call *call);
/* Drop all of @vm. The caller holds no lock of the VM. */
void irqfds_destroy(struct vm *vm);

#endif
