/*
 * A client of `quire run --cpuid` that looks at the processor itself, everywhere in a program: it
 * has to see what KVM_GET_SUPPORTED_CPUID says. Its argument is a library with the instruction.
 */
#include <cpuid.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/preload/check.h"

#define ENTRIES 256
#define AGAIN "again"
#define MWAIT (1u << 3)
#define VMX (1u << 5)
#define SVM (1u << 2)
#define APIC_ID 0xff000000u

typedef void (*look_fn)(uint32_t leaf, uint32_t subleaf, uint32_t out[4]);

static struct {
	struct kvm_cpuid2 head;
	struct kvm_cpuid_entry2 entries[ENTRIES];
} supported;

static void look(uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
	__cpuid_count(leaf, subleaf, out[0], out[1], out[2], out[3]);
}

static void ask_kvm(void)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	CHECK(kvm >= 0);
	supported.head.nent = ENTRIES;
	CHECK(!ioctl(kvm, KVM_GET_SUPPORTED_CPUID, &supported));
	CHECK(supported.head.nent > 10);
	close(kvm);
}

/* What is a host's own and no guest's: which processor runs, and that it can have guests. */
static void hide_own(uint32_t leaf, uint32_t out[4])
{
	if (leaf == 1) {
		out[1] &= ~APIC_ID;
		out[2] &= ~(VMX | MWAIT);
	} else if (leaf == 0xb) {
		out[3] = 0;
	} else if (leaf == 0x80000001) {
		out[2] &= ~SVM;
	}
}

static void check_all(look_fn how)
{
	for (uint32_t i = 0; i < supported.head.nent; i++) {
		const struct kvm_cpuid_entry2 *entry = &supported.entries[i];
		uint32_t wanted[4] = {entry->eax, entry->ebx, entry->ecx, entry->edx}, out[4];

		how(entry->function, entry->index, out);
		hide_own(entry->function, wanted);
		hide_own(entry->function, out);
		CHECK(!memcmp(wanted, out, sizeof(out)));
	}
}

/* Either of the two says to kvmtool that there can be a KVM. */
static void check_virtualisation(void)
{
	uint32_t leaf1[4], leaf8[4];

	look(1, 0, leaf1);
	look(0x80000001, 0, leaf8);
	CHECK((leaf1[2] & VMX) || (leaf8[2] & SVM));
	CHECK(leaf1[2] & MWAIT);
}

static void *thread_main(void *argument)
{
	check_all(look);
	return argument;
}

static void check_child(pid_t child)
{
	int status;

	CHECK(child > 0 && waitpid(child, &status, 0) == child);
	CHECK(WIFEXITED(status) && !WEXITSTATUS(status));
}

static void test_processes(char **argv)
{
	char *again[] = {argv[0], (char *)AGAIN, argv[1], NULL};
	pthread_t thread;
	pid_t child;

	CHECK(!pthread_create(&thread, NULL, thread_main, NULL));
	CHECK(!pthread_join(thread, NULL));
	child = fork();
	if (!child) {
		check_all(look);
		_exit(0);
	}
	check_child(child);
	child = vfork();
	if (!child) {
		execv(argv[0], again);
		_exit(1);
	}
	check_child(child);
}

#ifdef STATIC
#define test_library(path) ((void)(path))
#else
static void test_library(const char *path)
{
	void *library;
	look_fn how;

	if (!path)
		return;
	library = dlopen(path, RTLD_NOW);
	CHECK(library);
	how = (look_fn)(uintptr_t)dlsym(library, "library_look");
	CHECK(how);
	check_all(how);
	CHECK(!dlclose(library));
}
#endif

/* The instruction's bytes inside of another, and as data in text. */
__asm__(".pushsection .text\n\t.type data_in_text, @object\n"
	"data_in_text:\t.byte 0x0f, 0xa2, 0x0f, 0xa2\n\t.size data_in_text, 4\n\t.popsection");
extern const uint8_t data_in_text[4] __attribute__((visibility("hidden")));

static void test_other_bytes(void)
{
	uint64_t value;

	__asm__ volatile("movabsq $0x1111a20f1111a20f, %0" : "=r"(value));
	CHECK((value & 0xff) == 0x0f && (value >> 8 & 0xff) == 0xa2);
}

/*
 * A CPUID that faults by itself, as on machines that have that: here a signal says so. It comes
 * when the system call returns, before the instruction, which is in memory that is no file's.
 */
static void test_faulting(void)
{
	static const uint8_t code[] = {
	    0x53,		    /* push %rbx */
	    0xb8, 0x29, 0x01, 0, 0, /* mov $rt_tgsigqueueinfo, %eax */
	    0x49, 0x89, 0xca,	    /* mov %rcx, %r10 */
	    0x0f, 0x05,		    /* syscall: 0 in %eax */
	    0x0f, 0xa2,		    /* cpuid */
	    0x89, 0xd8,		    /* mov %ebx, %eax */
	    0x5b, 0xc3,		    /* pop %rbx; ret */
	};
	siginfo_t info = {.si_signo = SIGSEGV, .si_code = SI_KERNEL};
	void *room = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint32_t (*run)(pid_t, pid_t, int, siginfo_t *);
	uint32_t out[4];

	CHECK(room != MAP_FAILED);
	memcpy(room, code, sizeof(code));
	run = (uint32_t(*)(pid_t, pid_t, int, siginfo_t *))(uintptr_t)room;
	look(0, 0, out);
	CHECK(run(getpid(), (pid_t)syscall(SYS_gettid), SIGSEGV, &info) == out[1]);
	CHECK(!munmap(room, 4096));
}

static sig_atomic_t own_faults;

static void on_fault(int signal, siginfo_t *info, void *context)
{
	(void)signal;
	(void)context;
	own_faults++;
	CHECK(info->si_code == SEGV_MAPERR || info->si_code == SEGV_ACCERR);
	CHECK(!mprotect(info->si_addr, 4096, PROT_READ | PROT_WRITE));
}

/* The client's own faults are its own. */
static void test_own_faults(void)
{
	struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
	volatile char *page = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(page != MAP_FAILED);
	CHECK(!sigaction(SIGSEGV, &action, NULL));
	*page = 1;
	CHECK(own_faults == 1);
	check_all(look);
	CHECK(own_faults == 1);
}

int main(int argc, char **argv)
{
	int is_again = argc > 1 && !strcmp(argv[1], AGAIN);

	ask_kvm();
	check_all(look);
	check_virtualisation();
	test_library(argv[1 + is_again]);
	if (is_again)
		return 0;
	test_processes(argv);
	CHECK(data_in_text[0] == 0x0f && data_in_text[1] == 0xa2);
	test_other_bytes();
	test_faulting();
	test_own_faults();
	return 0;
}
