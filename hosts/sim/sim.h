/* The host port over a simulated machine: frames of real bytes, mappings the test controls. */
#ifndef QUIRE_HOSTS_SIM_SIM_H
#define QUIRE_HOSTS_SIM_SIM_H

#include <stdbool.h>
#include <stdint.h>

#include <quire/host.h>

/*
 * A machine with a few thousand frames. The client's address space is one array of pages from
 * SIM_HVA_BASE: each maps a frame or nothing. A pfn is the address of a frame's bytes >> 12. Every
 * frame counts its holders, and every allocation of the library can be made to fail.
 *
 * Only the first SIM_FRAME_BYTES of a frame are cleared, poisoned and looked at: the rest would be
 * most of the time of a run.
 *
 * A machine may have rows of 1 GiB besides, for blocks of that size alone. Their bytes are address
 * space until they are touched, and are not touched without need, a run of SIM_BLOCK
 * frames or more of such a row is filled at one frame in SIM_BLOCK: the others read as zero.
 */
#define SIM_FRAMES 2048u
#define SIM_PAGES 1024u
#define SIM_BLOCK 512u
#define SIM_GIGANTIC (SIM_BLOCK * SIM_BLOCK)
#define SIM_NO_FRAME UINT32_MAX
#define SIM_FRAME_BYTES 64u
#define SIM_POISON 0xdb /* what a free frame shows */
#define SIM_HVA_BASE UINT64_C(0x40000000)

enum sim_page_flags {
	SIM_MAPPED = 1u << 0,
	SIM_WRITABLE = 1u << 1,
	SIM_DEVICE = 1u << 2, /* a driver's mapping of raw frames (VM_PFNMAP): without counts */
	SIM_SLOW = 1u << 3,   /* must be read from a disk first */
	SIM_NOEXEC = 1u << 8, /* the guest may not execute from it */
	SIM_NOREAD = 1u << 9, /* and may do nothing else; not writable */
	/* What a kernel makes of them by itself, see kernel.h. Without a frame of its own: */
	SIM_EMPTY = 1u << 4,   /* never touched */
	SIM_SWAPPED = 1u << 5, /* its bytes are on a disk */
	/* With one: */
	SIM_SHARED = 1u << 6, /* the frame is not this page's alone: a write gets a copy */
	SIM_SMALL = 1u << 7,  /* mapped by a small entry, whatever its neighbours are */
};

/* Does a page with these flags show a frame? */
static inline bool sim_has_frame(uint32_t flags)
{
	return (flags & (SIM_MAPPED | SIM_EMPTY | SIM_SWAPPED)) == SIM_MAPPED;
}

struct sim_page {
	uint32_t frame;
	uint32_t flags;
};

struct sim_frame {
	uint8_t *bytes;	     /* 4 KiB */
	uint32_t references; /* by mappings, stores, pins */
	uint32_t generation; /* how often it was handed out */
	bool poisoned;
	bool
	    counted; /* false: without a reference count, as with tail pages of a driver's buffer */
	bool reserved; /* memory of the firmware: no count either */
	bool accessed; /* said by page_put() */
	bool dirty;
};

struct sim_copy {
	const void *data;
	uint64_t offset_bytes, size_bytes;
	bool write;
};

/* Told, as by the kernel's notifier, that what [start, end) shows is about to change, and
 * has changed. Not called while @ctx is NULL. */
struct sim_notifier {
	void (*begin)(void *ctx, hva_t start, hva_t end);
	void (*end)(void *ctx, hva_t start, hva_t end);
	void *ctx;
};

/* Told of what happens to frames, in the instant in which it has happened. NULL: not told. */
struct sim_watcher {
	/* @to has got the bytes that @from had, for page @page. One of them is SIM_NO_FRAME where
	 * they go to the disk, or come from it. */
	void (*copied)(void *ctx, uint32_t page, uint32_t from, uint32_t to);
	/* Frame @frame, page @index of a store, shows zeros. */
	void (*cleared)(void *ctx, uint64_t index, uint32_t frame);
	/* The library's own copy of @data to or from the frame, @offset_bytes into it. */
	void (*own_copy)(void *ctx, uint32_t frame, const struct sim_copy *copy);
	/* A lookup waits for a page. */
	void (*waits)(void *ctx);
	void *ctx;
};

