/* The model of guest memory, and the judgement of each access. */
#include "cli/sim/oracle.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <quire/vcpu.h>

#include "src/vm/vm.h"

void oracle_init(struct oracle *oracle, struct machine *machine)
{
	memset(oracle, 0, sizeof(*oracle));
	oracle->machine = machine;
}

void oracle_fail(struct oracle *oracle, const char *failure)
{
	/* The first is the one that explains the others. */
	if (oracle->failure)
		return;
	oracle->failure = failure;
	if (oracle->on_failure)
		oracle->on_failure();
}

uint32_t oracle_space(const struct oracle *oracle, uint32_t id)
{
	return oracle->spaces && id >= SIM_SLOTS / 2;
}

static bool view_has(const struct oracle_view *view, uint64_t gfn)
{
	return gfn - view->gfn < view->npages;
}

static uint32_t frame_of(const struct oracle *oracle, const uint8_t *page)
{
	return (uint32_t)((uint64_t)(page - oracle->machine->host.memory) / QUIRE_PAGE_SIZE);
}

static uint32_t host_frame(const struct oracle *oracle, uint32_t page)
{
	const struct sim_page *at = &oracle->machine->host.pages[page];

	return sim_has_frame(at->flags) && !oracle->page_blocked[page] ? at->frame : SIM_FRAMES;
}

static uint32_t index_of(const struct oracle_view *view, uint64_t gfn)
{
	return (uint32_t)(view->page + gfn - view->gfn) % SIM_BLOCK;
}

/* What the page is; @other: what it is to become. */
static bool is_private(const struct oracle *oracle, const struct oracle_view *view, uint64_t gfn,
		       bool other)
{
	uint32_t index = index_of(view, gfn);

	if (!oracle->in_place)
		return other ? oracle->attributes_other[gfn] : oracle->attributes[gfn];
	return (view->flags & QUIRE_SLOT_GMEM) &&
	       (other ? oracle->kinds_other[index] : oracle->kinds[index]);
}

static bool is_of_file(const struct oracle *oracle, const struct oracle_view *view, bool private)
{
	return oracle->in_place ? (view->flags & QUIRE_SLOT_GMEM) != 0 : private;
}

/* The frame that @gfn shows through @view, SIM_FRAMES if it shows none. */
static uint32_t view_frame(const struct oracle *oracle, const struct oracle_view *view,
			   uint64_t gfn, bool private)
{
	uint32_t page = view->page + (uint32_t)(gfn - view->gfn);

	if (!is_of_file(oracle, view, private))
		return host_frame(oracle, page);
	if (!(view->flags & QUIRE_SLOT_GMEM) || oracle->index_lost[page % SIM_BLOCK] == 1)
		return SIM_FRAMES;
	return sim_store_frame(oracle->store, page % SIM_BLOCK);
}

/* Does the host let the guest do this with page @page of its own? */
static bool rights_allow(const struct oracle *oracle, uint64_t page, bool fetch)
{
	uint32_t flags = oracle->machine->host.pages[page].flags;

	return !(flags & (fetch ? SIM_NOEXEC : SIM_NOREAD));
}

static bool view_allows(const struct oracle *oracle, const struct oracle_view *view,
			const struct machine_access *access, uint32_t frame)
{
	uint64_t gfn = access->gpa >> QUIRE_PAGE_SHIFT;
	uint64_t page = view->page + gfn - view->gfn;

	if (!view_has(view, gfn) || (access->write && (view->flags & QUIRE_SLOT_READONLY)))
		return false;
	/* No vCPU may write a frame that several pages show. */
	if (access->write && (oracle->machine->host.pages[page].flags & SIM_SHARED) &&
	    frame == host_frame(oracle, (uint32_t)page))
		return false;
	if (!rights_allow(oracle, page, access->fetch) &&
	    frame == host_frame(oracle, (uint32_t)page))
		return false;
	/* Both values are right while the attributes change. */
	return view_frame(oracle, view, gfn, is_private(oracle, view, gfn, false)) == frame ||
	       view_frame(oracle, view, gfn, is_private(oracle, view, gfn, true)) == frame;
}

