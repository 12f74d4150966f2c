/*
 * A guest of a few hundred instructions, to be timed from outside: user programs that enter the
 * kernel again and again, by SYSCALL, by page faults, by changes of the address space.
 *
 * Started as a PVH kernel. Its command line is one of "syscall", "pagefault" and "switch", and how
 * often. It ends by "quire: poweroff" on the first serial port and a triple fault.
 */
#include <stdint.h>

/* Kernel memory is mapped one to one; each process has a region of its own beside it. */
#define USER_CODE UINT64_C(0x8000000000)
#define USER_DATA UINT64_C(0x8000200000)
#define DATA_PAGES 512u
#define TASKS 2u
#define FRAMES UINT64_C(0x1000000) /* what user memory is made of */
#define STACK_BYTES 8192u

#define PTE_KERNEL 0x3u /* present, writable */
#define PTE_USER 0x7u
#define CR4_PCIDE (UINT64_C(1) << 17)
#define CR3_NO_FLUSH (UINT64_C(1) << 63)
#define CPUID_PCID (1u << 17) /* ECX of leaf 1 */

#define MSR_STAR 0xc0000081u
#define MSR_LSTAR 0xc0000082u
#define MSR_SFMASK 0xc0000084u
#define MSR_GS_BASE 0xc0000101u

#define KERNEL_CODE 0x08u
#define USER_CODE_SELECTOR 0x2bu
#define USER_STACK_SELECTOR 0x23u
#define TSS_SELECTOR 0x30u
#define VECTOR_PAGE_FAULT 14u
#define FLAGS_USER 0x202u /* interrupts are allowed, as in any program */
#define SERIAL 0x3f8u
#define PIC_MASK 0x21u
#define PIC_MASK_SECOND 0xa1u

/* What user programs ask for, in RAX. */
enum call { CALL_NOTHING, CALL_END, CALL_UNMAP, CALL_SWITCH };

struct start_info {
	uint32_t magic, version, flags, modules;
	uint64_t module_list, command_line;
};

/* As the entries push them. */
struct registers {
	uint64_t r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi;
	uint64_t error, rip, cs, rflags, rsp, ss;
};

struct task {
	uint64_t rsp; /* of the kernel, while another one runs */
	uint64_t cr3;
	uint64_t *table; /* of USER_DATA */
	uint8_t stack[STACK_BYTES] __attribute__((aligned(16)));
};

struct tss {
	uint32_t reserved;
	uint64_t rsp[3];
	uint8_t rest[76];
} __attribute__((packed));

/* What SWAPGS brings: the offsets are known to entry_syscall. */
static struct {
	uint64_t kernel_rsp, user_rsp;
} cpu;
static struct task tasks[TASKS];
static struct task *now = &tasks[0];
static struct tss tss;
static uint64_t idt[2 * 32];
static uint64_t next_frame = FRAMES;
static uint64_t has_pcid;

extern uint64_t boot_pml4[512], gdt[8];
extern const uint8_t user_start[], user_end[];
extern const uint8_t user_syscall[], user_pagefault[], user_switch[];
void entry_syscall(void);
void entry_fault(void);
void task_start(void);
void switch_stacks(uint64_t *save, uint64_t load);

__asm__(".pushsection .note.Xen, \"a\", @note\n"
	".long 4, 4, 18\n.asciz \"Xen\"\n.long entry\n" /* XEN_ELFNOTE_PHYS32_ENTRY */
	".popsection\n"
	".pushsection .data\n.balign 4096\n.globl boot_pml4\n"
	"boot_pml4: .quad boot_pdpt + 3\n.fill 511, 8, 0\n"
	"boot_pdpt: .quad boot_directory + 3\n.fill 511, 8, 0\n"
	"boot_directory: .set page, 0\n.rept 512\n.quad page << 21 | 0x183\n.set page, page + 1\n"
	".endr\n.globl gdt\n"
	"gdt: .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0, 0x00cff3000000ffff,"
	" 0x00affb000000ffff, 0, 0\n"
	"gdt_pointer: .word 63\n.quad gdt\n"
	".popsection\n"
	".bss\n.balign 16\n.fill 8192\nboot_stack:\n.text\n"
	".code32\n.globl entry\nentry:\n"
	"mov %cr4, %eax\n or $0xa0, %eax\n mov %eax, %cr4\n" /* PAE, PGE */
	"mov $boot_pml4, %eax\n mov %eax, %cr3\n"
	"mov $0xc0000080, %ecx\n rdmsr\n or $0x101, %eax\n wrmsr\n" /* LME, SCE */
	"mov $0x80010033, %eax\n mov %eax, %cr0\n"
	"lgdt gdt_pointer\n ljmp $0x08, $entry_long\n"
	".code64\nentry_long:\n"
	"mov $0x10, %eax\n mov %eax, %ds\n mov %eax, %es\n mov %eax, %ss\n"
	"mov $boot_stack, %esp\n mov %ebx, %edi\n call kernel_main\n");

