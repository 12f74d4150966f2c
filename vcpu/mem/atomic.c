/* Locked accesses: one instruction of the host's, also where they cross from page to page. */
#include "hosts/process/fork.h"
#include "vcpu/decode/code.h"
#include "vcpu/exec/exec.h"
#include "vcpu/mem/mem.h"
#include "vcpu/mem/mmu.h"
#include "vcpu/run/debug.h"

static enum guard_reason cmpxchg_host(void *host, const struct mem_cmpxchg_request *request,
				      uint64_t *expected, bool *swapped)
{
	uint32_t old32 = *expected;
	uint16_t old16 = *expected;
	uint8_t old8 = *expected;
	enum guard_reason reason;

	switch (request->size_bytes) {
	case 1:
		reason = guard_cmpxchg_u8(host, &old8, request->desired, swapped);
		*expected = old8;
		return reason;
	case 2:
		reason = guard_cmpxchg_u16(host, &old16, request->desired, swapped);
		*expected = old16;
		return reason;
	case 4:
		reason = guard_cmpxchg_u32(host, &old32, request->desired, swapped);
		*expected = old32;
		return reason;
	default:
		return guard_cmpxchg_u64(host, expected, request->desired, swapped);
	}
}

/* Of a device: load and store, not atomic. */
static enum step cmpxchg_plain(struct cpu *cpu, const struct mem_cmpxchg_request *request,
			       int *swapped)
{
	*swapped = 1;
	return mem_store_slow(cpu, request->linear, request->size_bytes, request->desired);
}

/* Where @linear can be written, in *@host; NULL there: in a device. */
static enum step find_target(struct cpu *cpu, uint64_t linear, unsigned int size_bytes, char **host)
{
	struct mmu_request request = mmu_request_of(linear, MMU_WRITE, MMU_WRITE);
	struct mmu_result result;
	enum step step;

	*host = tlb_find(cpu, linear, MMU_WRITE);
	if (*host)
		return STEP_NEXT;
	step = mmu_translate(cpu, &request, &result);
	if (step)
		return step;
	debug_note(cpu, linear, size_bytes, MMU_WRITE);
	if (result.host)
		tlb_fill(cpu, &request, &result);
	*host = (char *)(uintptr_t)result.host;
	return STEP_NEXT;
}

/* A part of an operand, in the aligned word at the end or the beginning of its page. */
struct half {
	char *word;
	uint64_t mask; /* of its bytes there */
	unsigned int shift, value_shift;
	uint64_t linear; /* of its page */
};

static uint64_t half_of(const struct half *half, uint64_t value)
{
	return value >> half->value_shift << half->shift & half->mask;
}

/* Exchange the part of @from for that of @to. *@done is zero where something else was there. */
static enum guard_reason half_put(const struct half *half, uint64_t from, uint64_t to, bool *done)
{
	uint64_t word = 0;
	enum guard_reason reason = guard_load_u64(half->word, &word);

	*done = false;
	while (reason == GUARD_OK && !*done && (word & half->mask) == half_of(half, from))
		reason = guard_cmpxchg_u64(half->word, &word,
					   (word & ~half->mask) | half_of(half, to), done);
	return reason;
}

static enum guard_reason halves_get(const struct half half[2], uint64_t *value)
{
	uint64_t words[2] = {0, 0};
	enum guard_reason reason = guard_load_u64(half[0].word, &words[0]);

	if (reason == GUARD_OK)
		reason = guard_load_u64(half[1].word, &words[1]);
	*value = (words[0] & half[0].mask) >> half[0].shift | (words[1] & half[1].mask)
								  << half[1].value_shift;
	return reason;
}

/*
 * One access at a time in the whole process is to two pages that are not neighbours here. What else
 * writes one of the two parts meanwhile is noticed, and the access begins again.
 */
static char crossing_lock;

static void fork_child(void)
{
	crossing_lock = 0;
}
FORK_CHILD(FORK_SPLIT, crossing_lock, fork_child);

static enum guard_reason halves_put(const struct half half[2], uint64_t from, uint64_t to,
				    bool *swapped)
{
	bool undone;
	/* Can it be written at all? */
	enum guard_reason reason = half_put(&half[1], from, from, swapped);

	if (reason == GUARD_OK && *swapped)
		reason = half_put(&half[0], from, to, swapped);
	if (reason != GUARD_OK || !*swapped)
		return reason;
	reason = half_put(&half[1], from, to, swapped);
	if (reason == GUARD_OK && *swapped)
		return reason;
	*swapped = false;
	while (half_put(&half[0], to, from, &undone) == GUARD_ABORT)
		;
	return reason;
}

static enum guard_reason halves_exchange(const struct half half[2], uint64_t *expected,
					 uint64_t desired, bool *swapped)
{
	uint64_t found;
	enum guard_reason reason = halves_put(half, *expected, desired, swapped);

	if (reason == GUARD_OK && !*swapped) {
		reason = halves_get(half, &found);
		if (reason == GUARD_OK)
			*expected = found;
	}
	return reason;
}

/* The host refused one of the two: which? */
static enum step crossing_failed(struct cpu *cpu, const struct half half[2])
{
	uint8_t byte = 0;
	bool done;
	int is_low = guard_cmpxchg_u8(half[0].word + 7, &byte, byte, &done) != GUARD_OK;
	struct mmu_request request =
	    mmu_request_of(half[is_low ? 0 : 1].linear, MMU_WRITE, MMU_WRITE);

