/* Accesses to guest memory, with the common case inline. */
#ifndef QUIRE_VCPU_MEM_MEM_H
#define QUIRE_VCPU_MEM_MEM_H

#include "hosts/process/guard.h"
#include "vcpu/inside.h"

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
/* The same; its alignment is never checked. */
enum step mem_probe_write_any(struct cpu *cpu, uint64_t linear, unsigned int size_bytes);

/*
 * All of these raise #AC where alignment is checked and @linear is not aligned to the size of the
 * access. It comes before a page fault.
 */
enum step mem_raise_misaligned(struct cpu *cpu, uint64_t linear);

static inline enum step mem_check_alignment(struct cpu *cpu, uint64_t linear,
					    unsigned int alignment_bytes)
{
	if (likely(cpu->tlb_mode != TLB_ALIGNED) || !(linear & (alignment_bytes - 1)))
		return STEP_NEXT;
	return mem_raise_misaligned(cpu, linear);
}

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

static inline unsigned int mem_to_page_end(uint64_t linear)
{
	return QUIRE_PAGE_SIZE - (linear & PAGE_OFFSET_MASK);
}

static inline uint64_t mem_wrap(const struct cpu *cpu, uint64_t linear)
{
	return cpu->s.efer & EFER_LMA ? linear : (uint32_t)linear;
}

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

#endif
