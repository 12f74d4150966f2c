/* What --sanitize=dirty is told of a VM's slots and their logs. */
#include "frontend/object/log_watch.h"

#include <string.h>

#include <quire/dirty.h>
#include <quire/view.h>

#include "frontend/file/client_call.h"
#include "frontend/object/vcpu.h"
#include "frontend/object/vm.h"
#include "frontend/uapi.h"
#include "hosts/process/heap.h"
#include "sanitize/dirty.h"

/* As KVM's ioctls number slots. */
#define SLOT_ID_BITS 16u
#define SLOT_ID_MASK 0xffffu
#define ADDRESS_SPACES 2u

/* A slot of a VM whose log is looked at. */
struct watched {
	struct vm *vm;
	uint32_t slot;
	uint64_t npages;
	uint64_t base_gfn;
	uint64_t *bits;
};

/* exit(3): its other ways end in report_last(). */
__attribute__((destructor)) static void end_logs(void)
{
	client_call_begin();
	sanitize_log_end_all();
	client_call_end();
}

void log_watch_region(struct vm *vm, const struct quire_region *region)
{
	struct sanitize_log log = {
	    .vm = vm,
	    .slot = region->slot,
	    .gpa = region->gpa.v,
	    .hva = region->hva.v,
	    .npages = region->size_bytes >> QUIRE_PAGE_SHIFT,
	};

	if (!sanitize_is_on(SANITIZE_DIRTY))
		return;
	if (log.npages && (region->flags & KVM_MEM_LOG_DIRTY_PAGES))
		sanitize_log_begin(&log);
	else
		sanitize_log_end(vm, region->slot);
}

static void bit_set(struct watched *watched, uint64_t index)
{
	if (index < watched->npages)
		watched->bits[index / 64] |= UINT64_C(1) << index % 64;
}

/* ---- Bitmaps ---- */

/* One page of the slot: is its bit set in the log? */
static int add_page(void *ctx, const struct quire_view_piece *piece)
{
	struct watched *watched = ctx;

	if (piece->slot_id == (watched->slot & SLOT_ID_MASK) && piece->counts.logged)
		bit_set(watched, piece->gfn.v - watched->base_gfn);
	return 0;
}

/* Where is the slot? */
static int find_slot(void *ctx, const struct quire_view_piece *piece)
{
	struct watched *watched = ctx;

	if (piece->slot_id != (watched->slot & SLOT_ID_MASK))
		return 0;
	watched->base_gfn = piece->gfn.v;
	return 1;
}

static void add_bitmap(struct watched *watched)
{
	uint32_t as_id = watched->slot >> SLOT_ID_BITS;
	struct quire_view_request request = {.as_id = as_id, .piece_pages = 1};

	if (quire_vm_view_slots(watched->vm->memory, as_id, find_slot, watched) != 1)
		return;
	request.start.v = watched->base_gfn;
	request.end.v = watched->base_gfn + watched->npages;
	if (quire_vm_view(watched->vm->memory, &request, add_page, watched))
		return; /* a dead VM: it is judged no more */
}

/* ---- Rings ---- */

static void add_ring(const struct vcpu *vcpu, struct watched *watched)
{
	const struct quire_ring_entry *entries = vcpu->ring;

	for (uint32_t i = 0; i < vcpu->ring_bytes / sizeof(*entries); i++)
		if (__atomic_load_n(&entries[i].flags, __ATOMIC_ACQUIRE) &&
		    entries[i].slot == watched->slot)
			bit_set(watched, entries[i].offset);
}

/* Written by guests and not yet taken back: the client has read some of them. */
static void add_rings(struct watched *watched)
{
	uint32_t count = atomic_load_explicit(&watched->vm->vcpu_count, memory_order_acquire);

	for (uint32_t i = 0; i < count; i++)
		if (watched->vm->vcpus[i]->ring)
			add_ring(watched->vm->vcpus[i], watched);
}

