/* Running single x87 instructions on the host's unit with the guest's state in it. */
#include "vcpu/exec/fpu.h"

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
