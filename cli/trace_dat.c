/*
 * A trace as trace-cmd writes it: trace.dat, version 6 (trace-cmd.dat.v6(5)).
 *
 * The file is the kernel's own description of its ring buffer and of its events, then the pages of
 * the buffer, those of each processor together. Records are little-endian and of this machine.
 */
#include <stdlib.h>
#include <string.h>

#include "cli/trace.h"
#include "cli/trace_event.h"

#define PAGE_BYTES 4096u
#define HEADER_BYTES 16u /* of a page: its time, and how much of it is used */
#define RECORD_BYTES 96u /* at most, with what is before it in the page */
#define FIRST_ID 1000u	 /* of our events; the kernel's own are below */
#define COMMON_BYTES 8u	 /* of a record: what all events have */
#define CPUS 65536u

/* In the first word of an event in a page: what it is, and the time since the one before it. */
#define TYPE_BITS 5
#define TYPE_TIME_EXTEND 30u
#define DELTA_BITS 27

/* In the word that says how much of a page is used: events before it are lost, and how many. */
#define MISSED_EVENTS (UINT64_C(1) << 31)
#define MISSED_STORED (UINT64_C(1) << 30)

static const char header_page[] = "\tfield: u64 timestamp;\toffset:0;\tsize:8;\tsigned:0;\n"
				  "\tfield: local_t commit;\toffset:8;\tsize:8;\tsigned:1;\n"
				  "\tfield: int overwrite;\toffset:8;\tsize:1;\tsigned:1;\n"
				  "\tfield: char data;\toffset:16;\tsize:4080;\tsigned:1;\n";

static const char header_event[] = "# compressed entry header\n"
				   "\ttype_len    :    5 bits\n"
				   "\ttime_delta  :   27 bits\n"
				   "\tarray       :   32 bits\n"
				   "\n"
				   "\tpadding     : type == 29\n"
				   "\ttime_extend : type == 30\n"
				   "\ttime_stamp : type == 31\n"
				   "\tdata max type_len  == 28\n";

static const char common_fields[] =
    "\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n"
    "\tfield:unsigned char common_flags;\toffset:2;\tsize:1;\tsigned:0;\n"
    "\tfield:unsigned char common_preempt_count;\toffset:3;\tsize:1;\tsigned:0;\n"
    "\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;\n\n";

static void put(FILE *file, const void *bytes, size_t size)
{
	fwrite(bytes, 1, size, file);
}

static void put_u32(FILE *file, uint32_t value)
{
	put(file, &value, sizeof(value));
}

static void put_u64(FILE *file, uint64_t value)
{
	put(file, &value, sizeof(value));
}

/* A text behind its length. */
static void put_text(FILE *file, const char *text)
{
	put_u64(file, strlen(text));
	put(file, text, strlen(text));
}

/* The next field's place, as a compiler lays a struct out. */
static uint32_t place(uint32_t offset, const struct trace_field *field)
{
	return (offset + field->size_bytes - 1) & ~(uint32_t)(field->size_bytes - 1);
}

static void put_event_format(FILE *file, unsigned int id)
{
	const struct trace_event *event = &trace_events[id];
	uint32_t offset = COMMON_BYTES;
	size_t size = 0;
	char *text = NULL;
	FILE *memory = open_memstream(&text, &size);

	if (!memory)
		return;
	fprintf(memory, "name: %s\nID: %u\nformat:\n%s", event->name, FIRST_ID + id, common_fields);
	for (unsigned int i = 0; i < event->field_count; i++) {
		const struct trace_field *field = &event->fields[i];

		offset = place(offset, field);
		fprintf(memory, "\tfield:%s %s;\toffset:%u;\tsize:%u;\tsigned:%d;\n", field->type,
			field->name, offset, field->size_bytes, field->is_signed);
		offset += field->size_bytes;
	}
	fprintf(memory, "\nprint fmt: %s\n", event->print);
	fclose(memory);
	put_text(file, text);
	free(text);
}

/* Each group once, with all its events. */
static void put_groups(FILE *file)
{
	static const char *const groups[] = {"kvm", "kvmmmu"};

	put_u32(file, sizeof(groups) / sizeof(groups[0]));
	for (size_t g = 0; g < sizeof(groups) / sizeof(groups[0]); g++) {
		uint32_t count = 0;

		for (unsigned int i = 0; i < QUIRE_TRACE_COUNT; i++)
			count += !strcmp(trace_events[i].group, groups[g]);
		put(file, groups[g], strlen(groups[g]) + 1);
		put_u32(file, count);
		for (unsigned int i = 0; i < QUIRE_TRACE_COUNT; i++)
			if (!strcmp(trace_events[i].group, groups[g]))
				put_event_format(file, i);
	}
}

static int compare_tids(const void *first, const void *second)
{
	const struct trace_line *const *a = first, *const *b = second;

	return ((*a)->event.tid > (*b)->event.tid) - ((*a)->event.tid < (*b)->event.tid);
}

/* The name of each thread's process. */
static void put_commands(const struct trace *trace, FILE *file)
{
	const struct trace_line **lines =
	    calloc(trace->count + 1, sizeof(const struct trace_line *));
	size_t size = 0, count = 0;
	char *text = NULL;
	FILE *memory = open_memstream(&text, &size);

	/* Of events in a row by one thread the first is enough. */
	for (size_t i = 0; lines && i < trace->count; i++)
		if (!i || trace->lines[i].event.tid != trace->lines[i - 1].event.tid)
			lines[count++] = &trace->lines[i];
	if (lines)
		qsort(lines, count, sizeof(const struct trace_line *), compare_tids);
	for (size_t i = 0; lines && memory && i < count; i++)
		if (!i || lines[i]->event.tid != lines[i - 1]->event.tid)
			fprintf(memory, "%u %s\n", lines[i]->event.tid, lines[i]->command);
	if (memory)
		fclose(memory);
	put_text(file, text ? text : "");
	free(text);
	free(lines);
}

