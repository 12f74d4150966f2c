/* KVM_LINK_GUEST_MEMFD as it was posted: a second file of the same pages, for another VM. The
 * parameter quire_gmem_link switches it on; a KVM without it skips. */
#include <fcntl.h>
#include <linux/falloc.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client.h"

#define GPA 0x10000000ul
#define OTHER_GPA 0x30000000ul
#define PAGES 8ul
#define BYTES (PAGES * PAGE)
#define SLOT 5
#define SHARED (GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED)
#define KEEP FALLOC_FL_KEEP_SIZE
#define PUNCH (FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE)

static struct vm vm, other;
static struct vcpu vcpu, other_vcpu;
static int file, linked;

static void parameter_set(const char *value)
{
	int parameter = open("/sys/module/kvm/parameters/quire_gmem_link", O_WRONLY);

	if (parameter < 0)
		check_skip("no links of guest_memfd");
	CHECK_EQ(write(parameter, value, 1), 1);
	close(parameter);
}

static int link_file(const struct vm *to, uint64_t fd, uint64_t flags)
{
	struct kvm_link_guest_memfd request = {.fd = fd, .flags = flags};

	memset(request.reserved, 0xff, sizeof(request.reserved));
	return ioctl(to->fd, KVM_LINK_GUEST_MEMFD, &request);
}

static void show(struct vm *at, int fd, uint64_t gpa, unsigned long type)
{
	CHECK_ZERO(REGION(at, .slot = SLOT, .flags = KVM_MEM_GUEST_MEMFD, .guest_phys_addr = gpa,
			  .memory_size = BYTES,
			  .userspace_addr = (uintptr_t)memory_alloc(HUGE_PAGE),
			  .guest_memfd = (uint32_t)fd));
	if (type == KVM_X86_SW_PROTECTED_VM)
		CHECK_ZERO(vm_set_attributes(at, gpa, BYTES, KVM_MEMORY_ATTRIBUTE_PRIVATE));
}

static void open_vms(unsigned long type, uint64_t flags)
{
	machine_open(&vm, &vcpu, type);
	machine_open(&other, &other_vcpu, type);
	if (!vm_cap(&vm, KVM_CAP_GUEST_MEMFD))
		check_skip("no guest_memfd");
	if (flags & ~(uint64_t)vm_cap(&vm, KVM_CAP_GUEST_MEMFD_FLAGS))
		check_skip("no mapping of guest_memfd");
	parameter_set("Y");
	file = (int)CHECK_OK(vm_gmem(&vm, BYTES, flags));
}

/* Both VMs show the pages, each through its own file. */
static void open_linked(unsigned long type, uint64_t flags)
{
	open_vms(type, flags);
	linked = (int)CHECK_OK(link_file(&other, (uint64_t)file, 0));
	show(&vm, file, GPA, type);
	show(&other, linked, OTHER_GPA, type);
}

static void unknown_while_it_is_off(void)
{
	open_vms(KVM_X86_DEFAULT_VM, 0);
	parameter_set("N");
	REFUSED(&other, link_file(&other, (uint64_t)file, 0), ENOTTY);
	CHECK_ERR(ioctl(other.fd, KVM_LINK_GUEST_MEMFD, NULL), ENOTTY);
	parameter_set("Y");
	CHECK_OK(link_file(&other, (uint64_t)file, 0));
}

static void what_is_refused(void)
{
	struct rlimit none = {0, 0};
	int plain;

	open_vms(KVM_X86_DEFAULT_VM, 0);
	REFUSED(&other, ioctl(other.fd, KVM_LINK_GUEST_MEMFD, NULL), EFAULT);
	for (unsigned int bit = 0; bit < 64; bit++)
		REFUSED(&other, link_file(&other, (uint64_t)file, 1ul << bit), EINVAL);
	REFUSED(&other, link_file(&other, 1000, 0), EINVAL);
	REFUSED(&other, link_file(&other, 0, 0), EINVAL);
	REFUSED(&other, link_file(&other, (uint64_t)vm.fd, 0), EINVAL);
	plain = memfd_create("plain", 0);
	REFUSED(&other, link_file(&other, (uint64_t)plain, 0), EINVAL);
	REFUSED(&vm, link_file(&vm, (uint64_t)file, 0), EINVAL);
	CHECK_ZERO(getrlimit(RLIMIT_NOFILE, &none));
	none.rlim_cur = 3;
	CHECK_ZERO(setrlimit(RLIMIT_NOFILE, &none));
	CHECK_ERR(link_file(&vm, (uint64_t)file, 0), EINVAL);
	CHECK_ERR(link_file(&other, (uint64_t)file, 0), EMFILE);
}

