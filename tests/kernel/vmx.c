/* Intel's way to run guests (VMX) on extended page tables. */
#include "tests/kernel/guest.h"
#include "tests/kernel/machine.h"

#define MSR_FEATURE_CONTROL 0x3au
#define FEATURE_LOCKED 1u
#define FEATURE_VMX 4u
#define MSR_VMX_BASIC 0x480u
#define MSR_VMX_PIN 0x481u
#define MSR_VMX_PROCESSOR 0x482u
#define MSR_VMX_EXIT 0x483u
#define MSR_VMX_ENTRY 0x484u
#define MSR_VMX_CR0_FIXED 0x486u
#define MSR_VMX_CR4_FIXED 0x488u
#define MSR_VMX_SECONDARY 0x48bu
#define MSR_VMX_EPT 0x48cu

#define PROCESSOR_HLT (1u << 7)
#define PROCESSOR_SECONDARY (1u << 31)
#define SECONDARY_EPT (1u << 1)
#define SECONDARY_UNRESTRICTED (1u << 7)
#define EXIT_TO_64_BIT (1u << 9)
#define EPT_NEEDED (1u << 6 | 1u << 14 | 1u << 16 | 1u << 17 | 1u << 20 | 1u << 21)
#define EPT_EXECUTE_ONLY 1u
#define CR4_VMXE (1u << 13)

#define EPTP_FOUR_LEVELS (3u << 3)
#define EPTP_WRITE_BACK 6u
#define EPTP_AD (1u << 6)
#define INVEPT_ALL 2u

#define REASON_HLT 12u
#define REASON_EPT_VIOLATION 48u
#define REASON_EPT_MISCONFIGURED 49u

/* Fields of the control structure. */
#define FIELD_EPTP 0x201au
#define FIELD_GPA 0x2400u
#define FIELD_REASON 0x4402u
#define FIELD_QUALIFICATION 0x6400u
#define FIELD_RIP 0x681eu

struct field {
	uint32_t field;
	uint64_t value;
};

static uint64_t eptp_flags;
static int is_launched;

static void field_write(uint32_t field, uint64_t value)
{
	__asm__ volatile("vmwrite %1, %0" ::"r"((uint64_t)field), "r"(value) : "cc");
}

static uint64_t field_read(uint32_t field)
{
	uint64_t value;

	__asm__ volatile("vmread %1, %0" : "=r"(value) : "r"((uint64_t)field) : "cc");
	return value;
}

/* What a register of controls takes: bits that must be 1 in the low half, may be 1 in the high. */
static uint32_t controls(uint32_t msr, uint32_t wanted)
{
	const uint64_t limits = machine_read_msr(msr);

	return (wanted | (uint32_t)limits) & (uint32_t)(limits >> 32);
}

static int is_there(void)
{
	uint32_t registers[4];
	uint64_t feature;

	guest_cpuid(1, registers);
	if (!(registers[2] & 1u << 5))
		return 0;
	feature = machine_read_msr(MSR_FEATURE_CONTROL);
	if (!(feature & FEATURE_LOCKED))
		machine_write_msr(MSR_FEATURE_CONTROL, feature | FEATURE_LOCKED | FEATURE_VMX);
	else if (!(feature & FEATURE_VMX))
		return 0;
	if (controls(MSR_VMX_PROCESSOR, PROCESSOR_SECONDARY) & PROCESSOR_SECONDARY &&
	    (machine_read_msr(MSR_VMX_EPT) & EPT_NEEDED) == EPT_NEEDED)
		return controls(MSR_VMX_SECONDARY, SECONDARY_UNRESTRICTED) & SECONDARY_UNRESTRICTED;
	return 0;
}

/* A page that begins with the processor's number for its control structures. */
static uint64_t region(void)
{
	uint32_t *page = zeroed(4096, 4096);

	*page = (uint32_t)machine_read_msr(MSR_VMX_BASIC) & 0x7fffffff;
	return physical_of(page);
}

static void write_fields(const struct field *fields, unsigned int count)
{
	for (; count; fields++, count--)
		field_write(fields->field, fields->value);
}

