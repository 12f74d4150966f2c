/* KVM_GET_NESTED_STATE and KVM_SET_NESTED_STATE, in the format of AMD's processors. */
#ifndef QUIRE_FRONTEND_STATE_NESTED_STATE_H
#define QUIRE_FRONTEND_STATE_NESTED_STATE_H

#include <stdbool.h>

struct ioctl_call;

/* Do guests of this run get virtualisation of their own (a module parameter)? */
bool nested_is_offered(void);
/* KVM_CAP_NESTED_STATE: the room that a client needs at most, in bytes; 0 when not offered. */
long nested_state_size(void);

struct vcpu;
/* Take over what the VM's settings say about nesting, before KVM_RUN or a new state. */
void nested_settle(struct vcpu *vcpu);

long vcpu_get_nested_state(struct ioctl_call *call);
long vcpu_set_nested_state(struct ioctl_call *call);

#endif
