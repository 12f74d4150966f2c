/*
 * quire-engine: stands where the client's program was executed, and brings it up beside itself.
 *
 * The kernel has built the stack with the client's own arguments and environment. So the program
 * is mapped, the strings that told us of it and our own auxiliary values are taken off that stack,
 * and its first instruction finds everything as execve(2) would have left it.
 */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/rseq.h>
#include <unistd.h>

#include "engine/client_cpuid.h"
#include "engine/filter.h"
#include "engine/gate.h"
#include "engine/image.h"
#include "engine/signals.h"
#include "engine/thread.h"
#include "engine/trap.h"
#include "frontend/param/params.h"
#include "frontend/report/report.h"
#include "hosts/process/load.h"
#include "hosts/process/sys.h"
#include "preload/launch.h"
#include "sanitize/report.h"
#include "vcpu/decode/decoder.h"

#define EXIT_CANNOT_RUN 126
#define STACK_SPREAD_BYTES (UINT64_C(1) << 20)

/* What the kernel put on the stack. */
struct stack_image {
	uint64_t *start; /* argc: the client's first RSP */
	char **argv, **environment;
	Elf64_auxv_t *auxiliary;
	size_t auxiliary_count; /* with AT_NULL */
};

__attribute__((noreturn)) static void give_up(const char *what, int error)
{
	dprintf(STDERR_FILENO, "quire: %s: %s\n", what, strerror(-error));
	_exit(EXIT_CANNOT_RUN);
}

static const char *string_after(const char *text, const char *name)
{
	size_t length = strlen(name);

	if (!text || strncmp(text, name, length)) {
		dprintf(STDERR_FILENO, "quire-engine is started by `quire run`\n");
		_exit(2);
	}
	return text + length;
}

static void stack_find(struct stack_image *stack, char **argv)
{
	char **end;

	stack->argv = argv;
	stack->start = (uint64_t *)(void *)argv - 1;
	stack->environment = argv + *stack->start + 1;
	end = stack->environment;
	while (*end)
		end++;
	stack->auxiliary = (Elf64_auxv_t *)(void *)(end + 1);
	stack->auxiliary_count = 1;
	for (Elf64_auxv_t *at = stack->auxiliary; at->a_type != AT_NULL; at++)
		stack->auxiliary_count++;
}

/* Our strings leave the environment: what follows them moves down. */
static void stack_take_strings(struct stack_image *stack)
{
	char *end = (char *)(stack->auxiliary + stack->auxiliary_count);
	char *from = (char *)(stack->environment + LAUNCH_STRINGS);

	memmove(stack->environment, from, (size_t)(end - from));
	stack->auxiliary =
	    (Elf64_auxv_t *)(void *)((char *)stack->auxiliary - LAUNCH_STRINGS * sizeof(char *));
}

/* The library is for programs without the engine: it would serve what the engine serves. */
static void stack_drop_library(struct stack_image *stack)
{
	static const char name[] = "LD_PRELOAD=", library[] = "libquire_preload.so";

	for (char **entry = stack->environment; *entry; entry++) {
		char *list = *entry + sizeof(name) - 1, *found, *end;

		if (strncmp(*entry, name, sizeof(name) - 1))
			continue;
		found = strstr(list, library);
		if (!found)
			continue;
		end = found + sizeof(library) - 1;
		while (found > list && found[-1] != ' ' && found[-1] != ':')
			found--;
		end += *end == ' ' || *end == ':';
		memmove(found, end, strlen(end) + 1);
	}
}

static void auxiliary_set(const struct stack_image *stack, uint64_t type, uint64_t value)
{
	for (Elf64_auxv_t *at = stack->auxiliary; at->a_type != AT_NULL; at++)
		if (at->a_type == type)
			at->a_un.a_val = value;
}

/* Text of the kernel's own bounds of @list, which ends with NULL. */
static void text_bounds(char **list, uint64_t *start, uint64_t *end)
{
	*start = *end = 0;
	for (; *list; list++) {
		if (!*start)
			*start = (uint64_t)*list;
		*end = (uint64_t)*list + strlen(*list) + 1;
	}
}

