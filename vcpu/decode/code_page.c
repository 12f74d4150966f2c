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

enum guard_reason code_page_compare(struct code_page *page, uint64_t *changed)
{
	const char *host = (const char *)(uintptr_t)page->host_page;

	*changed = 0;
	for (uint64_t left = page->lines; left; left &= left - 1) {
		unsigned int line = __builtin_ctzll(left);
		const chunk *copy = (const chunk *)(page->bytes + line * CODE_LINE_BYTES);
		chunk now[CHUNKS], differ;
		enum guard_reason reason = line_read(host + line * CODE_LINE_BYTES, now);

		if (unlikely(reason != GUARD_OK))
			return reason;
		differ = (now[0] ^ copy[0]) | (now[1] ^ copy[1]) | (now[2] ^ copy[2]) |
			 (now[3] ^ copy[3]);
		if (unlikely(differ[0] | differ[1]))
			*changed |= UINT64_C(1) << line;
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
