/* The start of a VM. */
#include <errno.h>

#include "src/base/platform.h"
#include "src/change/change.h"
#include "src/gmem/rmp.h"

int quire_vm_create(const struct quire_vm_config *config, struct quire_vm **result)
{
	struct quire_vm *vm;
	int err;

	if (!config || !config->host || !result)
		return -EINVAL;
	err = base_platform ? vm_make(config, &vm) : -ENXIO;
	if (err)
		return err;
	CHECK(vm->refs == 1 && !vm->vcpus);
	if (vm_has_private_mem(vm)) {
		err = rmp_join(vm, &vm->rmp);
		if (err) {
			config->host->free(config->host_ctx, vm, sizeof(*vm));
			return err;
		}
		vm->gmem_arch = &vm->rmp->arch;
	}
	CHECK(!vm->gmem_arch == !vm_has_private_mem(vm));
	*result = vm;
	return 0;
}

/* The reverse map is the process's: the child's VMs are those that it makes. */
void quire_platform_forked(void)
{
	rmp_start_anew();
}
