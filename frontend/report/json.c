/* Writing JSON, into a file or into memory: brackets, commas and the escapes of strings. */
#include "frontend/report/json.h"

#include <inttypes.h>
#include <string.h>

static void put(struct json *json, const char *text, size_t size_bytes)
{
	if (json->file) {
		fwrite(text, 1, size_bytes, json->file);
		return;
	}
	if (json->is_full || size_bytes > json->size_bytes - json->used_bytes) {
		json->is_full = true;
		return;
	}
	memcpy(json->start + json->used_bytes, text, size_bytes);
	json->used_bytes += size_bytes;
}

static void put_text(struct json *json, const char *text)
{
	put(json, text, strlen(text));
}

static void put_char(struct json *json, char byte)
{
	put(json, &byte, 1);
}

/* RFC 8259 wants quotes, backslashes and control characters escaped. */
static void put_string(struct json *json, const char *text)
{
	char escape[8];

	put_char(json, '"');
	for (; *text; text++) {
		unsigned char byte = (unsigned char)*text;

		if (byte < ' ') {
			snprintf(escape, sizeof(escape), "\\u%04x", byte);
			put_text(json, escape);
			continue;
		}
		if (byte == '"' || byte == '\\')
			put_char(json, '\\');
		put_char(json, (char)byte);
	}
	put_char(json, '"');
}

static unsigned int lined_depth(const struct json *json)
{
	return json->lined_depth ? json->lined_depth : JSON_LINED_DEPTH;
}

static void new_line(struct json *json, unsigned int depth)
{
	put_char(json, '\n');
	for (unsigned int i = 0; i < depth; i++)
		put_text(json, "  ");
}

/* What comes before a value. */
static void begin_member(struct json *json, const char *key)
{
	if (json->has_member)
		put_char(json, ',');
	if (json->depth && json->depth <= lined_depth(json))
		new_line(json, json->depth);
	else if (json->has_member)
		put_char(json, ' ');
	json->has_member = true;
	if (!key)
		return;
	put_string(json, key);
	put_text(json, ": ");
}

static void begin_scope(struct json *json, const char *key, const char brackets[2])
{
	begin_member(json, key);
	put_char(json, brackets[0]);
	json->ends[json->depth++] = brackets[1];
	json->has_member = false;
}

void json_object(struct json *json, const char *key)
{
	begin_scope(json, key, "{}");
}

void json_array(struct json *json, const char *key)
{
	begin_scope(json, key, "[]");
}

void json_end(struct json *json)
{
	char end = json->ends[--json->depth];

	if (json->has_member && json->depth < lined_depth(json))
		new_line(json, json->depth);
	put_char(json, end);
	if (!json->depth)
		put_char(json, '\n');
	json->has_member = true;
}

void json_string(struct json *json, const char *key, const char *text)
{
	begin_member(json, key);
	put_string(json, text);
}

void json_bool(struct json *json, const char *key, bool value)
{
	json_number(json, key, value ? "true" : "false");
}

void json_signed(struct json *json, const char *key, int64_t value)
{
	char text[24];

	snprintf(text, sizeof(text), "%" PRId64, value);
	json_number(json, key, text);
}

void json_unsigned(struct json *json, const char *key, uint64_t value)
{
	char text[24];

	snprintf(text, sizeof(text), "%" PRIu64, value);
	json_number(json, key, text);
}

void json_number(struct json *json, const char *key, const char *text)
{
	begin_member(json, key);
	put_text(json, text);
}

void json_real(struct json *json, const char *key, double value, int digits)
{
	char text[400]; /* the largest double, and digits behind the point */

	snprintf(text, sizeof(text), "%.*f", digits, value);
	json_number(json, key, text);
}

void json_members(struct json *json, const char *text, size_t size_bytes)
{
	if (!size_bytes)
		return;
	put(json, text, size_bytes);
	json->has_member = true;
}
