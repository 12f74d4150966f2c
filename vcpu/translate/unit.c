/* One block becomes code: what surrounds its operations, jumps, and the way out. */
#include "vcpu/translate/make.h"

/* Go to @stub, whose address is where it runs. */
static void emit_to_stub(struct making *m, uint64_t stub)
{
	uint8_t *distance = emit_jmp(&m->e);

	emit_aim(distance, (uint8_t *)(uintptr_t)(stub - (uint64_t)m->e.exec_delta));
}

void make_exit(struct making *m, unsigned int op, enum exit_kind kind)
{
	emit_store_field_imm(&m->e, FAST(exit), exit_of(m->t, m->unit, op, kind));
	emit_to_stub(m, m->t->stubs.leave);
}

void make_cold(struct making *m, uint8_t *distance, enum cold_kind kind)
{
	m->cold[m->colds++] = (struct cold){distance, (uint8_t)m->index, (uint8_t)kind};
	m->unit->op[m->index].is_write |= kind == COLD_MISS_WRITE;
}

void make_access_mark(struct making *m)
{
	uint64_t at = (uint64_t)(m->e.at - m->t->write);

	m->t->accesses[at / 8] |= 1u << at % 8;
}

static int uses_memory_cell(unsigned int offset, unsigned int *guest_reg)
{
	/* They stand at the beginning of struct cpu. */
	if (offset < GPR_AT(16)) {
		*guest_reg = offset / sizeof(uint64_t);
		return 1;
	}
	return 0;
}

/* The host's register with the value at @offset of struct cpu, which @temporary may become. */
static enum host_reg address_part(struct making *m, unsigned int offset, enum host_reg temporary)
{
	unsigned int guest_reg;

	if (offset == offsetof(struct cpu, zero))
		return HOST_NONE;
	if (uses_memory_cell(offset, &guest_reg) && host_of(guest_reg) != HOST_NONE)
		return host_of(guest_reg);
	emit_load_field(&m->e, temporary, offset);
	return temporary;
}

/* The effective address as an operand of the host's. Nonzero: it cannot be one. */
int make_address(struct making *m, struct host_mem *mem)
{
	const struct op *op = m->op;
	int64_t disp = op->disp;

	if (op->address_bytes != 8)
		return -1;
	*mem = (struct host_mem){.scale = op->scale_shift};
	if (op->base == offsetof(struct cpu, s.rip)) {
		disp += m->unit->op[m->index].offset;
		emit_load_field(&m->e, REG_LINEAR, FAST(rip_page));
		mem->base = REG_LINEAR;
		mem->index = HOST_NONE;
	} else {
		mem->base = address_part(m, op->base, REG_LINEAR);
		mem->index = address_part(m, op->index, REG_SET);
	}
	mem->disp = (int32_t)disp;
	return mem->disp == disp ? 0 : -1;
}

/* The linear address of the memory operand in REG_LINEAR. */
int make_linear(struct making *m)
{
	struct host_mem mem, based = {.base = REG_LINEAR, .index = REG_TAG};

	if (make_address(m, &mem))
		return -1;
	emit_lea(&m->e, REG_LINEAR, &mem);
	if (m->op->seg_base != offsetof(struct cpu, zero)) {
		emit_load_field(&m->e, REG_TAG, m->op->seg_base);
		emit_lea(&m->e, REG_LINEAR, &based);
	}
	return 0;
}

/* Look the page of REG_LINEAR up: afterwards REG_TAG is what to add to it. */
void make_check(struct making *m, unsigned int size_bytes, enum cold_kind miss)
{
	struct host_mem last = {
	    .base = REG_TAG, .index = REG_LINEAR, .disp = (int32_t)size_bytes - 1};
	uint64_t tags =
	    miss == COLD_MISS_WRITE ? FAST(write[m->unit->mode]) : FAST(read[m->unit->mode]);

	emit_pext_field(&m->e, REG_SET, REG_LINEAR, FAST(tlb_bits));
	emit_load_table(&m->e, REG_TAG, REG_SET, tags);
	emit_lea(&m->e, REG_TAG, &last);
	emit_shr_page(&m->e, REG_TAG, REG_TAG);
	make_cold(m, emit_jmp_unless_rcx_zero(&m->e), miss);
	emit_load_table(&m->e, REG_TAG, REG_SET, FAST(addend[m->unit->mode]));
}

