/* Conversion in place as it was posted: KVM_SET_MEMORY_ATTRIBUTES2 of a guest_memfd. The parameter
 * gmem_in_place_conversion switches it on; a KVM without it, or with it off, skips. */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include "gmem_convert.h"

#define OTHER_GPA 0x30000000ul
#define PUNCH (FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE)

static struct vm other;
static struct vcpu other_vcpu;

static void unknown_while_it_is_off(void)
{
	machine_open(&vm, &vcpu, KVM_X86_DEFAULT_VM);
	if (parameter_is_on("kvm", "gmem_in_place_conversion"))
		check_skip("conversion in place is on");
	CHECK_EQ(vm_cap(&vm, KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES), 0);
	if (!vm_cap(&vm, KVM_CAP_GUEST_MEMFD))
		check_skip("no guest_memfd");
	file = (int)CHECK_OK(vm_gmem(&vm, BYTES, 0));
	CHECK_ERR(convert(file, 0, PAGE, 0), ENOTTY);
	CHECK_ERR(ioctl(file, KVM_SET_MEMORY_ATTRIBUTES2, NULL), ENOTTY);
}

/* One owner: the file's ioctl knows the attribute, the VM's does not. */
static void capabilities(void)
{
	open_shown(SHARED);
	CHECK_EQ(vm_cap(&vm, KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES), PRIVATE);
	CHECK_EQ(vm_cap(&vm, KVM_CAP_MEMORY_ATTRIBUTES), 0);
	CHECK_EQ(ioctl(vm.kvm, KVM_CHECK_EXTENSION, KVM_CAP_MEMORY_ATTRIBUTES), 0);
	CHECK_EQ(vm_cap(&vm, KVM_CAP_GUEST_MEMFD_FLAGS) & (int)SHARED, SHARED);
	REFUSED(&vm, vm_set_attributes(&vm, GPA, PAGE, PRIVATE), EINVAL);
	CHECK_ZERO(vm_set_attributes(&vm, GPA, PAGE, 0));
	vm_open(&other, KVM_X86_DEFAULT_VM);
	CHECK_EQ(vm_cap(&other, KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES), 0);
}

static void what_is_refused(void)
{
	struct kvm_memory_attributes2 request = {.size = PAGE};

	open_shown(SHARED);
	REFUSED(&vm, ioctl(file, KVM_SET_MEMORY_ATTRIBUTES2, NULL), EFAULT);
	for (unsigned int bit = 0; bit < 64; bit++) {
		request.flags = 1ul << bit;
		REFUSED(&vm, ioctl(file, KVM_SET_MEMORY_ATTRIBUTES2, &request), EINVAL);
		if (1ul << bit != PRIVATE)
			REFUSED(&vm, convert(file, 0, PAGE, 1ul << bit), EINVAL);
	}
	request.flags = 0;
	for (unsigned int i = 0; i < 11; i++) {
		request.reserved[i] = 1ul << 63;
		REFUSED(&vm, ioctl(file, KVM_SET_MEMORY_ATTRIBUTES2, &request), EINVAL);
		request.reserved[i] = 0;
	}
	REFUSED(&vm, convert(file, 0, 0, PRIVATE), EINVAL);
	REFUSED(&vm, convert(file, 1, PAGE, PRIVATE), EINVAL);
	REFUSED(&vm, convert(file, 0, PAGE + 1, PRIVATE), EINVAL);
	REFUSED(&vm, convert(file, BYTES, PAGE, PRIVATE), EINVAL);
	REFUSED(&vm, convert(file, PAGE, BYTES, PRIVATE), EINVAL);
	REFUSED(&vm, convert(file, -PAGE, 2 * PAGE, PRIVATE), EINVAL);
	CHECK_ERR(ioctl(vm.fd, KVM_SET_MEMORY_ATTRIBUTES2, &request), ENOTTY);
	CHECK_EQ(touch(0), 0);
	vm_open(&other, KVM_X86_DEFAULT_VM);
	file = (int)CHECK_OK(vm_gmem(&other, BYTES, SHARED));
	CHECK_ERR(convert(file, 0, PAGE, 0), EINVAL);
}

