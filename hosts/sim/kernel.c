/* The simulated kernel's own work on a client's pages. */
#include "hosts/sim/kernel.h"

#include <errno.h>
#include <string.h>

#include "hosts/sim/sched.h"

static void tell_begin(struct sim_host *host, uint32_t page, uint32_t npages)
{
	const struct sim_notifier *notifier = &host->notifier;

	if (notifier->ctx)
		notifier->begin(notifier->ctx, sim_hva(page), sim_hva(page + npages));
	/* The library has acknowledged, and must refuse a lookup that comes now. */
	sched_yield_point();
}

static void tell_end(struct sim_host *host, uint32_t page, uint32_t npages)
{
	const struct sim_notifier *notifier = &host->notifier;

	if (notifier->ctx)
		notifier->end(notifier->ctx, sim_hva(page), sim_hva(page + npages));
}

static uint8_t *bytes_of(struct sim_host *host, uint32_t frame)
{
	return host->frames[frame].bytes;
}

static void copy_bytes(struct sim_host *host, uint32_t page, uint32_t from, uint32_t to)
{
	memcpy(to == SIM_NO_FRAME ? host->swap[page] : bytes_of(host, to),
	       from == SIM_NO_FRAME ? host->swap[page] : bytes_of(host, from), SIM_FRAME_BYTES);
	if (host->watcher.copied)
		host->watcher.copied(host->watcher.ctx, page, from, to);
}

/* Has the page a frame without other holders and sharers? */
static bool is_own(const struct sim_host *host, uint32_t page)
{
	const struct sim_page *at = &host->pages[page];

	return sim_has_frame(at->flags) && !(at->flags & (SIM_DEVICE | SIM_SHARED)) &&
	       host->frames[at->frame].references == 1;
}

static bool all_own(const struct sim_host *host, uint32_t page, uint32_t npages)
{
	for (uint32_t i = 0; i < npages; i++)
		if (!is_own(host, page + i))
			return false;
	return true;
}

bool sim_swap_out(struct sim_host *host, uint32_t page)
{
	struct sim_page *at = &host->pages[page];
	bool done;

	tell_begin(host, page, 1);
	done = is_own(host, page);
	if (done) {
		copy_bytes(host, page, at->frame, SIM_NO_FRAME);
		at->flags |= SIM_SWAPPED;
		sim_frames_put(host, at->frame, 1);
	}
	tell_end(host, page, 1);
	return done;
}

/* Go over to @frame, which the page gets the reference of. */
static void change_frame(struct sim_host *host, uint32_t page, uint32_t frame)
{
	uint32_t old = host->pages[page].frame;

	host->pages[page].frame = frame;
	sim_frames_put(host, old, 1);
}

bool sim_migrate(struct sim_host *host, uint32_t page)
{
	uint32_t fresh;
	bool done;

	tell_begin(host, page, 1);
	done = is_own(host, page);
	fresh = done ? sim_frame_alloc(host, 0) : SIM_NO_FRAME;
	done = fresh != SIM_NO_FRAME;
	if (done) {
		copy_bytes(host, page, host->pages[page].frame, fresh);
		change_frame(host, page, fresh);
	}
	tell_end(host, page, 1);
	return done;
}

bool sim_merge(struct sim_host *host, uint32_t page, uint32_t twin)
{
	struct sim_page *first = &host->pages[page], *second = &host->pages[twin];
	bool done;

	tell_begin(host, page, 1);
	tell_begin(host, twin, 1);
	/* Neither can be written now. */
	done =
	    is_own(host, page) && is_own(host, twin) &&
	    !memcmp(bytes_of(host, first->frame), bytes_of(host, second->frame), SIM_FRAME_BYTES);
	if (done) {
		host->frames[first->frame].references++;
		change_frame(host, twin, first->frame);
		first->flags |= SIM_SHARED;
		second->flags |= SIM_SHARED;
	}
	tell_end(host, twin, 1);
	tell_end(host, page, 1);
	return done;
}

