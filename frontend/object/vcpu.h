/* A vCPU as the front-end sees it: run page, processor, local APIC, MSRs, CPUID, statistics. */
#ifndef QUIRE_FRONTEND_OBJECT_VCPU_H
#define QUIRE_FRONTEND_OBJECT_VCPU_H

#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <quire/vcpu.h>

#include "frontend/irq/lapic.h"
#include "frontend/irq/pv_eoi.h"
#include "frontend/object/dispatch.h"
#include "frontend/run/signals.h"
#include "frontend/state/async_pf.h"
#include "frontend/state/msr.h"
#include "frontend/state/steal_time.h"
#include "frontend/uapi.h"
#include "hosts/process/lock.h"
#include "hosts/process/process.h"
#include "vcpu/cpu.h"

struct vm;

/* The descriptor's pages, as KVM lays them out. */
#define VCPU_PIO_PAGE 1u
/* Bytes that a client gives REP INS at once. */
#define VCPU_INPUT_MAX 1024u
#define VCPU_COALESCED_PAGE 2u
#define VCPU_PAGES 3u
#define VCPU_MMAP_BYTES (VCPU_PAGES * 4096u)
/* Where the dirty ring begins, in VMs that log into rings (KVM_DIRTY_LOG_PAGE_OFFSET). */
#define VCPU_RING_PAGE 64u

#define VCPU_MAX_CPUID 256u

/*
 * Counters that the front-end keeps beside the library's, in KVM's order and with its names. What
 * has no counterpart here stays 0: a halted vCPU does not poll, no register is reloaded, NMIs need
 * no window, and the kernel does not tell us that a vCPU's thread was preempted.
 */
#define VCPU_HALT_COUNTS(X)     \
	X(halt_successful_poll) \
	X(halt_attempted_poll)  \
	X(halt_poll_invalid)    \
	X(halt_wakeup)
#define VCPU_HALT_TIMES(X)      \
	X(halt_poll_success_ns) \
	X(halt_poll_fail_ns)    \
	X(halt_wait_ns)
#define VCPU_EXIT_STATS(X)           \
	X(exits)                     \
	X(io_exits)                  \
	X(mmio_exits)                \
	X(signal_exits)              \
	X(irq_window_exits)          \
	X(nmi_window_exits)          \
	X(l1d_flush)                 \
	X(halt_exits)                \
	X(request_irq_exits)         \
	X(irq_exits)                 \
	X(host_state_reload)         \
	X(fpu_reload)                \
	X(insn_emulation)            \
	X(insn_emulation_fail)       \
	X(hypercalls)                \
	X(irq_injections)            \
	X(nmi_injections)            \
	X(req_event)                 \
	X(nested_run)                \
	X(directed_yield_attempted)  \
	X(directed_yield_successful) \
	X(preemption_reported)       \
	X(preemption_other)

/* Buckets of a histogram: bucket n counts what has n significant bits, the last one also more. */
#define VCPU_HALT_BUCKETS 32u

struct vcpu_stats {
#define VCPU_STAT_FIELD(name) atomic_uint_fast64_t name;
	VCPU_HALT_COUNTS(VCPU_STAT_FIELD)
	VCPU_HALT_TIMES(VCPU_STAT_FIELD)
	VCPU_EXIT_STATS(VCPU_STAT_FIELD)
#undef VCPU_STAT_FIELD
	atomic_uint_fast64_t halt_wait_hist[VCPU_HALT_BUCKETS];
	atomic_uint_fast64_t blocking; /* asleep now: 0 or 1 */
};

static inline void stat_add(atomic_uint_fast64_t *stat, uint64_t value)
{
	atomic_fetch_add_explicit(stat, value, memory_order_relaxed);
}

static inline void stat_count(atomic_uint_fast64_t *stat)
{
	stat_add(stat, 1);
}

/* What other threads ask of a vCPU; folded into its state at its next turn. */
enum vcpu_event {
	VCPU_EVENT_NMI = 1u << 0,
	VCPU_EVENT_INIT = 1u << 1,
	VCPU_EVENT_SIPI = 1u << 2,
	VCPU_EVENT_CLOCK = 1u << 3, /* the guest's clock page is out of date */
	VCPU_EVENT_KICK = 1u << 4,  /* KVM_HC_KICK_CPU: up from HLT */
	VCPU_EVENT_SMI = 1u << 5,
};

/* The exit whose answer the next KVM_RUN takes from the run page. */
enum vcpu_pending {
	VCPU_PENDING_NONE,
	VCPU_PENDING_IO,
	VCPU_PENDING_MMIO,
	VCPU_PENDING_HYPERCALL,
	VCPU_PENDING_MSR_READ,
	VCPU_PENDING_MSR_WRITE,
};

struct vcpu_cpuid {
	uint32_t count;
	struct kvm_cpuid_entry2 entries[VCPU_MAX_CPUID];
};

struct vcpu {
	struct vm *vm;
	uint32_t id;
	uint32_t index; /* in vm->vcpus */
	struct quire_vcpu *memory;
	struct cpu *cpu;
	struct process_runner runner;
	struct run_stop stop;

