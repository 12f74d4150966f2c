/* What CPUID shows the guest, and which instruction needs what of it. */
#include "vcpu/decode/feature.h"

#include <cpuid.h>

#include "vcpu/inside.h"
#include "vcpu/run/raise.h"

static const struct feature_place {
	uint32_t leaf;
	uint8_t subleaf, which, bit;
} places[] = {
#define FEATURE_PLACE(name, leaf, subleaf, which, bit) {leaf, subleaf, which, bit},
    FEATURES(FEATURE_PLACE)
#undef FEATURE_PLACE
};

#define OF_MACHINE(name) (UINT64_C(1) << FEATURE_##name)
/* What is executed by the machine's own instructions, on registers that its system must save. */
#define AVX_FEATURES (OF_MACHINE(AVX) | OF_MACHINE(AVX2) | OF_MACHINE(FMA) | OF_MACHINE(F16C))

static int machine_has_ymm(void)
{
	uint32_t a, b, c, d;

	if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE))
		return 0;
	/* XGETBV */
	asm volatile(".byte 0x0f, 0x01, 0xd0" : "=a"(a), "=d"(d) : "c"(0));
	return (a & XSTATE_YMM) == XSTATE_YMM;
}

static uint64_t features_ask(void)
{
	uint64_t has = ~AVX_FEATURES;
	uint32_t out[4];

	if (!machine_has_ymm())
		return has;
	for (unsigned int i = 0; i < FEATURE_COUNT; i++) {
		const struct feature_place *place = &places[i];

		if (!(AVX_FEATURES >> i & 1) ||
		    !__get_cpuid_count(place->leaf, place->subleaf, &out[0], &out[1], &out[2],
				       &out[3]))
			continue;
		has |= (uint64_t)(out[place->which] >> place->bit & 1) << i;
	}
	/* What builds on AVX is nothing without it. */
	return has & OF_MACHINE(AVX) ? has : ~AVX_FEATURES;
}

uint64_t features_of_machine(void)
{
	static uint64_t features;
	uint64_t has = __atomic_load_n(&features, __ATOMIC_RELAXED);

	/* Asked once, as CPUID takes long in a virtual machine. */
	if (!has) {
		has = features_ask();
		__atomic_store_n(&features, has, __ATOMIC_RELAXED);
	}
	return has;
}

/* Is @leaf one of those that CPUID says there are? */
static int has_leaf(struct cpu *cpu, uint32_t leaf)
{
	uint32_t out[4];

	cpu->ops->cpuid(cpu->ctx, leaf & 0x80000000, 0, out);
	return out[0] >= leaf;
}

uint64_t features_query(struct cpu *cpu)
{
	uint64_t shown = 0;
	uint32_t out[4];

	cpu_leave_guest(cpu);
	cpu->ops->cpuid(cpu->ctx, 1, 0, out);
	/* The client has described no processor: it is the one that there is. */
	if (!(out[0] | out[1] | out[2] | out[3]))
		return features_of_machine();
	for (unsigned int i = 0; i < FEATURE_COUNT; i++) {
		const struct feature_place *place = &places[i];

		if (place->leaf != 1 && !has_leaf(cpu, place->leaf))
			continue;
		cpu->ops->cpuid(cpu->ctx, place->leaf, place->subleaf, out);
		shown |= (uint64_t)(out[place->which] >> place->bit & 1) << i;
	}
	return shown & features_of_machine();
}

#define ANY 0x100u /* no feature is 0 by accident: sets that are not listed are unknown */
#define SET(name, feature) [ZYDIS_ISA_SET_##name] = ANY | FEATURE_##feature

static const uint16_t feature_of_set[ZYDIS_ISA_SET_MAX_VALUE + 1] = {
    SET(I86, ALWAYS),
    SET(I186, ALWAYS),
    SET(I286REAL, ALWAYS),
    SET(I286PROTECTED, ALWAYS),
    SET(I386, ALWAYS),
    SET(I486, ALWAYS),
    SET(I486REAL, ALWAYS),
    SET(PENTIUMREAL, ALWAYS),
    SET(PPRO, ALWAYS),
    SET(FAT_NOP, ALWAYS),
    SET(PAUSE, ALWAYS),
    SET(LONGMODE, ALWAYS),
    SET(PREFETCH_NOP, ALWAYS),
    SET(RDPMC, ALWAYS),
    SET(SVM, ALWAYS),
    SET(MONITOR, ALWAYS),
    SET(LAHF, ALWAYS),
    SET(AMD, SYSCALL),
    SET(X87, FPU),
    SET(FCMOV, CMOV),
    SET(CMOV, CMOV),
    SET(CLFSH, CLFLUSH),
    SET(FXSAVE, FXSR),
    SET(FXSAVE64, FXSR),
    SET(PENTIUMMMX, MMX),
    SET(SSE, SSE),
    SET(SSEMXCSR, SSE),
    SET(SSE2, SSE2),
    SET(SSE2MMX, SSE2),
    SET(SSE3, SSE3),
    SET(SSE3X87, SSE3),
    SET(SSSE3, SSSE3),
    SET(SSSE3MMX, SSSE3),
    SET(SSE4, SSE41),
    SET(SSE42, SSE42),
    SET(PCLMULQDQ, PCLMULQDQ),
    SET(CMPXCHG16B, CX16),
    SET(MOVBE, MOVBE),
    SET(POPCNT, POPCNT),
    SET(XSAVE, XSAVE),
    SET(XSAVEOPT, XSAVEOPT),
    SET(XSAVEC, XSAVEC),
    SET(AVX, AVX),
    SET(AVX2, AVX2),
    SET(AVX2GATHER, AVX2),
    SET(FMA, FMA),
    SET(F16C, F16C),
    SET(RDRAND, RDRAND),
    SET(RDSEED, RDSEED),
    SET(RDWRFSGS, FSGSBASE),
    SET(BMI1, BMI1),
    SET(BMI2, BMI2),
    SET(LZCNT, LZCNT),
    SET(INVPCID, INVPCID),
    SET(ADOX_ADCX, ADX),
    SET(SMAP, SMAP),
    SET(CLFLUSHOPT, CLFLUSHOPT),
    SET(CLWB, CLWB),
    SET(PKU, PKU),
    SET(RDPID, RDPID),
    SET(SERIALIZE, SERIALIZE),
    SET(RDTSCP, RDTSCP),
    SET(MPX, HINT),
    SET(SSE_PREFETCH, HINT),
    SET(PREFETCHWT1, HINT),
    SET(CLDEMOTE, HINT),
};

