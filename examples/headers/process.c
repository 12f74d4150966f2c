/*
 * quire/process.h: a program of its own whose VM has this process's memory. C11 as well as C++17.
 *
 *   cc process.c $(pkg-config --cflags --libs quire-process)
 */
#define _DEFAULT_SOURCE 1 /* MAP_ANONYMOUS */
#include <quire/process.h>

#include <errno.h>
#include <quire/format.h>
#include <quire/gmem.h>
#include <quire/vcpu.h>
#include <quire/vm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define MEMORY_GPA UINT64_C(0x100000)
#define PRIVATE_GPA UINT64_C(0x40000000)
#define SIZE_BYTES (16 * QUIRE_PAGE_SIZE)

#define CHECK(condition) check((condition) != 0, #condition)

static void check(int truth, const char *condition)
{
	if (truth)
		return;
	fprintf(stderr, "example: not so: %s\n", condition);
	exit(1);
}

/* The guest stores @value at @address: 0, or why it could not. */
static int guest_stores(struct quire_vcpu *vcpu, uint64_t address, uint64_t value)
{
	struct quire_memory_fault fault;
	struct quire_translation found;
	struct quire_stage2 stage2;
	uint64_t requests;
	gpa_t gpa = {address};
	int result;

	do {
		result = quire_vcpu_enter(vcpu, &requests, &stage2);
		if (result)
			return result;
		if (quire_walk(&stage2, gpa, QUIRE_PFERR_WRITE, &found)) {
			result = quire_process_store(found.address, &value, sizeof(value));
			quire_vcpu_leave(vcpu);
			/* A page that went meanwhile is a fault like any other. */
			if (!result)
				return 0;
		} else {
			quire_vcpu_leave(vcpu);
		}
		result = quire_vcpu_fault(vcpu, gpa, found.error_code, &fault);
	} while (result > 0 && result != QUIRE_EMULATE);
	return result;
}

/* The process's own memory, and what happens when a page of it goes. */
static void example_shared(struct quire_vm *vm, struct quire_vcpu *vcpu)
{
	uint8_t *memory = (uint8_t *)mmap(NULL, SIZE_BYTES, PROT_READ | PROT_WRITE,
					  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct quire_region region;
	hva_t page, end;
	uint64_t value;

	CHECK(memory != MAP_FAILED);
	quire_process_mappings_changed();
	memset(&region, 0, sizeof(region));
	region.gpa.v = MEMORY_GPA;
	region.size_bytes = SIZE_BYTES;
	region.hva.v = (uintptr_t)memory;
	CHECK(quire_vm_set_region(vm, &region) == 0);
	CHECK(guest_stores(vcpu, MEMORY_GPA + 0x2008, 42) == 0);
	memcpy(&value, memory + 0x2008, sizeof(value));
	CHECK(value == 42);
	CHECK(guest_stores(vcpu, 0, 42) == QUIRE_EMULATE);

	page.v = (uintptr_t)memory + 0x2000;
	end.v = page.v + QUIRE_PAGE_SIZE;
	quire_vm_host_invalidate_begin(vm, page, end);
	CHECK(munmap(memory + 0x2000, QUIRE_PAGE_SIZE) == 0);
	quire_process_mappings_changed();
	quire_vm_host_invalidate_end(vm, page, end);
	CHECK(guest_stores(vcpu, MEMORY_GPA + 0x2008, 43) == -EFAULT);
	CHECK(guest_stores(vcpu, MEMORY_GPA + 0x3000, 44) == 0);
	CHECK(quire_process_load(page.v, &value, sizeof(value)) == -EFAULT);
}

/* Memory that is the guest's alone. */
static void example_private(struct quire_vm *vm, struct quire_vcpu *vcpu)
{
	struct quire_region region;
	struct quire_gmem *gmem;
	void *cookie;
	gpa_t gpa = {PRIVATE_GPA};

	CHECK(quire_process_memory_create(1, &cookie) == -EINVAL);
	CHECK(quire_process_memory_create(SIZE_BYTES, &cookie) == 0);
	CHECK(quire_gmem_create(vm, SIZE_BYTES, 0, cookie, &gmem) == 0);
	memset(&region, 0, sizeof(region));
	region.slot = 1;
	region.flags = QUIRE_SLOT_GMEM;
	region.gpa = gpa;
	region.size_bytes = SIZE_BYTES;
	region.gmem = gmem;
	CHECK(quire_vm_set_region(vm, &region) == 0);
	CHECK(quire_vm_set_attributes(vm, gpa, SIZE_BYTES, QUIRE_ATTRIBUTE_PRIVATE) == 0);
	CHECK(guest_stores(vcpu, PRIVATE_GPA + 0x1000, 7) == 0);
	CHECK(quire_gmem_punch(gmem, 0, SIZE_BYTES) == 0);
	CHECK(guest_stores(vcpu, PRIVATE_GPA + 0x1000, 8) == 0);
	quire_gmem_release(gmem);
	CHECK(guest_stores(vcpu, PRIVATE_GPA + 0x1000, 9) == -EFAULT);
}

/* The same in a huge page, where the machine's pool has one. */
static void example_huge(struct quire_vm *vm)
{
	const uint64_t bytes = UINT64_C(1) << 21;
	const uint64_t flags = QUIRE_GMEM_HUGETLB | UINT64_C(21) << QUIRE_GMEM_HUGE_SHIFT;
	struct quire_gmem *gmem;
	void *cookie;
	int error;

	CHECK(quire_process_memory_create_huge(bytes, 4096, &cookie) == -EINVAL);
	CHECK(quire_process_memory_create_huge(0, UINT64_C(1) << 40, &cookie) == -EINVAL);
	CHECK(quire_process_memory_create_huge(bytes + 4096, bytes, &cookie) == -EINVAL);
	CHECK(quire_process_memory_create(bytes, &cookie) == 0);
	CHECK(quire_gmem_create(vm, bytes, flags, cookie, &gmem) == -EINVAL);
	quire_process_memory_free(cookie);
	error = quire_process_memory_create_huge(bytes, bytes, &cookie);
	CHECK(error == 0 || error == -ENOMEM);
	if (error)
		return;
	CHECK(quire_gmem_create(vm, bytes, 0, cookie, &gmem) == -EINVAL);
	CHECK(quire_gmem_create(vm, bytes, flags, cookie, &gmem) == 0);
	quire_gmem_release(gmem);
}

int main(void)
{
	static struct quire_process_vm memory;
	static struct quire_process_vcpu runner;
	struct quire_vm_config config;
	struct quire_vcpu *vcpu;
	struct quire_vm *vm;

	CHECK(quire_process_start() == 0);
	memset(&config, 0, sizeof(config));
	config.type = QUIRE_VM_SW_PROTECTED;
	config.maxphyaddr = 48;
	config.host = quire_process_host();
	config.host_ctx = &memory;
	CHECK(quire_vm_create(&config, &vm) == 0);
	CHECK(quire_vcpu_create(vm, 0, &runner, &vcpu) == 0);
	quire_process_vcpu_begin(&runner);
	example_shared(vm, vcpu);
	example_private(vm, vcpu);
	example_huge(vm);
	quire_process_vcpu_end(&runner);
	quire_vcpu_destroy(vcpu);
	quire_vm_put(vm);
	CHECK(memory.pinned_pages == 0);
	printf("a VM of this process's own memory did what it should\n");
	return 0;
}
