/* `quire run --report`: moments of a run, and the page that shows them. */
#ifndef QUIRE_CLI_LOOK_PAGE_H
#define QUIRE_CLI_LOOK_PAGE_H

#include <stddef.h>
#include <stdint.h>

struct report_control;

struct moment {
	char *text; /* an object of JSON */
	size_t size_bytes;
};

/* So many at most; when there is no room each second one goes, and they come half as often. */
#define PAGE_MOMENTS 128u

/* Zeros, but for the first two. */
struct page {
	const char *directory;
	struct report_control *control;
	struct moment moments[PAGE_MOMENTS];
	uint32_t count;
	uint64_t begun_ns, next_ns, interval_ns;
};

/* The first processes count from their beginning on. */
void page_begin(struct page *page);
/* Nanoseconds until the next moment is due. */
uint64_t page_wait_ns(const struct page *page);
/* Ask the run's processes, and keep what they say. Without memory the moment is left out. */
void page_take(struct page *page);
/* The page, of all moments. @program: its argv. 0, or errno says what is wrong with the file. */
int page_write(const struct page *page, char *const *program, const char *path);

#endif
