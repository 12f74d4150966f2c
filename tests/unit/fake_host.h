/* A host for the tests of src/vm: allocations that can fail, and stores of imagined pages. */
#ifndef TESTS_UNIT_VM_FAKE_HOST_H
#define TESTS_UNIT_VM_FAKE_HOST_H

#include <pthread.h>
#include <quire/host.h>
#include <quire/platform.h>
#include <quire/vm.h>

#define FAKE_GARBAGE UINT64_C(0xdeadbeefdeadbeef)
#define FAKE_STORE_PAGES 2048u

/* A page of a store: what it holds is one word. */
struct fake_page {
	uint64_t pfn; /* 0: absent */
	uint64_t content;
	uint32_t zeroed; /* times store_zero() met it since it was made */
};

struct fake_store {
	uint64_t size_bytes;
	struct fake_page pages[FAKE_STORE_PAGES];
};

struct fake_host {
	pthread_mutex_t lock;
	uint64_t live_allocs;
	uint64_t live_bytes;
	uint64_t allocs;	 /* so far */
	uint64_t fail_at;	 /* the alloc with this number fails; 0: none */
	void (*meanwhile)(void); /* what another thread does during the next alloc, once; or NULL */
	uint64_t next_pfn;
	uint32_t scatter; /* leave a gap between frames */
	uint32_t huge;	  /* give order 9 where it is asked for and a block is empty */
	int get_error;	  /* what store_get() answers instead */
	int zero_error;
	uint32_t stores;
	uint32_t gets;
};

extern struct fake_host fake;
extern const struct quire_host_ops fake_ops;

/* Broken invariants that the library reported. */
extern uint64_t fake_reports;

/* Fresh state, and the platform installed. */
void fake_reset(void);

/* The next allocation but @n - 1 fails. */
void fake_fail_in(uint64_t n);

/* Another thread that is in a read section for a while; is it still; and its end. */
void fake_reader_begin(void);
int fake_reader_is_inside(void);
void fake_reader_end(void);

/* A VM of @type on a fresh host; its end, which leaves nothing behind. */
struct quire_vm *fake_vm_make(enum quire_vm_type type);
void fake_vm_end(struct quire_vm *vm);
/* The same with slots_lock held from the one to the other, for changes of slots. */
struct quire_vm *fake_vm_make_locked(enum quire_vm_type type);
void fake_vm_end_locked(struct quire_vm *vm);

#endif
