/*
 * From the firmware's 32-bit mode (PVH) to the kernel's own tables: its image at 0xffffffff80000000,
 * all memory at 0xffff888000000000, and nothing at the addresses below.
 */
#define PVH_ENTRY 18
#define HIGH 0xffffffff80000000
#define DIRECT_SLOT 273 /* of the root: 0xffff888000000000 */

#define LEAF_1G 0x83 /* present, writable, large */
#define TABLE 0x3

#define CR4_PAE (1 << 5)
#define CR0_PE_WP_PG 0x80010001
#define MSR_EFER 0xc0000080
#define EFER_LME_NXE 0x900

	.section .note.Xen, "a", @note
	.align 4
	.long 4, 8, PVH_ENTRY
	.asciz "Xen"
	.quad boot_physical

	.section .boot, "ax", @progbits
	.code32
	.globl boot_physical
boot_physical:
	cli
	cld
	mov $CR4_PAE, %eax
	mov %eax, %cr4
	mov $root, %eax
	mov %eax, %cr3
	mov $MSR_EFER, %ecx
	rdmsr
	or $EFER_LME_NXE, %eax
	wrmsr
	mov $CR0_PE_WP_PG, %eax
	mov %eax, %cr0
	lgdt descriptors_register
	ljmp $8, $long_mode

	.code64
long_mode:
	xor %eax, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %ss
	movabs $high, %rax
	jmp *%rax

	.align 8
descriptors:
	.quad 0, 0x00af9b000000ffff /* code of 64 bits */
descriptors_register:
	.word . - descriptors - 1
	.long descriptors

	.balign 4096
root:	.quad all_memory + TABLE
	.fill DIRECT_SLOT - 1, 8, 0
	.quad all_memory + TABLE
	.fill 511 - DIRECT_SLOT - 1, 8, 0
	.quad image + TABLE
all_memory:
	.set gigabyte, 0
	.rept 512
	.quad (gigabyte << 30) + LEAF_1G
	.set gigabyte, gigabyte + 1
	.endr
image:	.fill 510, 8, 0
	.quad LEAF_1G, 0

	.text
high:	mov $stack_end, %rsp
	/* From here on no address below is mapped. */
	movabs $root, %rax
	movabs $0xffff888000000000, %rdx
	movq $0, (%rax, %rdx)
	mov %rax, %cr3
	xor %ebp, %ebp
	call kernel
1:	hlt
	jmp 1b

	.bss
	.balign 16
	.fill 65536, 1, 0
stack_end:

	.section .note.GNU-stack, "", @progbits
