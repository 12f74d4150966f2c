/*
 * File objects: what stands behind a descriptor of ours, found by the identity of its inode.
 *
 * The inode of the memfd is the identity. Of most files we hold nothing, and the kernel tells when
 * the inode is gone (frontend/file/watch.h). A file whose pages are mapped by us, too, would stay
 * for ever: the client's open file description holds an exclusive flock, and our own description of
 * the same inode can take the lock exactly when the client's is gone, over dup, fork, SCM_RIGHTS
 * and mappings. So it is for every file where the kernel cannot tell. A thread with descriptors of
 * its own holds ours (frontend/file/holder.h); where there is none, it is a hidden one.
 *
 * The table holds one reference to each struct file, every file_get() another. A file leaves the
 * table when the client's description is found gone, and is released with its last reference, so
 * a call in flight keeps its object as it does in the kernel. Which thread notices the end is
 * chance. So a file that no call has stays in the list of ends until it is released, and the call
 * that ended it releases it from there, or waits for the thread that does (docs/LOCKING.md).
 *
 * A forked child has copies of the table's files: it answers for them (-EIO by its pid) but never
 * releases them, and holds none of our descriptions.
 */
#include "frontend/file/file.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "frontend/file/broker.h"
#include "frontend/file/client_call.h"
#include "frontend/file/ends.h"
#include "frontend/file/gmem_remote.h"
#include "frontend/file/hidden_fd.h"
#include "frontend/file/holder.h"
#include "frontend/file/memory.h"
#include "frontend/file/numbers.h"
#include "frontend/file/watch.h"
#include "frontend/param/params.h"
#include "hosts/process/fork.h"
#include "hosts/process/heap.h"
#include "hosts/process/lock.h"
#include "hosts/process/process.h"
#include "hosts/process/sys.h"

#define BUCKETS 4096u
/* How many closes pass before the files that no close of ours named are looked at, too. */
#define SWEEP_EVERY 4096u

/* Fields without a letter never change. [T] under table_lock, [A] atomic. */
struct file {
	/* [A] First, for its address: see the words of frontend/file/numbers.c. */
	uint32_t references;
	const struct file_ops *ops;
	void *object;
	void *memory;
	uint64_t size_bytes;
	dev_t device;
	ino_t inode;
	pid_t owner;
	uint64_t identity;
	uint32_t generation;
	int held;      /* [T] by the holder; negative: it has none */
	int hidden_fd; /* [T] where the holder has none; -1: watched, or in a forked child */
	int map_fd;    /* [A] hidden: what is mapped in its place; -1: it itself */
	int watch;     /* [T]; 0: not watched */
	uint32_t is_lingering; /* [T] closed once, but still referenced somewhere */
	struct file *next;     /* [T] in the bucket, later in a list of the released */
	struct file *linger_next, **linger_link; /* [T] */
	struct file *watch_next;		 /* [T] in the bucket of its watch */
	uint32_t is_seen;			 /* [T] while all watches are gone through */
	struct file_end end;			 /* once the table has no reference to it */
};

static struct process_lock table_lock;
static struct file *buckets[BUCKETS]; /* [T] */
static struct file *watched[BUCKETS]; /* [T] the same files by watch */
static struct file *lingering;	      /* [T] */
static uint32_t live_count;	      /* [A] written under table_lock */
static uint32_t close_count;	      /* [T] */

static struct file **bucket_of(ino_t inode)
{
	return &buckets[(inode * UINT64_C(0x9e3779b97f4a7c15)) >> 52];
}

static void linger_add_locked(struct file *file)
{
	if (file->is_lingering)
		return;
	file->is_lingering = 1;
	file->linger_next = lingering;
	file->linger_link = &lingering;
	if (lingering)
		lingering->linger_link = &file->linger_next;
	__atomic_store_n(&lingering, file, __ATOMIC_RELEASE);
}

static void linger_remove_locked(struct file *file)
{
	if (!file->is_lingering)
		return;
	file->is_lingering = 0;
	__atomic_store_n(file->linger_link, file->linger_next, __ATOMIC_RELEASE);
	if (file->linger_next)
		file->linger_next->linger_link = file->linger_link;
}

static struct file **watched_bucket(int watch)
{
	return &watched[(unsigned int)watch % BUCKETS];
}

static struct file *watched_find_locked(int watch)
{
	struct file *file = *watched_bucket(watch);

	while (file && file->watch != watch)
		file = file->watch_next;
	return file;
}

static void watched_remove_locked(struct file *file)
{
	struct file **link = watched_bucket(file->watch);

	if (!file->watch)
		return;
	while (*link != file)
		link = &(*link)->watch_next;
	__atomic_store_n(link, file->watch_next, __ATOMIC_RELEASE);
	file->watch = 0;
}

