/* A tiny machine monitor for tests: a plain KVM client, with a guest that does what it is told. */
#ifndef RULES_CLIENT_H
#define RULES_CLIENT_H

#include <linux/kvm_para.h>
#include <pthread.h>
#include <stdint.h>
#include <sys/ioctl.h>

#include "check.h"
#include "frontend/uapi.h"

#define PAGE 4096ul
#define HUGE_PAGE (2ul << 20)
/* The guest's own memory: code, page tables. Out of the way of every test. */
#define AGENT_SLOT 32763u
#define AGENT_GPA 0xc0000000ul
#define AGENT_BYTES (16 * PAGE)
#define AGENT_PORT 0x80

struct vm {
	int kvm;
	int fd;
	uint8_t *agent; /* host address of the agent's memory; NULL when there is none */
};

struct vcpu {
	struct vm *vm;
	int fd;
	struct kvm_run *run;
};

/* From here on the calling thread may start no other, nor fork. False: quire-engine does it, which
 * no filter of the client's holds up. */
int client_refuse_threads(void);
/* Opens /dev/kvm; the VM has no memory yet. Skips the test where this KVM lacks the type. */
void vm_open(struct vm *vm, unsigned long type);
/* Gives it the agent's memory. */
void vm_add_agent(struct vm *vm);
/* VMRUN needs a host save area: one page that nothing else uses. */
void vcpu_set_host_save_area(int vcpu);
/* vCPU @id with the agent's page tables, in 64-bit mode; gpas below 4 GiB are linear addresses. */
void vcpu_open(struct vm *vm, struct vcpu *vcpu, unsigned long id);
/* What this KVM can show a guest; to be freed. */
struct kvm_cpuid2 *supported_cpuid(const struct vm *vm);
/* The vCPU may use SVM from now on; skips the test where this KVM offers none. */
void vcpu_enable_svm(struct vcpu *vcpu);
/* A VM with the agent's memory and one vCPU. */
void machine_open(struct vm *vm, struct vcpu *vcpu, unsigned long type);

/* KVM_SET_USER_MEMORY_REGION2 with these fields; the rest is zero. */
#define REGION(vm, ...)                              \
	ioctl((vm)->fd, KVM_SET_USER_MEMORY_REGION2, \
	      &(struct kvm_userspace_memory_region2){__VA_ARGS__})
#define REGION1(vm, ...)                            \
	ioctl((vm)->fd, KVM_SET_USER_MEMORY_REGION, \
	      &(struct kvm_userspace_memory_region){__VA_ARGS__})

int vm_gmem(const struct vm *vm, uint64_t size_bytes, uint64_t flags);

/* A descriptor of each kind: a guest_memfd of 4 pages, and a VM's statistics. */
enum object { KVM, VM, VCPU, GMEM, STATS, OBJECTS };
void objects_open(int descriptors[OBJECTS]);
int vm_set_attributes(const struct vm *vm, uint64_t gpa, uint64_t size_bytes, uint64_t attributes);
/* Is the module parameter there, and Y? */
int parameter_is_on(const char *module, const char *name);
/* Has the processor nested paging, as the module's parameter says? 0 or 1. */
int has_second_stage(void);
/* Does the processor set A and D in the tables of its second stage? */
int marks_accesses(void);
int vm_cap(const struct vm *vm, unsigned long cap);
int vm_enable_cap(const struct vm *vm, uint32_t cap, uint64_t argument);

/* Zeroed private memory, aligned to 2 MiB, of small pages; never freed before the test ends. */
uint8_t *memory_alloc(size_t size_bytes);
/* Bytes that the machine can give; 0 where it does not say. */
uint64_t memory_available(void);
uint64_t *word_at(uint8_t *memory, uint64_t offset_bytes);

/* A userfaultfd that watches this memory; skips where there is none, or none of that mode. */
int userfault_open(void *watched, uint64_t size_bytes, uint64_t mode);
/* The page that is waited for next, within 10 s; *@is_minor, if any: does it exist already? */
uint64_t userfault_next(int fd, int *is_minor);
/* Is nothing waited for? */
int userfault_is_quiet(int fd);
/* A page that holds @word: copied in where it is missing; or what is there goes on. */
void userfault_give(int fd, uint64_t address, uint64_t word);
void userfault_continue(int fd, uint64_t address);

