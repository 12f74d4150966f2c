/* Writing JSON, into a file or into memory: brackets, commas and the escapes of strings. */
#ifndef QUIRE_FRONTEND_REPORT_JSON_H
#define QUIRE_FRONTEND_REPORT_JSON_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/*
 * Start with {.file = ...}, or with {.start = ..., .size_bytes = ...} in memory. Objects and arrays
 * end in the order in which they began. To write members for json_members(), start with the
 * @depth at which they will stand.
 */
struct json {
	FILE *file; /* NULL: memory */
	char *start;
	size_t used_bytes, size_bytes;
	bool is_full; /* memory had no room: something is missing */
	unsigned int depth;
	unsigned int lined_depth; /* down to here each member has a line; 0: JSON_LINED_DEPTH */
	bool has_member;	  /* the innermost has one, so that a comma comes first */
	char ends[16];		  /* by depth: what closes it */
};

#define JSON_LINED_DEPTH 2u

/* @key is NULL in an array, and outside of everything. */
void json_object(struct json *json, const char *key);
void json_array(struct json *json, const char *key);
void json_end(struct json *json);
void json_string(struct json *json, const char *key, const char *text);
void json_bool(struct json *json, const char *key, bool value);
void json_signed(struct json *json, const char *key, int64_t value);
void json_unsigned(struct json *json, const char *key, uint64_t value);
/* A number as the caller has written it. */
void json_number(struct json *json, const char *key, const char *text);
/* With @digits behind the point. */
void json_real(struct json *json, const char *key, double value, int digits);
/* The members that another struct json has written at this depth, none before them. */
void json_members(struct json *json, const char *text, size_t size_bytes);
/* The bytes of the UTF-8 character that @text begins with; 0: there is none. Stops at a NUL. */
size_t json_utf8_bytes(const char *text);

#endif
