/* A VMCB that VMRUN takes, and the fields in it that mean something. */
#include "tests/fuzz/nested_vmcb.h"

#include <string.h>

#define FIELD(member)                                                             \
	{                                                                         \
		offsetof(struct vmcb, member), sizeof(((struct vmcb *)0)->member) \
	}
#define SEGMENT(name)                                                                   \
	FIELD(save.name.selector), FIELD(save.name.attributes), FIELD(save.name.limit), \
	    FIELD(save.name.base)

static const struct vmcb_field fields[] = {
    FIELD(control.cr_reads),
    FIELD(control.cr_writes),
    FIELD(control.exceptions),
    FIELD(control.intercept),
    FIELD(control.intercept_more),
    FIELD(control.iopm_gpa),
    FIELD(control.msrpm_gpa),
    FIELD(control.tsc_offset),
    FIELD(control.asid),
    FIELD(control.tlb_control),
    FIELD(control.int_ctl),
    FIELD(control.int_vector),
    FIELD(control.int_state),
    FIELD(control.exit_int_info),
    FIELD(control.misc),
    FIELD(control.event_inj),
    FIELD(control.nested_cr3),
    FIELD(control.misc2),
    FIELD(control.clean),
    FIELD(control.next_rip),
    FIELD(save.cpl),
    FIELD(save.efer),
    FIELD(save.cr4),
    FIELD(save.cr3),
    FIELD(save.cr0),
    FIELD(save.dr7),
    FIELD(save.dr6),
    FIELD(save.rflags),
    FIELD(save.rip),
    FIELD(save.rsp),
    FIELD(save.rax),
    FIELD(save.star),
    FIELD(save.lstar),
    FIELD(save.sfmask),
    FIELD(save.kernel_gs_base),
    FIELD(save.sysenter_cs),
    FIELD(save.sysenter_eip),
    FIELD(save.cr2),
    FIELD(save.pat),
    SEGMENT(cs),
    SEGMENT(ss),
    SEGMENT(ds),
    SEGMENT(tr),
    SEGMENT(idtr),
};
_Static_assert(sizeof(fields) / sizeof(fields[0]) == VMCB_FIELDS, "the header counts them");

struct vmcb_field vmcb_field(uint64_t index)
{
	return fields[index];
}

static struct vmcb_segment flat(uint16_t selector, uint16_t attributes)
{
	return (struct vmcb_segment){
	    .selector = selector, .attributes = attributes, .limit = UINT32_MAX};
}

void vmcb_reset(struct vmcb *vmcb, struct vmcb_places places)
{
	memset(vmcb, 0, sizeof(*vmcb));
	vmcb->control.intercept = 1ull << INTERCEPT_VMRUN | 1ull << INTERCEPT_VMMCALL |
				  1ull << INTERCEPT_SHUTDOWN | 1ull << INTERCEPT_HLT;
	vmcb->control.asid = 1;
	vmcb->control.iopm_gpa = vmcb->control.msrpm_gpa = places.maps;
	vmcb->control.nested_cr3 = places.tables;
	vmcb->control.exceptions = UINT32_MAX;
	vmcb->save.cs = flat(8, 0xa9b);
	vmcb->save.ss = vmcb->save.ds = vmcb->save.es = flat(16, 0xc93);
	vmcb->save.efer = 1u << 12 | 1u << 11 | 1u << 10 | 1u << 8; /* SVME NXE LMA LME */
	vmcb->save.cr0 = 1u << 31 | 1u << 16 | 1u << 5 | 1u << 4 | 1u;
	vmcb->save.cr3 = places.tables;
	vmcb->save.cr4 = 1u << 5;
	vmcb->save.dr6 = 0xffff0ff0;
	vmcb->save.dr7 = 0x400;
	vmcb->save.rflags = 2;
	vmcb->save.rip = places.rip;
	vmcb->save.rsp = places.stack;
}