/* What the processor goes back to. RSP and RIP are set at each entry. */
static void host_init(void)
{
	uint64_t cr0, cr3, cr4;

	__asm__("mov %%cr0, %0" : "=r"(cr0));
	__asm__("mov %%cr3, %0" : "=r"(cr3));
	__asm__("mov %%cr4, %0" : "=r"(cr4));
	/* Code is descriptor 8 of boot.S. A task register that says 0 is refused. */
	const struct field fields[] = {{0x0c02, 8},   {0x0c0c, 0x10}, {0x6c00, cr0},
				       {0x6c02, cr3}, {0x6c04, cr4},  {0x4c00, 0}};

	write_fields(fields, sizeof(fields) / sizeof(fields[0]));
}

static void guest_init(void)
{
	static const struct field fields[] = {
	    {0x2800, UINT64_MAX}, /* no other control structure */
	    {0x4004, UINT32_MAX}, /* every exception is an exit */
	    {0x0800, 8},	  /* ES */
	    {0x0802, 16},	  /* CS */
	    {0x0804, 8},	  /* SS */
	    {0x0806, 8},	  /* DS */
	    {0x4800, UINT32_MAX}, /* limits */
	    {0x4802, UINT32_MAX}, {0x4804, UINT32_MAX}, {0x4806, UINT32_MAX},
	    {0x4814, 0xc093}, /* rights */
	    {0x4816, 0xc09b},	  {0x4818, 0xc093},	{0x481a, 0xc093},
	    {0x481c, 0x10000}, /* FS, GS and LDTR are not there */
	    {0x481e, 0x10000},	  {0x4820, 0x10000},	{0x480e, 0x67}, /* TR */
	    {0x4822, 0x8b},	  {0x6800, 0x31},  /* CR0: protected mode, no paging */
	    {0x6804, CR4_VMXE},	  {0x681a, 0x400}, /* DR7 */
	    {0x6820, 2},			   /* RFLAGS */
	};

	write_fields(fields, sizeof(fields) / sizeof(fields[0]));
}

static void controls_init(void)
{
	field_write(0x4000, controls(MSR_VMX_PIN, 0));
	field_write(0x4002, controls(MSR_VMX_PROCESSOR, PROCESSOR_HLT | PROCESSOR_SECONDARY));
	field_write(0x401e, controls(MSR_VMX_SECONDARY, SECONDARY_EPT | SECONDARY_UNRESTRICTED));
	field_write(0x400c, controls(MSR_VMX_EXIT, EXIT_TO_64_BIT));
	field_write(0x4012, controls(MSR_VMX_ENTRY, 0));
}

static void turn_on(void)
{
	uint64_t on, current, cr;

	__asm__ volatile("mov %%cr0, %0" : "=r"(cr));
	__asm__ volatile("mov %0, %%cr0" ::"r"(cr | machine_read_msr(MSR_VMX_CR0_FIXED)));
	__asm__ volatile("mov %%cr4, %0" : "=r"(cr));
	__asm__ volatile("mov %0, %%cr4" ::"r"(cr | machine_read_msr(MSR_VMX_CR4_FIXED)));
	on = region();
	current = region();
	__asm__ volatile("vmxon %0" ::"m"(on) : "cc", "memory");
	__asm__ volatile("vmclear %0" ::"m"(current) : "cc", "memory");
	__asm__ volatile("vmptrld %0" ::"m"(current) : "cc", "memory");
	controls_init();
	host_init();
	guest_init();
}

/* With these flags of the EPTP. */
static int vmx_start(uint64_t flags)
{
	static int is_on;

	if (!is_on && !is_there())
		return 0;
	if (!is_on)
		turn_on();
	is_on = 1;
	eptp_flags = flags | EPTP_WRITE_BACK | EPTP_FOUR_LEVELS;
	return 1;
}

static int vmx_start_ad(void)
{
	return vmx_start(EPTP_AD);
}

static int vmx_start_no_ad(void)
{
	return vmx_start(0);
}