/* /proc/self/stat, cmdline, environ and auxv; the program break. Old kernels refuse: no matter. */
static void describe(const struct stack_image *stack, const struct load *load)
{
	struct prctl_mm_map map = {
	    .start_code = load->code_start,
	    .end_code = load->code_end,
	    .start_data = load->data_start,
	    .end_data = load->data_end,
	    .start_stack = (uint64_t)stack->start,
	    .auxv = (void *)stack->auxiliary,
	    .auxv_size = (uint32_t)(stack->auxiliary_count * sizeof(*stack->auxiliary)),
	    .exe_fd = (uint32_t)-1,
	};
	uint64_t start, end;

	map.start_brk = map.brk = (load->end + 4095) & ~UINT64_C(4095);
	text_bounds(stack->argv, &start, &end);
	map.arg_start = start;
	map.arg_end = end;
	text_bounds(stack->environment, &start, &end);
	map.env_start = start ? start : map.arg_end;
	map.env_end = end ? end : map.arg_end;
	sys_call(SYS_prctl, PR_SET_MM, PR_SET_MM_MAP, sys_address(&map), sizeof(map));
}

/* The client's libc registers its own. */
static void unregister_rseq(void)
{
	if (__rseq_size)
		sys_call(SYS_rseq, thread_fs_read() + (uint64_t)__rseq_offset, 32, 1, RSEQ_SIG);
}

static void copy_text(char *to, const char *from)
{
	strncpy(to, from, PATH_MAX - 1);
}

/* Open the program; what /proc/self/exe is to say is the name that the kernel has for it. */
static int open_program(const char *path, int fd)
{
	char name[64];
	ssize_t length;

	if (fd < 0)
		fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		give_up(path, -errno);
	snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
	length = readlink(name, image.program, sizeof(image.program) - 1);
	if (length < 0)
		copy_text(image.program, path);
	return fd;
}

static void load_program(const char *path, int fd, struct load *program, struct load *interpreter)
{
	int error;

	fd = open_program(path, fd);
	error = load_file(program, fd, LOAD_PROGRAM);
	if (!error)
		cpuid_loaded(fd, program->bias);
	close(fd);
	if (error)
		give_up(path, error);
	if (!*program->interpreter) {
		*interpreter = *program;
		interpreter->bias = 0;
		return;
	}
	fd = open(program->interpreter, O_RDONLY | O_CLOEXEC);
	error = fd < 0 ? -errno : load_file(interpreter, fd, LOAD_INTERPRETER);
	if (!error)
		cpuid_loaded(fd, interpreter->bias);
	close(fd);
	if (error)
		give_up(program->interpreter, error);
}

static void start_engine(bool is_filtered)
{
	struct engine_thread *thread = thread_make_first();
	long error = thread ? 0 : -ENOMEM;

	params_attach(*image.directory ? image.directory : NULL);
	sanitize_attach(*image.directory ? image.directory : NULL);
	report_attach(*image.directory ? image.directory : NULL);
	trap_start();
	if (!error)
		error = signals_start(thread);
	if (!error && !is_filtered)
		error = filter_trap();
	if (error)
		give_up("engine", (int)error);
	cpuid_begin();
}

/* How this start is meant, by LAUNCH_STATE. */
static void take_flags(int flags)
{
	int error;

	image.shows_cpuid = (flags & LAUNCH_CPUID) != 0;
	error = image.shows_cpuid ? cpuid_prepare() : 0;
	if (error)
		give_up("--cpuid: libZydis", error);
}

int main(int argc, char **argv)
{
	struct load program, interpreter;
	struct stack_image stack;
	const char *path, *name, *state;
	char *directory;
	int fd, flags;

	(void)argc;
	stack_find(&stack, argv);
	copy_text(image.engine, string_after(stack.environment[0], LAUNCH_ENGINE));
	decoder_look_beside(image.engine);
	state = string_after(stack.environment[1], LAUNCH_STATE);
	path = string_after(stack.environment[2], LAUNCH_PROGRAM);
	name = string_after(stack.environment[3], LAUNCH_NAME);
	flags = *state - '0';
	fd = (int)strtol(state + 2, &directory, 10);
	copy_text(image.directory, directory + 1);
	stack_take_strings(&stack);
	stack_drop_library(&stack);
	take_flags(flags);
	load_program(path, fd, &program, &interpreter);
	auxiliary_set(&stack, AT_PHDR, program.headers);
	auxiliary_set(&stack, AT_PHENT, program.header_bytes);
	auxiliary_set(&stack, AT_PHNUM, program.header_count);
	auxiliary_set(&stack, AT_BASE, interpreter.bias);
	auxiliary_set(&stack, AT_ENTRY, program.entry);
	auxiliary_set(&stack, AT_EXECFN, (uint64_t)name);
	describe(&stack, &program);
	prctl(PR_SET_NAME, strrchr(name, '/') ? strrchr(name, '/') + 1 : name);
	start_engine((flags & LAUNCH_FILTERED) != 0);
	unregister_rseq();
	thread_fs_write(0);
	gate_enter_client((uint64_t)stack.start, interpreter.entry);
}
