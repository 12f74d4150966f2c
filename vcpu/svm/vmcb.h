/* The virtual machine control block of AMD's processors, in memory's layout. */
#ifndef QUIRE_VCPU_SVM_VMCB_H
#define QUIRE_VCPU_SVM_VMCB_H

#include <stddef.h>
#include <stdint.h>

/* Bits of .intercept. Each has the exit code VMCB_EXIT_INTR + its number. */
enum vmcb_intercept {
	INTERCEPT_INTR = 0,
	INTERCEPT_NMI = 1,
	INTERCEPT_SMI = 2,
	INTERCEPT_INIT = 3,
	INTERCEPT_VINTR = 4,
	INTERCEPT_CR0_SELECTIVE = 5,
	INTERCEPT_SIDT = 6,
	INTERCEPT_SGDT = 7,
	INTERCEPT_SLDT = 8,
	INTERCEPT_STR = 9,
	INTERCEPT_LIDT = 10,
	INTERCEPT_LGDT = 11,
	INTERCEPT_LLDT = 12,
	INTERCEPT_LTR = 13,
	INTERCEPT_RDTSC = 14,
	INTERCEPT_RDPMC = 15,
	INTERCEPT_PUSHF = 16,
	INTERCEPT_POPF = 17,
	INTERCEPT_CPUID = 18,
	INTERCEPT_RSM = 19,
	INTERCEPT_IRET = 20,
	INTERCEPT_INTN = 21,
	INTERCEPT_INVD = 22,
	INTERCEPT_PAUSE = 23,
	INTERCEPT_HLT = 24,
	INTERCEPT_INVLPG = 25,
	INTERCEPT_INVLPGA = 26,
	INTERCEPT_IOIO = 27,
	INTERCEPT_MSR = 28,
	INTERCEPT_SHUTDOWN = 31,
	INTERCEPT_VMRUN = 32,
	INTERCEPT_VMMCALL = 33,
	INTERCEPT_VMLOAD = 34,
	INTERCEPT_VMSAVE = 35,
	INTERCEPT_STGI = 36,
	INTERCEPT_CLGI = 37,
	INTERCEPT_SKINIT = 38,
	INTERCEPT_RDTSCP = 39,
	INTERCEPT_ICEBP = 40,
	INTERCEPT_WBINVD = 41,
	INTERCEPT_MONITOR = 42,
	INTERCEPT_MWAIT = 43,
	INTERCEPT_XSETBV = 45,
};

/* Bit of .intercept_more, and its exit code. */
#define INTERCEPT_INVPCID (UINT32_C(1) << 2)
#define VMCB_EXIT_INVPCID UINT64_C(0xa2)

#define VMCB_EXIT_CR_READ UINT64_C(0x0)
#define VMCB_EXIT_CR_WRITE UINT64_C(0x10)
#define VMCB_EXIT_DR_READ UINT64_C(0x20)
#define VMCB_EXIT_DR_WRITE UINT64_C(0x30)
#define VMCB_EXIT_EXCEPTION UINT64_C(0x40)
#define VMCB_EXIT_INTR UINT64_C(0x60)
#define VMCB_EXIT_NPF UINT64_C(0x400)
/* KVM's: L2 was left for system management mode. */
#define VMCB_EXIT_SW UINT64_C(0xf0000000)
#define VMCB_EXIT_INVALID (~UINT64_C(0))

/* .int_ctl */
#define VMCB_V_TPR 0xffu
#define VMCB_V_IRQ (1u << 8)
#define VMCB_V_GIF (1u << 9)
#define VMCB_V_PRIORITY_SHIFT 16
#define VMCB_V_IGNORE_TPR (1u << 20)
#define VMCB_V_INTR_MASKING (1u << 24)
#define VMCB_V_GIF_ENABLE (1u << 25)

/* CPUID of L1: what of the VMCB means anything to its processor. */
#define SVM_CPUID_LEAF UINT32_C(0x8000000a)
#define SVM_CPUID_NPT (UINT32_C(1) << 0)
#define SVM_CPUID_NEXT_RIP (UINT32_C(1) << 3)
#define SVM_CPUID_VIRTUAL_VMLOAD (UINT32_C(1) << 15)
#define SVM_CPUID_V_GIF (UINT32_C(1) << 16)

