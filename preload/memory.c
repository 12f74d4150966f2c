/*
 * Calls that change the client's address space. The call is made with nothing held; vCPUs forget
 * the range before it returns to the client (frontend/object/mm_events.h).
 */
#include "preload/memory.h"

#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <unistd.h>

#include "boundary/copied.h"
#include "boundary/userfault.h"
#include "frontend/file/file.h"
#include "frontend/file/user_copy.h"
#include "frontend/object/mm_events.h"
#include "frontend/object/replacing.h"
#include "hosts/process/maps.h"
#include "hosts/process/process.h"
#include "hosts/process/room.h"
#include "hosts/process/watched.h"
#include "preload/real.h"
#include "sanitize/slot.h"

#define PAGE_BYTES 4096ul
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif
#ifndef MADV_GUARD_REMOVE
#define MADV_GUARD_REMOVE 103
#endif
/* A range of addresses; empty when the call could not mean any. */
struct range {
	uintptr_t start, end;
};

/*
 * One call of the client's that may change what @range means, and so end files' last references:
 * from change_begin(), before the host makes it, to change_end().
 */
struct change {
	struct range range;
	struct file_ending ending;
};

static struct range range_of(const void *address, size_t length_bytes)
{
	uintptr_t start = (uintptr_t)address & ~(PAGE_BYTES - 1);
	uintptr_t end;

	if (__builtin_add_overflow((uintptr_t)address, length_bytes, &end) ||
	    __builtin_add_overflow(end, PAGE_BYTES - 1, &end))
		return (struct range){0, 0};
	return (struct range){start, end & ~(PAGE_BYTES - 1)};
}

static void *pointer_to(uintptr_t address)
{
	return (void *)address;
}

static bool is_empty(struct range range)
{
	return range.start >= range.end;
}

/* Call inside the client call. */
static struct change change_begin(struct range range)
{
	return (struct change){range, file_ending()};
}

static void run_changed(void *opaque)
{
	const struct change *change = opaque;

	mm_changed(change->range.start, change->range.end);
	file_unmapped(change->range.start, change->range.end, &change->ending);
}

/* After the host's call, done or failed; an empty range has changed nothing. errno is kept. */
static void change_end(struct change *change)
{
	int error = errno;

	if (!is_empty(change->range))
		process_with_room(run_changed, change);
	errno = error;
}

struct settling {
	struct range range;
	int error;
};

static void run_settle(void *opaque)
{
	struct settling *settling = opaque;

	settling->error = file_settle(settling->range.start, settling->range.end);
}

/* A mapping has grown into @range: 0 or -errno. errno is kept. */
static int settle(struct range range)
{
	struct settling settling = {.range = range};
	int error = errno;

	process_with_room(run_settle, &settling);
	errno = error;
	return settling.error;
}

/* What slots lose by the call that follows. */
static struct sanitize_loss *look(struct range range)
{
	sanitize_before_change(range.start, range.end);
	return sanitize_slot_look(range.start, range.end);
}

/* The flags that the kernel knows where a mapping asks it to say no to the others. */
#define KNOWN_FLAGS                                                                             \
	(MAP_TYPE | MAP_FIXED | MAP_FIXED_NOREPLACE | MAP_DENYWRITE | MAP_EXECUTABLE |          \
	 MAP_GROWSDOWN | MAP_LOCKED | MAP_NORESERVE | MAP_POPULATE | MAP_NONBLOCK | MAP_STACK | \
	 MAP_32BIT)

/* What the kernel checks before it asks a file of KVM's: 0 or -errno. */
static int check_request(const struct file *file, const struct file_map_request *request)
{
	enum file_kind kind = file_ops_of(file)->kind;
	int type = request->flags & MAP_TYPE;

	if ((request->offset_bytes & (off_t)(PAGE_BYTES - 1)) || (request->flags & MAP_HUGETLB) ||
	    !request->length_bytes)
		return -EINVAL;
	if (type == MAP_SHARED_VALIDATE && (request->flags & ~KNOWN_FLAGS))
		return -EOPNOTSUPP;
	if (type != MAP_SHARED && type != MAP_SHARED_VALIDATE && type != MAP_PRIVATE)
		return -EINVAL;
	if (kind == FILE_STATS && type != MAP_PRIVATE && (request->prot & PROT_WRITE))
		return -EACCES;
	/* Nothing is executed from the file systems of anonymous files. */
	return kind != FILE_KVM && (request->prot & PROT_EXEC) ? -EPERM : 0;
}

