/* Sanitizers for a VMM's author: what detectors find is reported here. */
#ifndef QUIRE_SANITIZE_REPORT_H
#define QUIRE_SANITIZE_REPORT_H

#include <stdbool.h>
#include <stdint.h>

#include "sanitize/control.h"
#include "sanitize/stack.h"

/* Bits by enum sanitize_kind; set before the client's first instruction, never changed. */
extern uint32_t sanitize_kinds __attribute__((visibility("hidden")));

/* Does this run look for such things? One load, for paths that every client takes. */
static inline bool sanitize_is_on(enum sanitize_kind kind)
{
	return sanitize_kinds >> kind & 1;
}

/* The run's directory, or NULL. Once, when the library is loaded; makes plain file calls. */
void sanitize_attach(const char *directory);

struct sanitize_finding {
	enum sanitize_kind kind;
	const char *what;		 /* what happened, in one sentence without its full stop */
	uint64_t guest_start, guest_end; /* bytes of guest memory; empty: none */
	uint64_t host_start, host_end;	 /* likewise of the client's */
	uint32_t slot;			 /* SANITIZE_NO_SLOT: none */
	uint64_t detail;		 /* tells findings of the same stacks apart; 0: nothing */
	const char *mapped;		 /* what was mapped there; NULL: not known */
	const struct sanitize_stack *changed; /* of the change, taken then; NULL: not known */
	const struct sanitize_stack *used;    /* of the use, taken now; NULL: not known */
};

/*
 * Say it, unless the run has said it already or a suppression covers it. Findings are the same that
 * have one kind, one .detail and, by module and offset, one innermost frame of each stack. The text
 * goes to the standard error output, the record to the run's file; both take some milliseconds.
 *
 * Any thread, signal handlers of ours too; inside a client call or in such a handler, with no lock
 * held: the write waits for the reader of the standard error output. Signals wait meanwhile.
 */
void sanitize_report(const struct sanitize_finding *finding);

/* What is mapped at @address, as words for .mapped: the file or its kind, and the rights. */
void sanitize_describe(uint64_t address, char words[SANITIZE_WORDS_BYTES]);

#endif