static int vmx_start_execute_only(void)
{
	return vmx_start(EPTP_AD) && (machine_read_msr(MSR_VMX_EPT) & EPT_EXECUTE_ONLY);
}

/* Nonzero: the guest did not start. *@rax is the guest's. */
static int run_guest(uint64_t *rax, uint64_t rbx)
{
	uint64_t a = *rax, failed;

	__asm__ volatile("push %%rbp\n\t"
			 "mov $0x6c14, %%ecx\n\t"
			 "vmwrite %%rsp, %%rcx\n\t"
			 "lea 1f(%%rip), %%rdx\n\t"
			 "mov $0x6c16, %%ecx\n\t"
			 "vmwrite %%rdx, %%rcx\n\t"
			 "test %%esi, %%esi\n\t"
			 "jnz 2f\n\t"
			 "vmlaunch\n\t"
			 "jmp 3f\n"
			 "2:\tvmresume\n"
			 "3:\tmov $1, %%edi\n\t"
			 "jmp 4f\n"
			 "1:\txor %%edi, %%edi\n"
			 "4:\tpop %%rbp"
			 : "+a"(a), "+b"(rbx), "=D"(failed)
			 : "S"(is_launched)
			 : "rcx", "rdx", "memory", "cc");
	*rax = a;
	is_launched |= !failed;
	return failed != 0;
}

/* A violation's qualification: bits 0 to 2 the access, 3 to 5 what was allowed. */
static uint64_t violation(uint64_t qualification)
{
	uint64_t error_code = QUIRE_PFERR_USER | QUIRE_PFERR_GUEST_FINAL;

	if (qualification & 2)
		error_code |= QUIRE_PFERR_WRITE;
	if (qualification & 4)
		error_code |= QUIRE_PFERR_FETCH;
	return qualification & 0x38 ? error_code | QUIRE_PFERR_PRESENT : error_code;
}

static struct guest_result vmx_access(const struct guest_access *access)
{
	const struct {
		uint64_t eptp, zero;
	} all = {0, 0};
	struct guest_result result = {.outcome = GUEST_BROKEN};
	uint64_t rax = access->access & QUIRE_PFERR_WRITE ? access->value : 0;

	field_write(FIELD_EPTP, access->root_physical | eptp_flags);
	field_write(FIELD_RIP, guest_rip(access));
	__asm__ volatile("invept %0, %1" ::"m"(all), "r"((uint64_t)INVEPT_ALL) : "cc", "memory");
	result.error_code = UINT64_MAX;
	if (run_guest(&rax, access->gpa))
		return result;
	result.value = (uint32_t)rax;
	result.error_code = field_read(FIELD_REASON);
	result.gpa = field_read(FIELD_GPA);
	if (result.error_code == REASON_HLT) {
		result.outcome = GUEST_DONE;
	} else if (result.error_code == REASON_EPT_VIOLATION) {
		result.outcome = GUEST_FAULT;
		result.error_code = violation(field_read(FIELD_QUALIFICATION));
	} else if (result.error_code == REASON_EPT_MISCONFIGURED) {
		/* The processor does not say of which access. */
		result.outcome = GUEST_FAULT;
		result.error_code = access->access | QUIRE_PFERR_USER | QUIRE_PFERR_GUEST_FINAL |
				    QUIRE_PFERR_PRESENT | QUIRE_PFERR_RSVD;
	}
	return result;
}

const struct guest_walker walker_vmx = {"ept", QUIRE_FORMAT_EPT, vmx_start_ad, vmx_access, 0, 0};
const struct guest_walker walker_vmx_no_ad = {
    "ept without a and d", QUIRE_FORMAT_EPT_NO_AD, vmx_start_no_ad, vmx_access, 0, 0};
/* Mode-based execute control is off, as Bochs has none: no page is one mode's here, and what the
 * library keeps for user mode's fetches is ignored. */
const struct guest_walker walker_vmx_execute_only = {"ept with execute-only pages",
						     QUIRE_FORMAT_EPT_MODES,
						     vmx_start_execute_only,
						     vmx_access,
						     0,
						     0};
