/* Trapped system calls: what they mean is said by the boundary, as for libc's functions. */
#include "preload/trap.h"

#include <errno.h>
#include <gnu/libc-version.h>
#include <link.h>
#include <linux/audit.h>
#include <signal.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "frontend/file/client_call.h"
#include "frontend/report/report.h"
#include "frontend/run/signal_actions.h"
#include "hosts/process/fork.h"
#include "hosts/process/sys.h"
#include "preload/client_filter.h"
#include "preload/numbered.h"

#ifndef PR_SET_SYSCALL_USER_DISPATCH
#define PR_SET_SYSCALL_USER_DISPATCH 59
#define PR_SYS_DISPATCH_OFF 0
#define PR_SYS_DISPATCH_ON 1
#endif
#define CODE_USER_DISPATCH 2 /* si_code of such a SIGSYS */
/* How far into a function of libc's the gate is looked for. */
#define GATE_SEARCH_BYTES 32u

/* Addresses [start, end). */
struct region {
	uint64_t start, end;
};

/* Written by trap_start(), while there is one thread. */
uint64_t trap_passing[2];
static struct region linker; /* the code of the dynamic linker */
static uint64_t gate;	     /* 0: not started */
static uint32_t clock_traps;

uint64_t trap_gate(void)
{
	return gate;
}

bool trap_is_started(void)
{
	return gate != 0;
}

/* ---- Serving ---- */

/*
 * A handler makes the kernel's calls itself, through the gate: no signal is blocked in it, so
 * waits, restarts and EINTR are what they are without us.
 */
static long kernel_call(const struct boundary_call *call)
{
	return sys_call_six(call->nr, call->args);
}

/* The dynamic linker's own calls: it holds its lock, and names no object. */
static bool is_linkers(const struct trap *trap)
{
	uint64_t at = (uint64_t)trap->context->uc_mcontext.gregs[REG_RIP];

	return at - linker.start < linker.end - linker.start;
}

bool trap_serve_filter(const struct boundary_call *call, long *result)
{
	/*
	 * A filter sees the address after the instruction, which is two bytes long: of the gate,
	 * and of libc's return from a signal, by which guarded accesses go on.
	 */
	const struct client_filter_gates gates = {{{gate + 2, 1}, {trap_restorer() + 9, 1}}};

	return gate && client_filter_install(call, &gates, result);
}

static long serve(struct trap *trap)
{
	const struct boundary_call *call = &trap->call;
	long result;

	if (trap_serve_signals(trap, &result))
		return result;
	if (client_call_active() || is_linkers(trap))
		return kernel_call(call);
	if (trap_serve_filter(call, &result) || trap_serve_process(trap, &result) ||
	    numbered_perform(call, &result))
		return result;
	return boundary_knows(call->nr) ? boundary_call(call) : kernel_call(call);
}

static bool on_trap(const siginfo_t *info, void *frame)
{
	ucontext_t *context = frame;
	greg_t *registers = context->uc_mcontext.gregs;
	int saved_errno = errno;
	struct trap trap = {
	    .call = {.nr = info->si_syscall,
		     .args = {(unsigned long)registers[REG_RDI], (unsigned long)registers[REG_RSI],
			      (unsigned long)registers[REG_RDX], (unsigned long)registers[REG_R10],
			      (unsigned long)registers[REG_R8], (unsigned long)registers[REG_R9]}},
	    .context = context,
	};
	long result;

	if (info->si_code != CODE_USER_DISPATCH)
		return false;
	if (trap.call.nr == SYS_clock_gettime)
		__atomic_fetch_add(&clock_traps, 1, __ATOMIC_RELAXED);
	/* The entry of 32-bit programs, whose numbers and structures are others. */
	result = info->si_arch == AUDIT_ARCH_X86_64 ? serve(&trap) : -ENOSYS;
	if (result != TRAP_GOES_ON)
		registers[REG_RAX] = result;
	errno = saved_errno;
	return true;
}

/* ---- Starting ---- */