	struct process_lock lock; /* the vCPU mutex: every vCPU ioctl holds it */
	/* The run page; goes away with the last descriptor, and so does every user of it but the
	 * coalesced ring, which bus.lock guards. */
	struct kvm_run *run;
	/* A mapping of its own, for the ring outlives the descriptor. NULL: no ring. */
	void *ring;
	uint32_t ring_bytes;

	uint32_t mp_state; /* KVM_MP_STATE_*; by the lock's holder */
	atomic_uint events;
	atomic_uint sipi_vector;
	atomic_uint nmis; /* raised and not yet folded in */
	enum vcpu_pending pending;
	struct cpu_io pending_io;
	uint32_t msr_reason;	/* KVM_MSR_EXIT_REASON_* of the MSR that the client answers */
	uint64_t owed_requests; /* of the library, taken while asleep */
	bool kicked;		/* the next HLT, or that it is in, ends at once */
	bool has_ended;		/* KVM_EXIT_IOAPIC_EOI is due, for this vector */
	uint8_t ended_vector;
	bool triple_fault;  /* KVM_CAP_X86_TRIPLE_FAULT_EVENT: to be reported at the next entry */
	bool sleeps_inside; /* in HLT, and the client is not to know: it does not exit */
	bool reset_hold;    /* asleep in KVM_MP_STATE_AP_RESET_HOLD, not in HLT */
	/* Set by the client and not yet used: what KVM_GET_SREGS2 says of PAE's entries. */

	/* Pages that the guest gave us to write to. */
	struct quire_place *clock_place, *steal_place, *pv_eoi_place;
	struct steal_time steal;
	struct pv_eoi pv_eoi;
	struct async_pf async_pf;
	bool enforce_pv; /* KVM_CAP_ENFORCE_PV_FEATURE_CPUID */

	uint32_t tsc_khz; /* what the client was told; the machine's, nearly */
	struct vcpu_cpuid cpuid;
	struct vcpu_msrs msrs;
	struct lapic lapic;

	int run_error; /* KVM_RUN's, negative; see run_fail() */
	bool has_run;  /* the guest has seen its CPUID */
	bool has_sigmask;
	sigset_t sigmask;
	uint32_t debug_control; /* KVM_GUESTDBG_* */
	struct vcpu_stats stats;
};

extern const struct file_ops vcpu_file_ops;

/* KVM_CREATE_VCPU: a descriptor or -errno. */
long vcpu_create(struct vm *vm, uint32_t id);
/* Called by the VM's destruction. */
void vcpu_destroy(struct vcpu *vcpu);
/* Registers, CPUID-driven state and the APIC as after RESET or INIT. */
void vcpu_reset(struct vcpu *vcpu, bool init);
/* Other threads: raise @event and make the vCPU look. */
void vcpu_raise(struct vcpu *vcpu, enum vcpu_event event);
/* Other threads: an interrupt waits, or something else that it looks at by itself. */
void vcpu_wake(struct vcpu *vcpu);

/* The vCPU's own thread: the client hears at the next turn that @vector ended. */
void vcpu_report_eoi(struct vcpu *vcpu, uint8_t vector);

/* KVM_RUN (run/entry.c). */
long vcpu_run(struct ioctl_call *call);
extern const struct cpu_ops vcpu_cpu_ops; /* run/exit.c */

/* General, special and debug registers (state/regs.c). */
long vcpu_get_regs(struct ioctl_call *call);
long vcpu_set_regs(struct ioctl_call *call);
long vcpu_get_sregs(struct ioctl_call *call);
long vcpu_set_sregs(struct ioctl_call *call);
long vcpu_get_sregs2(struct ioctl_call *call);
long vcpu_set_sregs2(struct ioctl_call *call);
long vcpu_get_debugregs(struct ioctl_call *call);
long vcpu_set_debugregs(struct ioctl_call *call);
long vcpu_translate(struct ioctl_call *call);
void regs_get(struct vcpu *vcpu, struct kvm_regs *regs);
void regs_set(struct vcpu *vcpu, const struct kvm_regs *regs);
void sregs_get(struct vcpu *vcpu, struct kvm_sregs *sregs);
int sregs_set(struct vcpu *vcpu, const struct kvm_sregs *sregs);

/* Floating point (state/fpu.c). */
long vcpu_get_fpu(struct ioctl_call *call);
long vcpu_set_fpu(struct ioctl_call *call);
long vcpu_get_xsave(struct ioctl_call *call);
long vcpu_set_xsave(struct ioctl_call *call);
long vcpu_get_xcrs(struct ioctl_call *call);
long vcpu_set_xcrs(struct ioctl_call *call);

/* KVM_ENABLE_CAP of a vCPU (vm_caps.c). */
long vcpu_enable_cap(struct ioctl_call *call);

/* Events and run state (state/events.c). */
long vcpu_get_events(struct ioctl_call *call);
long vcpu_set_events(struct ioctl_call *call);
long vcpu_get_mp_state(struct ioctl_call *call);
long vcpu_set_mp_state(struct ioctl_call *call);
long vcpu_interrupt(struct ioctl_call *call);
long vcpu_nmi(struct ioctl_call *call);
void events_get(struct vcpu *vcpu, struct kvm_vcpu_events *events);
int events_set(struct vcpu *vcpu, const struct kvm_vcpu_events *events);
/* Fold what other threads raised into the state. By the lock's holder, out of cpu_run(). */
void events_fold(struct vcpu *vcpu);

#endif
