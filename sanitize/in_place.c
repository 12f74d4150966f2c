/* Accesses to private pages of files that convert in place. */
#include "sanitize/in_place.h"

#include <signal.h>
#include <stddef.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "hosts/process/guard.h"
#include "hosts/process/heap.h"
#include "hosts/process/map.h"
#include "hosts/process/maps.h"
#include "hosts/process/room.h"
#include "hosts/process/sys.h"
#include "sanitize/ranges.h"

#define PAGE_BYTES UINT64_C(4096)
#define KERNEL_SET_BYTES 8
/* No system call moves more. */
#define CALL_BYTES_MAX UINT64_C(0x7ffff000)
/* The page fault's error code. */
#define FAULT_WRITE 2u

/*
 * Which pages are private, for children too: their parent's list does not follow in them. Written
 * after each change that the kernel's mappings tell, in the maker alone.
 */
struct page_map {
	uint64_t changes;	/* [A] */
	uint64_t is_private[1]; /* [A] a bit a page */
};

struct known_file {
	struct sanitize_file file;
	struct private_range *privates;
	struct page_map *pages; /* memory that children share; NULL: there was none */
	uint64_t changes;	/* of .pages that .privates has */
	bool is_inherited;	/* in a child: .privates stays as it was at the fork */
	struct known_file *next;
};

/* Guarded by machines_acquire(). Atomic for the look whether there are any. */
static struct known_file *files;

void in_place_forked(void)
{
	for (struct known_file *known = files; known; known = known->next)
		known->is_inherited = true;
}

static uint64_t pages_bytes(const struct sanitize_file *file)
{
	uint64_t words = (file->size_bytes / PAGE_BYTES + 63) / 64;

	return (offsetof(struct page_map, is_private) + words * sizeof(uint64_t) + PAGE_BYTES - 1) &
	       ~(PAGE_BYTES - 1);
}

static struct page_map *pages_make(const struct sanitize_file *file)
{
	long memory = process_map(pages_bytes(file), PROT_READ | PROT_WRITE,
				  MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1);

	return sys_failed(memory) ? NULL : (struct page_map *)memory;
}

static void pages_set(struct known_file *known, const struct sanitize_range *range, bool is_private)
{
	struct page_map *pages = known->pages;
	uint64_t page = range->start / PAGE_BYTES;
	uint64_t end = (range->start + range->size_bytes) / PAGE_BYTES;

	if (!pages)
		return;
	while (page < end) {
		uint64_t *word = &pages->is_private[page / 64], bits = UINT64_MAX << page % 64;

		if (end / 64 == page / 64)
			bits &= (UINT64_C(1) << end % 64) - 1;
		if (is_private)
			__atomic_fetch_or(word, bits, __ATOMIC_SEQ_CST);
		else
			__atomic_fetch_and(word, ~bits, __ATOMIC_SEQ_CST);
		page = (page / 64 + 1) * 64;
	}
	known->changes = __atomic_add_fetch(&pages->changes, 1, __ATOMIC_SEQ_CST);
}

static bool pages_have(const struct known_file *known, uint64_t offset)
{
	uint64_t page = offset / PAGE_BYTES;

	return known->pages && offset < known->file.size_bytes &&
	       (__atomic_load_n(&known->pages->is_private[page / 64], __ATOMIC_SEQ_CST) >>
		    page % 64 &
		1);
}

/* The file is gone: children find that nothing of it is private. */
static void pages_forget(struct known_file *known)
{
	uint64_t start = sys_address(known->pages), bytes = pages_bytes(&known->file);

	if (!known->pages)
		return;
	if (!known->is_inherited)
		sys_call(SYS_madvise, start, bytes, MADV_REMOVE);
	sys_call(SYS_munmap, start, bytes);
}

static struct known_file *find_locked(uint64_t device, uint64_t inode)
{
	struct known_file *known = files;

	while (known && (known->file.device != device || known->file.inode != inode))
		known = known->next;
	return known;
}

static struct known_file *have_locked(const struct sanitize_file *file)
{
	struct known_file *known = find_locked(file->device, file->inode);

	if (known)
		return known;
	known = process_heap_alloc(sizeof(*known));
	if (!known)
		return NULL;
	known->file = *file;
	known->pages = pages_make(file);
	known->next = files;
	__atomic_store_n(&files, known, __ATOMIC_SEQ_CST);
	return known;
}

void sanitize_in_place(const struct sanitize_file *file, const struct sanitize_range *range,
		       bool is_private)
{
	struct private_range wanted = {.start = range->start,
				       .end = range->start + range->size_bytes};
	struct known_file *known;

	if (!sanitize_is_on(SANITIZE_PRIVATE))
		return;
	sanitize_stack_take(&wanted.stack);
	machines_acquire();
	known = have_locked(file);
	if (known) {
		ranges_cut(&known->privates, wanted.start, wanted.end);
		if (is_private)
			(void)ranges_add(&known->privates, &wanted);
		pages_set(known, range, is_private);
	}
	machines_release();
}

