/* Writing JSON: brackets, commas and the escapes of strings. */
#ifndef QUIRE_CLI_JSON_H
#define QUIRE_CLI_JSON_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/* Start with {.file = ...}. Objects and arrays end in the order in which they began. */
struct json {
	FILE *file;
	unsigned int depth;
	bool has_member; /* the innermost has one, so that a comma comes first */
	char ends[16];	 /* by depth: what closes it */
};

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

#endif
