/* What the guest and its machine agree on: places, contents and the steps of the story. */
#ifndef PRIVATE_VM_GUEST_H
#define PRIVATE_VM_GUEST_H

#define PAGE_BYTES 4096ul
#define PAGE_WORDS (PAGE_BYTES / 8)

/* Guest physical addresses; the guest's own tables map each address to itself. */
#define LOW_BYTES (2ul << 20)
#define GUEST_TABLES 0x1000ul
#define GUEST_CODE 0x10000ul /* as in guest.ld */
#define GUEST_STACK_TOP 0x80000ul
#define GUEST_MAILBOX 0x90000ul
#define SECRET_GPA 0x40000000ul
#define SECRET_PAGES 64ul
#define BUSY_GPA 0x80000000ul
#define BUSY_PAGES 4096ul

/* What a page of SECRET is filled with, plus its number. */
#define SHARED_WORD 0x5ba7ed0000000000ul
#define PRIVATE_WORD 0x5ec7e70000000000ul
#define TAMPER_WORD 0xbadbad0000000000ul
#define AGAIN_WORD 0xa6a1a60000000000ul

/* The guest writes the step that it has finished to this port. */
#define STEP_PORT 0x510
enum step {
	STEP_SHARED_WRITTEN = 1, /* SECRET filled with SHARED_WORD */
	STEP_PRIVATE_WRITTEN,	 /* converted to private, filled with PRIVATE_WORD */
	STEP_PRIVATE_CHECKED,	 /* read back, after the host wrote to its own pages */
	STEP_SHARED_AGAIN,	 /* first half converted back, filled with AGAIN_WORD */
	STEP_PRIVATE_AGAIN,	 /* first half private once more: it must be empty */
	STEP_BEFORE_FAULT,	 /* next access: a page that has no private memory behind it */
	STEP_BUSY,		 /* from here on the guest changes BUSY until told to stop */
};

struct mailbox {
	unsigned long wrong_words; /* found by the guest in what it read */
	unsigned long writes;	   /* to BUSY so far */
	unsigned long stop;	   /* set by the host */
	unsigned long cycles_per_write;
};

#endif
