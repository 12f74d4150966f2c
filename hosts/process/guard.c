/* Guarded access: bulk copies, touches, and the table lookup of the signal handler. */
#include <errno.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "hosts/process/guard.h"
#include "hosts/process/map.h"
#include "hosts/process/sys.h"

_Thread_local enum guard_reason guard_last_reason
    __attribute__((tls_model("initial-exec"), visibility("hidden")));

_Thread_local uint64_t guard_poison_address
    __attribute__((tls_model("initial-exec"), visibility("hidden")));

/* vCPUs that may translate. */
#define GUARD_CODES 512u

/* Bounds of the section, from the linker; weak so that a program without one links. */
extern const struct guard_entry __start_quire_guard[] __attribute__((weak, visibility("hidden")));
extern const struct guard_entry __stop_quire_guard[] __attribute__((weak, visibility("hidden")));

/*
 * Accesses are inlined, so the table may be long, and the handler must be quick: a hash from the
 * instruction's address to its entry, built once before main() and read-only afterwards. Open
 * addressing, at most half full; a slot holds the entry's index + 1, or 0. Without memory for it
 * the handler searches the section itself.
 */
static const uint32_t *guard_slots;
static unsigned int guard_slot_bits;

static uint64_t entry_access(const struct guard_entry *entry)
{
	return sys_address(&entry->access) + (int64_t)entry->access;
}

static uint64_t entry_pad(const struct guard_entry *entry)
{
	return sys_address(&entry->pad) + (int64_t)entry->pad;
}

static uint32_t slot_of(uint64_t address, unsigned int bits)
{
	return (uint32_t)((address * UINT64_C(0x9e3779b97f4a7c15)) >> (64 - bits));
}

__attribute__((constructor(101))) static void guard_table_build(void)
{
	size_t count = (size_t)(__stop_quire_guard - __start_quire_guard);
	unsigned int bits = 4;
	uint32_t *slots;
	long mapped;

	while ((UINT64_C(1) << bits) < 2 * count)
		bits++;
	mapped = process_map(sizeof(*slots) << bits, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS, -1);
	if (sys_failed(mapped))
		return;
	slots = (uint32_t *)mapped;
	for (size_t i = 0; i < count; i++) {
		uint32_t slot = slot_of(entry_access(&__start_quire_guard[i]), bits);

		while (slots[slot])
			slot = (slot + 1) & ((1u << bits) - 1);
		slots[slot] = (uint32_t)i + 1;
	}
	guard_slot_bits = bits;
	__atomic_store_n(&guard_slots, slots, __ATOMIC_RELEASE);
}

static const struct guard_entry *entry_find(uint64_t address)
{
	const uint32_t *slots = __atomic_load_n(&guard_slots, __ATOMIC_ACQUIRE);
	const struct guard_entry *entry;
	uint32_t slot;

	if (!slots) {
		for (entry = __start_quire_guard; entry < __stop_quire_guard; entry++)
			if (entry_access(entry) == address)
				return entry;
		return NULL;
	}
	slot = slot_of(address, guard_slot_bits);
	for (; slots[slot]; slot = (slot + 1) & ((1u << guard_slot_bits) - 1)) {
		entry = &__start_quire_guard[slots[slot] - 1];
		if (entry_access(entry) == address)
			return entry;
	}
	return NULL;
}

/*
 * Code made at run time. A handler looks at any time, so a slot says that it is one by its end,
 * which is written last and read again when the rest has been.
 */
static struct guard_code codes[GUARD_CODES];
static unsigned char codes_lock;

static void codes_take(void)
{
	while (__atomic_test_and_set(&codes_lock, __ATOMIC_ACQUIRE))
		__builtin_ia32_pause();
}

int guard_code_add(const struct guard_code *code)
{
	int error = -ENOSPC;

	codes_take();
	for (unsigned int i = 0; error && i < GUARD_CODES; i++) {
		struct guard_code *slot = &codes[i];

		if (slot->end)
			continue;
		__atomic_store_n(&slot->start, code->start, __ATOMIC_RELAXED);
		__atomic_store_n(&slot->accesses, code->accesses, __ATOMIC_RELAXED);
		__atomic_store_n(&slot->pad, code->pad, __ATOMIC_RELAXED);
		__atomic_store_n(&slot->end, code->end, __ATOMIC_RELEASE);
		error = 0;
	}
	__atomic_clear(&codes_lock, __ATOMIC_RELEASE);
	return error;
}

void guard_code_remove(const struct guard_code *code)
{
	codes_take();
	for (unsigned int i = 0; i < GUARD_CODES; i++)
		if (codes[i].end == code->end)
			__atomic_store_n(&codes[i].end, 0, __ATOMIC_RELEASE);
	__atomic_clear(&codes_lock, __ATOMIC_RELEASE);
}

