/* FXSAVE, XSAVE and their like: images of the x87 and SSE state in memory; MXCSR. */
#include "vcpu/exec/fpu.h"
#include "vcpu/exec/operand.h"
#include "vcpu/exec/sse.h"
#include "vcpu/mem/mem.h"
#include "vcpu/mem/mmu.h"
#include "vcpu/run/raise.h"

#define XSAVE_HEADER_OFFSET 512u
#define XSAVE_SIZE 576u
#define XSAVE_ALIGNMENT 64u
#define FXSAVE_SIZE 512u
#define FXSAVE_ALIGNMENT 16u
#define XCOMP_COMPACTED (UINT64_C(1) << 63)

/* Parts of the legacy area, which belong to different components. */
#define LEGACY_MXCSR offsetof(struct fpu_image, mxcsr)
#define LEGACY_ST offsetof(struct fpu_image, st)
#define LEGACY_XMM offsetof(struct fpu_image, xmm)

/* XMM8 .. XMM15 exist in 64-bit mode only; elsewhere their places are left alone. */
static unsigned int xmm_size_bytes(const struct cpu *cpu)
{
	return cpu->code_bytes == 8 ? 16 * 16 : 8 * 16;
}

static enum step image_linear(struct cpu *cpu, const struct op *op, unsigned int alignment_bytes,
			      uint64_t *linear)
{
	enum step step = op_linear_sized(
	    cpu, op, alignment_bytes == XSAVE_ALIGNMENT ? XSAVE_SIZE : FXSAVE_SIZE, linear);

	if (unlikely(step))
		return step;
	if (*linear & (alignment_bytes - 1))
		return cpu_raise_error(cpu, VECTOR_GP, 0);
	return STEP_NEXT;
}

/* @pointer_bytes: 8 for the forms with REX.W, whose instruction pointers are full. */
static void image_get(const struct cpu *cpu, struct fpu_image *image, unsigned int pointer_bytes)
{
	memset(image, 0, sizeof(*image));
	fpu_get(&cpu->s, image);
	if (pointer_bytes == 4) {
		image->fip = (uint32_t)image->fip;
		image->fdp = (uint32_t)image->fdp;
	}
	image->mxcsr = cpu->s.mxcsr;
	image->mxcsr_mask = MXCSR_MASK;
	memcpy(image->xmm, cpu->s.xmm, sizeof(image->xmm));
}

static void x87_load(struct cpu *cpu, struct fpu_image *image, unsigned int pointer_bytes)
{
	if (pointer_bytes == 4) {
		image->fip = (uint32_t)image->fip;
		image->fdp = (uint32_t)image->fdp;
	}
	for (unsigned int i = 0; i < 8; i++)
		memset(image->st[i] + 10, 0, 6);
	/* Whether an exception is pending follows from the flags and the masks. */
	image->fsw &= (uint16_t)~0x8080u;
	if (image->fsw & ~image->fcw & 0x3f)
		image->fsw |= 0x8080;
	image->fcw = (uint16_t)((image->fcw & 0x1f7f) | 0x40);
	image->fop &= 0x7ff;
	fpu_set(&cpu->s, image);
}

static enum step fxsave_check(struct cpu *cpu)
{
	if (cpu->s.cr0 & CR0_EM)
		return cpu_raise(cpu, VECTOR_UD);
	return cpu->s.cr0 & CR0_TS ? cpu_raise(cpu, VECTOR_NM) : STEP_NEXT;
}

static enum step exec_fxsave(struct cpu *cpu, const struct op *op)
{
	enum step step = fxsave_check(cpu);
	struct fpu_image image;
	unsigned int size_bytes = LEGACY_XMM;
	uint64_t linear;

	if (unlikely(step))
		return step;
	step = image_linear(cpu, op, FXSAVE_ALIGNMENT, &linear);
	if (unlikely(step))
		return step;
	image_get(cpu, &image, (unsigned int)op->aux);
	if (cpu->s.cr4 & CR4_OSFXSR)
		size_bytes += xmm_size_bytes(cpu);
	return mem_write(cpu, linear, &image, size_bytes);
}

static enum step exec_fxrstor(struct cpu *cpu, const struct op *op)
{
	enum step step = fxsave_check(cpu);
	struct fpu_image image = {0};
	uint64_t linear;

