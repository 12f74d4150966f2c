/* The interpreter's side: a CPU on the arena, with a vCPU whose stage-2 tables never fault. */
#include "tests/unit/vcpu-diff/diff.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <quire/gmem.h>
#include <quire/place.h>

#include "src/base/trace.h"
#include "src/entry/format.h"
#include "vcpu/cpu.h"

#define ROOT (SYSTEM_BASE + 0x0000) /* page tables, four levels */
#define IDT (SYSTEM_BASE + 0x4000)
#define TSS (SYSTEM_BASE + 0x5000)
#define HANDLERS (SYSTEM_BASE + 0x6000) /* 16 bytes a vector: HLT */
#define STACK_TOP (SYSTEM_BASE + 0x8000)
#define GDT (SYSTEM_BASE + 0x8000)
#define VECTORS 32u

/* Present, writable, user, accessed, dirty: right for the guest's tables and for stage 2. */
#define ENTRY_FLAGS UINT64_C(0x67)

/* The one that runs the next case, which is one of these. */
static struct cpu *cpu, *interpreting, *translating;
static uint64_t doorbell;
static char log_line[256];

/* The library, as far as the CPU asks for it. */

const uint64_t *quire_vcpu_doorbell(const struct quire_vcpu *vcpu)
{
	return &doorbell;
}

void quire_vcpu_request(struct quire_vcpu *vcpu, uint64_t request)
{
	doorbell |= request;
}

int quire_vcpu_enter(struct quire_vcpu *vcpu, uint64_t *requests, struct quire_stage2 *stage2)
{
	static struct quire_format npt;

	npt = entry_describe(&entry_npt, 48);
	/* The guest's identity map is in the stage-2 format too: one set of tables serves both. */
	*stage2 = (struct quire_stage2){
	    .format = &npt, .root = (uint64_t *)ROOT, .root_level = QUIRE_LEVEL_512G};
	*requests = doorbell;
	doorbell = 0;
	return 0;
}

uint32_t quire_vcpu_id(const struct quire_vcpu *vcpu)
{
	return 0;
}

union trace_listeners quire_trace_listeners;

void quire_trace_emit(enum quire_trace_event event, const uint64_t *args)
{
	(void)event;
	(void)args;
}

void quire_vcpu_leave(struct quire_vcpu *vcpu)
{
}

int quire_vcpu_lose_frame(struct quire_vcpu *vcpu, pfn_t pfn)
{
	return 0;
}

int quire_vcpu_fault(struct quire_vcpu *vcpu, gpa_t gpa, uint64_t error_code,
		     struct quire_memory_fault *fault)
{
	return -EFAULT;
}

int quire_vcpu_read(struct quire_vcpu *vcpu, gpa_t gpa, void *dst, size_t size_bytes)
{
	return -EFAULT;
}

int quire_vcpu_map(struct quire_vcpu *vcpu, gpa_t gpa, enum quire_map_kind kind,
		   struct quire_map *map)
{
	return -EFAULT;
}

int quire_map_read(struct quire_vcpu *vcpu, const struct quire_map *map, uint64_t offset_bytes,
		   void *data, uint64_t size_bytes)
{
	return -EFAULT;
}

int quire_map_write(struct quire_vcpu *vcpu, const struct quire_map *map, uint64_t offset_bytes,
		    const void *data, uint64_t size_bytes)
{
	return -EFAULT;
}

void quire_vcpu_unmap(struct quire_vcpu *vcpu, struct quire_map *map)
{
}

int quire_vcpu_set_nested(struct quire_vcpu *vcpu, const struct quire_nested *nested)
{
	return -EOPNOTSUPP;
}

int quire_vcpu_set_address_space(struct quire_vcpu *vcpu, uint32_t address_space)
{
	return -EINVAL;
}

int quire_vcpu_walk_nested(struct quire_vcpu *vcpu, gpa_t gpa, uint64_t error_code, gpa_t *result)
{
	return -EFAULT;
}

void quire_vcpu_flush_nested(struct quire_vcpu *vcpu)
{
}

int quire_vcpu_write(struct quire_vcpu *vcpu, gpa_t gpa, const void *src, size_t size_bytes)
{
	return -EFAULT;
}

/* The machine around the CPU: nothing is there. */