static void the_descriptor(void)
{
	char path[64], name[128] = {0};

	open_vms(KVM_X86_DEFAULT_VM, 0);
	linked = (int)CHECK_OK(link_file(&other, (uint64_t)file, 0));
	CHECK(linked != file);
	CHECK_EQ(fcntl(linked, F_GETFL) & O_ACCMODE, O_RDWR);
	CHECK_EQ(fcntl(linked, F_GETFD), 0);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", linked);
	CHECK_OK(readlink(path, name, sizeof(name) - 1));
	CHECK(strstr(name, "[kvm-gmem]"));
	CHECK_ERR(ftruncate(linked, 0), EINVAL);
}

static int is_later(struct timespec a, struct timespec b)
{
	return a.tv_sec != b.tv_sec ? a.tv_sec > b.tv_sec : a.tv_nsec > b.tv_nsec;
}

/* What both descriptors say; they are of one inode. */
static struct stat status_of_both(void)
{
	struct stat first, second;

	usleep(20000);
	CHECK_ZERO(fstat(file, &first));
	CHECK_ZERO(fstat(linked, &second));
	CHECK_EQ(first.st_ino, second.st_ino);
	CHECK_EQ(first.st_dev, second.st_dev);
	CHECK_EQ(first.st_nlink, second.st_nlink);
	CHECK_EQ(second.st_size, BYTES);
	CHECK_EQ(first.st_mode, second.st_mode);
	CHECK(!is_later(first.st_mtim, second.st_mtim) && !is_later(second.st_mtim, first.st_mtim));
	CHECK(!is_later(first.st_ctim, second.st_ctim) && !is_later(second.st_ctim, first.st_ctim));
	CHECK(!is_later(first.st_atim, second.st_atim) && !is_later(second.st_atim, first.st_atim));
	return first;
}

static void one_inode(void)
{
	struct stat alone, before, after;

	open_vms(KVM_X86_DEFAULT_VM, 0);
	CHECK_ZERO(fstat(file, &alone));
	CHECK_EQ(alone.st_nlink, 1);
	usleep(20000);
	linked = (int)CHECK_OK(link_file(&other, (uint64_t)file, 0));
	before = status_of_both();
	CHECK_EQ(before.st_ino, alone.st_ino);
	CHECK_EQ(before.st_nlink, 2);
	CHECK(is_later(before.st_ctim, alone.st_ctim));
	CHECK(!is_later(before.st_mtim, alone.st_mtim));
	CHECK_ERR(fallocate(linked, KEEP, BYTES, PAGE), EINVAL);
	after = status_of_both();
	CHECK(!is_later(after.st_mtim, before.st_mtim));
	CHECK_ZERO(fallocate(linked, KEEP, 0, PAGE));
	after = status_of_both();
	CHECK(is_later(after.st_mtim, before.st_mtim) && is_later(after.st_ctim, before.st_ctim));
	before = after;
	CHECK_ZERO(fallocate(file, PUNCH, 0, PAGE));
	after = status_of_both();
	CHECK(is_later(after.st_mtim, before.st_mtim));
	/* A name more for each link, and none less at a close. */
	close((int)CHECK_OK(link_file(&other, (uint64_t)file, 0)));
	CHECK_EQ(status_of_both().st_nlink, 3);
}