/* What the guest can be told to do. Registers: rax is the value, rbx the address. */
enum guest_code {
	GUEST_LOAD1,
	GUEST_LOAD2,
	GUEST_LOAD4,
	GUEST_LOAD8,
	GUEST_STORE1,
	GUEST_STORE2,
	GUEST_STORE4,
	GUEST_STORE8,
	GUEST_INCREMENT,  /* lock incq */
	GUEST_CALL,	  /* run the code at rbx; it ends by out to AGENT_PORT */
	GUEST_LOAD_EACH,  /* rcx words, rdx bytes apart; rax is their sum */
	GUEST_STORE_EACH, /* rcx words, rdx bytes apart */
	GUEST_WAIT_WHILE, /* load until the word is not rax; rax is the new one */
	GUEST_COUNT,	  /* incq rbx's word until rcx's is not 0 */
	GUEST_STORE_LOOP, /* store rax to rcx pages from rbx on, until rdx's word is not 0 */
	GUEST_OUT,	  /* rax, 4 bytes, to port dx */
	GUEST_OUT1,	  /* one byte */
	GUEST_IN,
	GUEST_HYPERCALL,
	GUEST_BREAKPOINT,
	GUEST_VMLOAD, /* of the page at rbx */
	GUEST_CODES,
};

struct guest_op {
	enum guest_code code;
	uint64_t rax, rbx, rcx, rdx;
};

/* How an operation ended. */
enum end {
	END_DONE,
	END_MMIO,
	END_FAULT,	  /* EFAULT alone */
	END_MEMORY_FAULT, /* an errno with KVM_EXIT_MEMORY_FAULT */
	END_SIGNAL,	  /* EINTR */
	END_OTHER,	  /* see exit_reason and error */
};

struct outcome {
	enum end end;
	int error;
	uint32_t exit_reason;
	uint64_t value; /* END_DONE: rax */
	struct uapi_memory_fault fault;
	struct {
		uint64_t gpa, data;
		uint32_t bytes;
		uint8_t is_write;
	} mmio;
};

/* Let an exit's instruction end without running the guest any further. */
void vcpu_complete(struct vcpu *vcpu);
/* Set the registers for @op; with vcpu_run() afterwards. Finishes what the last exit left. */
void vcpu_prepare(struct vcpu *vcpu, const struct guest_op *op);
/* KVM_RUN until anything but END_SIGNAL by a stray signal happens. */
struct outcome vcpu_run(struct vcpu *vcpu);
/* Both. */
#define GUEST(vcpu, operation, ...) \
	guest_do(vcpu, &(struct guest_op){.code = operation, ##__VA_ARGS__})
struct outcome guest_do(struct vcpu *vcpu, const struct guest_op *op);

/* A load and a store of 8 bytes, END_DONE or the test has failed. */
uint64_t guest_load(struct vcpu *vcpu, uint64_t gpa);
void guest_store(struct vcpu *vcpu, uint64_t gpa, uint64_t value);
/* How an access of 8 bytes ends. */
struct outcome guest_try_load(struct vcpu *vcpu, uint64_t gpa);
struct outcome guest_try_store(struct vcpu *vcpu, uint64_t gpa, uint64_t value);

#define CHECK_END(outcome, wanted) check_end(__FILE__, __LINE__, outcome, wanted)
void check_end(const char *file, int line, struct outcome outcome, enum end wanted);

/* An operation on a thread of its own. SIGUSR1 is the kick, its handler does nothing. */
struct guest_thread {
	pthread_t thread;
	struct vcpu *vcpu;
	struct guest_op op;
	struct outcome outcome;
	uint32_t is_done;
};

void thread_start(struct guest_thread *thread, struct vcpu *vcpu, const struct guest_op *op);
/* Has the operation ended after so many milliseconds? */
int thread_ended_within(struct guest_thread *thread, unsigned int milliseconds);
/* Kicks until the operation has ended: a kick that comes before KVM_RUN does not end it. */
void thread_kick(struct guest_thread *thread);
struct outcome thread_join(struct guest_thread *thread);

/* A statistic of a VM or vCPU by KVM's name. */
uint64_t stat_get(int fd, const char *name);

/* All statistics of a VM, to see that a refused call changed nothing. */
#define SNAPSHOT_VALUES 512
struct snapshot {
	size_t size_bytes;
	uint64_t values[SNAPSHOT_VALUES];
};
void snapshot_take(const struct vm *vm, struct snapshot *snapshot);
void snapshot_check(const struct vm *vm, const struct snapshot *before, const char *file, int line);

/* The call is refused with this errno and leaves the VM's statistics as they were. */
#define REFUSED(vm, call, number)                                 \
	do {                                                      \
		static struct snapshot before_;                   \
		snapshot_take(vm, &before_);                      \
		CHECK_ERR(call, number);                          \
		snapshot_check(vm, &before_, __FILE__, __LINE__); \
	} while (0)

/* Does touching the byte raise a signal? Its number and code, or 0. */
struct signal_seen {
	int number;
	int code;
	void *address;
};
struct signal_seen touch_byte(volatile uint8_t *byte);

#endif
