/* Accesses to private pages of files that convert in place. */
#include "sanitize/in_place.h"

#include <signal.h>
#include <stddef.h>
#include <ucontext.h>

#include "hosts/process/guard.h"
#include "hosts/process/heap.h"
#include "hosts/process/maps.h"
#include "hosts/process/room.h"
#include "hosts/process/sys.h"
#include "sanitize/ranges.h"

#define PAGE_BYTES UINT64_C(4096)
#define KERNEL_SET_BYTES 8
/* The page fault's error code. */
#define FAULT_WRITE 2u

struct known_file {
	struct sanitize_file file;
	struct private_range *privates;
	struct known_file *next;
};

/* Guarded by machines_acquire(). Atomic for the look whether there are any. */
static struct known_file *files;

/* The parent's conversions change a child's mappings, and its list would not follow. */
void in_place_forked(void)
{
	__atomic_store_n(&files, NULL, __ATOMIC_SEQ_CST);
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
		ranges_cut(&known->privates, 0, UINT64_MAX);
		process_heap_free(known);
	}
	machines_release();
}

struct touch {
	uint64_t address, ip, error;
};

/* Is the page private and away? Then @stack is that of the change. */
static bool find_change(uint64_t address, struct sanitize_stack *stack)
{
	const struct private_range *range = NULL;
	const struct known_file *known;
	struct maps_file mapping;
	uint64_t offset;

	if (maps_next_file(address, &mapping) || mapping.start > address)
		return false;
	machines_acquire();
	known = find_locked(mapping.device, mapping.inode);
	if (known && mapping.offset >= known->file.away_bytes) {
		offset = mapping.offset - known->file.away_bytes + (address - mapping.start);
		for (range = known->privates; range; range = range->next)
			if (offset >= range->start && offset < range->end)
				break;
	}
	if (range)
		*stack = range->stack;
	machines_release();
	return range != NULL;
}

static void report(const struct touch *touch)
{
	uint64_t start = touch->address & ~(PAGE_BYTES - 1);
	struct sanitize_stack changed, used;
	char mapped[SANITIZE_WORDS_BYTES];
	const struct sanitize_finding finding = {
	    .kind = SANITIZE_PRIVATE,
	    .what = touch->error & FAULT_WRITE
			? "a write to memory that the guest holds private in place"
			: "a read of memory that the guest holds private in place",
	    .host_start = start,
	    .host_end = start + PAGE_BYTES,
	    .slot = SANITIZE_NO_SLOT,
	    .mapped = mapped,
	    .changed = &changed,
	    .used = &used,
	};

	if (!find_change(touch->address, &changed))
		return;
	sanitize_describe(start, mapped);
	sanitize_stack_take(&used);
	if (!used.count) {
		used.frames[0] = touch->ip;
		used.count = used.place_frames = 1;
	}
	sanitize_report(&finding);
}

static void run_touch(void *opaque)
{
	/* What the stack is taken by may fault. */
	uint64_t others = ~(UINT64_C(1) << (SIGSEGV - 1) | UINT64_C(1) << (SIGBUS - 1));
	const struct touch *touch = opaque;
	uint64_t before = 0;

	/* A handler of the client's could meet the same, and wait for our lock. */
	sys_call(SYS_rt_sigprocmask, SIG_BLOCK, sys_address(&others), sys_address(&before),
		 KERNEL_SET_BYTES);
	if (!guard_is_access(touch->ip))
		report(touch);
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
