/* A small KVM client: a guest with private memory, shown from both sides, and migrated. */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "copy.h"
#include "machine.h"
#include "stats.h"

#define EXIT_UNSUPPORTED 4 /* as the kernel's selftests say that they cannot run */
#define EXIT_KINDS 64
#define CYCLES_PER_WRITE 400000

struct story {
	struct machine machine;
	struct copy copy;
	unsigned long exits[EXIT_KINDS];
	unsigned int wrong;
	unsigned int repaired; /* memory faults */
	int busy;	       /* the guest has come to STEP_BUSY */
};

static void expect(struct story *story, int truth, const char *what)
{
	printf("  %-6s%s\n", truth ? "ok" : "WRONG", what);
	story->wrong += !truth;
}

/* Counts the shared pages of SECRET that hold the given word, as the host sees them. */
static unsigned long host_sees(const struct story *story, unsigned long word)
{
	const uint64_t *memory = (const void *)story->machine.memory[SLOT_SECRET].host;
	unsigned long pages = 0;

	for (size_t page = 0; page < SECRET_PAGES; page++) {
		size_t same = 0;

		while (same < PAGE_WORDS && memory[page * PAGE_WORDS + same] == word + page)
			same++;
		pages += same == PAGE_WORDS;
	}
	return pages;
}

static void host_writes(struct story *story, unsigned long word)
{
	uint64_t *memory = (void *)story->machine.memory[SLOT_SECRET].host;

	for (size_t i = 0; i < SECRET_PAGES * PAGE_WORDS; i++)
		memory[i] = word + i / PAGE_WORDS;
}

/* The file of the private pages gives nothing away. */
static void try_the_file(struct story *story)
{
	int fd = story->machine.secret_fd;
	char byte = 0;
	char text[120];
	void *mapped = mmap(NULL, PAGE_BYTES, PROT_READ, MAP_SHARED, fd, 0);

	snprintf(text, sizeof(text), "mmap of the guest_memfd is refused (%s)",
		 mapped == MAP_FAILED ? strerror(errno) : "it was not");
	expect(story, mapped == MAP_FAILED, text);

	ssize_t got = read(fd, &byte, 1);

	snprintf(text, sizeof(text), "reading it is refused (%s)",
		 got < 0 ? strerror(errno) : "it was not");
	expect(story, got < 0, text);
	got = write(fd, &byte, 1);
	snprintf(text, sizeof(text), "writing it is refused (%s)",
		 got < 0 ? strerror(errno) : "it was not");
	expect(story, got < 0, text);
}

/* The guest found every word that it should have found. */
static int guest_is_content(const struct story *story)
{
	return story->machine.mailbox->wrong_words == 0;
}

static void on_step(struct story *story, uint32_t step)
{
	switch (step) {
	case STEP_SHARED_WRITTEN:
		expect(story, host_sees(story, SHARED_WORD) == SECRET_PAGES,
		       "the guest filled 64 shared pages, and the host sees their bytes");
		break;
	case STEP_PRIVATE_WRITTEN:
		expect(story, guest_is_content(story),
		       "the guest made them private, found them empty and wrote its secret");
		expect(story,
		       host_sees(story, SHARED_WORD) == SECRET_PAGES &&
			   host_sees(story, PRIVATE_WORD) == 0,
		       "the host's address of each page still holds the old bytes");
		try_the_file(story);
		host_writes(story, TAMPER_WORD);
		break;
	case STEP_PRIVATE_CHECKED:
		expect(story, guest_is_content(story),
		       "the host overwrote its own pages: the guest's secret is untouched");
		break;
	case STEP_SHARED_AGAIN:
		expect(
		    story,
		    guest_is_content(story) && host_sees(story, AGAIN_WORD) == SECRET_PAGES / 2,
		    "half made shared again: the guest saw the host's bytes, the host the guest's");
		break;
	case STEP_PRIVATE_AGAIN:
		expect(story, guest_is_content(story),
		       "and private again: that half is empty, the other kept its secret");
		break;
	case STEP_BEFORE_FAULT:
		if (machine_convert(&story->machine, BUSY_GPA, PAGE_BYTES, VISIBLE_PRIVATE))
			story->wrong += complain("KVM_SET_MEMORY_ATTRIBUTES") != 0;
		break;
	case STEP_BUSY:
		expect(story, story->repaired == 1,
		       "a private page without private memory stopped the guest, and was mended");
		story->busy = 1;
		break;
	default:
		expect(story, 0, "the guest reported an unknown step");
	}
}

/* The guest asks for pages to be made private or shared. */
static void on_hypercall(struct story *story)
{
	struct kvm_run *run = story->machine.run;
	uint64_t gpa = run->hypercall.args[0];
	uint64_t size_bytes = run->hypercall.args[1] * PAGE_BYTES;
	int to_private = run->hypercall.args[2] >> 4 & 1;
	int failed;

	if (run->hypercall.nr != KVM_HC_MAP_GPA_RANGE || gpa != SECRET_GPA ||
	    size_bytes > SECRET_PAGES * PAGE_BYTES) {
		run->hypercall.ret = (uint64_t)-EINVAL;
		return;
	}
	failed = machine_convert(&story->machine, gpa, size_bytes,
				 to_private ? VISIBLE_PRIVATE : VISIBLE_SHARED);
	/* What was private is thrown away, so that it is empty when it comes back. */
	if (!failed && !to_private)
		failed =
		    fallocate(story->machine.secret_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			      0, (off_t)size_bytes);
	run->hypercall.ret = failed ? (uint64_t)-errno : 0;
}