#define SAVE                                                                                \
	"push %rdi\n push %rsi\n push %rdx\n push %rcx\n push %rax\n push %r8\n push %r9\n" \
	"push %r10\n push %r11\n push %rbx\n push %rbp\n push %r12\n push %r13\n"           \
	"push %r14\n push %r15\n"
#define RESTORE                                                                        \
	"pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbp\n pop %rbx\n pop %r11\n" \
	"pop %r10\n pop %r9\n pop %r8\n pop %rax\n pop %rcx\n pop %rdx\n pop %rsi\n pop %rdi\n"

__asm__(".text\n.globl entry_syscall\nentry_syscall:\n"
	"swapgs\n mov %rsp, %gs:8\n mov %gs:0, %rsp\n"
	"push $0x23\n push %gs:8\n push %r11\n push $0x2b\n push %rcx\n push $0\n" SAVE
	"mov %rsp, %rdi\n call do_syscall\n" RESTORE
	"mov 8(%rsp), %rcx\n mov 24(%rsp), %r11\n mov 32(%rsp), %rsp\n swapgs\n sysretq\n"
	".globl entry_fault\nentry_fault:\n"
	"testb $3, 16(%rsp)\n jz 1f\n swapgs\n1:\n" SAVE "mov %rsp, %rdi\n call do_page_fault\n"
	".globl task_start\ntask_start:\n" RESTORE
	"add $8, %rsp\n testb $3, 8(%rsp)\n jz 1f\n swapgs\n1: iretq\n"
	".globl switch_stacks\nswitch_stacks:\n"
	"push %rbx\n push %rbp\n push %r12\n push %r13\n push %r14\n push %r15\n"
	"mov %rsp, (%rdi)\n mov %rsi, %rsp\n"
	"pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbp\n pop %rbx\n ret\n");

/* R12: how often; R13: USER_DATA. */
__asm__(".pushsection .rodata\n.balign 4096\n.globl user_start, user_end\n"
	".globl user_syscall, user_pagefault, user_switch\nuser_start:\n"
	"user_syscall: 1: mov $0, %eax\n syscall\n dec %r12\n jnz 1b\n jmp 9f\n"
	"user_pagefault: 1: mov %r13, %rbx\n mov $512, %ecx\n"
	"2: movb $1, (%rbx)\n add $4096, %rbx\n dec %ecx\n jnz 2b\n"
	"mov $2, %eax\n syscall\n dec %r12\n jnz 1b\n jmp 9f\n"
	"user_switch: 1: mov %r13, %rbx\n mov $16, %ecx\n"
	"2: incq (%rbx)\n add $4160, %rbx\n dec %ecx\n jnz 2b\n"
	"mov $3, %eax\n syscall\n dec %r12\n jnz 1b\n"
	"9: mov $1, %eax\n syscall\n"
	"user_end:\n.popsection\n");

static void write_msr(uint32_t msr, uint64_t value)
{
	__asm__ volatile("wrmsr" ::"c"(msr), "a"((uint32_t)value), "d"((uint32_t)(value >> 32)));
}

static void write_cr3(uint64_t value)
{
	__asm__ volatile("mov %0, %%cr3" ::"r"(value) : "memory");
}

static void out8(uint16_t port, uint8_t value)
{
	__asm__ volatile("outb %0, %1" ::"a"(value), "d"(port));
}

static _Noreturn void end(void)
{
	static const struct {
		uint16_t limit;
		uint64_t base;
	} __attribute__((packed)) none = {0, 0};

	for (const char *at = "quire: poweroff\n"; *at; at++)
		out8(SERIAL, (uint8_t)*at);
	__asm__ volatile("lidt %0\n int3" ::"m"(none));
	__builtin_unreachable();
}

/* A page of zeros; memory is zero from the start. */
static uint64_t take_frame(void)
{
	next_frame += 4096;
	return next_frame - 4096;
}

static uint64_t *at_frame(uint64_t frame)
{
	return (uint64_t *)(uintptr_t)frame;
}

static void unmap_data(void)
{
	for (uint32_t page = 0; page < DATA_PAGES; page++)
		now->table[page] = 0;
	write_cr3(now->cr3);
}

static void switch_tasks(void)
{
	struct task *from = now, *to = now == &tasks[0] ? &tasks[1] : &tasks[0];

	now = to;
	cpu.kernel_rsp = (uint64_t)(uintptr_t)(to->stack + STACK_BYTES);
	tss.rsp[0] = cpu.kernel_rsp;
	write_cr3(to->cr3 | (has_pcid ? CR3_NO_FLUSH : 0));
	switch_stacks(&from->rsp, to->rsp);
}

__attribute__((used)) void do_syscall(struct registers *registers)
{
	switch (registers->rax) {
	case CALL_NOTHING:
		registers->rax = 1;
		break;
	case CALL_UNMAP:
		unmap_data();
		break;
	case CALL_SWITCH:
		switch_tasks();
		break;
	default:
		end();
	}
}