bool sim_collapse(struct sim_host *host, uint32_t page)
{
	uint32_t row = SIM_NO_FRAME;

	tell_begin(host, page, SIM_BLOCK);
	if (all_own(host, page, SIM_BLOCK))
		row = sim_row_alloc(host, 0);
	for (uint32_t i = 0; i < SIM_BLOCK && row != SIM_NO_FRAME; i++) {
		copy_bytes(host, page + i, host->pages[page + i].frame, row + i);
		change_frame(host, page + i, row + i);
		host->pages[page + i].flags &= ~(uint32_t)SIM_SMALL;
	}
	tell_end(host, page, SIM_BLOCK);
	return row != SIM_NO_FRAME;
}

bool sim_split(struct sim_host *host, uint32_t page)
{
	tell_begin(host, page, SIM_BLOCK);
	for (uint32_t i = 0; i < SIM_BLOCK; i++)
		host->pages[page + i].flags |= SIM_SMALL;
	tell_end(host, page, SIM_BLOCK);
	return true;
}

void sim_map_empty(struct sim_host *host, uint32_t page, uint32_t flags)
{
	host->pages[page] = (struct sim_page){.flags = SIM_MAPPED | SIM_EMPTY | flags};
}

/* A frame where there was none: no table can have an entry for it, and no VM is told. */
static int give_frame(struct sim_host *host, uint32_t page, bool write)
{
	struct sim_page *at = &host->pages[page];
	bool zero = (at->flags & SIM_EMPTY) && !write;
	uint32_t frame = zero ? host->zero_frame : SIM_NO_FRAME;

	if (frame == SIM_NO_FRAME && ++host->allocations != host->fail_at)
		frame = sim_frame_alloc(host, 0);
	if (frame == SIM_NO_FRAME)
		return -ENOMEM;
	if (zero) {
		host->zero_frame = frame;
		host->frames[frame].references++;
	}
	if (at->flags & SIM_SWAPPED)
		copy_bytes(host, page, SIM_NO_FRAME, frame);
	at->flags &= ~(uint32_t)(SIM_EMPTY | SIM_SWAPPED);
	at->flags |= zero ? SIM_SHARED : 0;
	at->frame = frame;
	return 0;
}

/* The page is written: a frame of its own, unless it is the last that shows the shared one. */
static int break_sharing(struct sim_host *host, uint32_t page)
{
	struct sim_page *at = &host->pages[page];
	uint32_t shared = at->frame, fresh;

	if (host->frames[shared].references == 1) {
		at->flags &= ~(uint32_t)SIM_SHARED;
		return 0;
	}
	fresh = ++host->allocations == host->fail_at ? SIM_NO_FRAME : sim_frame_alloc(host, 0);
	if (fresh == SIM_NO_FRAME)
		return -ENOMEM;
	tell_begin(host, page, 1);
	/* Another thread of the client may have been here first. */
	if (sim_has_frame(at->flags) && (at->flags & SIM_SHARED) && at->frame == shared) {
		copy_bytes(host, page, shared, fresh);
		change_frame(host, page, fresh);
		at->flags &= ~(uint32_t)SIM_SHARED;
	} else {
		sim_frames_put(host, fresh, 1);
	}
	tell_end(host, page, 1);
	return 0;
}

int sim_fault_in(struct sim_host *host, uint32_t page, bool write)
{
	const struct sim_page *at = &host->pages[page];
	int err = 0;

	/* While the notifier was told, anything may have happened to the page. */
	while (!err && (at->flags & SIM_MAPPED)) {
		if (!sim_has_frame(at->flags))
			err = give_frame(host, page, write);
		else if (write && (at->flags & SIM_SHARED))
			err = break_sharing(host, page);
		else
			return 0;
	}
	return err ? err : -EFAULT;
}
