/* Has this machine the instructions that translated code is made of? */
#ifndef QUIRE_VCPU_TRANSLATE_MACHINE_H
#define QUIRE_VCPU_TRANSLATE_MACHINE_H

#include <cpuid.h>

#define BMI2_BIT (1u << 8)
#define VENDOR_INTEL 0x756e6547u /* EBX of leaf 0 */
#define FAMILY_ZEN 0x17u

/* SHRX and PEXT. The first two generations of Zen have a PEXT of hundreds of cycles. */
static inline int machine_translates(void)
{
	unsigned int eax, ebx, ecx, edx, family;

	if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) || !(ebx & BMI2_BIT))
		return 0;
	__cpuid(0, eax, ebx, ecx, edx);
	if (ebx == VENDOR_INTEL)
		return 1;
	__cpuid(1, eax, ebx, ecx, edx);
	family = (eax >> 8 & 0xf) + (eax >> 20 & 0xff);
	return family > FAMILY_ZEN;
}

#endif
