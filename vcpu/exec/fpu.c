/* Running single x87 instructions on the host's unit with the guest's state in it. */
#include "vcpu/exec/fpu.h"

#include <cpuid.h>

void fpu_init(struct cpu *cpu)
{
	cpu->s.fcw = FCW_RESET;
	cpu->s.fsw = 0;
	cpu->s.ftw = 0;
	cpu->s.fop = 0;
	cpu->s.fip = 0;
	cpu->s.fdp = 0;
}

void fpu_get(const struct cpu_state *state, struct fpu_image *image)
{
	image->fcw = state->fcw;
	image->fsw = state->fsw;
	image->ftw = state->ftw;
	image->fop = state->fop;
	image->fip = state->fip;
	image->fdp = state->fdp;
	memcpy(image->st, state->st, sizeof(image->st));
}

void fpu_set(struct cpu_state *state, const struct fpu_image *image)
{
	state->fcw = image->fcw;
	state->fsw = image->fsw;
	state->ftw = image->ftw;
	state->fop = image->fop;
	state->fip = image->fip;
	state->fdp = image->fdp;
	memcpy(state->st, image->st, sizeof(state->st));
}

/*
 * FXRSTOR and FXSAVE do not look at pending exceptions, so the kernel may leave one: it goes away
 * with the host's own state, which comes back before any other instruction of the x87. The XMM
 * registers are clobbered on the way: both sides of the call say so.
 */
#define XMM_CLOBBERS                                                                             \
	"xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", \
	    "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "memory"

__attribute__((noinline)) uint64_t fpu_run(struct fpu_image *image, fpu_kernel kernel, void *memory,
					   uint64_t flags)
{
	struct fpu_image host;

	image->mxcsr = MXCSR_RESET;
	asm volatile("fxsave64 %0\n\tfxrstor64 %1" : "=m"(host) : "m"(*image) : XMM_CLOBBERS);
	flags = kernel(memory, flags);
	asm volatile("fxsave64 %0\n\tfxrstor64 %1" : "=m"(*image) : "m"(host) : XMM_CLOBBERS);
	return flags;
}

#define LEAF_XSAVE 0xdu
#define LEAF_FEATURES 7u
#define FEATURE_PKU 3 /* ECX */
#define INTEL_PKRU_OFFSET 2688u

/* The offset, and whether it is the machine's: asked once, as CPUID takes long in a virtual
 * machine.
 */
#define IS_OWN (UINT32_C(1) << 31)
static uint32_t pkru_place;

static uint32_t find_pkru(void)
{
	uint32_t a, b, c, d, place = INTEL_PKRU_OFFSET;

	if (__get_cpuid_count(LEAF_FEATURES, 0, &a, &b, &c, &d) && (c >> FEATURE_PKU & 1) &&
	    __get_cpuid_count(LEAF_XSAVE, XSAVE_PKRU_COMPONENT, &a, &b, &c, &d) &&
	    a == XSAVE_PKRU_BYTES && b && b <= XSAVE_PKRU_MAX)
		place = b | IS_OWN;
	__atomic_store_n(&pkru_place, place, __ATOMIC_RELAXED);
	return place;
}

static uint32_t where_pkru_is(void)
{
	uint32_t place = __atomic_load_n(&pkru_place, __ATOMIC_RELAXED);

	return place ? place : find_pkru();
}

uint32_t fpu_pkru_offset(void)
{
	return where_pkru_is() & ~IS_OWN;
}

int fpu_machine_has_keys(void)
{
	return (where_pkru_is() & IS_OWN) != 0;
}
