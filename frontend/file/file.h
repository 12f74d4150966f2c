/* File objects: what stands behind a descriptor of ours, found by the identity of its inode. */
#ifndef QUIRE_FRONTEND_FILE_FILE_H
#define QUIRE_FRONTEND_FILE_FILE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/*
 * A client's descriptor is a real one: a memfd of its own inode, so that dup, fork, mmap, poll and
 * SCM_RIGHTS work by themselves. To the kernel it is inert: no byte of a guest's private memory is
 * behind it. The object is found by inode. The end of the last descriptor, mapping or message that
 * holds the inode, in whichever process, is the end of the object (frontend/file/file.c says how it
 * is noticed).
 */
struct file;

/* What a descriptor is: the column of the boundary's table that answers for it. */
enum file_kind { FILE_KVM, FILE_VM, FILE_VCPU, FILE_GMEM, FILE_STATS, FILE_KINDS };

struct file_map_request {
	size_t length_bytes;
	int prot;
	int flags;
	off_t offset_bytes;
};

/* An inode that several files of ours have. */
struct file_inode {
	dev_t device;
	ino_t inode;
	unsigned int links;
	int64_t accessed_ns, modified_ns, changed_ns;
};

#define FILE_NO_WRITES (-4096)
/* Beyond the end of any file: a mapping of the memfd from here on raises SIGBUS. */
#define FILE_SIGBUS_OFFSET (UINT64_C(1) << 60)

/* Every function but ioctl may be NULL; then the call is answered as said. Results are >= 0 or
 * -errno. */
struct file_ops {
	enum file_kind kind;
	const char *name; /* of the memfd, as /proc/self/fd shows it */
	long (*ioctl)(struct file *file, unsigned long command, unsigned long argument);
	/* Contents of a file that is read (statistics). NULL: -EINVAL. @offset_bytes is absolute.
	 */
	ssize_t (*read_at)(struct file *file, void *dst, size_t size_bytes, off_t offset_bytes);
	/* Put bytes into a file that the client may write: how many, or -errno; FILE_NO_WRITES:
	 * there are none now. NULL: never. */
	ssize_t (*write_at)(struct file *file, const void *src, size_t size_bytes, off_t offset);
	/* May the client map it so? 0, -errno, or 1 to give it pages that raise SIGBUS. NULL:
	 * -ENODEV. */
	int (*map)(struct file *file, const struct file_map_request *request);
	/* It was mapped at [start, end), or a mapping of it has grown there: show what may be
	 * shown. NULL: all that was mapped. -errno. */
	int (*settle)(struct file *file, uintptr_t start, uintptr_t end);
	/* May a userfaultfd bring pages into mappings of it? NULL: no. */
	bool (*takes_userfaults)(const struct file *file);
	/* Bytes inside the file that are not there: a mapping of them raises SIGBUS. NULL: none. */
	void (*hole)(const struct file *file, uint64_t *start_bytes, uint64_t *end_bytes);
	/* fallocate with kernel-checked arguments (U-070). NULL: -EOPNOTSUPP. */
	int (*allocate)(struct file *file, int mode, off_t offset_bytes, off_t size_bytes);
	/* What fstat() says of the inode, in the place of what the kernel says of the descriptor's:
	 * true. NULL: never. */
	bool (*inode)(const struct file *file, struct file_inode *inode);
	/* The last reference is gone. No lock held. */
	void (*release)(struct file *file);
};

/* Memory of ours behind a file, for file_memory(). */
enum file_memory_kind {
	FILE_NO_MEMORY,
	/* The descriptor's own pages: what the client maps through it, we see. */
	FILE_MEMORY_MAPPABLE,
	/* Pages that no descriptor and no path leads to; the descriptor is inert. */
	FILE_MEMORY_PRIVATE,
};

/* What the descriptor of each file has, whichever process made it. */
#define FILE_SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

struct file_config {
	const struct file_ops *ops;
	void *object;
	uint64_t size_bytes; /* of the memfd, and of the memory */
	enum file_memory_kind memory;
	bool cloexec;
	bool is_mapped; /* mmap() reaches the memfd, for writing too: it is not sealed against that
			 */
	bool read_only; /* the client's descriptor is open for reading alone */
	const char *name; /* overrides ops->name when not NULL */
};

/*
 * A new descriptor in the client's table, the lowest free one, or -errno (-EMFILE, -ENOMEM) with
 * ops->release() not called. After success the object belongs to the file.
 */
int file_create(const struct file_config *config);

/* The file behind @fd, with a reference to be put; NULL when it is none of ours. */
struct file *file_get(int fd);
/* The same, and a descriptor of O_PATH leads to the file, too. */
struct file *file_get_path(int fd);
/* Is @fd a descriptor of O_PATH? It names a file, and is no description of KVM's. */
bool file_is_path(int fd);
/*
 * The same for one of KVM's own ioctls, without a system call when the number is known: what was
 * closed behind our back may still be found (frontend/file/numbers.h).
 */
