/* The first sector of a disk: loads the kernel's image behind it to 1 MiB and enters boot.S. */
#define SECTORS_ONCE 64
#define LOADS 16
#define FIRST_SEGMENT 0x1000
#define KERNEL 0x100000

	.text
	.code16
	.globl start
start:	cli
	cld
	xor %ax, %ax
	mov %ax, %ds
	mov %ax, %es
	mov %ax, %ss
	mov $0x7c00, %sp
	sti
	mov $LOADS, %cx
1:	push %cx
	push %dx
	mov $0x42, %ah
	mov $packet, %si
	int $0x13
	pop %dx
	pop %cx
	jc failed
	addw $(SECTORS_ONCE * 512 / 16), packet_segment
	addl $SECTORS_ONCE, packet_sector
	loop 1b
	cli
	in $0x92, %al
	or $2, %al
	out %al, $0x92
	lgdt table_register
	mov %cr0, %eax
	or $1, %eax
	mov %eax, %cr0
	ljmp $8, $protected

failed:	hlt
	jmp failed

	.code32
protected:
	mov $16, %ax
	mov %ax, %ds
	mov %ax, %es
	mov %ax, %ss
	mov $(FIRST_SEGMENT * 16), %esi
	mov $KERNEL, %edi
	mov $(LOADS * SECTORS_ONCE * 512 / 4), %ecx
	rep movsl
	mov $KERNEL, %eax
	jmp *%eax

	.balign 8
packet:	.byte 16, 0
	.word SECTORS_ONCE
	.word 0
packet_segment:
	.word FIRST_SEGMENT
packet_sector:
	.quad 1
table:	.quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff
table_register:
	.word . - table - 1
	.long table

	.org 510
	.word 0xaa55

	.section .note.GNU-stack, "", @progbits
