/* Suppressions: which findings a run keeps to itself. */
#ifndef QUIRE_SANITIZE_RULES_H
#define QUIRE_SANITIZE_RULES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "sanitize/control.h"

/* The bit of the kind that the @length characters at @name spell; 0: none. */
uint32_t sanitize_kind_bit(const char *name, size_t length);

/*
 * A line of a suppressions file, as LSan and TSan have them: "kind:pattern", "#" before a remark,
 * or nothing. 1: *@rule is one; 0: the line says nothing; -EINVAL: it is no such line.
 */
int sanitize_rule_parse(const char *line, struct sanitize_rule *rule);

/*
 * Does @pattern stand in @text? "*" is any characters; "^" at its start and "$" at its end hold it
 * to those of the text.
 */
bool sanitize_pattern_fits(const char *pattern, const char *text);

/* Does a rule name a function or a module of one of the record's stacks? */
bool sanitize_rules_fit(const struct sanitize_control *control,
			const struct sanitize_record *record);

#endif
