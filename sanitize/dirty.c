/* The detector "dirty": pages of a logged slot that no guest wrote, and that the copy leaves out.
 */
#include "sanitize/dirty.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "hosts/process/fork.h"
#include "hosts/process/guard.h"
#include "hosts/process/heap.h"
#include "hosts/process/lock.h"
#include "hosts/process/process.h"
#include "hosts/process/sys.h"

#define PAGE_SHIFT 12u
#define PAGE_BYTES (UINT64_C(1) << PAGE_SHIFT)
/* Different calls of one slot that write to it; index 0 is none that was seen. */
#define WRITERS 32u

/* What is known of a page. */
enum page_state {
	PAGE_UNKNOWN = 1u << 0,	    /* without a reference */
	PAGE_NAMED = 1u << 1,	    /* by KVM, and not handed out since */
	PAGE_NAMED_NOW = 1u << 2,   /* by the last harvest */
	PAGE_AWAITED = 1u << 3,	    /* by one before it that counts */
	PAGE_CHANGED_NOW = 1u << 4, /* by no guest, as the last harvest found */
	PAGE_CHANGED = 1u << 5,	    /* as one before it did that counts */
};

struct log {
	struct log *next;
	struct sanitize_log at;
	uint64_t *reference; /* a page's hash */
	uint8_t *state;	     /* enum page_state */
	uint8_t *writer;     /* the last system call that wrote the page, after the reference */
	uint64_t *changed;   /* scratch: a bit a page */
	uint64_t *logged;    /* likewise */
	bool is_copied;	     /* something was handed out after the last harvest */
	bool is_spoilt;	     /* a log of the same memory ended, and its copy was not complete */
	uint32_t writer_count;
	struct sanitize_stack writers[WRITERS];
	bool is_clear[WRITERS];	       /* the call took the page out of the log */
	struct sanitize_stack harvest; /* the last one */
	struct sanitize_stack found;   /* the first one that found what CHANGED */
};

/* Guards all of the logs and @page. Held while client memory is read: that may wait for the host.
 */
static struct process_lock log_lock;
static struct log *logs;
static int64_t logs_owner; /* the process that began them: a child of vfork() is none */
static uint64_t page[PAGE_BYTES / sizeof(uint64_t)];

/* The VMs are the parent's. */
static void fork_child(void)
{
	(void)process_lock_start_anew(&log_lock);
	logs = NULL;
}
FORK_CHILD(FORK_LOGS, log_lock, fork_child);

/* ---- Pages ---- */

enum page_content { CONTENT_UNREADABLE, CONTENT_ZERO, CONTENT_OTHER };

static uint64_t hash_words(const uint64_t *words)
{
	uint64_t lanes[4] = {1, 2, 3, 4};

	for (unsigned int i = 0; i < PAGE_BYTES / sizeof(*words); i += 4)
		for (unsigned int lane = 0; lane < 4; lane++) {
			lanes[lane] ^= words[i + lane];
			lanes[lane] *= UINT64_C(0x9e3779b97f4a7c15);
			lanes[lane] ^= lanes[lane] >> 29;
		}
	return lanes[0] + 3 * lanes[1] + 5 * lanes[2] + 7 * lanes[3];
}

static uint64_t hash_of_zeros(void)
{
	static uint64_t hash;

	if (!hash) {
		memset(page, 0, sizeof(page));
		hash = hash_words(page);
	}
	return hash;
}

/*
 * The hash of the page at @hva. One that is nowhere is not brought in: if it would not be waited
 * for it is zero.
 */
static enum page_content page_look(uint64_t hva, uint64_t *hash)
{
	uint8_t resident = 0;
	size_t done;

	if (sys_call(SYS_mincore, hva, PAGE_BYTES, sys_address(&resident)) ||
	    process_touch_may_sleep(hva, false))
		return CONTENT_UNREADABLE;
	*hash = hash_of_zeros();
	if (!(resident & 1))
		return CONTENT_ZERO;
	if (guard_copy(page, (const void *)(uintptr_t)hva, PAGE_BYTES, &done) != GUARD_OK)
		return CONTENT_UNREADABLE;
	*hash = hash_words(page);
	return *hash == hash_of_zeros() ? CONTENT_ZERO : CONTENT_OTHER;
}

static uint64_t hva_of(const struct log *log, uint64_t index)
{
	return log->at.hva + (index << PAGE_SHIFT);
}

