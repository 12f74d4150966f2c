/* kvm.quire_lockstep=Y: a VM has one vCPU, as KVM_CAP_MAX_VCPUS says. */
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "check.h"
#include "frontend/uapi.h"

int main(void)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC), vm = ioctl(kvm, KVM_CREATE_VM, 0), other;

	CHECK(ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_MAX_VCPUS) == 1, "the most");
	CHECK(ioctl(vm, KVM_CHECK_EXTENSION, KVM_CAP_NR_VCPUS) == 1, "what is recommended");
	WORKS(ioctl(vm, KVM_CREATE_VCPU, 3));
	FAILS(ioctl(vm, KVM_CREATE_VCPU, 0), EINVAL);
	other = ioctl(kvm, KVM_CREATE_VM, 0);
	WORKS(ioctl(other, KVM_CREATE_VCPU, 0));
	printf("%d failures\n", check_failures);
	return check_failures != 0;
}
