/* A machine whose library is a fake that maps all RAM. */
#include <string.h>

#include "tests/unit/vcpu/fake_vcpu.h"
#include "tests/unit/vcpu/machine.h"

void machines_start(void)
{
	fake_signals_install();
}

void machine_create(struct machine *machine)
{
	struct quire_vcpu *vcpu = fake_vcpu_create(fake_vm_create());

	*machine = (struct machine){
	    .cpu = vcpu->cpu, .ram = vcpu->vm->ram, .has_keys = 1, .private = vcpu};
}

void machine_destroy(struct machine *machine)
{
	(void)fake_vcpu_teardown(&machine->private);
}

void machine_write(struct machine *machine, uint64_t gpa, const void *bytes, size_t size_bytes)
{
	memcpy(machine->ram + gpa, bytes, size_bytes);
}
