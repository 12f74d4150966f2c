/*
 * The detector "slot": memory of a slot that the client unmaps, moves or replaces.
 *
 * The client's call alone tells what happens to its memory; whether that was a mistake is known
 * later. A client may unmap memory and then delete the slot, as long as its guest does not run
 * between. So a loss is kept with its stack until the guest touches it, a vCPU enters KVM_RUN, or
 * the slot goes.
 *
 * What libc unmaps inside itself shows when the guest touches it, without the stack of that call.
 * So does memory whose file has become shorter.
 *
 * Two things are no losses. Before a VM has run its client may build its memory of several
 * mappings, one over the other. And a range without rights is a reservation: windows for devices'
 * memory are made of these, and mappings come and go there under a running guest.
 */
#include "sanitize/slot.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "hosts/process/guard.h"
#include "hosts/process/heap.h"
#include "hosts/process/maps.h"
#include "hosts/process/watched.h"

#define PAGE_BYTES UINT64_C(4096)
/* Of one VM, at one time; more of them say nothing that these do not. */
#define LOSSES_MAX 64u

/* What a call of the client's takes away. */
struct sanitize_loss {
	uint64_t start, end;
	bool is_hit;	      /* a slot has some of it, and it could be used */
	bool has_pages_alone; /* nothing brings them back: no file, no userfaultfd */
	char mapped[SANITIZE_WORDS_BYTES];
	struct sanitize_stack stack;
};

struct loss_note {
	struct sanitize_loss loss; /* its range is that which the slot has */
	uint64_t gpa;
	uint32_t slot;
	enum sanitize_loss_how how;
	bool had_run; /* the VM, at the loss */
	struct loss_note *next;
};

/* Losses of all VMs. A thread that sees none takes no lock. */
static uint32_t losses_count;
/* Counts VMs that end, so that a new one at an old address is none that has run. */
static uint32_t vm_ends;

/* The VM that this thread ran last, and .vm_ends then. */
static _Thread_local const void *ran __attribute__((tls_model("initial-exec")));
static _Thread_local uint32_t ran_ends __attribute__((tls_model("initial-exec")));

void slot_forked(void)
{
	losses_count = 0;
	vm_ends++;
}

/* Unlink the first loss that @fits, or NULL; the caller frees it. */
static struct loss_note *loss_take_locked(struct machine *machine,
					  bool (*fits)(const struct loss_note *, const void *),
					  const void *ctx)
{
	for (struct loss_note **link = &machine->losses; *link; link = &(*link)->next) {
		struct loss_note *note = *link;

		if (!fits(note, ctx))
			continue;
		*link = note->next;
		__atomic_fetch_sub(&losses_count, 1, __ATOMIC_SEQ_CST);
		return note;
	}
	return NULL;
}

static void losses_drop_locked(struct machine *machine,
			       bool (*fits)(const struct loss_note *, const void *),
			       const void *ctx)
{
	struct loss_note *note;

	while ((note = loss_take_locked(machine, fits, ctx)))
		process_heap_free(note);
}

static bool fits_any(const struct loss_note *note, const void *ctx)
{
	(void)note;
	(void)ctx;
	return true;
}

static bool fits_slot(const struct loss_note *note, const void *ctx)
{
	return note->slot == *(const uint32_t *)ctx;
}

/* What will be reported without a touch. */
static bool fits_run(const struct loss_note *note, const void *ctx)
{
	(void)ctx;
	return note->how != SANITIZE_RESERVED;
}

static bool fits_address(const struct loss_note *note, const void *ctx)
{
	uint64_t address = *(const uint64_t *)ctx;

	return address >= note->loss.start && address < note->loss.end;
}

/* A window that is mapped anew. */
static bool fits_reserved(const struct loss_note *note, const void *ctx)
{
	const struct sanitize_loss *loss = ctx;

	return note->how == SANITIZE_RESERVED && note->loss.start < loss->end &&
	       loss->start < note->loss.end;
}

void slot_changes_locked(struct machine *machine, uint32_t id)
{
	losses_drop_locked(machine, fits_slot, &id);
}

void slot_vm_ends_locked(struct machine *machine)
{
	losses_drop_locked(machine, fits_any, NULL);
	__atomic_fetch_add(&vm_ends, 1, __ATOMIC_SEQ_CST);
}

static bool is_full_locked(const struct machine *machine)
{
	unsigned int count = 0;

	for (const struct loss_note *note = machine->losses; note; note = note->next)
		count++;
	return count >= LOSSES_MAX;
}

/* Where a slot of the VM first meets the range, if before @first; 0: nowhere yet. */
static uint64_t first_hit_of_locked(const struct machine *machine, uint64_t first, uint64_t start,
				    uint64_t end)
{
	for (const struct machine_slot *at = machine_slot_next_locked(machine, NULL); at;
	     at = machine_slot_next_locked(machine, at)) {
		uint64_t from = start, to = end;

		if (machine_slot_clip(&at->slot, &from, &to) && (!first || from < first))
			first = from;
	}
	return first;
}