static void private_at_first(void)
{
	int pipe_ends[2];

	open_shown(MMAP);
	CHECK_EQ(touch(0), SIGBUS);
	guest_store(&vcpu, GPA, 7);
	CHECK_EQ(touch(0), SIGBUS);
	/* Nor does the kernel reach it for the client. */
	CHECK_ZERO(pipe(pipe_ends));
	CHECK_ERR(write(pipe_ends[1], seen, 1), EFAULT);
	make(0, 1, 0);
	CHECK_EQ(*word_at(seen, 0), 7);
	CHECK_EQ(write(pipe_ends[1], seen, 1), 1);
	CHECK_EQ(touch(1), SIGBUS);
}

/* The page stays, with what it holds; both sides see the other's stores while it is shared. */
static void bytes_stay(void)
{
	open_shown(SHARED);
	*word_at(seen, 0) = 1;
	CHECK_EQ(guest_load(&vcpu, GPA), 1);
	make(0, 1, PRIVATE);
	CHECK_EQ(touch(0), SIGBUS);
	CHECK_EQ(guest_load(&vcpu, GPA), 1);
	guest_store(&vcpu, GPA, 2);
	make(0, 1, 0);
	CHECK_EQ(*word_at(seen, 0), 2);
	*word_at(seen, 0) = 3;
	CHECK_EQ(guest_load(&vcpu, GPA), 3);
	/* What is so already is no error. */
	make(0, 1, 0);
	make(0, PAGES, 0);
	CHECK_EQ(guest_load(&vcpu, GPA), 3);
}

/* The one page that is meant, among its neighbours. */
static void each_page(void)
{
	open_shown(SHARED);
	for (uint64_t page = 0; page < PAGES; page++) {
		*word_at(seen, page * PAGE) = page + 1;
		make(page, 1, PRIVATE);
		for (uint64_t at = 0; at < PAGES; at++) {
			CHECK_EQ(touch(at), at == page ? SIGBUS : 0);
			CHECK_EQ(guest_load(&vcpu, GPA + at * PAGE), at <= page ? at + 1 : 0);
		}
		make(page, 1, 0);
		CHECK_EQ(*word_at(seen, page * PAGE), page + 1);
	}
	make(2, 3, PRIVATE);
	make(3, 1, 0);
	for (uint64_t at = 0; at < PAGES; at++)
		CHECK_EQ(touch(at), at == 2 || at == 4 ? SIGBUS : 0);
}

/* A mapping that is made, moved or grown afterwards shows what the file says then. */
static void later_mappings(void)
{
	uint8_t *first, *grown;

	open_shown(SHARED);
	make(1, 2, PRIVATE);
	first = seen;
	seen = map(file);
	for (uint64_t at = 0; at < PAGES; at++)
		CHECK_EQ(touch(at), at == 1 || at == 2 ? SIGBUS : 0);
	/* Both follow. */
	*word_at(seen, 0) = 5;
	CHECK_EQ(*word_at(first, 0), 5);
	make(1, 1, 0);
	CHECK_EQ(touch(1), 0);
	CHECK_EQ(touch_byte(first + PAGE).number, 0);
	make(0, 1, PRIVATE);
	CHECK_EQ(touch(0), SIGBUS);
	CHECK_EQ(touch_byte(first).number, SIGBUS);
	/* From the middle, without the right to write, and grown into what is private. */
	grown = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, file, PAGE);
	CHECK(grown != MAP_FAILED);
	grown = mremap(grown, PAGE, 4 * PAGE, MREMAP_MAYMOVE);
	CHECK(grown != MAP_FAILED);
	CHECK_EQ(touch_byte(grown).number, 0);
	CHECK_EQ(grown[0], seen[PAGE]);
	seen = grown;
	CHECK_EQ(touch(1), SIGBUS);
	CHECK_EQ(grown[2 * PAGE], 0);
	/* Another part of the file in its place: a private page, a shared one. */
	CHECK_ZERO(remap_file_pages(seen, PAGE, 0, 0, 0));
	CHECK_EQ(touch(0), SIGBUS);
	CHECK_ZERO(remap_file_pages(seen, PAGE, 0, 3, 0));
	CHECK_EQ(touch(0), 0);
	make(2, 1, 0);
	CHECK_EQ(grown[PAGE], 0);
	/* Beyond the end there is nothing, whatever is converted. */
	seen = mmap(NULL, 2 * BYTES, PROT_READ, MAP_SHARED, file, 0);
	make(0, PAGES, 0);
	CHECK_EQ(seen[BYTES - 1], 0);
	CHECK_EQ(touch(PAGES), SIGBUS);
}

