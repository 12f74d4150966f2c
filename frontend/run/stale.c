/* A guest's use of a translation that it should have flushed, as a finding of --sanitize=tlb. */
#include <inttypes.h>
#include <stdio.h>

#include "frontend/run/exit.h"
#include "sanitize/report.h"
#include "vcpu/mem/pte.h"

#define RIGHTS_BYTES 24u

static void print_rights(char text[RIGHTS_BYTES], uint64_t rights)
{
	snprintf(text, RIGHTS_BYTES, "r%s%s %s", rights & PTE_W ? "w" : "-",
		 rights & PTE_NX ? "-" : "x", rights & PTE_U ? "user" : "supervisor");
}

/* What the vCPU held, and what it should have found. */
static void print_mapped(char words[SANITIZE_WORDS_BYTES], const struct cpu_stale *stale)
{
	char held[RIGHTS_BYTES], now[RIGHTS_BYTES];

	print_rights(held, stale->held_rights);
	print_rights(now, stale->rights);
	if (stale->is_table)
		snprintf(words, SANITIZE_WORDS_BYTES,
			 "held: the table at guest address %#" PRIx64
			 "; now: the entry at %#" PRIx64 " has another, or none",
			 stale->held_gpa, stale->entry_gpa);
	else if (stale->is_mapped)
		snprintf(words, SANITIZE_WORDS_BYTES,
			 "held: guest address %#" PRIx64 " (%s); now: %#" PRIx64
			 " (%s), by the entry at %#" PRIx64,
			 stale->held_gpa, held, stale->gpa, now, stale->entry_gpa);
	else
		snprintf(words, SANITIZE_WORDS_BYTES,
			 "held: guest address %#" PRIx64 " (%s); now: the entry at %#" PRIx64
			 " does not allow that",
			 stale->held_gpa, held, stale->entry_gpa);
}

/*
 * Of the guest's own stores the place is known. Where there was none, the client or another process
 * wrote the entry, or another VM's guest did: nothing tells which.
 */
static void print_what(char words[SANITIZE_WORDS_BYTES], const struct cpu_stale *stale)
{
	const char *access = stale->is_write ? "wrote to" : stale->is_fetch ? "ran" : "read";
	int length = snprintf(
	    words, SANITIZE_WORDS_BYTES,
	    "the %sguest at RIP %#" PRIx64 " %s %s%#" PRIx64
	    ", of which %s had not flushed a translation that its %stables no longer have; ",
	    stale->is_nested ? "nested " : "", stale->rip, access,
	    stale->is_of_l1 ? "its guest address " : "", stale->linear,
	    stale->is_of_l1 ? "its hypervisor" : "it", stale->is_of_l1 ? "nested " : "");

	if (stale->is_guests)
		snprintf(words + length, SANITIZE_WORDS_BYTES - (size_t)length,
			 "vCPU %" PRIu32 " changed them at RIP %#" PRIx64, stale->changer_vcpu,
			 stale->changer_rip);
	else
		snprintf(words + length, SANITIZE_WORDS_BYTES - (size_t)length,
			 "no vCPU of this VM was seen to change them");
}

void exit_report_stale(const struct cpu_stale *stale)
{
	struct sanitize_stack used;
	char what[SANITIZE_WORDS_BYTES], mapped[SANITIZE_WORDS_BYTES];
	struct sanitize_finding finding = {
	    .kind = SANITIZE_TLB,
	    .what = what,
	    .slot = SANITIZE_NO_SLOT,
	    .mapped = mapped,
	    .used = &used,
	    .detail = stale->rip,
	};

	print_what(what, stale);
	print_mapped(mapped, stale);
	sanitize_stack_take(&used);
	sanitize_report(&finding);
}
