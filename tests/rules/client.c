/* The machine monitor: a VM, its vCPUs, the guest's registers and what its accesses end in. */
#include "client.h"

#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "guest.h"

#define TABLES_OFFSET (4 * PAGE)
#define ENTRY_TABLE 0x3ul  /* present, writable */
#define ENTRY_LARGE 0x83ul /* and a 2 MiB page */
#define CPUID_ENTRIES 256
#define STATS_MAX 256

uint8_t *memory_alloc(size_t size_bytes)
{
	size_t reserved = size_bytes + HUGE_PAGE;
	uint8_t *memory = mmap(NULL, reserved, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	CHECK(memory != MAP_FAILED);
	memory += -(uintptr_t)memory & (HUGE_PAGE - 1);
	/* Where the kernel has no huge pages there is nothing to turn off. */
	(void)madvise(memory, size_bytes, MADV_NOHUGEPAGE);
	return memory;
}

uint64_t memory_available(void)
{
	FILE *info = fopen("/proc/meminfo", "r");
	unsigned long kib = 0;
	char line[128];

	while (info && fgets(line, sizeof(line), info))
		(void)sscanf(line, "MemAvailable: %lu", &kib);
	if (info)
		fclose(info);
	return (uint64_t)kib << 10;
}

uint64_t *word_at(uint8_t *memory, uint64_t offset_bytes)
{
	return (uint64_t *)(void *)(memory + offset_bytes);
}

int vm_cap(const struct vm *vm, unsigned long cap)
{
	return (int)CHECK_OK(ioctl(vm->fd, KVM_CHECK_EXTENSION, cap));
}

int vm_enable_cap(const struct vm *vm, uint32_t cap, uint64_t argument)
{
	struct kvm_enable_cap request = {.cap = cap, .args = {argument}};

	return ioctl(vm->fd, KVM_ENABLE_CAP, &request);
}

int vm_gmem(const struct vm *vm, uint64_t size_bytes, uint64_t flags)
{
	struct kvm_create_guest_memfd request = {.size = size_bytes, .flags = flags};

	return ioctl(vm->fd, KVM_CREATE_GUEST_MEMFD, &request);
}

int vm_set_attributes(const struct vm *vm, uint64_t gpa, uint64_t size_bytes, uint64_t attributes)
{
	struct kvm_memory_attributes request = {gpa, size_bytes, attributes, 0};

	return ioctl(vm->fd, KVM_SET_MEMORY_ATTRIBUTES, &request);
}

int parameter_is_on(const char *module, const char *name)
{
	char path[128], value = 'N';
	ssize_t got;
	int fd;

	snprintf(path, sizeof(path), "/sys/module/%s/parameters/%s", module, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	got = fd < 0 ? 0 : read(fd, &value, 1);
	if (fd >= 0)
		close(fd);
	return got == 1 && value == 'Y';
}

int has_second_stage(void)
{
	return parameter_is_on("kvm_amd", "npt") || parameter_is_on("kvm_intel", "ept");
}

int marks_accesses(void)
{
	return !parameter_is_on("kvm_intel", "ept") || parameter_is_on("kvm_intel", "eptad");
}

static void on_kick(int number)
{
	(void)number;
}

void vm_open(struct vm *vm, unsigned long type)
{
	struct sigaction kick = {.sa_handler = on_kick};
	int types;

	*vm = (struct vm){.kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC)};
	if (vm->kvm < 0)
		FAIL("/dev/kvm: %s", strerror(errno));
	types = ioctl(vm->kvm, KVM_CHECK_EXTENSION, KVM_CAP_VM_TYPES);
	if (type && (types < 0 || !((unsigned int)types >> type & 1)))
		check_skip("this KVM has no VMs of that type");
	vm->fd = (int)CHECK_OK(ioctl(vm->kvm, KVM_CREATE_VM, type));
	CHECK_ZERO(sigaction(SIGUSR1, &kick, NULL));
}

static void *end_at_once(void *argument)
{
	return argument;
}

int client_refuse_threads(void)
{
	struct sock_filter filter[] = {
	    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
	    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone, 1, 0),
	    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone3, 0, 1),
	    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EAGAIN),
	    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {sizeof(filter) / sizeof(filter[0]), filter};
	pthread_t thread;

	CHECK_ZERO(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	CHECK_ZERO(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program));
	if (pthread_create(&thread, NULL, end_at_once, NULL))
		return 1;
	CHECK_ZERO(pthread_join(thread, NULL));
	return 0;
}

