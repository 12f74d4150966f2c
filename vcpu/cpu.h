/* The software x86-64 CPU: its registers, what it asks of its surroundings, how it runs. */
#ifndef QUIRE_VCPU_CPU_H
#define QUIRE_VCPU_CPU_H

#include <stdbool.h>
#include <stdint.h>

#include <quire/vcpu.h>

struct cpu; /* opaque: registers, TLB, decoded code */

/* Architectural state, in the processor's own terms. Numbering of registers as in ModRM. */
enum cpu_gpr { CPU_RAX, CPU_RCX, CPU_RDX, CPU_RBX, CPU_RSP, CPU_RBP, CPU_RSI, CPU_RDI };
enum cpu_segreg { CPU_ES, CPU_CS, CPU_SS, CPU_DS, CPU_FS, CPU_GS, CPU_TR, CPU_LDTR, CPU_SEGS };

struct cpu_segment {
	uint64_t base;
	uint32_t limit; /* in bytes, granularity applied */
	uint16_t selector;
	uint8_t type, s, dpl, present, avl, l, db, g;
	uint8_t unusable;
};

struct cpu_table {
	uint64_t base;
	uint16_t limit;
};

struct cpu_state {
	uint64_t gpr[16];
	uint64_t rip;
	uint64_t rflags;
	struct cpu_segment seg[CPU_SEGS];
	struct cpu_table gdt, idt;
	uint64_t cr0, cr2, cr3, cr4, efer;
	uint64_t directories[4]; /* PAE's, as loaded; while .directories_loaded is set */
	uint64_t xcr0;
	uint32_t pkru; /* rights by protection key */
	uint64_t dr[4], dr6, dr7;
	/* MSRs that instructions use; all others belong to cpu_ops. */
	uint64_t star, lstar, cstar, sfmask, kernel_gs_base, tsc_aux, pat;
	uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
	uint64_t tsc_offset;  /* guest TSC = host TSC + this */
	uint8_t cpuid_faults; /* CPUID is the kernel's alone */
	uint8_t directories_loaded;
	uint32_t mxcsr;
	_Alignas(16) uint8_t xmm[16][16];
	_Alignas(16) uint8_t ymm_high[16][16]; /* bits 128 .. 255 of the YMM registers */
	/* x87: FXSAVE layout of the environment and the eight registers. */
	uint16_t fcw, fsw, fop;
	uint8_t ftw;
	uint64_t fip, fdp;
	uint8_t st[8][16];

	/* Event state, as KVM_GET_VCPU_EVENTS wants it. */
	uint8_t halted;		  /* stopped by HLT */
	uint8_t interrupt_shadow; /* STI or MOV SS: no interrupt before the next instruction */
	uint8_t nmi_pending, nmi_masked;
	uint8_t nmi_injected;	    /* to be delivered first; masks none */
	uint8_t exception_pending;  /* to be delivered before the next instruction */
	uint8_t exception_injected; /* L1 cannot intercept it any more */
	uint8_t exception_vector, exception_has_error;
	uint32_t exception_error;
	uint64_t exception_payload; /* CR2 for #PF, DR6 for #DB */
	uint8_t exception_has_payload;
	/* System management mode. */
	uint8_t smm, smi_pending;
	uint8_t smm_inside_nmi;	    /* NMIs were masked before it */
	uint64_t smbase;	    /* where its code and SMRAM are */
	uint64_t smi_count;	    /* taken */
	uint64_t vm_hsave;	    /* SVM's host save area, which an SMI in L2 writes */
	uint8_t interrupt_injected; /* a vector to be delivered first (KVM_INTERRUPT) */
	uint8_t interrupt_vector, interrupt_soft;
};

/* One access to a port or to memory that is not there. */
struct cpu_io {
	uint64_t address;    /* port, or guest physical address */
	uint32_t size_bytes; /* 1, 2, 4; 8 for memory. MMIO fragments never cross 8-byte chunks
			      * of the access nor a page */
	bool is_write;
	uint8_t data[8];
	uint32_t count; /* a port read by REP INS: elements the client may give at once; else 0 */
};