static long arm(void)
{
	return sys_call(SYS_prctl, PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_ON,
			trap_passing[0], trap_passing[1]);
}

void trap_arm(void)
{
	if (gate)
		arm();
}

static void fork_child(void)
{
	trap_arm();
}

static const struct fork_entry fork_traps
    __attribute__((section("quire_fork"), used)) = {.rank = FORK_TRAPS, .child = fork_child};

/* The code of the loaded object that @address is in. */
struct search {
	uint64_t address;
	struct region found;
};

static int search_object(struct dl_phdr_info *object, size_t bytes, void *opaque)
{
	struct search *search = opaque;

	(void)bytes;
	for (unsigned int i = 0; i < object->dlpi_phnum; i++) {
		const ElfW(Phdr) *segment = &object->dlpi_phdr[i];
		uint64_t start = object->dlpi_addr + segment->p_vaddr;

		if (segment->p_type != PT_LOAD || !(segment->p_flags & PF_X) ||
		    search->address - start >= segment->p_memsz)
			continue;
		search->found = (struct region){start, start + segment->p_memsz};
		return 1;
	}
	return 0;
}

static struct region code_of(uint64_t address)
{
	struct search search = {.address = address};

	dl_iterate_phdr(search_object, &search);
	return search.found;
}

/* The code of an object by where it begins: of the dynamic linker, all of it. */
static int search_linker(struct dl_phdr_info *object, size_t bytes, void *opaque)
{
	(void)bytes;
	if (object->dlpi_addr != getauxval(AT_BASE))
		return 0;
	for (unsigned int i = 0; i < object->dlpi_phnum; i++) {
		const ElfW(Phdr) *segment = &object->dlpi_phdr[i];
		uint64_t start = object->dlpi_addr + segment->p_vaddr;

		if (segment->p_type == PT_LOAD && (segment->p_flags & PF_X))
			*(struct region *)opaque = (struct region){start, start + segment->p_memsz};
	}
	return 1;
}

/* A function of libc's that is nothing but its system call. */
static uint64_t gate_find(void)
{
	static const uint8_t wanted[] = {0x0f, 0x05, 0xc3};
	const void *const functions[] = {getuid, geteuid, getgid, getegid, getppid};

	for (size_t i = 0; i < sizeof(functions) / sizeof(functions[0]); i++) {
		const uint8_t *code = functions[i], *found;

		if ((uint64_t)code - trap_passing[0] >= trap_passing[1])
			continue;
		found = memmem(code, GATE_SEARCH_BYTES, wanted, sizeof(wanted));
		if (found)
			return (uint64_t)found;
	}
	return 0;
}

/*
 * Where the machine's clock is none that the vDSO can read, each question for the time is a system
 * call of the vDSO's. Then everything from libc on passes up to there: calls of the program itself
 * are trapped, those of its libraries are not.
 */
static void spare_clock(void)
{
	uint64_t vdso = getauxval(AT_SYSINFO_EHDR);
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	if (!__atomic_load_n(&clock_traps, __ATOMIC_RELAXED) || vdso < trap_passing[0])
		return;
	trap_passing[1] = vdso + VDSO_BYTES - trap_passing[0];
	trap_arm();
}

/* ThreadSanitizer's, in a program that is built with it. */
void __tsan_init(void) __attribute__((weak));

void trap_start(void)
{
	struct region libc = code_of((uint64_t)(uintptr_t)gnu_get_libc_version);
	uint64_t found;

	/*
	 * It makes system calls of its own with locks held that its mutexes take, with which we
	 * would serve them, and blocks SIGSYS around handlers.
	 */
	if (&__tsan_init)
		return;
	trap_passing[0] = libc.start;
	trap_passing[1] = libc.end - libc.start;
	dl_iterate_phdr(search_linker, &linker);
	found = gate_find();
	if (!found || signal_trap_take(on_trap))
		return;
	sys_gate = (sys_gate_fn *)found;
	if (arm())
		return;
	gate = found;
	signal_trap_begin(false);
	spare_clock();
}