void sanitize_in_place_forget(const struct sanitize_file *file)
{
	struct known_file **link = &files, *known;

	if (!sanitize_is_on(SANITIZE_PRIVATE))
		return;
	machines_acquire();
	known = find_locked(file->device, file->inode);
	if (known) {
		while (*link != known)
			link = &(*link)->next;
		__atomic_store_n(link, known->next, __ATOMIC_SEQ_CST);
		pages_forget(known);
		ranges_cut(&known->privates, 0, UINT64_MAX);
		process_heap_free(known);
	}
	machines_release();
}

/* A private page that the client touches. */
struct found {
	uint64_t address; /* the first that is touched */
	bool has_change;  /* or it is not known which change made the page private */
	struct sanitize_stack changed;
};

/* Is a page of [@start, @end) private, of those that the mapping has away? The first, then. */
static bool find_page_locked(const struct maps_file *mapping, uint64_t start, uint64_t end,
			     struct found *found)
{
	const struct known_file *known = find_locked(mapping->device, mapping->inode);
	const struct private_range *range;
	uint64_t first, offset;

	if (!known || mapping->offset < known->file.away_bytes)
		return false;
	first = mapping->offset - known->file.away_bytes;
	if (start < mapping->start)
		start = mapping->start;
	if (end > mapping->end)
		end = mapping->end;
	while (start < end && !pages_have(known, first + (start - mapping->start)))
		start = (start & ~(PAGE_BYTES - 1)) + PAGE_BYTES;
	if (start >= end)
		return false;
	offset = first + (start - mapping->start);
	for (range = known->privates; range; range = range->next)
		if (offset >= range->start && offset < range->end)
			break;
	found->address = start;
	found->has_change =
	    range && known->changes == __atomic_load_n(&known->pages->changes, __ATOMIC_SEQ_CST);
	if (found->has_change)
		found->changed = range->stack;
	return true;
}

/* The same of all mappings there. */
static bool find_page(uint64_t start, uint64_t end, struct found *found)
{
	struct maps_file mapping;
	bool is_found = false;

	for (uint64_t at = start; !is_found && at < end; at = mapping.end) {
		if (maps_next_file(at, &mapping) || mapping.start >= end)
			return false;
		machines_acquire();
		is_found = find_page_locked(&mapping, start, end, found);
		machines_release();
	}
	return is_found;
}

/* Of an access by the instruction at @ip, or of a system call. */
static void report(const struct found *found, const char *what, uint64_t ip)
{
	uint64_t start = found->address & ~(PAGE_BYTES - 1);
	char mapped[SANITIZE_WORDS_BYTES];
	struct sanitize_stack used;
	const struct sanitize_finding finding = {
	    .kind = SANITIZE_PRIVATE,
	    .what = what,
	    .host_start = start,
	    .host_end = start + PAGE_BYTES,
	    .slot = SANITIZE_NO_SLOT,
	    .mapped = mapped,
	    .changed = found->has_change ? &found->changed : NULL,
	    .used = &used,
	};

	sanitize_describe(start, mapped);
	sanitize_stack_take(&used);
	if (!used.count && ip) {
		used.frames[0] = ip;
		used.count = used.place_frames = 1;
	}
	sanitize_report(&finding);
}

struct touch {
	uint64_t address, ip, error;
};

static void run_touch(void *opaque)
{
	/* What the stack is taken by may fault. */
	uint64_t others = ~(UINT64_C(1) << (SIGSEGV - 1) | UINT64_C(1) << (SIGBUS - 1));
	const struct touch *touch = opaque;
	struct found found;
	uint64_t before = 0;

	/* A handler of the client's could meet the same, and wait for our lock. */
	sys_call(SYS_rt_sigprocmask, SIG_BLOCK, sys_address(&others), sys_address(&before),
		 KERNEL_SET_BYTES);
	if (!guard_is_access(touch->ip) && find_page(touch->address, touch->address + 1, &found))
		report(&found,
		       touch->error & FAULT_WRITE
			   ? "a write to memory that the guest holds private in place"
			   : "a read of memory that the guest holds private in place",
		       touch->ip);
	sys_call(SYS_rt_sigprocmask, SIG_SETMASK, sys_address(&before), 0, KERNEL_SET_BYTES);
}

void in_place_fault(uint64_t address, const void *ucontext)
{
	const greg_t *registers = ((const ucontext_t *)ucontext)->uc_mcontext.gregs;
	struct touch touch = {
	    .address = address,
	    .ip = (uint64_t)registers[REG_RIP],
	    .error = (uint64_t)registers[REG_ERR],
	};

	/* A client's stack of signals may be small. */
	if (__atomic_load_n(&files, __ATOMIC_SEQ_CST))
		process_with_room(run_touch, &touch);
}

void in_place_touch(uint64_t address, uint64_t size_bytes)
{
	uint64_t end = address + (size_bytes < CALL_BYTES_MAX ? size_bytes : CALL_BYTES_MAX);
	struct found found;

	if (__atomic_load_n(&files, __ATOMIC_SEQ_CST) && end > address &&
	    find_page(address, end, &found))
		report(&found, "a system call on memory that the guest holds private in place", 0);
}