static bool is_seen(const struct oracle *oracle, uint32_t index)
{
	enum sim_view view = sim_store_view(oracle->store, index);

	return view == SIM_VIEW_UNTOLD ? oracle->is_shown : view == SIM_VIEW_SHOWN;
}

/* The client sees no page that is private, and none that has become so. */
static void check_client(struct oracle *oracle)
{
	for (uint32_t index = 0; oracle->in_place && index < SIM_GMEM_PAGES; index++)
		if (oracle->kinds[index] && oracle->kinds_other[index] && is_seen(oracle, index))
			oracle_fail(oracle, "a private page that the client sees");
}

static bool is_allowed(const struct oracle *oracle, const struct machine_access *access,
		       uint32_t frame)
{
	for (uint32_t id = 0; id < SIM_SLOTS; id++)
		if (oracle_space(oracle, id) == access->space &&
		    (view_allows(oracle, &oracle->slots[id].current, access, frame) ||
		     view_allows(oracle, &oracle->slots[id].other, access, frame)))
			return true;
	return false;
}

static void note_write(struct oracle *oracle, const struct machine_access *access)
{
	uint64_t gfn = access->gpa >> QUIRE_PAGE_SHIFT;

	for (uint32_t id = 0; id < SIM_SLOTS; id++) {
		struct oracle_slot *slot = &oracle->slots[id];
		uint64_t offset = gfn - slot->current.gfn;

		if (oracle_space(oracle, id) != access->space || slot->busy ||
		    !view_has(&slot->current, gfn) || !(slot->current.flags & QUIRE_SLOT_LOG_DIRTY))
			continue;
		slot->pending[offset] = 1;
	}
}

void oracle_wrote(struct oracle *oracle, uint32_t space, uint64_t gfn)
{
	const struct machine_access access = {.gpa = gfn << QUIRE_PAGE_SHIFT, .space = space};

	note_write(oracle, &access);
}

uint64_t oracle_value(const struct oracle *oracle, uint32_t frame)
{
	bool fresh = oracle->generation[frame] != oracle->machine->host.frames[frame].generation;

	return fresh ? 0 : oracle->value[frame];
}

void oracle_access(void *ctx, const struct machine_access *access, const uint8_t *page)
{
	struct oracle *oracle = ctx;
	uint32_t frame = frame_of(oracle, page);

	if (access->gpa >> QUIRE_PAGE_SHIFT >= SIM_FAR_BLOCK)
		return;
	oracle->accessed = access->gpa >> QUIRE_PAGE_SHIFT;
	if (frame >= SIM_FRAMES || !oracle->machine->host.frames[frame].references) {
		oracle_fail(oracle, "an access to a frame that is free");
		return;
	}
	if (!is_allowed(oracle, access, frame)) {
		oracle_fail(oracle, access->write ? "a store that no slot allows now"
						  : "a load that no slot allows now");
		return;
	}
	if (access->write) {
		oracle->value[frame] = access->value;
		oracle->generation[frame] = oracle->machine->host.frames[frame].generation;
		note_write(oracle, access);
	} else if (access->value != oracle_value(oracle, frame)) {
		oracle_fail(oracle, "a load of what was never there");
	}
	check_client(oracle);
}

void oracle_other_access(void *ctx, const struct machine_access *access, const uint8_t *page)
{
	uint32_t index = (uint32_t)(access->gpa >> QUIRE_PAGE_SHIFT);
	struct oracle *oracle = ctx;
	uint32_t frame = frame_of(oracle, page);

	if (frame >= SIM_FRAMES || !oracle->machine->host.frames[frame].references)
		oracle_fail(oracle, "another VM's access to a frame that is free");
	else if (frame != sim_store_frame(oracle->store, index) || oracle->index_lost[index] == 1)
		oracle_fail(oracle, "another VM's access to what is not its file's page");
	else if (!access->write && access->value != oracle_value(oracle, frame))
		oracle_fail(oracle, "another VM's load of what was never there");
	if (oracle->failure || !access->write)
		return;
	oracle->value[frame] = access->value;
	oracle->generation[frame] = oracle->machine->host.frames[frame].generation;
}