void vm_add_agent(struct vm *vm)
{
	uint64_t *top, *middle, *leaves;

	vm->agent = memory_alloc(AGENT_BYTES);
	CHECK_ZERO(REGION(vm, .slot = AGENT_SLOT, .guest_phys_addr = AGENT_GPA,
			  .memory_size = AGENT_BYTES, .userspace_addr = (uintptr_t)vm->agent));
	top = word_at(vm->agent, TABLES_OFFSET);
	middle = top + 512;
	leaves = top + 1024;
	top[0] = (AGENT_GPA + TABLES_OFFSET + PAGE) | ENTRY_TABLE;
	for (uint64_t gib = 0; gib < 4; gib++)
		middle[gib] = (AGENT_GPA + TABLES_OFFSET + (2 + gib) * PAGE) | ENTRY_TABLE;
	for (uint64_t i = 0; i < 4 * 512; i++)
		leaves[i] = i * HUGE_PAGE | ENTRY_LARGE;
	guest_copy(vm->agent);
}

struct kvm_cpuid2 *supported_cpuid(const struct vm *vm)
{
	struct kvm_cpuid2 *cpuid =
	    calloc(1, sizeof(*cpuid) + CPUID_ENTRIES * sizeof(cpuid->entries[0]));

	CHECK(cpuid);
	cpuid->nent = CPUID_ENTRIES;
	CHECK_OK(ioctl(vm->kvm, KVM_GET_SUPPORTED_CPUID, cpuid));
	return cpuid;
}

static int has_svm(const struct vm *vm)
{
	struct kvm_cpuid2 *cpuid = supported_cpuid(vm);
	int found = 0;

	for (uint32_t i = 0; i < cpuid->nent; i++)
		found |=
		    cpuid->entries[i].function == 0x80000001 && (cpuid->entries[i].ecx & 1u << 2);
	free(cpuid);
	return found;
}

void vcpu_set_host_save_area(int vcpu)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} msrs = {{.nmsrs = 1}, {.index = 0xc0010117, .data = 0x7f000}};

	CHECK_EQ(ioctl(vcpu, KVM_SET_MSRS, &msrs), 1);
}

void vcpu_enable_svm(struct vcpu *vcpu)
{
	struct kvm_sregs sregs;

	if (!has_svm(vcpu->vm))
		check_skip("no SVM");
	CHECK_ZERO(ioctl(vcpu->fd, KVM_GET_SREGS, &sregs));
	sregs.efer |= 1u << 12; /* SVME */
	CHECK_ZERO(ioctl(vcpu->fd, KVM_SET_SREGS, &sregs));
	vcpu_set_host_save_area(vcpu->fd);
}

static void give_cpuid(struct vcpu *vcpu)
{
	struct kvm_cpuid2 *cpuid = supported_cpuid(vcpu->vm);

	CHECK_OK(ioctl(vcpu->fd, KVM_SET_CPUID2, cpuid));
	free(cpuid);
}

static void enter_long_mode(struct vcpu *vcpu)
{
	struct kvm_segment code = {
	    .limit = UINT32_MAX, .selector = 8, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1};
	struct kvm_segment data = {
	    .limit = UINT32_MAX, .selector = 16, .type = 3, .present = 1, .db = 1, .s = 1, .g = 1};
	struct kvm_sregs sregs;

	CHECK_OK(ioctl(vcpu->fd, KVM_GET_SREGS, &sregs));
	sregs.cs = code;
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
	sregs.cr3 = AGENT_GPA + TABLES_OFFSET;
	sregs.cr4 = 1u << 5;					  /* PAE */
	sregs.cr0 = 1u << 31 | 1u << 16 | 1u << 5 | 1u << 4 | 1u; /* PG WP NE ET PE */
	sregs.efer = 1u << 10 | 1u << 8;			  /* LMA LME */
	CHECK_OK(ioctl(vcpu->fd, KVM_SET_SREGS, &sregs));
}

