/*
 * A small VMM that copies its guest's memory into a file, as a snapshot or a migration does: all of
 * it, then what changed, in rounds. Its guest writes pages, and so do its own device threads, by a
 * system call and by instructions. The first argument says what it does about these, the second how
 * it logs, the third which system call that is, or what else writes in its stead (ways.h). With a
 * fourth one it turns the log off in the end.
 */
#include <err.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "ways.h"

#define PAGES 128ul
#define WORDS (PAGES / 64)
#define CODE_PAGE 1ul
#define RING_BYTES 4096ul
#define RING_PAGE 64ul /* KVM_DIRTY_LOG_PAGE_OFFSET */
#define GUEST_PAGES 8ul
/* What the devices write, at a round. */
#define READ_PAGE 0x30ul
#define STORED_PAGE 0x31ul
#define ROUNDS 3

static struct machine {
	int kvm, vm, vcpu, file;
	uint8_t *memory;
	struct kvm_run *run;
	struct kvm_dirty_gfn *ring; /* NULL: a bitmap */
	uint32_t ring_at;
	uint64_t harvested[WORDS]; /* by the last call */
	uint64_t dirty[WORDS]; /* what is to be copied: of KVM's log and, where it is told, ours */
	int is_told;	       /* the devices note what they write */
	int is_sent;	       /* to a socket, by sendmsg(2) */
	int is_aborted;	       /* no round is copied to its end */
	int is_display;	       /* the log is read, and nothing is copied */
	int has_alias;	       /* a second slot shows the memory; the guest does not use it */
	int by_instructions;   /* the copy goes through a buffer */
	const struct way *way; /* how the device writes */
	int is_late;   /* pages leave the log when they were copied, and the guest went on */
	int is_manual; /* pages leave the log by KVM_CLEAR_DIRTY_LOG */
} machine = {.file = -1};

static int make(int fd, unsigned long command, unsigned long argument)
{
	int result = ioctl(fd, command, argument);

	if (result < 0)
		err(1, "ioctl %#lx", command);
	return result;
}

/* 16-bit code: writes a word to GUEST_PAGES pages from page BX on, and halts. */
static const uint8_t guest_code[] = {
    0xb9, GUEST_PAGES, 0x00,	   /* mov $GUEST_PAGES, %cx */
    0x8e, 0xdb,			   /* mov %bx, %ds */
    0xff, 0x06,	       0x10, 0x00, /* incw 0x10 */
    0x81, 0xc3,	       0x00, 0x01, /* add $0x100, %bx: a page of paragraphs */
    0xe2, 0xf4,			   /* loop to the mov to %ds */
    0xf4,			   /* hlt */
};

/* Until it halts. */
static void run_vcpu(int vcpu, struct kvm_run *run, struct kvm_regs *regs)
{
	make(vcpu, KVM_SET_REGS, (unsigned long)regs);
	do
		make(vcpu, KVM_RUN, 0);
	while (run->exit_reason == KVM_EXIT_INTR);
	if (run->exit_reason != KVM_EXIT_HLT)
		errx(1, "exit %u", run->exit_reason);
}

static void run_guest(unsigned long first_page)
{
	struct kvm_regs regs = {.rip = CODE_PAGE * PAGE, .rflags = 2, .rbx = first_page * 0x100};

	run_vcpu(machine.vcpu, machine.run, &regs);
}

static void note(uint64_t page)
{
	machine.dirty[page / 64] |= 1ull << page % 64;
}

/* A block device: the kernel writes to the guest's memory. */
__attribute__((noinline)) static void device_reads(void)
{
	static char bytes[64] = "what a disk has";
	const struct iovec to = {machine.memory + READ_PAGE * PAGE, sizeof(bytes)};

	bytes[0]++;
	if (write(device.pipe[1], bytes, sizeof(bytes)) != sizeof(bytes) ||
	    machine.way->fill(&to) != sizeof(bytes))
		err(1, "the device");
	if (machine.is_told)
		note(READ_PAGE);
}

/* Nothing is read or written by a call whose buffer would end before it begins. */
static void refused_calls(void)
{
	const volatile size_t size_bytes = SIZE_MAX - PAGE + 1;
	struct iovec part = {machine.memory + 3 * PAGE, size_bytes};

	if (read(device.pipe[0], part.iov_base, size_bytes) != -1 ||
	    write(device.pipe[1], part.iov_base, size_bytes) != -1 ||
	    readv(device.pipe[0], &part, 1) != -1)
		errx(1, "a call without an end");
}

/* A ring of descriptors: the thread's own instructions do. */
static void *device_stores(void *unused)
{
	(void)unused;
	((volatile uint8_t *)machine.memory)[STORED_PAGE * PAGE]++;
	if (machine.is_told)
		note(STORED_PAGE);
	return NULL;
}

