/* Guarded access: the only way to touch memory that the guest or the client may take away. */
#ifndef QUIRE_HOSTS_PROCESS_GUARD_H
#define QUIRE_HOSTS_PROCESS_GUARD_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Each access is one machine instruction whose address stands in a table (section
 * quire_guard). When it faults, or when a kick reaches the thread while it is blocked in the
 * kernel on that very instruction, guard_handle_signal() moves the thread to the landing pad that
 * the table names, and the access returns a reason instead of a value. The instruction has then
 * either not happened or, for the bulk copies, happened for a prefix that is reported.
 *
 * Callers hold no lock and no read section: the access may sleep for as long as the host likes
 * (userfaultfd, a network file system).
 */
enum guard_reason {
	GUARD_OK = 0,
	GUARD_FAULT,  /* SIGSEGV: nothing mapped, or not with this access */
	GUARD_BUS,    /* SIGBUS: beyond the end of a file */
	GUARD_POISON, /* SIGBUS with BUS_MCEERR_AR: the page is lost */
	GUARD_ABORT,  /* a kick or a client's signal: look at the requests and try again */
};

/* 0, or the error that a caller of KVM's gets: a page that is lost, a kick, no access. */
static inline int guard_error(enum guard_reason reason)
{
	switch (reason) {
	case GUARD_OK:
		return 0;
	case GUARD_POISON:
		return -EHWPOISON;
	case GUARD_ABORT:
		return -EINTR;
	case GUARD_FAULT:
	case GUARD_BUS:
		break;
	}
	return -EFAULT;
}

/* Both fields are relative to their own address, so that the table needs no relocation. */
struct guard_entry {
	int32_t access; /* the guarded instruction */
	int32_t pad;	/* its landing pad */
};

/* Why the last guarded access of this thread failed; valid right after it did. */
extern _Thread_local enum guard_reason guard_last_reason
    __attribute__((tls_model("initial-exec"), visibility("hidden")));

/* Where the last GUARD_POISON of this thread was: the address that the kernel gave with it. */
extern _Thread_local uint64_t guard_poison_address
    __attribute__((tls_model("initial-exec"), visibility("hidden")));

/*
 * Accesses say volatile: GCC before 12.4 drops an asm goto whose outputs are not read. The empty
 * statement after one with outputs keeps those compilers from losing an output on the way out.
 */
#define GUARD_TABLE(label)                                \
	".pushsection quire_guard,\"a\"\n\t.balign 4\n\t" \
	".long " label " - ., %l[faulted] - .\n\t.popsection\n"

/* clang-format off */
#define GUARD_LOAD(name, type, insn, constraint)                                                  \
	static inline enum guard_reason name(const void *src, type *value)                        \
	{                                                                                         \
		type got;                                                                         \
		__asm__ volatile goto("1:\t" insn "\n\t" GUARD_TABLE("1b")                        \
			     : [out] constraint(got)                                              \
			     : [ptr] "r"(src) : "memory" : faulted);                              \
		__asm__ volatile("");                                                             \
		*value = got;                                                                     \
		return GUARD_OK;                                                                  \
	faulted:                                                                                  \
		return guard_last_reason;                                                         \
	}
#define GUARD_STORE(name, type, insn, constraint)                                                 \
	static inline enum guard_reason name(void *dst, type value)                               \
	{                                                                                         \
		__asm__ volatile goto("1:\t" insn "\n\t" GUARD_TABLE("1b")                        \
			     : : [in] constraint(value), [ptr] "r"(dst) : "memory" : faulted);    \
		return GUARD_OK;                                                                  \
	faulted:                                                                                  \
		return guard_last_reason;                                                         \
	}
/* clang-format on */