struct file *file_get_for_ioctl(int fd);
/* The same, but only when its ops are @ops. */
struct file *file_get_kind(int fd, const struct file_ops *ops);
/* The same by the inode. */
struct file *file_find(dev_t device, ino_t inode);
void file_put(struct file *file);

void *file_object(const struct file *file);
/* The mapping of ours (config.memory): MAP_SHARED, not inherited by fork. */
void *file_memory(const struct file *file);
/* From here on the mapping is the caller's: the file's end does not unmap it. In release() only. */
void *file_take_memory(struct file *file);
void file_inode(const struct file *file, dev_t *device, ino_t *inode);
/* gmem_remote_generation() of the process that created the file. */
uint32_t file_generation(const struct file *file);
/* Did this process create the file? ioctls of any other get -EIO. */
bool file_is_own(const struct file *file);

/*
 * The client's mappings of @file are of what is behind @fd instead, whose pages it shows. 0 or
 * -errno. Such a mapping is no reference to @file.
 */
int file_map_through(struct file *file, int fd);
/* The descriptor to map for @fd, which is of @file. -EIO: none, in the child of a fork. */
int file_map_fd(const struct file *file, int fd);

/*
 * Last references. A call of the client's that may end one takes a struct file_ending before the
 * kernel makes it, and hands it in behind. What the call has ended is released by then, also where
 * another thread noticed the end sooner; but for a file that another call still uses, which
 * releases it, as in KVM. Nothing is held meanwhile, so the kernel may wait for the client. All are
 * called inside a client call, with no lock held.
 */
struct file_ending {
	uint64_t after; /* the ends that were noticed before the call have numbers up to this */
	/* It ends the file of this inode, or none. Else it may end many. */
	bool is_one;
	dev_t device;
	ino_t inode;
};

struct file_ending file_ending(void);
/* For a call that hears of an end, which may be long past: all that is not released yet counts. */
struct file_ending file_ending_heard(void);
/* For a call that closes @fd alone. False: that is no file of ours, and the call may end many. */
bool file_ending_one(int fd, struct file_ending *ending);
/* A descriptor of ours was closed or replaced (is_one). */
void file_closed(const struct file_ending *ending);
/* Another descriptor was: a socket may have had the last reference in a message. There is nothing
 * to do unless file_may_have_ended(), which is cheap. */
void file_closed_other(const struct file_ending *ending);
bool file_may_have_ended(void);
/* The client mapped one of ours at [start, end). */
void file_mapped(uintptr_t start, uintptr_t end);
/* Mappings in [start, end) may be gone. */
void file_unmapped(uintptr_t start, uintptr_t end, const struct file_ending *ending);
/* Any number of descriptors was closed: looks at all files there are. */
void file_collect(const struct file_ending *ending);
/* For code of ours that gives up a descriptor it made: close it and release the file. */
void file_close(int fd);
/* A mapping has grown into [start, end): the files mapped there settle what it shows. 0, or -errno:
 * then it may show what it should not. */
int file_settle(uintptr_t start, uintptr_t end);
/* Are all of [start, end) mappings of guest_memfds? */
bool file_is_gmem(uintptr_t start, uintptr_t end);
/* May a userfaultfd bring pages in there: does each of our files that is mapped take that? */
bool file_all_take_userfaults(uintptr_t start, uintptr_t end);

/* Is there any file at all? Cheap; file_get() is pointless when not. */
bool file_any(void);
/* Is [start, end) inside the span of addresses where files were mapped? (A superset.) */
bool file_may_be_mapped(uintptr_t start, uintptr_t end);
/* Is the lock of the client's description, flock(2), in use to notice the end? */
bool file_uses_lock(const struct file *file);
const struct file_ops *file_ops_of(const struct file *file);
uint64_t file_size_bytes(const struct file *file);

/* For close_range() and its kin: is @fd a descriptor of ours that the client must not see? */
bool file_is_hidden(int fd);
/* Is there any? Also where there is no file. */
bool file_hidden_any(void);
/* The lowest hidden descriptor >= @from, or -1. */
int file_hidden_next(int from);
/* The client puts something of its own at the hidden number @fd: move ours away first. */
void file_hidden_move(int fd);

/* The name of the memfd that stands in for the device, for other programs of the run. */
#define SYSTEM_FILE_NAME "quire /dev/kvm"
/*
 * An ioctl on /dev/kvm, which needs no file of ours: the descriptor may be the machine's own node,
 * or a stand-in that another program of the run handed on.
 */
long system_use(unsigned int command, unsigned long argument);
/* New descriptors that a client's open() of /dev/kvm returns (open flags: O_CLOEXEC only). */
int system_open(int flags);

#endif