/* A page of a processor's buffer in the making. */
struct page {
	uint8_t bytes[PAGE_BYTES];
	uint32_t used;
	uint64_t time_ns; /* of its newest event */
};

static void page_begin(struct page *page, uint64_t time_ns)
{
	memset(page, 0, sizeof(*page));
	page->used = HEADER_BYTES;
	page->time_ns = time_ns;
	memcpy(page->bytes, &time_ns, sizeof(time_ns));
}

static void page_put(struct page *page, const void *bytes, uint32_t size)
{
	memcpy(page->bytes + page->used, bytes, size);
	page->used += size;
}

/* Adds the event's record; there is room. */
static void page_add(struct page *page, const struct report_event *event)
{
	const struct trace_event *shape = &trace_events[event->event];
	uint8_t record[RECORD_BYTES] = {0};
	uint16_t id = (uint16_t)(FIRST_ID + event->event);
	uint64_t delta = event->time - page->time_ns;
	uint32_t offset = COMMON_BYTES, word;

	memcpy(record, &id, sizeof(id));
	memcpy(record + 4, &event->tid, sizeof(event->tid));
	for (unsigned int i = 0; i < shape->field_count; i++) {
		offset = place(offset, &shape->fields[i]);
		memcpy(record + offset, &event->args[i], shape->fields[i].size_bytes);
		offset += shape->fields[i].size_bytes;
	}
	offset = (offset + 3) & ~3u;
	if (delta >> DELTA_BITS) {
		word = TYPE_TIME_EXTEND | (uint32_t)(delta << TYPE_BITS);
		page_put(page, &word, sizeof(word));
		word = (uint32_t)(delta >> DELTA_BITS);
		page_put(page, &word, sizeof(word));
		delta = 0;
	}
	word = offset / 4 | (uint32_t)(delta << TYPE_BITS);
	page_put(page, &word, sizeof(word));
	page_put(page, record, offset);
	page->time_ns = event->time;
}

static void page_end(struct page *page, FILE *file, uint64_t lost)
{
	uint64_t commit = page->used - HEADER_BYTES;

	if (lost) {
		commit |= MISSED_EVENTS | MISSED_STORED;
		page_put(page, &lost, sizeof(lost));
	}
	memcpy(page->bytes + sizeof(uint64_t), &commit, sizeof(commit));
	put(file, page->bytes, sizeof(page->bytes));
}

/* The pages of one processor: how many bytes. The first says how many events are @lost. */
static uint64_t put_pages(const struct trace *trace, FILE *file, uint32_t cpu, uint64_t lost)
{
	struct page page = {.used = 0};
	uint64_t pages = 0;

	for (size_t i = 0; i < trace->count; i++) {
		const struct report_event *event = &trace->lines[i].event;

		if (event->cpu != cpu)
			continue;
		if (page.used > PAGE_BYTES - RECORD_BYTES - sizeof(lost)) {
			page_end(&page, file, lost);
			lost = 0;
			page.used = 0;
		}
		if (!page.used) {
			page_begin(&page, event->time);
			pages++;
		}
		page_add(&page, event);
	}
	if (page.used)
		page_end(&page, file, lost);
	return pages * PAGE_BYTES;
}

static void align(FILE *file)
{
	static const uint8_t zeros[PAGE_BYTES];
	long at = ftell(file);

	if (at > 0 && at % (long)PAGE_BYTES)
		put(file, zeros, PAGE_BYTES - (size_t)at % PAGE_BYTES);
}

static void put_header(const struct trace *trace, FILE *file)
{
	static const uint8_t magic[] = {0x17, 0x08, 0x44, 't', 'r', 'a', 'c', 'i', 'n', 'g'};
	static const uint8_t machine[] = {0 /* little-endian */, sizeof(long)};

	put(file, magic, sizeof(magic));
	put(file, "6", sizeof("6"));
	put(file, machine, sizeof(machine));
	put_u32(file, PAGE_BYTES);
	put(file, "header_page", sizeof("header_page"));
	put_text(file, header_page);
	put(file, "header_event", sizeof("header_event"));
	put_text(file, header_event);
	put_u32(file, 0); /* events of ftrace's own */
	put_groups(file);
	put_u32(file, 0); /* addresses of functions */
	put_u32(file, 0); /* formats of the kernel's own prints */
	put_commands(trace, file);
}

void trace_print_dat(const struct trace *trace, FILE *file)
{
	uint64_t lost = trace->lost;
	uint32_t cpus = 0;
	long table;
	uint64_t(*places)[2];

	for (size_t i = 0; i < trace->count; i++)
		if (trace->lines[i].event.cpu >= cpus)
			cpus = trace->lines[i].event.cpu + 1u;
	places = calloc(cpus ? cpus : 1, sizeof(*places));
	if (!places)
		return;
	put_header(trace, file);
	put_u32(file, cpus);
	put(file, "options  ", sizeof("options  "));
	put(file, "\0", 2); /* none */
	put(file, "flyrecord", sizeof("flyrecord"));
	table = ftell(file);
	put(file, places, cpus * sizeof(*places));
	for (uint32_t cpu = 0; cpu < cpus; cpu++) {
		align(file);
		places[cpu][0] = (uint64_t)ftell(file);
		places[cpu][1] = put_pages(trace, file, cpu, lost);
		/* Those of the first processor that has events tell of it. */
		if (places[cpu][1])
			lost = 0;
	}
	fseek(file, table, SEEK_SET);
	put(file, places, cpus * sizeof(*places));
	fseek(file, 0, SEEK_END);
	free(places);
}