static uint64_t first_hit_locked(uint64_t start, uint64_t end)
{
	uint64_t first = 0;

	/* A client may unmap the memory of thousands of slots, and each call looks at all of them.
	 */
	for (const struct machine *machine = machines_first_locked(); machine;
	     machine = machine->next)
		if (!is_full_locked(machine))
			first = first_hit_of_locked(machine, first, start, end);
	return first;
}

/* Does what is left hold nothing when the pages at @address go elsewhere? */
static bool has_pages_alone(uint64_t address)
{
	struct process_mapping mapping;

	return process_mapping_find(address, &mapping) && !mapping.shared &&
	       !(watched_modes(address) & WATCHED_MISSING);
}

/* Could anything of the range be used? Mappings without rights and holes could not. */
static bool has_rights(uint64_t start, uint64_t end)
{
	struct process_mapping mapping;

	while (start < end && process_mapping_find(start, &mapping)) {
		if (mapping.prot != PROT_NONE)
			return true;
		start = mapping.end;
	}
	return false;
}

struct sanitize_loss *sanitize_slot_look(uint64_t start, uint64_t end)
{
	struct sanitize_loss *loss;
	uint64_t hit;

	if (!sanitize_is_on(SANITIZE_SLOT) || start >= end)
		return NULL;
	loss = process_heap_alloc(sizeof(*loss));
	if (!loss)
		return NULL;
	loss->start = start;
	loss->end = end;
	machines_acquire();
	hit = first_hit_locked(start, end);
	machines_release();
	if (!hit || !has_rights(hit, end))
		return loss;
	loss->is_hit = true;
	loss->has_pages_alone = has_pages_alone(hit);
	sanitize_describe(hit, loss->mapped);
	sanitize_stack_take(&loss->stack);
	return loss;
}

/* Goes on where the last one ended, from the same place: one loss of a longer range. */
static bool continues(struct loss_note *last, const struct loss_note *next)
{
	if (!last || last->slot != next->slot || last->how != next->how ||
	    last->had_run != next->had_run || last->loss.end != next->loss.start ||
	    last->loss.stack.count != next->loss.stack.count ||
	    memcmp(last->loss.stack.frames, next->loss.stack.frames,
		   sizeof(next->loss.stack.frames[0]) * next->loss.stack.count) != 0)
		return false;
	last->loss.end = next->loss.end;
	return true;
}

static void lose_locked(struct machine *machine, const struct loss_note *wanted)
{
	struct loss_note *note;

	if (continues(machine->losses, wanted) || is_full_locked(machine))
		return;
	note = process_heap_alloc(sizeof(*note));
	if (!note)
		return;
	*note = *wanted;
	note->next = machine->losses;
	machine->losses = note;
	__atomic_fetch_add(&losses_count, 1, __ATOMIC_SEQ_CST);
}

static void lose_of_vm_locked(struct machine *machine, const struct sanitize_loss *loss,
			      enum sanitize_loss_how how)
{
	if (is_full_locked(machine))
		return;
	/* Before the guest runs its memory may be put together, one mapping over another. */
	if (!machine->has_run && (how == SANITIZE_REPLACED || how == SANITIZE_RESERVED))
		return;
	for (const struct machine_slot *at = machine_slot_next_locked(machine, NULL); at;
	     at = machine_slot_next_locked(machine, at)) {
		struct loss_note note = {.loss = *loss, .slot = at->slot.id, .how = how};

		if (!machine_slot_clip(&at->slot, &note.loss.start, &note.loss.end))
			continue;
		note.had_run = machine->has_run;
		note.gpa = at->slot.gpa + (note.loss.start - at->slot.hva);
		lose_locked(machine, &note);
	}
}

void sanitize_slot_settle(struct sanitize_loss *loss, enum sanitize_loss_how how)
{
	if (!loss)
		return;
	if (how == SANITIZE_EMPTIED && !loss->has_pages_alone)
		how = SANITIZE_KEPT;
	machines_acquire();
	for (struct machine *machine = machines_first_locked(); machine && how != SANITIZE_KEPT;
	     machine = machine->next) {
		losses_drop_locked(machine, fits_reserved, loss);
		if (loss->is_hit)
			lose_of_vm_locked(machine, loss, how);
	}
	machines_release();
	process_heap_free(loss);
}

/* Memory that was unmapped before the guest ran may have been mapped anew, which is no mistake. */
static bool was_put_back(const struct loss_note *note)
{
	return !note->had_run && has_rights(note->loss.start, note->loss.end);
}

