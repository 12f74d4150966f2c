/* Memory accesses that the inlined path does not do: TLB misses, page crossings, devices, code. */
#include "vcpu/decode/code.h"
#include "vcpu/exec/exec.h"
#include "vcpu/mem/mem.h"
#include "vcpu/mem/mmu.h"
#include "vcpu/run/debug.h"
#include "vcpu/run/raise.h"
#include "vcpu/run/replay.h"

/* One access that stays inside a page and inside eight bytes. */
struct piece {
	uint64_t linear;
	unsigned int size_bytes;
};

static struct mmu_request request_of(uint64_t linear, enum mmu_access guest, enum mmu_access stage2)
{
	return (struct mmu_request){.linear = linear, .access = guest, .stage2 = stage2};
}

/* Guarded copies of 1 .. 8 bytes; powers of two are one access. */
static enum guard_reason piece_get(const void *host, unsigned int size_bytes, uint64_t *value)
{
	uint8_t bytes[8] = {0};
	size_t done;
	enum guard_reason reason;

	if (!(size_bytes & (size_bytes - 1)))
		return guard_load(host, size_bytes, value);
	reason = guard_copy(bytes, host, size_bytes, &done);
	memcpy(value, bytes, sizeof(bytes));
	return reason;
}

static enum guard_reason piece_put(void *host, unsigned int size_bytes, uint64_t value)
{
	size_t done;

	if (!(size_bytes & (size_bytes - 1)))
		return guard_store(host, size_bytes, value);
	return guard_copy(host, &value, size_bytes, &done);
}

/* The instruction at RIP, which KVM's emulator does not know, touched a device. */
static enum step refuse_device(struct cpu *cpu)
{
	struct cpu_exit_info *info = cpu->info;

	info->insn_size_bytes = code_bytes_at_rip(cpu, info->insn);
	return cpu_stop_exit(cpu, CPU_EXIT_EMULATION);
}

static int may_touch_device(const struct cpu *cpu)
{
	return !cpu->op || !(cpu->op->flags & OP_NO_DEVICE);
}

static enum step device_read(struct cpu *cpu, uint64_t gpa, unsigned int size_bytes,
			     uint64_t *value)
{
	struct cpu_io io = {.address = gpa, .size_bytes = size_bytes};
	const struct replay_entry *entry;
	enum step step;

	if (!may_touch_device(cpu))
		return refuse_device(cpu);
	step = replay_ask(cpu, REPLAY_MMIO, &io, &entry);
	if (step)
		return step;
	*value = 0;
	memcpy(value, entry->io.data, size_bytes);
	return STEP_NEXT;
}

static enum step device_write(struct cpu *cpu, uint64_t gpa, unsigned int size_bytes,
			      uint64_t value)
{
	struct cpu_io io = {.address = gpa, .size_bytes = size_bytes, .is_write = true};
	const struct replay_entry *entry;

	if (!may_touch_device(cpu))
		return refuse_device(cpu);
	memcpy(io.data, &value, sizeof(io.data));
	return replay_ask(cpu, REPLAY_MMIO, &io, &entry);
}

/*
 * What will be stored to is one write to L1's nested tables, whose fault says so. Where only the
 * write is no memory's (ROM) the load is.
 */
static enum step translate_load(struct cpu *cpu, struct mmu_request *request,
				struct mmu_result *result)
{
	enum step step;

	if (request->access != MMU_WRITE || !(cpu->svm.nested_paging || cpu->linear_root))
		return mmu_translate(cpu, request, result);
	request->stage2 = MMU_WRITE;
	step = mmu_translate(cpu, request, result);
	if (step || result->host)
		return step;
	request->stage2 = MMU_READ;
	return mmu_translate(cpu, request, result);
}

/* @guest: MMU_READ, or MMU_WRITE to load what will be stored to. */
static enum step piece_load(struct cpu *cpu, const struct piece *piece, enum mmu_access guest,
			    uint64_t *value)
{
	struct mmu_request request = request_of(piece->linear, guest, MMU_READ);
	struct mmu_result result;
	void *host = tlb_find(cpu, piece->linear, guest);
	enum step step;

	if (!host) {
		step = translate_load(cpu, &request, &result);
		cpu->fault_for_store = step && guest == MMU_WRITE;
		if (step)
			return step;
		debug_note(cpu, piece->linear, piece->size_bytes, MMU_READ);
		if (!result.host)
			return device_read(cpu, result.gpa, piece->size_bytes, value);
		tlb_fill(cpu, &request, &result);
		host = (void *)(uintptr_t)result.host;
	}
	if (piece_get(host, piece->size_bytes, value) != GUARD_OK)
		return mmu_guard_failed(cpu, &request);
	return STEP_NEXT;
}

