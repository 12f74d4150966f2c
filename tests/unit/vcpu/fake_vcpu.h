/* A guest for CPU tests: RAM, stage-2 tables filled on demand, a device everywhere else. */
#ifndef TESTS_UNIT_VCPU_FAKE_VCPU_H
#define TESTS_UNIT_VCPU_FAKE_VCPU_H

#include <pthread.h>

#include "tests/unit/vcpu/guest_state.h"

/* Where RAM has what space 1 has at @gpa. */
#define SPACE_1(gpa) ((gpa) ^ RAM_BYTES / 2)

struct fake_vm {
	uint8_t *ram;
	uint64_t *root;
	pthread_mutex_t *lock;
	void *tables;
	uint64_t tables_used;
};

/* What the surroundings of one CPU saw and answer. */
struct quire_vcpu {
	struct fake_vm *vm;
	uint64_t doorbell;
	int in_guest;
	unsigned int faults;
	uint64_t last_fault_gpa, last_fault_error;
	int fault_result; /* not 0: what every fault answers */
	unsigned int
	    retries;	   /* faults that find memory changing; the last of them is the end of it */
	uint64_t lost_pfn; /* the frame of which the library was told; its fault is -EHWPOISON */
	uint64_t nested_root; /* of quire_vcpu_set_nested(); 0: none */
	unsigned int nested_roots, nested_flushes;
	uint32_t space;		   /* of quire_vcpu_set_address_space(): see SPACE_1() */
	int one_space;		   /* and there is no other */
	int maps;		   /* pages in the CPU's hands */
	uint64_t nested_fault_gpa; /* L1's tables refuse this page; 0: none */
	uint64_t nested_offset;	   /* L1's tables, walked by hand, lead so far; 0: nowhere */
	uint64_t nested_error;	   /* of the last such walk */
	uint64_t read_only_gpa;	   /* a page whose writes are emulated; 0: none */
	uint64_t slow_gpa;	   /* a page that the host waits for; 0: none */
	struct cpu *cpu;
	/* Devices. */
	int device_in_kernel; /* answer inside */
	uint64_t device_value;
	unsigned int device_calls;
	int interrupt;	       /* -1: none */
	int late_interrupt;    /* comes when the vCPU has just asked whether one waits; 0: none */
	int freed_interrupt;   /* deliverable when a device is written to; 0: none */
	int no_long_mode;      /* in CPUID */
	uint32_t svm_features; /* CPUID 8000000a, EDX */
	/* CPUID, in place of our own. */
	void (*cpuid)(uint32_t leaf, uint32_t subleaf, uint32_t out[4]);
	char log[160];
};

struct fake_vm *fake_vm_create(void);
void fake_vm_destroy(struct fake_vm *vm);
/* A CPU in 64-bit mode at GUEST_CODE with IF off. */
struct quire_vcpu *fake_vcpu_create(struct fake_vm *vm);
/* The code from @start to @end, put at GUEST_CODE, runs with a fresh stack until the vCPU stops. */
enum cpu_exit fake_vcpu_run(struct quire_vcpu *vcpu, const uint8_t *start, const uint8_t *end);
/* For .cpuid: every feature of leaves 1 and 7, long mode and NX. */
void fake_cpuid_with_pcid(uint32_t leaf, uint32_t subleaf, uint32_t out[4]);
void fake_vcpu_destroy(struct quire_vcpu *vcpu);
/* Flat segments of 32-bit code; that of CS is SELECTOR_CODE32, which the caller puts into the GDT.
 */
void fake_flat_segments(struct cpu_state *s);
/* For cmocka: *@state is the CPU, which goes with its VM. 0. */
int fake_vcpu_teardown(void **state);
/* SIGSEGV and SIGBUS go to guard_handle_signal(). */
void fake_signals_install(void);
/* While set, a SIGSEGV goes there as the SIGBUS of a memory failure. */
extern int fake_memory_failure;
/* Drop every stage-2 entry, as an invalidation would, and ask for a flush. */
void fake_vm_zap(struct fake_vm *vm, struct quire_vcpu *vcpu);

#endif
