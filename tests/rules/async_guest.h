/* A guest that asks for asynchronous page faults, and pages that a userfaultfd keeps back. */
#ifndef RULES_ASYNC_GUEST_H
#define RULES_ASYNC_GUEST_H

#include "client.h"

/* The guest's slot: what it runs and writes; and the pages that come late. */
#define GPA 0x10000000ul
#define SLOW_GPA 0x20000000ul
#define SLOW_PAGES 8ul
#define PAGES 8ul
#define CODE_PAGE 0
#define IDT_PAGE 1
#define GDT_PAGE 2
#define DATA_PAGE 3
#define PLACE_PAGE 4
#define STACK_PAGE 6 /* its end */
#define TSS_PAGE 7
#define DATA_GPA (GPA + DATA_PAGE * PAGE)
#define PLACE_GPA (GPA + PLACE_PAGE * PAGE + 64)

#define VECTOR_PF 14
#define VECTOR_READY 0x60
#define VECTOR_OTHER 0x61
#define VCPU_ID 5ul
#define ALWAYS (KVM_ASYNC_PF_ENABLED | KVM_ASYNC_PF_DELIVERY_AS_INT | KVM_ASYNC_PF_SEND_ALWAYS)
#define USER_ONLY (KVM_ASYNC_PF_ENABLED | KVM_ASYNC_PF_DELIVERY_AS_INT)
#define FLAG_IF 0x200u
#define FLAG_IOPL 0x3000u
#define ENOUGH 1000u
#define WAIT_MS 20000

/* What the guest notes, at DATA_GPA. Offsets are in the code below, too. */
struct notes {
	uint64_t faults;	/* 0x00: #PF that it took */
	uint64_t fault_token;	/* 0x08: CR2 of the last one */
	uint64_t reason;	/* 0x10: the place's first word at that time */
	uint64_t other_work;	/* 0x18: what it did meanwhile */
	uint64_t ready_token;	/* 0x20: of the last page that came */
	uint64_t broadcasts;	/* 0x28: tokens that mean all */
	uint64_t readies;	/* 0x30: pages that came */
	uint64_t others;	/* 0x38: interrupts with another meaning */
	uint64_t second;	/* 0x40: a page to touch while the first is missing; 0: none */
	uint64_t second_value;	/* 0x48 */
	uint64_t tokens[4];	/* 0x50: of each fault */
	uint64_t ready_list[4]; /* 0x70: of each page that came */
};

extern struct vm vm;
extern struct vcpu vcpu;
extern uint8_t *memory, *slow;
extern volatile struct notes *notes;
extern volatile uint32_t *place;
extern int events; /* the userfaultfd */
/* KVM_RUN on a thread of its own, and what came of it. */
extern pthread_t thread;
extern struct outcome outcome;

long set_msr(uint32_t index, uint64_t value);
uint64_t get_msr(uint32_t index);
/* A vCPU whose guest has asked for nothing yet; or has, @how: KVM_ASYNC_PF_*. */
void open_machine_without_msrs(unsigned long id);
void open_machine(uint64_t how);
/* The guest loads the slow page @page, with or without interrupts; or stores there and loads. */
void prepare(uint64_t page, uint64_t flags);
void prepare_store(uint64_t page, uint64_t value);
/* prepare() and KVM_RUN, on the thread. */
void start(uint64_t page, uint64_t flags);
void *runner(void *outcome);
/* start() of page 0, and the page is asked for. */
void start_and_miss(uint64_t flags);
/* start() of page 0, then @second; both are asked for, each by a thread of its own. */
void start_and_miss_two(uint64_t second);
/* It has loaded @value. */
void finish(uint64_t value);
/* The next page that is asked for. Of two that are missed at once either may be the first. */
uint64_t next_wanted(void);
void bring(uint64_t page);
int grows_beyond(volatile uint64_t *count, uint64_t value);
/* A handler that does nothing, for SIGUSR1; and the tests. */
int async_main(int argc, char **argv, const struct check_test *tests, size_t count);

#endif