static enum step piece_store(struct cpu *cpu, const struct piece *piece, uint64_t value)
{
	struct mmu_request request = request_of(piece->linear, MMU_WRITE, MMU_WRITE);
	struct mmu_result result;
	void *host = tlb_find(cpu, piece->linear, MMU_WRITE);
	int was_cached = host != NULL;
	enum step step;

	if (!host) {
		step = mmu_translate(cpu, &request, &result);
		if (step)
			return step;
		debug_note(cpu, piece->linear, piece->size_bytes, MMU_WRITE);
		if (!result.host)
			return device_write(cpu, result.gpa, piece->size_bytes, value);
		tlb_fill(cpu, &request, &result);
		host = (void *)(uintptr_t)result.host;
	}
	if (piece_put(host, piece->size_bytes, value) != GUARD_OK)
		return mmu_guard_failed(cpu, &request);
	/* A page that the TLB lets be written holds no decoded code. */
	if (!was_cached)
		code_note_write(cpu, (uintptr_t)host, piece->size_bytes);
	return STEP_NEXT;
}

static unsigned int bytes_to_page_end(uint64_t linear)
{
	return QUIRE_PAGE_SIZE - (linear & PAGE_OFFSET_MASK);
}

static uint64_t linear_wrap(const struct cpu *cpu, uint64_t linear)
{
	return cpu->s.efer & EFER_LMA ? linear : (uint32_t)linear;
}

static enum step load_crossing(struct cpu *cpu, const struct piece *whole, enum mmu_access guest,
			       uint64_t *value)
{
	unsigned int first = bytes_to_page_end(whole->linear);
	struct piece low = {whole->linear, first};
	struct piece high = {linear_wrap(cpu, whole->linear + first), whole->size_bytes - first};
	uint64_t low_value, high_value;
	enum step step = piece_load(cpu, &low, guest, &low_value);

	if (step)
		return step;
	step = piece_load(cpu, &high, guest, &high_value);
	if (step)
		return step;
	*value = low_value | high_value << (first * 8);
	return STEP_NEXT;
}

static enum step load_with(struct cpu *cpu, const struct piece *piece, enum mmu_access guest,
			   uint64_t *value)
{
	if (piece->size_bytes > bytes_to_page_end(piece->linear))
		return load_crossing(cpu, piece, guest, value);
	return piece_load(cpu, piece, guest, value);
}

enum step mem_load_slow(struct cpu *cpu, uint64_t linear, unsigned int size_bytes, uint64_t *value)
{
	struct piece piece = {linear_wrap(cpu, linear), size_bytes};

	return load_with(cpu, &piece, MMU_READ, value);
}

enum step mem_load_for_store(struct cpu *cpu, uint64_t linear, unsigned int size_bytes,
			     uint64_t *value)
{
	struct piece piece = {linear_wrap(cpu, linear), size_bytes};

	return load_with(cpu, &piece, MMU_WRITE, value);
}

enum step mem_store_slow(struct cpu *cpu, uint64_t linear, unsigned int size_bytes, uint64_t value)
{
	struct piece low = {linear_wrap(cpu, linear), size_bytes};
	struct piece high;
	unsigned int first = bytes_to_page_end(linear);
	enum step step;

	if (size_bytes <= first)
		return piece_store(cpu, &low, value);
	step = mem_probe_write(cpu, linear, size_bytes);
	if (step)
		return step;
	low.size_bytes = first;
	high.linear = linear_wrap(cpu, linear + first);
	high.size_bytes = size_bytes - first;
	step = piece_store(cpu, &low, value);
	if (step)
		return step;
	return piece_store(cpu, &high, value >> (first * 8));
}

enum step mem_load_failed(struct cpu *cpu, uint64_t linear)
{
	struct mmu_request request = request_of(linear, MMU_READ, MMU_READ);

	return mmu_guard_failed(cpu, &request);
}

enum step mem_store_failed(struct cpu *cpu, uint64_t linear)
{
	struct mmu_request request = request_of(linear, MMU_WRITE, MMU_WRITE);

	return mmu_guard_failed(cpu, &request);
}

