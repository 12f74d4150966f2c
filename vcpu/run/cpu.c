/* The CPU as an object: creation, reset state, the client's reads and writes of its registers. */
#include "vcpu/cpu.h"

#include <errno.h>
#include <sys/mman.h>

#include "hosts/process/heap.h"
#include "hosts/process/map.h"
#include "hosts/process/sys.h"
#include "vcpu/decode/code.h"
#include "vcpu/decode/decode.h"
#include "vcpu/exec/flags.h"
#include "vcpu/exec/fpu_image.h"
#include "vcpu/mem/mmu.h"
#include "vcpu/mem/segment.h"
#include "vcpu/mem/watch.h"
#include "vcpu/run/replay.h"
#include "vcpu/run/run.h"
#include "vcpu/translate/translate.h"

#define RESET_RIP 0xfff0
#define RESET_CS_BASE UINT64_C(0xffff0000)
#define RESET_CS 0xf000
#define RESET_PAT UINT64_C(0x0007040600070406)
#define RESET_MXCSR 0x1f80

static void reset_segment(struct cpu_segment *segment, uint8_t type, uint8_t s)
{
	*segment = (struct cpu_segment){.limit = 0xffff, .type = type, .s = s, .present = 1};
}

static void cpu_reset(struct cpu *cpu)
{
	struct cpu_state *s = &cpu->s;

	for (unsigned int seg = CPU_ES; seg <= CPU_GS; seg++)
		reset_segment(&s->seg[seg], 3, 1);
	s->seg[CPU_CS].type = 0xb;
	s->seg[CPU_CS].selector = RESET_CS;
	s->seg[CPU_CS].base = RESET_CS_BASE;
	reset_segment(&s->seg[CPU_TR], 0xb, 0);
	reset_segment(&s->seg[CPU_LDTR], 2, 0);
	s->gdt.limit = 0xffff;
	s->idt.limit = 0xffff;
	s->rip = RESET_RIP;
	s->rflags = FLAG_FIXED;
	s->cr0 = CR0_CD | CR0_NW | CR0_ET;
	s->dr6 = UINT64_C(0xffff0ff0);
	s->dr7 = 0x400;
	s->xcr0 = 1;
	s->pat = RESET_PAT;
	s->mxcsr = RESET_MXCSR;
	s->fcw = FCW_RESET; /* as FNINIT leaves it, not as RESET does: as KVM's new vCPU */
	s->gpr[CPU_RDX] = 0x600;
}

struct cpu *cpu_create(struct quire_vcpu *vcpu, const struct cpu_ops *ops, void *ctx)
{
	/* All zero, and most of it not there before it is used. */
	struct cpu *cpu = process_heap_alloc(sizeof(*cpu));

	if (!cpu)
		return NULL;
	cpu->vcpu = vcpu;
	cpu->ops = ops;
	cpu->ctx = ctx;
	cpu->doorbell = quire_vcpu_doorbell(vcpu);
	cpu->jump_generation = 1;
	cpu->code_epoch = 1;
	cpu->svm.gif = 1;
	cpu_reset(cpu);
	cpu_update_mode(cpu);
	decode_start();
	return cpu;
}

void cpu_set_single_stage(struct cpu *cpu)
{
	cpu->single_stage = 1;
}

int cpu_translate_after(struct cpu *cpu, unsigned int runs)
{
	if (!cpu->translate)
		translate_create(cpu, runs);
	return cpu->translate ? 0 : -ENOTSUP;
}

int cpu_translate_lockstep(struct cpu *cpu)
{
	return translate_lockstep(cpu) ? -ENOTSUP : 0;
}

/*
 * What the first KVM_RUN makes. Not by malloc(): another thread may stand in fork(), with libc's
 * locks held, until the client's userfaultfd reader goes on, and that may be the caller.
 */
static void *table_map(size_t size_bytes)
{
	long mapped =
	    process_map(size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);

	return sys_failed(mapped) ? NULL : (void *)mapped;
}

static void table_unmap(void *table, size_t size_bytes)
{
	if (table)
		munmap(table, size_bytes);
}

void cpu_destroy(struct cpu *cpu)
{
	if (!cpu)
		return;
	translate_destroy(cpu);
	code_destroy(cpu);
	table_unmap(cpu->tlb, sizeof(*cpu->tlb));
	table_unmap(cpu->replay.entry, REPLAY_MAX * sizeof(*cpu->replay.entry));
	tlb_watch_destroy(cpu);
	process_heap_free(cpu);
}