/* Ask @file how it may be mapped: the offset to map at, or -errno. */
static off_t file_offset_for(struct file *file, const struct file_map_request *request)
{
	const struct file_ops *ops = file_ops_of(file);
	int answer = check_request(file, request);

	if (!answer)
		answer = ops->map ? ops->map(file, request) : -ENODEV;
	if (answer < 0)
		return answer;
	if (request->flags & MAP_GROWSDOWN)
		return -EINVAL;
	if (answer == 0 || request->offset_bytes >= (off_t)FILE_SIGBUS_OFFSET)
		return request->offset_bytes;
	return request->offset_bytes + (off_t)FILE_SIGBUS_OFFSET;
}

/* Everything of mmap(2) but the address. */
struct map_call {
	void *address;
	struct file_map_request request;
	int fd;
	void *mapped; /* the result */
};

/*
 * The part of the new mapping at @mapped that the file does not have: mapped from beyond its end,
 * where the kernel raises SIGBUS. -errno when that fails.
 */
static int map_hole(struct file *file, const struct map_call *call, void *mapped)
{
	const struct file_map_request *request = &call->request;
	uint64_t first = (uint64_t)request->offset_bytes, start, end;
	uint64_t last = first + request->length_bytes;
	int flags = (request->flags & ~(MAP_FIXED_NOREPLACE | MAP_POPULATE)) | MAP_FIXED;

	if (!file_ops_of(file)->hole)
		return 0;
	file_ops_of(file)->hole(file, &start, &end);
	start = start > first ? start : first;
	end = end < last ? end : last;
	if (start >= end)
		return 0;
	if (REAL(mmap)((char *)mapped + (start - first), end - start, request->prot, flags,
		       call->fd, (off_t)(file_size_bytes(file) + start)) == MAP_FAILED)
		return -errno;
	return 0;
}

static void *map_inside(const struct map_call *call)
{
	const struct file_map_request *request = &call->request;
	struct range replaced = {0, 0};
	struct sanitize_loss *loss;
	struct change change;
	struct replacing replacing;
	struct file *file = NULL;
	off_t offset = request->offset_bytes;
	void *mapped = MAP_FAILED;
	int fd = call->fd;

	if (call->fd >= 0 && !(request->flags & MAP_ANONYMOUS))
		file = file_get(call->fd);
	if (file)
		offset = file_offset_for(file, request);
	if (file && offset >= 0)
		fd = file_map_fd(file, fd);
	if (file && (offset < 0 || fd < 0)) {
		errno = offset < 0 ? (int)-offset : -fd;
		goto put_file;
	}
	if ((request->flags & MAP_FIXED) && !(request->flags & MAP_FIXED_NOREPLACE))
		replaced = range_of(call->address, request->length_bytes);
	change = change_begin(replaced);
	loss = look(replaced);
	replacing_begin(&replacing, replaced.start, replaced.end);
	mapped = REAL(mmap)(call->address, request->length_bytes, request->prot, request->flags, fd,
			    offset);
	replacing_end(&replacing);
	if (mapped == MAP_FAILED)
		sanitize_slot_settle(loss, SANITIZE_KEPT);
	else
		sanitize_slot_settle(loss, request->prot == PROT_NONE ? SANITIZE_RESERVED
								      : SANITIZE_REPLACED);
	change_end(&change);
	if (is_empty(replaced))
		process_mappings_changed();
	if (file && mapped != MAP_FAILED) {
		struct range range = range_of(mapped, request->length_bytes);

		file_mapped(range.start, range.end);
		offset = map_hole(file, call, mapped);
		if (!offset && file_ops_of(file)->settle)
			offset = file_ops_of(file)->settle(file, range.start, range.end);
		if (offset < 0) {
			replacing_begin(&replacing, range.start, range.end);
			REAL(munmap)(mapped, request->length_bytes);
			replacing_end(&replacing);
			mapped = MAP_FAILED;
			errno = (int)-offset;
		}
	}
put_file:
	if (file)
		file_put(file);
	return mapped;
}