/* Go on at REG_LINEAR, by the jump cache: the jump of @op, or none of the unit's, behind it. */
static void emit_dispatch(struct making *m, unsigned int op)
{
	emit_store_field_imm(&m->e, FAST(exit), exit_of(m->t, m->unit, op, EXIT_JUMP));
	emit_to_stub(m, m->t->stubs.dispatch[m->unit->mode]);
}

/* Go on at @offset from the page's first byte. */
static void make_far_away(struct making *m, unsigned int op, int64_t offset)
{
	struct host_mem target = {.base = REG_LINEAR, .index = HOST_NONE, .disp = (int32_t)offset};

	emit_load_field(&m->e, REG_LINEAR, FAST(rip_page));
	emit_lea(&m->e, REG_LINEAR, &target);
	emit_dispatch(m, op);
}

/* The first @count operations have retired, and the unit ends. */
static void make_count(struct making *m, unsigned int count)
{
	if (count <= XMM_NUMBERS)
		emit_add_retired_few(&m->e, count);
	else
		emit_add_retired(&m->e, FAST(number[count][0]));
}

/* Go on at @offset from the page's first byte, in the page or elsewhere. */
void make_go_to(struct making *m, unsigned int op, int64_t offset)
{
	struct unit *unit = m->unit;
	struct host_mem ring = {.base = REG_TAG, .index = HOST_NONE};
	uint8_t *stop;

	make_count(m, op < unit->op_count ? op + 1 : op);
	if (offset < 0 || offset >= (int64_t)QUIRE_PAGE_SIZE) {
		make_far_away(m, op, offset);
		return;
	}
	if (op < unit->op_count && offset <= unit->op[op].offset) {
		/* Backwards: each turn of a loop listens. */
		emit_load_field(&m->e, REG_TAG, offsetof(struct cpu, doorbell));
		emit_load(&m->e, REG_TAG, &ring);
		stop = emit_jmp_unless_rcx_zero(&m->e);
		unit->op[op].link = (uint32_t)(emit_jmp(&m->e) - unit->write);
		make_exit(m, op, EXIT_LINK);
		emit_aim(stop, m->e.at);
		make_exit(m, op, EXIT_STOP);
		return;
	}
	unit->op[op].link = (uint32_t)(emit_jmp(&m->e) - unit->write);
	make_exit(m, op, EXIT_LINK);
}

void make_dispatch(struct making *m)
{
	make_count(m, m->index + 1);
	emit_dispatch(m, m->index);
}

int64_t unit_target(const struct unit *unit, unsigned int op)
{
	const struct op *branch = &unit->block->ops[op];

	if (op == unit->op_count)
		return unit->op[op].offset;
	return (int64_t)unit->op[op].offset + branch->length + (int64_t)branch->imm;
}

static void make_one(struct making *m)
{
	uint8_t *start = m->e.at;
	unsigned int colds = m->colds;

	if (!make_operation(m)) {
		m->natives++;
		m->unit->op[m->index].is_code = 1;
		if (m->t->lockstep && !m->ended)
			make_exit(m, m->index + 1, EXIT_STEP);
		return;
	}
	m->e.at = start;
	m->colds = colds;
	m->vectors_checked = 0;
	m->unit->op[m->index].link = 0;
	make_exit(m, m->index, EXIT_OP);
}