	return mmu_guard_failed(cpu, &request);
}

static void halves_init(struct half half[2], const struct mem_cmpxchg_request *request, char *low,
			char *high)
{
	unsigned int first = mem_to_page_end(request->linear);
	unsigned int rest = request->size_bytes - first;

	half[0] = (struct half){.word = low + first - 8,
				.shift = 64 - first * 8,
				.mask = UINT64_MAX << (64 - first * 8)};
	half[1] = (struct half){
	    .word = high, .value_shift = first * 8, .mask = UINT64_MAX >> (64 - rest * 8)};
}

static enum step cmpxchg_crossing(struct cpu *cpu, const struct mem_cmpxchg_request *request,
				  uint64_t *expected, int *swapped)
{
	unsigned int first = mem_to_page_end(request->linear);
	uint64_t linear = mem_wrap(cpu, request->linear);
	uint64_t next = mem_wrap(cpu, linear + first);
	struct half half[2];
	enum guard_reason reason;
	char *low, *high;
	bool done = false;
	enum step step = find_target(cpu, linear, first, &low);

	if (!step)
		step = find_target(cpu, next, request->size_bytes - first, &high);
	if (step)
		return step;
	if (!low || !high)
		return cmpxchg_plain(cpu, request, swapped);
	halves_init(half, request, low, high);
	half[0].linear = linear;
	half[1].linear = next;
	if (high == low + first) {
		reason = cmpxchg_host(low, request, expected, &done);
	} else if (__atomic_test_and_set(&crossing_lock, __ATOMIC_ACQUIRE)) {
		cpu->stop = STOP_RESTART;
		return STEP_ABORT;
	} else {
		reason = halves_exchange(half, expected, request->desired, &done);
		__atomic_clear(&crossing_lock, __ATOMIC_RELEASE);
	}
	if (reason != GUARD_OK)
		return crossing_failed(cpu, half);
	*swapped = done;
	if (done) {
		code_note_write(cpu, (uintptr_t)low, first);
		code_note_write(cpu, (uintptr_t)high, request->size_bytes - first);
	}
	return STEP_NEXT;
}

enum step mem_cmpxchg(struct cpu *cpu, const struct mem_cmpxchg_request *request,
		      uint64_t *expected, int *swapped)
{
	uint64_t linear = mem_wrap(cpu, request->linear);
	struct mmu_request translate = mmu_request_of(linear, MMU_WRITE, MMU_WRITE);
	char *host;
	bool done = false;
	enum step step;

	if (request->size_bytes > mem_to_page_end(linear))
		return cmpxchg_crossing(cpu, request, expected, swapped);
	step = find_target(cpu, linear, request->size_bytes, &host);
	if (step)
		return step;
	if (!host)
		return cmpxchg_plain(cpu, request, swapped);
	if (cmpxchg_host(host, request, expected, &done) != GUARD_OK)
		return mmu_guard_failed(cpu, &translate);
	*swapped = done;
	if (done)
		code_note_write(cpu, (uintptr_t)host, request->size_bytes);
	return STEP_NEXT;
}

static enum guard_reason guard_cmpxchg_u128(void *dst, uint64_t old[2], const uint64_t desired[2],
					    int *swapped)
{
	uint64_t low = old[0], high = old[1];
	uint8_t done;

	__asm__ volatile goto("1:\tlock cmpxchg16b (%[ptr])\n\t" GUARD_TABLE("1b")
			      : "+a"(low), "+d"(high), "=@ccz"(done)
			      : "b"(desired[0]), "c"(desired[1]), [ptr] "r"(dst)
			      : "memory"
			      : faulted);
	__asm__ volatile("");
	old[0] = low;
	old[1] = high;
	*swapped = done;
	return GUARD_OK;
faulted:
	return guard_last_reason;
}

/* In a device: compare what was read, write back in any case. */
static enum step cmpxchg16_device(struct cpu *cpu, uint64_t linear, uint64_t old[2],
				  const uint64_t desired[2])
{
	uint64_t found[2];
	enum step step = mem_read(cpu, linear, found, sizeof(found));

	if (!step)
		step = mem_write(cpu, linear, memcmp(found, old, sizeof(found)) ? found : desired,
				 sizeof(found));
	memcpy(old, found, sizeof(found));
	return step;
}

enum step mem_cmpxchg16(struct cpu *cpu, uint64_t linear, uint64_t old[2],
			const uint64_t desired[2], int *swapped)
{
	struct mmu_request request = mmu_request_of(mem_wrap(cpu, linear), MMU_WRITE, MMU_WRITE);
	uint64_t expected[2] = {old[0], old[1]};
	char *host;
	enum step step = find_target(cpu, request.linear, 16, &host);

	if (step)
		return step;
	if (!host) {
		step = cmpxchg16_device(cpu, linear, old, desired);
		*swapped = !memcmp(old, expected, sizeof(expected));
		return step;
	}
	if (guard_cmpxchg_u128(host, old, desired, swapped) != GUARD_OK)
		return mmu_guard_failed(cpu, &request);
	if (*swapped)
		code_note_write(cpu, (uintptr_t)host, 16);
	return STEP_NEXT;
}
