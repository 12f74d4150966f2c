/*
 * The detector "private": the client's own access to memory that its guest holds private.
 *
 * While a page is private its guest has it in a guest_memfd, and what the client has at the slot's
 * address is other memory, left over. The client loses its rights to it meanwhile, so that an
 * access raises SIGSEGV. It is reported, the rights of the pages around come back, and the access
 * is made: the program goes on as without us. Whatever the client does to the mapping itself gives
 * it its rights back first.
 */
#include "sanitize/private.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "hosts/process/guard.h"
#include "hosts/process/heap.h"
#include "hosts/process/maps.h"
#include "hosts/process/room.h"
#include "hosts/process/sys.h"
#include "sanitize/in_place.h"
#include "sanitize/ranges.h"

#define PAGE_BYTES UINT64_C(4096)
/* How many pages come back at once, at most, as accesses go on: 2 MiB. */
#define OPEN_SHIFT_MAX 9u
#define KERNEL_SET_BYTES 8
/* The page fault's error code. */
#define FAULT_WRITE 2u
#define FAULT_FETCH 16u

/* Memory that the client has no rights to. No two overlap while the lock is free. */
struct holding {
	uint64_t start, end;
	uint64_t gpa; /* of .start */
	const void *vm;
	uint32_t slot;
	int protection;	   /* the client's own */
	uint32_t opened;   /* how often some of it came back */
	bool is_inherited; /* by the child of a fork, whose memory is no guest's */
	struct sanitize_stack stack;
	struct holding *next;
};

/*
 * Guarded by machines_acquire(). Atomic for the look whether there are any. A child of fork() may
 * have it as it was between any two stores: memory without rights is always in it.
 */
static struct holding *holdings;
/* Counts changes of rights; they are made under the lock. */
static uint32_t protections;
/* Were there ever any? A fault that finds none may come a moment after another thread's. */
static uint32_t has_held;

static bool is_on(void)
{
	return sanitize_is_on(SANITIZE_PRIVATE);
}

static bool are_any(void)
{
	return is_on() && __atomic_load_n(&holdings, __ATOMIC_SEQ_CST);
}

void private_forked(void)
{
	for (struct holding *holding = holdings; holding; holding = holding->next)
		holding->is_inherited = true;
}

/* A failure leaves the rights as they are. */
static long protect(uint64_t start, uint64_t end, int protection)
{
	long error;

	__atomic_fetch_add(&protections, 1, __ATOMIC_SEQ_CST);
	error = sys_call(SYS_mprotect, start, end - start, (uint64_t)protection);

	process_mappings_changed();
	return error;
}

static bool link_holding(const struct holding *wanted)
{
	struct holding *holding = process_heap_alloc(sizeof(*holding));

	if (!holding)
		return false;
	*holding = *wanted;
	holding->next = holdings;
	__atomic_store_n(&holdings, holding, __ATOMIC_SEQ_CST);
	__atomic_store_n(&has_held, 1, __ATOMIC_SEQ_CST);
	return true;
}

static struct holding *find_overlap(uint64_t start, uint64_t end)
{
	struct holding *holding = holdings;

	while (holding && (holding->end <= start || end <= holding->start))
		holding = holding->next;
	return holding;
}

static void unlink_holding(struct holding *holding)
{
	struct holding **link = &holdings;

	while (*link != holding)
		link = &(*link)->next;
	__atomic_store_n(link, holding->next, __ATOMIC_SEQ_CST);
	process_heap_free(holding);
}

/*
 * The client has its rights to [start, end) of the holding back; what is left stays held. All of it
 * comes back where the kernel has no mapping more for a part.
 */
static void open_part_locked(struct holding *holding, uint64_t start, uint64_t end)
{
	struct holding tail;

	if (start < holding->start)
		start = holding->start;
	if (end > holding->end)
		end = holding->end;
	if (protect(start, end, holding->protection)) {
		start = holding->start;
		end = holding->end;
		(void)protect(start, end, holding->protection);
	}
	holding->opened++;
	tail = *holding;
	tail.gpa += end - tail.start;
	tail.start = end;
	/* Without memory to remember the tail by it comes back, too. */
	if (tail.start < tail.end && !link_holding(&tail))
		(void)protect(tail.start, tail.end, tail.protection);
	holding->end = start;
	if (holding->start == holding->end)
		unlink_holding(holding);
}

static void open_range_locked(uint64_t start, uint64_t end)
{
	struct holding *holding;

	while ((holding = find_overlap(start, end)))
		open_part_locked(holding, start, end);
}

