/* A library that looks at the processor. */
#include <cpuid.h>
#include <stdint.h>

__attribute__((visibility("default"))) void library_look(uint32_t leaf, uint32_t subleaf,
							 uint32_t out[4]);
void library_look(uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
	__cpuid_count(leaf, subleaf, out[0], out[1], out[2], out[3]);
}