enum step mem_read(struct cpu *cpu, uint64_t linear, void *dst, unsigned int size_bytes)
{
	for (unsigned int at = 0; at < size_bytes; at += 8) {
		struct piece piece = {linear_wrap(cpu, linear + at),
				      size_bytes - at < 8 ? size_bytes - at : 8};
		uint64_t value;
		enum step step = load_with(cpu, &piece, MMU_READ, &value);

		if (step)
			return step;
		memcpy((char *)dst + at, &value, piece.size_bytes);
	}
	return STEP_NEXT;
}

enum step mem_probe_write(struct cpu *cpu, uint64_t linear, unsigned int size_bytes)
{
	uint64_t at = linear, end = linear + size_bytes;

	while (at < end) {
		struct mmu_request request = request_of(linear_wrap(cpu, at), MMU_WRITE, MMU_WRITE);
		struct mmu_result result;
		enum step step;

		if (!tlb_find(cpu, request.linear, MMU_WRITE)) {
			step = mmu_translate(cpu, &request, &result);
			if (step)
				return step;
		}
		at = (at | PAGE_OFFSET_MASK) + 1;
	}
	return STEP_NEXT;
}

static enum step store_any(struct cpu *cpu, const struct piece *piece, uint64_t value)
{
	unsigned int first = bytes_to_page_end(piece->linear);
	struct piece low = {piece->linear, first};
	struct piece high = {linear_wrap(cpu, piece->linear + first), piece->size_bytes - first};
	enum step step;

	if (piece->size_bytes <= first)
		return piece_store(cpu, piece, value);
	step = piece_store(cpu, &low, value);
	return step ? step : piece_store(cpu, &high, value >> (first * 8));
}

enum step mem_write(struct cpu *cpu, uint64_t linear, const void *src, unsigned int size_bytes)
{
	enum step step = mem_probe_write(cpu, linear, size_bytes);

	for (unsigned int at = 0; !step && at < size_bytes; at += 8) {
		struct piece piece = {linear_wrap(cpu, linear + at),
				      size_bytes - at < 8 ? size_bytes - at : 8};
		uint64_t value = 0;

		memcpy(&value, (const char *)src + at, piece.size_bytes);
		step = store_any(cpu, &piece, value);
	}
	return step;
}

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

/* Over two pages, or of a device: load and store, not atomic. */
static enum step cmpxchg_plain(struct cpu *cpu, const struct mem_cmpxchg_request *request,
			       int *swapped)
{
	*swapped = 1;
	return mem_store_slow(cpu, request->linear, request->size_bytes, request->desired);
}

enum step mem_cmpxchg(struct cpu *cpu, const struct mem_cmpxchg_request *request,
		      uint64_t *expected, int *swapped)
{
	uint64_t linear = linear_wrap(cpu, request->linear);
	struct mmu_request translate = request_of(linear, MMU_WRITE, MMU_WRITE);
	struct mmu_result result;
	void *host;
	bool done = false;
	enum step step;

	if (request->size_bytes > bytes_to_page_end(linear))
		return cmpxchg_plain(cpu, request, swapped);
	host = tlb_find(cpu, linear, MMU_WRITE);
	if (!host) {
		step = mmu_translate(cpu, &translate, &result);
		if (step)
			return step;
		debug_note(cpu, linear, request->size_bytes, MMU_WRITE);
		if (!result.host)
			return cmpxchg_plain(cpu, request, swapped);
		tlb_fill(cpu, &translate, &result);
		host = (void *)(uintptr_t)result.host;
	}
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
	struct mmu_request request = request_of(linear_wrap(cpu, linear), MMU_WRITE, MMU_WRITE);
	void *host = tlb_find(cpu, request.linear, MMU_WRITE);
	struct mmu_result result;
	enum step step;

	if (!host) {
		step = mmu_translate(cpu, &request, &result);
		if (step)
			return step;
		debug_note(cpu, request.linear, 16, MMU_WRITE);
		if (!result.host) {
			uint64_t expected[2] = {old[0], old[1]};

			step = cmpxchg16_device(cpu, linear, old, desired);
			*swapped = !memcmp(old, expected, sizeof(expected));
			return step;
		}
		tlb_fill(cpu, &request, &result);
		host = (void *)(uintptr_t)result.host;
	}
	if (guard_cmpxchg_u128(host, old, desired, swapped) != GUARD_OK)
		return mmu_guard_failed(cpu, &request);
	if (*swapped)
		code_note_write(cpu, (uintptr_t)host, 16);
	return STEP_NEXT;
}