enum cpu_io_result {
	CPU_IO_DONE, /* answered inside; @data filled for a read */
	CPU_IO_USER, /* the client must answer: leave cpu_run() */
};

enum cpu_msr_result { CPU_MSR_OK, CPU_MSR_GP, CPU_MSR_USER };

/*
 * A translation that the guest did not flush was of use after its tables had changed. Rights are
 * those of all levels together, by the bits of a table's entry: W, U, NX.
 */
struct cpu_stale {
	uint64_t rip, linear; /* of the access */
	bool is_nested;	      /* L2's: its addresses are those that L1 gives it */
	bool is_of_l1; /* the nested tables that L1 has for L2: @linear is L2's guest address */
	bool is_write, is_fetch;
	bool is_table;	       /* what was held is where the table for @linear is */
	uint64_t held_gpa;     /* where the held one leads to */
	uint64_t held_rights;  /* of a page */
	bool is_mapped;	       /* the tables have a translation now */
	uint64_t gpa, rights;  /* which this is */
	uint64_t entry_gpa;    /* the entry that changed */
	bool is_guests;	       /* a vCPU changed it: */
	uint32_t changer_vcpu; /* this one */
	uint64_t changer_rip;  /* by the instruction here */
};

/*
 * What the CPU asks of the machine around it. Called by the thread inside cpu_run(), out of guest
 * mode, except where noted. @ctx is what cpu_create() got.
 */
struct cpu_ops {
	void (*cpuid)(void *ctx, uint32_t leaf, uint32_t subleaf, uint32_t out[4]);
	enum cpu_msr_result (*rdmsr)(void *ctx, uint32_t index, uint64_t *value);
	enum cpu_msr_result (*wrmsr)(void *ctx, uint32_t index, uint64_t value);
	enum cpu_io_result (*pio)(void *ctx, struct cpu_io *io);
	enum cpu_io_result (*mmio)(void *ctx, struct cpu_io *io);
	/* VMCALL or VMMCALL. DONE: the instruction retires with what the callback put in RAX;
	 * USER: cpu_run() ends with CPU_EXIT_HYPERCALL, the instruction retires on re-entry. */
	enum cpu_io_result (*hypercall)(void *ctx);
	/* The vector of the interrupt to deliver now, acknowledged; -1 for none. Asked only while
	 * interrupts can be taken. */
	int (*interrupt_take)(void *ctx);
	/* Is there one? Asked when the doorbell rings and while halted. */
	bool (*interrupt_waiting)(void *ctx);
	uint64_t (*cr8_read)(void *ctx);
	void (*cr8_write)(void *ctx, uint64_t value);
	/* One log line (an instruction that is not implemented). */
	void (*log)(void *ctx, const char *line);
	/* After cpu_watch_tlb(). */
	void (*stale)(void *ctx, const struct cpu_stale *stale);
	/* Likewise, and in guest mode: where memory of an address space is in this process, or 0.
	 * An answer holds as long as memory_turn() says the same. */
	uint64_t (*memory)(void *ctx, uint32_t address_space, uint64_t gpa);
	uint32_t (*memory_turn)(void *ctx);
};

/* Why cpu_run() came back. */
enum cpu_exit {
	CPU_EXIT_INTR, /* the doorbell has a client's bit, or a signal: look at it */
	CPU_EXIT_IO,   /* cpu_exit_info.io: the client must answer a port access */
	CPU_EXIT_MMIO, /* ... a memory access */
	CPU_EXIT_HYPERCALL,
	CPU_EXIT_MSR_READ, /* .msr: index; reason in the client's hands */
	CPU_EXIT_MSR_WRITE,
	CPU_EXIT_HLT,
	CPU_EXIT_SHUTDOWN,   /* triple fault */
	CPU_EXIT_IRQ_WINDOW, /* cpu_run_flags had CPU_RUN_IRQ_WINDOW and interrupts can be taken */
	CPU_EXIT_EMULATION,  /* an instruction at an address that is no memory: .insn */
	CPU_EXIT_DELIVERY,   /* an exception or interrupt could not be delivered because the IDT,
			      * GDT or stack is not memory: .gpa */
	CPU_EXIT_ERROR,	     /* .error: -errno of the fault path; .fault may describe it */
	CPU_EXIT_DEBUG,	     /* single step or breakpoint the client asked for: .debug_* */
	CPU_EXIT_DIRTY_RING, /* the dirty ring is at its soft limit */
	CPU_EXIT_STEPPED,    /* CPU_RUN_COMPLETE: the pending instruction is done */
	CPU_EXIT_DEAD,	     /* an SMI found no SMRAM: what it interrupted is lost */
	CPU_EXIT_WAIT,	     /* CPU_RUN_NOWAIT: the host waits for the page .fault.hva, which the
			      * instruction needs: .gpa, .error_code. It has not begun */
};

