/* The inside of struct cpu, and what the files of this folder offer each other. */
#ifndef QUIRE_VCPU_INSIDE_H
#define QUIRE_VCPU_INSIDE_H

#include <stddef.h>
#include <string.h>

#include "hosts/process/guard.h"
#include "vcpu/arch.h"
#include "vcpu/cpu.h"
#include "vcpu/decode/op.h"
#include "vcpu/svm/vmcb.h"
#include "vcpu/translate/fast.h"

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

#define PAGE_OFFSET_MASK UINT64_C(0xfff)
#define PAGE_NUMBER_MASK (~PAGE_OFFSET_MASK)

/* The six that arithmetic sets: kept in cc_result and cc_carry while the CPU runs. */
#define FLAGS_ARITHMETIC (FLAG_CF | FLAG_PF | FLAG_AF | FLAG_ZF | FLAG_SF | FLAG_OF)

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

/*
 * The data TLB: two ways, because one instruction may need two pages of one set. Tags are the
 * page's linear address with the privilege of the access in the low bits; TLB_EMPTY matches
 * nothing. A write tag stands only when the stage-2 leaf and the guest's are writable and dirty and
 * the page holds no decoded code.
 */
#define TLB_SETS 512u
#define TLB_WAYS 2u
#define TLB_EMPTY (~UINT64_C(0))

/* Privilege in the tags. */
enum tlb_mode {
	TLB_SUPERVISOR = 0,
	TLB_USER = 1,
	TLB_SMAP = 2, /* supervisor that may not touch user pages */
};

struct tlb_entry {
	uint64_t read, write;
	uint64_t addend; /* host address - linear address */
	uint64_t global;
};

struct code_page;

struct fetch_entry {
	uint64_t tag;
	uint64_t host_page;
	struct code_page *page; /* decoded from it; NULL: look it up */
	uint64_t global;
};

#define FETCH_SETS 256u

struct block;

/*
 * Which block starts at an address of 64-bit code. Surely so as long as nothing was flushed since:
 * then cpu->jump_generation still has the same value. The block's page says whether its bytes are
 * good.
 */
struct jump_entry {
	uint64_t tag; /* RIP and privilege */
	struct block *block;
	uint64_t generation;
};

#define JUMP_SETS 4096u

/*
 * Where the guest's lowest-level table for 2 MiB of linear addresses is: what processors call a
 * paging-structure cache. Dropped with every flush, of one page too, as INVLPG does.
 */
struct table_entry {
	uint64_t tag;	 /* linear >> 21 */
	uint64_t host;	 /* of the table */
	uint64_t rights; /* of the levels above it, as a walk gathers them */
};

#define TABLE_SETS 64u

struct tlb {
	struct tlb_entry data[TLB_WAYS][TLB_SETS];
	struct fetch_entry fetch[FETCH_SETS];
	struct table_entry table[TABLE_SETS];
	struct jump_entry jump[JUMP_SETS];
};

/* What an instruction asked of devices and of the client so far; see replay.c. */
enum replay_kind {
	REPLAY_MMIO,
	REPLAY_PIO,
	REPLAY_MSR_READ,
	REPLAY_MSR_WRITE,
	REPLAY_HYPERCALL,
};

struct replay_entry {
	struct cpu_io io; /* MSR: address is the index, data the value */
	uint8_t kind;
	uint8_t failed;
};

#define REPLAY_MAX 80u
#define EMULATED_MAX 8u
#define EMULATED_IS_MEMORY 1u

struct replay {
	uint32_t count;	    /* answered */
	uint32_t position;  /* of this run of the instruction */
	uint8_t pending;    /* entry[count] waits for the client */
	uint8_t unfinished; /* something was asked, the instruction has not retired */
	/* Frames that the fault path called MMIO for this instruction. */
	uint8_t emulated_count;
	uint64_t emulated_frame[EMULATED_MAX]; /* gfn << 1 | was a write */
	/* Where that is: another page under nested paging. EMULATED_IS_MEMORY: written through the
	 * hypervisor's view, as the guest must not do so itself. */
	uint64_t emulated_gpa[EMULATED_MAX];
	uint64_t pending_rip;
	struct replay_entry *entry; /* REPLAY_MAX, allocated at the first use */
};

