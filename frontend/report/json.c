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

size_t json_utf8_bytes(const char *text)
{
	const unsigned char *byte = (const unsigned char *)text;
	size_t count = byte[0] < 0x80 ? 1 : byte[0] < 0xe0 ? 2 : byte[0] < 0xf0 ? 3 : 4;

	if ((byte[0] >= 0x80 && byte[0] < 0xc2) || byte[0] > 0xf4)
		return 0;
	for (size_t i = 1; i < count; i++)
		if ((byte[i] & 0xc0) != 0x80)
			return 0;
	/* Longer than it need be, half of a pair of UTF-16, beyond what there is. */
	if ((byte[0] == 0xe0 && byte[1] < 0xa0) || (byte[0] == 0xed && byte[1] > 0x9f) ||
	    (byte[0] == 0xf0 && byte[1] < 0x90) || (byte[0] == 0xf4 && byte[1] > 0x8f))
		return 0;
	return count;
}

/*
 * RFC 8259 wants UTF-8, with quotes, backslashes and control characters escaped. A program's name
 * is any bytes, and may be cut within a character.
 */
static void put_string(struct json *json, const char *text)
{
	char escape[8];
	size_t bytes;

	put_char(json, '"');
	for (; *text; text += bytes ? bytes : 1) {
		unsigned char byte = (unsigned char)*text;

		bytes = json_utf8_bytes(text);
		if (!bytes) {
			put_text(json, "\xef\xbf\xbd"); /* the replacement character */
			continue;
		}
		if (byte < ' ') {
			snprintf(escape, sizeof(escape), "\\u%04x", byte);
			put_text(json, escape);
			continue;
		}
		if (byte == '"' || byte == '\\')
			put_char(json, '\\');
		put(json, text, bytes);
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