/* Each file binds in its own VM. */
static void bindings_of_their_own(void)
{
	open_linked(KVM_X86_DEFAULT_VM, 0);
	REFUSED(&vm,
		REGION(&vm, .slot = 6, .flags = KVM_MEM_GUEST_MEMFD, .guest_phys_addr = 2 * GPA,
		       .memory_size = PAGE, .userspace_addr = (uintptr_t)memory_alloc(PAGE),
		       .guest_memfd = (uint32_t)linked),
		EINVAL);
	REFUSED(&other,
		REGION(&other, .slot = 6, .flags = KVM_MEM_GUEST_MEMFD, .guest_phys_addr = 2 * GPA,
		       .memory_size = PAGE, .userspace_addr = (uintptr_t)memory_alloc(PAGE),
		       .guest_memfd = (uint32_t)file),
		EINVAL);
}

/* What one guest stores the other loads; a punch by either file reaches both. */
static void one_memory(unsigned long type, uint64_t flags)
{
	open_linked(type, flags);
	for (uint64_t page = 0; page < PAGES; page++)
		guest_store(page % 2 ? &vcpu : &other_vcpu,
			    (page % 2 ? GPA : OTHER_GPA) + page * PAGE, page + 1);
	for (uint64_t page = 0; page < PAGES; page++) {
		CHECK_EQ(guest_load(&vcpu, GPA + page * PAGE), page + 1);
		CHECK_EQ(guest_load(&other_vcpu, OTHER_GPA + page * PAGE), page + 1);
	}
	CHECK_ZERO(fallocate(linked, PUNCH, 0, PAGE));
	CHECK_ZERO(fallocate(file, PUNCH, PAGE, PAGE));
	for (uint64_t page = 0; page < PAGES; page++) {
		CHECK_EQ(guest_load(&vcpu, GPA + page * PAGE), page < 2 ? 0 : page + 1);
		CHECK_EQ(guest_load(&other_vcpu, OTHER_GPA + page * PAGE), page < 2 ? 0 : page + 1);
	}
}

static void one_private_memory(void)
{
	one_memory(KVM_X86_SW_PROTECTED_VM, 0);
}

static void one_shared_memory(void)
{
	one_memory(KVM_X86_DEFAULT_VM, SHARED);
}

/* A conversion is the VM's that makes it. */
static void conversions_are_apart(void)
{
	open_linked(KVM_X86_SW_PROTECTED_VM, 0);
	guest_store(&vcpu, GPA, 7);
	CHECK_ZERO(vm_set_attributes(&vm, GPA, PAGE, 0));
	CHECK_EQ(guest_load(&vcpu, GPA), 0);
	CHECK_EQ(guest_load(&other_vcpu, OTHER_GPA), 7);
	CHECK_ZERO(vm_set_attributes(&vm, GPA, PAGE, KVM_MEMORY_ATTRIBUTE_PRIVATE));
	CHECK_EQ(guest_load(&vcpu, GPA), 7);
}

/* The first file and its VM go: the pages live until the last file is closed. */
static void the_first_goes(unsigned long type, uint64_t flags)
{
	open_linked(type, flags);
	guest_store(&vcpu, GPA, 7);
	close(file);
	CHECK_END(guest_try_load(&vcpu, GPA), END_MEMORY_FAULT);
	CHECK_EQ(guest_load(&other_vcpu, OTHER_GPA), 7);
	close(vcpu.fd);
	close(vm.fd);
	CHECK_EQ(guest_load(&other_vcpu, OTHER_GPA), 7);
	guest_store(&other_vcpu, OTHER_GPA + PAGE, 8);
	CHECK_ZERO(fallocate(linked, PUNCH, 0, PAGE));
	CHECK_EQ(guest_load(&other_vcpu, OTHER_GPA), 0);
	CHECK_EQ(guest_load(&other_vcpu, OTHER_GPA + PAGE), 8);
	close(linked);
	CHECK_END(guest_try_load(&other_vcpu, OTHER_GPA), END_MEMORY_FAULT);
}

static void the_first_private_file_goes(void)
{
	the_first_goes(KVM_X86_SW_PROTECTED_VM, 0);
}

static void the_first_shared_file_goes(void)
{
	the_first_goes(KVM_X86_DEFAULT_VM, SHARED);
}

