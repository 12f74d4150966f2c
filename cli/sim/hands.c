/* The model of what is converted in place, and of pages in the hypervisor's hands. */
#include <errno.h>

#include "cli/sim/oracle.h"

void oracle_convert_begin(struct oracle *oracle, const struct quire_gmem_conversion *request)
{
	struct oracle_conversion *conversion = &oracle->conversion;

	conversion->first = request->offset_bytes >> QUIRE_PAGE_SHIFT;
	conversion->end = conversion->first + (request->size_bytes >> QUIRE_PAGE_SHIFT);
	conversion->to_private = request->attributes & QUIRE_ATTRIBUTE_PRIVATE;
	conversion->zeroes = request->contents & QUIRE_GMEM_ZERO;
	conversion->file_busy = oracle->file_busy;
	conversion->punches = oracle->punches_begun;
	/* One that goes on may be over before it is looked at again. */
	conversion->maps = oracle->maps_begun - oracle->maps_active;
	for (uint64_t index = conversion->first; index < conversion->end; index++) {
		uint32_t frame = sim_store_frame(oracle->store, index);
		const struct sim_frame *frames = oracle->machine->host.frames;

		conversion->before[index].frame = frame;
		conversion->before[index].holds = oracle->holds[index];
		conversion->before[index].is_held = oracle->held[index] && !oracle->kinds[index];
		conversion->before[index].value =
		    frame == SIM_NO_FRAME ? 0 : oracle_value(oracle, frame);
		conversion->before[index].generation =
		    frame == SIM_NO_FRAME ? 0 : frames[frame].generation;
		oracle->zeroing[index] = conversion->zeroes && !conversion->to_private;
		oracle->kinds_other[index] = conversion->to_private;
	}
}

/* The page shows what it showed, or the zeros that were asked for; in whatever frame. */
static bool is_kept(const struct oracle *oracle, uint64_t index)
{
	uint32_t frame = sim_store_frame(oracle->store, index);
	uint64_t value = frame == SIM_NO_FRAME ? 0 : oracle_value(oracle, frame);

	if (oracle->zeroing[index])
		return value == 0 || oracle->zeroing[index] == 2;
	return value != 0;
}

static const char *judge_page(const struct oracle *oracle, uint64_t index)
{
	const struct oracle_conversion *conversion = &oracle->conversion;
	uint32_t frame = conversion->before[index].frame;

	if (conversion->to_private && conversion->before[index].is_held && oracle->held[index] &&
	    conversion->before[index].holds == oracle->holds[index])
		return "a page becomes private that a vCPU has in its hands";
	/* What was punched meanwhile is gone. */
	if (!conversion->before[index].value || conversion->file_busy || oracle->file_busy ||
	    conversion->punches != oracle->punches_begun)
		return NULL;
	if (oracle->is_pool)
		return is_kept(oracle, index) ? NULL : "contents that a conversion lost";
	if (sim_store_frame(oracle->store, index) != frame ||
	    oracle->machine->host.frames[frame].generation != conversion->before[index].generation)
		return "contents that a conversion lost";
	return oracle->zeroing[index] == 1 ? "a page that was not zeroed" : NULL;
}

static const char *judge_conversion(const struct oracle *oracle, int result)
{
	const struct oracle_conversion *conversion = &oracle->conversion;
	const char *failure = NULL;

	if (conversion->to_private && conversion->zeroes)
		return result == -EOPNOTSUPP ? NULL : "zeros that become private";
	if (result == -EAGAIN)
		return conversion->to_private && conversion->maps != oracle->maps_begun
			   ? NULL
			   : "a page in use that no vCPU has";
	if (result == -ENOMEM && oracle->is_pool)
		return NULL;
	if (result)
		return "a conversion was refused";
	for (uint64_t index = conversion->first; index < conversion->end && !failure; index++)
		failure = judge_page(oracle, index);
	return failure;
}

void oracle_convert_end(struct oracle *oracle, int result)
{
	const struct oracle_conversion *conversion = &oracle->conversion;
	const char *failure = judge_conversion(oracle, result);

	if (failure)
		oracle_fail(oracle, failure);
	for (uint64_t index = conversion->first; index < conversion->end; index++) {
		if (result)
			oracle->kinds_other[index] = oracle->kinds[index];
		oracle->kinds[index] = oracle->kinds_other[index];
		oracle->zeroing[index] = 0;
	}
}

void oracle_hold_begin(struct oracle *oracle)
{
	oracle->maps_active++;
	oracle->maps_begun++;
}

/* Of the file only where the slot is the one that was found: no change of it can end meanwhile. */
static uint32_t index_held(const struct oracle *oracle, uint64_t gfn)
{
	for (uint32_t id = 0; id < SIM_SLOTS && oracle->in_place; id++) {
		const struct oracle_slot *slot = &oracle->slots[id];
		const struct oracle_view *view = &slot->current;

		if (!slot->busy && (view->flags & QUIRE_SLOT_GMEM) &&
		    gfn - view->gfn < view->npages)
			return (uint32_t)(view->page + gfn - view->gfn) % SIM_BLOCK;
	}
	return SIM_GMEM_PAGES;
}

void oracle_hold(struct oracle *oracle, uint64_t gfn, const struct quire_map *map,
		 struct oracle_hold *hold)
{
	const struct sim_host *host = &oracle->machine->host;
	uint64_t address = map->page.pfn.v << QUIRE_PAGE_SHIFT;

	hold->frame = (uint32_t)((address - (uint64_t)(uintptr_t)host->memory) / QUIRE_PAGE_SIZE);
	hold->generation = host->frames[hold->frame].generation;
	hold->index = index_held(oracle, gfn);
	if (!map->page.refcounted)
		oracle_fail(oracle, "a page in a vCPU's hands that nothing keeps");
	if (hold->index == SIM_GMEM_PAGES)
		return;
	oracle->held[hold->index]++;
	oracle->holds[hold->index]++;
}

void oracle_hold_check(struct oracle *oracle, const struct oracle_hold *hold)
{
	const struct sim_frame *frame = &oracle->machine->host.frames[hold->frame];

	if (!frame->references || frame->generation != hold->generation)
		oracle_fail(oracle, "a page in a vCPU's hands is freed");
}

void oracle_hold_let_go(struct oracle *oracle, const struct oracle_hold *hold)
{
	if (hold->index != SIM_GMEM_PAGES)
		oracle->held[hold->index]--;
}

void oracle_hold_end(struct oracle *oracle)
{
	oracle->maps_active--;
}
