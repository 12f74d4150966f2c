/* Facts about the mapping at an address: asked of the kernel once, then cached. */
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "hosts/process/internal.h"
#include "hosts/process/maps.h"
#include "hosts/process/proc_files.h"
#include "hosts/process/process.h"
#include "hosts/process/sys.h"

/*
 * Each thread keeps the last mappings it found, and believes them while the generation stands: a
 * warm lookup costs a load and a few compares, and no lock. A fact is filed under the generation
 * that stood before the kernel was asked, so that a change in between drops it.
 */
#define CACHED_MAPPINGS 8u

struct cached_mapping {
	uint64_t generation; /* 0: nothing here */
	struct process_mapping mapping;
};

struct mapping_cache {
	struct cached_mapping entries[CACHED_MAPPINGS];
	uint32_t last, oldest;
};

uint64_t process_generation = 1;
static _Thread_local struct mapping_cache own_cache __attribute__((tls_model("initial-exec")));

void process_mappings_changed(void)
{
	__atomic_fetch_add(&process_generation, 1, __ATOMIC_SEQ_CST);
}

/*
 * The kernel's question by address (Linux 6.11), as its interface lays it out; the C library's
 * headers may be older.
 */
struct procmap_question {
	uint64_t size;
	uint64_t query_flags;
	uint64_t query_addr;
	uint64_t vma_start, vma_end;
	uint64_t vma_flags;
	uint64_t vma_page_size;
	uint64_t vma_offset;
	uint64_t inode;
	uint32_t dev_major, dev_minor;
	uint32_t vma_name_size;
	uint32_t build_id_size;
	uint64_t vma_name_addr;
	uint64_t build_id_addr;
};
_Static_assert(sizeof(struct procmap_question) == 104, "layout of PROCMAP_QUERY");

#define PROCMAP_ASK _IOWR('f', 17, struct procmap_question)
enum {
	PROCMAP_READABLE = 1,
	PROCMAP_WRITABLE = 2,
	PROCMAP_EXECUTABLE = 4,
	PROCMAP_SHARED = 8,
	PROCMAP_OR_NEXT = 16,
	PROCMAP_OF_FILE = 32,
};

static uint32_t kernel_lacks_question;

static long put_question(struct procmap_question *question)
{
	const struct procmap_question asked = *question;

	for (;;) {
		long fd = proc_file_open(PROC_MAPS), error;

		if (fd < 0)
			return fd;
		*question = asked;
		error = sys_call(SYS_ioctl, (uint64_t)fd, PROCMAP_ASK, sys_address(question));
		if (error && error != -ENOENT && proc_file_is_lost(PROC_MAPS, fd))
			continue;
		proc_file_close(PROC_MAPS, fd);
		return error;
	}
}

/* 0, -ENOENT: nothing is mapped there, or another error: ask otherwise. */
static int ask_kernel(uint64_t address, struct process_mapping *mapping, struct maps_name *name)
{
	struct procmap_question question = {
	    .size = sizeof(question),
	    .query_addr = address,
	    .vma_name_size = sizeof(name->text),
	    .vma_name_addr = sys_address(name->text),
	};
	long error;

	if (__atomic_load_n(&kernel_lacks_question, __ATOMIC_RELAXED))
		return -ENOTTY;
	error = put_question(&question);
	if (error == -ENOTTY)
		__atomic_store_n(&kernel_lacks_question, 1, __ATOMIC_RELAXED);
	if (error)
		return (int)error;
	if (!question.vma_name_size)
		name->text[0] = '\0';
	name->device = (uint64_t)question.dev_major << 20 | question.dev_minor;
	*mapping = (struct process_mapping){
	    .start = question.vma_start,
	    .end = question.vma_end,
	    .prot = (question.vma_flags & PROCMAP_READABLE ? PROT_READ : 0) |
		    (question.vma_flags & PROCMAP_WRITABLE ? PROT_WRITE : 0) |
		    (question.vma_flags & PROCMAP_EXECUTABLE ? PROT_EXEC : 0),
	    .shared = question.vma_flags & PROCMAP_SHARED,
	    .page_size_bytes = question.vma_page_size,
	    .device = name->device,
	};
	return 0;
}

int maps_next_file(uint64_t address, struct maps_file *found)
{
	struct procmap_question question = {
	    .size = sizeof(question),
	    .query_flags = PROCMAP_SHARED | PROCMAP_OR_NEXT | PROCMAP_OF_FILE,
	    .query_addr = address,
	};
	long error = -ENOTTY;

	if (!__atomic_load_n(&kernel_lacks_question, __ATOMIC_RELAXED))
		error = put_question(&question);
	if (error && error != -ENOENT)
		return maps_next_file_in_text(address, found);
	if (error)
		return (int)error;
	*found = (struct maps_file){
	    .start = question.vma_start,
	    .end = question.vma_end,
	    .offset = question.vma_offset,
	    .device = (uint64_t)question.dev_major << 20 | question.dev_minor,
	    .inode = question.inode,
	    .shared = true,
	};
	return 0;
}

