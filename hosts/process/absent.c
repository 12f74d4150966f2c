/* Would touching a page sleep? Asked before it is touched, and nothing is brought in. */
#include <linux/magic.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/vfs.h>

#include "hosts/process/internal.h"
#include "hosts/process/maps.h"
#include "hosts/process/proc_files.h"
#include "hosts/process/process.h"
#include "hosts/process/sys.h"
#include "hosts/process/watched.h"

/* Bits of a page's word in /proc/self/pagemap. */
#define ENTRY_PRESENT (UINT64_C(1) << 63)
#define ENTRY_SWAPPED (UINT64_C(1) << 62)
#define ENTRY_PROTECTED (UINT64_C(1) << 57) /* by a userfaultfd */

/* What the client's tables have for the page; 0 also where the kernel does not say. */
static uint64_t entry_of(uint64_t hva)
{
	uint64_t entry = 0, offset = (hva >> QUIRE_PAGE_SHIFT) * sizeof(entry);
	long fd, got;

	do {
		fd = proc_file_open(PROC_PAGEMAP);
		if (fd < 0)
			return 0;
		got =
		    sys_call(SYS_pread64, (uint64_t)fd, sys_address(&entry), sizeof(entry), offset);
	} while (got != sizeof(entry) && proc_file_is_lost(PROC_PAGEMAP, fd));
	proc_file_close(PROC_PAGEMAP, fd);
	return got == sizeof(entry) ? entry : 0;
}

/* Is there no slower place behind the file system than memory? */
static bool is_memory(long type)
{
	return type == TMPFS_MAGIC || type == RAMFS_MAGIC || type == HUGETLBFS_MAGIC;
}

/* Files that are in none that has a path. */
static bool has_no_path(const char *name)
{
	static const char *const words[] = {"/memfd:", "/SYSV", "/dev/zero", "/anon_hugepage", "["};

	for (unsigned int i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		if (!strncmp(name, words[i], strlen(words[i])))
			return true;
	return name[0] != '/';
}

/* The kind of the file system that has the file, which may be deleted; its folder is not. */
static bool is_on_disk(struct maps_name *name)
{
	char *end = strrchr(name->text, '/');
	struct statfs status;

	if (has_no_path(name->text))
		return false;
	end[end == name->text] = '\0';
	return !sys_call(SYS_statfs, sys_address(name->text), sys_address(&status)) &&
	       !is_memory(status.f_type);
}

/*
 * What is known of file systems: a word is a device number << 1 | its files are on a disk; 0 for
 * none. A table that is full forgets at random.
 */
#define KNOWN_DEVICES 16u

static uint64_t known_devices[KNOWN_DEVICES];

/* Is what is missing of the mapping to be read from a disk? */
static bool is_read_from_disk(uint64_t hva)
{
	struct process_mapping mapping;
	struct maps_name name;
	uint64_t *known, word;

	if (!process_mapping_find(hva, &mapping) || !mapping.device || mapping.pfnmap)
		return false;
	known = &known_devices[mapping.device % KNOWN_DEVICES];
	word = __atomic_load_n(known, __ATOMIC_RELAXED);
	if (word >> 1 == mapping.device)
		return word & 1;
	if (process_mapping_name(hva, &name) || name.device != mapping.device)
		return false;
	word = mapping.device << 1 | is_on_disk(&name);
	__atomic_store_n(known, word, __ATOMIC_RELAXED);
	return word & 1;
}

/*
 * A page that is nowhere is made at once, and never waited for, unless a userfaultfd brings it; one
 * that was given to the swap device is read. The answer may be out of date when it is used: the
 * page went, and the touch sleeps, or it came, and is asked for in vain.
 */
bool process_touch_may_sleep(uint64_t hva, bool is_write)
{
	uint32_t modes = watched_modes(hva);
	uint8_t resident = 0;
	uint64_t entry;

	/* An unmapped address never sleeps. */
	if (sys_call(SYS_mincore, hva & QUIRE_PAGE_MASK, QUIRE_PAGE_SIZE, sys_address(&resident)))
		return false;
	resident &= 1;
	if (resident && !(modes & (WATCHED_MINOR | WATCHED_WRITES)))
		return false;
	entry = entry_of(hva);
	if (entry & ENTRY_PRESENT)
		return is_write && (entry & ENTRY_PROTECTED);
	if ((entry & ENTRY_SWAPPED) || (modes & (resident ? WATCHED_MINOR : WATCHED_MISSING)))
		return true;
	return !resident && is_read_from_disk(hva);
}