static void a_punch_changes_no_attribute(void)
{
	open_shown(SHARED);
	make(1, 1, PRIVATE);
	guest_store(&vcpu, GPA, 7);
	guest_store(&vcpu, GPA + PAGE, 7);
	CHECK_ZERO(fallocate(file, PUNCH, 0, 2 * PAGE));
	CHECK_EQ(touch(1), SIGBUS);
	CHECK_EQ(touch(0), 0);
	CHECK_EQ(guest_load(&vcpu, GPA + PAGE), 0);
	make(1, 1, 0);
	CHECK_EQ(*word_at(seen, PAGE), 0);
}

/* Without MMAP the guest's shared pages are the file's, too. */
static void files_that_are_not_mapped(void)
{
	open_shown(0);
	*word_at(seen, 0) = 9;
	guest_store(&vcpu, GPA, 1);
	make(0, 1, 0);
	CHECK_EQ(guest_load(&vcpu, GPA), 1);
	CHECK_EQ(*word_at(seen, 0), 9);
	CHECK(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, file, 0) == MAP_FAILED && errno == ENODEV);
}

/* In a VM without private memory an access means the shared page, and there is none. */
static void memory_fault(void)
{
	struct outcome outcome;

	open_vm(KVM_X86_DEFAULT_VM);
	file = (int)CHECK_OK(vm_gmem(&vm, BYTES, 0));
	show(&vm, file, GPA, BYTES, memory_alloc(HUGE_PAGE));
	outcome = guest_try_load(&vcpu, GPA + PAGE);
	CHECK_END(outcome, END_MEMORY_FAULT);
	CHECK_EQ(outcome.error, EFAULT);
	CHECK_EQ(outcome.fault.flags, 0);
	CHECK_EQ(outcome.fault.gpa, GPA + PAGE);
	CHECK_EQ(outcome.fault.size, PAGE);
}

/* A guest that stores all the while is never refused, and loses nothing. */
static void under_a_running_guest(void)
{
	struct guest_op loop = {.code = GUEST_COUNT, .rbx = GPA, .rcx = GPA + PAGE};
	struct guest_thread thread;
	uint64_t before = 0, now;

	open_shown(SHARED);
	thread_start(&thread, &vcpu, &loop);
	for (int turn = 0; turn < 300; turn++) {
		make(0, 1, PRIVATE);
		make(0, 1, 0);
		now = __atomic_load_n(word_at(seen, 0), __ATOMIC_RELAXED);
		CHECK(now >= before);
		before = now;
	}
	while (__atomic_load_n(word_at(seen, 0), __ATOMIC_RELAXED) == 0)
		usleep(100);
	__atomic_store_n(word_at(seen, PAGE), 1, __ATOMIC_RELAXED);
	CHECK_END(thread_join(&thread), END_DONE);
}

static int parameter_set(const char *name, const char *value)
{
	char path[96] = "/sys/module/kvm/parameters/";
	int parameter = open(strcat(path, name), O_WRONLY);
	int written = parameter >= 0 && write(parameter, value, 1) == 1;

	if (parameter >= 0)
		close(parameter);
	return written;
}

