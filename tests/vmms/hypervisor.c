/*
 * A small VMM for a guest: the guest's kernel is a hypervisor then, and what it runs a guest's
 * guest. All the time it takes memory away from its guest and gives it other memory, which that
 * kernel has to flush for; a value that its guest should not read any more is said. The first
 * argument is how many rounds.
 */
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096ul
#define MEMORY_BYTES (2ul << 20)
/* Guest addresses; the tables map the memory to itself. */
#define TABLES 0x1000ul
#define LEAVES (TABLES + 3 * PAGE)
#define FLAGS 0x8000ul /* words: a count of rounds, and whether to end */
#define CODE 0x10000ul
#define WINDOW 0x100000ul
#define WINDOW_PAGES 64ul
#define WINDOW_BYTES (WINDOW_PAGES * PAGE)
#define MACHINES 2
#define VCPUS 2

/* What a vCPU is to do: each ends by HLT, or by a jump to the loop's start. */
extern const uint8_t code_start[], code_work[], code_swap_page[], code_swap_all[], code_loop[],
    code_end[];
__asm__(".pushsection .rodata\n"
	"code_start:\n"
	/* RBX: first page, RCX: count, RDX: what to write. RAX: the sum of what was there. */
	"code_work:\n"
	"	xorl %eax, %eax\n"
	"1:	addq (%rbx), %rax\n"
	"	movq %rdx, (%rbx)\n"
	"	addq $4096, %rbx\n"
	"	incq %rdx\n"
	"	decq %rcx\n"
	"	jnz 1b\n"
	"	hlt\n"
	/* RSI: the entry of RBX's page, which changes its place with that of the page behind it. */
	"code_swap_page:\n"
	"	movq (%rsi), %rax\n"
	"	xchgq %rax, 8(%rsi)\n"
	"	movq %rax, (%rsi)\n"
	"	invlpg (%rbx)\n"
	"	invlpg 4096(%rbx)\n"
	"	hlt\n"
	"code_swap_all:\n"
	"	movq (%rsi), %rax\n"
	"	xchgq %rax, 8(%rsi)\n"
	"	movq %rax, (%rsi)\n"
	"	movq %cr3, %rax\n"
	"	movq %rax, %cr3\n"
	"	hlt\n"
	/* RDI: the words at FLAGS. Reads and writes the window until it is told to end. */
	"code_loop:\n"
	"	movl $0x100000, %ebx\n"
	"	movl $64, %ecx\n"
	"1:	lock incq 8(%rbx)\n"
	"	addq $4096, %rbx\n"
	"	loop 1b\n"
	"	lock incq (%rdi)\n"
	"	cmpq $0, 8(%rdi)\n"
	"	je code_loop\n"
	"	hlt\n"
	"code_end:\n"
	".popsection\n");

static struct machine {
	int vm, vcpus[VCPUS];
	struct kvm_run *runs[VCPUS];
	uint8_t *memory;
	uint64_t written; /* into the window's first page; the others have the next numbers */
} machines[MACHINES];

__attribute__((noreturn, format(printf, 1, 2))) static void fail(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	printf("quire: BAD ");
	vprintf(format, arguments);
	printf("\n");
	va_end(arguments);
	exit(1);
}

static int make(int fd, unsigned long command, unsigned long argument)
{
	int result = ioctl(fd, command, argument);

	if (result < 0)
		fail("ioctl %#lx: %m", command);
	return result;
}

static uint64_t *word_at(const struct machine *machine, uint64_t gpa)
{
	return (uint64_t *)(machine->memory + gpa);
}

static void slot_set(const struct machine *machine, uint64_t size_bytes, uint32_t flags)
{
	struct kvm_userspace_memory_region region = {
	    .flags = flags,
	    .memory_size = size_bytes,
	    .userspace_addr = (uintptr_t)machine->memory,
	};

	make(machine->vm, KVM_SET_USER_MEMORY_REGION, (unsigned long)&region);
}

static void tables_make(const struct machine *machine)
{
	for (unsigned int level = 0; level < 3; level++)
		*word_at(machine, TABLES + level * PAGE) = (TABLES + (level + 1) * PAGE) | 7;
	for (uint64_t page = 0; page < MEMORY_BYTES / PAGE; page++)
		*word_at(machine, LEAVES + 8 * page) = page * PAGE | 7;
}