/* Each page of a process has its frame, mapped or not. */
__attribute__((used)) void do_page_fault(struct registers *registers)
{
	uint64_t address, index;

	(void)registers;
	__asm__ volatile("mov %%cr2, %0" : "=r"(address));
	index = (address - USER_DATA) >> 12;
	if (index >= DATA_PAGES)
		__asm__ volatile("ud2");
	now->table[index] =
	    (FRAMES << 1) + (index << 12) + ((uint64_t)(now - tasks) * DATA_PAGES << 12) + PTE_USER;
}

/* Process @index at @code, to be entered by task_start. */
static void make_task(uint32_t index, const uint8_t *code, uint64_t count)
{
	struct task *task = &tasks[index];
	uint64_t root = take_frame(), pdpt = take_frame(), directory = take_frame();
	uint64_t code_table = take_frame(), table = take_frame();
	struct registers *frame =
	    (struct registers *)(void *)(task->stack + STACK_BYTES - sizeof(*frame));
	uint64_t *saved = (uint64_t *)(void *)frame;

	at_frame(root)[0] = boot_pml4[0];
	at_frame(root)[1] = pdpt | PTE_USER;
	at_frame(pdpt)[0] = directory | PTE_USER;
	at_frame(directory)[0] = code_table | PTE_USER;
	at_frame(directory)[1] = table | PTE_USER;
	at_frame(code_table)[0] = (uint64_t)(uintptr_t)user_start | 5;
	task->table = at_frame(table);
	task->cr3 = root | (has_pcid ? index + 1 : 0);
	*frame = (struct registers){.r12 = count,
				    .r13 = USER_DATA,
				    .rip = USER_CODE + (uint64_t)(code - user_start),
				    .cs = USER_CODE_SELECTOR,
				    .rflags = FLAGS_USER,
				    .ss = USER_STACK_SELECTOR};
	*--saved = (uint64_t)(uintptr_t)task_start;
	task->rsp = (uint64_t)(uintptr_t)(saved - 6);
}

static void load_tables(void)
{
	uint64_t base = (uint64_t)(uintptr_t)&tss, gate = (uint64_t)(uintptr_t)entry_fault;
	const struct {
		uint16_t limit;
		uint64_t base;
	} __attribute__((packed)) pointer = {sizeof(idt) - 1, (uint64_t)(uintptr_t)idt};

	gdt[TSS_SELECTOR / 8] = (sizeof(tss) - 1) | (base & 0xffffff) << 16 | UINT64_C(0x89) << 40 |
				(base >> 24 & 0xff) << 56;
	gdt[TSS_SELECTOR / 8 + 1] = base >> 32;
	idt[2 * VECTOR_PAGE_FAULT] = (gate & 0xffff) | (uint64_t)KERNEL_CODE << 16 |
				     UINT64_C(0x8e) << 40 | (gate >> 16 & 0xffff) << 48;
	__asm__ volatile("lidt %0\n ltr %w1" ::"m"(pointer), "r"(TSS_SELECTOR));
	write_msr(MSR_STAR, UINT64_C(0x18) << 48 | (uint64_t)KERNEL_CODE << 32);
	write_msr(MSR_LSTAR, (uint64_t)(uintptr_t)entry_syscall);
	write_msr(MSR_SFMASK, 0x700);
	write_msr(MSR_GS_BASE, (uint64_t)(uintptr_t)&cpu);
}

static void use_pcid(void)
{
	uint32_t eax = 1, ebx, ecx = 0, edx;
	uint64_t cr4;

	__asm__ volatile("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
	has_pcid = ecx & CPUID_PCID;
	if (!has_pcid)
		return;
	__asm__ volatile("mov %%cr4, %0" : "=r"(cr4));
	__asm__ volatile("mov %0, %%cr4" ::"r"(cr4 | CR4_PCIDE));
}

__attribute__((used)) void kernel_main(const struct start_info *info)
{
	const char *text = (const char *)(uintptr_t)info->command_line;
	const uint8_t *code = text[0] == 'p'   ? user_pagefault
			      : text[1] == 'w' ? user_switch
					       : user_syscall;
	uint64_t count = 0, nowhere;

	while (*text != ' ')
		text++;
	for (text++; *text >= '0' && *text <= '9'; text++)
		count = count * 10 + (uint64_t)(*text - '0');
	if (!count)
		end();
	out8(PIC_MASK, 0xff);
	out8(PIC_MASK_SECOND, 0xff);
	load_tables();
	use_pcid();
	for (uint32_t index = 0; index < TASKS; index++)
		make_task(index, code, count);
	cpu.kernel_rsp = (uint64_t)(uintptr_t)(now->stack + STACK_BYTES);
	tss.rsp[0] = cpu.kernel_rsp;
	write_cr3(now->cr3);
	switch_stacks(&nowhere, now->rsp);
	end();
}
