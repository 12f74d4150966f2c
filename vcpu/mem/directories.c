/* PAE's four page directory pointers. */
#include "vcpu/mem/directories.h"
#include "vcpu/mem/segment.h"
#include "vcpu/run/raise.h"

#include <quire/vcpu.h>

#define PDPTE_P UINT64_C(1)
#define PDPTE_RESERVED UINT64_C(0x1e6)
#define CR3_DIRECTORIES UINT64_C(0xffffffe0)

uint8_t directories_phys_bits(struct cpu *cpu)
{
	uint32_t leaf[4];

	cpu->ops->cpuid(cpu->ctx, UINT32_C(0x80000000), 0, leaf);
	if (leaf[0] < UINT32_C(0x80000008))
		return 36;
	cpu->ops->cpuid(cpu->ctx, UINT32_C(0x80000008), 0, leaf);
	return (leaf[0] & 0xff) < 52 ? leaf[0] & 0xff : 52;
}

#define DIRECTORIES 4u

static int read_directories(struct cpu *cpu, uint64_t cr3, uint64_t pointers[DIRECTORIES])
{
	uint8_t phys_bits;

	cpu_leave_guest(cpu);
	phys_bits = directories_phys_bits(cpu);
	if (quire_vcpu_read(cpu->vcpu, (gpa_t){cr3 & CR3_DIRECTORIES}, pointers,
			    DIRECTORIES * sizeof(*pointers)))
		return 0;
	for (unsigned int i = 0; i < DIRECTORIES; i++)
		if ((pointers[i] & PDPTE_P) &&
		    ((pointers[i] & PDPTE_RESERVED) || pointers[i] >> phys_bits))
			return 0;
	return 1;
}

int directories_will_do(struct cpu *cpu, uint64_t cr3)
{
	uint64_t pointers[DIRECTORIES];

	return read_directories(cpu, cr3, pointers);
}

int directories_load(struct cpu *cpu, uint64_t cr3)
{
	uint64_t pointers[DIRECTORIES];

	if (!read_directories(cpu, cr3, pointers))
		return 0;
	if (!cpu->single_stage)
		return 1;
	memcpy(cpu->s.directories, pointers, sizeof(pointers));
	cpu->s.directories_loaded = 1;
	return 1;
}

void cpu_load_directories(struct cpu *cpu)
{
	if (cpu->single_stage && cpu_is_pae(cpu))
		(void)directories_load(cpu, cpu->s.cr3);
}

void cpu_forget_directories(struct cpu *cpu)
{
	if (!cpu->single_stage)
		cpu->s.directories_loaded = 0;
}
