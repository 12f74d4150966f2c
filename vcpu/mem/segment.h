/* Segments: descriptors, loads, checks, and the modes that follow from them. */
#ifndef QUIRE_VCPU_MEM_SEGMENT_H
#define QUIRE_VCPU_MEM_SEGMENT_H

#include "vcpu/inside.h"

/* Bits of the first eight bytes of a descriptor. */
#define DESC_ACCESSED (UINT64_C(1) << 40)
/* The byte that has type, DPL and P. */
#define DESC_TYPE_BYTE 5u

static inline int cpu_is_protected(const struct cpu *cpu)
{
	return (cpu->s.cr0 & CR0_PE) && !(cpu->s.rflags & FLAG_VM);
}

static inline int cpu_is_long(const struct cpu *cpu)
{
	return (cpu->s.efer & EFER_LMA) != 0;
}

/* Are there PAE's tables, with four directories? */
static inline int cpu_is_pae(const struct cpu *cpu)
{
	return (cpu->s.cr0 & CR0_PG) && (cpu->s.cr4 & CR4_PAE) && !cpu_is_long(cpu);
}

/*
 * A segment's attributes as a VMCB has them: type, S, DPL and P in the low byte, then AVL, L, D/B
 * and G. A descriptor and the save area of SMM have the limit's high bits between the two.
 */
static inline unsigned int segment_attributes(const struct cpu_segment *segment)
{
	return segment->type | segment->s << 4 | segment->dpl << 5 | segment->present << 7 |
	       segment->avl << 8 | segment->l << 9 | segment->db << 10 | segment->g << 11;
}

static inline void segment_set_attributes(struct cpu_segment *segment, unsigned int attributes)
{
	segment->type = attributes & 15;
	segment->s = attributes >> 4 & 1;
	segment->dpl = attributes >> 5 & 3;
	segment->present = attributes >> 7 & 1;
	segment->avl = attributes >> 8 & 1;
	segment->l = attributes >> 9 & 1;
	segment->db = attributes >> 10 & 1;
	segment->g = attributes >> 11 & 1;
}

/* The same where four bits of the limit lie in between. */
static inline unsigned int segment_join_attributes(uint32_t split)
{
	return (split & 0xff) | (split >> 4 & 0xf00);
}

static inline uint32_t segment_split_attributes(unsigned int attributes)
{
	return (attributes & 0xff) | (attributes & 0xf00) << 4;
}

/* Recompute what follows from CS, SS, CR0, CR4, EFER and RFLAGS: mode, CPL, TLB privilege. */
void cpu_update_mode(struct cpu *cpu);

/* Read the descriptor of @selector; #GP(@selector) when it lies outside its table. */
enum step descriptor_read(struct cpu *cpu, uint16_t selector, uint64_t *descriptor);
/* The upper half of a system descriptor in long mode. */
enum step descriptor_read_high(struct cpu *cpu, uint16_t selector, uint64_t *high);
/* Set bits of the type in the table, atomically: the one for busy, or that for accessed. */
enum step descriptor_set_type(struct cpu *cpu, uint16_t selector, uint8_t bits);
/* Set the accessed bit in the table, where @descriptor, as it was read, is without. */
enum step descriptor_accessed(struct cpu *cpu, uint16_t selector, uint64_t descriptor);
/* Fields of @descriptor, without the upper half of its base. */
struct cpu_segment descriptor_decode(uint16_t selector, uint64_t descriptor);

/* MOV, POP, LDS ... to a segment register other than CS, with every check. Changes nothing when
 * it aborts. The caller sees to the interrupt shadow of SS. */
enum step segment_load(struct cpu *cpu, unsigned int seg, uint16_t selector);
void segment_load_real(struct cpu *cpu, unsigned int seg, uint16_t selector);

/* A memory access of the processor's own to its tables. */
enum step system_read(struct cpu *cpu, uint64_t linear, void *dst, unsigned int size_bytes);

/* A code segment checked for a transfer, not loaded yet. */
struct code_target {
	uint16_t selector;
	uint64_t offset;
	uint8_t new_cpl;
	struct cpu_segment segment;
};

/* Check offset against limit or canonicality: #GP(0). */
enum step code_target_check_offset(struct cpu *cpu, const struct code_target *target);
/* CS and RIP; RPL of the selector becomes the CPL. */
void code_target_commit(struct cpu *cpu, const struct code_target *target);

/* Segment base, limit and rights to read for accesses of @size_bytes at @offset; may raise #GP or
 * #SS. */
enum step segment_check(struct cpu *cpu, unsigned int seg, uint64_t offset, unsigned int size_bytes,
			uint64_t *linear);
/* May the segment be written? #GP(0) or #SS(0). */
enum step segment_check_store(struct cpu *cpu, unsigned int seg);
/* Are the bytes inside the limit of @segment, which need not be loaded? */
int segment_permits(const struct cpu_segment *segment, uint64_t offset, unsigned int size_bytes);

#endif
