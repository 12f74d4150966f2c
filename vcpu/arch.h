/* Bits and numbers of the x86-64 architecture: RFLAGS, CR0, CR4, DR7, XCR0, vectors, MSRs. */
#ifndef QUIRE_VCPU_ARCH_H
#define QUIRE_VCPU_ARCH_H

#include <stdint.h>

#define FLAG_CF (UINT64_C(1) << 0)
#define FLAG_FIXED (UINT64_C(1) << 1)
#define FLAG_PF (UINT64_C(1) << 2)
#define FLAG_AF (UINT64_C(1) << 4)
#define FLAG_ZF (UINT64_C(1) << 6)
#define FLAG_SF (UINT64_C(1) << 7)
#define FLAG_TF (UINT64_C(1) << 8)
#define FLAG_IF (UINT64_C(1) << 9)
#define FLAG_DF (UINT64_C(1) << 10)
#define FLAG_OF (UINT64_C(1) << 11)
#define FLAG_IOPL (UINT64_C(3) << 12)
#define FLAG_NT (UINT64_C(1) << 14)
#define FLAG_RF (UINT64_C(1) << 16)
#define FLAG_VM (UINT64_C(1) << 17)
#define FLAG_AC (UINT64_C(1) << 18)
#define FLAG_VIF (UINT64_C(1) << 19)
#define FLAG_VIP (UINT64_C(1) << 20)
#define FLAG_ID (UINT64_C(1) << 21)

#define CR0_PE (UINT64_C(1) << 0)
#define CR0_MP (UINT64_C(1) << 1)
#define CR0_EM (UINT64_C(1) << 2)
#define CR0_TS (UINT64_C(1) << 3)
#define CR0_ET (UINT64_C(1) << 4)
#define CR0_NE (UINT64_C(1) << 5)
#define CR0_WP (UINT64_C(1) << 16)
#define CR0_AM (UINT64_C(1) << 18)
#define CR0_NW (UINT64_C(1) << 29)
#define CR0_CD (UINT64_C(1) << 30)
#define CR0_PG (UINT64_C(1) << 31)

/* The rest of CR3 is where the tables are. */
#define CR3_PCID UINT64_C(0xfff)

#define CR4_VME (UINT64_C(1) << 0)
#define CR4_PVI (UINT64_C(1) << 1)
#define CR4_TSD (UINT64_C(1) << 2)
#define CR4_DE (UINT64_C(1) << 3)
#define CR4_PSE (UINT64_C(1) << 4)
#define CR4_PAE (UINT64_C(1) << 5)
#define CR4_MCE (UINT64_C(1) << 6)
#define CR4_PGE (UINT64_C(1) << 7)
#define CR4_PCE (UINT64_C(1) << 8)
#define CR4_OSFXSR (UINT64_C(1) << 9)
#define CR4_OSXMMEXCPT (UINT64_C(1) << 10)
#define CR4_UMIP (UINT64_C(1) << 11)
#define CR4_LA57 (UINT64_C(1) << 12)
#define CR4_FSGSBASE (UINT64_C(1) << 16)
#define CR4_PCIDE (UINT64_C(1) << 17)
#define CR4_OSXSAVE (UINT64_C(1) << 18)
#define CR4_SMEP (UINT64_C(1) << 20)
#define CR4_SMAP (UINT64_C(1) << 21)
#define CR4_PKE (UINT64_C(1) << 22)

#define EFER_SCE (UINT64_C(1) << 0)
#define EFER_LME (UINT64_C(1) << 8)
#define EFER_LMA (UINT64_C(1) << 10)
#define EFER_NXE (UINT64_C(1) << 11)
#define EFER_SVME (UINT64_C(1) << 12)

#define DR7_FIXED (UINT64_C(1) << 10)
#define DR7_GD (UINT64_C(1) << 13)

/* XCR0, and XSTATE_BV of an XSAVE image. */
#define XSTATE_X87 (UINT64_C(1) << 0)
#define XSTATE_SSE (UINT64_C(1) << 1)
#define XSTATE_AVX (UINT64_C(1) << 2)
#define XSTATE_YMM (XSTATE_SSE | XSTATE_AVX) /* what YMM registers need */
#define XSTATE_PKRU (UINT64_C(1) << 9)

enum vector {
	VECTOR_DE = 0,
	VECTOR_DB = 1,
	VECTOR_NMI = 2,
	VECTOR_BP = 3,
	VECTOR_OF = 4,
	VECTOR_BR = 5,
	VECTOR_UD = 6,
	VECTOR_NM = 7,
	VECTOR_DF = 8,
	VECTOR_TS = 10,
	VECTOR_NP = 11,
	VECTOR_SS = 12,
	VECTOR_GP = 13,
	VECTOR_PF = 14,
	VECTOR_MF = 16,
	VECTOR_AC = 17,
	VECTOR_MC = 18,
	VECTOR_XM = 19,
};

#define MSR_TSC 0x10u
#define MSR_SYSENTER_CS 0x174u
#define MSR_SYSENTER_ESP 0x175u
#define MSR_SYSENTER_EIP 0x176u
#define MSR_PAT 0x277u
#define MSR_EFER 0xc0000080u
#define MSR_STAR 0xc0000081u
#define MSR_LSTAR 0xc0000082u
#define MSR_CSTAR 0xc0000083u
#define MSR_SFMASK 0xc0000084u
#define MSR_FS_BASE 0xc0000100u
#define MSR_GS_BASE 0xc0000101u
#define MSR_KERNEL_GS_BASE 0xc0000102u
#define MSR_TSC_AUX 0xc0000103u

#endif
