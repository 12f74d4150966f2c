/* Would touching a page sleep? Asked before it is touched, and nothing is brought in. */
#include <stdbool.h>
#include <stdint.h>

#include "hosts/process/internal.h"
#include "hosts/process/proc_files.h"
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
	return (entry & ENTRY_SWAPPED) || (modes & (resident ? WATCHED_MINOR : WATCHED_MISSING));
}
