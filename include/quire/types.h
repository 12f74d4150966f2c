/* Address kinds, page geometry and the words shared by every public header. */
#ifndef QUIRE_TYPES_H
#define QUIRE_TYPES_H

#include <stddef.h>
#include <stdint.h>

#if UINTPTR_MAX < UINT64_MAX
#error "Quire needs a 64-bit machine: its table words, frame numbers and addresses have 64 bits."
#endif

/*
 * Four kinds of address meet in a hypervisor, and mixing them up is its classic bug. Each is a
 * struct of its own, so that the compiler refuses a gfn where a pfn is meant.
 */
typedef struct {
	uint64_t v;
} gfn_t; /* guest frame number: gpa >> 12 */
typedef struct {
	uint64_t v;
} gpa_t; /* guest physical address, in bytes */
typedef struct {
	uint64_t v;
} hva_t; /* address in the client's address space, in bytes */
typedef struct {
	uint64_t v;
} pfn_t; /* host page frame number: what a leaf entry holds */

#define QUIRE_PAGE_SHIFT 12
#define QUIRE_PAGE_SIZE (UINT64_C(1) << QUIRE_PAGE_SHIFT)
#define QUIRE_PAGE_MASK (~(QUIRE_PAGE_SIZE - 1))
#define QUIRE_TABLE_ENTRIES 512u
#define QUIRE_TABLE_BITS 9u

/* Level of a table entry: what a leaf there maps. */
enum quire_level {
	QUIRE_LEVEL_4K = 1,
	QUIRE_LEVEL_2M = 2,
	QUIRE_LEVEL_1G = 3,
	QUIRE_LEVEL_512G = 4,
	QUIRE_LEVEL_256T = 5, /* of roots alone: no entry of it is a leaf */
};

/* Address spaces of a VM: normal execution and system management mode. */
#define QUIRE_AS_MAX 2u

/*
 * Pointers, for every function of the library: a handle (struct quire_vm, quire_vcpu, quire_gmem,
 * quire_place, or a cookie of <quire/process.h>) is one that the library gave and that has not been
 * given back, never NULL. A request, what it says is called, a place for a result, a function to be
 * called, data of at least one byte: where NULL is not said to mean something, NULL is -EINVAL from
 * a function that answers errors, whatever else it would answer, and nothing has changed. A context
 * of the caller's may be anything.
 */

/* Results must be looked at: nearly every function here can refuse. */
#define QUIRE_MUST_CHECK __attribute__((warn_unused_result))
#define QUIRE_API __attribute__((visibility("default")))
#define QUIRE_CACHE_ALIGNED __attribute__((aligned(64)))

static inline gfn_t gfn_of(gpa_t gpa)
{
	gfn_t gfn = {gpa.v >> QUIRE_PAGE_SHIFT};

	return gfn;
}

static inline gpa_t gpa_of(gfn_t gfn)
{
	gpa_t gpa = {gfn.v << QUIRE_PAGE_SHIFT};

	return gpa;
}

/* Pages that one entry at @level covers: 1, 512, 262144 ... */
static inline uint64_t level_pages(enum quire_level level)
{
	const unsigned int number = level;

	return UINT64_C(1) << (QUIRE_TABLE_BITS * (number - 1));
}

#endif
