/* What the client and the guest hypervisor tell each other, in L1's memory. */
#ifndef TESTS_GUEST_BOX_H
#define TESTS_GUEST_BOX_H

#include <stdint.h>

#define BOX_STORES 48u
#define BOX_LOADS 5u
/* L1 says that it is done by a byte to this port. */
#define BOX_PORT 0x80

/* Addresses are L1's physical ones, which are its linear ones too. */
struct box_store {
	uint64_t at, value;
};

/*
 * One turn of L1: its own stores and load, INVLPGA, then L2 until it comes back, then the next box
 * or the port. What is zero is left out.
 */
struct box {
	uint64_t store_count;
	struct box_store stores[BOX_STORES];
	uint64_t load_at, loaded;
	uint64_t has_invlpga, invlpga; /* of ASID 1 */
	uint64_t vmcb;
	uint64_t rbx, rcx, rdx, rsi, rdi;		/* of L2, both ways */
	uint64_t after_at[BOX_LOADS], after[BOX_LOADS]; /* loaded when L2 is back */
	uint64_t next;
};

#endif
