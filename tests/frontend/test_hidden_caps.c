/* Capabilities that kvm.quire_hide_caps takes from clients; the others stay. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>

#include "check.h"
#include "frontend/uapi.h"

int main(void)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC), vm = ioctl(kvm, KVM_CREATE_VM, 0);
	struct kvm_enable_cap ring = {.cap = KVM_CAP_DIRTY_LOG_RING, .args = {4096}};
	struct kvm_enable_cap clear = {.cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, .args = {1}};
	struct kvm_enable_cap exits = {.cap = KVM_CAP_X86_DISABLE_EXITS, .args = {1}};

	/* By number, by name, and by KVM's whole name in another case. */
	CHECK(!ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_DIRTY_LOG_RING), "a ring");
	CHECK(!ioctl(vm, KVM_CHECK_EXTENSION, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2), "CLEAR");
	CHECK(!ioctl(vm, KVM_CHECK_EXTENSION, KVM_CAP_NESTED_STATE), "nested state");
	CHECK(ioctl(vm, KVM_CHECK_EXTENSION, KVM_CAP_SREGS2) == 1, "SREGS2 is gone, too");
	FAILS(ioctl(vm, KVM_ENABLE_CAP, &ring), EINVAL);
	FAILS(ioctl(vm, KVM_ENABLE_CAP, &clear), EINVAL);
	WORKS(ioctl(vm, KVM_ENABLE_CAP, &exits));
	printf("%d failures\n", check_failures);
	return check_failures != 0;
}