/* Elements that the client gave a repeated INS at once, and that are still to be stored. */
#define INPUT_MAX 1024u
struct input_ahead {
	uint32_t next, end; /* bytes of data[] */
	uint64_t rip;	    /* of the instruction */
	uint8_t data[INPUT_MAX];
};

struct exception {
	uint8_t vector;
	uint8_t has_error;
	uint32_t error;
};

/* AMD's virtualisation: L1's side of L2; see svm.h. */
struct svm {
	uint8_t in_guest_mode;
	uint8_t gif;
	uint8_t separate_pat;  /* under nested paging L2 has a PAT of its own */
	uint8_t nested_paging; /* stage 2 is the shadow of L1's nested tables */
	uint8_t has_soft_rip;  /* the injected event returns to soft_rip */
	uint8_t has_next_rip;  /* L1's processor tells the next instruction */
	uint8_t run_pending;   /* VMRUN is done, and L2 has not been entered */
	uint8_t awaits_gif;    /* the surroundings hold an INIT back until GIF is set */
	uint8_t phys_bits;     /* of L1's physical addresses */
	uint64_t soft_rip;     /* not to RIP */
	uint64_t tsc_offset;   /* of L2 beyond L1's */
	uint64_t cr2_before;   /* the last page fault */
	uint64_t vmcb_gpa;     /* of L1 */
	uint8_t *iopm;	       /* L1's I/O permission map, when it intercepts ports */
	struct vmcb_control control;
	/* What L1's VMCB says where its processor has not the feature: #VMEXIT leaves it so. */
	struct {
		uint64_t misc, misc2;
		uint32_t int_ctl;
	} ignored;
	struct vmcb_save host; /* L1's registers */
	struct {
		uint64_t code, info1, info2, next_rip;
	} exit;
};

struct code_cache;
struct translate;

/* One thread counts, others read. */
static inline void cpu_count(uint64_t *count)
{
	__atomic_store_n(count, *count + 1, __ATOMIC_RELAXED);
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
	struct {
		uint8_t type, vector;
	} soft;		       /* the event of INT n and its like, while @delivering */
	uint8_t tlb_has_large; /* a page above 4K was cached since the last full flush */

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
	uint8_t linear_root;	    /* so the tables of .stage2 are for linear addresses */
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
	} seen;
	struct svm svm;
	struct input_ahead ahead;
	struct translate *translate; /* NULL: the interpreter runs everything */
	struct fast fast;	     /* last: operations name offsets of 16 bits */
};

/* Raising: all return STEP_ABORT for the handler to pass on. */

enum step cpu_raise(struct cpu *cpu, enum vector vector);			/* no error code */
enum step cpu_raise_error(struct cpu *cpu, enum vector vector, uint32_t error); /* with one */
/* #PF: sets CR2. */
enum step cpu_raise_page_fault(struct cpu *cpu, uint64_t linear, uint32_t error);
/* End cpu_run() with @reason; cpu->info is filled by the caller. */
enum step cpu_stop_exit(struct cpu *cpu, enum cpu_exit reason);
/* Decoded instructions that this CPU lacks (CAVEATS.md): logs one line and raises #UD. */
enum step exec_unknown(struct cpu *cpu, const struct op *op);
/* The handler of undefined opcodes: #UD. */
enum step exec_undefined(struct cpu *cpu, const struct op *op);

/* Is each of the eight memory types of IA32_PAT one? */
int cpu_pat_is_valid(uint64_t value);

/* Guest mode: callbacks in cpu->ops run outside it. */

