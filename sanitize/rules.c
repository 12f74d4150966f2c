/* Suppressions: which findings a run keeps to itself. Stands alone; the command parses with it. */
#include "sanitize/rules.h"

#include <errno.h>
#include <string.h>

const char *const sanitize_kind_names[SANITIZE_KINDS] = {
    [SANITIZE_TLB] = "tlb",
    [SANITIZE_PRIVATE] = "private",
    [SANITIZE_DIRTY] = "dirty",
    [SANITIZE_SLOT] = "slot",
};

uint32_t sanitize_kind_bit(const char *name, size_t length)
{
	for (unsigned int i = 0; i < SANITIZE_KINDS; i++)
		if (strlen(sanitize_kind_names[i]) == length &&
		    !memcmp(sanitize_kind_names[i], name, length))
			return 1u << i;
	return 0;
}

int sanitize_rule_parse(const char *line, struct sanitize_rule *rule)
{
	const char *start = line + strspn(line, " \t");
	size_t length = strcspn(start, "\r\n"), kind_length;
	uint32_t bit;

	while (length && (start[length - 1] == ' ' || start[length - 1] == '\t'))
		length--;
	if (!length || *start == '#')
		return 0;
	kind_length = strcspn(start, ":");
	if (kind_length + 1 >= length || length - kind_length - 1 >= sizeof(rule->pattern))
		return -EINVAL;
	bit = sanitize_kind_bit(start, kind_length);
	if (!bit)
		return -EINVAL;
	rule->kind = (uint32_t)__builtin_ctz(bit);
	memcpy(rule->pattern, start + kind_length + 1, length - kind_length - 1);
	rule->pattern[length - kind_length - 1] = '\0';
	return 1;
}

/* Does @text begin with what @pattern says? A "$" at the pattern's end wants the text's end. */
static bool begins_with(const char *pattern, const char *text)
{
	/* Where to go on when a "*" is to take one character more. */
	const char *star = NULL, *resume = NULL;

	for (;;) {
		if (*pattern == '*') {
			star = ++pattern;
			resume = text;
			continue;
		}
		if (!*pattern || (pattern[0] == '$' && !pattern[1] && !*text))
			return true;
		if (*text && *pattern == *text) {
			pattern++;
			text++;
			continue;
		}
		if (!star || !*resume)
			return false;
		pattern = star;
		text = ++resume;
	}
}

bool sanitize_pattern_fits(const char *pattern, const char *text)
{
	if (*pattern == '^')
		return begins_with(pattern + 1, text);
	for (;; text++) {
		if (begins_with(pattern, text))
			return true;
		if (!*text)
			return false;
	}
}

static bool fits_stack(const char *pattern, const struct sanitize_places *stack)
{
	for (uint32_t i = 0; i < stack->count && i < SANITIZE_FRAMES; i++)
		if ((*stack->list[i].function &&
		     sanitize_pattern_fits(pattern, stack->list[i].function)) ||
		    (*stack->list[i].module &&
		     sanitize_pattern_fits(pattern, stack->list[i].module)))
			return true;
	return false;
}

bool sanitize_rules_fit(const struct sanitize_control *control,
			const struct sanitize_record *record)
{
	for (uint32_t i = 0; i < control->rule_count && i < SANITIZE_RULES; i++) {
		const struct sanitize_rule *rule = &control->rules[i];

		if (rule->kind == record->kind && (fits_stack(rule->pattern, &record->used) ||
						   fits_stack(rule->pattern, &record->changed)))
			return true;
	}
	return false;
}