void vcpu_open(struct vm *vm, struct vcpu *vcpu, unsigned long id)
{
	long run_bytes = CHECK_OK(ioctl(vm->kvm, KVM_GET_VCPU_MMAP_SIZE, 0));

	vcpu->vm = vm;
	vcpu->fd = (int)CHECK_OK(ioctl(vm->fd, KVM_CREATE_VCPU, id));
	vcpu->run = mmap(NULL, (size_t)run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
	CHECK(vcpu->run != MAP_FAILED);
	give_cpuid(vcpu);
	enter_long_mode(vcpu);
}

void machine_open(struct vm *vm, struct vcpu *vcpu, unsigned long type)
{
	vm_open(vm, type);
	vm_add_agent(vm);
	vcpu_open(vm, vcpu, 0);
}

void vcpu_complete(struct vcpu *vcpu)
{
	vcpu->run->immediate_exit = 1;
	CHECK_ERR(ioctl(vcpu->fd, KVM_RUN, 0), EINTR);
	vcpu->run->immediate_exit = 0;
}

/* Exits whose instruction is not over before the next KVM_RUN. */
static int is_unfinished(const struct kvm_run *run)
{
	return run->exit_reason == KVM_EXIT_MMIO || run->exit_reason == KVM_EXIT_IO ||
	       run->exit_reason == KVM_EXIT_HYPERCALL;
}

void vcpu_prepare(struct vcpu *vcpu, const struct guest_op *op)
{
	struct kvm_regs regs = {
	    .rip = AGENT_GPA + guest_entry(op->code),
	    .rsp = AGENT_GPA + TABLES_OFFSET - 8,
	    .rflags = 2,
	    .rax = op->rax,
	    .rbx = op->rbx,
	    .rcx = op->rcx,
	    .rdx = op->rdx,
	};

	/* An access of two parts exits twice. */
	for (int part = 0; is_unfinished(vcpu->run) && part < 4; part++) {
		int result;

		vcpu->run->immediate_exit = 1;
		result = ioctl(vcpu->fd, KVM_RUN, 0);
		vcpu->run->immediate_exit = 0;
		if (result == -1 && errno == EINTR)
			break;
		CHECK_EQ(result, 0);
	}
	CHECK_OK(ioctl(vcpu->fd, KVM_SET_REGS, &regs));
}

static enum end find_end(const struct kvm_run *run, int error)
{
	if (error == EINTR)
		return END_SIGNAL;
	if (error && run->exit_reason == KVM_EXIT_MEMORY_FAULT)
		return END_MEMORY_FAULT;
	if (error)
		return error == EFAULT ? END_FAULT : END_OTHER;
	if (run->exit_reason == KVM_EXIT_MMIO)
		return END_MMIO;
	if (run->exit_reason == KVM_EXIT_IO && run->io.direction == KVM_EXIT_IO_OUT &&
	    run->io.port == AGENT_PORT)
		return END_DONE;
	return END_OTHER;
}

struct outcome vcpu_run(struct vcpu *vcpu)
{
	struct outcome outcome = {0};
	struct kvm_regs regs;

	outcome.error = ioctl(vcpu->fd, KVM_RUN, 0) ? errno : 0;
	outcome.exit_reason = vcpu->run->exit_reason;
	outcome.end = find_end(vcpu->run, outcome.error);
	if (outcome.end == END_DONE) {
		CHECK_OK(ioctl(vcpu->fd, KVM_GET_REGS, &regs));
		outcome.value = regs.rax;
	}
	if (outcome.end == END_MEMORY_FAULT)
		memcpy(&outcome.fault, &vcpu->run->hw, sizeof(outcome.fault));
	if (outcome.end == END_MMIO) {
		outcome.mmio.gpa = vcpu->run->mmio.phys_addr;
		outcome.mmio.bytes = vcpu->run->mmio.len;
		outcome.mmio.is_write = vcpu->run->mmio.is_write;
		memcpy(&outcome.mmio.data, vcpu->run->mmio.data, sizeof(outcome.mmio.data));
	}
	return outcome;
}

struct outcome guest_do(struct vcpu *vcpu, const struct guest_op *op)
{
	vcpu_prepare(vcpu, op);
	return vcpu_run(vcpu);
}

struct outcome guest_try_load(struct vcpu *vcpu, uint64_t gpa)
{
	return GUEST(vcpu, GUEST_LOAD8, .rbx = gpa);
}

struct outcome guest_try_store(struct vcpu *vcpu, uint64_t gpa, uint64_t value)
{
	return GUEST(vcpu, GUEST_STORE8, .rax = value, .rbx = gpa);
}

void check_end(const char *file, int line, struct outcome outcome, enum end wanted)
{
	static const char *const names[] = {"done",	    "MMIO",   "EFAULT",
					    "memory fault", "signal", "other"};

	if (outcome.end != wanted)
		check_fail(file, line, "ended in %s, not %s (errno %d, exit %u)",
			   names[outcome.end], names[wanted], outcome.error, outcome.exit_reason);
}

uint64_t guest_load(struct vcpu *vcpu, uint64_t gpa)
{
	struct outcome outcome = guest_try_load(vcpu, gpa);

	CHECK_END(outcome, END_DONE);
	return outcome.value;
}

void guest_store(struct vcpu *vcpu, uint64_t gpa, uint64_t value)
{
	CHECK_END(guest_try_store(vcpu, gpa, value), END_DONE);
}

static void *thread_main(void *argument)
{
	struct guest_thread *thread = argument;

	thread->outcome = vcpu_run(thread->vcpu);
	__atomic_store_n(&thread->is_done, 1, __ATOMIC_RELEASE);
	return NULL;
}

void thread_start(struct guest_thread *thread, struct vcpu *vcpu, const struct guest_op *op)
{
	*thread = (struct guest_thread){.vcpu = vcpu, .op = *op};
	vcpu_prepare(vcpu, op);
	CHECK_ZERO(pthread_create(&thread->thread, NULL, thread_main, thread));
}

int thread_ended_within(struct guest_thread *thread, unsigned int milliseconds)
{
	for (unsigned int i = 0; i < milliseconds; i++) {
		if (__atomic_load_n(&thread->is_done, __ATOMIC_ACQUIRE))
			return 1;
		usleep(1000);
	}
	return 0;
}

void thread_kick(struct guest_thread *thread)
{
	while (!thread_ended_within(thread, 5))
		(void)pthread_kill(thread->thread, SIGUSR1);
}

struct outcome thread_join(struct guest_thread *thread)
{
	CHECK_ZERO(pthread_join(thread->thread, NULL));
	return thread->outcome;
}

uint64_t stat_get(int fd, const char *name)
{
	static char descriptors[STATS_MAX * 128];
	int file = (int)CHECK_OK(ioctl(fd, KVM_GET_STATS_FD, NULL));
	struct kvm_stats_header header;
	uint64_t value = 0;
	size_t each;

	CHECK_EQ(pread(file, &header, sizeof(header), 0), sizeof(header));
	each = sizeof(struct kvm_stats_desc) + header.name_size;
	CHECK(each * header.num_desc <= sizeof(descriptors));
	CHECK_EQ(pread(file, descriptors, each * header.num_desc, header.desc_offset),
		 each * header.num_desc);
	for (uint32_t i = 0; i < header.num_desc; i++) {
		const struct kvm_stats_desc *desc = (const void *)(descriptors + i * each);

		if (strncmp((const char *)(desc + 1), name, header.name_size))
			continue;
		CHECK_EQ(pread(file, &value, sizeof(value), header.data_offset + desc->offset),
			 sizeof(value));
		close(file);
		return value;
	}
	FAIL("no statistic %s", name);
}

void snapshot_take(const struct vm *vm, struct snapshot *snapshot)
{
	int file = (int)CHECK_OK(ioctl(vm->fd, KVM_GET_STATS_FD, NULL));
	struct kvm_stats_header header;

	CHECK_EQ(pread(file, &header, sizeof(header), 0), sizeof(header));
	snapshot->size_bytes = (size_t)CHECK_OK(
	    pread(file, snapshot->values, sizeof(snapshot->values), header.data_offset));
	CHECK(snapshot->size_bytes > 0 && snapshot->size_bytes < sizeof(snapshot->values));
	close(file);
}

void snapshot_check(const struct vm *vm, const struct snapshot *before, const char *file, int line)
{
	static struct snapshot after;

	snapshot_take(vm, &after);
	if (after.size_bytes != before->size_bytes)
		check_fail(file, line, "statistics changed in number");
	for (size_t i = 0; i < before->size_bytes / sizeof(uint64_t); i++)
		if (after.values[i] != before->values[i])
			check_fail(file, line, "statistic %zu was %llu, is %llu", i,
				   (unsigned long long)before->values[i],
				   (unsigned long long)after.values[i]);
}

static sigjmp_buf touch_environment;
static volatile struct signal_seen touch_seen;

static void on_touch(int number, siginfo_t *info, void *context)
{
	(void)context;
	touch_seen.number = number;
	touch_seen.code = info->si_code;
	touch_seen.address = info->si_addr;
	siglongjmp(touch_environment, 1);
}

struct signal_seen touch_byte(volatile uint8_t *byte)
{
	struct sigaction action = {.sa_sigaction = on_touch, .sa_flags = SA_SIGINFO};
	struct sigaction bus, segv;

	touch_seen.number = 0;
	touch_seen.code = 0;
	touch_seen.address = NULL;
	CHECK_ZERO(sigaction(SIGBUS, &action, &bus));
	CHECK_ZERO(sigaction(SIGSEGV, &action, &segv));
	if (!sigsetjmp(touch_environment, 1))
		(void)*byte;
	CHECK_ZERO(sigaction(SIGBUS, &bus, NULL));
	CHECK_ZERO(sigaction(SIGSEGV, &segv, NULL));
	return (struct signal_seen){touch_seen.number, touch_seen.code, touch_seen.address};
}

void objects_open(int descriptors[OBJECTS])
{
	static struct vm vm;
	static struct vcpu vcpu;

	machine_open(&vm, &vcpu, KVM_X86_SW_PROTECTED_VM);
	descriptors[KVM] = vm.kvm;
	descriptors[VM] = vm.fd;
	descriptors[VCPU] = vcpu.fd;
	descriptors[GMEM] = vm_gmem(&vm, 4 * PAGE, 0);
	descriptors[STATS] = (int)CHECK_OK(ioctl(vm.fd, KVM_GET_STATS_FD, NULL));
}

int userfault_open(void *watched, uint64_t size_bytes, uint64_t mode)
{
	struct uffdio_api api = {.api = UFFD_API};
	struct uffdio_register request = {.range = {(uintptr_t)watched, size_bytes}, .mode = mode};
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	if (fd < 0 || ioctl(fd, UFFDIO_API, &api))
		check_skip("no userfaultfd");
	if (ioctl(fd, UFFDIO_REGISTER, &request))
		check_skip("no userfaultfd of that mode");
	return fd;
}

uint64_t userfault_next(int fd, int *is_minor)
{
	struct pollfd wait = {.fd = fd, .events = POLLIN};
	struct uffd_msg message;

	CHECK_EQ(poll(&wait, 1, 20000), 1);
	CHECK_EQ(read(fd, &message, sizeof(message)), sizeof(message));
	CHECK_EQ(message.event, UFFD_EVENT_PAGEFAULT);
	if (is_minor)
		*is_minor = (message.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_MINOR) != 0;
	return message.arg.pagefault.address & ~(PAGE - 1);
}

int userfault_is_quiet(int fd)
{
	struct pollfd wait = {.fd = fd, .events = POLLIN};

	return poll(&wait, 1, 0) == 0;
}

void userfault_give(int fd, uint64_t address, uint64_t word)
{
	struct uffdio_copy copy = {.dst = address, .len = PAGE};
	uint8_t *page = memory_alloc(PAGE);

	*word_at(page, 0) = word;
	copy.src = (uintptr_t)page;
	CHECK_ZERO(ioctl(fd, UFFDIO_COPY, &copy));
}

void userfault_continue(int fd, uint64_t address)
{
	struct uffdio_continue request = {.range = {address, PAGE}};

	CHECK_ZERO(ioctl(fd, UFFDIO_CONTINUE, &request));
}
