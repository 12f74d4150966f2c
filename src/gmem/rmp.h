/* The reverse map: which private page of which VM a host frame holds, in software. */
#ifndef QUIRE_GMEM_RMP_H
#define QUIRE_GMEM_RMP_H

#include <quire/confidential.h>

#include "src/gmem/gmem.h"

/*
 * Hardware with private memory has a table of all frames, and refuses a frame to a VM that does not
 * own it. This is that table for VMs with software-protected memory: the first user of struct
 * gmem_arch_ops. VMs with one host and host_ctx share one map, so that a frame handed out twice is
 * noticed.
 *
 *              make_private            invalidate
 *   (free) ---------------> VALID ------------------> ASSIGNED to the VM, gfn undecided
 *     ^                       ^                          |  |
 *     |                       `------ make_private ------'  |
 *     `------------ make_shared, reclaim; from VALID, too --'
 *
 * make_shared comes when the gfn is converted. A page that no slot shows then is made shared by the
 * first shared lookup that finds it.
 *
 * A confidential architecture hears of frames that are assigned and not valid yet, and they become
 * valid when it has agreed: a lookup that asks no lock finds none of them before that. It hears of
 * an end before the map notes it.
 *
 * I-18 a frame is assigned to one VM, and while it is valid to one gfn of it. Frames of 2 MiB that
 * are valid at consecutive gfns are one huge assignment.
 */
struct rmp;

/* One VM's part in the map. */
struct rmp_vm {
	struct gmem_arch arch; /* what vm->gmem_arch points at */
	struct rmp *map;       /* counted */
	/* (c) of the VM's confidential architecture, and its functions' ctx; NULL: there is none */
	const struct quire_confidential_ops *hardware;
	void *hardware_ctx;
	u64 id; /* (c) of the VM in the map */
};

/* What the map knows of a frame. */
struct rmp_entry {
	u64 vm_id; /* 0: free */
	gfn_t gfn;
	u32 valid;
	enum quire_level level;
};

/* Join the map of the VM's host, making it for the first: -ENOMEM, or -ENOSPC without ids. */
must_check int rmp_join(struct quire_vm *vm, struct rmp_vm **result);
/* All frames of the VM were reclaimed. */
void rmp_leave(struct quire_vm *vm, struct rmp_vm *rmp);

/* In the child of a fork: forget the maps, which are its parent's. */
void rmp_start_anew(void);

/* A look at @pfn, without a lock: exact while nothing changes it. */
void rmp_read(const struct rmp_vm *rmp, pfn_t pfn, struct rmp_entry *entry);
/* Is @pfn valid at @gfn of this VM? */
int rmp_allows(const struct rmp_vm *rmp, gfn_t gfn, pfn_t pfn);
/* Does no VM own @pfn: may it be mapped shared, and used by the host? */
int rmp_is_free(const struct rmp_vm *rmp, pfn_t pfn);

#endif
