/* The host port over this process's own mappings: a pfn is a client address >> 12. */
#ifndef QUIRE_HOSTS_PROCESS_PROCESS_H
#define QUIRE_HOSTS_PROCESS_PROCESS_H

#include <stdbool.h>
#include <stdint.h>

#include <quire/host.h>
#include <quire/platform.h>

/* The platform: futex waits, one record a thread. */
extern const struct quire_platform process_platform;

/*
 * The host port. Its ctx is a struct process_host, at which only page_get() and page_put() look: a
 * guest_memfd that was linked may outlive the VM, and the ctx, that its first file was made with.
 */
extern const struct quire_host_ops process_host_ops;

/*
 * One a VM. The pages that were handed out by page_get() with PIN and have not been given back:
 * none when the VM has ended.
 */
struct process_host {
	uint64_t pinned; /* by any thread, atomically */
};

/*
 * The cookie of a vCPU: which thread runs it. The runner sets and clears it around KVM_RUN.
 */
struct process_runner {
	uint32_t tid; /* 0: no thread; written by the running thread, read by kickers */
};

/* The kernel's number of the running thread, where libc knows it without a system call. */
uint32_t process_thread_number(void);

/* A thread enters and leaves KVM_RUN with @runner. */
void process_runner_enter(struct process_runner *runner);
void process_runner_leave(struct process_runner *runner);

/*
 * A number that is this process's alone: another in the child of a fork. No system call but for the
 * first time in a process.
 */
uint64_t process_identity(void);

/* The signal that kicks; hidden from the client. */
int process_kick_signal(void);

/*
 * For programs that link the library and are not run under the preloaded one, which has handlers
 * of its own: install handlers of the kick signal, SIGSEGV and SIGBUS. A fault outside guarded
 * accesses goes on to the handler that stood there before. 0 or -errno.
 */
int process_signals_install(void);

/* Bytes that alloc() and chunk_alloc() of process_host_ops gave out and did not get back. */
uint64_t process_bytes_allocated(void);

#define PROCESS_STORE_RUNS 16u

/*
 * The cookie of a guest_memfd (quire_gmem_create()): its memory. @base is the one mapping of ours
 * of the whole file. Both stay until @destroyed: a lookup may use them when the release is over.
 */
struct process_store {
	void *base;
	uint64_t size_bytes;
	/* Pages never used read as zeros, and the client may write them through a mapping of its
	 * own before the library hears of them: they must not be cleared again. */
	bool born_zero;
	/* The pages that are asked for are made and no others: a userfaultfd of the client's brings
	 * in those that are missing. */
	bool is_exact;
	/*
	 * Of huge pages: their size (0: they are none), and a word for each of them, zero at first.
	 * @small is a second mapping of as many bytes, of the pages that the client may map, or
	 * NULL: there a huge page's pages are while they are small.
	 */
	uint64_t huge_bytes;
	uint8_t *units;
	void *small;
	/* The library is done with it, in any thread; takes no lock. NULL: no callback. */
	void (*destroyed)(struct process_store *store);
	/* Of the host port's store_show(). NULL: the client has no mappings of the store. */
	int (*show)(struct process_store *store, uint64_t offset_bytes, uint64_t size_bytes,
		    int shown);
	/* Private, zero at first: where first touches in sequence are to go on. */
	uint64_t runs[PROCESS_STORE_RUNS];
};

/*
 * What the machine says about the mapping at an address. Cached; process_mappings_changed() drops
 * the cache and is called by every interposed memory call: after the change, since what is looked
 * up before it would stay, and before quire_vm_host_invalidate_end().
 */
struct process_mapping {
	uint64_t start, end;
	uint32_t prot; /* PROT_* */
	bool shared, pfnmap;
	uint64_t page_size_bytes; /* hugetlb: its size; else 4096 */
	uint64_t device;	  /* of the file system: major << 20 | minor; 0: no file */
};
bool process_mapping_find(uint64_t address, struct process_mapping *mapping);
/* Might a touch of the page sleep? Never sleeps itself, and brings nothing in. */
bool process_touch_may_sleep(uint64_t hva, bool is_write);
void process_mappings_changed(void);

#endif
