/*
 * The guest hypervisor: freestanding and position independent, copied into the guest by the client.
 * It does what its box says and waits at a port in between.
 */
#include "l1.h"

#include <stddef.h>

#define L1_CODE __attribute__((section("guest_l1"), used, noinline))

static inline __attribute__((always_inline)) void run_l2(struct box *box)
{
	uint64_t rbx = box->rbx, rcx = box->rcx, rdx = box->rdx, rsi = box->rsi, rdi = box->rdi;

	/* GIF is clear after #VMEXIT. */
	__asm__ volatile("vmrun\n\tstgi"
			 : "+b"(rbx), "+c"(rcx), "+d"(rdx), "+S"(rsi), "+D"(rdi)
			 : "a"(box->vmcb)
			 : "r8", "r9", "r10", "r11", "memory", "cc");
	box->rbx = rbx;
	box->rcx = rcx;
	box->rdx = rdx;
	box->rsi = rsi;
}

static L1_CODE __attribute__((noreturn)) void l1_main(struct box *first)
{
	struct box *box = NULL;

	for (;;) {
		if (!box) {
			__asm__ volatile("outb %%al, %0" : : "i"(BOX_PORT), "a"(0) : "memory");
			box = first;
		}
		for (uint64_t i = 0; i < box->store_count; i++)
			*(volatile uint64_t *)box->stores[i].at = box->stores[i].value;
		if (box->load_at)
			box->loaded = *(volatile uint64_t *)box->load_at;
		if (box->has_invlpga)
			__asm__ volatile("invlpga" : : "a"(box->invlpga), "c"(1) : "memory");
		if (box->vmcb)
			run_l2(box);
		for (uint64_t i = 0; i < BOX_LOADS; i++)
			if (box->after_at[i])
				box->after[i] = *(volatile uint64_t *)box->after_at[i];
		box = (struct box *)box->next;
	}
}

/* L2: one sequence for each thing it can do; RBX is the address, RDX the value. */
__asm__(".pushsection .rodata\n"
	"l2_start:\n"
	"l2_load: movq (%rbx), %rdx\n vmmcall\n"
	"l2_store: movq %rdx, (%rbx)\n vmmcall\n"
	"l2_exchange: xchgq %rdx, (%rbx)\n vmmcall\n"
	"l2_call: jmp *%rbx\n"
	"l2_change: movq (%rcx), %r8\n movq %rdx, (%rbx)\n movq %rdi, (%rsi)\n"
	" movq (%rsp), %r8\n movq (%rax), %rdx\n vmmcall\n"
	"l2_store_each: movq %rdx, (%rbx)\n incq %rdx\n addq %rsi, %rbx\n decq %rcx\n"
	" jnz l2_store_each\n vmmcall\n"
	"l2_end:\n"
	".popsection\n");

extern const uint8_t l2_start[], l2_load[], l2_store[], l2_exchange[], l2_call[], l2_change[],
    l2_store_each[], l2_end[];
/* The linker's own. */
extern const uint8_t __start_guest_l1[], __stop_guest_l1[];

static void copy(uint8_t *to, const uint8_t *from, const uint8_t *end)
{
	while (from < end)
		*to++ = *from++;
}

uint64_t l1_copy(uint8_t *to)
{
	copy(to, __start_guest_l1, __stop_guest_l1);
	return (uint64_t)((const uint8_t *)(uintptr_t)l1_main - __start_guest_l1);
}

void l2_copy(uint8_t *to)
{
	copy(to, l2_start, l2_end);
}

uint64_t l2_entry(enum l2_code code)
{
	static const uint8_t *const entries[] = {
	    [L2_LOAD] = l2_load, [L2_STORE] = l2_store,	  [L2_EXCHANGE] = l2_exchange,
	    [L2_CALL] = l2_call, [L2_CHANGE] = l2_change, [L2_STORE_EACH] = l2_store_each,
	};

	return (uint64_t)(entries[code] - l2_start);
}