/* KVM says which page the guest could not reach, and as what it wanted it. */
static int on_memory_fault(struct story *story)
{
	struct memory_fault_exit fault;

	memcpy(&fault, &story->machine.run->hw, sizeof(fault));
	if (fault.gpa != BUSY_GPA || fault.flags != MEMORY_FAULT_PRIVATE) {
		fprintf(stderr, "private-vm: memory fault at %#llx, flags %#llx\n",
			(unsigned long long)fault.gpa, (unsigned long long)fault.flags);
		return -1;
	}
	story->repaired++;
	return machine_convert(&story->machine, fault.gpa, PAGE_BYTES, VISIBLE_SHARED);
}

/* 1: the guest goes on; 0: it has halted; -1: something is wrong. */
static int run_once(struct story *story)
{
	struct machine *machine = &story->machine;
	struct kvm_run *run = machine->run;
	int result = ioctl(machine->vcpu, KVM_RUN, 0);
	int error = errno;

	if (result < 0 && error == EINTR)
		return 1;
	if (result < 0 && !(error == EFAULT && run->exit_reason == KVM_EXIT_MEMORY_FAULT))
		return complain("KVM_RUN");
	if (run->exit_reason < EXIT_KINDS)
		story->exits[run->exit_reason]++;
	switch (run->exit_reason) {
	case KVM_EXIT_IO:
		if (run->io.port == STEP_PORT)
			on_step(story, *(uint32_t *)((uint8_t *)run + run->io.data_offset));
		return 1;
	case KVM_EXIT_HYPERCALL:
		on_hypercall(story);
		return 1;
	case KVM_EXIT_MEMORY_FAULT:
		return on_memory_fault(story) ? -1 : 1;
	case KVM_EXIT_HLT:
		return 0;
	default:
		fprintf(stderr, "private-vm: the guest stopped with exit %u\n", run->exit_reason);
		return -1;
	}
}

static void *run_until_halt(void *arg)
{
	int result = 1;

	while (result > 0)
		result = run_once(arg);
	return result ? arg : NULL;
}

/* Copies BUSY while another thread runs the guest; then stops it and compares. */
static int migrate(struct story *story)
{
	struct copy *copy = &story->copy;
	pthread_t runner;
	void *failed;

	story->machine.mailbox->cycles_per_write = CYCLES_PER_WRITE;
	errno = pthread_create(&runner, NULL, run_until_halt, story);
	if (errno)
		return complain("pthread_create");

	int result = copy_while_running(copy, &story->machine);

	story->machine.mailbox->stop = 1;
	if (result)
		return -1;
	pthread_join(runner, &failed);
	if (failed || copy_rest(copy))
		return -1;
	expect(story, copy->converged, "the changing memory was copied until few pages changed");
	expect(story, copy_differences(copy) == 0,
	       "with the guest stopped and the rest copied, memory and copy are equal");
	return 0;
}

static void show_stats(const char *label, int fd, struct stat_value *values, unsigned int count)
{
	printf("%s", label);
	if (stats_read(fd, values, count) == 0)
		for (unsigned int i = 0; i < count; i++)
			if (values[i].found)
				printf("  %s %llu", values[i].name,
				       (unsigned long long)values[i].value);
	printf("\n");
}

static void show_summary(struct story *story)
{
	static const struct {
		unsigned int reason;
		const char *name;
	} exits[] = {{KVM_EXIT_IO, "io"},
		     {KVM_EXIT_HYPERCALL, "hypercall"},
		     {KVM_EXIT_MEMORY_FAULT, "memory_fault"},
		     {KVM_EXIT_HLT, "hlt"}};
	struct stat_value faults[] = {{.name = "pf_taken"},
				      {.name = "pf_fixed"},
				      {.name = "pf_fast"},
				      {.name = "pf_spurious"},
				      {.name = "tlb_flush"}};
	struct stat_value pages[] = {
	    {.name = "pages_4k"}, {.name = "pages_2m"}, {.name = "pages_1g"}};
	const struct copy *copy = &story->copy;

	printf("\nexits ");
	for (size_t i = 0; i < sizeof(exits) / sizeof(exits[0]); i++)
		printf("  %s %lu", exits[i].name, story->exits[exits[i].reason]);
	printf("\n");
	show_stats("faults", story->machine.vcpu, faults, sizeof(faults) / sizeof(faults[0]));
	show_stats("pages ", story->machine.vm, pages, sizeof(pages) / sizeof(pages[0]));
	printf("copy    round  pages  guest writes        ms\n");
	for (unsigned int i = 0; i < copy->rounds; i++)
		printf("        %5u  %5u  %12lu  %8.2f%s\n", i + 1, copy->round[i].pages,
		       copy->round[i].guest_writes, copy->round[i].milliseconds,
		       i + 1 == copy->rounds ? "  (guest stopped)" : "");
}

int main(void)
{
	static struct story story;
	enum created created = machine_create(&story.machine);
	int result = 1;

	if (created != MACHINE_READY)
		return created == MACHINE_UNSUPPORTED ? EXIT_UNSUPPORTED : 1;
	setvbuf(stdout, NULL, _IOLBF, 0);
	printf("private-vm: one guest with %lu private pages and %lu busy ones\n\n", SECRET_PAGES,
	       BUSY_PAGES);
	while (result > 0 && !story.busy)
		result = run_once(&story);
	if (result <= 0) {
		fprintf(stderr, "private-vm: the guest did not come to its end\n");
		return 1;
	}
	if (migrate(&story))
		return 1;
	show_summary(&story);
	printf("\n%s\n", story.wrong ? "FAILED" : "All as it should be.");
	return story.wrong ? 1 : 0;
}
