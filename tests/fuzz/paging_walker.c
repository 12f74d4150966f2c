/* A walk of a guest's page tables that shares nothing with the CPU's: from the manual, entry by
 * entry. */
#include "tests/fuzz/paging_walker.h"

#include <string.h>

#define BIT(n) (UINT64_C(1) << (n))
#define ENTRY_P BIT(0)
#define ENTRY_W BIT(1)
#define ENTRY_U BIT(2)
#define ENTRY_PS BIT(7)
#define ENTRY_NX BIT(63)
#define BITS(from, to) ((BIT(to) << 1) - BIT(from)) /* both included */

#define ERROR_P 1u
#define ERROR_W 2u
#define ERROR_U 4u
#define ERROR_RESERVED 8u
#define ERROR_FETCH 16u
#define ERROR_KEY 32u

struct walk {
	const struct walker_modes *modes;
	const struct walker_access *access;
	unsigned int level, is_large;
	uint64_t entry;
	uint64_t all, any; /* W and U of every entry; NX of one of them */
};

static unsigned int index_bits(const struct walk *walk)
{
	return walk->modes->levels == 2 ? 10 : 9;
}

static unsigned int shift_of(const struct walk *walk)
{
	return 12 + index_bits(walk) * (walk->level - 1);
}

/* One of PAE's four: it has no rights and no marks. */
static int is_directory(const struct walk *walk)
{
	return walk->modes->levels == 3 && walk->level == 3;
}

static int find_large(const struct walk *walk)
{
	if (!(walk->entry & ENTRY_PS) || walk->level == 1)
		return 0;
	if (walk->modes->levels == 2)
		return walk->modes->pse;
	return walk->level == 2 || (walk->level == 3 && walk->modes->levels >= 4);
}

static int has_reserved(const struct walk *walk)
{
	uint64_t reserved = 0;

	if (is_directory(walk))
		return 0;
	if (walk->modes->levels == 2)
		return walk->is_large && (walk->entry & BIT(21));
	reserved = BITS(48, 51);
	if (walk->modes->levels == 3)
		reserved |= BITS(52, 62);
	if (!walk->modes->nxe)
		reserved |= ENTRY_NX;
	if (walk->level >= 4)
		reserved |= ENTRY_PS;
	if (walk->is_large)
		reserved |= BITS(13, shift_of(walk) - 1);
	return (walk->entry & reserved) != 0;
}

static uint32_t error_of(const struct walk *walk)
{
	uint32_t error = walk->access->user ? ERROR_U : 0;
	int tells_fetch = walk->modes->smep || (walk->modes->levels > 2 && walk->modes->nxe);

	if (walk->access->kind == WALKER_WRITE)
		error |= ERROR_W;
	if (walk->access->kind == WALKER_FETCH && tells_fetch)
		error |= ERROR_FETCH;
	return error;
}

static int rights_allow(const struct walk *walk)
{
	const struct walker_access *access = walk->access;
	int of_users = (walk->all & ENTRY_U) != 0;

	if (access->user && !of_users)
		return 0;
	if (access->kind == WALKER_FETCH)
		return !(walk->any & ENTRY_NX) && !(walk->modes->smep && of_users && !access->user);
	if (walk->modes->smap && of_users && !access->user && !access->ac)
		return 0;
	if (access->kind == WALKER_WRITE && !(walk->all & ENTRY_W))
		return !access->user && !walk->modes->wp;
	return 1;
}

/* The key of the leaf, which counts for data of users' pages. */
static int key_allows(const struct walk *walk)
{
	uint32_t rights = walk->modes->pkru >> 2 * (walk->entry >> 59 & 15) & 3;

	if (!walk->modes->pke || walk->modes->levels < 4 || !(walk->all & ENTRY_U) ||
	    walk->access->kind == WALKER_FETCH)
		return 1;
	if (rights & 1)
		return 0;
	return !(rights & 2) || walk->access->kind == WALKER_READ ||
	       (!walk->access->user && !walk->modes->wp);
}

static uint64_t page_of(const struct walk *walk)
{
	uint64_t offset = BIT(shift_of(walk)) - 1;
	uint64_t base = walk->entry & BITS(12, 47) & ~offset;

	if (walk->modes->levels == 2 && walk->is_large)
		base |= (walk->entry >> 13 & 0xff) << 32;
	return base | (walk->access->linear & offset);
}

static struct walker_result fail(struct walker_result result, enum walker_end end, uint32_t error)
{
	result.end = end;
	result.error = error;
	return result;
}

/* The entry is there, and is well formed; the walk may go on below it. */
static uint32_t take_entry(struct walk *walk, struct walker_result *result, uint64_t gpa)
{
	result->path[result->count++] =
	    (struct walker_entry){gpa, walk->entry, !is_directory(walk)};
	walk->is_large = (unsigned int)find_large(walk);
	if (!(walk->entry & ENTRY_P))
		return 1 + error_of(walk);
	if (has_reserved(walk))
		return 1 + (error_of(walk) | ERROR_P | ERROR_RESERVED);
	if (!is_directory(walk)) {
		walk->all &= walk->entry;
		walk->any |= walk->entry;
	}
	return 0;
}

struct walker_result walker_walk(struct walker_memory memory, const struct walker_modes *modes,
				 const struct walker_access *access)
{
	struct walk walk = {.modes = modes, .access = access, .all = ~UINT64_C(0)};
	struct walker_result result = {.end = WALKER_DONE};
	unsigned int bytes = modes->levels == 2 ? 4 : 8;
	uint64_t table = modes->root;
	uint32_t error;

	for (walk.level = modes->levels; walk.level; walk.level--) {
		uint64_t index = access->linear >> shift_of(&walk) & (BIT(index_bits(&walk)) - 1);
		uint64_t gpa = table + (is_directory(&walk) ? index & 3 : index) * bytes;

		if (gpa + bytes > memory.size_bytes)
			return fail(result, WALKER_OUTSIDE, 0);
		walk.entry = 0;
		memcpy(&walk.entry, memory.ram + gpa, bytes);
		error = take_entry(&walk, &result, gpa);
		if (error)
			return fail(result, WALKER_FAULT, error - 1);
		if (walk.level == 1 || walk.is_large)
			break;
		table = walk.entry & BITS(12, 47);
	}
	result.is_complete = 1;
	result.gpa = page_of(&walk);
	if (!key_allows(&walk))
		return fail(result, WALKER_FAULT, error_of(&walk) | ERROR_P | ERROR_KEY);
	if (!rights_allow(&walk))
		return fail(result, WALKER_FAULT, error_of(&walk) | ERROR_P);
	return result;
}
