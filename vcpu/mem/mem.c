/* Memory accesses that the inlined path does not do: TLB misses, page crossings, devices, code. */
#include "vcpu/decode/code.h"
#include "vcpu/exec/exec.h"
#include "vcpu/mem/mem.h"
#include "vcpu/mem/mmu.h"
#include "vcpu/mem/stage2.h"
#include "vcpu/run/debug.h"
#include "vcpu/run/raise.h"
#include "vcpu/run/replay.h"

/* One access that stays inside a page and inside eight bytes. */
struct piece {
	uint64_t linear;
	unsigned int size_bytes;
};

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

/* The instruction at RIP, which KVM's emulator does not know, touched a device, or a table. */
static enum step refuse_device(struct cpu *cpu, uint64_t gpa)
{
	struct cpu_exit_info *info = cpu->info;
	int is_memory;

	(void)stage2_device_address(cpu, gpa, &is_memory);
	if (is_memory && replay_tries_again(cpu)) {
		replay_retire(cpu);
		cpu->stop = STOP_RESTART;
		return STEP_ABORT;
	}
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
		return refuse_device(cpu, gpa);
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
		return refuse_device(cpu, gpa);
	memcpy(io.data, &value, sizeof(io.data));
	return replay_ask(cpu, REPLAY_MMIO, &io, &entry);
}

/*
 * What will be stored to is one write to L1's nested tables, whose fault says so. Where only the
 * write is no memory's (ROM) the load is. Where the hypervisor writes the memory, it loads, too:
 * the instruction runs again after its write, and must find what was there before.
 */
static enum step translate_load(struct cpu *cpu, struct mmu_request *request,
				struct mmu_result *result)
{
	enum step step;
	int is_memory;

	if (request->access != MMU_WRITE || !(cpu->svm.nested_paging || cpu->linear_root))
		return mmu_translate(cpu, request, result);
	request->stage2 = MMU_WRITE;
	step = mmu_translate(cpu, request, result);
	if (step || result->host)
		return step;
	(void)stage2_device_address(cpu, result->gpa, &is_memory);
	if (is_memory)
		return STEP_NEXT;
	request->stage2 = MMU_READ;
	return mmu_translate(cpu, request, result);
}