/* ---- Harvests ---- */

static void add_logged(const struct sanitize_log *log, uint64_t *bits)
{
	struct watched watched = {
	    .vm = (struct vm *)(uintptr_t)log->vm,
	    .slot = log->slot,
	    .npages = log->npages,
	    .bits = bits,
	};

	add_bitmap(&watched);
	add_rings(&watched);
}

static uint64_t bytes_of(const struct log_watch_bits *bits)
{
	return (bits->npages + 63) / 64 * sizeof(*bits->bits);
}

struct log_watch_bits log_watch_begin(struct vm *vm, uint32_t slot)
{
	struct log_watch_bits bits = {.npages = sanitize_log_pages(vm, slot)};

	if (bits.npages)
		bits.bits = process_heap_alloc(bytes_of(&bits));
	return bits;
}

void log_watch_copy(const struct log_watch_bits *to, uint64_t offset_bytes, const void *src,
		    uint64_t size_bytes)
{
	uint64_t room_bytes = to->bits ? bytes_of(to) : 0;

	if (offset_bytes < room_bytes && size_bytes <= room_bytes - offset_bytes)
		memcpy((char *)to->bits + offset_bytes, src, size_bytes);
}

void log_watch_harvested(struct vm *vm, uint32_t slot, const struct log_watch_bits *bits,
			 long error)
{
	const struct sanitize_harvest harvest = {.vm = vm,
						 .slot = slot,
						 .npages = bits->npages,
						 .named = bits->bits,
						 .add_logged = add_logged};

	if (bits->bits && !error)
		sanitize_log_harvest(&harvest);
	process_heap_free(bits->bits);
}

void log_watch_cleared(struct vm *vm, uint32_t slot, const struct log_watch_bits *bits, long error)
{
	const struct sanitize_harvest cleared = {
	    .vm = vm, .slot = slot, .npages = bits->npages, .named = bits->bits};

	if (bits->bits && !error)
		sanitize_log_cleared(&cleared);
	process_heap_free(bits->bits);
}

/* What the rings had of one slot before the reset. */
struct log_watch_rings {
	struct log_watch_rings *next;
	struct watched of;
};

struct rings_step {
	struct vm *vm;
	struct log_watch_rings *first;
};

static int begin_slot(void *ctx, const struct quire_view_piece *piece)
{
	struct rings_step *step = ctx;
	struct log_watch_rings *rings;
	struct log_watch_bits bits;

	if (!(piece->flags & QUIRE_SLOT_LOG_DIRTY))
		return 0;
	rings = process_heap_alloc(sizeof(*rings));
	if (!rings)
		return 0;
	rings->of.vm = step->vm;
	rings->of.slot = piece->as_id << SLOT_ID_BITS | piece->slot_id;
	bits = log_watch_begin(step->vm, rings->of.slot);
	rings->of.npages = bits.npages;
	rings->of.bits = bits.bits;
	if (!rings->of.bits) {
		process_heap_free(rings);
		return 0;
	}
	add_rings(&rings->of);
	rings->next = step->first;
	step->first = rings;
	return 0;
}

struct log_watch_rings *log_watch_rings_begin(struct vm *vm)
{
	struct rings_step step = {.vm = vm};

	if (!sanitize_is_on(SANITIZE_DIRTY))
		return NULL;
	for (uint32_t as_id = 0; as_id < ADDRESS_SPACES; as_id++)
		if (quire_vm_view_slots(vm->memory, as_id, begin_slot, &step))
			break; /* a dead VM */
	return step.first;
}

void log_watch_rings_end(struct log_watch_rings *rings, long taken)
{
	while (rings) {
		struct log_watch_rings *next = rings->next;
		const struct log_watch_bits bits = {rings->of.npages, rings->of.bits};

		log_watch_harvested(rings->of.vm, rings->of.slot, &bits, taken > 0 ? 0 : -1);
		process_heap_free(rings);
		rings = next;
	}
}