/*
 * Leave guest mode so that a callback may be called. After it the handler touches no guest memory
 * and returns; the dispatcher enters again.
 */
void cpu_leave_guest(struct cpu *cpu);

/* Flags. */

uint64_t flags_arithmetic(const struct cpu *cpu); /* the six, as in RFLAGS */
void flags_set_arithmetic(struct cpu *cpu, uint64_t flags);
/* RFLAGS as PUSHF would store it, and back (privilege was checked by the caller). */
uint64_t flags_get(const struct cpu *cpu);
void flags_set(struct cpu *cpu, uint64_t rflags);

static inline unsigned int flag_cf(const struct cpu *cpu)
{
	return cpu->cc_carry >> 63;
}

static inline unsigned int flag_of(const struct cpu *cpu)
{
	return (cpu->cc_carry >> 63) ^ (cpu->cc_carry >> 62 & 1);
}

static inline unsigned int flag_zf(const struct cpu *cpu)
{
	return cpu->cc_result == 0;
}

static inline unsigned int flag_sf(const struct cpu *cpu)
{
	return (cpu->cc_result >> 63) ^ (cpu->cc_carry & 1);
}

static inline unsigned int flag_pf(const struct cpu *cpu)
{
	return !__builtin_parity((uint8_t)(cpu->cc_result ^ cpu->cc_carry >> 8));
}

/* @condition as in Jcc: the low four bits of the opcode. */
static inline unsigned int flag_condition(const struct cpu *cpu, unsigned int condition)
{
	unsigned int holds;

	switch (condition >> 1) {
	case 0:
		holds = flag_of(cpu);
		break;
	case 1:
		holds = flag_cf(cpu);
		break;
	case 2:
		holds = flag_zf(cpu);
		break;
	case 3:
		holds = flag_cf(cpu) | flag_zf(cpu);
		break;
	case 4:
		holds = flag_sf(cpu);
		break;
	case 5:
		holds = flag_pf(cpu);
		break;
	case 6:
		holds = flag_sf(cpu) ^ flag_of(cpu);
		break;
	default:
		holds = (flag_sf(cpu) ^ flag_of(cpu)) | flag_zf(cpu);
		break;
	}
	return holds ^ (condition & 1);
}

/* Registers by offset. */

#define REG_AT(cpu, offset, type) (*(type *)((char *)(cpu) + (offset)))

/* Parts of a register of 64 bits: the compiler must see that they are stores to the whole. */
typedef uint8_t __attribute__((may_alias)) reg8;
typedef uint16_t __attribute__((may_alias)) reg16;
typedef uint32_t __attribute__((may_alias)) reg32;

static inline uint64_t reg_get(const struct cpu *cpu, unsigned int offset, unsigned int size_bytes)
{
	const char *at = (const char *)cpu + offset;

	switch (size_bytes) {
	case 1:
		return *(const reg8 *)at;
	case 2:
		return *(const reg16 *)at;
	case 4:
		return *(const reg32 *)at;
	default:
		return *(const uint64_t *)at;
	}
}

/* Writing 32 bits clears the upper half, as the processor does. */
static inline void reg_set(struct cpu *cpu, unsigned int offset, unsigned int size_bytes,
			   uint64_t value)
{
	char *at = (char *)cpu + offset;

	switch (size_bytes) {
	case 1:
		*(reg8 *)at = value;
		break;
	case 2:
		*(reg16 *)at = value;
		break;
	case 4:
		*(uint64_t *)at = (uint32_t)value;
		break;
	default:
		*(uint64_t *)at = value;
		break;
	}
}

/* An XMM register (16 bytes) or an MMX register (8 bytes) by the offset in struct op. */
static inline void *reg_vector(struct cpu *cpu, unsigned int offset)
{
	return (char *)cpu + offset;
}

static inline uint64_t op_next_rip(const struct cpu *cpu, const struct op *op)
{
	uint64_t next = cpu->s.rip + op->length;

	return cpu->code_bytes == 8 ? next : (uint32_t)next;
}

