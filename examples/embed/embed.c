/* A second-stage MMU for a CPU of our own: C11 as well as C++17, in a process and in a kernel. */
#include <string.h>

#include <quire/dirty.h>
#include <quire/format.h>
#include <quire/stats.h>
#include <quire/vcpu.h>
#include <quire/vm.h>

#include "port.h"

/* What a load or a store does at a physical address of the guest's memory. */
static void copy_word(uint64_t physical, uint64_t *value, int is_write)
{
	uint64_t *word = QUIRE_CAST(quire_table, physical + physical_offset);

	if (is_write)
		*word = *value;
	else
		*value = *word;
}

/* One access of the CPU. An address without memory is the console: what is stored is printed. */
static int access_word(struct quire_vcpu *vcpu, uint64_t at, uint64_t *value, int is_write)
{
	struct quire_memory_fault fault;
	struct quire_translation found;
	struct quire_stage2 stage2;
	uint64_t requests;
	gpa_t gpa = {at};
	int result, mapped;

	do {
		/* This CPU caches no translation, so that a request to flush asks nothing of it. */
		result = quire_vcpu_enter(vcpu, &requests, &stage2);
		if (result)
			return result;
		mapped = quire_walk(&stage2, gpa, is_write ? QUIRE_PFERR_WRITE : 0, &found);
		if (mapped)
			copy_word(found.address, value, is_write);
		quire_vcpu_leave(vcpu);
		if (mapped)
			return 0;
		result = quire_vcpu_fault(vcpu, gpa, found.error_code, &fault);
	} while (result > 0 && result != QUIRE_EMULATE);
	if (result == QUIRE_EMULATE)
		say("console", *value);
	return result < 0 ? result : 0;
}

/* The CPU: an instruction is a word, its operation in the low byte, an address above. */
enum operation { HALT, ADD, STORE };

static int run(struct quire_vcpu *vcpu)
{
	uint64_t pc = 0, accumulator = 0, instruction, operand;
	int result;

	for (;; pc += 8) {
		result = access_word(vcpu, pc, &instruction, 0);
		if (result || instruction % 256 == HALT)
			return result;
		if (instruction % 256 == STORE) {
			result = access_word(vcpu, instruction >> 8, &accumulator, 1);
		} else {
			result = access_word(vcpu, instruction >> 8, &operand, 0);
			accumulator += operand;
		}
		if (result)
			return result;
	}
}

static int print_dirty(void *ctx, uint64_t offset_bytes, const void *bits, uint64_t size_bytes)
{
	uint64_t word, page;

	(void)ctx, (void)size_bytes;
	memcpy(&word, bits, sizeof(word));
	for (page = 0; page < 64; page++)
		if (word >> page & 1)
			say("a page that may have changed", page);
	return offset_bytes ? -1 : 0;
}

int main(void)
{
	/* Adds two words of page 1, stores the sum in page 2, and shows it. */
	static const uint64_t program[] = {ADD | 0x1000 << 8, ADD | 0x1008 << 8,
					   STORE | 0x2000 << 8, STORE | 0x80000 << 8, HALT};
	static const uint64_t operands[] = {40, 2};
	static struct quire_platform platform;
	static struct quire_host_ops host;
	struct quire_vm_config config;
	struct quire_region region;
	struct quire_vcpu *vcpu;
	struct quire_vm *vm;
	uint8_t *memory = (uint8_t *)zeroed(QUIRE_PAGE_SIZE, 64 * QUIRE_PAGE_SIZE);

	if (!memory)
		return 1;
	memcpy(memory, program, sizeof(program));
	memcpy(memory + 0x1000, operands, sizeof(operands));
	fill_tables(&platform, &host);
	quire_platform_install(&platform);
	memset(&config, 0, sizeof(config));
	config.maxphyaddr = 48;
	config.host = &host;
	config.table_offset = physical_offset;
	memset(&region, 0, sizeof(region));
	region.flags = QUIRE_SLOT_LOG_DIRTY;
	region.size_bytes = 64 * QUIRE_PAGE_SIZE;
	region.hva.v = (uintptr_t)memory - physical_offset;
	if (quire_vm_create(&config, &vm) || quire_vcpu_create(vm, 0, NULL, &vcpu) ||
	    quire_vm_set_region(vm, &region) || run(vcpu) ||
	    quire_vm_get_dirty_log(vm, 0, print_dirty, NULL))
		return 1;
	say("mapped pages", quire_vm_stat(vm, QUIRE_VM_STAT_pages_4k));
	quire_vcpu_destroy(vcpu);
	quire_vm_put(vm);
	release(memory, 64 * QUIRE_PAGE_SIZE);
	return 0;
}
