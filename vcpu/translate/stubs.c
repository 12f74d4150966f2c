/* Code of no unit: the way in and out of translated code, and the jump cache. */
#include "vcpu/translate/unit.h"

/* Those that live elsewhere than in struct cpu. The guest's RCX gives its register up for JRCXZ. */
static const uint8_t homes[16] = {
    [CPU_RAX] = HOST_RAX,  [CPU_RCX] = HOST_R15, [CPU_RDX] = HOST_RDX, [CPU_RBX] = HOST_RBX,
    [CPU_RSP] = HOST_NONE, [CPU_RBP] = HOST_RBP, [CPU_RSI] = HOST_RSI, [CPU_RDI] = HOST_RDI,
    [8] = HOST_R8,	   [9] = HOST_NONE,	 [10] = HOST_NONE,     [11] = HOST_NONE,
    [12] = HOST_R12,	   [13] = HOST_R13,	 [14] = HOST_R14,      [15] = HOST_NONE,
};

enum host_reg host_of(unsigned int guest_reg)
{
	return homes[guest_reg];
}

static const uint8_t push_all[] = {0x53, 0x55, 0x41, 0x54, 0x41, 0x55, 0x41, 0x56, 0x41, 0x57};
static const uint8_t pop_all_ret[] = {0x41, 0x5f, 0x41, 0x5e, 0x41, 0x5d,
				      0x41, 0x5c, 0x5d, 0x5b, 0xc3};
static const uint8_t flags_from_ax[] = {0x04, 0x7f, 0x9e};     /* add $0x7f, %al; sahf */
static const uint8_t flags_to_ax[] = {0x9f, 0x0f, 0x90, 0xc0}; /* lahf; seto %al */

static uint64_t here(const struct emit *e)
{
	return (uint64_t)(uintptr_t)e->at + (uint64_t)e->exec_delta;
}

static struct host_mem field(uint64_t offset)
{
	return (struct host_mem){
	    .base = REG_CPU, .index = HOST_NONE, .disp = (int32_t)offset - CPU_BIAS};
}

static void emit_move_registers(struct emit *e, int to_host)
{
	for (unsigned int reg = 1; reg < 16; reg++) {
		if (homes[reg] == HOST_NONE)
			continue;
		if (to_host)
			emit_load_field(e, homes[reg], GPR_AT(reg));
		else
			emit_store_field(e, homes[reg], GPR_AT(reg));
	}
}

static void make_enter(struct translate *t, struct emit *e)
{
	struct host_mem cpu = {.base = HOST_RDI, .index = HOST_NONE, .disp = CPU_BIAS};
	struct host_mem flags = field(FAST(flags)), entry = field(FAST(entry));
	struct host_insn load_flags = {.opcode = 0x8b, .reg = HOST_RAX, .memory = &flags};
	struct host_insn jump = {.opcode = 0xff, .reg = 4, .memory = &entry};

	t->stubs.enter = here(e);
	emit_bytes(e, push_all, sizeof(push_all));
	emit_lea(e, REG_CPU, &cpu);
	emit_store_field(e, HOST_RSP, FAST(host_rsp));
	emit_move_registers(e, 1);
	emit_load_xmm(e, XMM_RETIRED, FAST(retired));
	for (unsigned int number = 1; number <= XMM_NUMBERS; number++)
		emit_load_xmm(e, number, FAST(number[number][0]));
	for (unsigned int reg = 0; reg < XMM_GUEST_COUNT; reg++)
		emit_load_vector(e, XMM_GUEST + reg, VECTOR_AT(reg));
	emit_insn(e, &load_flags);
	emit_bytes(e, flags_from_ax, sizeof(flags_from_ax));
	emit_load_field(e, HOST_RAX, GPR_AT(CPU_RAX));
	emit_insn(e, &jump);
}

static void make_leave(struct translate *t, struct emit *e)
{
	struct host_mem flags = field(FAST(flags));
	struct host_insn store_flags = {.opcode = 0x89, .reg = HOST_RAX, .memory = &flags};

	t->stubs.leave = here(e);
	emit_store_field(e, HOST_RAX, GPR_AT(CPU_RAX));
	emit_move_registers(e, 0);
	emit_store_xmm(e, XMM_RETIRED, FAST(retired));
	emit_bytes(e, flags_to_ax, sizeof(flags_to_ax));
	emit_insn(e, &store_flags);
	emit_load_field(e, HOST_RSP, FAST(host_rsp));
	emit_bytes(e, pop_all_ret, sizeof(pop_all_ret));
}

static void emit_leave(const struct translate *t, struct emit *e)
{
	uint8_t *distance = emit_jmp(e);

	emit_aim(distance, (uint8_t *)(uintptr_t)(t->stubs.leave - (uint64_t)e->exec_delta));
}

static void make_fault(struct translate *t, struct emit *e)
{
	t->stubs.fault = here(e);
	emit_store_field(e, HOST_RCX, FAST(scratch));
	emit_store_field_imm(e, FAST(exit), EXIT_FAULT);
	emit_leave(t, e);
}

/*
 * Go on at R10: when the jump cache knows it, its page was compared in this epoch and the doorbell
 * is silent. The unit has said in .exit which jump it is.
 */
static void make_dispatch(struct translate *t, struct emit *e, unsigned int mode)
{
	struct host_mem sum = {.base = REG_TAG, .index = REG_LINEAR};
	struct host_mem behind = {.base = REG_TAG, .index = HOST_NONE};
	struct host_mem mixed = {.base = REG_LINEAR, .index = REG_SET, .scale = 2};
	struct host_mem code = field(FAST(jump_code[mode]));
	struct host_insn jump = {.opcode = 0xff, .reg = 4, .memory = &code};
	uint8_t *miss[3];

	code.index = REG_SET;
	code.scale = 3;
	t->stubs.dispatch[mode] = here(e);
	emit_store_field(e, REG_LINEAR, offsetof(struct cpu, s.rip));
	emit_shr_page(e, REG_SET, REG_LINEAR);
	emit_lea(e, REG_SET, &mixed);
	emit_pext_field(e, REG_SET, REG_SET, FAST(jump_bits));
	emit_load_table(e, REG_TAG, REG_SET, FAST(jump[mode]));
	emit_lea(e, REG_TAG, &sum);
	miss[0] = emit_jmp_unless_rcx_zero(e);
	emit_shr_page(e, REG_LINEAR, REG_LINEAR);
	emit_shl_page(e, REG_LINEAR, REG_LINEAR);
	emit_store_field(e, REG_LINEAR, FAST(rip_page));
	emit_load_table(e, REG_TAG, REG_SET, FAST(jump_epoch[mode]));
	emit_load(e, REG_TAG, &behind);
	emit_load_field(e, REG_LINEAR, FAST(epoch_negated));
	emit_lea(e, REG_TAG, &sum);
	miss[1] = emit_jmp_unless_rcx_zero(e);
	emit_load_field(e, REG_TAG, offsetof(struct cpu, doorbell));
	emit_load(e, REG_TAG, &behind);
	miss[2] = emit_jmp_unless_rcx_zero(e);
	emit_insn(e, &jump);
	for (unsigned int i = 0; i < 3; i++)
		emit_aim(miss[i], e->at);
	emit_leave(t, e);
}

void stubs_make(struct translate *t, struct emit *e)
{
	make_enter(t, e);
	make_leave(t, e);
	make_fault(t, e);
	for (unsigned int mode = 0; mode < FAST_MODES; mode++)
		make_dispatch(t, e, mode);
}