/* Memory. */

/* The effective address without the segment, cut to the address size. */
static inline uint64_t op_effective(const struct cpu *cpu, const struct op *op)
{
	uint64_t at = *(const uint64_t *)((const char *)cpu + op->base) +
		      (*(const uint64_t *)((const char *)cpu + op->index) << op->scale_shift) +
		      (uint64_t)op->disp;

	if (op->address_bytes == 8)
		return at;
	return op->address_bytes == 4 ? (uint32_t)at : (uint16_t)at;
}

/* Segment base and limit checks for accesses of @size_bytes at @offset; may raise #GP or #SS. */
enum step segment_check(struct cpu *cpu, unsigned int seg, uint64_t offset, unsigned int size_bytes,
			uint64_t *linear);

/* The linear address of the memory operand. */
static inline enum step op_linear(struct cpu *cpu, const struct op *op, uint64_t *linear)
{
	uint64_t at = op_effective(cpu, op);

	if (unlikely(op->flags & OP_SEGMENTED))
		return segment_check(cpu, op->seg, at, op->mem_size ? op->mem_size : 1, linear);
	*linear = at + *(const uint64_t *)((const char *)cpu + op->seg_base);
	return STEP_NEXT;
}

/*
 * Access guest memory at a linear address with the current privilege. STEP_NEXT when done,
 * STEP_ABORT when the instruction must be left now (page fault, device, doorbell ...). 1, 2, 4 or
 * 8 bytes; an access inside an aligned word is single-copy atomic.
 */
enum step mem_load_slow(struct cpu *cpu, uint64_t linear, unsigned int size_bytes, uint64_t *value);
enum step mem_store_slow(struct cpu *cpu, uint64_t linear, unsigned int size_bytes, uint64_t value);
/* A guarded access through a cached translation failed: find out what to do about it. */
enum step mem_load_failed(struct cpu *cpu, uint64_t linear);
enum step mem_store_failed(struct cpu *cpu, uint64_t linear);

/*
 * Any size: memory operands of 10, 16 ... 512 bytes. Ascending 8-byte chunks. mem_write() checks
 * that all of it can be written before it writes the first byte.
 */
enum step mem_read(struct cpu *cpu, uint64_t linear, void *dst, unsigned int size_bytes);
enum step mem_write(struct cpu *cpu, uint64_t linear, const void *src, unsigned int size_bytes);
/* Could [linear, linear + size) be written? Raises what a write would raise. */
enum step mem_probe_write(struct cpu *cpu, uint64_t linear, unsigned int size_bytes);

/*
 * For read-modify-write: load with the rights of a store checked first, so that a fault says
 * "write".
 */
enum step mem_load_for_store(struct cpu *cpu, uint64_t linear, unsigned int size_bytes,
			     uint64_t *value);
struct mem_cmpxchg_request {
	uint64_t linear;
	uint64_t desired;
	unsigned int size_bytes;
};

/*
 * Atomic against every other vCPU and the host: *@expected receives what was there; *@swapped
 * nonzero when @desired was stored. After mem_load_for_store() of the same operand.
 */
enum step mem_cmpxchg(struct cpu *cpu, const struct mem_cmpxchg_request *request,
		      uint64_t *expected, int *swapped);

static inline uint64_t tlb_tag(const struct cpu *cpu, uint64_t linear)
{
	return (linear & PAGE_NUMBER_MASK) | cpu->tlb_mode;
}

static inline unsigned int tlb_set(uint64_t linear)
{
	return linear >> QUIRE_PAGE_SHIFT & (TLB_SETS - 1);
}