static void make_cold_code(struct making *m)
{
	for (unsigned int i = 0; i < m->colds; i++) {
		const struct cold *cold = &m->cold[i];

		emit_aim(cold->distance, m->e.at);
		switch (cold->kind) {
		case COLD_BRANCH:
			make_go_to(m, cold->op, unit_target(m->unit, cold->op));
			break;
		case COLD_MISS_READ:
			make_exit(m, cold->op, EXIT_MISS_READ);
			break;
		case COLD_MISS_WRITE:
			make_exit(m, cold->op, EXIT_MISS_WRITE);
			break;
		default:
			make_exit(m, cold->op, EXIT_OP);
			break;
		}
	}
}

/*
 * One instruction over two pages. Links last as long as the first page's bytes, while the address
 * behind it may come to lead elsewhere: so links go by the jump cache, which is emptied then. What
 * comes from there asks whether the second page was compared in this epoch.
 */
static void make_crossing_entry(struct making *m, unsigned int offset)
{
	struct host_mem epoch = {.base = REG_TAG, .index = HOST_NONE};
	struct host_mem sum = {.base = REG_TAG, .index = REG_LINEAR};
	struct block *block = m->unit->block;
	uint8_t *stale, *ready;

	make_far_away(m, m->unit->op_count, offset);
	m->unit->entry = (uint32_t)(m->e.at - m->unit->write);
	emit_mov_imm(&m->e, REG_TAG, (uint64_t)(uintptr_t)&block->second->epoch);
	emit_load(&m->e, REG_TAG, &epoch);
	emit_load_field(&m->e, REG_LINEAR, FAST(epoch_negated));
	emit_lea(&m->e, REG_TAG, &sum);
	stale = emit_jmp_unless_rcx_zero(&m->e);
	ready = emit_jmp(&m->e);
	emit_aim(stale, m->e.at);
	/* The jump cache has set RIP. */
	make_exit(m, m->unit->op_count, EXIT_JUMP);
	emit_aim(ready, m->e.at);
}

static void make_all(struct making *m)
{
	struct block *block = m->unit->block;
	unsigned int offset = block->host & PAGE_OFFSET_MASK;
	const uint8_t *bytes = block->crosses ? block->crossing : block->page->bytes + offset;

	if (block->crosses)
		make_crossing_entry(m, offset);
	for (m->index = 0; m->index < block->op_count; m->index++) {
		struct unit_op *at = &m->unit->op[m->index];

		m->op = &block->ops[m->index];
		at->code = (uint32_t)(m->e.at - m->unit->write);
		at->offset = (uint16_t)offset;
		m->bytes = bytes;
		make_one(m);
		offset += m->op->length;
		bytes += m->op->length;
	}
	m->unit->op[m->index].offset = (uint16_t)offset;
	m->unit->op[m->index].code = (uint32_t)(m->e.at - m->unit->write);
	if (!m->ended)
		make_go_to(m, m->index, offset);
	make_cold_code(m);
}

struct unit *unit_make(struct cpu *cpu, struct block *block, unsigned int mode)
{
	struct making *m = cpu->translate->making;

	if (block->code_bytes != 8)
		return NULL;
	*m = (struct making){.t = cpu->translate};
	cache_reserve(cpu, &m->e);
	m->unit = cache_alloc_unit(m->t, block->op_count);
	m->unit->block = block;
	m->unit->generation = block->page->generation;
	m->unit->mode = (uint8_t)mode;
	m->unit->write = m->e.at;
	m->unit->code = (uint64_t)(uintptr_t)m->e.at + (uint64_t)m->e.exec_delta;
	make_all(m);
	m->unit->code_bytes = (uint32_t)(m->e.at - m->unit->write);
	if (m->e.is_full || m->natives * 2 < block->op_count) {
		/* The room is used again: what it says of accesses must go. */
		cache_forget(m->t, m->unit);
		return NULL;
	}
	cache_commit(m->t, m->unit);
	return m->unit;
}