static void run_devices(void)
{
	pthread_t thread;

	device_reads();
	if (pthread_create(&thread, NULL, device_stores, NULL) || pthread_join(thread, NULL))
		errx(1, "no thread");
}

__attribute__((noinline)) static void harvest_ring(void)
{
	for (;; machine.ring_at++) {
		struct kvm_dirty_gfn *entry =
		    &machine.ring[machine.ring_at % (RING_BYTES / sizeof(*entry))];

		if (!(__atomic_load_n(&entry->flags, __ATOMIC_ACQUIRE) & KVM_DIRTY_GFN_F_DIRTY))
			break;
		note(entry->offset);
		__atomic_store_n(&entry->flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
	}
	make(machine.vm, KVM_RESET_DIRTY_RINGS, 0);
}

/* A half, and then the other one: the log loses what @bits has. */
__attribute__((noinline)) static void clear_slot(unsigned int slot, uint64_t *bits)
{
	struct kvm_clear_dirty_log clear = {.slot = slot, .num_pages = PAGES / 2};

	for (unsigned int half = 0; half < 2; half++) {
		clear.first_page = half * PAGES / 2;
		clear.dirty_bitmap = bits + half * WORDS / 2;
		make(machine.vm, KVM_CLEAR_DIRTY_LOG, (unsigned long)&clear);
	}
}

__attribute__((noinline)) static void harvest_slot(unsigned int slot)
{
	uint64_t bits[WORDS] = {0};
	struct kvm_dirty_log log = {.slot = slot, .dirty_bitmap = bits};

	make(machine.vm, KVM_GET_DIRTY_LOG, (unsigned long)&log);
	for (unsigned int i = 0; i < WORDS; i++)
		machine.dirty[i] |= bits[i];
	memcpy(machine.harvested, bits, sizeof(bits));
	if (machine.is_manual && !machine.is_late)
		clear_slot(slot, bits);
}

/* The alias first: KVM has not named then what the guest wrote. */
static void harvest(void)
{
	if (machine.ring) {
		harvest_ring();
		return;
	}
	if (machine.has_alias)
		harvest_slot(1);
	harvest_slot(0);
}

static void copy_page(uint64_t page)
{
	uint8_t *from = machine.memory + page * PAGE, buffer[PAGE];
	struct iovec part = {from, PAGE};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};

	if (machine.by_instructions)
		from = memcpy(buffer, from, PAGE);
	if (machine.is_sent ? sendmsg(machine.file, &message, 0) != PAGE
			    : pwrite(machine.file, from, PAGE, (off_t)(page * PAGE)) != PAGE)
		err(1, "page %#lx", page);
}

/* What is dirty, up to so many pages. */
static void copy(unsigned int pages)
{
	for (uint64_t page = 0; page < PAGES; page++) {
		if (!(machine.dirty[page / 64] >> page % 64 & 1))
			continue;
		if (pages && pages--)
			copy_page(page);
		machine.dirty[page / 64] &= ~(1ull << page % 64);
	}
}

static void set_log(unsigned int flags)
{
	struct kvm_userspace_memory_region region = {
	    .flags = flags,
	    .memory_size = PAGES * PAGE,
	    .userspace_addr = (uintptr_t)machine.memory,
	};

	make(machine.vm, KVM_SET_USER_MEMORY_REGION, (unsigned long)&region);
	if (!machine.has_alias)
		return;
	region.slot = 1;
	region.guest_phys_addr = PAGES * PAGE;
	make(machine.vm, KVM_SET_USER_MEMORY_REGION, (unsigned long)&region);
}

/* The guest and the devices run between two rounds, and no more before the last one ends. */
static void transfer(void)
{
	set_log(KVM_MEM_LOG_DIRTY_PAGES);
	memset(machine.dirty, 0xff, sizeof(machine.dirty));
	for (int round = 0; round < ROUNDS; round++) {
		run_guest(0x10 + 8 * (unsigned long)round);
		run_devices();
		if (!round && !machine.is_display)
			copy(PAGES); /* all of it; what was written is dirty for KVM still */
		run_devices();
		refused_calls();
		harvest();
		if (!machine.is_display)
			copy(machine.is_aborted ? GUEST_PAGES / 2 : PAGES);
		if (machine.is_late && round + 1 < ROUNDS) {
			run_guest(0x10 + 8 * (unsigned long)round);
			clear_slot(0, machine.harvested);
		}
	}
}

