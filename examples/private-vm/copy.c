/* Pre-copy with KVM_GET_DIRTY_LOG: the log of a round says what the next one has to send. */
#include "copy.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define LOG_BITS 64
#define LOG_WORDS (BUSY_PAGES / LOG_BITS)
#define FEW_PAGES 32
/* The imagined wire: while it carries this many pages, the guest makes one write. */
#define PAGES_PER_WRITE 8
#define PATIENCE_NS 20e9

static double now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

/* Waits until the guest has made @more writes; -1 when it seems to have stopped. */
static int wait_for_writes(const struct machine *machine, unsigned long more)
{
	unsigned long start = machine->mailbox->writes;
	double deadline = now_ns() + PATIENCE_NS;

	while (machine->mailbox->writes - start < more) {
		if (now_ns() > deadline) {
			errno = ETIMEDOUT;
			return complain("waiting for the guest's writes");
		}
		usleep(50);
	}
	return 0;
}

static void copy_page(struct copy *copy, size_t page)
{
	size_t offset = page * PAGE_BYTES;

	memcpy(copy->target + offset, copy->machine->memory[SLOT_BUSY].host + offset, PAGE_BYTES);
}

/* Fetches and clears the log, copies what it names. Returns the number of pages, or -1. */
static int copy_logged(struct copy *copy)
{
	uint64_t bitmap[LOG_WORDS] = {0};
	struct kvm_dirty_log log = {.slot = SLOT_BUSY, .dirty_bitmap = bitmap};
	int pages = 0;

	if (ioctl(copy->machine->vm, KVM_GET_DIRTY_LOG, &log) < 0)
		return complain("KVM_GET_DIRTY_LOG");
	for (size_t word = 0; word < LOG_WORDS; word++) {
		for (uint64_t bits = bitmap[word]; bits; bits &= bits - 1) {
			copy_page(copy, word * LOG_BITS + (size_t)__builtin_ctzll(bits));
			pages++;
		}
	}
	return pages;
}

static int copy_everything(struct copy *copy)
{
	for (size_t page = 0; page < BUSY_PAGES; page++)
		copy_page(copy, page);
	return BUSY_PAGES;
}

/* One round: send, then let the guest work for as long as the wire would take. */
static int run_round(struct copy *copy)
{
	struct copy_round *round = &copy->round[copy->rounds];
	unsigned long writes = copy->machine->mailbox->writes;
	double start = now_ns();
	int pages = copy->rounds == 0 ? copy_everything(copy) : copy_logged(copy);

	if (pages < 0)
		return -1;
	if (wait_for_writes(copy->machine, (unsigned long)pages / PAGES_PER_WRITE))
		return -1;
	round->pages = (unsigned int)pages;
	round->guest_writes = copy->machine->mailbox->writes - writes;
	round->milliseconds = (now_ns() - start) / 1e6;
	copy->rounds++;
	return pages;
}

int copy_while_running(struct copy *copy, struct machine *machine)
{
	copy->machine = machine;
	copy->target = calloc(BUSY_PAGES, PAGE_BYTES);
	if (!copy->target)
		return complain("memory for the copy");
	if (machine_set_slot(machine, SLOT_BUSY, KVM_MEM_LOG_DIRTY_PAGES))
		return complain("turning dirty logging on");
	/* The guest is at work before the first round starts. */
	if (wait_for_writes(machine, 2))
		return -1;
	while (!copy->converged && copy->rounds < COPY_MAX_ROUNDS) {
		int pages = run_round(copy);

		if (pages < 0)
			return -1;
		copy->converged = pages <= FEW_PAGES;
	}
	return 0;
}

int copy_rest(struct copy *copy)
{
	struct copy_round *last = &copy->round[copy->rounds];
	double start = now_ns();
	int pages = copy_logged(copy);

	if (pages < 0)
		return -1;
	last->pages = (unsigned int)pages;
	last->milliseconds = (now_ns() - start) / 1e6;
	copy->rounds++;
	if (machine_set_slot(copy->machine, SLOT_BUSY, 0))
		return complain("turning dirty logging off");
	return 0;
}

size_t copy_differences(const struct copy *copy)
{
	const uint8_t *memory = copy->machine->memory[SLOT_BUSY].host;
	size_t wrong = 0;

	for (size_t i = 0; i < BUSY_PAGES * PAGE_BYTES; i++)
		wrong += memory[i] != copy->target[i];
	return wrong;
}
