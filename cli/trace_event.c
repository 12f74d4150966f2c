/* What tracefs says of each event. */
#include "cli/trace_event.h"

#include <inttypes.h>

#include "cli/trace_print.h"

/* The kernel's names for the types of fields. */
typedef uint8_t u8, __u8;
typedef uint32_t u32, __u32;
typedef unsigned long long u64, __u64;
/* Structures in our headers. */
#define gfn_t u64
#define gpa_t u64

/* The formats as text, before their words become macros. */
#define TEXT(...) #__VA_ARGS__
#define PRINT_TEXT(name, format, ...) \
	static const char print_##name[] = "\"" format "\", " TEXT(__VA_ARGS__);
TRACE_PRINTS(PRINT_TEXT)

struct symbol {
	uint64_t value;
	const char *name;
};

/* The name of @value; its number, in @room, if it has none. */
static const char *symbol_of(uint64_t value, const struct symbol *symbols, char *room,
			     size_t room_bytes)
{
	for (; symbols->name; symbols++)
		if (symbols->value == value)
			return symbols->name;
	snprintf(room, room_bytes, "0x%" PRIx64, value);
	return room;
}

/* The names of the bits of @value, and what is left of it as a number. */
static const char *flags_of(uint64_t value, const char *between, const struct symbol *symbols,
			    char *room, size_t room_bytes)
{
	const char *separator = "";
	size_t used = 0;

	room[0] = '\0';
	for (; symbols->name; symbols++) {
		if ((value & symbols->value) != symbols->value)
			continue;
		value &= ~symbols->value;
		used += (size_t)snprintf(room + used, room_bytes - used, "%s%s", separator,
					 symbols->name);
		separator = between;
	}
	if (value)
		snprintf(room + used, room_bytes - used, "%s0x%" PRIx64, separator, value);
	return room;
}

#define ROOM_BYTES 96
#define ROOM ((char[ROOM_BYTES]){0})
#define __print_symbolic(value, ...) \
	symbol_of(value, (const struct symbol[]){__VA_ARGS__, {0, NULL}}, ROOM, ROOM_BYTES)
#define __print_flags(value, between, ...) \
	flags_of(value, between, (const struct symbol[]){__VA_ARGS__, {0, NULL}}, ROOM, ROOM_BYTES)

#define MEMBER(type, name) type name;
#define RECORD(group, name, members) \
	struct record_##name {       \
		members              \
	};
QUIRE_TRACE_EVENTS(RECORD, MEMBER)

#define LOAD(type, name) record.name = (type)*args++;
#define LOADER(group, name, loads)                                    \
	static struct record_##name load_##name(const uint64_t *args) \
	{                                                             \
		struct record_##name record;                          \
                                                                      \
		loads return record;                                  \
	}
QUIRE_TRACE_EVENTS(LOADER, LOAD)

#define PRINTER(name, format, ...)                                     \
	static void body_##name(FILE *file, const uint64_t *args)      \
	{                                                              \
		const struct record_##name record = load_##name(args); \
		const struct record_##name *REC = &record;             \
                                                                       \
		fprintf(file, format, __VA_ARGS__);                    \
	}
TRACE_PRINTS(PRINTER)

#define FIELD(type, name)             \
	{#type, #name, sizeof(type),  \
	 _Generic((type)0, int        \
		  : true, signed char \
		  : true, default     \
		  : false),           \
	 sizeof(type) == sizeof(uint64_t)},
#define FIELDS(group, name, fields) static const struct trace_field fields_##name[] = {fields};
QUIRE_TRACE_EVENTS(FIELDS, FIELD)

#define EVENT(group, name, fields)                                                               \
	[QUIRE_TRACE_##name] = {#group,	       #name,                                            \
				fields_##name, sizeof(fields_##name) / sizeof(fields_##name[0]), \
				print_##name,  body_##name},
const struct trace_event trace_events[QUIRE_TRACE_COUNT] = {QUIRE_TRACE_EVENTS(EVENT, FIELD)};

const char *trace_exit_name(uint64_t exit_reason)
{
	static const struct symbol exits[] = {SVM_EXITS, {0, NULL}};

	for (const struct symbol *symbol = exits; symbol->name; symbol++)
		if (symbol->value == exit_reason)
			return symbol->name;
	return "other";
}