#define VMCB_INT_STATE_SHADOW 1u
#define VMCB_NESTED_PAGING UINT64_C(1)
/* .misc2: VMLOAD and VMSAVE of L2 take L2's physical addresses. */
#define VMCB_VIRTUAL_VMLOAD UINT64_C(2)

/* .event_inj and .exit_int_info; the type field is enum event_type. */
#define VMCB_EVENT_VALID (UINT64_C(1) << 31)
#define VMCB_EVENT_HAS_ERROR (UINT64_C(1) << 11)
#define VMCB_EVENT_TYPE_SHIFT 8

struct __attribute__((packed)) vmcb_control {
	uint16_t cr_reads, cr_writes;
	uint16_t dr_reads, dr_writes;
	uint32_t exceptions;
	uint64_t intercept;
	uint32_t intercept_more;
	uint8_t reserved1[36];
	uint16_t pause_threshold, pause_count;
	uint64_t iopm_gpa;
	uint64_t msrpm_gpa;
	uint64_t tsc_offset;
	uint32_t asid;
	uint8_t tlb_control;
	uint8_t reserved2[3];
	uint32_t int_ctl;
	uint32_t int_vector;
	uint32_t int_state;
	uint32_t reserved3;
	uint64_t exit_code;
	uint64_t exit_info1;
	uint64_t exit_info2;
	uint64_t exit_int_info; /* error code in the upper half, so in event_inj */
	uint64_t misc;
	uint8_t reserved4[16];
	uint64_t event_inj;
	uint64_t nested_cr3;
	uint64_t misc2;
	uint64_t clean;
	uint64_t next_rip;
	uint8_t reserved5[816];
};

struct vmcb_segment {
	uint16_t selector;
	uint16_t attributes; /* type, S, DPL, P, AVL, L, D/B, G from bit 0 up */
	uint32_t limit;
	uint64_t base;
};

struct vmcb_save {
	struct vmcb_segment es, cs, ss, ds, fs, gs, gdtr, ldtr, idtr, tr;
	uint8_t reserved1[43];
	uint8_t cpl;
	uint32_t reserved2;
	uint64_t efer;
	uint8_t reserved3[112];
	uint64_t cr4, cr3, cr0, dr7, dr6;
	uint64_t rflags, rip;
	uint8_t reserved4[88];
	uint64_t rsp;
	uint8_t reserved5[24];
	uint64_t rax;
	uint64_t star, lstar, cstar, sfmask, kernel_gs_base;
	uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
	uint64_t cr2;
	uint8_t reserved6[32];
	uint64_t pat;
	uint8_t reserved7[0xc00 - 0x270];
};

struct vmcb {
	struct vmcb_control control;
	struct vmcb_save save;
};

_Static_assert(offsetof(struct vmcb_control, intercept) == 0xc, "layout");
_Static_assert(offsetof(struct vmcb_control, iopm_gpa) == 0x40, "layout");
_Static_assert(offsetof(struct vmcb_control, asid) == 0x58, "layout");
_Static_assert(offsetof(struct vmcb_control, exit_code) == 0x70, "layout");
_Static_assert(offsetof(struct vmcb_control, event_inj) == 0xa8, "layout");
_Static_assert(offsetof(struct vmcb_control, next_rip) == 0xc8, "layout");
_Static_assert(sizeof(struct vmcb_control) == 0x400, "layout");
_Static_assert(offsetof(struct vmcb_save, efer) == 0xd0, "layout");
_Static_assert(offsetof(struct vmcb_save, cr4) == 0x148, "layout");
_Static_assert(offsetof(struct vmcb_save, rsp) == 0x1d8, "layout");
_Static_assert(offsetof(struct vmcb_save, rax) == 0x1f8, "layout");
_Static_assert(offsetof(struct vmcb_save, cr2) == 0x240, "layout");
_Static_assert(offsetof(struct vmcb_save, pat) == 0x268, "layout");
_Static_assert(sizeof(struct vmcb) == 4096, "one page");

#endif
