/* The VMs of this process and their slots, as detectors know them. */
#include "sanitize/machine.h"

#include "hosts/process/fork.h"
#include "hosts/process/heap.h"
#include "hosts/process/lock.h"
#include "sanitize/in_place.h"
#include "sanitize/private.h"
#include "sanitize/slot.h"

static struct process_lock machines_lock;
static struct machine *machines;
/* Counts changes of slots. */
static uint32_t slot_turn;

/* The VMs are the parent's. */
static void fork_child(void)
{
	(void)process_lock_start_anew(&machines_lock);
	machines = NULL;
	slot_forked();
	private_forked();
	in_place_forked();
}
FORK_CHILD(FORK_MACHINES, machines_lock, fork_child);

static bool is_wanted(void)
{
	return sanitize_is_on(SANITIZE_SLOT) || sanitize_is_on(SANITIZE_PRIVATE) ||
	       sanitize_is_on(SANITIZE_TLB);
}

void machines_acquire(void)
{
	process_lock_acquire(&machines_lock);
}

void machines_release(void)
{
	process_lock_release(&machines_lock);
}

struct machine *machines_first_locked(void)
{
	return machines;
}

struct machine *machine_find_locked(const void *vm)
{
	struct machine *machine = machines;

	while (machine && machine->vm != vm)
		machine = machine->next;
	return machine;
}

struct machine *machine_have_locked(const void *vm)
{
	struct machine *machine = machine_find_locked(vm);

	if (machine)
		return machine;
	machine = process_heap_alloc(sizeof(*machine));
	if (!machine)
		return NULL;
	machine->vm = vm;
	machine->next = machines;
	machines = machine;
	return machine;
}

bool machine_slot_clip(const struct sanitize_slot *slot, uint64_t *start, uint64_t *end)
{
	if (*start < slot->hva)
		*start = slot->hva;
	if (*end > slot->hva + slot->size_bytes)
		*end = slot->hva + slot->size_bytes;
	return *start < *end;
}

static uint32_t bucket_of(uint32_t id)
{
	return id % MACHINE_BUCKETS;
}

struct machine_slot *machine_slot_next_locked(const struct machine *machine,
					      const struct machine_slot *slot)
{
	uint32_t bucket = slot ? bucket_of(slot->slot.id) + 1 : 0;

	if (slot && slot->next)
		return slot->next;
	while (bucket < MACHINE_BUCKETS && !machine->slots[bucket])
		bucket++;
	return bucket < MACHINE_BUCKETS ? machine->slots[bucket] : NULL;
}

/* Where the slot with @id hangs, or would. */
static struct machine_slot **slot_link_locked(struct machine *machine, uint32_t id)
{
	struct machine_slot **link = &machine->slots[bucket_of(id)];

	while (*link && (*link)->slot.id != id)
		link = &(*link)->next;
	return link;
}

/* Is it there already, but for its flags? */
static bool is_known_locked(struct machine *machine, const struct sanitize_slot *slot)
{
	const struct machine_slot *at = *slot_link_locked(machine, slot->id);

	return at && at->slot.gpa == slot->gpa && at->slot.hva == slot->hva &&
	       at->slot.size_bytes == slot->size_bytes && at->slot.has_private == slot->has_private;
}

static void set_locked(struct machine *machine, const struct sanitize_slot *slot)
{
	struct machine_slot **link = slot_link_locked(machine, slot->id), *note = *link;

	if (!slot->size_bytes) {
		if (note)
			*link = note->next;
		process_heap_free(note);
		return;
	}
	if (!note) {
		note = process_heap_alloc(sizeof(*note));
		if (!note)
			return;
		*link = note;
	}
	note->slot = *slot;
}

void sanitize_slot_set(const struct sanitize_slot *slot)
{
	struct machine *machine;

	if (!is_wanted())
		return;
	machines_acquire();
	machine = machine_have_locked(slot->vm);
	if (machine && !is_known_locked(machine, slot)) {
		slot_changes_locked(machine, slot->id);
		private_slot_goes_locked(machine, slot->id);
		set_locked(machine, slot);
		__atomic_add_fetch(&slot_turn, 1, __ATOMIC_SEQ_CST);
		private_slot_comes_locked(machine, slot);
	}
	machines_release();
}

uint32_t sanitize_slot_turn(void)
{
	return __atomic_load_n(&slot_turn, __ATOMIC_SEQ_CST);
}

uint64_t sanitize_slot_find(const void *vm, uint32_t address_space, uint64_t gpa)
{
	const struct machine_slot *at = NULL;
	const struct machine *machine;
	uint64_t found = 0;

	machines_acquire();
	machine = machine_find_locked(vm);
	while (machine && !found && (at = machine_slot_next_locked(machine, at)) != NULL)
		if (at->slot.id >> 16 == address_space && gpa >= at->slot.gpa &&
		    gpa - at->slot.gpa < at->slot.size_bytes)
			found = at->slot.hva + (gpa - at->slot.gpa);
	machines_release();
	return found;
}

void sanitize_forget_vm(const void *vm)
{
	struct machine **link = &machines, *machine;
	struct machine_slot *slot;

	if (!is_wanted())
		return;
	machines_acquire();
	while (*link && (*link)->vm != vm)
		link = &(*link)->next;
	machine = *link;
	if (machine) {
		*link = machine->next;
		slot_vm_ends_locked(machine);
		private_vm_ends_locked(machine);
	}
	machines_release();
	while (machine && (slot = machine_slot_next_locked(machine, NULL))) {
		machine->slots[bucket_of(slot->slot.id)] = slot->next;
		process_heap_free(slot);
	}
	process_heap_free(machine);
}

void sanitize_before_change(uint64_t start, uint64_t end)
{
	sanitize_private_leave(start, end);
}
