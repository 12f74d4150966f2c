/* quire/vm.h: a VM, a memory slot, and the hypervisor's own access to the guest's memory. */
#include <quire/vm.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "example.h"

static int create(struct example *example, const struct quire_vm_config *config, uint32_t flags)
{
	struct quire_region region = {
	    .flags = flags,
	    .gpa = {EXAMPLE_GPA},
	    .size_bytes = EXAMPLE_PAGES * QUIRE_PAGE_SIZE,
	};
	int result;

	example->memory = aligned_alloc(QUIRE_PAGE_SIZE, region.size_bytes);
	if (!example->memory)
		return -ENOMEM;
	memset(example->memory, 0, region.size_bytes);
	region.hva.v = (uintptr_t)example->memory;
	result = quire_vm_create(config, &example->vm);
	if (result)
		goto free_memory;
	result = quire_vcpu_create(example->vm, 0, NULL, &example->vcpu);
	if (result)
		goto put_vm;
	result = quire_vm_set_region(example->vm, &region);
	if (result)
		goto destroy_vcpu;
	return 0;

destroy_vcpu:
	quire_vcpu_destroy(example->vcpu);
put_vm:
	quire_vm_put(example->vm);
free_memory:
	free(example->memory);
	return result;
}

static struct quire_vm_config config_of(enum quire_vm_type type)
{
	return (struct quire_vm_config){
	    .type = type,
	    .format = QUIRE_FORMAT_NPT,
	    .maxphyaddr = 48,
	    .mmio_caching = 1,
	    .host = &example_host,
	};
}

int example_create(struct example *example, enum quire_vm_type type, uint32_t flags)
{
	struct quire_vm_config config = config_of(type);

	return create(example, &config, flags);
}

int example_create_confidential(struct example *example, const struct quire_confidential_ops *ops,
				void *ctx)
{
	struct quire_vm_config config = config_of(QUIRE_VM_SW_PROTECTED);

	config.confidential = ops;
	config.confidential_ctx = ctx;
	return create(example, &config, 0);
}

void example_destroy(struct example *example)
{
	quire_vcpu_destroy(example->vcpu);
	quire_vm_put(example->vm);
	free(example->memory);
}

void example_vm(void)
{
	struct quire_region overlapping = {
	    .slot = 1,
	    .gpa = {EXAMPLE_GPA},
	    .size_bytes = QUIRE_PAGE_SIZE,
	};
	struct example example;
	char text[6] = "";

	EXAMPLE_CHECK(example_create(&example, QUIRE_VM_DEFAULT, 0) == 0);
	EXAMPLE_CHECK(quire_vm_write(example.vm, (gpa_t){EXAMPLE_GPA + 8}, "hello", 6) == 0);
	EXAMPLE_CHECK(strcmp((char *)example.memory + 8, "hello") == 0);
	EXAMPLE_CHECK(quire_vm_read(example.vm, (gpa_t){EXAMPLE_GPA + 8}, text, 6) == 0);
	EXAMPLE_CHECK(strcmp(text, "hello") == 0);

	/* Slots do not overlap, and what is refused changes nothing. */
	EXAMPLE_CHECK(quire_vm_set_region(example.vm, &overlapping) == -EEXIST);
	EXAMPLE_CHECK(quire_vm_read(example.vm, (gpa_t){0}, text, 6) == -EFAULT);
	example_destroy(&example);
}