/* The page is as it should be from here on: at the log's start, and when it is handed out. */
static void page_refer(struct log *log, uint64_t index)
{
	log->writer[index] = 0;
	log->state[index] = 0;
	if (page_look(hva_of(log, index), &log->reference[index]) == CONTENT_UNREADABLE)
		log->state[index] = PAGE_UNKNOWN;
}

static bool bit_is_set(const uint64_t *bits, uint64_t index)
{
	return bits[index / 64] >> index % 64 & 1;
}

static void bit_set(uint64_t *bits, uint64_t index)
{
	bits[index / 64] |= UINT64_C(1) << index % 64;
}

/* ---- Logs ---- */

static void log_free(struct log *log)
{
	if (!log)
		return;
	process_heap_free(log->reference);
	process_heap_free(log->state);
	process_heap_free(log->writer);
	process_heap_free(log->changed);
	process_heap_free(log->logged);
	process_heap_free(log);
}

static struct log *log_alloc(const struct sanitize_log *at)
{
	struct log *log = process_heap_alloc(sizeof(*log));
	uint64_t words = (at->npages + 63) / 64;

	if (!log)
		return NULL;
	log->at = *at;
	log->reference = process_heap_array(at->npages, sizeof(*log->reference));
	log->state = process_heap_array(at->npages, sizeof(*log->state));
	log->writer = process_heap_array(at->npages, sizeof(*log->writer));
	log->changed = process_heap_array(words, sizeof(*log->changed));
	log->logged = process_heap_array(words, sizeof(*log->logged));
	if (log->reference && log->state && log->writer && log->changed && log->logged)
		return log;
	log_free(log);
	return NULL;
}

static struct log **find_locked(const void *vm, uint32_t slot)
{
	struct log **link = &logs;

	while (*link && !((*link)->at.vm == vm && (*link)->at.slot == slot))
		link = &(*link)->next;
	return link;
}

/* The oldest stands first: of slots that show one memory it is the one that is told of. */
void sanitize_log_begin(const struct sanitize_log *at)
{
	struct log **link;

	if (!sanitize_is_on(SANITIZE_DIRTY))
		return;
	process_lock_acquire(&log_lock);
	link = find_locked(at->vm, at->slot);
	/* Another slot of that number, made while its client's threads raced. */
	if (*link && ((*link)->at.hva != at->hva || (*link)->at.npages != at->npages)) {
		struct log *old = *link;

		*link = old->next;
		log_free(old);
		link = find_locked(at->vm, at->slot);
	}
	if (*link) {
		(*link)->at.gpa = at->gpa;
	} else {
		*link = log_alloc(at);
		for (uint64_t i = 0; *link && i < at->npages; i++)
			page_refer(*link, i);
		logs_owner = sys_call(SYS_getpid, 0);
	}
	process_lock_release(&log_lock);
}

uint64_t sanitize_log_pages(const void *vm, uint32_t slot)
{
	const struct log *log;
	uint64_t npages;

	if (!sanitize_is_on(SANITIZE_DIRTY))
		return 0;
	process_lock_acquire(&log_lock);
	log = *find_locked(vm, slot);
	npages = log ? log->at.npages : 0;
	process_lock_release(&log_lock);
	return npages;
}

/* ---- Harvests ---- */

/* Another harvest, or the end: what the last one found counts if pages were copied since. */
static void settle(struct log *log)
{
	for (uint64_t i = 0; i < log->at.npages; i++) {
		uint8_t state = log->state[i];

		if (log->is_copied && (state & PAGE_NAMED_NOW))
			state |= PAGE_AWAITED;
		if (log->is_copied && (state & PAGE_CHANGED_NOW)) {
			if (!log->found.count)
				log->found = log->harvest;
			state |= PAGE_CHANGED;
		}
		log->state[i] = state & (uint8_t) ~(PAGE_NAMED_NOW | PAGE_CHANGED_NOW);
	}
	log->is_copied = false;
}

/* The next log after @from, or the first, of memory that @log has, too. */
static struct log *next_twin(const struct log *log, const struct log *from)
{
	struct log *other = from ? from->next : logs;
	uint64_t start = log->at.hva, end = hva_of(log, log->at.npages);

	while (other &&
	       (other == log || other->at.hva >= end || hva_of(other, other->at.npages) <= start))
		other = other->next;
	return other;
}

