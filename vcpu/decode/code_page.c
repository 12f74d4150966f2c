/* Host pages that hold decoded code: comparing and reading them, guarded. */
#include "vcpu/decode/code_page.h"
#include "hosts/process/guard.h"

typedef long long chunk __attribute__((vector_size(16)));

#define CHUNKS (CODE_LINE_BYTES / sizeof(chunk))

GUARD_LOAD(guard_load_chunk, chunk, "movdqu (%[ptr]), %[out]", "=x")

/* Read one line of memory into @line. */
static inline enum guard_reason line_read(const char *host, chunk line[CHUNKS])
{
	enum guard_reason reason = GUARD_OK;

	for (unsigned int i = 0; i < CHUNKS && reason == GUARD_OK; i++)
		reason = guard_load_chunk(host + i * sizeof(chunk), &line[i]);
	return reason;
}

/*
 * Nonzero bits of *@differ: where the line at @host differs from @copy. Each of the four accesses
 * has an entry of its own in the guard's table.
 */
static inline enum guard_reason line_differ(const char *host, const chunk copy[CHUNKS],
					    chunk *differ)
{
	chunk a = copy[0], b = copy[1], c = copy[2], d = copy[3];

	_Static_assert(CHUNKS == 4, "four accesses read a line");
	/* clang-format off */
	__asm__ volatile goto("1:\tpxor (%[ptr]), %[a]\n\t" GUARD_TABLE("1b")
			      "2:\tpxor 16(%[ptr]), %[b]\n\t" GUARD_TABLE("2b")
			      "3:\tpxor 32(%[ptr]), %[c]\n\t" GUARD_TABLE("3b")
			      "4:\tpxor 48(%[ptr]), %[d]\n\t" GUARD_TABLE("4b")
			      : [a] "+x"(a), [b] "+x"(b), [c] "+x"(c), [d] "+x"(d)
			      : [ptr] "r"(host) : "memory" : faulted);
	/* clang-format on */
	__asm__ volatile("");
	*differ = (a | b) | (c | d);
	return GUARD_OK;
faulted:
	return guard_last_reason;
}

enum guard_reason code_page_compare(struct code_page *page, uint64_t *changed)
{
	const char *host = (const char *)(uintptr_t)page->host_page;

	*changed = 0;
	for (uint64_t left = page->lines; left; left &= left - 1) {
		unsigned int offset = (unsigned int)__builtin_ctzll(left) * CODE_LINE_BYTES;
		chunk differ = {0};
		enum guard_reason reason =
		    line_differ(host + offset, (const chunk *)(page->bytes + offset), &differ);

		if (unlikely(reason != GUARD_OK))
			return reason;
		if (unlikely(differ[0] | differ[1]))
			*changed |= left & -left;
	}
	return GUARD_OK;
}

enum guard_reason code_page_load(struct code_page *page, uint64_t wanted)
{
	const char *host = (const char *)(uintptr_t)page->host_page;

	for (uint64_t left = wanted & ~page->lines; left; left &= left - 1) {
		unsigned int line = __builtin_ctzll(left);
		chunk *copy = (chunk *)(page->bytes + line * CODE_LINE_BYTES);
		enum guard_reason reason = line_read(host + line * CODE_LINE_BYTES, copy);

		if (reason != GUARD_OK)
			return reason;
		page->lines |= UINT64_C(1) << line;
	}
	return GUARD_OK;
}