static void table_remove_locked(struct file *file)
{
	struct file **link = bucket_of(file->inode);

	watched_remove_locked(file);
	while (*link != file)
		link = &(*link)->next;
	/* As in file_create(): the link goes before the caller uses it for another list. */
	__atomic_store_n(link, file->next, __ATOMIC_RELEASE);
	numbers_forget_file(&file->references);
	linger_remove_locked(file);
	__atomic_store_n(&live_count, live_count - 1, __ATOMIC_RELAXED);
}

static pid_t process_number(void)
{
	return (pid_t)sys_call(SYS_getpid, 0);
}

/* Has the client's last reference gone? */
static bool file_is_gone(const struct file *file)
{
	if (!file_uses_lock(file) || file->owner != process_number())
		return false;
	if (file->held >= 0)
		return holder_takes_lock(file->held);
	return !sys_call(SYS_flock, (uint64_t)file->hidden_fd, LOCK_EX | LOCK_NB);
}

/* What the file holds, but for its own memory. */
static void file_empty(struct file *file)
{
	if (file->memory)
		sys_call(SYS_munmap, sys_address(file->memory), file->size_bytes);
	if (file->held >= 0)
		holder_close(file->held);
	if (file->hidden_fd >= 0)
		hidden_fd_close(file->hidden_fd);
	if (file->map_fd >= 0)
		hidden_fd_close(file->map_fd);
}

static void file_free(struct file *file)
{
	file_empty(file);
	process_heap_free(file);
}

static void file_release(struct file *file)
{
	if (file->ops->release)
		file->ops->release(file);
	file_empty(file);
}

void file_put(struct file *file)
{
	if (__atomic_sub_fetch(&file->references, 1, __ATOMIC_ACQ_REL))
		return;
	file_release(file);
	process_heap_free(file);
}

/* The table's reference goes. A call in flight that has another releases the file, as in KVM. */
static void table_end_locked(struct file *file)
{
	ends_begin();
	table_remove_locked(file);
	if (!__atomic_sub_fetch(&file->references, 1, __ATOMIC_ACQ_REL))
		ends_add(&file->end, file->device, file->inode);
	else
		ends_finish();
}

/* The ends that were noticed since @after, in a hold of the lock that ends here, are this thread's
 * to see to, and so is what @call may have ended. */
static void see_to_unlock(uint64_t after, const struct file_ending *call)
{
	struct end_duty duty = {.after = after, .to = ends_count(), .call = call};
	struct file_end *end;

	process_lock_release(&table_lock);
	while ((end = ends_take(&duty)) != NULL) {
		struct file *file = (struct file *)((char *)end - offsetof(struct file, end));

		file_release(file);
		ends_remove(end);
		process_heap_free(file);
	}
}

struct file_ending file_ending_heard(void)
{
	return (struct file_ending){.after = 0};
}

struct file_ending file_ending(void)
{
	return (struct file_ending){.after = ends_count()};
}

bool file_ending_one(int fd, struct file_ending *ending)
{
	struct file *file;

	*ending = file_ending();
	file = file_get(fd);
	if (!file)
		return false;
	ending->is_one = true;
	ending->device = file->device;
	ending->inode = file->inode;
	file_put(file);
	return true;
}

static void see_locked(int watch)
{
	struct file *file = watched_find_locked(watch);

	if (file)
		file->is_seen = 1;
}

/* The kernel lost count of the ends: all files that it does not watch any more are gone. */
static void take_unwatched_locked(void)
{
	struct file *file, *next;

	for (uint32_t i = 0; i < BUCKETS; i++)
		for (file = watched[i]; file; file = file->watch_next)
			file->is_seen = 0;
	if (file_watch_alive(see_locked))
		return;
	for (uint32_t i = 0; i < BUCKETS; i++) {
		for (file = watched[i]; file; file = next) {
			next = file->watch_next;
			if (!file->is_seen)
				table_end_locked(file);
		}
	}
}

/* Files that the kernel says are gone leave the table. */
static void take_told_locked(void)
{
	struct file *file;
	int watch;

	while ((watch = file_watch_next()) != FILE_WATCH_NONE) {
		if (watch == FILE_WATCH_LOST) {
			take_unwatched_locked();
			continue;
		}
		file = watched_find_locked(watch);
		if (file)
			table_end_locked(file);
	}
}

static void take_gone_lingering_locked(void)
{
	struct file *next;

	take_told_locked();
	for (struct file *file = lingering; file; file = next) {
		next = file->linger_next;
		if (file_is_gone(file))
			table_end_locked(file);
	}
}

