/* The state save area in SMRAM, in the two layouts that KVM has. */
#ifndef QUIRE_VCPU_SMM_SMRAM_H
#define QUIRE_VCPU_SMM_SMRAM_H

#include <stddef.h>
#include <stdint.h>

/* Where it begins, from SMBASE on, and where the handler does. */
#define SMRAM_STATE UINT64_C(0xfe00)
#define SMRAM_ENTRY UINT64_C(0x8000)

#define SMRAM_REVISION_32 0x20000u
#define SMRAM_REVISION_64 0x20064u

/* Intel's P6. */
struct smram_segment_32 {
	uint32_t flags; /* as in the descriptor's upper half */
	uint32_t limit;
	uint32_t base;
};

struct smram_32 {
	uint32_t reserved1[62];
	uint32_t smbase;
	uint32_t revision;
	uint16_t io_restart, halt_restart; /* KVM restarts neither */
	uint32_t io_restart_registers[4];
	uint32_t cr4;
	uint16_t reserved2;
	uint8_t interrupt_shadow; /* KVM's own */
	uint8_t reserved3[17];
	struct smram_segment_32 ds, fs, gs;
	struct smram_segment_32 idt;
	struct smram_segment_32 tr;
	uint32_t reserved4;
	struct smram_segment_32 gdt;
	struct smram_segment_32 ldtr;
	struct smram_segment_32 es, cs, ss;
	uint32_t selectors[8]; /* ES, CS, SS, DS, FS, GS, LDTR, TR */
	uint32_t dr7, dr6;
	uint32_t gpr[8];
	uint32_t eip, eflags;
	uint32_t cr3, cr0;
};

/* AMD's, for a processor with long mode. */
struct smram_segment_64 {
	uint16_t selector;
	uint16_t attributes; /* the flags of the other layout, from bit 8 on */
	uint32_t limit;
	uint64_t base;
};

struct smram_64 {
	struct smram_segment_64 segments[6]; /* ES to GS */
	struct smram_segment_64 gdt, ldtr, idt, tr;
	uint64_t io_restart_registers[4];
	uint32_t io_restart_word;
	uint32_t reserved1;
	uint8_t io_restart, halt_restart;
	uint8_t nmi_mask;	  /* not KVM's */
	uint8_t interrupt_shadow; /* KVM's own */
	uint32_t reserved2;
	uint64_t efer;
	uint64_t nested; /* not 0: L2 was interrupted */
	uint64_t nested_vmcb_gpa;
	uint64_t nested_interrupt;
	uint32_t reserved3[3];
	uint32_t revision;
	uint32_t smbase;
	uint32_t reserved4[5];
	uint64_t ssp;
	uint64_t nested_pat, host_efer, host_cr4, host_cr3, host_cr0;
	uint64_t cr4, cr3, cr0;
	uint64_t dr7, dr6;
	uint64_t rflags, rip;
	uint64_t gpr[16]; /* R15 first */
};

union smram {
	struct smram_32 low;
	struct smram_64 high;
};

_Static_assert(sizeof(struct smram_32) == 512, "layout");
_Static_assert(sizeof(struct smram_64) == 512, "layout");
_Static_assert(offsetof(struct smram_32, smbase) == 0xf8, "layout");
_Static_assert(offsetof(struct smram_32, cr4) == 0x114, "layout");
_Static_assert(offsetof(struct smram_32, ds) == 0x12c, "layout");
_Static_assert(offsetof(struct smram_32, tr) == 0x15c, "layout");
_Static_assert(offsetof(struct smram_32, gdt) == 0x16c, "layout");
_Static_assert(offsetof(struct smram_32, es) == 0x184, "layout");
_Static_assert(offsetof(struct smram_32, selectors) == 0x1a8, "layout");
_Static_assert(offsetof(struct smram_32, eip) == 0x1f0, "layout");
_Static_assert(offsetof(struct smram_64, gdt) == 0x60, "layout");
_Static_assert(offsetof(struct smram_64, interrupt_shadow) == 0xcb, "layout");
_Static_assert(offsetof(struct smram_64, efer) == 0xd0, "layout");
_Static_assert(offsetof(struct smram_64, revision) == 0xfc, "layout");
_Static_assert(offsetof(struct smram_64, ssp) == 0x118, "layout");
_Static_assert(offsetof(struct smram_64, cr4) == 0x148, "layout");
_Static_assert(offsetof(struct smram_64, gpr) == 0x180, "layout");

#endif
