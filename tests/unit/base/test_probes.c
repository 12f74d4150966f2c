/*
 * Trace events as probes (USDT), as a tool uses them: it finds them in the notes of this program's
 * file, counts itself at the semaphore, and puts a breakpoint in the place of the nop.
 */
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <ucontext.h>
#include <unistd.h>

#include <cmocka.h>

#include "src/base/trace.h"

#define BREAKPOINT 0xcc
#define NOP 0x90

struct probe {
	uintptr_t place, semaphore;
	const char *arguments;
};

static char *file;
static struct probe wanted;
static uint64_t hit_args[QUIRE_TRACE_FIELDS_MAX];
static unsigned int hits, recorded;

static void read_file(void)
{
	int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	struct stat status;

	assert_int_equal(fstat(fd, &status), 0);
	file = malloc((size_t)status.st_size);
	assert_non_null(file);
	assert_int_equal(read(fd, file, (size_t)status.st_size), status.st_size);
	close(fd);
}

static int take_bias(struct dl_phdr_info *info, size_t size, void *ctx)
{
	(void)size;
	*(uintptr_t *)ctx = info->dlpi_addr;
	return 1; /* the program is the first */
}

/* The probe of that name. How many there are in all. */
static unsigned int find_probe(const char *name, struct probe *found)
{
	const Elf64_Ehdr *header = (const void *)file;
	const Elf64_Shdr *sections = (const void *)(file + header->e_shoff);
	const char *names = file + sections[header->e_shstrndx].sh_offset;
	unsigned int count = 0;
	uintptr_t bias = 0;

	dl_iterate_phdr(take_bias, &bias);
	for (unsigned int i = 0; i < header->e_shnum; i++) {
		const char *at = file + sections[i].sh_offset, *end = at + sections[i].sh_size;

		if (strcmp(names + sections[i].sh_name, ".note.stapsdt"))
			continue;
		while (at < end) {
			const Elf64_Nhdr *note = (const void *)at;
			uint64_t words[3];
			const char *body = at + sizeof(*note) + ((note->n_namesz + 3) & ~3u);
			const char *provider = body + 3 * sizeof(uint64_t);
			const char *event = provider + strlen(provider) + 1;

			at = body + ((note->n_descsz + 3) & ~3u);
			/* libc has probes of its own. */
			if (strcmp(provider, "quire"))
				continue;
			count++;
			memcpy(words, body, sizeof(words)); /* notes are aligned to 4 bytes */
			if (!strcmp(event, name))
				*found = (struct probe){words[0] + bias, words[2] + bias,
							event + strlen(event) + 1};
		}
	}
	return count;
}

static uint64_t register_of(const ucontext_t *context, const char *name)
{
	static const struct {
		const char *name;
		int number;
	} registers[] = {
	    {"rax", REG_RAX}, {"rbx", REG_RBX}, {"rcx", REG_RCX}, {"rdx", REG_RDX},
	    {"rsi", REG_RSI}, {"rdi", REG_RDI}, {"rbp", REG_RBP}, {"rsp", REG_RSP},
	    {"r8", REG_R8},   {"r9", REG_R9},	{"r10", REG_R10}, {"r11", REG_R11},
	    {"r12", REG_R12}, {"r13", REG_R13}, {"r14", REG_R14}, {"r15", REG_R15},
	};

	for (size_t i = 0; i < sizeof(registers) / sizeof(registers[0]); i++)
		if (!strcmp(name, registers[i].name))
			return (uint64_t)context->uc_mcontext.gregs[registers[i].number];
	abort();
}

/* The value of an argument: "8@%rax" or "8@-16(%rbp)". */
static uint64_t argument_of(const ucontext_t *context, const char *text)
{
	const char *place = strchr(text, '@') + 1;
	char name[8] = "";
	long offset;
	char *rest;

	if (sscanf(place, "%%%7[a-z0-9]", name) == 1)
		return register_of(context, name);
	offset = strtol(place, &rest, 0);
	if (sscanf(rest, "(%%%7[a-z0-9])", name) != 1)
		abort();
	return *(uint64_t *)(register_of(context, name) + (uint64_t)offset);
}