static void take_gone_all_locked(void)
{
	struct file *next;

	take_told_locked();
	for (uint32_t i = 0; i < BUCKETS; i++) {
		for (struct file *file = buckets[i]; file; file = next) {
			next = file->next;
			if (file_is_gone(file))
				table_end_locked(file);
		}
	}
}

static void collect(void (*take_locked)(void), const struct file_ending *call)
{
	uint64_t after;

	process_lock_acquire(&table_lock);
	after = ends_count();
	take_locked();
	see_to_unlock(after, call);
}

void file_collect(const struct file_ending *ending)
{
	collect(take_gone_all_locked, ending);
}

/* Returns whether more will come: the last descriptor may be in another process. */
static bool collect_lingering(void)
{
	collect(take_gone_lingering_locked, NULL);
	return __atomic_load_n(&lingering, __ATOMIC_RELAXED) != NULL;
}

bool file_may_have_ended(void)
{
	/* In this order: a file that lingers no more is among the ends by then. */
	return __atomic_load_n(&lingering, __ATOMIC_ACQUIRE) || ends_any();
}

void file_closed_other(const struct file_ending *ending)
{
	if (file_may_have_ended())
		collect(take_gone_lingering_locked, ending);
}

static struct file *look_locked(dev_t device, ino_t inode)
{
	struct file *file = *bucket_of(inode);

	while (file && (file->inode != inode || file->device != device))
		file = file->next;
	return file;
}

void file_closed(const struct file_ending *ending)
{
	bool wakes = false;
	struct file *file;
	uint64_t after;

	process_lock_acquire(&table_lock);
	after = ends_count();
	take_told_locked();
	/* Out of the table, it is in the list of ends, or a call in flight has it. */
	file = look_locked(ending->device, ending->inode);
	if (file && file_is_gone(file)) {
		table_end_locked(file);
	} else if (file && file->owner == process_number()) {
		linger_add_locked(file);
		wakes = file->ops->release != NULL;
	}
	if (++close_count % SWEEP_EVERY == 0)
		take_gone_all_locked();
	see_to_unlock(after, ending);
	if (wakes)
		file_watch_wake(collect_lingering);
}

void file_unmapped(uintptr_t start, uintptr_t end, const struct file_ending *ending)
{
	if (file_may_be_mapped(start, end))
		file_closed_other(ending);
}

/* The child of a fork: the files are the parent's. */
static void fork_child(void)
{
	uint32_t count = 0;

	(void)process_lock_start_anew(&table_lock);
	for (uint32_t i = 0; i < BUCKETS; i++) {
		for (struct file *file = buckets[i]; file; file = file->next) {
			if (file->hidden_fd >= 0)
				hidden_fd_close(file->hidden_fd);
			file->held = file->hidden_fd = -1;
			if (file->map_fd >= 0) {
				hidden_fd_close(file->map_fd);
				file->map_fd = -EIO;
			}
			file->watch = 0;
			file->memory = NULL;
			file->is_lingering = 0;
			count++;
		}
	}
	memset(watched, 0, sizeof(watched));
	file_watch_forget();
	hidden_fd_forget_proc();
	lingering = NULL;
	live_count = count;
}
FORK_CHILD(FORK_FILES, table_lock, fork_child);

static int make_descriptor(const struct file_config *config)
{
	const char *name = config->name ? config->name : config->ops->name;
	unsigned int flags = MFD_ALLOW_SEALING | (config->cloexec ? MFD_CLOEXEC : 0);
	int fd = memfd_create(name, flags);

	if (fd < 0 && errno == EMFILE) {
		/* Files whose last descriptor went where we could not see it cost none of the
		 * client's numbers, but what they hold may. */
		collect(take_gone_all_locked, NULL);
		fd = memfd_create(name, flags);
	}
	if (fd < 0)
		return -errno;
	return fd;
}

static int make_memory(struct file *file, int fd, enum file_memory_kind kind)
{
	switch (kind) {
	case FILE_MEMORY_MAPPABLE:
		file->held = holder_open(fd);
		if (file->held >= 0)
			return holder_map(file->held, file->size_bytes, &file->memory);
		return file_memory_map(fd, file->size_bytes, &file->memory);
	case FILE_MEMORY_PRIVATE:
		return file_memory_make(file->size_bytes, &file->memory);
	default:
		return 0;
	}
}

/*
 * The file keeps its size, whatever the client does with the descriptor; one without pages of ours
 * takes no bytes either.
 */