static void ops_cpuid(void *ctx, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
	memset(out, 0, 4 * sizeof(*out));
}

static enum cpu_msr_result ops_rdmsr(void *ctx, uint32_t index, uint64_t *value)
{
	return CPU_MSR_GP;
}

static enum cpu_msr_result ops_wrmsr(void *ctx, uint32_t index, uint64_t value)
{
	return CPU_MSR_GP;
}

static enum cpu_io_result ops_io(void *ctx, struct cpu_io *io)
{
	return CPU_IO_USER;
}

static enum cpu_io_result ops_hypercall(void *ctx)
{
	return CPU_IO_USER;
}

static int ops_interrupt_take(void *ctx)
{
	return -1;
}

static bool ops_interrupt_waiting(void *ctx)
{
	return false;
}

static uint64_t ops_cr8_read(void *ctx)
{
	return 0;
}

static void ops_cr8_write(void *ctx, uint64_t value)
{
}

static void ops_log(void *ctx, const char *line)
{
	snprintf(log_line, sizeof(log_line), "%s", line);
}

static const struct cpu_ops ops = {
    .cpuid = ops_cpuid,
    .rdmsr = ops_rdmsr,
    .wrmsr = ops_wrmsr,
    .pio = ops_io,
    .mmio = ops_io,
    .hypercall = ops_hypercall,
    .interrupt_take = ops_interrupt_take,
    .interrupt_waiting = ops_interrupt_waiting,
    .cr8_read = ops_cr8_read,
    .cr8_write = ops_cr8_write,
    .log = ops_log,
};

static void tables_build(void)
{
	uint64_t *pml4 = (uint64_t *)ROOT, *pdpt = pml4 + 512, *pd = pml4 + 1024, *pt = pml4 + 1536;

	pml4[0] = (uint64_t)(uintptr_t)pdpt | ENTRY_FLAGS;
	pdpt[0] = (uint64_t)(uintptr_t)pd | ENTRY_FLAGS;
	pd[ARENA_BASE >> 21] = (uint64_t)(uintptr_t)pt | ENTRY_FLAGS;
	for (uint64_t i = 0; i < 512; i++)
		pt[i] = (ARENA_BASE + (i << 12)) | ENTRY_FLAGS;
	pt[(DATA_END - ARENA_BASE) >> 12] = 0;
}

/* Every exception lands, on a stack of its own, on a HLT whose address tells the vector. */
static void events_build(void)
{
	uint64_t *gdt = (uint64_t *)GDT, *idt = (uint64_t *)IDT, stack = STACK_TOP;

	gdt[1] = UINT64_C(0x00af9b000000ffff); /* 64-bit code */
	gdt[2] = UINT64_C(0x00cf93000000ffff);
	for (uint64_t vector = 0; vector < VECTORS; vector++) {
		uint64_t at = HANDLERS + 16 * vector;

		memset((void *)at, 0xf4, 16);
		idt[2 * vector] = (at & 0xffff) | 0x8 << 16 | UINT64_C(1) << 32 |
				  UINT64_C(0x8e) << 40 | (at & 0xffff0000) << 32;
		idt[2 * vector + 1] = at >> 32;
	}
	memcpy((void *)(TSS + 0x24), &stack, sizeof(stack));
}

static void state_prepare(struct cpu_state *s)
{
	static const struct cpu_segment code = {
	    .limit = 0xffffffff, .selector = 0x8, .type = 11, .s = 1, .present = 1, .l = 1, .g = 1};
	static const struct cpu_segment data = {.limit = 0xffffffff,
						.selector = 0x10,
						.type = 3,
						.s = 1,
						.present = 1,
						.db = 1,
						.g = 1};
	static const struct cpu_segment task = {
	    .base = TSS, .limit = 103, .selector = 0x18, .type = 11, .present = 1};

	for (int i = 0; i <= CPU_GS; i++)
		s->seg[i] = i == CPU_CS ? code : data;
	s->seg[CPU_TR] = task;
	s->seg[CPU_LDTR] = (struct cpu_segment){.unusable = 1};
	s->gdt = (struct cpu_table){GDT, 0x1f};
	s->idt = (struct cpu_table){IDT, 16 * VECTORS - 1};
	s->cr0 = 0x80050033; /* PG, AM, WP, NE, ET, MP, PE */
	s->cr3 = ROOT;
	s->cr4 = 0x40620; /* OSXSAVE, OSXMMEXCPT, OSFXSR, PAE */
	s->efer = 0xd01;  /* NXE, LMA, LME, SCE */
	s->xcr0 = has_ymm() ? 7 : 3;
}