static void run_map(void *opaque)
{
	struct map_call *call = opaque;

	call->mapped = map_inside(call);
}

INTERPOSED void *mmap(void *address, size_t length_bytes, int prot, int flags, int fd, off_t offset)
{
	struct map_call call = {
	    .address = address,
	    .request = {length_bytes, prot, flags, offset},
	    .fd = fd,
	};

	if (client_call_active() || !file_any())
		return REAL(mmap)(address, length_bytes, prot, flags, fd, offset);
	client_call_begin();
	process_with_room(run_map, &call);
	client_call_end();
	return call.mapped;
}
INTERPOSED_ALIAS("mmap")
void *mmap64(void *address, size_t length_bytes, int prot, int flags, int fd, off_t offset);

INTERPOSED int munmap(void *address, size_t length_bytes)
{
	struct range range = range_of(address, length_bytes);
	struct sanitize_loss *loss;
	struct change change;
	struct replacing replacing;
	int result;

	if (client_call_active() || !file_any())
		return REAL(munmap)(address, length_bytes);
	client_call_begin();
	change = change_begin(range);
	loss = look(range);
	replacing_begin(&replacing, range.start, range.end);
	result = REAL(munmap)(address, length_bytes);
	replacing_end(&replacing);
	sanitize_slot_settle(loss, result ? SANITIZE_KEPT : SANITIZE_UNMAPPED);
	change_end(&change);
	client_call_end();
	return result;
}

/*
 * A mapping was moved from @from, or not, and has grown to @to, where it cannot show what it
 * should: the new part goes, and the mapping goes back. False: it cannot, for another thread has
 * taken the place, or no mapping is left for the way.
 */
static bool shrink_back(struct range from, struct range to, size_t kept_bytes)
{
	const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE;
	void *old = pointer_to(from.start), *now = pointer_to(to.start);

	REAL(munmap)(pointer_to(to.start + kept_bytes), to.end - to.start - kept_bytes);
	if (now == old || !kept_bytes)
		return true;
	if (REAL(mmap)(old, kept_bytes, PROT_NONE, flags, -1, 0) != old)
		return false;
	if (REAL(mremap)(now, kept_bytes, kept_bytes, MREMAP_MAYMOVE | MREMAP_FIXED, old) == old)
		return true;
	REAL(munmap)(old, kept_bytes);
	return false;
}

/* What mremap() takes away at its old place: a tail that is cut off there, or all of it. */
static struct range left_by_mremap(const void *old, size_t old_bytes, size_t new_bytes, int flags)
{
	if (!(flags & (MREMAP_FIXED | MREMAP_DONTUNMAP)) && new_bytes <= old_bytes)
		return range_of((const char *)old + new_bytes, old_bytes - new_bytes);
	return range_of(old, old_bytes);
}

static enum sanitize_loss_how how_left(const void *old, const void *result, int flags)
{
	if (result == MAP_FAILED)
		return SANITIZE_KEPT;
	if (flags & MREMAP_DONTUNMAP)
		return SANITIZE_EMPTIED;
	return result == old ? SANITIZE_UNMAPPED : SANITIZE_MOVED;
}