static void copied(void *ctx, uint32_t page, uint32_t from, uint32_t to)
{
	struct oracle *oracle = ctx;
	uint64_t value = from == SIM_NO_FRAME ? oracle->swapped[page] : oracle_value(oracle, from);

	if (to == SIM_NO_FRAME) {
		oracle->swapped[page] = value;
		return;
	}
	oracle->value[to] = value;
	oracle->generation[to] = oracle->machine->host.frames[to].generation;
}

/* In use, and shown by a slot that stays: then an invalidation must keep the guest from it. */
static bool is_in_reach(const struct oracle *oracle, uint64_t index, uint32_t frame)
{
	for (uint32_t id = 0; id < SIM_SLOTS && oracle_value(oracle, frame); id++) {
		const struct oracle_slot *slot = &oracle->slots[id];
		const struct oracle_view *view = &slot->current;

		if (!slot->busy && (view->flags & QUIRE_SLOT_GMEM) &&
		    index - view->page % SIM_BLOCK < view->npages)
			return true;
	}
	return false;
}

static void cleared(void *ctx, uint64_t index, uint32_t frame)
{
	struct oracle *oracle = ctx;

	if (!oracle->zeroing[index] && oracle_value(oracle, frame))
		oracle_fail(oracle, "contents are zeroed that were to stay");
	if (is_in_reach(oracle, index, frame) && !oracle->machine->vm->invalidation.in_progress)
		oracle_fail(oracle, "a page is zeroed that a guest can write");
	oracle->value[frame] = 0;
	oracle->generation[frame] = oracle->machine->host.frames[frame].generation;
	oracle->zeroing[index] = oracle->zeroing[index] ? 2 : 0;
}

/* The words that are stored are all at the beginning of a page. */
static void own_copy(void *ctx, uint32_t frame, const struct sim_copy *copy)
{
	struct oracle *oracle = ctx;
	uint64_t value;

	if (copy->offset_bytes || copy->size_bytes != sizeof(value))
		return;
	memcpy(&value, copy->data, sizeof(value));
	if (!copy->write && value != oracle_value(oracle, frame))
		oracle_fail(oracle, "the hypervisor reads what was never there");
	oracle->value[frame] = value;
	oracle->generation[frame] = oracle->machine->host.frames[frame].generation;
}

static void waits(void *ctx)
{
	struct oracle *oracle = ctx;
	uint32_t thread = sched_current();

	if (thread < SIM_THREADS_MAX && oracle->nowait[thread])
		oracle_fail(oracle, "a page is waited for that was to be left to the host");
}

void oracle_watch(struct oracle *oracle)
{
	oracle->machine->host.watcher = (struct sim_watcher){
	    .copied = copied,
	    .cleared = cleared,
	    .own_copy = own_copy,
	    .waits = waits,
	    .ctx = oracle,
	};
}

bool oracle_slot_begin(struct oracle *oracle, uint32_t id, const struct oracle_view *next)
{
	struct oracle_slot *slot = &oracle->slots[id];

	if (slot->busy || slot->harvesting)
		return false;
	slot->busy = true;
	slot->other = *next;
	return true;
}

void oracle_slot_end(struct oracle *oracle, uint32_t id, const struct oracle_view *now)
{
	struct oracle_slot *slot = &oracle->slots[id];

	if (!(now->flags & QUIRE_SLOT_LOG_DIRTY) || !now->npages)
		memset(slot->pending, 0, sizeof(slot->pending));
	slot->current = *now;
	slot->other = (struct oracle_view){0};
	slot->busy = false;
}