/* @guest: MMU_READ, or MMU_WRITE to load what will be stored to. */
static enum step piece_load(struct cpu *cpu, const struct piece *piece, enum mmu_access guest,
			    uint64_t *value)
{
	struct mmu_request request = mmu_request_of(piece->linear, guest, MMU_READ);
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
	struct mmu_request request = mmu_request_of(piece->linear, MMU_WRITE, MMU_WRITE);
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

static enum step load_crossing(struct cpu *cpu, const struct piece *whole, enum mmu_access guest,
			       uint64_t *value)
{
	unsigned int first = mem_to_page_end(whole->linear);
	struct piece low = {whole->linear, first};
	struct piece high = {mem_wrap(cpu, whole->linear + first), whole->size_bytes - first};
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
	if (piece->size_bytes > mem_to_page_end(piece->linear))
		return load_crossing(cpu, piece, guest, value);
	return piece_load(cpu, piece, guest, value);
}

/* What an operand of @size_bytes is aligned to: 8 for 10 bytes, its words for x87 images. */
static unsigned int natural_alignment(unsigned int size_bytes)
{
	unsigned int alignment = size_bytes == 10 ? 8 : size_bytes & -size_bytes;

	return alignment < 16 ? alignment : 16;
}

enum step mem_raise_misaligned(struct cpu *cpu, uint64_t linear)
{
	if (cpu->op && (cpu->op->flags & OP_ANY_ALIGNMENT))
		return STEP_NEXT;
	if (mmu_is_canonical(cpu, linear))
		return cpu_raise_error(cpu, VECTOR_AC, 0);
	return mmu_raise_non_canonical(cpu);
}

static enum step check_alignment(struct cpu *cpu, uint64_t linear, unsigned int size_bytes)
{
	return mem_check_alignment(cpu, linear, natural_alignment(size_bytes));
}

enum step mem_load_slow(struct cpu *cpu, uint64_t linear, unsigned int size_bytes, uint64_t *value)
{
	struct piece piece = {mem_wrap(cpu, linear), size_bytes};
	enum step step = check_alignment(cpu, linear, size_bytes);

	return step ? step : load_with(cpu, &piece, MMU_READ, value);
}

enum step mem_load_for_store(struct cpu *cpu, uint64_t linear, unsigned int size_bytes,
			     uint64_t *value)
{
	struct piece piece = {mem_wrap(cpu, linear), size_bytes};
	enum step step = check_alignment(cpu, linear, size_bytes);

	return step ? step : load_with(cpu, &piece, MMU_WRITE, value);
}

enum step mem_store_slow(struct cpu *cpu, uint64_t linear, unsigned int size_bytes, uint64_t value)
{
	struct piece low = {mem_wrap(cpu, linear), size_bytes};
	struct piece high;
	unsigned int first = mem_to_page_end(linear);
	enum step step = check_alignment(cpu, linear, size_bytes);

	if (step)
		return step;
	if (size_bytes <= first)
		return piece_store(cpu, &low, value);
	step = mem_probe_write(cpu, linear, size_bytes);
	if (step)
		return step;
	low.size_bytes = first;
	high.linear = mem_wrap(cpu, linear + first);
	high.size_bytes = size_bytes - first;
	step = piece_store(cpu, &low, value);
	if (step)
		return step;
	return piece_store(cpu, &high, value >> (first * 8));
}

enum step mem_load_failed(struct cpu *cpu, uint64_t linear)
{
	struct mmu_request request = mmu_request_of(linear, MMU_READ, MMU_READ);

	return mmu_guard_failed(cpu, &request);
}

enum step mem_store_failed(struct cpu *cpu, uint64_t linear)
{
	struct mmu_request request = mmu_request_of(linear, MMU_WRITE, MMU_WRITE);

	return mmu_guard_failed(cpu, &request);
}

/*
 * Where [linear, linear + size) is, if these are whole words of one page that the TLB has: gates,
 * descriptors, frames of exceptions. A user whose accesses must be aligned has nothing there.
 */
static uint64_t *find_words(const struct cpu *cpu, uint64_t linear, unsigned int size_bytes,
			    int is_write)
{
	const struct tlb_entry *entry = &cpu->tlb->data[0][tlb_set(linear)];

	if ((is_write ? entry->write : entry->read) != tlb_tag(cpu, linear) ||
	    size_bytes % sizeof(uint64_t) || size_bytes > mem_to_page_end(linear))
		return NULL;
	return (uint64_t *)(uintptr_t)(linear + entry->addend);
}

static enum step read_words(struct cpu *cpu, uint64_t linear, const uint64_t *words, void *dst,
			    unsigned int count)
{
	for (unsigned int i = 0; i < count; i++) {
		uint64_t value = 0;

		if (unlikely(guard_load_u64(&words[i], &value) != GUARD_OK))
			return mem_load_failed(cpu, linear + i * sizeof(value));
		memcpy((char *)dst + i * sizeof(value), &value, sizeof(value));
	}
	return STEP_NEXT;
}

enum step mem_read(struct cpu *cpu, uint64_t linear, void *dst, unsigned int size_bytes)
{
	const uint64_t *words = find_words(cpu, linear, size_bytes, 0);
	enum step step;

	if (likely(words))
		return read_words(cpu, linear, words, dst, size_bytes / sizeof(*words));
	step = check_alignment(cpu, linear, size_bytes);
	for (unsigned int at = 0; !step && at < size_bytes; at += 8) {
		struct piece piece = {mem_wrap(cpu, linear + at),
				      size_bytes - at < 8 ? size_bytes - at : 8};
		uint64_t value;

		step = load_with(cpu, &piece, MMU_READ, &value);
		if (!step)
			memcpy((char *)dst + at, &value, piece.size_bytes);
	}
	return step;
}

enum step mem_probe_write(struct cpu *cpu, uint64_t linear, unsigned int size_bytes)
{
	enum step step = check_alignment(cpu, linear, size_bytes);

	return step ? step : mem_probe_write_any(cpu, linear, size_bytes);
}

enum step mem_probe_write_any(struct cpu *cpu, uint64_t linear, unsigned int size_bytes)
{
	uint64_t at = linear, end = linear + size_bytes;
	enum step step = STEP_NEXT;

	while (!step && at < end) {
		struct mmu_request request =
		    mmu_request_of(mem_wrap(cpu, at), MMU_WRITE, MMU_WRITE);
		struct mmu_result result;

		if (!tlb_find(cpu, request.linear, MMU_WRITE))
			step = mmu_translate(cpu, &request, &result);
		at = (at | PAGE_OFFSET_MASK) + 1;
	}
	return step;
}

static enum step store_any(struct cpu *cpu, const struct piece *piece, uint64_t value)
{
	unsigned int first = mem_to_page_end(piece->linear);
	struct piece low = {piece->linear, first};
	struct piece high = {mem_wrap(cpu, piece->linear + first), piece->size_bytes - first};
	enum step step;

	if (piece->size_bytes <= first)
		return piece_store(cpu, piece, value);
	step = piece_store(cpu, &low, value);
	return step ? step : piece_store(cpu, &high, value >> (first * 8));
}

static enum step write_words(struct cpu *cpu, uint64_t linear, uint64_t *words, const void *src,
			     unsigned int count)
{
	for (unsigned int i = 0; i < count; i++) {
		uint64_t value;

		memcpy(&value, (const char *)src + i * sizeof(value), sizeof(value));
		if (unlikely(guard_store_u64(&words[i], value) != GUARD_OK))
			return mem_store_failed(cpu, linear + i * sizeof(value));
	}
	return STEP_NEXT;
}

enum step mem_write(struct cpu *cpu, uint64_t linear, const void *src, unsigned int size_bytes)
{
	uint64_t *words = find_words(cpu, linear, size_bytes, 1);
	enum step step;

	if (likely(words))
		return write_words(cpu, linear, words, src, size_bytes / sizeof(*words));
	step = mem_probe_write(cpu, linear, size_bytes);
	for (unsigned int at = 0; !step && at < size_bytes; at += 8) {
		struct piece piece = {mem_wrap(cpu, linear + at),
				      size_bytes - at < 8 ? size_bytes - at : 8};
		uint64_t value = 0;

		memcpy(&value, (const char *)src + at, piece.size_bytes);
		step = store_any(cpu, &piece, value);
	}
	return step;
}
