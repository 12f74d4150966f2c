/*
 * Asks the kernel whether memory can be read or written, where no handler stands to catch a fault.
 *
 * The call rt_sigprocmask copies eight bytes in before it looks at what it is asked to do, and
 * eight bytes out when it is asked for nothing else. It has no side effect then, and every seccomp
 * filter knows it.
 */
#include "hosts/process/probe.h"

#include <errno.h>
#include <signal.h>

#include "hosts/process/sys.h"

#define PAGE_BYTES UINT64_C(4096)
#define WORD_BYTES UINT64_C(8)
#define NO_SUCH_HOW UINT64_C(0xffffffff)

static bool word_is_readable(uint64_t address)
{
	/* An aligned word crosses no page. Address 0 would mean "no mask": take its neighbour. */
	uint64_t word = address & ~(WORD_BYTES - 1);

	return sys_call(SYS_rt_sigprocmask, NO_SUCH_HOW, word ? word : WORD_BYTES, 0, WORD_BYTES) !=
	       -EFAULT;
}

static bool word_is_writable(uint64_t address)
{
	return address && sys_call(SYS_rt_sigprocmask, SIG_BLOCK, 0, address, WORD_BYTES) == 0;
}

bool probe_readable(uint64_t address, size_t size_bytes)
{
	uint64_t last;

	if (!size_bytes)
		return true;
	if (__builtin_add_overflow(address, size_bytes - 1, &last))
		return false;
	for (;;) {
		if (!word_is_readable(address))
			return false;
		address = (address | (PAGE_BYTES - 1)) + 1;
		if (!address || address > last)
			return true;
	}
}

bool probe_writable(uint64_t address, size_t size_bytes)
{
	uint64_t end;

	if (__builtin_add_overflow(address, size_bytes, &end))
		return false;
	for (uint64_t at = address; at + WORD_BYTES <= end; at = (at | (PAGE_BYTES - 1)) + 1)
		if (!word_is_writable(at))
			return false;
	return word_is_writable(end - WORD_BYTES);
}