static void the_second_goes(void)
{
	open_linked(KVM_X86_SW_PROTECTED_VM, 0);
	guest_store(&other_vcpu, OTHER_GPA, 7);
	close(linked);
	CHECK_END(guest_try_load(&other_vcpu, OTHER_GPA), END_MEMORY_FAULT);
	CHECK_EQ(guest_load(&vcpu, GPA), 7);
	/* And comes again. */
	linked = (int)CHECK_OK(link_file(&other, (uint64_t)file, 0));
	CHECK_ZERO(REGION(&other, .slot = SLOT));
	show(&other, linked, OTHER_GPA, KVM_X86_SW_PROTECTED_VM);
	CHECK_EQ(guest_load(&other_vcpu, OTHER_GPA), 7);
}

static uint8_t *map(int fd)
{
	uint8_t *memory = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	CHECK(memory != MAP_FAILED);
	return memory;
}

/* Mappings through either descriptor are of the same pages. */
static void mappings(void)
{
	uint8_t *first, *second;

	open_linked(KVM_X86_DEFAULT_VM, SHARED);
	first = map(file);
	second = map(linked);
	*word_at(first, 0) = 5;
	*word_at(second, PAGE) = 6;
	CHECK_EQ(*word_at(second, 0), 5);
	CHECK_EQ(guest_load(&other_vcpu, OTHER_GPA), 5);
	CHECK_EQ(guest_load(&vcpu, GPA + PAGE), 6);
	CHECK_ZERO(fallocate(file, PUNCH, 0, PAGE));
	CHECK_EQ(*word_at(second, 0), 0);
	close(file);
	*word_at(second, 0) = 9;
	CHECK_EQ(guest_load(&other_vcpu, OTHER_GPA), 9);
	CHECK_EQ(*word_at(map(linked), 0), 9);
	CHECK_ERR((intptr_t)mmap(NULL, BYTES, PROT_READ, MAP_PRIVATE, linked, 0), EINVAL);
}

static void flags_are_the_inodes(void)
{
	open_vms(KVM_X86_DEFAULT_VM, 0);
	linked = (int)CHECK_OK(link_file(&other, (uint64_t)file, 0));
	CHECK_ERR((intptr_t)mmap(NULL, BYTES, PROT_READ, MAP_SHARED, linked, 0), ENODEV);
	if (!(vm_cap(&vm, KVM_CAP_GUEST_MEMFD_FLAGS) & GUEST_MEMFD_FLAG_MMAP))
		return;
	file = (int)CHECK_OK(vm_gmem(&vm, BYTES, GUEST_MEMFD_FLAG_MMAP));
	linked = (int)CHECK_OK(link_file(&other, (uint64_t)file, 0));
	CHECK_EQ(touch_byte(map(linked)).number, SIGBUS);
}

/* A child has the descriptors, and asks the maker for what it does with them. */
static void a_child(void)
{
	int status;
	pid_t child;

	open_linked(KVM_X86_SW_PROTECTED_VM, 0);
	guest_store(&vcpu, GPA, 7);
	child = fork();
	if (!child)
		_exit(fallocate(linked, PUNCH, 0, PAGE) ? 1 : 0);
	CHECK_OK(child);
	CHECK_EQ(waitpid(child, &status, 0), child);
	CHECK_EQ(status, 0);
	CHECK_EQ(guest_load(&vcpu, GPA), 0);
	CHECK_EQ(guest_load(&other_vcpu, OTHER_GPA), 0);
}

int main(int argc, char **argv)
{
	static const struct check_test tests[] = {
	    TEST(unknown_while_it_is_off),
	    TEST(what_is_refused),
	    TEST(the_descriptor),
	    TEST(one_inode),
	    TEST(bindings_of_their_own),
	    TEST(one_private_memory),
	    TEST(one_shared_memory),
	    TEST(conversions_are_apart),
	    TEST(the_first_private_file_goes),
	    TEST(the_first_shared_file_goes),
	    TEST(the_second_goes),
	    TEST(mappings),
	    TEST(flags_are_the_inodes),
	    TEST(a_child),
	};

	return check_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
