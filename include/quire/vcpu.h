/* A vCPU as the memory subsystem sees it: guest mode, requests, faults, prefault. */
#ifndef QUIRE_VCPU_H
#define QUIRE_VCPU_H

#include <quire/types.h>

#ifdef __cplusplus
extern "C" {
#endif

struct quire_vm;
struct quire_vcpu;

/* What a vCPU must do before it runs guest code again. Bits of the doorbell. */
enum quire_request {
	QUIRE_REQ_TLB_FLUSH = 1u << 0, /* drop every cached translation */
	QUIRE_REQ_RELOAD = 1u << 1,    /* the root changed: handled by quire_vcpu_enter() */
	QUIRE_REQ_DIRTY_RING_FULL = 1u << 2,
	QUIRE_REQ_VM_DEAD = 1u << 3,
	/* Bits from here on belong to the client of the library (signals, interrupts ...). */
	QUIRE_REQ_CLIENT_SHIFT = 16,
};

struct quire_format;

/* The stage-2 tables a vCPU must walk while it is in guest mode. */
struct quire_stage2 {
	const struct quire_format *format; /* what the words mean: <quire/format.h> */
	uint64_t *root;			   /* format->root_entries */
	uint64_t root_physical;		   /* their address, for a register of the processor */
	enum quire_level root_level;
};

/* Why the vCPU could not go on; error code bits of a page fault, the hardware's and KVM's own. */
enum quire_pferr {
	QUIRE_PFERR_PRESENT = 1u << 0,
	QUIRE_PFERR_WRITE = 1u << 1,
	QUIRE_PFERR_USER = 1u << 2,
	QUIRE_PFERR_RSVD = 1u << 3,
	QUIRE_PFERR_FETCH = 1u << 4,
};
#define QUIRE_PFERR_GUEST_FINAL (UINT64_C(1) << 32)
#define QUIRE_PFERR_GUEST_PAGE (UINT64_C(1) << 33)
#define QUIRE_PFERR_PRIVATE (UINT64_C(1) << 49)
/* Ours: a supervisor's access while CR4.SMAP keeps it from user pages. */
#define QUIRE_PFERR_SMAP (UINT64_C(1) << 50)
/*
 * Ours: the vCPU has something else to do than to wait for the host's page. The fault is -EAGAIN
 * then, with the page in .hva and its address in .gpa.
 */
#define QUIRE_PFERR_NOWAIT (UINT64_C(1) << 51)

/* Outcome of a fault when it is no error. The values are KVM's RET_PF_*. */
enum quire_outcome {
	QUIRE_RETRY = 1,	   /* run the instruction again */
	QUIRE_EMULATE = 2,	   /* no memory there: MMIO */
	QUIRE_WRITE_PROTECTED = 3, /* a shadowed guest table: unprotect or emulate */
	QUIRE_FIXED = 5,	   /* a mapping was installed */
	QUIRE_SPURIOUS = 6,	   /* it was there already */
	/*
	 * While nested tables are set, EMULATE and WRITE_PROTECTED say in the fault's .gpa which
	 * address of L1 the access was to. WRITE_PROTECTED comes only then, for a write to one of
	 * the tables that map it: the caller stores with quire_vcpu_write().
	 * NESTED_FAULT: the nested tables of quire_vcpu_set_nested() refuse the access: the fault's
	 * .flags hold the error code (QUIRE_PFERR_*), .gpa the nested physical address;
	 * .size_bytes is 0.
	 */
	QUIRE_NESTED_FAULT = 7,
};

/* Details for KVM_EXIT_MEMORY_FAULT; valid when the fault returned an errno and size != 0. */
struct quire_memory_fault {
	uint64_t flags; /* bit 3: the access was private */
	gpa_t gpa;
	uint64_t size_bytes;
	/* With -EHWPOISON and size 0 the client's page that is lost, with -EAGAIN the one that the
	 * host waits for; .gpa is the address of L1 then. */
	hva_t hva;
};

/*
 * Create vCPU @id (below 4096, unused: else -EINVAL or -EEXIST; -ENOMEM). @cookie is handed to
 * the host's kick(). No lock held; takes vcpus_lock, may sleep. The vCPU holds a reference to the
 * VM.
 */
QUIRE_API QUIRE_MUST_CHECK int quire_vcpu_create(struct quire_vm *vm, uint32_t id, void *cookie,
						 struct quire_vcpu **vcpu);
/* Destroy a vCPU that no thread runs, with its reference to the VM. No lock held; takes vcpus_lock,
 * may sleep. Before the VM's last put(). */
QUIRE_API void quire_vcpu_destroy(struct quire_vcpu *vcpu);

/* What it was created with. Any thread, any lock. */
QUIRE_API uint32_t quire_vcpu_id(const struct quire_vcpu *vcpu);

/*
 * The doorbell: nonzero when a vCPU in guest mode must leave it soon. One relaxed load at every
 * block end is enough; the word lives as long as the vCPU.
 */
QUIRE_API const uint64_t *quire_vcpu_doorbell(const struct quire_vcpu *vcpu);

/* Raise @request (any bit) and kick the vCPU, whatever it does. Any thread, any lock. */
QUIRE_API void quire_vcpu_request(struct quire_vcpu *vcpu, uint64_t request);

/*
 * Clear those of @requests that are raised and return them. For the client's bits, before it looks
 * at the state they stand for, so that one raised meanwhile rings again. Any thread, any lock;
 * never sleeps. A full barrier when one was raised.
 */
QUIRE_API uint64_t quire_vcpu_take_requests(struct quire_vcpu *vcpu, uint64_t requests);

/*
 * Enter guest mode, by the vCPU's thread, out of guest mode, no lock held; may sleep until it is
 * in. Loads the root when there is none or it is obsolete (may take mmu_lock, may fail: -ENOMEM,
 * -EIO for a dead VM), then marks the vCPU in guest mode with a full barrier and only then takes
 * the library's requests, so that a flusher sees either the mode or its request taken. *@requests
 * is what was taken, and the client's bits that are raised and stay so: the caller honours them
 * before the first guest access. On QUIRE_REQ_TLB_FLUSH it drops all translations. Between enter
 * and leave the vCPU takes no lock of the library and calls nothing of it but the functions that
 * say so.
 */
QUIRE_API QUIRE_MUST_CHECK int quire_vcpu_enter(struct quire_vcpu *vcpu, uint64_t *requests,
						struct quire_stage2 *stage2);
/* Leave guest mode, by the vCPU's thread; flushers stop waiting for it. A release. Never sleeps. */
QUIRE_API void quire_vcpu_leave(struct quire_vcpu *vcpu);

/*
 * The guest touched @gpa and the tables did not allow it. Out of guest mode, no lock held; may
 * sleep. @error_code is QUIRE_PFERR_*: PRESENT when the entry was there but lacked the right,
 * RSVD for a reserved bit. By the vCPU's thread; takes mmu_lock. Returns an enum quire_outcome, or
 * -errno; then @fault says whether this is a memory-fault exit. -EFAULT: no page, or not with this
 * access; -EINTR: a request of the client's came while the host was asked; -EHWPOISON: the page is
 * lost; -EAGAIN: with QUIRE_PFERR_NOWAIT alone; -ENOMEM; -EIO: a dead VM. A host's page_get() and
 * store_get() may answer others, which come through. (F-001 to F-026, F-053.)
 */
QUIRE_API QUIRE_MUST_CHECK int quire_vcpu_fault(struct quire_vcpu *vcpu, gpa_t gpa,
						uint64_t error_code,
						struct quire_memory_fault *fault);
/*
 * The page has come for which the fault of @gpa with @error_code would have waited (-EAGAIN): map
 * it before the guest asks again. No guest access stands behind it, so it marks nothing accessed,
 * and counts pf_fixed alone. Does nothing where it cannot, nor while nested tables are set. By the
 * vCPU's thread, out of guest mode, no lock held; may sleep, if the page went again.
 */
QUIRE_API void quire_vcpu_page_ready(struct quire_vcpu *vcpu, gpa_t gpa, uint64_t error_code);

/*
 * What the addresses of a nested guest (L2) mean: the nested tables of the guest hypervisor (L1).
 * While they are set, a gpa handed to quire_vcpu_fault() is one of L2.
 */
struct quire_nested {
	gpa_t root;
	uint32_t levels; /* 5 or 4: long mode; 3: PAE; 2: 32-bit, with entries of 4 bytes */
	uint32_t nx;	 /* EFER.NXE; 0 with 2 levels, whose entries have no such bit */
	/*
	 * Nonzero: no nested guest, but the guest itself, on a processor without a second stage.
	 * .root is its CR3, a "gpa" of L2 the bits of a linear address that its tables translate;
	 * the tables handed out have U where the guest's have, and are to be walked as by a
	 * processor with CR0.WP and EFER.NXE set. Error codes are those of #PF; QUIRE_PFERR_SMAP
	 * goes with them.
	 */
	uint32_t paging;
	uint32_t wp, smap; /* with .paging: CR0.WP, CR4.SMAP */
	/* CR4.SMEP. Of nested tables it is L1's, and says that error codes tell fetches apart. */
	uint32_t smep;
	uint32_t pse;  /* with 2 levels: CR4.PSE, an entry may map 4 MiB */
	uint32_t zero; /* unused */
	/* With 3 levels: the entries at .root, as the processor loaded them; the library reads none
	 * from memory. */
	uint64_t directories[4];
};

/*
 * From the next quire_vcpu_enter() on stage 2 is the shadow of @nested's tables; NULL: back to
 * L1's own. No lock held, out of guest mode; may sleep. -ENOMEM; -EOPNOTSUPP for other than 2 to
 * 5 levels, for .paging in a VM whose guests the TDP MMU serves, in a VM of another processor's
 * tables or of QUIRE_FORMAT_EPT_MODES, or for a host that cannot load and change single words of
 * guest memory. After an error L1's own are set.
 */
QUIRE_API QUIRE_MUST_CHECK int quire_vcpu_set_nested(struct quire_vcpu *vcpu,
						     const struct quire_nested *nested);
/*
 * Which of the VM's address spaces the guest sees from the next quire_vcpu_enter() on: 0 at first,
 * 1 in system management mode. It is another root: what the vCPU translated goes, by
 * QUIRE_REQ_TLB_FLUSH at that entry, and coming back finds what the other root still maps. Faults,
 * prefaults, quire_vcpu_read(), _write() and _map() are about this space from now on; a page in
 * the vCPU's hands (quire_vcpu_map()) stays the one it is, and is logged where it was mapped, and
 * places (quire_place_set()) show space 0 whatever this says. L1's tables of
 * quire_vcpu_set_nested() are read in it. -EINVAL, with nothing changed: the VM has no such space
 * (quire_vm_address_spaces()). By the vCPU's thread, out of guest mode, no lock held; never sleeps.
 */
QUIRE_API QUIRE_MUST_CHECK int quire_vcpu_set_address_space(struct quire_vcpu *vcpu,
							    uint32_t address_space);
/*
 * L1 flushed its nested translations (TLB_CONTROL, INVLPGA, a new ASID): shadowed tables that may
 * lag are brought up to date by the next quire_vcpu_enter(). By the vCPU's thread, out of guest
 * mode; takes no lock, never sleeps.
 */
QUIRE_API void quire_vcpu_flush_nested(struct quire_vcpu *vcpu);

/*
 * Where the tables of quire_vcpu_set_nested() lead for @gpa, with the rights of @error_code; A and
 * D are set there. 0; -EFAULT: they refuse, or changed again and again meanwhile; -EINTR and others
 * of the host's cmpxchg_u64(). Only while such tables are set. By the vCPU's thread, out of guest
 * mode, no lock held; may sleep.
 */
QUIRE_API QUIRE_MUST_CHECK int quire_vcpu_walk_nested(struct quire_vcpu *vcpu, gpa_t gpa,
						      uint64_t error_code, gpa_t *result);

/*
 * Populate [gpa, gpa + size) without a guest access (KVM_PRE_FAULT_MEMORY): one step. On success
 * returns 0 and *@done_bytes > 0, what the step covered. Errors: -ENOENT (no slot), -EAGAIN (slot
 * going away), -EINTR, -EIO, -EOPNOTSUPP, and those of a fault. By the vCPU's thread, out of guest
 * mode, no lock held; may sleep.
 */
QUIRE_API QUIRE_MUST_CHECK int quire_vcpu_prefault(struct quire_vcpu *vcpu, gpa_t gpa,
						   uint64_t size_bytes, uint64_t *done_bytes);
/*
 * After quire_vcpu_prefault() said -EHWPOISON: the client's page that is lost; 0 where the page is
 * a guest_memfd's. By the vCPU's thread.
 */
QUIRE_API hva_t quire_vcpu_lost_page(const struct quire_vcpu *vcpu);

/*
 * The hypervisor's own access to guest memory, through the slots' client addresses (shared view);
 * page by page, -EFAULT, or what the host's copy_from() or copy_to() said, at the first page out of
 * reach with the pages before it done. Writes are
 * logged; -ENOSPC when the vCPU's dirty ring has no room for them, which is so only when it was
 * full before the call. Out of guest mode, no lock held; may sleep.
 */
QUIRE_API QUIRE_MUST_CHECK int quire_vcpu_read(struct quire_vcpu *vcpu, gpa_t gpa, void *dst,
					       size_t size_bytes);
QUIRE_API QUIRE_MUST_CHECK int quire_vcpu_write(struct quire_vcpu *vcpu, gpa_t gpa, const void *src,
						size_t size_bytes);

#ifdef __cplusplus
}
#endif

#endif