static void report(const struct loss_note *note, const char *event)
{
	static const char *const how[] = {
	    [SANITIZE_UNMAPPED] = "was unmapped",
	    [SANITIZE_MOVED] = "was moved away",
	    [SANITIZE_REPLACED] = "was replaced by another mapping",
	    [SANITIZE_RESERVED] = "was replaced by a mapping without rights",
	    [SANITIZE_EMPTIED] = "lost its pages to another address",
	};
	char what[SANITIZE_WORDS_BYTES], mapped[SANITIZE_WORDS_BYTES], now[SANITIZE_WORDS_BYTES];
	const struct sanitize_finding finding = {
	    .kind = SANITIZE_SLOT,
	    .what = what,
	    .guest_start = note->gpa,
	    .guest_end = note->gpa + (note->loss.end - note->loss.start),
	    .host_start = note->loss.start,
	    .host_end = note->loss.end,
	    .slot = note->slot,
	    .mapped = mapped,
	    .changed = &note->loss.stack,
	    .used = sanitize_run_stack(),
	};

	if (was_put_back(note))
		return;
	sanitize_describe(note->loss.start, now);
	snprintf(what, sizeof(what), "%s memory of a slot that %s", event, how[note->how]);
	snprintf(mapped, sizeof(mapped), "%.110s; now %.110s", note->loss.mapped, now);
	sanitize_report(&finding);
}

static struct loss_note *take(const void *vm, bool (*fits)(const struct loss_note *, const void *),
			      const void *ctx)
{
	struct machine *note;
	struct loss_note *loss;

	machines_acquire();
	note = machine_find_locked(vm);
	loss = note ? loss_take_locked(note, fits, ctx) : NULL;
	if (loss)
		note->has_told = true;
	machines_release();
	return loss;
}

static void note_run(const void *vm)
{
	uint32_t ends = __atomic_load_n(&vm_ends, __ATOMIC_SEQ_CST);
	struct machine *note;

	if (ran == vm && ran_ends == ends)
		return;
	machines_acquire();
	note = machine_have_locked(vm);
	if (note)
		note->has_run = true;
	machines_release();
	ran = vm;
	ran_ends = ends;
}

void sanitize_slot_run(const void *vm)
{
	struct loss_note *loss;

	if (!sanitize_is_on(SANITIZE_SLOT))
		return;
	sanitize_run_begin();
	while (__atomic_load_n(&losses_count, __ATOMIC_SEQ_CST) &&
	       (loss = take(vm, fits_run, NULL))) {
		report(loss, "KVM_RUN with");
		process_heap_free(loss);
	}
	note_run(vm);
}

void sanitize_slot_touch(const void *vm, uint64_t hva)
{
	struct loss_note *loss;

	if (!__atomic_load_n(&losses_count, __ATOMIC_SEQ_CST))
		return;
	loss = take(vm, fits_address, &hva);
	if (loss)
		report(loss, "a guest touches");
	process_heap_free(loss);
}

/* The slot of the VM that has @hva. False: there is none, or a loss of the VM's was told before. */
static bool find_untold(const void *vm, uint64_t hva, struct sanitize_slot *slot)
{
	const struct machine_slot *at = NULL;
	struct machine *machine;
	uint64_t start = hva, end = hva + 1;

	machines_acquire();
	machine = machine_find_locked(vm);
	if (machine && !machine->has_told)
		at = machine_slot_next_locked(machine, NULL);
	while (at && !machine_slot_clip(&at->slot, &start, &end))
		at = machine_slot_next_locked(machine, at);
	if (at) {
		*slot = at->slot;
		machine->has_told = true;
	}
	machines_release();
	return at != NULL;
}

/*
 * Does the mapping's file have no page for @hva? Of a guest_memfd, and where a userfaultfd raises
 * the signal, that may be meant so.
 */
static bool is_beyond_file(uint64_t hva, const struct process_mapping *mapping,
			   const struct maps_name *name)
{
	uint8_t value;

	return mapping->prot != PROT_NONE && name->device && !watched_modes(hva) &&
	       !strstr(name->text, "/memfd:[kvm-gmem]") &&
	       guard_load_u8((const void *)(uintptr_t)hva, &value) == GUARD_BUS;
}

void sanitize_slot_missing(const void *vm, uint64_t hva)
{
	uint64_t page = hva & ~(PAGE_BYTES - 1);
	char mapped[SANITIZE_WORDS_BYTES];
	struct process_mapping mapping;
	struct sanitize_slot slot;
	struct maps_name name;
	struct sanitize_finding finding = {
	    .kind = SANITIZE_SLOT,
	    .what = "a guest touches memory of a slot where nothing is mapped",
	    .host_start = page,
	    .host_end = page + PAGE_BYTES,
	    .mapped = "nothing; what took it away is no call of the program's own, as libc's "
		      "munmap() in free(3), or it never was there",
	    .used = sanitize_run_stack(),
	};

	if (!maps_find(hva, &mapping, &name)) {
		if (!is_beyond_file(hva, &mapping, &name))
			return;
		sanitize_describe(hva, mapped);
		snprintf(mapped + strlen(mapped), sizeof(mapped) - strlen(mapped), "%s",
			 "; a touch of it raises SIGBUS, as beyond the file's end");
		finding.what = "a guest touches memory of a slot for which its file has no page";
		finding.mapped = mapped;
	}
	if (!find_untold(vm, hva, &slot))
		return;
	finding.slot = slot.id;
	finding.guest_start = slot.gpa + (page - slot.hva);
	finding.guest_end = finding.guest_start + PAGE_BYTES;
	sanitize_report(&finding);
}