GUARD_LOAD(guard_load_u8, uint8_t, "movb (%[ptr]), %[out]", "=q")
GUARD_LOAD(guard_load_u16, uint16_t, "movw (%[ptr]), %[out]", "=r")
GUARD_LOAD(guard_load_u32, uint32_t, "movl (%[ptr]), %[out]", "=r")
GUARD_LOAD(guard_load_u64, uint64_t, "movq (%[ptr]), %[out]", "=r")
GUARD_STORE(guard_store_u8, uint8_t, "movb %[in], (%[ptr])", "q")
GUARD_STORE(guard_store_u16, uint16_t, "movw %[in], (%[ptr])", "r")
GUARD_STORE(guard_store_u32, uint32_t, "movl %[in], (%[ptr])", "r")
GUARD_STORE(guard_store_u64, uint64_t, "movq %[in], (%[ptr])", "r")

/*
 * Compare-exchange, sequentially consistent: *@expected receives what was there, *@swapped
 * whether the store happened. A guarded compare-exchange writes the page even when it fails to
 * swap, as the processor does.
 */
#define GUARD_CMPXCHG(name, type, suffix, constraint)                                 \
	static inline enum guard_reason name(void *dst, type *expected, type desired, \
					     bool *swapped)                           \
	{                                                                             \
		type old = *expected;                                                 \
		bool done;                                                            \
		__asm__ volatile goto("1:\tlock cmpxchg" suffix                       \
				      " %[in], (%[ptr])\n\t" GUARD_TABLE("1b")        \
				      : "+a"(old), "=@ccz"(done)                      \
				      : [in] constraint(desired), [ptr] "r"(dst)      \
				      : "memory"                                      \
				      : faulted);                                     \
		__asm__ volatile("");                                                 \
		*expected = old;                                                      \
		*swapped = done;                                                      \
		return GUARD_OK;                                                      \
	faulted:                                                                      \
		return guard_last_reason;                                             \
	}
GUARD_CMPXCHG(guard_cmpxchg_u8, uint8_t, "b", "q")
GUARD_CMPXCHG(guard_cmpxchg_u16, uint16_t, "w", "r")
GUARD_CMPXCHG(guard_cmpxchg_u32, uint32_t, "l", "r")
GUARD_CMPXCHG(guard_cmpxchg_u64, uint64_t, "q", "r")

/*
 * Copy @size_bytes between memory of ours and guarded memory. Returns the reason; *@done_bytes
 * says how much was copied before it.
 */
enum guard_reason guard_copy(void *dst, const void *src, size_t size_bytes, size_t *done_bytes);

/*
 * Fill guarded memory at @dst with @count elements of @element_bytes (1, 2, 4 or 8), each the low
 * bytes of @value. Returns the reason; *@done says how many whole elements were written before it.
 */
struct guard_filling {
	void *dst;
	uint64_t value;
	size_t count;
	unsigned int element_bytes;
};
enum guard_reason guard_fill(const struct guard_filling *filling, size_t *done);

/*
 * Fault the page of @hva in, for writing if @write, without changing what it holds.
 */
enum guard_reason guard_touch(uint64_t hva, bool write);

/*
 * Code made at run time whose accesses are guarded as well. A refused access goes on at @pad, with
 * its own address in RCX.
 */
struct guard_code {
	uint64_t start, end;
	const uint8_t *accesses; /* bit n: a guarded access begins at start + n */
	uint64_t pad;
};

/*
 * Any thread. -ENOSPC: too many. @code is copied, but what .accesses points to is the caller's: it
 * stays mapped until the code is removed, and may gain and lose bits. No thread runs the code when
 * it is removed.
 */
int guard_code_add(const struct guard_code *code);
void guard_code_remove(const struct guard_code *code);

/*
 * For a signal handler: @signal arrived with @info and the machine state @ucontext. True when the
 * thread was in a guarded access and now stands on its landing pad. SIGSEGV and SIGBUS are
 * taken as the access's own fault only when the instruction itself raised them.
 */
bool guard_handle_signal(int signal, const void *info, void *ucontext);
/* Is there a guarded access at the address? For handlers, too. */
bool guard_is_access(uint64_t instruction);

#endif
