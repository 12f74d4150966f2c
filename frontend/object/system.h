/* /dev/kvm itself: ioctls without a VM, and the list of this process's VMs. */
#ifndef QUIRE_FRONTEND_OBJECT_SYSTEM_H
#define QUIRE_FRONTEND_OBJECT_SYSTEM_H

#include <stdint.h>

struct quire_vm_config;
struct vm;

/* A VM comes and goes: the watchers of the client's memory calls are told. 0 or -ENOMEM. */
int system_remember_vm(struct vm *vm);
void system_forget_vm(struct vm *vm);
/* Has the processor a second stage of translation (npt, ept)? */
int system_has_tdp(void);
/* The VM types on offer, a bit each. */
uint32_t system_vm_types(void);
/* Fill in what the module parameters decide. */
void system_configure_vm(struct quire_vm_config *config);

#endif
