/* The model of paging: no tables, no addresses. */
#include "paging_model.h"

#define ERROR_P 1u
#define ERROR_W 2u
#define ERROR_U 4u
#define ERROR_RESERVED 8u
#define ERROR_FETCH 16u

/* 0 and what both entries allow, or the fault's P and reserved bits, plus 32 for "there is one". */
#define FAULTS 32u

static uint32_t walk(uint8_t parent, uint8_t leaf, int nxe, uint8_t *allowed)
{
	const uint8_t entries[2] = {parent, leaf};
	uint8_t open = BIT_W | BIT_U, nx = 0;

	for (int i = 0; i < 2; i++) {
		if (!(entries[i] & BIT_P))
			return FAULTS;
		if ((entries[i] & BIT_RESERVED) || (!nxe && (entries[i] & BIT_NX)))
			return FAULTS | ERROR_P | ERROR_RESERVED;
		open &= entries[i];
		nx |= entries[i] & BIT_NX;
	}
	*allowed = open | nx;
	return 0;
}

static int guest_allows(const struct paging_case *c, uint8_t allowed)
{
	int user_page = allowed & BIT_U;

	if (c->user && !user_page)
		return 0;
	switch (c->access) {
	case PAGING_FETCH:
		return !(allowed & BIT_NX) && !(!c->user && user_page && c->smep);
	case PAGING_WRITE:
		if (!(allowed & BIT_W) && (c->user || c->wp))
			return 0;
		break;
	default:
		break;
	}
	return !(!c->user && user_page && c->smap && !c->ac);
}

static int nested_allows(const struct paging_case *c, uint8_t allowed)
{
	if (!(allowed & BIT_U))
		return 0;
	if (c->access == PAGING_FETCH)
		return !(allowed & BIT_NX);
	return c->access == PAGING_READ || (allowed & BIT_W);
}

static uint32_t access_error(const struct paging_case *c)
{
	return c->access == PAGING_WRITE ? ERROR_W : c->access == PAGING_FETCH ? ERROR_FETCH : 0;
}

/* What an access that works leaves in the entries, and what no access may. */
static void mark(const struct paging_case *c, enum paging_entry parent,
		 struct paging_result *result)
{
	result->set[parent] = result->set[parent + 1] = MARK_A;
	if (c->access == PAGING_WRITE)
		result->set[parent + 1] |= MARK_D;
	else
		result->clear[parent + 1] = MARK_D;
}

static uint32_t nested_stage(const struct paging_case *c)
{
	uint32_t error = ERROR_U | access_error(c), why;
	uint8_t allowed = 0;

	if (!c->nested_nxe)
		error &= ~ERROR_FETCH;
	why = walk(c->bits[NESTED_PARENT], c->bits[NESTED_LEAF], c->nested_nxe, &allowed);
	if (why)
		return error | why;
	return nested_allows(c, allowed) ? 0 : error | ERROR_P | FAULTS;
}

/* The guest's tables are read as if they were written: A and D may have to be set. */
static uint32_t table_stage(const struct paging_case *c)
{
	uint8_t bits = c->bits[NESTED_TABLE];

	if (!(bits & BIT_P))
		return FAULTS | ERROR_U | ERROR_W;
	if ((bits & BIT_RESERVED) || (!c->nested_nxe && (bits & BIT_NX)))
		return FAULTS | ERROR_U | ERROR_W | ERROR_P | ERROR_RESERVED;
	if ((bits & (BIT_W | BIT_U)) != (BIT_W | BIT_U))
		return FAULTS | ERROR_U | ERROR_W | ERROR_P;
	return 0;
}

static uint32_t guest_stage(const struct paging_case *c)
{
	uint32_t error = access_error(c) | (c->user ? ERROR_U : 0), why;
	uint8_t allowed = 0;

	if (!c->nxe && !c->smep)
		error &= ~ERROR_FETCH;
	why = walk(c->bits[GUEST_PARENT], c->bits[GUEST_LEAF], c->nxe, &allowed);
	if (why)
		return error | why;
	return guest_allows(c, allowed) ? 0 : error | ERROR_P | FAULTS;
}

/* Does the walk get to the guest's lowest table at all? */
static int reaches_table(const struct paging_case *c)
{
	uint8_t parent = c->bits[GUEST_PARENT];

	return (parent & BIT_P) && !(parent & BIT_RESERVED) && (c->nxe || !(parent & BIT_NX));
}

static struct paging_result fault(enum paging_end end, uint32_t error)
{
	struct paging_result result = {.end = end, .error = error & ~FAULTS};

	/* What is not accessed gets no mark. */
	result.clear[GUEST_LEAF] = result.clear[NESTED_LEAF] = MARK_A | MARK_D;
	if (end == PAGING_NESTED_FAULT)
		result.clear[GUEST_LEAF] = 0;
	return result;
}

struct paging_result paging_model(const struct paging_case *c)
{
	struct paging_result result = {.end = PAGING_DONE};
	uint32_t error = 0;

	if (c->nested_level && c->guest_level == 1 && reaches_table(c))
		error = table_stage(c);
	if (error)
		return fault(PAGING_NESTED_TABLE_FAULT, error);
	error = guest_stage(c);
	if (error)
		return fault(PAGING_GUEST_FAULT, error);
	if (c->nested_level)
		error = nested_stage(c);
	if (error)
		return fault(PAGING_NESTED_FAULT, error);
	mark(c, GUEST_PARENT, &result);
	if (c->nested_level)
		mark(c, NESTED_PARENT, &result);
	return result;
}
