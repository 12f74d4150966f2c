/* The gate of the library's system calls, in place of the instruction that makes them. */
#include "tests/rules/lib/nth_gate.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>

#include <quire/types.h>

#include "hosts/process/internal.h"
#include "hosts/process/sys.h"

#define MAPPINGS_MAX 256u
#define SMALL_BITS_MIN 6
#define SMALL_BITS_MAX 15

static struct {
	long (*error_of)(long number);
	int has_no_memory; /* the kernel maps nothing */
	int is_misplaced;  /* its last mapping is not where it was to be */
	uint64_t taken_bytes;
	uint64_t taken_before; /* at the last begin */
	/* Made since then, and there. */
	struct mapping {
		uint64_t start, size_bytes;
		int is_shared;
	} mappings[MAPPINGS_MAX];
} gate;

/* How the library makes each of its calls: the registers are a system call's. */
void gate_enter(void);
__asm__(".pushsection .text\n\t"
	".type gate_enter, @function\n"
	"gate_enter:\n\t"
	"subq $8, %rsp\n\t"
	"pushq %r9\n\t"
	"pushq %r8\n\t"
	"pushq %r10\n\t"
	"pushq %rdx\n\t"
	"pushq %rsi\n\t"
	"pushq %rdi\n\t"
	"movq %rax, %rdi\n\t"
	"movq %rsp, %rsi\n\t"
	"call gate_call\n\t"
	"addq $56, %rsp\n\t"
	"ret\n\t"
	".size gate_enter, . - gate_enter\n\t"
	".popsection");

static long call_kernel(long number, const uint64_t args[6])
{
	register uint64_t r10 __asm__("r10") = args[3];
	register uint64_t r8 __asm__("r8") = args[4];
	register uint64_t r9 __asm__("r9") = args[5];
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(args[0]), "S"(args[1]), "d"(args[2]), "r"(r10), "r"(r8),
			   "r"(r9)
			 : "rcx", "r11", "memory");
	return result;
}

/* One too many is not noted: the totals will not fit. */
static void note_mapping(uint64_t start, const uint64_t args[6])
{
	/* What is put over a mapping that is there is none more. */
	if (args[3] & MAP_FIXED)
		return;
	for (uint32_t i = 0; i < MAPPINGS_MAX; i++)
		if (!gate.mappings[i].size_bytes) {
			gate.mappings[i] =
			    (struct mapping){start, args[1], (args[3] & MAP_SHARED) != 0};
			return;
		}
}

static void note_unmapping(uint64_t start, uint64_t size_bytes)
{
	for (uint32_t i = 0; i < MAPPINGS_MAX; i++)
		if (gate.mappings[i].start == start && gate.mappings[i].size_bytes == size_bytes)
			gate.mappings[i] = (struct mapping){0};
}

/* The machine's pool may have no huge page: addresses without memory do, for nothing is put there.
 */
static long map_as_if_huge(uint64_t size_bytes)
{
	return call_kernel(SYS_mmap,
			   (const uint64_t[6]){0, size_bytes, PROT_NONE,
					       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
					       UINT64_MAX, 0});
}

long gate_call(long number, const uint64_t args[6]);
long gate_call(long number, const uint64_t args[6])
{
	/* A mapping that is tried once more elsewhere is one call. */
	int is_asked_about = number == SYS_mmap ? !gate.is_misplaced : number != SYS_munmap;
	long result = is_asked_about ? gate.error_of(number) : 0;

	if (result)
		return result;
	if (number == SYS_mmap && gate.has_no_memory)
		return -ENOMEM;
	/* A wish alone: taken arenas would have memory. */
	if (number == SYS_madvise && args[2] == MADV_HUGEPAGE)
		return 0;
	if (number == SYS_mmap && (args[3] & MAP_HUGETLB))
		result = map_as_if_huge(args[1]);
	else
		result = call_kernel(number, args);
	if (number == SYS_mmap)
		gate.is_misplaced = args[0] && !sys_failed(result) && (uint64_t)result != args[0];
	if (number == SYS_mmap && !sys_failed(result))
		note_mapping((uint64_t)result, args);
	if (number == SYS_munmap && !result)
		note_unmapping(args[0], args[1]);
	return result;
}

void nth_gate_install(long (*error_of)(long number))
{
	gate.error_of = error_of;
	sys_gate = gate_enter;
}

static void take(void *block, uint64_t size_bytes)
{
	gate.taken_bytes += size_bytes;
	if (size_bytes >= QUIRE_PAGE_SIZE)
		call_kernel(SYS_madvise, (const uint64_t[6]){(uint64_t)(uintptr_t)block, size_bytes,
							     MADV_DONTNEED});
}

void nth_gate_use_memory_up(void)
{
	gate.has_no_memory = 1;
	for (int bits = SMALL_BITS_MAX; bits >= SMALL_BITS_MIN; bits--) {
		void *block;

		while ((block = process_alloc(NULL, (size_t)1 << bits)))
			take(block, UINT64_C(1) << bits);
	}
	gate.has_no_memory = 0;
}

uint64_t nth_gate_taken_bytes(void)
{
	return gate.taken_bytes;
}

uint64_t nth_gate_shared_bytes(void)
{
	uint64_t bytes = 0;

	for (uint32_t i = 0; i < MAPPINGS_MAX; i++)
		bytes += gate.mappings[i].is_shared ? gate.mappings[i].size_bytes : 0;
	return bytes;
}

void nth_gate_begin(void)
{
	nth_gate_use_memory_up();
	memset(gate.mappings, 0, sizeof(gate.mappings));
	gate.taken_before = gate.taken_bytes;
}

uint64_t nth_gate_end(void)
{
	uint64_t bytes = 0;

	nth_gate_use_memory_up();
	for (uint32_t i = 0; i < MAPPINGS_MAX; i++)
		bytes += gate.mappings[i].size_bytes;
	if (bytes != gate.taken_bytes - gate.taken_before)
		return bytes - (gate.taken_bytes - gate.taken_before);
	for (uint32_t i = 0; i < MAPPINGS_MAX; i++)
		if (gate.mappings[i].size_bytes)
			call_kernel(SYS_munmap, (const uint64_t[6]){gate.mappings[i].start,
								    gate.mappings[i].size_bytes});
	return 0;
}
