/*
 * The instruction decoder comes with the first use of KVM, from beside the library. A client that
 * goes into an empty root first, and opens /dev/kvm there, has all that it needs.
 * usage: test_decoder FOLDER [root]
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

/* The path of the decoder's mapping. 0: there is none. */
static int find_decoder(char path[4096])
{
	FILE *maps = fopen("/proc/self/maps", "r");
	char line[4400];
	int found = 0;

	while (maps && !found && fgets(line, sizeof(line), maps))
		if (strstr(line, "/libZydis")) {
			line[strcspn(line, "\n")] = '\0';
			found = 1;
			snprintf(path, 4096, "%s", strchr(line, '/'));
		}
	if (maps)
		fclose(maps);
	return found;
}

static int fail(const char *what)
{
	printf("FAILED: %s (%s)\n", what, strerror(errno));
	return 1;
}

/* Nothing is in the new root but a node of the device, as in a jail of Firecracker's. */
static int enter_root(void)
{
	char folder[] = "/tmp/quire-decoder.XXXXXX";

	if (!mkdtemp(folder) || chdir(folder) || mkdir("dev", 0755) ||
	    mknod("dev/kvm", S_IFCHR | 0666, makedev(10, 232)))
		return fail("a new root");
	if (chroot("."))
		return fail("chroot");
	/* A jail closes what it does not know, and does not find ours. */
	close_range(3, ~0u, 0);
	return 0;
}

/* A guest that says its word and stops: code, a register and memory, by a CPU that decodes. */
static int run_guest(int kvm)
{
	struct kvm_userspace_memory_region region = {.memory_size = 4096};
	static const unsigned char code[] = {0xb0, 0x2a, 0xe6, 0x10}; /* mov al, 42; out 16, al */
	unsigned char *memory =
	    mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct kvm_regs registers = {.rflags = 2};
	struct kvm_sregs special;
	struct kvm_run *run;
	int vm = ioctl(kvm, KVM_CREATE_VM, 0), vcpu;

	if (vm < 0)
		return fail("KVM_CREATE_VM");
	memcpy(memory, code, sizeof(code));
	region.userspace_addr = (unsigned long)memory;
	if (ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region))
		return fail("KVM_SET_USER_MEMORY_REGION");
	vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	if (vcpu < 0)
		return fail("KVM_CREATE_VCPU");
	run = mmap(NULL, (size_t)ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), PROT_READ | PROT_WRITE,
		   MAP_SHARED, vcpu, 0);
	if (run == MAP_FAILED || ioctl(vcpu, KVM_GET_SREGS, &special))
		return fail("the vCPU");
	special.cs.base = special.cs.selector = 0;
	if (ioctl(vcpu, KVM_SET_SREGS, &special) || ioctl(vcpu, KVM_SET_REGS, &registers) ||
	    ioctl(vcpu, KVM_RUN, 0))
		return fail("KVM_RUN");
	return run->exit_reason != KVM_EXIT_IO ||
	       ((unsigned char *)run)[run->io.data_offset] != 0x2a;
}

int main(int argc, char **argv)
{
	char path[4096] = "", folder[4096];
	int kvm, is_in_root = argc > 2;

	if (argc < 2 || !realpath(argv[1], folder))
		return fail("usage");
	if (find_decoder(path))
		return fail("it is there before KVM is used");
	if (is_in_root && enter_root())
		return 1;
	kvm = open("/dev/kvm", O_RDWR);
	if (kvm < 0)
		return fail("open of /dev/kvm");
	if (run_guest(kvm))
		return fail("the guest");
	/* Part of the library where Zydis is static. In the root, there is no /proc to ask. */
	if (find_decoder(path) && strncmp(path, folder, strlen(folder))) {
		printf("FAILED: the decoder is %s, not in %s\n", path, folder);
		return 1;
	}
	return 0;
}