	if (unlikely(step))
		return step;
	step = image_linear(cpu, op, FXSAVE_ALIGNMENT, &linear);
	if (likely(!step))
		step = mem_read(cpu, linear, &image, LEGACY_XMM + xmm_size_bytes(cpu));
	if (unlikely(step))
		return step;
	if (image.mxcsr & ~MXCSR_MASK)
		return cpu_raise_error(cpu, VECTOR_GP, 0);
	x87_load(cpu, &image, (unsigned int)op->aux);
	cpu->s.mxcsr = image.mxcsr;
	if (cpu->s.cr4 & CR4_OSFXSR)
		memcpy(cpu->s.xmm, image.xmm, xmm_size_bytes(cpu));
	return STEP_NEXT;
}

/* XSAVE and XRSTOR work on the components that XCR0 and EDX:EAX both name. */
static uint64_t xsave_components(const struct cpu *cpu)
{
	uint64_t asked = (uint32_t)cpu->s.gpr[CPU_RAX] | cpu->s.gpr[CPU_RDX] << 32;

	return asked & cpu->s.xcr0 & XSTATE_KNOWN;
}

static enum step xsave_check(struct cpu *cpu)
{
	if (!(cpu->s.cr4 & CR4_OSXSAVE))
		return cpu_raise(cpu, VECTOR_UD);
	return cpu->s.cr0 & CR0_TS ? cpu_raise(cpu, VECTOR_NM) : STEP_NEXT;
}

static int is_zero(const void *data, size_t size_bytes)
{
	const uint8_t *bytes = data;

	for (size_t i = 0; i < size_bytes; i++) {
		if (bytes[i])
			return 0;
	}
	return 1;
}

/* Components that are not in their initial state. */
uint64_t xsave_in_use(const struct cpu *cpu)
{
	const struct cpu_state *s = &cpu->s;
	uint64_t in_use = 0;

	if (s->fcw != FCW_RESET || s->fsw || s->ftw || s->fop || s->fip || s->fdp ||
	    !is_zero(s->st, sizeof(s->st)))
		in_use |= XSTATE_X87;
	if (!is_zero(s->xmm, xmm_size_bytes(cpu)))
		in_use |= XSTATE_SSE;
	if (!is_zero(s->ymm_high, xmm_size_bytes(cpu)))
		in_use |= XSTATE_AVX;
	if (s->pkru)
		in_use |= XSTATE_PKRU;
	return in_use;
}

/* Write the parts of the legacy area that @components cover, without MXCSR. */
static enum step legacy_write(struct cpu *cpu, uint64_t linear, const struct fpu_image *image,
			      uint64_t components)
{
	enum step step = STEP_NEXT;

	if (components & XSTATE_X87) {
		step = mem_write(cpu, linear, image, LEGACY_MXCSR);
		if (!step)
			step = mem_write(cpu, linear + LEGACY_ST, image->st, sizeof(image->st));
	}
	if (!step && (components & XSTATE_SSE))
		step = mem_write(cpu, linear + LEGACY_XMM, image->xmm, xmm_size_bytes(cpu));
	return step;
}

/* The components with which MXCSR goes: compacted, it is a part of SSE's alone. */
static uint64_t with_mxcsr(int is_compacted)
{
	return is_compacted ? XSTATE_SSE : XSTATE_YMM;
}

/* A compacted image has room for the @components that it names, one after the other. */
static uint64_t pkru_linear(uint64_t linear, int is_compacted, uint64_t components)
{
	if (!is_compacted)
		return linear + fpu_pkru_offset();
	return linear + XSAVE_SIZE + (components & XSTATE_AVX ? XSAVE_YMM_BYTES : 0);
}

enum xsave_kind { XSAVE_PLAIN, XSAVE_OPTIMISED, XSAVE_COMPACTED };
#define XSAVE_POINTER64 0x100u /* op->aux: kind, and this for the forms with REX.W */

/* The header that a save leaves: only XSAVEC writes more than XSTATE_BV. */
static enum step header_write(struct cpu *cpu, uint64_t linear, enum xsave_kind kind)
{
	uint64_t components = xsave_components(cpu), in_use = xsave_in_use(cpu);
	uint64_t words[2] = {0};
	enum step step;

	if (kind == XSAVE_COMPACTED) {
		if (cpu->s.mxcsr != MXCSR_RESET)
			in_use |= XSTATE_SSE;
		words[0] = components & in_use;
		words[1] = components | XCOMP_COMPACTED;
		return mem_write(cpu, linear, words, sizeof(words));
	}
	step = mem_read(cpu, linear, words, sizeof(words[0]));
	words[0] = (words[0] & ~components) | (components & in_use);
	return step ? step : mem_write(cpu, linear, words, sizeof(words[0]));
}

