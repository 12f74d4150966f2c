/* Reading JSON: a text becomes a tree of values. */
#ifndef QUIRE_CLI_LOOK_JSON_READ_H
#define QUIRE_CLI_LOOK_JSON_READ_H

#include <stddef.h>
#include <stdint.h>

enum json_kind { JSON_NULL, JSON_BOOL, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT };

struct json_value {
	enum json_kind kind;
	const char *key;  /* in an object, else NULL */
	const char *text; /* a string without its escapes, or a number as it was written */
	uint64_t number;  /* whole and not negative; or 1 for true */
	struct json_value *first, *next; /* what is inside; what follows beside it */
};

/*
 * NULL: no JSON, nested too deep, or no memory. Escapes beyond ASCII are kept as they stand.
 * Strings have '?' for control characters and what is no UTF-8, so that they may be printed.
 */
struct json_value *json_read(const char *text, size_t size_bytes);
void json_read_free(struct json_value *root);

/* The member @key of an object; NULL where there is none, or @value is NULL or no object. */
const struct json_value *json_member(const struct json_value *value, const char *key);
/* Its number, or 0. */
uint64_t json_member_number(const struct json_value *value, const char *key);
/* Its text, or "". */
const char *json_member_text(const struct json_value *value, const char *key);

#define json_each(item, list) \
	for ((item) = (list) ? (list)->first : NULL; (item); (item) = (item)->next)

#endif