struct sim_host {
	uint8_t *memory; /* frame_count * 4 KiB, aligned to the largest block */
	struct sim_frame *frames;
	struct sim_page *pages;
	uint32_t frame_count, page_count;
	uint32_t rows_end;   /* frames below are those of rows of 1 GiB */
	uint32_t next_frame; /* of the others */
	uint32_t zero_frame; /* what readers of empty pages see; SIM_NO_FRAME: none yet */
	uint8_t (*swap)[SIM_FRAME_BYTES]; /* of each page that is SIM_SWAPPED */
	struct sim_notifier notifier;
	struct sim_watcher watcher;
	uint64_t allocated_bytes; /* by the library, now */
	uint64_t allocations;	  /* calls so far */
	uint64_t fail_at;	  /* the allocation of this number fails; 0: none */
	void *spare_chunks;	  /* kept from VM to VM: their contents do not matter */
	uint64_t chunks;	  /* handed out */
	/* Huge pages that stores may reserve, of 2 MiB and of 1 GiB, and how many are. */
	uint32_t pool[2], pool_reserved[2];
	uint64_t kicks;
	bool interrupted;    /* waits end with -EINTR */
	uint64_t violations; /* the library touched the count of a page that was not its own */
};

extern const struct quire_host_ops sim_host_ops;

/* Make an empty machine; false when there is no memory. */
bool sim_host_init(struct sim_host *host);
/* The same with @rows rows of 1 GiB, and as many pages, before its other SIM_FRAMES frames. */
bool sim_host_init_rows(struct sim_host *host, uint32_t rows);
void sim_host_destroy(struct sim_host *host);
/* Forget mappings and frames, keep the memory: the next run of a test starts here. */
void sim_host_reset(struct sim_host *host);

/* Map page @page of the client to a fresh zeroed frame; returns the frame's number. */
uint32_t sim_map(struct sim_host *host, uint32_t page, uint32_t flags);
/* Map SIM_BLOCK pages from @page, a multiple of it, to one aligned row of fresh frames: the host
 * maps them with one huge entry as long as none of them is mapped anew. */
void sim_map_huge(struct sim_host *host, uint32_t page, uint32_t flags);
/* The same with SIM_GIGANTIC pages, on a machine that has a free row of 1 GiB. */
void sim_map_gigantic(struct sim_host *host, uint32_t page, uint32_t flags);
/* Take the mapping of @npages pages from @page away and give the frames' references back. */
void sim_unmap_range(struct sim_host *host, uint32_t page, uint32_t npages);
void sim_unmap(struct sim_host *host, uint32_t page);

/* A fresh frame that shows @fill, with one reference, or SIM_NO_FRAME; SIM_BLOCK aligned ones; and
 * @count references less. */
uint32_t sim_frame_alloc(struct sim_host *host, uint8_t fill);
uint32_t sim_row_alloc(struct sim_host *host, uint8_t fill);
void sim_frames_put(struct sim_host *host, uint32_t first, uint32_t count);

/* The frame of page @index of a guest_memfd's store, SIM_NO_FRAME where there is none. */
uint32_t sim_store_frame(const void *store, uint64_t index);

/* What the client sees of a page through its mappings of the file, as the library last said. */
enum sim_view { SIM_VIEW_UNTOLD, SIM_VIEW_SHOWN, SIM_VIEW_HIDDEN };
enum sim_view sim_store_view(const void *store, uint64_t index);

static inline hva_t sim_hva(uint32_t page)
{
	return (hva_t){SIM_HVA_BASE + page * QUIRE_PAGE_SIZE};
}

#endif