struct cpu_exit_info {
	struct cpu_io io;
	uint32_t msr_index;
	uint64_t msr_value;
	uint8_t insn[15];
	uint8_t insn_size_bytes;
	uint64_t gpa;
	uint64_t error_code; /* QUIRE_PFERR_* */
	uint64_t
	    vector_info; /* CPU_EXIT_DELIVERY: vector | type << 8 | has error << 11 | 1 << 31 */
	int error;
	struct quire_memory_fault fault;
	uint64_t debug_pc;
	uint32_t debug_dr6;
	uint8_t debug_exception;
};

enum cpu_run_flags {
	CPU_RUN_IRQ_WINDOW = 1u << 0,	   /* exit as soon as an interrupt could be taken */
	CPU_RUN_COMPLETE = 1u << 1,	   /* finish the pending instruction only, then STEPPED */
	CPU_RUN_HLT_IN_KERNEL = 1u << 2,   /* HLT waits in the frontend: still CPU_EXIT_HLT */
	CPU_RUN_STEP = 1u << 3,		   /* KVM_GUESTDBG_SINGLESTEP */
	CPU_RUN_BLOCK_EVENTS = 1u << 5,	   /* no interrupt or NMI begins */
	CPU_RUN_MWAIT_FAULTS = 1u << 7,	   /* MONITOR and MWAIT are #UD where CPUID hides them */
	CPU_RUN_KEEP_HYPERCALLS = 1u << 6, /* the other vendor's hypercall instruction is #UD */
	CPU_RUN_ASK_MSRS = 1u << 4,	   /* ops->rdmsr and ->wrmsr for those kept here too */
	CPU_RUN_NOWAIT = 1u << 8,	   /* CPU_EXIT_WAIT where an interrupt could be taken */
};

/*
 * Create a CPU in the state after RESET (16-bit real mode at f000:fff0). @vcpu outlives it. NULL
 * when there is no memory.
 */
struct cpu *cpu_create(struct quire_vcpu *vcpu, const struct cpu_ops *ops, void *ctx);
void cpu_destroy(struct cpu *cpu);
/*
 * Before the first run: blocks that ran @runs times become machine code. -ENOTSUP: this machine
 * cannot, or refuses executable memory, and the interpreter goes on to run everything.
 */
int cpu_translate_after(struct cpu *cpu, unsigned int runs);
/*
 * After that, and with one vCPU: each translated instruction runs in the interpreter too, and where
 * the two differ cpu_run() logs it and ends with CPU_EXIT_EMULATION. -ENOTSUP: nothing is
 * translated.
 */
int cpu_translate_lockstep(struct cpu *cpu);
/*
 * In place of cpu_translate_after(), before the first run: each access walks the guest's tables,
 * and a use of what the guest should have flushed is told by cpu_ops.stale (vcpu/mem/watch.h).
 * -ENOMEM: it is not.
 */
int cpu_watch_tlb(struct cpu *cpu);
/* The client's thread enters KVM_RUN, and leaves it. While it was away no flush has come. */
void cpu_watch_run_begins(struct cpu *cpu);
void cpu_watch_run_ends(struct cpu *cpu);
/*
 * The processor has no second stage of translation (npt=0, ept=0): the library shadows the guest's
 * page tables, and PAE's directory entries are loaded as control registers are. Before the first
 * cpu_run(); the VM has QUIRE_MMU_SHADOW.
 */