/* The index in @twin of a page of @log; at least twin->at.npages: it is not there. */
static uint64_t twin_index(const struct log *log, uint64_t index, const struct log *twin)
{
	uint64_t hva = hva_of(log, index);

	return hva < twin->at.hva ? UINT64_MAX : (hva - twin->at.hva) >> PAGE_SHIFT;
}

/* What KVM says of the page goes for all slots that show it. */
static void twins_named(const struct log *log, uint64_t index)
{
	for (struct log *twin = next_twin(log, NULL); twin; twin = next_twin(log, twin)) {
		uint64_t there = twin_index(log, index, twin);

		if (there >= twin->at.npages)
			continue;
		if (log->state[index]) {
			twin->state[there] &= (uint8_t)~PAGE_UNKNOWN;
			twin->state[there] |= PAGE_NAMED;
		} else {
			twin->reference[there] = log->reference[index];
			twin->state[there] = 0;
		}
	}
}

/* A page that KVM names must be copied. One that is zero may be so without a system call. */
static void page_named(struct log *log, uint64_t index)
{
	uint64_t hash;

	if (page_look(hva_of(log, index), &hash) == CONTENT_ZERO) {
		log->reference[index] = hash;
		log->state[index] = 0;
		return;
	}
	log->state[index] &= (uint8_t)~PAGE_UNKNOWN;
	log->state[index] |= PAGE_NAMED | PAGE_NAMED_NOW;
}

static bool page_has_changed(struct log *log, uint64_t index)
{
	uint64_t hash;

	if (log->state[index] & PAGE_NAMED)
		return false;
	if (log->state[index] & PAGE_UNKNOWN) {
		page_refer(log, index);
		return false;
	}
	return page_look(hva_of(log, index), &hash) != CONTENT_UNREADABLE &&
	       hash != log->reference[index];
}

static uint64_t words_of(const struct log *log)
{
	return (log->at.npages + 63) / 64;
}

static void ask_logged(struct log *log, const struct sanitize_harvest *harvest)
{
	memset(log->logged, 0, words_of(log) * sizeof(*log->logged));
	if (log->at.vm == harvest->vm)
		harvest->add_logged(&log->at, log->logged);
}

/* Has a guest written the page by another slot? */
static bool is_twins(const struct log *log, uint64_t index)
{
	for (struct log *twin = next_twin(log, NULL); twin; twin = next_twin(log, twin)) {
		uint64_t there = twin_index(log, index, twin);

		if (there < twin->at.npages &&
		    ((twin->state[there] & PAGE_NAMED) || bit_is_set(twin->logged, there)))
			return true;
	}
	return false;
}

/*
 * Of the changed pages those that no guest wrote. What a guest wrote meanwhile has its bit now: a
 * vCPU logs before it can write.
 */
static void note_changed(struct log *log, const struct sanitize_harvest *harvest)
{
	ask_logged(log, harvest);
	for (struct log *twin = next_twin(log, NULL); twin; twin = next_twin(log, twin))
		ask_logged(twin, harvest);
	for (uint64_t i = 0; i < log->at.npages; i++)
		if (bit_is_set(log->changed, i) && !bit_is_set(log->logged, i) && !is_twins(log, i))
			log->state[i] |= PAGE_CHANGED_NOW;
}

static void harvest_locked(struct log *log, const struct sanitize_harvest *harvest)
{
	bool some_changed = false;

	settle(log);
	sanitize_stack_take(&log->harvest);
	memset(log->changed, 0, words_of(log) * sizeof(*log->changed));
	for (uint64_t i = 0; i < log->at.npages; i++) {
		if (bit_is_set(harvest->named, i)) {
			page_named(log, i);
			twins_named(log, i);
		} else if (page_has_changed(log, i)) {
			bit_set(log->changed, i);
			some_changed = true;
		}
	}
	if (some_changed)
		note_changed(log, harvest);
}

void sanitize_log_harvest(const struct sanitize_harvest *harvest)
{
	struct log *log;

	if (!sanitize_is_on(SANITIZE_DIRTY))
		return;
	process_lock_acquire(&log_lock);
	log = *find_locked(harvest->vm, harvest->slot);
	/* Of another number of pages: the slot is another one meanwhile. */
	if (log && log->at.npages == harvest->npages)
		harvest_locked(log, harvest);
	process_lock_release(&log_lock);
}

/* ---- Transfers ---- */