static struct cpu *create(void)
{
	struct cpu *made = cpu_create(NULL, &ops, NULL);

	if (made) {
		state_prepare(cpu_state(made));
		cpu_state_changed(made);
	}
	return made;
}

int interpreter_init(void)
{
	tables_build();
	events_build();
	cpu = interpreting = create();
	translating = create();
	if (!interpreting || !translating)
		return -ENOMEM;
	if (cpu_translate_after(translating, 0)) {
		cpu_destroy(translating);
		translating = NULL;
	}
	return 0;
}

int interpreter_translate(bool on)
{
	if (on && !translating)
		return -ENOTSUP;
	cpu = on ? translating : interpreting;
	return 0;
}

void interpreter_exit(void)
{
	cpu_destroy(interpreting);
	if (translating)
		cpu_destroy(translating);
}

static void state_load(struct cpu_state *s, const struct machine_state *from)
{
	memcpy(s->gpr, from->gpr, sizeof(s->gpr));
	s->rflags = from->rflags & ~UINT64_C(0x200);
	s->rip = CODE_BASE;
	memcpy(&s->fcw, from->fx, 2);
	memcpy(&s->fsw, from->fx + 2, 2);
	s->ftw = from->fx[4];
	memcpy(&s->mxcsr, from->fx + 24, 4);
	memcpy(s->st, from->fx + 32, sizeof(s->st));
	memcpy(s->xmm, from->fx + 160, sizeof(s->xmm));
	memcpy(s->ymm_high, from->ymm_high, sizeof(s->ymm_high));
	s->fip = s->fdp = s->fop = 0;
	for (int i = CPU_CS; i <= CPU_SS; i++) {
		s->seg[i].dpl = from->rflags & CHECK_ALIGNMENT ? 3 : 0;
		s->seg[i].selector = (uint16_t)(i * 8 | s->seg[i].dpl);
	}
	s->halted = 0;
	s->exception_pending = 0;
}

static void state_store(const struct cpu_state *s, struct machine_state *to)
{
	uint64_t handler = s->rip - 1 - HANDLERS;

	memcpy(to->gpr, s->gpr, sizeof(to->gpr));
	to->rflags = s->rflags;
	memcpy(to->fx, &s->fcw, 2);
	memcpy(to->fx + 2, &s->fsw, 2);
	to->fx[4] = s->ftw;
	memcpy(to->fx + 24, &s->mxcsr, 4);
	memcpy(to->fx + 32, s->st, sizeof(s->st));
	memcpy(to->fx + 160, s->xmm, sizeof(s->xmm));
	memcpy(to->ymm_high, s->ymm_high, sizeof(s->ymm_high));
	to->fault = 0;
	if (handler < 16 * VECTORS) {
		to->fault = 1 + (uint32_t)(handler / 16);
		memcpy(&to->gpr[CPU_RSP], (void *)(STACK_TOP - 16), 8);
		memcpy(&to->rflags, (void *)(STACK_TOP - 24), 8);
	}
}

/* In user mode the HLT behind the code faults. */
static int is_end(const struct machine_state *state, uint64_t end)
{
	uint64_t rip;

	memcpy(&rip, (void *)(STACK_TOP - 40), sizeof(rip));
	return state->fault == 1 + 13 && rip == end;
}

const char *interpreter_run(struct machine_state *state, uint64_t code_end)
{
	static char text[320];
	struct cpu_exit_info info = {0};
	struct cpu_state *s = cpu_state(cpu);
	enum cpu_exit exit;

	log_line[0] = 0;
	state_load(s, state);
	cpu_state_changed(cpu);
	exit = cpu_run(cpu, 0, &info);
	state_store(cpu_state(cpu), state);
	if (is_end(state, code_end))
		state->fault = 0;
	if (exit == CPU_EXIT_HLT)
		return NULL;
	snprintf(text, sizeof(text), "exit %d, error %d, %s", (int)exit, info.error, log_line);
	if (cpu_is_pending(cpu))
		cpu_cancel_pending(cpu);
	return text;
}