INTERPOSED void *mremap(void *old, size_t old_bytes, size_t new_bytes, int flags, ...)
{
	struct range from = range_of(old, old_bytes > new_bytes ? old_bytes : new_bytes);
	struct sanitize_loss *left, *replaced;
	struct replacing leaving, replacing;
	struct change to_change, from_change;
	struct range to = {0, 0};
	void *target = NULL, *result;
	va_list arguments;

	if (flags & MREMAP_FIXED) {
		va_start(arguments, flags);
		target = va_arg(arguments, void *);
		va_end(arguments);
		to = range_of(target, new_bytes);
	}
	if (client_call_active() || !file_any())
		return REAL(mremap)(old, old_bytes, new_bytes, flags, target);
	client_call_begin();
	to_change = change_begin(to);
	from_change = change_begin(from);
	sanitize_before_change(from.start, from.end);
	left = look(left_by_mremap(old, old_bytes, new_bytes, flags));
	replaced = look(to);
	replacing_begin(&leaving, from.start, from.end);
	replacing_begin(&replacing, to.start, to.end);
	result = REAL(mremap)(old, old_bytes, new_bytes, flags, target);
	replacing_end(&replacing);
	replacing_end(&leaving);
	sanitize_slot_settle(left, how_left(old, result, flags));
	sanitize_slot_settle(replaced, result == MAP_FAILED ? SANITIZE_KEPT : SANITIZE_REPLACED);
	if (result != MAP_FAILED && file_may_be_mapped(from.start, from.end)) {
		struct range moved = range_of(result, new_bytes);
		struct range known = range_of(result, old_bytes);

		int error = 0;

		file_mapped(moved.start, moved.end);
		if (moved.end > known.end)
			error = settle((struct range){known.end, moved.end});
		replacing_begin(&leaving, from.start, from.end);
		replacing_begin(&replacing, moved.start, moved.end);
		if (error && shrink_back(from, moved, known.end - known.start)) {
			result = MAP_FAILED;
			errno = -error;
		}
		replacing_end(&replacing);
		replacing_end(&leaving);
	}
	change_end(&to_change);
	change_end(&from_change);
	client_call_end();
	return result;
}

/* It shows another part of the file at once, private pages too: those go before the call returns.
 */
INTERPOSED int remap_file_pages(void *address, size_t length_bytes, int prot, size_t page,
				int flags)
{
	struct range range = range_of(address, length_bytes);
	struct sanitize_loss *loss;
	struct change change;
	struct replacing replacing;
	int result, error = 0;

	if (client_call_active() || !file_any())
		return REAL(remap_file_pages)(address, length_bytes, prot, page, flags);
	client_call_begin();
	change = change_begin(range);
	loss = look(range);
	replacing_begin(&replacing, range.start, range.end);
	result = REAL(remap_file_pages)(address, length_bytes, prot, page, flags);
	replacing_end(&replacing);
	sanitize_slot_settle(loss, result ? SANITIZE_KEPT : SANITIZE_REPLACED);
	if (!result && file_may_be_mapped(range.start, range.end))
		error = settle(range);
	if (error) {
		replacing_begin(&replacing, range.start, range.end);
		REAL(munmap)(address, length_bytes);
		replacing_end(&replacing);
		result = (int)real_result(error);
	}
	change_end(&change);
	client_call_end();
	return result;
}

INTERPOSED int mprotect(void *address, size_t length_bytes, int prot)
{
	struct range range = range_of(address, length_bytes);
	struct change change;
	int result;

	if (client_call_active() || !file_any())
		return REAL(mprotect)(address, length_bytes, prot);
	client_call_begin();
	change = change_begin(range);
	sanitize_before_change(range.start, range.end);
	result = REAL(mprotect)(address, length_bytes, prot);
	change_end(&change);
	client_call_end();
	return result;
}

INTERPOSED int pkey_mprotect(void *address, size_t length_bytes, int prot, int key)
{
	struct range range = range_of(address, length_bytes);
	struct change change;
	int result;

	if (client_call_active() || !file_any())
		return REAL(pkey_mprotect)(address, length_bytes, prot, key);
	client_call_begin();
	change = change_begin(range);
	sanitize_before_change(range.start, range.end);
	result = REAL(pkey_mprotect)(address, length_bytes, prot, key);
	change_end(&change);
	client_call_end();
	return result;
}

