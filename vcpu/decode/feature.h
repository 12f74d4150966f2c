/* What CPUID shows the guest, and which instruction needs what of it. */
#ifndef QUIRE_VCPU_DECODE_FEATURE_H
#define QUIRE_VCPU_DECODE_FEATURE_H

#include "vcpu/decode/op.h"

/* Name, leaf, subleaf, register (EAX .. EDX as 0 .. 3) and bit of each feature that has
 * instructions here. */
/* clang-format off */
#define FEATURES(X)                                                               \
	X(FPU, 1, 0, 3, 0) X(TSC, 1, 0, 3, 4) X(MSR, 1, 0, 3, 5) X(CX8, 1, 0, 3, 8)   \
	X(SEP, 1, 0, 3, 11) X(CMOV, 1, 0, 3, 15) X(CLFLUSH, 1, 0, 3, 19)              \
	X(MMX, 1, 0, 3, 23) X(FXSR, 1, 0, 3, 24) X(SSE, 1, 0, 3, 25)                  \
	X(SSE2, 1, 0, 3, 26) X(SSE3, 1, 0, 2, 0) X(PCLMULQDQ, 1, 0, 2, 1)             \
	X(SSSE3, 1, 0, 2, 9) X(CX16, 1, 0, 2, 13) X(SSE41, 1, 0, 2, 19)               \
	X(SSE42, 1, 0, 2, 20) X(MOVBE, 1, 0, 2, 22) X(POPCNT, 1, 0, 2, 23)            \
	X(FMA, 1, 0, 2, 12) X(XSAVE, 1, 0, 2, 26) X(AVX, 1, 0, 2, 28)                 \
	X(F16C, 1, 0, 2, 29) X(RDRAND, 1, 0, 2, 30) X(AVX2, 7, 0, 1, 5)               \
	X(FSGSBASE, 7, 0, 1, 0) X(BMI1, 7, 0, 1, 3) X(BMI2, 7, 0, 1, 8)               \
	X(INVPCID, 7, 0, 1, 10) X(RDSEED, 7, 0, 1, 18) X(ADX, 7, 0, 1, 19)            \
	X(SMAP, 7, 0, 1, 20) X(CLFLUSHOPT, 7, 0, 1, 23) X(CLWB, 7, 0, 1, 24)          \
	X(PKU, 7, 0, 2, 3) X(RDPID, 7, 0, 2, 22) X(MOVDIRI, 7, 0, 2, 27)              \
	X(SERIALIZE, 7, 0, 3, 14)                                                     \
	X(XSAVEOPT, 0xd, 1, 0, 0) X(XSAVEC, 0xd, 1, 0, 1)                             \
	X(LAHF, 0x80000001, 0, 2, 0) X(LZCNT, 0x80000001, 0, 2, 5)                    \
	X(SYSCALL, 0x80000001, 0, 3, 11) X(RDTSCP, 0x80000001, 0, 3, 27)
/* clang-format on */

enum feature {
#define FEATURE_NAME(name, leaf, subleaf, which, bit) FEATURE_##name,
	FEATURES(FEATURE_NAME)
#undef FEATURE_NAME
	    FEATURE_COUNT,
	/* What needs no bit, what no bit brings, and hints that do nothing without theirs. */
	FEATURE_ALWAYS,
	FEATURE_NEVER,
	FEATURE_HINT,
};

_Static_assert(FEATURE_COUNT <= 64, "a bit of a word for each");

/* The features that @cpu's CPUID shows, a bit each. Leaves guest mode. */
uint64_t features_query(struct cpu *cpu);

/*
 * The features that are executed here, a bit each: all but those of YMM registers that the machine
 * lacks. Any thread.
 */
uint64_t features_of_machine(void);

/* What @decoded needs. */
enum feature feature_needed(const struct decoded *decoded);

#endif