/* Flags of earlier postings: of the whole range, what has the attributes already included. */
static void contents(void)
{
	struct kvm_memory_attributes2 request = {.size = 2 * PAGE};

	if (!parameter_set("quire_gmem_contents", "Y"))
		check_skip("no contents of a conversion");
	open_shown(SHARED);
	*word_at(seen, 0) = 1;
	*word_at(seen, PAGE) = 2;
	make(0, 1, PRIVATE);
	request.flags = KVM_SET_MEMORY_ATTRIBUTES2_PRESERVE;
	CHECK_ZERO(ioctl(file, KVM_SET_MEMORY_ATTRIBUTES2, &request));
	CHECK_EQ(*word_at(seen, 0), 1);
	make(0, 1, PRIVATE);
	request.flags = KVM_SET_MEMORY_ATTRIBUTES2_ZERO;
	CHECK_ZERO(ioctl(file, KVM_SET_MEMORY_ATTRIBUTES2, &request));
	CHECK_EQ(*word_at(seen, 0), 0);
	CHECK_EQ(*word_at(seen, PAGE), 0);
	CHECK_EQ(guest_load(&vcpu, GPA + PAGE), 0);
	guest_store(&vcpu, GPA, 3);
	CHECK_EQ(*word_at(seen, 0), 3);
	request.flags = KVM_SET_MEMORY_ATTRIBUTES2_ZERO | KVM_SET_MEMORY_ATTRIBUTES2_PRESERVE;
	REFUSED(&vm, ioctl(file, KVM_SET_MEMORY_ATTRIBUTES2, &request), EINVAL);
	request.flags = 4;
	REFUSED(&vm, ioctl(file, KVM_SET_MEMORY_ATTRIBUTES2, &request), EINVAL);
	request.flags = KVM_SET_MEMORY_ATTRIBUTES2_ZERO;
	request.attributes = PRIVATE;
	request.offset = PAGE;
	REFUSED(&vm, ioctl(file, KVM_SET_MEMORY_ATTRIBUTES2, &request), EOPNOTSUPP);
	CHECK_EQ(request.error_offset, PAGE);
	CHECK_EQ(touch(1), 0);
}

