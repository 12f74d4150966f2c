/* `quire run --report`: moments of a run, and the page that shows them. */
#include "cli/look/page.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cli/look/texts.h"
#include "cli/output.h"
#include "frontend/report/json.h"
#include "frontend/report/report.h"

#define NS_PER_S 1000000000u
#define FIRST_INTERVAL_NS (NS_PER_S / 20)
#define MAP_CELLS 512u
/* A process that says it needs more has written something else there. */
#define REST_MAX_NS (60ull * NS_PER_S)
/* What the page has in the place of the data. */
#define PLACE "@DATA@"

/* page.html, by embed.sh. */
extern const char _binary_page_html_start[], _binary_page_html_end[];

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

void page_begin(struct page *page)
{
	page->begun_ns = now_ns();
	page->interval_ns = FIRST_INTERVAL_NS;
	page->next_ns = page->begun_ns + page->interval_ns;
	__atomic_store_n(&page->control->count_until, UINT64_MAX, __ATOMIC_RELEASE);
}

uint64_t page_wait_ns(const struct page *page)
{
	uint64_t now = now_ns();

	return page->next_ns > now ? page->next_ns - now : 0;
}

static void print_process(const char *text, size_t size_bytes, int pid, void *ctx)
{
	struct json *json = ctx;

	(void)pid;
	if (!size_bytes)
		return;
	json_object(json, NULL);
	json_members(json, text, size_bytes);
	json_end(json);
}

/* Every second moment goes: the first and the newest stay. */
static void thin_out(struct page *page)
{
	uint32_t kept = 0;

	for (uint32_t i = 0; i < page->count; i++) {
		if (i % 2 == 0)
			page->moments[kept++] = page->moments[i];
		else
			free(page->moments[i].text);
	}
	page->count = kept;
	page->interval_ns *= 2;
}

/* The next moment comes when the process has had its rest. */
static void give_rest(const void *file, size_t size_bytes, int pid, void *ctx)
{
	const struct report_stats *stats = file;
	struct page *page = ctx;
	uint64_t from = now_ns(), rest_ns;

	(void)pid;
	if (!report_text_bytes(size_bytes))
		return;
	rest_ns = __atomic_load_n(&stats->rest_ns, __ATOMIC_RELAXED);
	if (rest_ns < REST_MAX_NS && from + rest_ns > page->next_ns)
		page->next_ns = from + rest_ns;
}

void page_take(struct page *page)
{
	struct moment *moment;
	struct json json = {0};

	if (page->count == PAGE_MOMENTS)
		thin_out(page);
	moment = &page->moments[page->count];
	__atomic_store_n(&page->control->map_start, 0, __ATOMIC_RELAXED);
	__atomic_store_n(&page->control->map_end, UINT64_MAX, __ATOMIC_RELAXED);
	__atomic_store_n(&page->control->map_cells, MAP_CELLS, __ATOMIC_RELAXED);
	__atomic_store_n(&page->control->map_until, now_ns() + TEXTS_ANSWER_NS, __ATOMIC_RELEASE);
	page->next_ns = now_ns() + page->interval_ns;
	texts_ask(page->directory, page->control);
	texts_each_file(page->directory, REPORT_STATS, give_rest, page);
	json.file = open_memstream(&moment->text, &moment->size_bytes);
	if (!json.file)
		return;
	json_object(&json, NULL);
	json_real(&json, "t", (double)(now_ns() - page->begun_ns) / NS_PER_S, 4);
	json_array(&json, "processes");
	texts_each(page->directory, TEXTS_ALL, print_process, &json);
	json_end(&json);
	json_end(&json);
	if (!fclose(json.file))
		page->count++;
}

/* In a script of HTML no "<" may stand; in JSON it stands in strings alone, which may escape it. */
static void put_escaped(const char *text, size_t size_bytes, FILE *file)
{
	for (size_t i = 0; i < size_bytes; i++) {
		if (text[i] == '<')
			fputs("\\u003c", file);
		else
			fputc(text[i], file);
	}
}

static char *join(char *const *words)
{
	char *text = NULL;
	size_t size_bytes;
	FILE *file = open_memstream(&text, &size_bytes);

	for (size_t i = 0; file && words[i]; i++)
		fprintf(file, "%s%s", i ? " " : "", words[i]);
	if (file)
		fclose(file);
	return text;
}

static void put_command(char *const *program, FILE *file)
{
	char *command = join(program), *text = NULL;
	size_t size_bytes;
	struct json json = {.file = open_memstream(&text, &size_bytes)};

	if (json.file) {
		json_string(&json, NULL, command ? command : "");
		fclose(json.file);
		put_escaped(text, size_bytes, file);
	} else {
		fputs("\"\"", file);
	}
	free(command);
	free(text);
}

static void put_data(const struct page *page, char *const *program, FILE *file)
{
	fputs("{\"command\": ", file);
	put_command(program, file);
	fputs(", \"samples\": [", file);
	for (uint32_t i = 0; i < page->count; i++) {
		fputs(i ? "," : "", file);
		put_escaped(page->moments[i].text, page->moments[i].size_bytes, file);
	}
	fputs("]}", file);
}

int page_write(const struct page *page, char *const *program, const char *path)
{
	size_t size_bytes = (size_t)(_binary_page_html_end - _binary_page_html_start);
	const char *place = memmem(_binary_page_html_start, size_bytes, PLACE, strlen(PLACE));
	FILE *file = output_begin(path);

	if (!file)
		return -1;
	fwrite(_binary_page_html_start, 1, (size_t)(place - _binary_page_html_start), file);
	put_data(page, program, file);
	place += strlen(PLACE);
	fwrite(place, 1, (size_t)(_binary_page_html_end - place), file);
	return output_end(file);
}