static int seal(int fd, const struct file_config *config)
{
	int seals = FILE_SEALS;

	if (config->memory != FILE_MEMORY_MAPPABLE && !config->is_mapped)
		seals |= F_SEAL_WRITE;
	/* And it is no program. */
	return fcntl(fd, F_ADD_SEALS, seals) || fchmod(fd, 0600) ? -errno : 0;
}

/*
 * Ours is the first description, hidden before the client's is opened, so that at no moment there
 * are two numbers of the client's.
 */
static int hide_description(struct file *file, int fd, const struct file_config *config)
{
	file->hidden_fd = hidden_fd_hide(fd);
	if (file->hidden_fd < 0)
		return file->hidden_fd;
	return hidden_fd_open_again(file->hidden_fd, O_RDWR | (config->cloexec ? O_CLOEXEC : 0));
}

/*
 * A second description, which can take the lock that the client's holds, is ours. The result is the
 * client's, in the place of @fd, or -errno; @fd is closed in any case.
 */
static int hold_description(struct file *file, int fd, const struct file_config *config)
{
	int error;

	/* Memory that it could not map is mapped by what is hidden. */
	if (config->memory != FILE_MEMORY_MAPPABLE)
		file->held = holder_open(fd);
	if (file->held < 0)
		fd = hide_description(file, fd, config);
	if (fd < 0)
		return fd;
	if (!flock(fd, LOCK_EX))
		return fd;
	error = -errno;
	close(fd);
	return error;
}

/* The size is past what the client's limit allows: another file behind the same number. */
static int replace_descriptor(int fd, const struct file_config *config)
{
	const char *name = config->name ? config->name : config->ops->name;
	int made = broker_memfd(params_directory(), name, config->size_bytes), error = 0;

	if (made < 0)
		return -EFBIG;
	if (dup3(made, fd, config->cloexec ? O_CLOEXEC : 0) < 0)
		error = -errno;
	close(made);
	return error;
}

/* The size, the seals and the identity. */
static int set_up(struct file *file, int fd, const struct file_config *config)
{
	struct stat status;
	int error = config->size_bytes ? file_size_set(fd, config->size_bytes) : 0;

	/*
	 * Nothing is read from an inert descriptor, and our fstat() answers file_size_bytes(): the
	 * kernel's file may stay empty.
	 */
	if (error == -EFBIG && config->memory == FILE_MEMORY_PRIVATE)
		error = 0;
	if (error == -EFBIG)
		error = replace_descriptor(fd, config);
	if (!error)
		error = seal(fd, config);
	if (error)
		return error;
	if (fstat(fd, &status))
		return -errno;
	file->device = status.st_dev;
	file->inode = status.st_ino;
	return make_memory(file, fd, config->memory);
}

/* Into the table, watched, if the file has no description of ours. 0 or -errno. */
static int table_add(struct file *file, int fd)
{
	int watch = 0;

	process_lock_acquire(&table_lock);
	if (!file_uses_lock(file)) {
		watch = file_watch_add(fd);
		if (watch < 0)
			goto unlock;
		file->watch = watch;
		file->watch_next = *watched_bucket(watch);
		__atomic_store_n(watched_bucket(watch), file, __ATOMIC_RELEASE);
	}
	file->next = *bucket_of(file->inode);
	/* fork() may copy the list at any moment. */
	__atomic_store_n(bucket_of(file->inode), file, __ATOMIC_RELEASE);
	__atomic_store_n(&live_count, live_count + 1, __ATOMIC_RELAXED);
	numbers_changed(fd);
	numbers_learn_file(fd, &file->references, numbers_sample(fd));
unlock:
	process_lock_release(&table_lock);
	return watch < 0 ? watch : 0;
}

/* From here on the end of the file is noticed. The client's descriptor, or -errno. */
static int publish(struct file *file, int fd, const struct file_config *config)
{
	int error;

	if (config->memory != FILE_MEMORY_MAPPABLE) {
		error = table_add(file, fd);
		/* No watch is to be had. */
		if (!error)
			return fd;
	}
	fd = hold_description(file, fd, config);
	error = fd < 0 ? fd : table_add(file, fd);
	if (fd >= 0 && error)
		close(fd);
	return error ? error : fd;
}

static struct file *file_alloc(const struct file_config *config)
{
	struct file *file = process_heap_alloc(sizeof(*file));

	if (!file)
		return NULL;
	file->ops = config->ops;
	file->object = config->object;
	file->size_bytes = config->size_bytes;
	file->owner = process_number();
	file->identity = process_identity();
	file->generation = gmem_remote_generation();
	file->held = file->hidden_fd = file->map_fd = -1;
	file->references = 1;
	return file;
}