/*
 * Where a mapping of bare page frames can come from: device nodes, what buses and drivers show in
 * /sys and /proc, descriptors without a name in any file system, and the kernel's own pages. Only
 * for these the slow text must be read, which walks all tables below the address.
 */
static bool may_be_pfnmap(const char *name)
{
	static const char *const sources[] = {"/dev/", "/sys/", "/proc/", "anon_inode:", "[v"};

	if (!strncmp(name, "/dev/shm/", 9))
		return false;
	for (unsigned int i = 0; i < sizeof(sources) / sizeof(sources[0]); i++)
		if (!strncmp(name, sources[i], strlen(sources[i])))
			return true;
	return false;
}

/*
 * Page sizes of file systems, for kernels that answer in text only: all files of one have the same,
 * and reading it is slow. A word is a device number << 8 | log2 of the size, 0 for none; a table
 * that is full forgets at random.
 */
#define KNOWN_DEVICES 16u

static uint64_t known_devices[KNOWN_DEVICES];

static uint64_t known_page_size(uint64_t device)
{
	uint64_t seen = __atomic_load_n(&known_devices[device % KNOWN_DEVICES], __ATOMIC_RELAXED);

	return seen && seen >> 8 == device ? UINT64_C(1) << (seen & 63) : 0;
}

static void know_page_size(uint64_t device, uint64_t page_size_bytes)
{
	unsigned int bits = (unsigned int)__builtin_ctzll(page_size_bytes | UINT64_C(1) << 63);

	__atomic_store_n(&known_devices[device % KNOWN_DEVICES], device << 8 | bits,
			 __ATOMIC_RELAXED);
}

/* What neither the question nor the short text tells. */
static bool add_details(uint64_t address, struct process_mapping *mapping)
{
	struct process_mapping detailed;

	if (smaps_find(address, &detailed) || detailed.start != mapping->start)
		return false;
	detailed.device = mapping->device;
	*mapping = detailed;
	return true;
}

static bool find_in_text(uint64_t address, struct process_mapping *mapping)
{
	struct maps_name name;
	uint64_t page_size_bytes;

	if (maps_find(address, mapping, &name))
		return false;
	mapping->device = name.device;
	if (may_be_pfnmap(name.text)) {
		add_details(address, mapping);
		return true;
	}
	/* Huge pages have a file behind them, anonymous ones too. */
	if (!name.device)
		return true;
	page_size_bytes = known_page_size(name.device);
	if (page_size_bytes) {
		mapping->page_size_bytes = page_size_bytes;
		return true;
	}
	if (add_details(address, mapping))
		know_page_size(name.device, mapping->page_size_bytes);
	return true;
}

static bool find_uncached(uint64_t address, struct process_mapping *mapping)
{
	struct maps_name name;
	int error = ask_kernel(address, mapping, &name);

	if (error == -ENOENT)
		return false;
	if (error)
		return find_in_text(address, mapping);
	if (may_be_pfnmap(name.text))
		add_details(address, mapping);
	return true;
}

/* 0, or an error when nothing is mapped there. */
int process_mapping_name(uint64_t address, struct maps_name *name)
{
	struct process_mapping mapping;
	int error = ask_kernel(address, &mapping, name);

	return error && error != -ENOENT ? maps_find(address, &mapping, name) : error;
}

/* A signal handler of the client may use the cache of the thread it interrupts. */
static void cache_store(const struct process_mapping *mapping, uint64_t found_under)
{
	struct mapping_cache *cache = &own_cache;
	uint32_t slot = cache->oldest++ % CACHED_MAPPINGS;
	struct cached_mapping *entry = &cache->entries[slot];

	entry->generation = 0;
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	entry->mapping = *mapping;
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	entry->generation = found_under;
	cache->last = slot;
}

bool process_mapping_find(uint64_t address, struct process_mapping *mapping)
{
	uint64_t now = process_mapping_generation();
	struct mapping_cache *cache = &own_cache;

	for (uint32_t i = 0; i < CACHED_MAPPINGS; i++) {
		uint32_t slot = (cache->last + i) % CACHED_MAPPINGS;
		const struct cached_mapping *entry = &cache->entries[slot];

		if (entry->generation != now ||
		    address - entry->mapping.start >= entry->mapping.end - entry->mapping.start)
			continue;
		cache->last = slot;
		*mapping = entry->mapping;
		return true;
	}
	if (!find_uncached(address, mapping))
		return false;
	cache_store(mapping, now);
	return true;
}