/* Take the rights to the pages of @wanted that are mapped with some and held by no other. */
static void hold_locked(const struct holding *wanted)
{
	struct holding part = *wanted;
	uint64_t at = wanted->start;

	while (at < wanted->end) {
		struct process_mapping mapping;
		struct holding *other = find_overlap(at, at + PAGE_BYTES);

		if (other) {
			at = other->end;
			continue;
		}
		if (!process_mapping_find(at, &mapping) || mapping.prot == PROT_NONE ||
		    mapping.page_size_bytes != PAGE_BYTES) {
			at += PAGE_BYTES;
			continue;
		}
		part.start = at;
		part.end = mapping.end < wanted->end ? mapping.end : wanted->end;
		other = find_overlap(part.start, part.end);
		if (other)
			part.end = other->start;
		part.gpa = wanted->gpa + (at - wanted->start);
		part.protection = (int)mapping.prot;
		if (link_holding(&part) && protect(part.start, part.end, PROT_NONE))
			unlink_holding(holdings);
		at = part.end;
	}
}

/* The part of the slot that is private by @range. */
static void hold_slot_locked(const struct machine *machine, const struct sanitize_slot *slot,
			     const struct private_range *range)
{
	uint64_t start = range->start > slot->gpa ? range->start : slot->gpa;
	uint64_t slot_end = slot->gpa + slot->size_bytes;
	uint64_t end = range->end < slot_end ? range->end : slot_end;
	const struct holding wanted = {
	    .start = slot->hva + (start - slot->gpa),
	    .end = slot->hva + (end - slot->gpa),
	    .gpa = start,
	    .vm = machine->vm,
	    .slot = slot->id,
	    .stack = range->stack,
	};

	if (slot->has_private && start < end)
		hold_locked(&wanted);
}

void private_slot_comes_locked(struct machine *machine, const struct sanitize_slot *slot)
{
	for (struct private_range *range = machine->privates; range; range = range->next)
		hold_slot_locked(machine, slot, range);
}

static void open_all_locked(const void *vm, const uint32_t *slot)
{
	struct holding *next;

	for (struct holding *holding = holdings; holding; holding = next) {
		next = holding->next;
		if (holding->vm == vm && (!slot || holding->slot == *slot))
			open_part_locked(holding, holding->start, holding->end);
	}
}

void private_slot_goes_locked(struct machine *machine, uint32_t id)
{
	open_all_locked(machine->vm, &id);
}

void private_vm_ends_locked(struct machine *machine)
{
	open_all_locked(machine->vm, NULL);
	ranges_cut(&machine->privates, 0, UINT64_MAX);
}

void sanitize_private_begin(const void *vm, const struct sanitize_range *range)
{
	struct private_range wanted = {.start = range->start,
				       .end = range->start + range->size_bytes};
	const struct machine_slot *at;
	struct machine *machine;

	if (!is_on())
		return;
	sanitize_stack_take(&wanted.stack);
	machines_acquire();
	machine = machine_have_locked(vm);
	if (machine) {
		ranges_cut(&machine->privates, wanted.start, wanted.end);
		if (ranges_add(&machine->privates, &wanted))
			for (at = machine_slot_next_locked(machine, NULL); at;
			     at = machine_slot_next_locked(machine, at))
				hold_slot_locked(machine, &at->slot, &wanted);
	}
	machines_release();
}

static void open_guest_range_locked(const void *vm, uint64_t start, uint64_t end)
{
	struct holding *next;

	for (struct holding *holding = holdings; holding; holding = next) {
		uint64_t gpa = holding->gpa, gpa_end = gpa + (holding->end - holding->start);
		uint64_t from = start > gpa ? start : gpa, to = end < gpa_end ? end : gpa_end;

		next = holding->next;
		if (holding->vm == vm && from < to)
			open_part_locked(holding, holding->start + (from - gpa),
					 holding->start + (to - gpa));
	}
}

void sanitize_private_end(const void *vm, const struct sanitize_range *range)
{
	uint64_t end = range->start + range->size_bytes;
	struct machine *machine;

	if (!is_on())
		return;
	machines_acquire();
	open_guest_range_locked(vm, range->start, end);
	machine = machine_find_locked(vm);
	if (machine)
		ranges_cut(&machine->privates, range->start, end);
	machines_release();
}

void sanitize_private_leave(uint64_t start, uint64_t end)
{
	if (!are_any() || start >= end)
		return;
	machines_acquire();
	open_range_locked(start, end);
	machines_release();
}

/*
 * The holding at @address, and the rights of the pages around it come back: twice as many each
 * time, so that a copy of much memory is not as many signals. False: nothing is held there.
 */
static bool open_around(uint64_t address, struct holding *found)
{
	uint64_t bytes, start = address & ~(PAGE_BYTES - 1);
	struct holding *holding;

	machines_acquire();
	holding = find_overlap(start, start + PAGE_BYTES);
	if (holding) {
		*found = *holding;
		bytes = PAGE_BYTES
			<< (holding->opened < OPEN_SHIFT_MAX ? holding->opened : OPEN_SHIFT_MAX);
		open_part_locked(holding, start, start + bytes);
	}
	machines_release();
	return holding != NULL;
}

