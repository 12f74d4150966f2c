/* The memory of translated code: two views of it, parts that are used in turn, what faults there.
 */
#include <sys/mman.h>
#include <sys/resource.h>

#include "hosts/process/guard.h"
#include "hosts/process/map.h"
#include "hosts/process/sys.h"
#include "vcpu/translate/lockstep.h"
#include "vcpu/translate/machine.h"
#include "vcpu/translate/make.h"

#define MFD_CLOSE_ON_EXEC 1u
#define MFD_EXECUTABLE 0x10u

/* Address 0: it could not be done. */
static uint64_t map(uint64_t size_bytes, int protection, int flags, int fd)
{
	long address = process_map(size_bytes, protection, flags, fd);

	return sys_failed(address) ? 0 : (uint64_t)address;
}

static void *map_anonymous(uint64_t size_bytes)
{
	return (void *)(uintptr_t)map(size_bytes, PROT_READ | PROT_WRITE,
				      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
}

/* A file in memory with room for the code; negative: none. */
static long open_code(void)
{
	struct rlimit limit = {0};
	long fd;

	/* Beyond a limit on files the client would get SIGXFSZ. */
	sys_call(SYS_prlimit64, 0, RLIMIT_FSIZE, 0, sys_address(&limit));
	if (limit.rlim_cur < CODE_BYTES)
		return -1;
	fd = sys_call(SYS_memfd_create, sys_address("quire code"),
		      MFD_CLOSE_ON_EXEC | MFD_EXECUTABLE);
	if (fd < 0) /* Linux before 6.3 */
		fd = sys_call(SYS_memfd_create, sys_address("quire code"), MFD_CLOSE_ON_EXEC);
	if (fd >= 0 && sys_call(SYS_ftruncate, (uint64_t)fd, CODE_BYTES)) {
		sys_call(SYS_close, (uint64_t)fd);
		return -1;
	}
	return fd;
}

/* One file, mapped for writing and for execution: no page is ever both, as PR_SET_MDWE demands. */
static int map_code(struct translate *t)
{
	long fd = open_code();

	if (fd < 0)
		return -1;
	t->write = (uint8_t *)(uintptr_t)map(CODE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
	t->exec = map(CODE_BYTES, PROT_READ | PROT_EXEC, MAP_SHARED, fd);
	sys_call(SYS_close, (uint64_t)fd);
	return t->write && t->exec ? 0 : -1;
}

static void unmap(void *address, uint64_t size_bytes)
{
	if (address)
		sys_call(SYS_munmap, sys_address(address), size_bytes);
}

static void translate_free(struct translate *t)
{
	if (!t)
		return;
	unmap(t->write, CODE_BYTES);
	unmap((void *)(uintptr_t)t->exec, CODE_BYTES);
	unmap(t->accesses, CODE_BYTES / 8);
	unmap(t->units, PARTS * PART_UNIT_BYTES);
	unmap(t->making, sizeof(*t->making));
	unmap(t->lockstep, sizeof(*t->lockstep));
	unmap(t, sizeof(*t));
}

/* The stubs stand at the beginning of the first part, for ever. */
static void make_stubs(struct translate *t)
{
	struct emit e = {.at = t->write,
			 .end = t->write + PART_CODE_BYTES,
			 .exec_delta = (int64_t)(t->exec - (uint64_t)(uintptr_t)t->write)};

	stubs_make(t, &e);
	t->stub_bytes = ((uint64_t)(e.at - t->write) + 63) & ~UINT64_C(63);
	t->part[0].code_used = t->stub_bytes;
}

void translate_create(struct cpu *cpu, unsigned int runs)
{
	struct translate *t;

	if (!machine_translates())
		return;
	t = map_anonymous(sizeof(*t));
	if (!t)
		return;
	t->accesses = map_anonymous(CODE_BYTES / 8);
	t->units = map_anonymous(PARTS * PART_UNIT_BYTES);
	t->making = map_anonymous(sizeof(*t->making));
	if (!t->accesses || !t->units || !t->making || map_code(t)) {
		translate_free(t);
		return;
	}
	t->guard = (struct guard_code){
	    .start = t->exec, .end = t->exec + CODE_BYTES, .accesses = t->accesses};
	ZydisDecoderInit(&t->decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	make_stubs(t);
	t->guard.pad = t->stubs.fault;
	if (guard_code_add(&t->guard)) {
		translate_free(t);
		return;
	}
	t->after = runs > UINT8_MAX ? UINT8_MAX : runs;
	cpu->translate = t;
	cpu->fast.tlb_bits = (uint64_t)(FAST_SETS - 1) << QUIRE_PAGE_SHIFT;
	cpu->fast.jump_bits = (uint64_t)(FAST_JUMPS - 1) << 2;
	for (unsigned int i = 0; i < 5; i++)
		cpu->fast.low_bits[i] = (UINT64_C(1) << i) - 1;
	for (unsigned int i = 0; i < FAST_NUMBERS; i++)
		cpu->fast.number[i][0] = i;
	translate_flush(cpu);
}

int translate_lockstep(struct cpu *cpu)
{
	if (cpu->translate && !cpu->translate->lockstep)
		cpu->translate->lockstep = map_anonymous(sizeof(struct lockstep));
	return cpu->translate && cpu->translate->lockstep ? 0 : -1;
}

void translate_destroy(struct cpu *cpu)
{
	if (!cpu->translate)
		return;
	guard_code_remove(&cpu->translate->guard);
	translate_free(cpu->translate);
	cpu->translate = NULL;
}

static void part_clear(struct translate *t, unsigned int part)
{
	uint64_t code = part * PART_CODE_BYTES;

	t->part[part] = (struct part){.code_used = part ? 0 : t->stub_bytes};
	memset(t->accesses + code / 8, 0, PART_CODE_BYTES / 8);
	t->recycled++;
}

static struct unit *part_first(const struct translate *t, unsigned int part)
{
	return (struct unit *)(t->units + part * PART_UNIT_BYTES);
}

static struct unit *unit_next(struct unit *unit)
{
	return (struct unit *)((char *)unit + unit->size_bytes);
}

static int part_holds(const struct translate *t, unsigned int part, const struct unit *unit)
{
	return (uint64_t)((const char *)unit - (t->units + part * PART_UNIT_BYTES)) <
	       t->part[part].units_used;
}

/* Blocks outlive units: no block may keep one whose memory is used again. */
static void unit_evict(struct cpu *cpu, struct unit *unit)
{
	struct unit **kept = &unit->block->unit[unit->mode];

	if (unit_is_current(unit))
		translate_drop_page(cpu, unit->block->page);
	if (*kept == unit)
		*kept = NULL;
}

/* Use the next part again. */
static void part_recycle(struct cpu *cpu)
{
	struct translate *t = cpu->translate;
	unsigned int part = (t->now + 1) % PARTS;

	for (struct unit *unit = part_first(t, part); part_holds(t, part, unit);
	     unit = unit_next(unit))
		unit_evict(cpu, unit);
	part_clear(t, part);
	t->now = part;
	cpu_count(&cpu->counts.evictions);
}

void translate_reset(struct cpu *cpu)
{
	struct translate *t = cpu->translate;

	if (!t)
		return;
	for (unsigned int part = 0; part < PARTS; part++)
		part_clear(t, part);
	t->now = 0;
	translate_flush(cpu);
}

void cache_reserve(struct cpu *cpu, struct emit *e)
{
	struct translate *t = cpu->translate;
	struct part *part = &t->part[t->now];

	if (part->code_used + UNIT_CODE_MAX > PART_CODE_BYTES ||
	    part->units_used + UNIT_BYTES_MAX > PART_UNIT_BYTES) {
		part_recycle(cpu);
		part = &t->part[t->now];
	}
	e->at = t->write + t->now * PART_CODE_BYTES + part->code_used;
	e->end = e->at + UNIT_CODE_MAX;
	e->exec_delta = (int64_t)(t->exec - (uint64_t)(uintptr_t)t->write);
	e->is_full = 0;
}

struct unit *cache_alloc_unit(struct translate *t, unsigned int op_count)
{
	const struct part *part = &t->part[t->now];
	struct unit *unit = (struct unit *)(t->units + t->now * PART_UNIT_BYTES + part->units_used);
	uint64_t size = sizeof(*unit) + (op_count + 1) * sizeof(struct unit_op);

	memset(unit, 0, size);
	unit->size_bytes = (uint32_t)((size + UNIT_ALIGN - 1) & ~(uint64_t)(UNIT_ALIGN - 1));
	unit->op_count = (uint16_t)op_count;
	return unit;
}

void cache_commit(struct translate *t, const struct unit *unit)
{
	struct part *part = &t->part[t->now];

	part->code_used += (unit->code_bytes + 15) & ~15u;
	part->units_used += unit->size_bytes;
}

void cache_forget(struct translate *t, const struct unit *unit)
{
	uint64_t at = (uint64_t)(unit->write - t->write);

	/* Units begin at multiples of 16. */
	memset(t->accesses + at / 8, 0, unit->code_bytes / 8 + 1);
}

struct unit *cache_find(struct translate *t, uint64_t address, unsigned int *op)
{
	unsigned int part = (unsigned int)((address - t->exec) / PART_CODE_BYTES);

	for (struct unit *unit = part_first(t, part); part_holds(t, part, unit);
	     unit = unit_next(unit)) {
		uint64_t offset = address - unit->code;

		if (offset >= unit->code_bytes)
			continue;
		for (*op = 0; *op + 1u < unit->op_count && unit->op[*op + 1].code <= offset; ++*op)
			;
		return unit;
	}
	return NULL;
}