/* Of MMX registers, but SSE brought them. */
static int is_mmx_of_sse(ZydisMnemonic mnemonic)
{
	switch (mnemonic) {
	case ZYDIS_MNEMONIC_MASKMOVQ:
	case ZYDIS_MNEMONIC_MOVNTQ:
	case ZYDIS_MNEMONIC_PAVGB:
	case ZYDIS_MNEMONIC_PAVGW:
	case ZYDIS_MNEMONIC_PEXTRW:
	case ZYDIS_MNEMONIC_PINSRW:
	case ZYDIS_MNEMONIC_PMAXSW:
	case ZYDIS_MNEMONIC_PMAXUB:
	case ZYDIS_MNEMONIC_PMINSW:
	case ZYDIS_MNEMONIC_PMINUB:
	case ZYDIS_MNEMONIC_PMOVMSKB:
	case ZYDIS_MNEMONIC_PMULHUW:
	case ZYDIS_MNEMONIC_PSADBW:
	case ZYDIS_MNEMONIC_PSHUFW:
		return 1;
	default:
		return 0;
	}
}

/* Instructions whose bit is not that of their set. */
static enum feature feature_of_mnemonic(const struct decoded *decoded)
{
	switch (decoded->insn.mnemonic) {
	case ZYDIS_MNEMONIC_CMPXCHG8B:
		return FEATURE_CX8;
	case ZYDIS_MNEMONIC_RDMSR:
	case ZYDIS_MNEMONIC_WRMSR:
		return FEATURE_MSR;
	case ZYDIS_MNEMONIC_RDTSC:
		return FEATURE_TSC;
	case ZYDIS_MNEMONIC_SYSENTER:
	case ZYDIS_MNEMONIC_SYSEXIT:
		return FEATURE_SEP;
	case ZYDIS_MNEMONIC_SYSCALL:
	case ZYDIS_MNEMONIC_SYSRET:
		return FEATURE_SYSCALL;
	case ZYDIS_MNEMONIC_FCOMI:
	case ZYDIS_MNEMONIC_FCOMIP:
	case ZYDIS_MNEMONIC_FUCOMI:
	case ZYDIS_MNEMONIC_FUCOMIP:
		return FEATURE_CMOV;
	case ZYDIS_MNEMONIC_LAHF:
	case ZYDIS_MNEMONIC_SAHF:
		return decoded->code_bytes == 8 ? FEATURE_LAHF : FEATURE_ALWAYS;
	case ZYDIS_MNEMONIC_MOVDIRI:
		return FEATURE_MOVDIRI;
	case ZYDIS_MNEMONIC_ENDBR32:
	case ZYDIS_MNEMONIC_ENDBR64:
	case ZYDIS_MNEMONIC_RDSSPD:
	case ZYDIS_MNEMONIC_RDSSPQ:
		return FEATURE_HINT;
	case ZYDIS_MNEMONIC_VMCALL:
		return FEATURE_ALWAYS;
	default:
		return FEATURE_COUNT;
	}
}

enum feature feature_needed(const struct decoded *decoded)
{
	enum feature feature = feature_of_mnemonic(decoded);
	uint16_t of_set = feature_of_set[decoded->insn.meta.isa_set];

	if (feature != FEATURE_COUNT)
		return feature;
	/* It needs AVX, too, without which no XCR0 lets it run. */
	if (decoded->insn.mnemonic == ZYDIS_MNEMONIC_VPCLMULQDQ &&
	    decoded->insn.meta.isa_set == ZYDIS_ISA_SET_AVX)
		return FEATURE_PCLMULQDQ;
	if (decoded->insn.meta.isa_set == ZYDIS_ISA_SET_PENTIUMMMX &&
	    is_mmx_of_sse(decoded->insn.mnemonic))
		return FEATURE_SSE;
	return of_set ? (enum feature)(of_set & ~ANY) : FEATURE_NEVER;
}