/*
 * The pages of @log that [hva, hva + size) touches: [*first, *end). A range that does not end is
 * refused by the kernel.
 */
static bool pages_of(const struct log *log, uint64_t hva, uint64_t size_bytes, uint64_t *first,
		     uint64_t *end)
{
	uint64_t start = log->at.hva, bytes = log->at.npages << PAGE_SHIFT;
	uint64_t last;

	if (!size_bytes || hva + size_bytes < hva || hva >= start + bytes ||
	    hva + size_bytes <= start)
		return false;
	last = hva + size_bytes - 1 < start + bytes ? hva + size_bytes - 1 : start + bytes - 1;
	*first = hva <= start ? 0 : (hva - start) >> PAGE_SHIFT;
	*end = ((last - start) >> PAGE_SHIFT) + 1;
	return true;
}

/* Before the call reads: what is written meanwhile makes a difference, and is noted again. */
void sanitize_log_read(uint64_t hva, uint64_t size_bytes)
{
	process_lock_acquire(&log_lock);
	for (struct log *log = logs; log; log = log->next) {
		uint64_t first, end;

		if (!pages_of(log, hva, size_bytes, &first, &end))
			continue;
		log->is_copied = true;
		for (uint64_t i = first; i < end; i++)
			page_refer(log, i);
	}
	process_lock_release(&log_lock);
}

/* Which of the log's writers @stack is; 0: there are too many. */
static uint8_t writer_of(struct log *log, const struct sanitize_stack *stack)
{
	for (uint32_t i = 1; i <= log->writer_count; i++)
		if (log->writers[i].count == stack->count &&
		    !memcmp(log->writers[i].frames, stack->frames,
			    stack->count * sizeof(stack->frames[0])))
			return (uint8_t)i;
	if (log->writer_count + 1 == WRITERS)
		return 0;
	log->writers[++log->writer_count] = *stack;
	return (uint8_t)log->writer_count;
}

void sanitize_log_write(uint64_t hva, uint64_t size_bytes)
{
	struct sanitize_stack stack = {.count = 0};

	process_lock_acquire(&log_lock);
	for (struct log *log = logs; log; log = log->next) {
		uint64_t first, end;

		if (!pages_of(log, hva, size_bytes, &first, &end))
			continue;
		if (!stack.count)
			sanitize_stack_take(&stack);
		memset(log->writer + first, writer_of(log, &stack), end - first);
	}
	process_lock_release(&log_lock);
}

static void clear_locked(struct log *log, const struct sanitize_harvest *cleared)
{
	struct sanitize_stack stack;
	uint8_t writer;

	sanitize_stack_take(&stack);
	for (uint64_t i = 0; i < log->at.npages; i++) {
		if (!bit_is_set(cleared->named, i) || !page_has_changed(log, i))
			continue;
		log->writer[i] = writer = writer_of(log, &stack);
		log->is_clear[writer] = writer != 0;
	}
}

void sanitize_log_cleared(const struct sanitize_harvest *cleared)
{
	struct log *log;

	process_lock_acquire(&log_lock);
	log = *find_locked(cleared->vm, cleared->slot);
	if (log && log->at.npages == cleared->npages)
		clear_locked(log, cleared);
	process_lock_release(&log_lock);
}

/* ---- The end of a log ---- */

static bool is_zero(const struct log *log, uint64_t index)
{
	uint64_t hash;

	return page_look(hva_of(log, index), &hash) == CONTENT_ZERO;
}

static bool copy_is_complete(const struct log *log)
{
	for (uint64_t i = 0; i < log->at.npages; i++)
		if ((log->state[i] & PAGE_AWAITED) && !is_zero(log, i))
			return false;
	return true;
}

/* Pages that one writer wrote, and that are missing from the copy. */
struct missing {
	uint64_t first, last, count;
};