/* Where to go on from the refused access at @address; 0: it is none of these. */
static uint64_t code_pad(uint64_t address)
{
	for (unsigned int i = 0; i < GUARD_CODES; i++) {
		const struct guard_code *slot = &codes[i];
		uint64_t end = __atomic_load_n(&slot->end, __ATOMIC_ACQUIRE);
		uint64_t start = __atomic_load_n(&slot->start, __ATOMIC_ACQUIRE);
		const uint8_t *accesses = __atomic_load_n(&slot->accesses, __ATOMIC_ACQUIRE);
		uint64_t pad = __atomic_load_n(&slot->pad, __ATOMIC_ACQUIRE);
		uint64_t at = address - start;

		if (address >= end || at >= end - start ||
		    end != __atomic_load_n(&slot->end, __ATOMIC_RELAXED))
			continue;
		return accesses[at / 8] >> at % 8 & 1 ? pad : 0;
	}
	return 0;
}

/*
 * What the signal means to the access, or GUARD_OK: nothing. The kernel's own codes are positive;
 * kill() and its kin send others. An action-optional memory failure is the kernel's news about
 * some page, not this access's fault. An address that is not canonical raises SIGBUS without an
 * address when the instruction names it by the base pointer (a stack fault), else SIGSEGV.
 */
static enum guard_reason reason_of(int signal, const siginfo_t *info)
{
	switch (signal) {
	case SIGSEGV:
		return info->si_code > 0 ? GUARD_FAULT : GUARD_OK;
	case SIGBUS:
		if (info->si_code <= 0 || info->si_code == BUS_MCEERR_AO)
			return GUARD_OK;
		if (info->si_code == SI_KERNEL)
			return GUARD_FAULT;
		return info->si_code == BUS_MCEERR_AR ? GUARD_POISON : GUARD_BUS;
	default:
		return GUARD_ABORT;
	}
}

bool guard_is_access(uint64_t instruction)
{
	return entry_find(instruction) || code_pad(instruction);
}

bool guard_handle_signal(int signal, const void *info, void *ucontext)
{
	greg_t *registers = ((ucontext_t *)ucontext)->uc_mcontext.gregs;
	enum guard_reason reason = reason_of(signal, info);
	const struct guard_entry *entry;
	uint64_t pad;

	if (reason == GUARD_OK)
		return false;
	entry = entry_find((uint64_t)registers[REG_RIP]);
	pad = entry ? entry_pad(entry) : code_pad((uint64_t)registers[REG_RIP]);
	if (!pad)
		return false;
	guard_last_reason = reason;
	if (reason == GUARD_POISON)
		guard_poison_address = sys_address(((const siginfo_t *)info)->si_addr);
	if (!entry)
		registers[REG_RCX] = registers[REG_RIP];
	registers[REG_RIP] = (greg_t)pad;
	return true;
}

/*
 * The landing pad is the next instruction: what is left in the count register tells a copy that
 * was cut short from one that came to its end.
 */
enum guard_reason guard_copy(void *dst, const void *src, size_t size_bytes, size_t *done_bytes)
{
	size_t left = size_bytes;

	__asm__ volatile("1:\trep movsb\n2:\n\t"
			 ".pushsection quire_guard,\"a\"\n\t.balign 4\n\t"
			 ".long 1b - ., 2b - .\n\t.popsection\n"
			 : "+D"(dst), "+S"(src), "+c"(left)
			 :
			 : "memory");
	*done_bytes = size_bytes - left;
	return left ? guard_last_reason : GUARD_OK;
}

/* As guard_copy(): what is left in the count register says how far it came. */
#define FILL(instruction)                                                  \
	__asm__ volatile("1:\trep " instruction "\n2:\n\t"                 \
			 ".pushsection quire_guard,\"a\"\n\t.balign 4\n\t" \
			 ".long 1b - ., 2b - .\n\t.popsection\n"           \
			 : "+D"(to), "+c"(left)                            \
			 : "a"(filling->value)                             \
			 : "memory")

enum guard_reason guard_fill(const struct guard_filling *filling, size_t *done)
{
	size_t left = filling->count;
	void *to = filling->dst;

	switch (filling->element_bytes) {
	case 1:
		FILL("stosb");
		break;
	case 2:
		FILL("stosw");
		break;
	case 4:
		FILL("stosl");
		break;
	default:
		FILL("stosq");
		break;
	}
	*done = filling->count - left;
	return left ? guard_last_reason : GUARD_OK;
}

/* Writes what is there already, in one atomic step: no store of another thread can be lost. */
static enum guard_reason touch_for_write(void *address)
{
	__asm__ volatile goto("1:\tlock orb $0, (%[ptr])\n\t" GUARD_TABLE("1b")
			      :
			      : [ptr] "r"(address)
			      : "memory", "cc"
			      : faulted);
	return GUARD_OK;
faulted:
	return guard_last_reason;
}

enum guard_reason guard_touch(uint64_t hva, bool write)
{
	void *address = (void *)(uintptr_t)hva;
	uint8_t ignored;

	return write ? touch_for_write(address) : guard_load_u8(address, &ignored);
}