static bool bit_of(const uint64_t *bits, uint32_t page)
{
	return bits[page / 64] >> (page % 64) & 1;
}

void oracle_harvested(struct oracle *oracle, uint32_t id, const uint64_t *bits)
{
	for (uint32_t page = 0; page < SIM_BLOCK; page++)
		if (bit_of(bits, page))
			oracle->slots[id].pending[page] = 0;
}

void oracle_check_last(struct oracle *oracle, uint32_t id, const uint64_t *bits)
{
	for (uint32_t page = 0; page < SIM_BLOCK; page++)
		if (oracle->slots[id].pending[page] && !bit_of(bits, page)) {
			oracle->accessed = oracle->slots[id].current.gfn + page;
			snprintf(oracle->details, sizeof(oracle->details), "slot %u page %u", id,
				 page);
			oracle_fail(oracle, "a write that no harvest names");
		}
}

static bool is_swapped(const struct oracle *oracle, const struct oracle_view *view, uint64_t gfn,
		       uint64_t *value)
{
	uint64_t page = view->page + gfn - view->gfn;

	*value = oracle->swapped[page];
	return oracle->machine->host.pages[page].flags & SIM_SWAPPED;
}

bool oracle_is_private(const struct oracle *oracle, uint64_t gfn)
{
	for (uint32_t id = 0; oracle->in_place && id < SIM_SLOTS; id++)
		if (view_has(&oracle->slots[id].current, gfn))
			return is_private(oracle, &oracle->slots[id].current, gfn, false);
	return oracle->attributes[gfn];
}

bool oracle_shows(const struct oracle *oracle, uint64_t gfn, uint64_t page)
{
	for (uint32_t id = 0; id < SIM_SLOTS; id++) {
		const struct oracle_slot *slot = &oracle->slots[id];

		if ((view_has(&slot->current, gfn) &&
		     slot->current.page + gfn - slot->current.gfn == page) ||
		    (view_has(&slot->other, gfn) &&
		     slot->other.page + gfn - slot->other.gfn == page))
			return true;
	}
	return false;
}

/* What no format lets a guest do, or not this one: to map what may be executed and not read. */
static bool is_refused(const struct oracle *oracle, uint64_t page, bool fetch)
{
	const struct machine *machine = oracle->machine;
	uint32_t flags = machine->host.pages[page].flags;

	if (!fetch || machine->format != QUIRE_FORMAT_EPT_MODES)
		return (flags & SIM_NOREAD) || !rights_allow(oracle, page, fetch);
	return flags & SIM_NOEXEC;
}

int oracle_expect(const struct oracle *oracle, const struct machine_access *load, uint64_t *value)
{
	uint64_t gfn = load->gpa >> QUIRE_PAGE_SHIFT;

	for (uint32_t id = 0; id < SIM_SLOTS; id++) {
		const struct oracle_view *view = &oracle->slots[id].current;
		bool private, file;
		uint32_t frame;

		if (oracle_space(oracle, id) != load->space || !view_has(view, gfn))
			continue;
		private = is_private(oracle, view, gfn, false);
		file = is_of_file(oracle, view, private);
		if (private && !(view->flags & QUIRE_SLOT_GMEM))
			return -EFAULT;
		if (file && oracle->index_lost[index_of(view, gfn)])
			return -EHWPOISON;
		if (!file && is_refused(oracle, view->page + gfn - view->gfn, load->fetch))
			return -EFAULT;
		if (!file && is_swapped(oracle, view, gfn, value))
			return 0;
		frame = view_frame(oracle, view, gfn, private);
		/* A page of the file that does not exist yet reads as zero. */
		*value = frame < SIM_FRAMES ? oracle_value(oracle, frame) : 0;
		return 0;
	}
	return oracle->attributes[gfn] ? -EFAULT : QUIRE_EMULATE;
}