static enum step exec_xsave(struct cpu *cpu, const struct op *op)
{
	enum xsave_kind kind = op->aux & 0xff;
	uint64_t components = xsave_components(cpu), written = components, linear = 0;
	uint64_t pkru = cpu->s.pkru, pkru_at, ymm_at = 0;
	enum step step = xsave_check(cpu);
	struct fpu_image image;

	if (unlikely(step))
		return step;
	step = image_linear(cpu, op, XSAVE_ALIGNMENT, &linear);
	if (likely(!step))
		step = mem_probe_write(cpu, linear, XSAVE_SIZE);
	pkru_at = pkru_linear(linear, kind == XSAVE_COMPACTED, components);
	if (!step && (components & XSTATE_AVX))
		step = op_linear_part(cpu, op, XSAVE_YMM_OFFSET, xmm_size_bytes(cpu), &ymm_at);
	if (!step && (components & XSTATE_AVX))
		step = mem_probe_write(cpu, ymm_at, xmm_size_bytes(cpu));
	if (!step && (components & XSTATE_PKRU))
		step = mem_probe_write(cpu, pkru_at, sizeof(pkru));
	if (unlikely(step))
		return step;
	image_get(cpu, &image, op->aux & XSAVE_POINTER64 ? 8 : 4);
	if (kind != XSAVE_PLAIN) {
		written &= xsave_in_use(cpu);
		if (kind == XSAVE_COMPACTED && cpu->s.mxcsr != MXCSR_RESET)
			written |= components & XSTATE_SSE;
	}
	step = legacy_write(cpu, linear, &image, written);
	if (!step && (components & with_mxcsr(kind == XSAVE_COMPACTED)))
		step = mem_write(cpu, linear + LEGACY_MXCSR, &image.mxcsr, 8);
	if (!step && (written & XSTATE_AVX))
		step = mem_write(cpu, ymm_at, cpu->s.ymm_high, xmm_size_bytes(cpu));
	if (!step && (written & XSTATE_PKRU))
		step = mem_write(cpu, pkru_at, &pkru, sizeof(pkru));
	return step ? step : header_write(cpu, linear + XSAVE_HEADER_OFFSET, kind);
}

/* What XRSTOR refuses. */
static int header_is_valid(const struct cpu *cpu, const struct xsave_header *header)
{
	if (!(header->compaction & XCOMP_COMPACTED))
		return !(header->present & ~cpu->s.xcr0) && !header->compaction &&
		       !header->reserved[0];
	return !(header->compaction & ~XCOMP_COMPACTED & ~cpu->s.xcr0) &&
	       !(header->present & ~header->compaction) &&
	       is_zero(header->reserved, sizeof(header->reserved));
}

/* The vector registers, of an image whose header has been checked. */
static void vectors_restore(struct cpu *cpu, const struct xsave_image *image, uint64_t components)
{
	unsigned int size_bytes = xmm_size_bytes(cpu);

	if (components & XSTATE_AVX)
		memcpy(cpu->s.ymm_high, image->ymm_high, size_bytes);
	if (!(components & XSTATE_SSE))
		return;
	if (image->header.present & XSTATE_SSE)
		memcpy(cpu->s.xmm, image->legacy.xmm, size_bytes);
	else
		memset(cpu->s.xmm, 0, size_bytes);
}

static enum step pkru_read(struct cpu *cpu, uint64_t linear, const struct xsave_header *header,
			   uint32_t *pkru)
{
	int is_compacted = (header->compaction & XCOMP_COMPACTED) != 0;
	uint64_t present = header->present & xsave_components(cpu);

	*pkru = 0;
	if (!(present & XSTATE_PKRU))
		return STEP_NEXT;
	return mem_read(cpu, pkru_linear(linear, is_compacted, header->compaction), pkru,
			sizeof(*pkru));
}

/* Where the header does not name them, the upper halves become 0. */
static enum step ymm_read(struct cpu *cpu, const struct op *op, struct xsave_image *image)
{
	unsigned int size_bytes = xmm_size_bytes(cpu);
	uint64_t linear;
	enum step step;

	memset(image->ymm_high, 0, sizeof(image->ymm_high));
	if (!(image->header.present & xsave_components(cpu) & XSTATE_AVX))
		return STEP_NEXT;
	step = op_linear_part(cpu, op, XSAVE_YMM_OFFSET, size_bytes, &linear);
	return step ? step : mem_read(cpu, linear, image->ymm_high, size_bytes);
}

