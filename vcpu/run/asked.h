/* What an instruction asked of its surroundings so far, as data; replay.c keeps it. */
#ifndef QUIRE_VCPU_RUN_ASKED_H
#define QUIRE_VCPU_RUN_ASKED_H

#include <stdint.h>

#include "vcpu/cpu.h"

/* What an instruction asked of devices and of the client so far. */
enum replay_kind {
	REPLAY_MMIO,
	REPLAY_PIO,
	REPLAY_MSR_READ,
	REPLAY_MSR_WRITE,
	REPLAY_HYPERCALL,
};

struct replay_entry {
	struct cpu_io io; /* MSR: address is the index, data the value */
	uint8_t kind;
	uint8_t failed;
};

#define REPLAY_MAX 80u
#define EMULATED_MAX 8u
#define EMULATED_IS_MEMORY 1u

struct replay {
	uint32_t count;	    /* answered */
	uint32_t position;  /* of this run of the instruction */
	uint8_t pending;    /* entry[count] waits for the client */
	uint8_t unfinished; /* something was asked, the instruction has not retired */
	/* Frames that the fault path called MMIO for this instruction. */
	uint8_t emulated_count;
	uint64_t emulated_frame[EMULATED_MAX]; /* gfn << 1 | was a write */
	/* Where that is: another page under nested paging. EMULATED_IS_MEMORY: written through the
	 * hypervisor's view, as the guest must not do so itself. */
	uint64_t emulated_gpa[EMULATED_MAX];
	uint64_t pending_rip;
	/* How many instructions had retired, and 1, when replay_tries_again() was asked last. */
	uint64_t refused_after;
	struct replay_entry *entry; /* REPLAY_MAX, allocated at the first use */
};

/* Elements that the client gave a repeated INS at once, and that are still to be stored. */
#define INPUT_MAX 1024u
struct input_ahead {
	uint32_t next, end; /* bytes of data[] */
	uint64_t rip;	    /* of the instruction */
	uint8_t data[INPUT_MAX];
};

#endif