/* Long mode, with the registers of its segments as a kernel has them. */
static void vcpu_make(struct machine *machine, int kvm, unsigned int index)
{
	struct kvm_segment code = {
	    .limit = ~0u, .selector = 8, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1};
	struct kvm_segment data = {
	    .limit = ~0u, .selector = 16, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1};
	size_t size_bytes = (size_t)make(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	int vcpu = make(machine->vm, KVM_CREATE_VCPU, index);
	struct kvm_sregs sregs;

	make(vcpu, KVM_GET_SREGS, (unsigned long)&sregs);
	sregs.cr3 = TABLES;
	sregs.cr4 = 1 << 5;
	sregs.cr0 = 0x80000011;
	sregs.efer = 0x500;
	sregs.cs = code;
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
	make(vcpu, KVM_SET_SREGS, (unsigned long)&sregs);
	machine->vcpus[index] = vcpu;
	machine->runs[index] = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	if (machine->runs[index] == MAP_FAILED)
		fail("the vCPU's page: %m");
}

static void machine_make(struct machine *machine, int kvm)
{
	machine->vm = make(kvm, KVM_CREATE_VM, 0);
	machine->memory =
	    mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (machine->memory == MAP_FAILED)
		fail("memory: %m");
	tables_make(machine);
	memcpy(machine->memory + CODE, code_start, (size_t)(code_end - code_start));
	slot_set(machine, MEMORY_BYTES, 0);
	for (unsigned int i = 0; i < VCPUS; i++)
		vcpu_make(machine, kvm, i);
}

/* What a vCPU does up to its HLT. */
struct job {
	const struct machine *machine;
	unsigned int vcpu;
	struct kvm_regs regs;
};

static void *run(void *opaque)
{
	struct job *job = opaque;
	int vcpu = job->machine->vcpus[job->vcpu];
	const struct kvm_run *shared = job->machine->runs[job->vcpu];

	job->regs.rflags = 2;
	make(vcpu, KVM_SET_REGS, (unsigned long)&job->regs);
	make(vcpu, KVM_RUN, 0);
	if (shared->exit_reason != KVM_EXIT_HLT)
		fail("exit %u, error %#x", shared->exit_reason, shared->internal.suberror);
	make(vcpu, KVM_GET_REGS, (unsigned long)&job->regs);
	return NULL;
}

static uint64_t place_of(const uint8_t *code)
{
	return CODE + (uint64_t)(code - code_start);
}

/* The sum of @count numbers from @first on. */
static uint64_t sum_of(uint64_t first, uint64_t count)
{
	return count * first + count * (count - 1) / 2;
}

/* The guest reads its window, which has to have that sum, and writes other numbers. */
static void check(struct machine *machine, uint64_t sum, const char *when)
{
	static uint64_t number;
	struct job job = {.machine = machine};

	machine->written = number += 0x1000;
	job.regs.rip = place_of(code_work);
	job.regs.rbx = WINDOW;
	job.regs.rcx = WINDOW_PAGES;
	job.regs.rdx = machine->written;
	run(&job);
	if (job.regs.rax != sum)
		fail("%s: the guest read a sum of %#llx, not %#lx", when, job.regs.rax, sum);
	for (uint64_t page = 0; page < WINDOW_PAGES; page++)
		if (*word_at(machine, WINDOW + page * PAGE) != machine->written + page)
			fail("%s: page %lu has %#lx", when, page,
			     *word_at(machine, WINDOW + page * PAGE));
}

static void check_all(struct machine *machine, const char *when)
{
	check(machine, sum_of(machine->written, WINDOW_PAGES), when);
}

/* Both halves go, each in its way; the second comes with numbers of its own. */
static void replace(struct machine *machine)
{
	const uint64_t half = WINDOW_PAGES / 2;
	uint8_t *window = machine->memory + WINDOW;

	if (madvise(window, half * PAGE, MADV_DONTNEED))
		fail("madvise: %m");
	check(machine, sum_of(machine->written + half, half), "a half was given back");
	if (mmap(window + half * PAGE, half * PAGE, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
		fail("mmap: %m");
	check(machine, sum_of(machine->written, half), "a half was replaced");
}

/* The slot goes and comes with a copy of the memory elsewhere. */
static void move(struct machine *machine)
{
	uint8_t *old = machine->memory;

	slot_set(machine, 0, 0);
	machine->memory =
	    mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (machine->memory == MAP_FAILED)
		fail("memory: %m");
	memcpy(machine->memory, old, MEMORY_BYTES);
	munmap(old, MEMORY_BYTES);
	slot_set(machine, MEMORY_BYTES, 0);
	check_all(machine, "the slot moved");
}

/* Each page that is written is in the log; it is, too, when it is written once more. */
static void harvest(struct machine *machine)
{
	slot_set(machine, MEMORY_BYTES, KVM_MEM_LOG_DIRTY_PAGES);
	for (int round = 0; round < 3; round++) {
		uint64_t bits[MEMORY_BYTES / PAGE / 64] = {0};
		struct kvm_dirty_log log = {.dirty_bitmap = bits};

		check_all(machine, "the slot is logged");
		make(machine->vm, KVM_GET_DIRTY_LOG, (unsigned long)&log);
		if (bits[WINDOW / PAGE / 64] != ~0ul)
			fail("round %d: the log has %#lx", round, bits[WINDOW / PAGE / 64]);
	}
	slot_set(machine, MEMORY_BYTES, 0);
}

/* The guest swaps two of its own pages, and swaps them back; it reads each where it is then. */
static void swap(struct machine *machine, const uint8_t *code)
{
	for (int i = 0; i < 2; i++) {
		struct job job = {.machine = machine};
		uint64_t expected = machine->written + !i;

		job.regs.rip = place_of(code);
		job.regs.rbx = WINDOW;
		job.regs.rsi = LEAVES + 8 * (WINDOW / PAGE);
		run(&job);
		job.regs.rip = place_of(code_work);
		job.regs.rbx = WINDOW;
		job.regs.rcx = 1;
		job.regs.rdx = expected;
		run(&job);
		if (job.regs.rax != expected)
			fail("two pages swapped: the guest read %#llx, not %#lx", job.regs.rax,
			     expected);
	}
}

/* Two vCPUs go on while their memory goes and comes. */
static void race(struct machine *machine)
{
	struct job jobs[VCPUS];
	pthread_t threads[VCPUS];
	volatile uint64_t *flags = word_at(machine, FLAGS);

	flags[0] = flags[1] = 0;
	for (unsigned int i = 0; i < VCPUS; i++) {
		jobs[i] = (struct job){.machine = machine, .vcpu = i};
		jobs[i].regs.rip = place_of(code_loop);
		jobs[i].regs.rdi = FLAGS;
		if (pthread_create(&threads[i], NULL, run, &jobs[i]))
			fail("no thread");
	}
	for (int i = 0; i < 8; i++) {
		uint64_t before = flags[0];

		while (flags[0] < before + 4)
			usleep(1000);
		madvise(machine->memory + WINDOW + (uint64_t)i * PAGE, 16 * PAGE, MADV_DONTNEED);
	}
	flags[1] = 1;
	for (unsigned int i = 0; i < VCPUS; i++)
		pthread_join(threads[i], NULL);
	madvise(machine->memory + WINDOW, WINDOW_BYTES, MADV_DONTNEED);
	check(machine, 0, "two vCPUs ran");
}

int main(int argc, char **argv)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC), rounds = argc > 1 ? atoi(argv[1]) : 1;

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (kvm < 0)
		fail("/dev/kvm: %m");
	for (int i = 0; i < MACHINES; i++) {
		machine_make(&machines[i], kvm);
		check(&machines[i], 0, "at first");
	}
	for (int i = 0; i < rounds * MACHINES; i++) {
		struct machine *machine = &machines[i % MACHINES];

		replace(machine);
		move(machine);
		harvest(machine);
		swap(machine, code_swap_page);
		swap(machine, code_swap_all);
		race(machine);
		check_all(&machines[(i + 1) % MACHINES], "the other one ran");
	}
	printf("quire: guests of a guest ok\n");
	return 0;
}
