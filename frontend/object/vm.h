/* A VM as the front-end sees it: its memory, vCPUs, buses, interrupt controllers and settings. */
#ifndef QUIRE_FRONTEND_OBJECT_VM_H
#define QUIRE_FRONTEND_OBJECT_VM_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <quire/gmem.h>
#include <quire/vm.h>

#include "frontend/irq/iobus.h"
#include "frontend/irq/irqchip.h"
#include "frontend/irq/irqfd.h"
#include "frontend/object/dispatch.h"
#include "frontend/object/nx_recovery.h"
#include "frontend/object/split_ahead.h"
#include "frontend/object/timers.h"
#include "frontend/state/msr_filter.h"
#include "hosts/process/lock.h"
#include "hosts/process/process.h"

struct vcpu;

#define VM_MAX_VCPUS 1024u
#define VM_MAX_VCPU_IDS 4096u
/* What a cycle of the APIC timer's clock takes unless the client says otherwise. */
#define VM_APIC_CYCLE_NS 1u

/* What ENABLE_CAP and the like set. Written under vm.lock, read by vCPUs at any time. */
struct vm_settings {
	uint32_t max_vcpu_ids; /* 0: not set; the first vCPU sets it */
	uint32_t boot_vcpu_id;
	atomic_uint_fast64_t exit_hypercalls;
	atomic_uint_fast64_t disabled_quirks;
	atomic_uint disabled_exits; /* KVM_X86_DISABLE_EXITS_*; fixed once there is a vCPU */
	atomic_uint msr_exits;	    /* KVM_MSR_EXIT_REASON_*: the client answers these */
	atomic_bool exception_payload;
	atomic_bool triple_fault_event;
	atomic_bool exit_on_emulation_failure;
	atomic_bool hide_platform_info;
	atomic_bool x2apic_32bit_ids;
	atomic_bool x2apic_no_broadcast_quirk;
	uint32_t apic_cycle_ns; /* of the APIC timer's clock; fixed once there is a vCPU */
};

/*
 * One reference each: the VM's descriptor, each vCPU's, each guest_memfd's, each statistics
 * file's. A vCPU lives as long as its VM, whether or not its descriptor does.
 * Locks, outer to inner: vcpu.lock, vm.lock, bus.lock, irqchip.lock, lapic.lock, timers.lock.
 * Both locks of irqfd.c come before irqchip.lock.
 */
struct vm {
	atomic_int refs;
	pid_t owner;
	enum quire_vm_type type;
	struct quire_vm *memory;
	struct process_host host;

	struct process_lock lock; /* creation of vCPUs and of the interrupt controllers, settings */
	struct vm_settings settings;
	/* In order of creation; an entry below vcpu_count never changes. */
	struct vcpu *vcpus[VM_MAX_VCPUS];
	atomic_uint vcpu_count;

	struct iobus bus;
	struct irqchip irqchip;
	struct msr_filter msr_filter;
	struct vm_timers timers;
	struct vm_timer async_pf_timer; /* starts threads: async_pf.c */
	struct nx_recovery nx;
	struct split_ahead split_ahead;

	uint64_t tsc_offset;		     /* of a new vCPU */
	atomic_uint tsc_khz;		     /* likewise; 0: the machine's. Written under .lock */
	atomic_int_fast64_t clock_offset_ns; /* kvmclock = CLOCK_MONOTONIC + this */
};

extern const struct file_ops vm_file_ops;

/* How many vCPUs a VM may have: what KVM_CAP_MAX_VCPUS says. */
uint32_t vm_max_vcpus(void);
/* KVM_CREATE_VM: a descriptor or -errno. */
long vm_create(uint64_t type);
void vm_get(struct vm *vm);
/* The same when there is still one: nonzero. */
int vm_try_get(struct vm *vm);
void vm_put(struct vm *vm);

/* The vCPU with @id, NULL when there is none. */
struct vcpu *vm_find_vcpu(struct vm *vm, uint32_t id);

/* Memory ioctls (vm_memory.c). */
long vm_set_region(struct ioctl_call *call);
long vm_set_region2(struct ioctl_call *call);
long vm_set_attributes(struct ioctl_call *call);
long vm_create_gmem(struct ioctl_call *call);
long vm_link_gmem(struct ioctl_call *call);
long vm_get_dirty_log(struct ioctl_call *call);
long vm_clear_dirty_log(struct ioctl_call *call);
long vm_reset_dirty_rings(struct ioctl_call *call);
long vm_set_nr_mmu_pages(struct ioctl_call *call);

/* Capabilities (vm_caps.c). */
long vm_check_extension(struct ioctl_call *call);
long vm_enable_cap(struct ioctl_call *call);
/* The value of @capability at system scope. */
long caps_check_system(uint64_t capability);

/* Clock and TSC ioctls (clock.c). */
long vm_get_clock(struct ioctl_call *call);
long vm_set_clock(struct ioctl_call *call);
long vm_get_tsc_khz(struct ioctl_call *call);
long vm_set_tsc_khz(struct ioctl_call *call);

#endif