/* Is @address in a client's mapping of a guest_memfd? Reads the kernel's list: for rare calls. */
static bool is_guest_memfd(const void *address)
{
	struct process_mapping mapping;
	struct maps_name name;

	return !maps_find((uintptr_t)address, &mapping, &name) &&
	       strstr(name.text, "/memfd:[kvm-gmem]");
}

struct advice_call {
	void *address;
	size_t length_bytes;
	int advice;
	int result;
};

static int advise_inside(const struct advice_call *call)
{
	struct range range = range_of(call->address, call->length_bytes);
	struct range guarded = {0, 0};
	struct change change;
	int advice = call->advice, result;

	if ((advice == MADV_HUGEPAGE || advice == MADV_COLLAPSE) &&
	    file_may_be_mapped(range.start, range.end) && is_guest_memfd(call->address))
		return advice == MADV_HUGEPAGE ? 0 : (int)real_result(-EINVAL);
	/* A balloon's advice on private memory is no use of it. */
	if (advice != MADV_DONTNEED && advice != MADV_REMOVE && advice != MADV_FREE)
		sanitize_before_change(range.start, range.end);
	/* Other advice changes at most what an address holds, which follows it by itself. */
	if (advice == MADV_GUARD_INSTALL || advice == MADV_GUARD_REMOVE)
		guarded = range;
	change = change_begin(guarded);
	result = REAL(madvise)(call->address, call->length_bytes, advice);
	change_end(&change);
	if (is_empty(guarded))
		process_mappings_changed();
	return result;
}

static void run_advise(void *opaque)
{
	struct advice_call *call = opaque;

	call->result = advise_inside(call);
}

INTERPOSED int madvise(void *address, size_t length_bytes, int advice)
{
	struct advice_call call = {address, length_bytes, advice, 0};

	if (client_call_active() || !file_any())
		return REAL(madvise)(address, length_bytes, advice);
	client_call_begin();
	process_with_room(run_advise, &call);
	client_call_end();
	return call.result;
}

INTERPOSED int brk(void *end)
{
	struct sanitize_loss *loss;
	struct change change;
	struct range range;
	char *now;
	int result;

	if (client_call_active() || !file_any())
		return REAL(brk)(end);
	client_call_begin();
	now = REAL(sbrk)(0);
	range =
	    (char *)end < now ? range_of(end, (size_t)(now - (char *)end)) : (struct range){0, 0};
	change = change_begin(range);
	loss = look(range);
	result = REAL(brk)(end);
	sanitize_slot_settle(loss, result ? SANITIZE_KEPT : SANITIZE_UNMAPPED);
	change_end(&change);
	client_call_end();
	return result;
}

INTERPOSED void *sbrk(intptr_t increment)
{
	struct sanitize_loss *loss;
	struct change change;
	struct range range;
	void *result;

	if (client_call_active() || !file_any() || increment >= 0)
		return REAL(sbrk)(increment);
	client_call_begin();
	range = range_of((char *)REAL(sbrk)(0) + increment, (size_t)-increment);
	change = change_begin(range);
	loss = look(range);
	result = REAL(sbrk)(increment);
	sanitize_slot_settle(loss, result == (void *)-1 ? SANITIZE_KEPT : SANITIZE_UNMAPPED);
	change_end(&change);
	client_call_end();
	return result;
}

INTERPOSED void *shmat(int id, const void *address, int flags)
{
	struct range range = {0, 0};
	struct replacing replacing;
	struct sanitize_loss *loss;
	struct change change;
	struct shmid_ds segment;
	void *result;

	if (client_call_active() || !file_any())
		return REAL(shmat)(id, address, flags);
	client_call_begin();
	if ((flags & SHM_REMAP) && !shmctl(id, IPC_STAT, &segment))
		range = range_of(address, segment.shm_segsz);
	change = change_begin(range);
	loss = look(range);
	replacing_begin(&replacing, range.start, range.end);
	result = REAL(shmat)(id, address, flags);
	replacing_end(&replacing);
	sanitize_slot_settle(loss, result == (void *)-1 ? SANITIZE_KEPT : SANITIZE_REPLACED);
	change_end(&change);
	if (is_empty(range))
		process_mappings_changed();
	client_call_end();
	return result;
}