static enum step exec_xrstor(struct cpu *cpu, const struct op *op)
{
	uint64_t components = xsave_components(cpu), linear = 0, present, with;
	enum step step = xsave_check(cpu);
	struct xsave_image image;
	uint32_t pkru = 0;

	if (unlikely(step))
		return step;
	step = image_linear(cpu, op, XSAVE_ALIGNMENT, &linear);
	if (likely(!step))
		step = mem_read(cpu, linear, &image, XSAVE_SIZE);
	if (likely(!step))
		step = ymm_read(cpu, op, &image);
	if (likely(!step))
		step = pkru_read(cpu, linear, &image.header, &pkru);
	if (unlikely(step))
		return step;
	present = image.header.present & components;
	with = components & with_mxcsr((image.header.compaction & XCOMP_COMPACTED) != 0);
	if ((image.header.compaction & XCOMP_COMPACTED) && !(present & XSTATE_SSE))
		image.legacy.mxcsr = MXCSR_RESET;
	if (!header_is_valid(cpu, &image.header) || (with && (image.legacy.mxcsr & ~MXCSR_MASK)))
		return cpu_raise_error(cpu, VECTOR_GP, 0);
	if (present & XSTATE_X87) {
		x87_load(cpu, &image.legacy, op->aux & XSAVE_POINTER64 ? 8 : 4);
	} else if (components & XSTATE_X87) {
		fpu_init(cpu);
		memset(cpu->s.st, 0, sizeof(cpu->s.st));
	}
	if (with)
		cpu->s.mxcsr = image.legacy.mxcsr;
	vectors_restore(cpu, &image, components);
	if (!(components & XSTATE_PKRU))
		return STEP_NEXT;
	mmu_set_pkru(cpu, pkru);
	return STEP_END;
}

static enum step exec_ldmxcsr(struct cpu *cpu, const struct op *op)
{
	enum step step = sse_check(cpu, op);
	uint64_t value;

	if (unlikely(step))
		return step;
	step = op_load(cpu, op, 4, &value);
	if (unlikely(step))
		return step;
	if (value & ~(uint64_t)MXCSR_MASK)
		return cpu_raise_error(cpu, VECTOR_GP, 0);
	cpu->s.mxcsr = (uint32_t)value;
	return STEP_NEXT;
}

static enum step exec_stmxcsr(struct cpu *cpu, const struct op *op)
{
	enum step step = sse_check(cpu, op);

	return unlikely(step) ? step : op_store(cpu, op, 4, cpu->s.mxcsr);
}

const struct insn_desc exec_xsave_table[] = {
    {ZYDIS_MNEMONIC_FXSAVE, exec_fxsave, NULL, 4},
    {ZYDIS_MNEMONIC_FXSAVE64, exec_fxsave, NULL, 8},
    {ZYDIS_MNEMONIC_FXRSTOR, exec_fxrstor, NULL, 4},
    {ZYDIS_MNEMONIC_FXRSTOR64, exec_fxrstor, NULL, 8},
    {ZYDIS_MNEMONIC_XSAVE, exec_xsave, NULL, XSAVE_PLAIN},
    {ZYDIS_MNEMONIC_XSAVE64, exec_xsave, NULL, XSAVE_PLAIN | XSAVE_POINTER64},
    {ZYDIS_MNEMONIC_XSAVEOPT, exec_xsave, NULL, XSAVE_OPTIMISED},
    {ZYDIS_MNEMONIC_XSAVEOPT64, exec_xsave, NULL, XSAVE_OPTIMISED | XSAVE_POINTER64},
    {ZYDIS_MNEMONIC_XSAVEC, exec_xsave, NULL, XSAVE_COMPACTED},
    {ZYDIS_MNEMONIC_XSAVEC64, exec_xsave, NULL, XSAVE_COMPACTED | XSAVE_POINTER64},
    {ZYDIS_MNEMONIC_XRSTOR, exec_xrstor, NULL, 0},
    {ZYDIS_MNEMONIC_XRSTOR64, exec_xrstor, NULL, XSAVE_POINTER64},
    {ZYDIS_MNEMONIC_LDMXCSR, exec_ldmxcsr, NULL, 0},
    {ZYDIS_MNEMONIC_STMXCSR, exec_stmxcsr, NULL, 0},
    {ZYDIS_MNEMONIC_VLDMXCSR, exec_ldmxcsr, NULL, 0},
    {ZYDIS_MNEMONIC_VSTMXCSR, exec_stmxcsr, NULL, 0},
    {0},
};