/* "bitmap", "ring", "manual" or "initially-set": all pages are in the log at first. */
static void open_log(const char *log)
{
	struct kvm_enable_cap ring = {.cap = KVM_CAP_DIRTY_LOG_RING, .args = {RING_BYTES}};
	struct kvm_enable_cap manual = {.cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
					.args = {KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE}};

	machine.is_manual = !strcmp(log, "manual") || !strcmp(log, "initially-set");
	if (!strcmp(log, "initially-set"))
		manual.args[0] |= KVM_DIRTY_LOG_INITIALLY_SET;
	if (!strcmp(log, "ring"))
		make(machine.vm, KVM_ENABLE_CAP, (unsigned long)&ring);
	else if (machine.is_manual)
		make(machine.vm, KVM_ENABLE_CAP, (unsigned long)&manual);
	else if (strcmp(log, "bitmap") != 0)
		errx(1, "no log %s", log);
}

/* The VM's vCPU, in the state of 16-bit code at 0. */
static int open_vcpu(int vm, struct kvm_run **run)
{
	int vcpu = make(vm, KVM_CREATE_VCPU, 0);
	int bytes = make(machine.kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	struct kvm_sregs sregs;

	*run = mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	if (*run == MAP_FAILED)
		err(1, "the vCPU's page");
	make(vcpu, KVM_GET_SREGS, (unsigned long)&sregs);
	sregs.cs.base = sregs.cs.selector = 0;
	make(vcpu, KVM_SET_SREGS, (unsigned long)&sregs);
	return vcpu;
}

static ssize_t run_other_vm(const struct iovec *to, unsigned int flags)
{
	static int vm, vcpu;
	static struct kvm_run *run;
	const unsigned long offset = (unsigned long)((uint8_t *)to->iov_base - machine.memory);
	const struct kvm_userspace_memory_region region = {
	    .flags = flags,
	    .memory_size = PAGES * PAGE,
	    .userspace_addr = (uintptr_t)machine.memory,
	};
	/* Behind the mov to CX: one page. */
	struct kvm_regs regs = {
	    .rip = CODE_PAGE * PAGE + 3, .rflags = 2, .rbx = offset / 16, .rcx = 1};

	if (!vm) {
		vm = make(machine.kvm, KVM_CREATE_VM, 0);
		make(vm, KVM_SET_USER_MEMORY_REGION, (unsigned long)&region);
		vcpu = open_vcpu(vm, &run);
	}
	run_vcpu(vcpu, run, &regs);
	return (ssize_t)to->iov_len;
}

ssize_t by_other_vm(const struct iovec *to)
{
	return run_other_vm(to, 0);
}

ssize_t by_other_vm_logged(const struct iovec *to)
{
	return run_other_vm(to, KVM_MEM_LOG_DIRTY_PAGES);
}

static void open_machine(const char *log)
{
	int has_ring = !strcmp(log, "ring");

	machine.kvm = open("/dev/kvm", O_RDWR);
	if (machine.kvm < 0)
		err(1, "/dev/kvm");
	machine.vm = make(machine.kvm, KVM_CREATE_VM, 0);
	open_log(log);
	machine.memory = device_memory(machine.way, PAGES * PAGE);
	memcpy(machine.memory + CODE_PAGE * PAGE, guest_code, sizeof(guest_code));
	set_log(0);
	machine.vcpu = open_vcpu(machine.vm, &machine.run);
	if (has_ring) {
		machine.ring = mmap(NULL, RING_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED,
				    machine.vcpu, (off_t)(RING_PAGE * PAGE));
		if (machine.ring == MAP_FAILED)
			err(1, "the ring");
	}
}

static void *drain(void *socket)
{
	char buffer[PAGE];

	while (read((int)(intptr_t)socket, buffer, sizeof(buffer)) > 0)
		;
	return NULL;
}

int main(int argc, char **argv)
{
	const char *how = argc > 1 ? argv[1] : "", *log = argc > 2 ? argv[2] : "bitmap";
	const char *way = argc > 3 ? argv[3] : "read";
	char path[] = "/tmp/quire-copy-XXXXXX";
	int sockets[2];
	pthread_t thread;

	machine.has_alias = !strncmp(how, "alias", 5);
	machine.is_late = !strcmp(how, "late");
	machine.is_told =
	    !strncmp(how, "told", 4) || !strcmp(how, "alias-aborted") || machine.is_late;
	machine.is_sent = !strcmp(how, "sent") || !strcmp(how, "told-sent");
	machine.is_aborted = !strcmp(how, "aborted") || !strcmp(how, "alias-aborted");
	machine.is_display = !strcmp(how, "display");
	machine.by_instructions = !strcmp(how, "instructions");
	machine.way = find_way(way);
	open_machine(log);
	if (machine.is_sent) {
		if (socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) ||
		    pthread_create(&thread, NULL, drain, (void *)(intptr_t)sockets[1]))
			err(1, "a socket");
		machine.file = sockets[0];
	} else {
		machine.file = mkstemp(path);
		unlink(path);
	}
	if (machine.file < 0 || pipe(device.pipe))
		err(1, "a file or a pipe");
	transfer();
	if (argc > 4) /* else it goes with the process */
		set_log(0);
	return 0;
}