/* From its start to the end of the segment that is mapped there. */
static void run_find_segment(void *opaque)
{
	struct range *range = opaque;
	struct process_mapping mapping;

	range->end = process_mapping_find(range->start, &mapping) ? mapping.end : range->start;
}

INTERPOSED int shmdt(const void *address)
{
	struct range range = {(uintptr_t)address, (uintptr_t)address};
	struct sanitize_loss *loss;
	struct change change;
	int result;

	if (client_call_active() || !file_any())
		return REAL(shmdt)(address);
	client_call_begin();
	process_with_room(run_find_segment, &range);
	change = change_begin(range);
	loss = look(range);
	result = REAL(shmdt)(address);
	sanitize_slot_settle(loss, result ? SANITIZE_KEPT : SANITIZE_UNMAPPED);
	change_end(&change);
	client_call_end();
	return result;
}

bool memory_is_userfault_change(unsigned long command)
{
	unsigned int number = _IOC_NR(command);

	if (_IOC_TYPE(command) != UFFDIO)
		return false;
	/* A VM that comes later wants to know what is watched. */
	if (number == _UFFDIO_REGISTER || number == _UFFDIO_UNREGISTER)
		return true;
	if (copied_is_wanted() && copied_knows_userfault(command))
		return true;
	return file_any() && (number == _UFFDIO_WRITEPROTECT || number == _UFFDIO_MOVE);
}

/* Which pages are waited for changes with a registration. */
static void note_watched(unsigned int number, const uint64_t words[3], struct range range)
{
	if (number == _UFFDIO_REGISTER)
		watched_set(range.start, range.end, (uint32_t)words[2]);
	else if (number == _UFFDIO_UNREGISTER)
		watched_set(range.start, range.end, 0);
}

struct registration {
	struct range range;
	bool is_refused;
};

static void run_ask_files(void *opaque)
{
	struct registration *asked = opaque;

	asked->is_refused = !file_all_take_userfaults(asked->range.start, asked->range.end);
}

/* Linux's userfaultfd knows none of KVM's files; those of ours that are memory may take it. What
 * watches writes alone is the kernel's to judge. */
static bool is_refused(unsigned int number, const uint64_t words[3], struct range range)
{
	const uint64_t brings = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR;
	struct registration asked = {.range = range};

	if (number == _UFFDIO_REGISTER && (words[2] & brings) && !is_empty(range))
		process_with_room(run_ask_files, &asked);
	return asked.is_refused;
}

long memory_userfault_ioctl(int fd, unsigned long command, unsigned long argument,
			    long (*forward)(int fd, unsigned long command, unsigned long argument))
{
	/* All begin with {start, length}, a registration's modes follow; a move has
	 * {destination, source, length}. */
	uint64_t words[3] = {0, 0, 0};
	unsigned int number = _IOC_NR(command);
	bool moves = number == _UFFDIO_MOVE;
	struct change first_change, second_change;
	struct range first, second = {0, 0};
	struct sanitize_loss *left;
	size_t wanted = moves || number == _UFFDIO_REGISTER ? 24 : 16;
	long result;

	client_call_begin();
	if (user_peek(words, argument, wanted))
		words[1] = words[2] = 0;
	first = range_of((const void *)words[0], moves ? words[2] : words[1]);
	if (moves)
		second = range_of((const void *)words[1], words[2]);
	if (is_refused(number, words, first)) {
		client_call_end();
		errno = EINVAL;
		return -1;
	}
	if (copied_is_wanted())
		copied_tell_userfault(command, argument);
	second_change = change_begin(second);
	first_change = change_begin(first);
	left = look(second);
	result = forward(fd, command, argument);
	/* Of a move that fails half-way the client makes the rest. */
	sanitize_slot_settle(left, result ? SANITIZE_KEPT : SANITIZE_EMPTIED);
	if (!result)
		note_watched(number, words, first);
	change_end(&second_change);
	change_end(&first_change);
	client_call_end();
	return result;
}
