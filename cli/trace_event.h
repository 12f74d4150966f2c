/* What tracefs says of each event: its fields, and how its body is printed. */
#ifndef QUIRE_CLI_TRACE_EVENT_H
#define QUIRE_CLI_TRACE_EVENT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include <quire/trace.h>

struct trace_field {
	const char *type, *name;
	uint8_t size_bytes; /* in the kernel's record */
	bool is_signed, is_hex;
};

struct trace_event {
	const char *group, *name;
	const struct trace_field *fields;
	unsigned int field_count;
	const char *print; /* the text behind "print fmt:" */
	/* The same as done: @args are the fields, as quire_trace_fn gets them. */
	void (*print_body)(FILE *file, const uint64_t *args);
};

extern const struct trace_event trace_events[QUIRE_TRACE_COUNT];

/* The name of kvm_exit's exit_reason; "other" if it has none. */
const char *trace_exit_name(uint64_t exit_reason);

#endif