static inline enum guard_reason guard_load(const void *src, unsigned int size_bytes,
					   uint64_t *value)
{
	enum guard_reason reason;
	uint32_t got32 = 0;
	uint16_t got16 = 0;
	uint8_t got8 = 0;

	switch (size_bytes) {
	case 1:
		reason = guard_load_u8(src, &got8);
		if (reason == GUARD_OK)
			*value = got8;
		return reason;
	case 2:
		reason = guard_load_u16(src, &got16);
		if (reason == GUARD_OK)
			*value = got16;
		return reason;
	case 4:
		reason = guard_load_u32(src, &got32);
		if (reason == GUARD_OK)
			*value = got32;
		return reason;
	default:
		return guard_load_u64(src, value);
	}
}

static inline enum guard_reason guard_store(void *dst, unsigned int size_bytes, uint64_t value)
{
	switch (size_bytes) {
	case 1:
		return guard_store_u8(dst, value);
	case 2:
		return guard_store_u16(dst, value);
	case 4:
		return guard_store_u32(dst, value);
	default:
		return guard_store_u64(dst, value);
	}
}

static inline enum step mem_load(struct cpu *cpu, uint64_t linear, unsigned int size_bytes,
				 uint64_t *value)
{
	const struct tlb_entry *entry = &cpu->tlb->data[0][tlb_set(linear)];

	if (unlikely(entry->read != tlb_tag(cpu, linear) ||
		     (linear & PAGE_OFFSET_MASK) + size_bytes > QUIRE_PAGE_SIZE))
		return mem_load_slow(cpu, linear, size_bytes, value);
	if (unlikely(guard_load((const void *)(uintptr_t)(linear + entry->addend), size_bytes,
				value) != GUARD_OK))
		return mem_load_failed(cpu, linear);
	return STEP_NEXT;
}

static inline enum step mem_store(struct cpu *cpu, uint64_t linear, unsigned int size_bytes,
				  uint64_t value)
{
	const struct tlb_entry *entry = &cpu->tlb->data[0][tlb_set(linear)];

	if (unlikely(entry->write != tlb_tag(cpu, linear) ||
		     (linear & PAGE_OFFSET_MASK) + size_bytes > QUIRE_PAGE_SIZE))
		return mem_store_slow(cpu, linear, size_bytes, value);
	if (unlikely(guard_store((void *)(uintptr_t)(linear + entry->addend), size_bytes, value) !=
		     GUARD_OK))
		return mem_store_failed(cpu, linear);
	return STEP_NEXT;
}

/* Operands: @which is 0 .. 2; sizes 1, 2, 4, 8. */

static inline enum step op_load(struct cpu *cpu, const struct op *op, unsigned int size_bytes,
				uint64_t *value)
{
	uint64_t linear;
	enum step step = op_linear(cpu, op, &linear);

	if (unlikely(step))
		return step;
	return mem_load(cpu, linear, size_bytes, value);
}

static inline enum step op_store(struct cpu *cpu, const struct op *op, unsigned int size_bytes,
				 uint64_t value)
{
	uint64_t linear;
	enum step step = op_linear(cpu, op, &linear);

	if (unlikely(step))
		return step;
	return mem_store(cpu, linear, size_bytes, value);
}

/* Operand @which as a value: register, memory or immediate. */
static inline enum step op_read(struct cpu *cpu, const struct op *op, unsigned int which,
				unsigned int size_bytes, uint64_t *value)
{
	const uint16_t *reg = &op->dst;

	switch (op->kind[which]) {
	case OPERAND_REG:
		*value = reg_get(cpu, reg[which], size_bytes);
		return STEP_NEXT;
	case OPERAND_MEM:
		return op_load(cpu, op, size_bytes, value);
	default:
		*value = op->imm;
		return STEP_NEXT;
	}
}

/* Write operand 0: register or memory. */
static inline enum step op_write(struct cpu *cpu, const struct op *op, unsigned int size_bytes,
				 uint64_t value)
{
	if (op->kind[0] == OPERAND_MEM)
		return op_store(cpu, op, size_bytes, value);
	reg_set(cpu, op->dst, size_bytes, value);
	return STEP_NEXT;
}

#endif
