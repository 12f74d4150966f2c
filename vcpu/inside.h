/* The inside of struct cpu. */
#ifndef QUIRE_VCPU_INSIDE_H
#define QUIRE_VCPU_INSIDE_H

#include <stddef.h>
#include <string.h>

#include "hosts/process/guard.h"
#include "vcpu/arch.h"
#include "vcpu/cpu.h"
#include "vcpu/decode/op.h"
#include "vcpu/mem/tlb.h"
#include "vcpu/run/asked.h"
#include "vcpu/svm/state.h"
#include "vcpu/translate/fast.h"

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

#define PAGE_OFFSET_MASK UINT64_C(0xfff)
#define PAGE_NUMBER_MASK (~PAGE_OFFSET_MASK)

/* Why a handler aborted. */
enum stop {
	STOP_NONE,
	STOP_EXCEPTION, /* .exception: deliver it */
	STOP_FAULT,	/* .fault_gpa: ask the fault path, then restart */
	STOP_DEVICE,	/* replay.entry[count]: ask ops->mmio or ops->pio, then restart */
	STOP_RESTART,	/* look at the doorbell, then restart */
	STOP_VMEXIT,	/* L1 intercepts: cpu->svm.exit */
	STOP_EXIT,	/* leave cpu_run() with .exit_reason; the instruction is pending or not */
};

struct exception {
	uint8_t vector;
	uint8_t has_error;
	uint32_t error;
};

struct code_cache;
struct translate;

/* One thread counts, others read. */
static inline void cpu_count_add(uint64_t *count, uint64_t number)
{
	__atomic_store_n(count, *count + number, __ATOMIC_RELAXED);
}

static inline void cpu_count(uint64_t *count)
{
	cpu_count_add(count, 1);
}

/* See vcpu/run/debug.h. */
struct debug {
	struct cpu_debug client;
	uint64_t seen[4]; /* the addresses that @watched stands for */
	uint8_t armed;	  /* some breakpoint is enabled */
	uint8_t watched;  /* which are of data */
	uint8_t hits;	  /* of the instruction that runs */
	uint8_t passing;  /* it runs with RF */
	uint8_t blocked;  /* MOV or POP SS: what it hit is told after the next instruction */
	uint8_t no_trap;  /* it does not end in a single-step trap, whatever TF was before it */
};

struct cpu {
	struct cpu_state s;
	struct cpu_counts counts;
	struct debug debug;
	uint64_t features;	  /* that CPUID shows, see feature.h; 0: not asked yet */
	uint8_t native_hypercall; /* last byte of the instruction; 0: not asked yet */
	uint64_t zero; /* always 0: what an absent base, index or segment base points to */
	/*
	 * Lazy flags. ZF is cc_result == 0, SF its sign. cc_carry: bit 63 CF, bit 62 CF ^ OF,
	 * bit 3 AF, bit 0 inverts SF, bits 8..15 are exclusive-or'ed into the byte that gives PF.
	 */
	uint64_t cc_result, cc_carry;

	uint8_t cpl;
	uint8_t code_bytes;  /* 2, 4, 8: mode of the code segment */
	uint8_t stack_bytes; /* 2, 4, 8 */
	uint8_t tlb_mode;    /* enum tlb_mode of this CPL, AC and CR4.SMAP */
	uint8_t in_guest;
	uint8_t delivering; /* memory is touched for an event, not for an instruction */
	/* Nothing waited when events were looked for last, with interrupts allowed. What comes
	 * later rings the doorbell, and what the guest does about interrupts leaves guest mode. */
	uint8_t nothing_waits;
	struct {
		uint8_t type, vector;
	} soft; /* the event of INT n and its like, while @delivering */

	struct tlb *tlb;
	const struct op *op; /* running now; NULL while delivering */
	/* The block ends here. A write to decoded code pulls it in, so that the block stops. */
	const struct op *block_end;
	const uint64_t *doorbell;

	enum stop stop;
	struct exception exception;
	uint64_t fault_gpa, fault_error;
	uint8_t fault_was_guard; /* the stage-2 entry was fine, the host page was not */
	uint8_t fault_for_store; /* the load of an instruction that stores there, too */
	uint8_t guard_tries;
	uint64_t lost_address; /* of the host, where an access met a memory failure; 0: none */
	enum cpu_exit exit_reason;
	struct cpu_exit_info *info;

	struct quire_vcpu *vcpu;
	const struct cpu_ops *ops;
	void *ctx;
	struct quire_stage2 stage2;
	uint8_t single_stage;	    /* the processor has no second stage */
	uint8_t linear_root;	    /* and paging is on: .stage2 is for linear addresses */
	struct quire_nested paging; /* which the library knows, while linear_root is set */
	uint32_t run_flags;
	uint64_t deferred_requests; /* client bits that came while an instruction completed */

	struct replay replay;
	struct code_cache *code;
	uint64_t jump_generation;
	uint64_t code_epoch; /* see code.c */
	/* What the translations were made under; cpu_state_changed() compares. */
	struct {
		uint64_t cr0, cr3, cr4, efer;
		uint32_t pkru;
	} seen;
	struct svm svm;
	struct input_ahead ahead;
	struct translate *translate; /* NULL: the interpreter runs everything */
	struct tlb_watch *watch;     /* NULL: translations are cached, and not watched */
	struct fast fast;	     /* last: operations name offsets of 16 bits */
};

#endif
