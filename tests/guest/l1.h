/* The guest hypervisor and its guest as bytes. */
#ifndef TESTS_GUEST_L1_H
#define TESTS_GUEST_L1_H

#include "box.h"

/* What L2 can do; it ends by VMMCALL. */
enum l2_code {
	L2_LOAD,
	L2_STORE,
	L2_EXCHANGE,
	L2_CALL, /* go to the code at RBX */
	/* Load from RCX, store RDX, and RDI to RSI, load from RSP, and from RAX into RDX. */
	L2_CHANGE,
	L2_STORE_EACH, /* RDX, RDX + 1 ... to RCX words, RSI bytes apart */
};

/* L1 expects its box in RDI and a stack. Returns where in the bytes it starts. */
uint64_t l1_copy(uint8_t *to);
void l2_copy(uint8_t *to);
uint64_t l2_entry(enum l2_code code);

#endif