static void report(struct log *log, uint32_t writer, const struct missing *missing)
{
	char what[SANITIZE_WORDS_BYTES], mapped[SANITIZE_WORDS_BYTES];
	const char *ending = missing->count == 1 ? "" : "s";
	const char *them = missing->count == 1 ? "it" : "them";
	const struct sanitize_finding finding = {
	    .kind = SANITIZE_DIRTY,
	    .what = what,
	    .mapped = mapped,
	    .slot = log->at.slot,
	    .detail = log->at.slot + UINT64_C(1),
	    .guest_start = log->at.gpa + (missing->first << PAGE_SHIFT),
	    .guest_end = log->at.gpa + ((missing->last + 1) << PAGE_SHIFT),
	    .host_start = hva_of(log, missing->first),
	    .host_end = hva_of(log, missing->last + 1),
	    .changed = writer ? &log->writers[writer] : NULL,
	    .used = &log->found,
	};

	if (log->is_clear[writer])
		snprintf(what, sizeof(what),
			 "%" PRIu64 " page%s of a logged slot changed when the program had copied "
			 "%s, and KVM_CLEAR_DIRTY_LOG took %s from the log only then; what is "
			 "cleared before it is copied is named again",
			 missing->count, ending, them, them);
	else
		snprintf(what, sizeof(what),
			 "%" PRIu64 " page%s of a logged slot %s, and the program did not copy %s, "
			 "though it copied all that KVM's log named; what KVM's log does not name, "
			 "the program must note itself",
			 missing->count, ending,
			 writer ? "changed after the program had a system call write there"
				: "changed by what its log does not name",
			 them);
	snprintf(mapped, sizeof(mapped),
		 "the slot's %" PRIu64 " pages; %s; used is the harvest after", log->at.npages,
		 log->is_clear[writer] ? "changed by the clear at the latest"
		 : writer	       ? "changed is that call"
			  : "what wrote there was not seen: instructions of the program's, another "
			    "mapping or its file, io_uring, another process or another VM's guest");
	sanitize_report(&finding);
}

/* Is the page missing from the copy? Then it is said of this log, and no more of its twins. */
static bool take_missing(struct log *log, uint64_t index)
{
	if (!(log->state[index] & PAGE_CHANGED) || (log->state[index] & PAGE_NAMED) ||
	    is_zero(log, index))
		return false;
	for (struct log *twin = next_twin(log, NULL); twin; twin = next_twin(log, twin)) {
		uint64_t there = twin_index(log, index, twin);

		if (there < twin->at.npages)
			twin->state[there] &= (uint8_t) ~(PAGE_CHANGED | PAGE_CHANGED_NOW);
	}
	return true;
}

/* Of this memory, by all slots that show it, and those that did. */
static bool is_complete(struct log *log)
{
	bool answer = copy_is_complete(log);

	for (struct log *twin = next_twin(log, NULL); twin; twin = next_twin(log, twin)) {
		twin->is_spoilt |= !answer;
		answer &= copy_is_complete(twin);
	}
	return answer && !log->is_spoilt;
}

static void judge_locked(struct log *log, struct missing missing[WRITERS])
{
	settle(log);
	if (!is_complete(log))
		return;
	for (uint64_t i = 0; i < log->at.npages; i++) {
		struct missing *of = &missing[log->writer[i]];

		if (!take_missing(log, i))
			continue;
		if (!of->count++)
			of->first = i;
		of->last = i;
	}
}

/* The first log of @vm, or of all; of the slot, or of all: out of the list. NULL: there is none. */
static struct log *take_locked(const void *vm, const uint32_t *slot)
{
	struct log **link = &logs, *log;

	while (*link && ((vm && (*link)->at.vm != vm) || (slot && (*link)->at.slot != *slot)))
		link = &(*link)->next;
	log = *link;
	if (log)
		*link = log->next;
	return log;
}

/*
 * The report is made without the lock: it writes to the client's standard error output, and a
 * thread of the client's that reads it may wait for the lock in its read(2).
 */
static void end_some(const void *vm, const uint32_t *slot)
{
	struct log *log;

	if (!sanitize_is_on(SANITIZE_DIRTY))
		return;
	do {
		struct missing missing[WRITERS] = {{0}};

		process_lock_acquire(&log_lock);
		log = take_locked(vm, slot);
		if (log)
			judge_locked(log, missing);
		process_lock_release(&log_lock);
		for (uint32_t writer = 0; writer < WRITERS; writer++)
			if (missing[writer].count)
				report(log, writer, &missing[writer]);
		log_free(log);
	} while (log);
}

void sanitize_log_end(const void *vm, uint32_t slot)
{
	end_some(vm, &slot);
}

void sanitize_log_end_vm(const void *vm)
{
	end_some(vm, NULL);
}

void sanitize_log_end_all(void)
{
	if (logs_owner == sys_call(SYS_getpid, 0))
		end_some(NULL, NULL);
}
