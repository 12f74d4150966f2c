/*
 * Runs programs that were written for two memories of a page, the client's shared one and the
 * private one of a guest_memfd, on conversion in place. Preloaded before the program's KVM:
 *
 *   - a guest_memfd may be mapped, and is at the slot's address: there is one memory;
 *   - attributes go to the file, when the VM has refused them;
 *   - what the program reads of a page that is private must raise SIGBUS. Then it sees there what
 *     the page held when it became private, for that is what its shared memory would hold;
 *   - a punch is of private pages, as the program means it;
 *   - where the slot of a private page goes, the page is shared: the access is MMIO's. The program
 *     is told of the memory fault that it waits for.
 *
 * Private memory without a file is nothing here, so the program ends where it asks for that. A
 * program that came across none of this fails: it tested nothing.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "frontend/uapi.h"

#define PAGE 4096ul
#define FILES 64
#define SLOTS 256
#define VCPUS 1024
#define OURS __attribute__((visibility("default")))

/* By its inode: a program has several descriptors of one. */
struct memory_file {
	ino_t inode;
	uint8_t *is_private; /* a byte a page; NULL: free */
};

struct slot {
	int vm, fd; /* fd: ours */
	uint32_t id;
	uint64_t gpa, size_bytes, offset_bytes;
	uint8_t *address, *kept; /* kept: what pages held when they became private */
	struct memory_file *file;
	bool is_live, was_live;
};