static void start_watching(void)
{
	process_lock_acquire(&table_lock);
	file_watch_start();
	process_lock_release(&table_lock);
}

/* Descriptors of ours that are made on the way hold one number of the client's at a time. */
int file_create(const struct file_config *config)
{
	struct file *file;
	int fd, error;

	hidden_fd_keep_proc();
	/* Last references that went unseen: by a child's exit, by fclose(). */
	(void)collect_lingering();
	file = file_alloc(config);
	if (!file)
		return -ENOMEM;
	start_watching();
	if (config->ops->release)
		file_watch_start_thread(collect_lingering);
	fd = make_descriptor(config);
	if (fd < 0) {
		error = fd;
		goto free_file;
	}
	error = set_up(file, fd, config);
	if (error) {
		close(fd);
		goto free_file;
	}
	fd = publish(file, fd, config);
	if (fd >= 0)
		return fd;
	error = fd;
free_file:
	file_free(file);
	return error;
}

bool file_any(void)
{
	return __atomic_load_n(&live_count, __ATOMIC_RELAXED) != 0;
}

static struct file *find_locked(dev_t device, ino_t inode)
{
	struct file *file = look_locked(device, inode);

	if (file)
		__atomic_fetch_add(&file->references, 1, __ATOMIC_RELAXED);
	return file;
}

struct file *file_find(dev_t device, ino_t inode)
{
	struct file *file;

	process_lock_acquire(&table_lock);
	file = find_locked(device, inode);
	process_lock_release(&table_lock);
	return file;
}

struct file *file_get_path(int fd)
{
	uint64_t sample = numbers_sample(fd);
	struct file *file = NULL;
	struct stat status;

	if (!file_any() || fd < 0 || hidden_fd_is(fd))
		return NULL;
	/* Any call of the client's may come here, and its own filter may know no fstat(). */
	if (sys_call(SYS_fstat, (uint64_t)fd, sys_address(&status)))
		return NULL;
	if (S_ISREG(status.st_mode)) {
		process_lock_acquire(&table_lock);
		file = find_locked(status.st_dev, status.st_ino);
		if (file && !file_is_path(fd))
			numbers_learn_file(fd, &file->references, sample);
		process_lock_release(&table_lock);
	}
	if (!file)
		numbers_learn_lack(fd, NUMBER_NO_FILE, sample);
	return file;
}

struct file *file_get_for_ioctl(int fd)
{
	uint32_t *references = file_any() ? numbers_get_file(fd) : NULL;

	if (references)
		return (struct file *)((char *)references - offsetof(struct file, references));
	return file_get(fd);
}

void *file_object(const struct file *file)
{
	return file->object;
}

void *file_memory(const struct file *file)
{
	return file->memory;
}

void *file_take_memory(struct file *file)
{
	void *memory = file->memory;

	file->memory = NULL;
	return memory;
}

void file_inode(const struct file *file, dev_t *device, ino_t *inode)
{
	*device = file->device;
	*inode = file->inode;
}

uint32_t file_generation(const struct file *file)
{
	return file->generation;
}

int file_map_through(struct file *file, int fd)
{
	int high = hidden_fd_hide(hidden_fd_open_again(fd, O_RDWR));

	if (high < 0)
		return high;
	__atomic_store_n(&file->map_fd, high, __ATOMIC_RELEASE);
	return 0;
}

int file_map_fd(const struct file *file, int fd)
{
	int through = __atomic_load_n(&file->map_fd, __ATOMIC_ACQUIRE);

	return through == -1 ? fd : through;
}

bool file_is_own(const struct file *file)
{
	return file->identity == process_identity();
}

bool file_uses_lock(const struct file *file)
{
	return file->held >= 0 || file->hidden_fd >= 0;
}

const struct file_ops *file_ops_of(const struct file *file)
{
	return file->ops;
}

uint64_t file_size_bytes(const struct file *file)
{
	return file->size_bytes;
}

static void move_one(int *place, int fd)
{
	int moved = *place == fd ? hidden_fd_move(fd) : -1;

	if (moved >= 0)
		__atomic_store_n(place, moved, __ATOMIC_RELEASE);
}

void file_hidden_move(int fd)
{
	process_lock_acquire(&table_lock);
	for (uint32_t i = 0; i < BUCKETS; i++) {
		for (struct file *file = buckets[i]; file; file = file->next) {
			move_one(&file->hidden_fd, fd);
			move_one(&file->map_fd, fd);
		}
	}
	file_watch_move(fd);
	hidden_fd_move_proc(fd);
	process_lock_release(&table_lock);
}