/* Of an access of the client's, by the instruction at @ip if it is not a call. */
static void report(const struct holding *found, uint64_t address, uint64_t ip, const char *what)
{
	uint64_t start = address & ~(PAGE_BYTES - 1);
	char mapped[SANITIZE_WORDS_BYTES];
	struct sanitize_stack used;
	const struct sanitize_finding finding = {
	    .kind = SANITIZE_PRIVATE,
	    .what = what,
	    .guest_start = found->gpa + (start - found->start),
	    .guest_end = found->gpa + (start - found->start) + PAGE_BYTES,
	    .host_start = start,
	    .host_end = start + PAGE_BYTES,
	    .slot = found->slot,
	    .mapped = mapped,
	    .changed = &found->stack,
	    .used = &used,
	};

	/* Of a child's memory no guest knows. */
	if (found->is_inherited)
		return;
	sanitize_describe(start, mapped);
	sanitize_stack_take(&used);
	if (!used.count && ip) {
		used.frames[0] = ip;
		used.count = used.place_frames = 1;
	}
	sanitize_report(&finding);
}

/* A thread's access that the processor refused. */
struct refused {
	uint64_t address, ip, error;
	bool is_held, may_retry;
};

/* May the access be made now? Another thread may have met the same page a moment ago. */
static bool is_open(const struct refused *refused)
{
	/* The processor reads whatever has any right. */
	int wanted = refused->error & FAULT_FETCH   ? PROT_EXEC
		     : refused->error & FAULT_WRITE ? PROT_WRITE
						    : PROT_READ | PROT_WRITE | PROT_EXEC;
	struct process_mapping mapping;
	struct maps_name name;

	return !maps_find(refused->address, &mapping, &name) && ((int)mapping.prot & wanted);
}

/*
 * Is memory held there, or may the access be made? Rights that change between the two looks are
 * looked at again.
 */
static bool is_explained(struct refused *refused, struct holding *found)
{
	uint32_t seen;

	do {
		seen = __atomic_load_n(&protections, __ATOMIC_SEQ_CST);
		refused->is_held = open_around(refused->address, found);
		if (refused->is_held || is_open(refused))
			return true;
	} while (seen != __atomic_load_n(&protections, __ATOMIC_SEQ_CST));
	return false;
}

static void run_refused(void *opaque)
{
	/* What the stack is taken by may fault. */
	uint64_t others = ~(UINT64_C(1) << (SIGSEGV - 1) | UINT64_C(1) << (SIGBUS - 1));
	struct refused *refused = opaque;
	struct holding found;
	uint64_t before = 0;

	/* A handler of the client's could meet the same, and wait for our lock. */
	sys_call(SYS_rt_sigprocmask, SIG_BLOCK, sys_address(&others), sys_address(&before),
		 KERNEL_SET_BYTES);
	refused->may_retry = is_explained(refused, &found);
	if (refused->is_held && !guard_is_access(refused->ip))
		report(&found, refused->address, refused->ip,
		       refused->error & FAULT_WRITE
			   ? "a write to memory that the guest holds private"
			   : "a read of memory that the guest holds private");
	sys_call(SYS_rt_sigprocmask, SIG_SETMASK, sys_address(&before), 0, KERNEL_SET_BYTES);
}

bool sanitize_private_fault(const siginfo_t *info, void *ucontext)
{
	const greg_t *registers = ((const ucontext_t *)ucontext)->uc_mcontext.gregs;
	struct refused refused = {
	    .address = (uintptr_t)info->si_addr,
	    .ip = (uint64_t)registers[REG_RIP],
	    .error = (uint64_t)registers[REG_ERR],
	};
	int saved_errno = errno;

	if (is_on() && info->si_signo == SIGBUS && info->si_code == BUS_ADRERR)
		in_place_fault(refused.address, ucontext);
	if (!is_on() || !__atomic_load_n(&has_held, __ATOMIC_SEQ_CST) ||
	    info->si_signo != SIGSEGV || info->si_code != SEGV_ACCERR)
		return false;
	/* A client's stack of signals may be small. */
	process_with_room(run_refused, &refused);
	errno = saved_errno;
	return refused.may_retry;
}

void sanitize_private_touch(uint64_t address, uint64_t size_bytes)
{
	uint64_t start = address & ~(PAGE_BYTES - 1), end = address + size_bytes;
	struct holding *holding, found;
	uint64_t first = 0;

	in_place_touch(address, size_bytes);
	if (!are_any() || !size_bytes || end < address || end > (uint64_t)LONG_MAX)
		return;
	end = (end + PAGE_BYTES - 1) & ~(PAGE_BYTES - 1);
	machines_acquire();
	while ((holding = find_overlap(start, end))) {
		if (!first) {
			found = *holding;
			first = address > holding->start ? address : holding->start;
		}
		open_part_locked(holding, start, end);
	}
	machines_release();
	if (first)
		report(&found, first, 0, "a system call on memory that the guest holds private");
}