/* A page of a huge one splits the guest's mapping; all of one kind again, it comes back. */
static void huge_pages(void)
{
	if (!parameter_set("quire_gmem_huge_pages", "Y"))
		check_skip("no huge pages of guest_memfd");
	open_vm(KVM_X86_SW_PROTECTED_VM);
	file = (int)CHECK_OK(vm_gmem(&vm, 2 * HUGE_PAGE, SHARED));
	seen = mmap(NULL, 2 * HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	CHECK(seen != MAP_FAILED);
	show(&vm, file, GPA, 2 * HUGE_PAGE, seen);
	guest_store(&vcpu, GPA + 7 * PAGE, 7);
	guest_store(&vcpu, GPA + HUGE_PAGE, 7);
	CHECK_EQ(stat_get(vm.fd, "pages_2m"), 2);
	make(5, 1, PRIVATE);
	CHECK_EQ(stat_get(vm.fd, "pages_2m"), 1);
	CHECK_EQ(touch(5), SIGBUS);
	CHECK_EQ(*word_at(seen, 7 * PAGE), 7);
	CHECK_EQ(guest_load(&vcpu, GPA + 7 * PAGE), 7);
	CHECK_EQ(guest_load(&vcpu, GPA + 5 * PAGE), 0);
	CHECK_EQ(stat_get(vm.fd, "pages_2m"), 1);
	make(5, 1, 0);
	CHECK_EQ(guest_load(&vcpu, GPA + 5 * PAGE), 0);
	CHECK_EQ(stat_get(vm.fd, "pages_2m"), 2);
	CHECK_EQ(touch(5), 0);
}

/* Two VMs show the pages: one fact for both, by whichever file it is changed. */
static void linked_files(void)
{
	struct kvm_link_guest_memfd request = {0};
	int linked;

	if (!parameter_set("quire_gmem_link", "Y"))
		check_skip("no links of guest_memfd");
	open_shown(MMAP);
	machine_open(&other, &other_vcpu, KVM_X86_SW_PROTECTED_VM);
	request.fd = (uint64_t)file;
	linked = (int)CHECK_OK(ioctl(other.fd, KVM_LINK_GUEST_MEMFD, &request));
	show(&other, linked, OTHER_GPA, BYTES, memory_alloc(HUGE_PAGE));
	guest_store(&vcpu, GPA, 7);
	CHECK_EQ(guest_load(&other_vcpu, OTHER_GPA), 7);
	CHECK_ZERO(convert(linked, 0, PAGE, 0));
	CHECK_EQ(*word_at(seen, 0), 7);
	guest_store(&other_vcpu, OTHER_GPA, 8);
	CHECK_EQ(*word_at(seen, 0), 8);
	CHECK_EQ(guest_load(&vcpu, GPA), 8);
	seen = map(linked);
	CHECK_EQ(*word_at(seen, 0), 8);
	CHECK_EQ(touch(1), SIGBUS);
	make(0, 1, PRIVATE);
	CHECK_EQ(touch(0), SIGBUS);
	CHECK_EQ(guest_load(&other_vcpu, OTHER_GPA), 8);
}

#define HELD 3ul

static void still_in_use(uint64_t first, uint64_t npages)
{
	struct kvm_memory_attributes2 request = {.offset = first * PAGE,
						 .size = npages * PAGE,
						 .attributes = PRIVATE,
						 .error_offset = 77};

	CHECK_ERR(ioctl(file, KVM_SET_MEMORY_ATTRIBUTES2, &request), EAGAIN);
	CHECK_EQ(request.error_offset, HELD * PAGE);
}

/*
 * A vCPU has a page in its hands from the moment it asks for it: one with VMLOAD's state, which the
 * userfaultfd keeps back. All that is asked for together stays as it was, and what is beside the
 * page is converted.
 */
static void in_a_vcpus_hands(void)
{
	struct guest_thread thread;
	uint64_t held;
	int events;

	if (!parameter_set("quire_gmem_userfault", "Y"))
		check_skip("no userfaultfd of a guest_memfd");
	open_shown(SHARED);
	vcpu_enable_svm(&vcpu);
	guest_store(&vcpu, GPA + PAGE, 1);
	held = (uintptr_t)seen + HELD * PAGE;
	events = userfault_open(seen + HELD * PAGE, PAGE, UFFDIO_REGISTER_MODE_MISSING);
	thread_start(&thread, &vcpu,
		     &(struct guest_op){.code = GUEST_VMLOAD, .rbx = GPA + HELD * PAGE});
	CHECK_EQ(userfault_next(events, NULL) & ~(PAGE - 1), held);
	still_in_use(0, PAGES);
	still_in_use(HELD, 1);
	CHECK_EQ(*word_at(seen, PAGE), 1);
	make(0, HELD, PRIVATE);
	make(HELD + 1, PAGES - HELD - 1, PRIVATE);
	still_in_use(0, PAGES);
	CHECK_EQ(touch(1), SIGBUS);
	/* To shared it is no question. */
	make(0, PAGES, 0);
	CHECK_EQ(*word_at(seen, PAGE), 1);
	userfault_give(events, held, 0);
	CHECK_END(thread_join(&thread), END_DONE);
	make(0, PAGES, PRIVATE);
	CHECK_EQ(touch(HELD), SIGBUS);
	CHECK_ZERO(close(events));
}

/* No further mapping fits into this process. Returns what it is full of, and how large that is. */
static uint8_t *fill_up(size_t *size_bytes)
{
	uint8_t *room;

	*size_bytes = UINT64_C(1) << 40;
	room =
	    mmap(NULL, *size_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	CHECK(room != MAP_FAILED);
	for (uint64_t at = 0; !mprotect(room + at, PAGE, PROT_READ); at += 2 * PAGE)
		;
	CHECK_EQ(errno, ENOMEM);
	return room;
}

/* Each run of pages of one kind needs a mapping: where there is none left, nothing has grown. */
static void growth_without_mappings_left(void)
{
	size_t room_bytes;
	uint8_t *room, *grown;

	open_shown(SHARED);
	make(2, 1, PRIVATE);
	make(4, 1, PRIVATE);
	guest_store(&vcpu, GPA + 2 * PAGE, 7);
	CHECK_ZERO(munmap(seen + 2 * PAGE, BYTES - 2 * PAGE));
	*word_at(seen, PAGE) = 5;
	room = fill_up(&room_bytes);
	grown = mremap(seen, 2 * PAGE, BYTES, 0);
	CHECK(grown == MAP_FAILED && errno == ENOMEM);
	CHECK_EQ(touch(2), SIGSEGV);
	CHECK_EQ(*word_at(seen, PAGE), 5);
	/* The same where it has to move, with one mapping more each time. */
	CHECK(mprotect(room, PAGE, PROT_NONE) == 0);
	CHECK(mmap(seen + 2 * PAGE, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
		   0) != MAP_FAILED);
	for (uint64_t at = 2; grown == MAP_FAILED; at += 2) {
		CHECK_ZERO(mprotect(room + at * PAGE, PAGE, PROT_NONE));
		grown = mremap(seen, 2 * PAGE, BYTES, MREMAP_MAYMOVE);
		CHECK_EQ(*word_at(grown == MAP_FAILED ? seen : grown, PAGE), 5);
	}
	seen = grown;
	CHECK(touch(2) == SIGBUS || touch(2) == SIGSEGV);
	CHECK_ZERO(munmap(room, room_bytes));
	seen = map(file);
	grown = mremap(seen, 2 * PAGE, BYTES, MREMAP_MAYMOVE);
	CHECK(grown != MAP_FAILED);
	seen = grown;
	CHECK_EQ(touch(2), SIGBUS);
	CHECK_EQ(touch(3), 0);
}

static uint32_t is_over;

static void *map_and_unmap(void *unused)
{
	while (!__atomic_load_n(&is_over, __ATOMIC_RELAXED))
		CHECK_ZERO(munmap(map(file), BYTES));
	return unused;
}

/* What a thread of the client's maps and unmaps meanwhile is no error of the conversion. */
static void mappings_that_come_and_go(void)
{
	pthread_t thread;

	open_shown(SHARED);
	CHECK_ZERO(pthread_create(&thread, NULL, map_and_unmap, NULL));
	for (unsigned int round = 0; round < 20000; round++)
		make(1, 6, round & 1 ? 0 : PRIVATE);
	__atomic_store_n(&is_over, 1, __ATOMIC_RELAXED);
	CHECK_ZERO(pthread_join(thread, NULL));
	CHECK_EQ(touch(3), 0);
	make(3, 1, PRIVATE);
	CHECK_EQ(touch(3), SIGBUS);
}

static int plain_file;

/* The same place shows the file that is converted and, at another offset, one that is not. */
static void *replace_by_another_file(void *place)
{
	const int how = MAP_SHARED | MAP_FIXED;
	uint32_t delay = 0;

	while (!__atomic_load_n(&is_over, __ATOMIC_RELAXED)) {
		CHECK(mmap(place, BYTES, PROT_READ | PROT_WRITE, how, file, 0) == place);
		/* At another moment of the conversion each time. */
		for (volatile uint32_t i = 0; i < delay; i++)
			;
		delay = (delay + 997) % 20011;
		CHECK(mmap(place, BYTES, PROT_READ | PROT_WRITE, how, plain_file, BYTES) == place);
		for (uint64_t page = 0; page < PAGES; page++)
			CHECK_EQ(*word_at(place, page * PAGE), page + 1);
	}
	return NULL;
}

static void open_plain(void)
{
	uint8_t *plain;

	open_shown(SHARED);
	plain_file = (int)CHECK_OK(memfd_create("plain", MFD_CLOEXEC));
	CHECK_ZERO(ftruncate(plain_file, 2 * BYTES));
	plain = mmap(NULL, 2 * BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, plain_file, 0);
	for (uint64_t page = 0; page < PAGES; page++)
		*word_at(plain, BYTES + page * PAGE) = page + 1;
}

/* A conversion changes no mapping of another file. */
static void mappings_that_are_replaced(void)
{
	pthread_t thread;

	open_plain();
	is_over = 0;
	CHECK_ZERO(pthread_create(&thread, NULL, replace_by_another_file, memory_alloc(HUGE_PAGE)));
	for (unsigned int round = 0; round < 5000; round++)
		make(1, 6, round & 1 ? 0 : PRIVATE);
	__atomic_store_n(&is_over, 1, __ATOMIC_RELAXED);
	CHECK_ZERO(pthread_join(thread, NULL));
}

/* Stop @thread where it is about to change what @place shows, until that is another mapping. */
static void trace(pid_t thread, uint64_t place)
{
	struct user_regs_struct regs;
	int status, pass = 0;

	if (ptrace(PTRACE_SEIZE, thread, 0, PTRACE_O_TRACESYSGOOD) ||
	    ptrace(PTRACE_INTERRUPT, thread, 0, 0))
		_exit(1);
	__atomic_store_n(&steps->is_traced, 1, __ATOMIC_SEQ_CST);
	while (waitpid(thread, &status, __WALL) == thread && WIFSTOPPED(status)) {
		int is_call = WSTOPSIG(status) == (SIGTRAP | 0x80);

		pass = is_call || status >> 16 ? 0 : WSTOPSIG(status);
		if (is_call && !ptrace(PTRACE_GETREGS, thread, 0, &regs) &&
		    regs.orig_rax == SYS_remap_file_pages && regs.rdi - place < BYTES)
			break;
		if (ptrace(PTRACE_SYSCALL, thread, 0, pass))
			_exit(1);
	}
	__atomic_store_n(&steps->is_stopped, 1, __ATOMIC_SEQ_CST);
	/* The conversion may make the other thread wait for its end. The tracer goes on then. */
	(void)comes(&steps->is_replaced, 300);
	ptrace(PTRACE_DETACH, thread, 0, 0);
	_exit(0);
}

static void *replace_when_stopped(void *place)
{
	CHECK(comes(&steps->is_stopped, 20000));
	CHECK(mmap(place, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, plain_file,
		   BYTES) == place);
	__atomic_store_n(&steps->is_replaced, 1, __ATOMIC_SEQ_CST);
	return NULL;
}

/* The same at the one moment that counts: after the look at what is mapped, before the change. */
static void a_mapping_that_is_replaced_just_then(void)
{
	pid_t self = gettid(), tracer;
	pthread_t thread;
	int status;

	open_plain();
	steps_open();
	(void)prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
	tracer = fork();
	CHECK(tracer >= 0);
	if (!tracer)
		trace(self, (uintptr_t)seen);
	if (!comes(&steps->is_traced, 20000))
		check_skip("this process may not be traced");
	CHECK_ZERO(pthread_create(&thread, NULL, replace_when_stopped, seen));
	make(1, 6, PRIVATE);
	CHECK_ZERO(pthread_join(thread, NULL));
	CHECK_EQ(waitpid(tracer, &status, 0), tracer);
	CHECK_EQ(status, 0);
	for (uint64_t page = 0; page < PAGES; page++) {
		CHECK_EQ(touch(page), 0);
		CHECK_EQ(*word_at(seen, page * PAGE), page + 1);
	}
}

int main(int argc, char **argv)
{
	static const struct check_test tests[] = {
	    TEST(unknown_while_it_is_off),
	    TEST(capabilities),
	    TEST(what_is_refused),
	    TEST(private_at_first),
	    TEST(bytes_stay),
	    TEST(each_page),
	    TEST(later_mappings),
	    TEST(a_punch_changes_no_attribute),
	    TEST(files_that_are_not_mapped),
	    TEST(memory_fault),
	    TEST(under_a_running_guest),
	    TEST(contents),
	    TEST(huge_pages),
	    TEST(linked_files),
	    TEST(in_a_vcpus_hands),
	    TEST(growth_without_mappings_left),
	    TEST(mappings_that_come_and_go),
	    TEST(mappings_that_are_replaced),
	    TEST(a_mapping_that_is_replaced_just_then),
	};

	return check_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
