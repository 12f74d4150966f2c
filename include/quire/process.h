/*
 * The host port over a process's own memory, as a library of its own (libquire-process, on x86-64
 * Linux): threads, page faults, guest_memfd storage and kicks, so that a program has VMs without
 * writing a port.
 */
#ifndef QUIRE_PROCESS_H
#define QUIRE_PROCESS_H

#include <quire/host.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * A hva is a pointer of this process, below 2^47 - 4096. A pfn is a pointer >> 12, and table words
 * hold pointers: .table_offset is 0 and .maxphyaddr 48. The address that a walk finds is reached
 * with quire_process_load() and quire_process_store(), since the memory behind it may go at any
 * moment.
 *
 * Before the process unmaps, moves or protects memory of a slot it calls
 * quire_vm_host_invalidate_begin(), then makes the change, then calls
 * quire_process_mappings_changed() and quire_vm_host_invalidate_end(). Mappings that are new need
 * quire_process_mappings_changed() alone, before a slot has them.
 */

/*
 * Install the platform (quire_platform_install()) and handlers of SIGSEGV, SIGBUS and
 * quire_process_kick_signal(). A fault that is none of this library's goes on to the handler that
 * was there before, and a handler that is installed later must do the same. Before any other call
 * of both libraries, by one thread; again it changes nothing but handlers. 0 or -errno, and the
 * handlers are those of before.
 */
QUIRE_API QUIRE_MUST_CHECK int quire_process_start(void);

/* For .host of struct quire_vm_config. Any thread, any lock. */
QUIRE_API const struct quire_host_ops *quire_process_host(void);

/* For .host_ctx: one a VM, zeroed, until the VM and its guest_memfd files have ended. */
struct quire_process_vm {
	uint64_t pinned_pages; /* kept for the caller now: 0 when the VM has ended */
};

/* The cookie of quire_vcpu_create(): zeroed, until the vCPU is destroyed. */
struct quire_process_vcpu {
	uint32_t thread; /* that runs it, by the kernel's number; 0: none */
};

/*
 * The calling thread runs @vcpu from here on, or no longer: so it can be kicked, out of guest mode
 * and out of waiting for a page. Around each loop of enter, walk, leave and fault. No lock needed.
 */
QUIRE_API void quire_process_vcpu_begin(struct quire_process_vcpu *vcpu);
QUIRE_API void quire_process_vcpu_end(struct quire_process_vcpu *vcpu);

/*
 * Copy between the caller's memory and what a walk found, in guest mode as well as out of it. 0;
 * -EFAULT: nothing is mapped there, or not with this access; -EHWPOISON: the page is lost; -EINTR:
 * a kick or another signal came first, look at the requests and do it again. What was copied before
 * an error stays. May sleep as an access of the process's does. No lock held.
 */
QUIRE_API QUIRE_MUST_CHECK int quire_process_load(uint64_t physical, void *to, size_t size_bytes);
QUIRE_API QUIRE_MUST_CHECK int quire_process_store(uint64_t physical, const void *from,
						   size_t size_bytes);

/* What is known of the process's mappings is asked anew. Any thread, any lock; never sleeps. */
QUIRE_API void quire_process_mappings_changed(void);

/* The signal of kicks: the program leaves it alone. */
QUIRE_API int quire_process_kick_signal(void);

/*
 * Memory for a guest_memfd of @size_bytes, a multiple of the page size: the cookie for
 * quire_gmem_create() with this host. It goes when the library is done with the file; a cookie that
 * quire_gmem_create() refused goes with quire_process_memory_free(). -EINVAL, -ENOMEM. No lock
 * held.
 */
QUIRE_API QUIRE_MUST_CHECK int quire_process_memory_create(uint64_t size_bytes, void **cookie);
/*
 * The same in huge pages of @page_bytes, 2 MiB or 1 GiB, of which @size_bytes is a multiple, for
 * QUIRE_GMEM_HUGETLB: all are reserved in the machine's pool until the memory goes. -EINVAL: other
 * sizes; -ENOMEM: the pool has not enough. A page that is punched goes back to the pool, and may be
 * missing later.
 */
QUIRE_API QUIRE_MUST_CHECK int quire_process_memory_create_huge(uint64_t size_bytes,
								uint64_t page_bytes, void **cookie);
/* Free memory that no file took. No lock held. */
QUIRE_API void quire_process_memory_free(void *cookie);

#ifdef __cplusplus
}
#endif

#endif
