/* Writing JSON: brackets, commas and the escapes of strings. */
#include "cli/json.h"

#include <inttypes.h>

/* Members of the outer two levels stand on lines of their own; deeper ones share a line. */
#define LINED_DEPTH 2

/* RFC 8259 wants quotes, backslashes and control characters escaped. */
static void write_string(FILE *file, const char *text)
{
	fputc('"', file);
	for (; *text; text++) {
		unsigned char byte = (unsigned char)*text;

		if (byte < ' ') {
			fprintf(file, "\\u%04x", byte);
			continue;
		}
		if (byte == '"' || byte == '\\')
			fputc('\\', file);
		fputc(byte, file);
	}
	fputc('"', file);
}

static void new_line(const struct json *json, unsigned int depth)
{
	fprintf(json->file, "\n%*s", (int)(2 * depth), "");
}

/* What comes before a value. */
static void begin_member(struct json *json, const char *key)
{
	if (json->has_member)
		fputc(',', json->file);
	if (json->depth && json->depth <= LINED_DEPTH)
		new_line(json, json->depth);
	else if (json->has_member)
		fputc(' ', json->file);
	json->has_member = true;
	if (!key)
		return;
	write_string(json->file, key);
	fputs(": ", json->file);
}

static void begin_scope(struct json *json, const char *key, const char brackets[2])
{
	begin_member(json, key);
	fputc(brackets[0], json->file);
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

	if (json->has_member && json->depth < LINED_DEPTH)
		new_line(json, json->depth);
	fputc(end, json->file);
	if (!json->depth)
		fputc('\n', json->file);
	json->has_member = true;
}

void json_string(struct json *json, const char *key, const char *text)
{
	begin_member(json, key);
	write_string(json->file, text);
}

void json_bool(struct json *json, const char *key, bool value)
{
	begin_member(json, key);
	fputs(value ? "true" : "false", json->file);
}

void json_signed(struct json *json, const char *key, int64_t value)
{
	begin_member(json, key);
	fprintf(json->file, "%" PRId64, value);
}

void json_unsigned(struct json *json, const char *key, uint64_t value)
{
	begin_member(json, key);
	fprintf(json->file, "%" PRIu64, value);
}

void json_number(struct json *json, const char *key, const char *text)
{
	begin_member(json, key);
	fputs(text, json->file);
}

void json_real(struct json *json, const char *key, double value, int digits)
{
	begin_member(json, key);
	fprintf(json->file, "%.*f", digits, value);
}
