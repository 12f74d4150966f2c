/* Reading JSON: a text becomes a tree of values. */
#include "cli/look/json_read.h"

#include <ctype.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "frontend/report/json.h"

#define DEPTH_MAX 64

struct reader {
	char *at, *end; /* in a copy, where strings lose their escapes in place */
	unsigned int depth;
	bool failed;
};

static struct json_value *read_value(struct reader *reader);

static void skip_space(struct reader *reader)
{
	while (reader->at < reader->end && strchr(" \t\r\n", *reader->at))
		reader->at++;
}

/* The next byte that is no space, if it is @byte. */
static bool take(struct reader *reader, char byte)
{
	skip_space(reader);
	if (reader->at == reader->end || *reader->at != byte)
		return false;
	reader->at++;
	return true;
}

/* The byte that an escape means; 0: none of one byte. */
static char escaped(const char *at)
{
	static const char names[] = "\"\\/bfnrt", bytes[] = "\"\\/\b\f\n\r\t";
	const char *name = *at ? strchr(names, *at) : NULL;
	char digits[5] = "";
	unsigned long code;

	if (name)
		return bytes[name - names];
	if (*at != 'u')
		return 0;
	for (size_t i = 0; i < 4; i++) {
		if (!isxdigit((unsigned char)at[i + 1]))
			return 0;
		digits[i] = at[i + 1];
	}
	code = strtoul(digits, NULL, 16);
	return code && code < 0x80 ? (char)code : 0;
}

/* Controls of a terminal, and what is no UTF-8, do not get out of here: names are printed. */
static size_t shown_bytes(const char *at)
{
	size_t bytes = json_utf8_bytes(at);
	const unsigned char *byte = (const unsigned char *)at;

	if (byte[0] < ' ' || byte[0] == 0x7f || (bytes == 2 && byte[0] == 0xc2 && byte[1] < 0xa0))
		return 0;
	return bytes;
}

/* Behind the opening quote. Terminated where it stands; NULL: it has no end. */
static const char *read_string(struct reader *reader)
{
	char *start = reader->at, *to = start;

	while (reader->at < reader->end && *reader->at != '"') {
		char meant = *reader->at == '\\' ? escaped(reader->at + 1) : 0;
		size_t bytes = shown_bytes(meant ? &meant : reader->at);

		if (meant) {
			reader->at += reader->at[1] == 'u' ? 6 : 2;
			*to++ = bytes ? meant : '?';
		} else if (bytes) {
			memmove(to, reader->at, bytes);
			reader->at += bytes;
			to += bytes;
		} else {
			reader->at++;
			*to++ = '?';
		}
	}
	if (reader->at >= reader->end)
		return NULL;
	reader->at++;
	*to = '\0';
	return start;
}

static void free_list(struct json_value *value)
{
	while (value) {
		struct json_value *next = value->next;

		free_list(value->first);
		if (value->kind == JSON_NUMBER)
			free((void *)(uintptr_t)value->text);
		free(value);
		value = next;
	}
}

/* The members of an object or the values of an array, up to @close. */
static void read_inside(struct reader *reader, struct json_value *outer, char close)
{
	struct json_value **link = &outer->first;

	if (take(reader, close))
		return;
	do {
		const char *key = NULL;

		if (close == '}') {
			key = take(reader, '"') ? read_string(reader) : NULL;
			reader->failed |= !key || !take(reader, ':');
		}
		*link = reader->failed ? NULL : read_value(reader);
		if (!*link)
			return;
		(*link)->key = key;
		link = &(*link)->next;
	} while (take(reader, ','));
	reader->failed |= !take(reader, close);
}

/* A number's text is a copy of its own: what follows it must not be overwritten by its end. */
static void read_word(struct reader *reader, struct json_value *value)
{
	char *start = reader->at;

	while (reader->at < reader->end &&
	       (isalnum((unsigned char)*reader->at) || (*reader->at && strchr("+-.", *reader->at))))
		reader->at++;
	if (reader->at - start == 4 && !strncmp(start, "true", 4)) {
		value->kind = JSON_BOOL;
		value->number = 1;
	} else if (reader->at - start == 5 && !strncmp(start, "false", 5)) {
		value->kind = JSON_BOOL;
	} else if (reader->at - start == 4 && !strncmp(start, "null", 4)) {
		value->kind = JSON_NULL;
	} else {
		value->kind = JSON_NUMBER;
		value->text = strndup(start, (size_t)(reader->at - start));
		value->number = value->text && *start != '-' ? strtoull(value->text, NULL, 10) : 0;
		reader->failed |=
		    !value->text || !(isdigit((unsigned char)*start) || *start == '-');
	}
}

/* NULL: it failed. */
static struct json_value *read_value(struct reader *reader)
{
	struct json_value *value = calloc(1, sizeof(*value));

	if (!value || ++reader->depth > DEPTH_MAX) {
		free(value);
		reader->failed = true;
		return NULL;
	}
	if (take(reader, '{')) {
		value->kind = JSON_OBJECT;
		read_inside(reader, value, '}');
	} else if (take(reader, '[')) {
		value->kind = JSON_ARRAY;
		read_inside(reader, value, ']');
	} else if (take(reader, '"')) {
		value->kind = JSON_STRING;
		value->text = read_string(reader);
		reader->failed |= !value->text;
	} else if (reader->at < reader->end) {
		read_word(reader, value);
	} else {
		reader->failed = true;
	}
	reader->depth--;
	if (!reader->failed)
		return value;
	free_list(value);
	return NULL;
}

/* The copy of the text stands behind the root, which strings point into. */
struct root {
	struct json_value value;
	char *copy;
};

struct json_value *json_read(const char *text, size_t size_bytes)
{
	struct reader reader = {0};
	struct root *root = calloc(1, sizeof(*root));
	struct json_value *value = NULL;

	if (root)
		root->copy = malloc(size_bytes + 1);
	if (root && root->copy) {
		memcpy(root->copy, text, size_bytes);
		root->copy[size_bytes] = '\0';
		reader.at = root->copy;
		reader.end = root->copy + size_bytes;
		value = read_value(&reader);
		skip_space(&reader);
	}
	if (value && reader.at == reader.end) {
		root->value = *value;
		free(value);
		return &root->value;
	}
	free_list(value);
	if (root)
		free(root->copy);
	free(root);
	return NULL;
}

void json_read_free(struct json_value *value)
{
	struct root *root = (struct root *)value;

	if (!root)
		return;
	free_list(value->first);
	if (value->kind == JSON_NUMBER)
		free((void *)(uintptr_t)value->text);
	free(root->copy);
	free(root);
}

const struct json_value *json_member(const struct json_value *value, const char *key)
{
	const struct json_value *member;

	if (!value || value->kind != JSON_OBJECT)
		return NULL;
	json_each(member, value) if (!strcmp(member->key, key)) break;
	return member;
}

uint64_t json_member_number(const struct json_value *value, const char *key)
{
	const struct json_value *member = json_member(value, key);

	return member ? member->number : 0;
}

const char *json_member_text(const struct json_value *value, const char *key)
{
	const struct json_value *member = json_member(value, key);

	return member && member->text ? member->text : "";
}