static void on_breakpoint(int number, siginfo_t *info, void *context)
{
	const char *text = wanted.arguments;

	(void)number;
	(void)info;
	for (unsigned int i = 0; text && i < QUIRE_TRACE_FIELDS_MAX; i++) {
		hit_args[i] = argument_of(context, text);
		text = strchr(text, ' ');
		text = text ? text + 1 : NULL;
	}
	hits++;
}

static void put_byte(uintptr_t place, uint8_t byte)
{
	int fd = open("/proc/self/mem", O_RDWR | O_CLOEXEC);

	assert_int_equal(pwrite(fd, &byte, 1, (off_t)place), 1);
	close(fd);
}

static void record(enum quire_trace_event event, const uint64_t *args)
{
	(void)args;
	recorded += event == QUIRE_TRACE_kvm_vm_set_mem_attributes;
}

static unsigned int evaluated;

static uint64_t costly(uint64_t value)
{
	evaluated++;
	return value;
}

static void pass(void)
{
	QUIRE_TRACE(kvm_vm_set_mem_attributes, costly(0x10), costly(0x20), costly(8));
}

static void test_all_are_there(void **state)
{
	(void)state;
	assert_int_equal(find_probe("kvm_vm_set_mem_attributes", &wanted), QUIRE_TRACE_COUNT);
	assert_non_null(wanted.arguments);
	assert_int_equal(*(uint8_t *)wanted.place, NOP);
}

/* Without a tracer nothing is evaluated; with one the probe has the event's fields. */
static void test_a_tracer(void **state)
{
	struct sigaction act = {.sa_sigaction = on_breakpoint, .sa_flags = SA_SIGINFO};
	uint16_t *semaphore = (uint16_t *)wanted.semaphore;

	(void)state;
	sigaction(SIGTRAP, &act, NULL);
	put_byte(wanted.place, BREAKPOINT);
	pass();
	assert_int_equal(evaluated, 0);
	assert_int_equal(hits, 0);
	++*semaphore;
	pass();
	assert_int_equal(hits, 1);
	assert_int_equal(hit_args[0], 0x10);
	assert_int_equal(hit_args[1], 0x20);
	assert_int_equal(hit_args[2], 8);
	/* A second tool, and a function, beside it. */
	++*semaphore;
	quire_trace_install(record);
	--*semaphore;
	pass();
	assert_int_equal(hits, 2);
	assert_int_equal(recorded, 1);
	quire_trace_install(NULL);
	pass();
	assert_int_equal(hits, 3);
	assert_int_equal(recorded, 1);
	--*semaphore;
	put_byte(wanted.place, NOP);
	evaluated = 0;
	pass();
	assert_int_equal(evaluated, 0);
}

/* Each event passes its own probe and no other, with its fields in order. */
static void test_every_event(void **state)
{
#define NAME(group, name, fields) #name,
#define NO_FIELD(type, name)
	static const char *const names[] = {QUIRE_TRACE_EVENTS(NAME, NO_FIELD)};
	uint64_t args[QUIRE_TRACE_FIELDS_MAX];

	(void)state;
	for (unsigned int i = 0; i < QUIRE_TRACE_FIELDS_MAX; i++)
		args[i] = 0x1000 + i;
	for (unsigned int event = 0; event < QUIRE_TRACE_COUNT; event++) {
		memset(hit_args, 0, sizeof(hit_args));
		find_probe(names[event], &wanted);
		assert_int_equal(*(uint8_t *)wanted.place, NOP);
		put_byte(wanted.place, BREAKPOINT);
		hits = 0;
		for (unsigned int other = 0; other < QUIRE_TRACE_COUNT; other++)
			quire_trace_emit((enum quire_trace_event)other, args);
		put_byte(wanted.place, NOP);
		assert_int_equal(hits, 1);
		for (unsigned int i = 0; i < QUIRE_TRACE_FIELDS_MAX; i++)
			assert_true(hit_args[i] == args[i] || !hit_args[i]);
		assert_true(hit_args[0] == args[0] || !wanted.arguments[0]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_all_are_there),
	    cmocka_unit_test(test_a_tracer),
	    cmocka_unit_test(test_every_event),
	};

	read_file();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