void cpu_set_single_stage(struct cpu *cpu);
/*
 * The client has set control registers: on such a processor, load the directory entries that they
 * name, if they do. Where memory has no valid ones, those that were loaded before stay.
 */
void cpu_load_directories(struct cpu *cpu);
/* The guest is about to run: with a second stage its processor reads them from memory. */
void cpu_forget_directories(struct cpu *cpu);

/*
 * The state, for reading and writing while no thread is in cpu_run(). Flags in .rflags are exact.
 * After writing call cpu_state_changed(): cached translations and decoded modes are dropped as
 * far as the change asks.
 */
struct cpu_state *cpu_state(struct cpu *cpu);
void cpu_state_changed(struct cpu *cpu);

/*
 * Is an instruction waiting for the client's answer (after IO, MMIO, HYPERCALL, MSR exits)?
 */
bool cpu_is_pending(const struct cpu *cpu);
/* The client's answer to the last exit: @data for a read (of cpu_io.count elements, if it says
 * so), or the hypercall's or MSR's result (@failed: #GP instead). Must precede the next cpu_run().
 */
void cpu_answer(struct cpu *cpu, const void *data, uint32_t size_bytes, bool failed);
/* Forget the pending instruction (its answer came to nothing). */
void cpu_cancel_pending(struct cpu *cpu);

/*
 * Run until something needs the caller. Enters and leaves guest mode itself, calls the fault path
 * itself. Never blocks but in the host's page faults and locks of the library; returns
 * CPU_EXIT_INTR soon after any client bit of the doorbell is set. @flags are enum cpu_run_flags.
 */
enum cpu_exit cpu_run(struct cpu *cpu, uint32_t flags, struct cpu_exit_info *info);

/*
 * Into system management mode or out of it, by the client: the mode and its address space change.
 * L2 is left, with L1's registers and the global interrupt flag set; without an L2 no other
 * register changes. -EINVAL: the VM has no second address space. Out of cpu_run().
 */
int cpu_set_smm(struct cpu *cpu, bool on);

/* What the client wants to stop at (KVM_SET_GUEST_DEBUG). Out of cpu_run(). */
struct cpu_debug {
	uint64_t dr[4], dr7; /* in place of the guest's, while @hardware */
	uint8_t hardware;
	uint8_t int3;
};
void cpu_set_debug(struct cpu *cpu, const struct cpu_debug *debug);

/* Asleep in HLT: is there an event to get up for? Out of cpu_run(). */
bool cpu_would_wake(struct cpu *cpu);
/* Would the CPU take an interrupt at this boundary, if there were one? */
bool cpu_is_interruptible(const struct cpu *cpu);

/*
 * How code ran, which KVM has no names for.
 * interpreted, translated: instructions that retired; a repeated string instruction is one. What
 * runs in translated code now is counted when it leaves it.
 * units: blocks translated. unlinks: pages whose units went, with the jumps that led to them.
 * evictions: parts of the translated code that were used again.
 * serialisations: after each a page of code is compared with memory before it runs (compares).
 * drops: blocks whose bytes had changed. flushes: of the TLB, whole, by page or by privilege.
 */
#define CPU_CODE_COUNTS(X) \
	X(interpreted)     \
	X(translated)      \
	X(units)           \
	X(unlinks)         \
	X(evictions)       \
	X(serialisations)  \
	X(compares)        \
	X(drops)           \
	X(flushes)

/* What only the CPU sees happen. Read by any thread, with atomic loads. */
struct cpu_counts {
	uint64_t nmis;		/* delivered */
	uint64_t nested_enters; /* L2, by VMRUN */
	uint64_t paging_turns;	/* CR0.PG changed, by an instruction */
#define CPU_COUNT_FIELD(name) uint64_t name;
	CPU_CODE_COUNTS(CPU_COUNT_FIELD)
#undef CPU_COUNT_FIELD
};
const struct cpu_counts *cpu_counts(const struct cpu *cpu);

/*
 * Translate @gva as a supervisor read of the current paging mode would (KVM_TRANSLATE), setting
 * accessed bits of the guest's tables. False when there is no translation. Out of cpu_run().
 */
bool cpu_translate(struct cpu *cpu, uint64_t gva, gpa_t *gpa);

#endif