int cpu_prepare(struct cpu *cpu)
{
	int error;

	if (!cpu->replay.entry) {
		cpu->replay.entry = table_map(REPLAY_MAX * sizeof(*cpu->replay.entry));
		if (!cpu->replay.entry)
			return -ENOMEM;
	}
	if (!cpu->tlb) {
		cpu->tlb = table_map(sizeof(*cpu->tlb));
		if (!cpu->tlb)
			return -ENOMEM;
		tlb_flush_all(cpu);
	}
	if (!cpu->code) {
		error = code_create(cpu);
		if (error)
			return error;
	}
	return 0;
}

const struct cpu_counts *cpu_counts(const struct cpu *cpu)
{
	return &cpu->counts;
}

struct cpu_state *cpu_state(struct cpu *cpu)
{
	return &cpu->s;
}

void cpu_state_changed(struct cpu *cpu)
{
	struct cpu_state *s = &cpu->s;

	if (s->cr0 != cpu->seen.cr0 || s->cr3 != cpu->seen.cr3 || s->cr4 != cpu->seen.cr4 ||
	    s->efer != cpu->seen.efer || s->pkru != cpu->seen.pkru)
		tlb_flush_all(cpu);
	else
		code_serialise(cpu);
	cpu_note_paging(cpu);
	flags_set(cpu, s->rflags);
	cpu_update_mode(cpu);
	if (cpu->replay.unfinished && cpu->replay.pending_rip != s->rip)
		replay_retire(cpu);
}

void cpu_note_paging(struct cpu *cpu)
{
	cpu->seen.cr0 = cpu->s.cr0;
	cpu->seen.cr3 = cpu->s.cr3;
	cpu->seen.cr4 = cpu->s.cr4;
	cpu->seen.efer = cpu->s.efer;
	cpu->seen.pkru = cpu->s.pkru;
}

bool cpu_is_pending(const struct cpu *cpu)
{
	return cpu->replay.unfinished;
}

/* The answer to a repeated INS is for this element and the next ones. */
static void keep_ahead(struct cpu *cpu, const struct cpu_io *io, const uint8_t *data,
		       uint32_t size_bytes)
{
	struct input_ahead *ahead = &cpu->ahead;

	ahead->next = ahead->end = 0;
	if (!io->count || size_bytes <= io->size_bytes || size_bytes > INPUT_MAX)
		return;
	ahead->end = size_bytes;
	ahead->rip = cpu->s.rip;
	memcpy(ahead->data, data, size_bytes);
}

void cpu_answer(struct cpu *cpu, const void *data, uint32_t size_bytes, bool failed)
{
	struct replay *replay = &cpu->replay;
	struct replay_entry *entry;

	if (!replay->pending)
		return;
	entry = &replay->entry[replay->count++];
	if (data)
		keep_ahead(cpu, &entry->io, data, size_bytes);
	if (size_bytes > sizeof(entry->io.data))
		size_bytes = sizeof(entry->io.data);
	if (data)
		memcpy(entry->io.data, data, size_bytes);
	entry->failed = failed;
	replay->pending = 0;
}

void cpu_cancel_pending(struct cpu *cpu)
{
	replay_retire(cpu);
	cpu->ahead.next = cpu->ahead.end;
}

/* The flags that are not lazy live in s.rflags all the time. */
uint64_t flags_arithmetic(const struct cpu *cpu)
{
	return (flag_cf(cpu) ? FLAG_CF : 0) | (flag_pf(cpu) ? FLAG_PF : 0) |
	       (cpu->cc_carry & 8 ? FLAG_AF : 0) | (flag_zf(cpu) ? FLAG_ZF : 0) |
	       (flag_sf(cpu) ? FLAG_SF : 0) | (flag_of(cpu) ? FLAG_OF : 0);
}

void flags_set_arithmetic(struct cpu *cpu, uint64_t flags)
{
	uint64_t cf = flags & FLAG_CF ? 1 : 0;
	uint64_t of = flags & FLAG_OF ? 1 : 0;
	uint64_t carry = cf << 63 | (cf ^ of) << 62;
	int is_zero = (flags & FLAG_ZF) != 0;
	int parity = (flags & FLAG_PF) != 0;

	cpu->cc_result = !is_zero;
	if (flags & FLAG_AF)
		carry |= 8;
	if (flags & FLAG_SF)
		carry |= 1;
	/* Zero has even parity, one has odd: bit 8 turns it round. */
	if (parity != is_zero)
		carry |= UINT64_C(1) << 8;
	cpu->cc_carry = carry;
}

uint64_t flags_get(const struct cpu *cpu)
{
	return (cpu->s.rflags & ~FLAGS_ARITHMETIC) | flags_arithmetic(cpu) | FLAG_FIXED;
}

void flags_set(struct cpu *cpu, uint64_t rflags)
{
	cpu->s.rflags = rflags | FLAG_FIXED;
	flags_set_arithmetic(cpu, rflags);
}