static struct memory_file files[FILES];
static struct slot slots[SLOTS];
static struct kvm_run *runs[VCPUS]; /* by descriptor */
static bool is_vcpu[VCPUS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct sigaction programs; /* its own action on SIGBUS */
static unsigned long conversions, hidden, gone;

static int (*next_ioctl)(int fd, unsigned long request, ...);
static void *(*next_mmap)(void *address, size_t size, int rights, int flags, int fd, off_t offset);
static int (*next_fallocate)(int fd, int mode, off_t offset, off_t size);

static _Noreturn void fail(const char *what)
{
	fprintf(stderr, "in_place: %s (errno %d)\n", what, errno);
	_exit(99);
}

/* Constructors before ours map memory, too. */
static void resolve(void)
{
	if (next_fallocate)
		return;
	*(void **)&next_ioctl = dlsym(RTLD_NEXT, "ioctl");
	*(void **)&next_mmap = dlsym(RTLD_NEXT, "mmap");
	*(void **)&next_fallocate = dlsym(RTLD_NEXT, "fallocate");
	if (!next_ioctl || !next_mmap || !next_fallocate)
		fail("no functions to stand before");
}

static struct memory_file *file_find(int fd)
{
	struct stat facts;

	if (fstat(fd, &facts))
		fail("a guest_memfd without facts");
	for (struct memory_file *file = files; file < files + FILES; file++)
		if (file->is_private && file->inode == facts.st_ino)
			return file;
	return NULL;
}

static bool page_is_private(const struct slot *slot, uint64_t offset_bytes)
{
	return slot->file->is_private[(slot->offset_bytes + offset_bytes) / PAGE];
}

/* The slot whose memory holds the address. */
static struct slot *slot_at(const uint8_t *address)
{
	for (struct slot *slot = slots; slot < slots + SLOTS; slot++)
		if (slot->is_live && address >= slot->address &&
		    address < slot->address + slot->size_bytes)
			return slot;
	return NULL;
}

/* Shows the program what its shared memory would hold. */
static void on_sigbus(int number, siginfo_t *info, void *context)
{
	uint8_t *page = (uint8_t *)((uintptr_t)info->si_addr & ~(PAGE - 1));
	const struct slot *slot = slot_at(page);

	(void)context;
	if (!slot || !page_is_private(slot, (uint64_t)(page - slot->address))) {
		programs.sa_handler(number);
		return;
	}
	if (next_mmap(page, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
		      -1, 0) == MAP_FAILED)
		fail("no memory in the place of a private page");
	memcpy(page, slot->kept + (page - slot->address), PAGE);
	__atomic_add_fetch(&hidden, 1, __ATOMIC_RELAXED);
}

/* Before the program's own: it has installed that when it makes slots. */
static void install_handler(void)
{
	const struct sigaction action = {.sa_sigaction = on_sigbus,
					 .sa_flags = SA_SIGINFO | SA_NODEFER};
	struct sigaction before;

	if (sigaction(SIGBUS, &action, &before))
		fail("no handler");
	if (before.sa_sigaction == on_sigbus)
		return;
	if ((before.sa_flags & SA_SIGINFO) || before.sa_handler == SIG_DFL)
		fail("a program without a simple handler of SIGBUS");
	programs = before;
}

static void file_show(const struct slot *slot, uint64_t offset_bytes, uint64_t size_bytes)
{
	if (next_mmap(slot->address + offset_bytes, size_bytes, PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_FIXED, slot->fd,
		      (off_t)(slot->offset_bytes + offset_bytes)) == MAP_FAILED)
		fail("a guest_memfd that cannot be mapped");
}

static int file_create(int vm, struct kvm_create_guest_memfd *request)
{
	struct kvm_create_guest_memfd mine = *request;
	struct stat facts;
	int fd;

	mine.flags |= GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED;
	fd = next_ioctl(vm, KVM_CREATE_GUEST_MEMFD, &mine);
	if (fd < 0)
		return fd;
	for (struct memory_file *file = files; file < files + FILES; file++) {
		if (file->is_private)
			continue;
		if (fstat(fd, &facts))
			fail("a guest_memfd without facts");
		file->inode = facts.st_ino;
		file->is_private = calloc(mine.size / PAGE, 1);
		return fd;
	}
	fail("too many files");
}

static void slot_end(int vm, uint32_t id)
{
	for (struct slot *slot = slots; slot < slots + SLOTS; slot++)
		if (slot->is_live && slot->vm == vm && slot->id == id) {
			slot->is_live = false;
			slot->was_live = true;
			close(slot->fd);
		}
}

static void slot_begin(int vm, const struct kvm_userspace_memory_region2 *region)
{
	struct slot *slot = slots;

	while (slot < slots + SLOTS && (slot->is_live || slot->was_live))
		slot++;
	if (slot == slots + SLOTS)
		fail("too many slots");
	*slot = (struct slot){
	    .vm = vm,
	    .fd = fcntl((int)region->guest_memfd, F_DUPFD_CLOEXEC, 0),
	    .id = region->slot,
	    .gpa = region->guest_phys_addr,
	    .size_bytes = region->memory_size,
	    .offset_bytes = region->guest_memfd_offset,
	    .address = (uint8_t *)(uintptr_t)region->userspace_addr,
	    .kept = malloc(region->memory_size),
	    .file = file_find((int)region->guest_memfd),
	};
	if (slot->fd < 0 || !slot->kept || !slot->file)
		fail("a slot that cannot be followed");
	install_handler();
	file_show(slot, 0, slot->size_bytes);
	slot->is_live = true;
}

static int slot_set(int vm, struct kvm_userspace_memory_region2 *region)
{
	int result;

	/* A vCPU that finds the slot gone waits until that is noted. */
	pthread_mutex_lock(&lock);
	result = next_ioctl(vm, KVM_SET_USER_MEMORY_REGION2, region);
	if (!result && !region->memory_size)
		slot_end(vm, region->slot);
	else if (!result && (region->flags & KVM_MEM_GUEST_MEMFD))
		slot_begin(vm, region);
	pthread_mutex_unlock(&lock);
	return result;
}

/* The part of a slot, in pages that are whole. */
static void convert(struct slot *slot, uint64_t offset_bytes, uint64_t size_bytes, uint64_t wanted)
{
	struct kvm_memory_attributes2 request = {
	    .offset = slot->offset_bytes + offset_bytes,
	    .size = size_bytes,
	    .attributes = wanted,
	};
	uint64_t end = offset_bytes + size_bytes;

	for (uint64_t at = offset_bytes; wanted && at < end; at += PAGE)
		if (!page_is_private(slot, at))
			memcpy(slot->kept + at, slot->address + at, PAGE);
	if (next_ioctl(slot->fd, KVM_SET_MEMORY_ATTRIBUTES2, &request))
		fail("a conversion that was refused");
	memset(slot->file->is_private + request.offset / PAGE, wanted != 0, size_bytes / PAGE);
	if (!wanted)
		file_show(slot, offset_bytes, size_bytes);
	conversions++;
}

static int attributes_set(int vm, struct kvm_memory_attributes *request)
{
	uint64_t gpa = request->address, end = gpa + request->size, stop;

	if (request->attributes &&
	    (!next_ioctl(vm, KVM_SET_MEMORY_ATTRIBUTES, request) || errno != EINVAL))
		fail("a VM that knows attributes");
	pthread_mutex_lock(&lock);
	for (; gpa < end; gpa = stop) {
		struct slot *slot = slots;

		while (slot < slots + SLOTS &&
		       !(slot->is_live && slot->vm == vm && gpa >= slot->gpa &&
			 gpa < slot->gpa + slot->size_bytes))
			slot++;
		if (slot == slots + SLOTS) {
			printf("in_place: private memory without a file is nothing here\n");
			exit(0);
		}
		stop = slot->gpa + slot->size_bytes < end ? slot->gpa + slot->size_bytes : end;
		convert(slot, gpa - slot->gpa, stop - gpa, request->attributes);
	}
	pthread_mutex_unlock(&lock);
	return 0;
}

/* Is it the end of an access to a private page whose slot went? */
static bool is_gone(const struct kvm_run *run)
{
	uint64_t gpa = run->mmio.phys_addr;
	bool found = false;

	if (run->exit_reason != KVM_EXIT_MMIO)
		return false;
	pthread_mutex_lock(&lock);
	for (const struct slot *slot = slots; slot < slots + SLOTS; slot++)
		found |= slot->was_live && gpa >= slot->gpa && gpa < slot->gpa + slot->size_bytes &&
			 page_is_private(slot, gpa - slot->gpa);
	pthread_mutex_unlock(&lock);
	return found;
}

static int run_vcpu(int fd)
{
	struct uapi_memory_fault fault = {.flags = KVM_MEMORY_EXIT_FLAG_PRIVATE, .size = PAGE};
	struct kvm_run *run = fd < VCPUS ? runs[fd] : NULL;
	int result = next_ioctl(fd, KVM_RUN, 0);

	if (result || !run || !is_gone(run))
		return result;
	fault.gpa = run->mmio.phys_addr & ~(PAGE - 1);
	run->exit_reason = KVM_EXIT_MEMORY_FAULT;
	memcpy(&run->mmio, &fault, sizeof(fault));
	__atomic_add_fetch(&gone, 1, __ATOMIC_RELAXED);
	errno = EFAULT;
	return -1;
}

OURS int ioctl(int fd, unsigned long request, ...)
{
	va_list list;
	void *argument;
	int result;

	va_start(list, request);
	argument = va_arg(list, void *);
	va_end(list);
	resolve();
	switch (request) {
	case KVM_CREATE_GUEST_MEMFD:
		return file_create(fd, argument);
	case KVM_SET_USER_MEMORY_REGION2:
		return slot_set(fd, argument);
	case KVM_SET_MEMORY_ATTRIBUTES:
		return attributes_set(fd, argument);
	case KVM_RUN:
		return run_vcpu(fd);
	default:
		result = next_ioctl(fd, request, argument);
		if (request == KVM_CREATE_VCPU && result >= 0 && result < VCPUS)
			is_vcpu[result] = true;
		return result;
	}
}

OURS void *mmap(void *address, size_t size, int rights, int flags, int fd, off_t offset)
{
	void *mapped;

	resolve();
	mapped = next_mmap(address, size, rights, flags, fd, offset);
	if (mapped != MAP_FAILED && fd >= 0 && fd < VCPUS && is_vcpu[fd] && !offset)
		runs[fd] = mapped;
	return mapped;
}

/* What is punched of the private memory, while a slot shows the file; without one, all. */
OURS int fallocate(int fd, int mode, off_t offset, off_t size)
{
	struct memory_file *file = file_find(fd);
	int result = 0;

	resolve();
	if (!file || !(mode & FALLOC_FL_PUNCH_HOLE))
		return next_fallocate(fd, mode, offset, size);
	for (off_t at = offset; !result && at < offset + size; at += (off_t)PAGE)
		if (file->is_private[at / (off_t)PAGE])
			result = next_fallocate(fd, mode, at, (off_t)PAGE);
	return result;
}

__attribute__((destructor)) static void end(void)
{
	printf("in_place: %lu conversions, %lu private pages raised SIGBUS, %lu slots went\n",
	       conversions, hidden, gone);
	fflush(stdout);
	if (!conversions || !(hidden || gone)) {
		fprintf(stderr, "in_place: the program tested nothing of conversion in place\n");
		_exit(98);
	}
}
