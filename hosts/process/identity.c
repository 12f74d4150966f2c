/*
 * Which process this is, without a system call: a number in a page that the kernel wipes in the
 * child of each fork, a raw one too. A child of vfork() shares the memory and so the number, as it
 * shares what KVM goes by (the address space).
 */
#include <stddef.h>
#include <sys/mman.h>

#include "hosts/process/map.h"
#include "hosts/process/process.h"
#include "hosts/process/sys.h"

#define PAGE_BYTES 4096
#define MADV_WIPE_ON_FORK 18

/* NULL: not asked for yet; @no_page: the kernel has none that is wiped. */
static uint64_t *identity_page;
static uint64_t no_page;

static uint64_t *page_make(void)
{
	uint64_t *page = &no_page, *first = NULL;
	long mapped =
	    process_map(PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);

	if (!sys_failed(mapped)) {
		page = (uint64_t *)mapped;
		if (sys_call(SYS_madvise, (uint64_t)mapped, PAGE_BYTES, MADV_WIPE_ON_FORK)) {
			sys_call(SYS_munmap, (uint64_t)mapped, PAGE_BYTES);
			page = &no_page;
		}
	}
	if (__atomic_compare_exchange_n(&identity_page, &first, page, false, __ATOMIC_ACQ_REL,
					__ATOMIC_ACQUIRE))
		return page;
	if (page != &no_page)
		sys_call(SYS_munmap, sys_address(page), PAGE_BYTES);
	return first;
}

uint64_t process_identity(void)
{
	uint64_t *page = __atomic_load_n(&identity_page, __ATOMIC_ACQUIRE), identity, none = 0;

	if (!page)
		page = page_make();
	if (page == &no_page)
		return (uint64_t)sys_call(SYS_getpid, 0);
	identity = __atomic_load_n(page, __ATOMIC_RELAXED);
	if (identity)
		return identity;
	/* A number of a process that is gone comes again: the time tells the two apart. */
	identity = (uint64_t)sys_call(SYS_getpid, 0) | __builtin_ia32_rdtsc() << 32;
	if (__atomic_compare_exchange_n(page, &none, identity, false, __ATOMIC_RELAXED,
					__ATOMIC_RELAXED))
		return identity;
	return none;
}
