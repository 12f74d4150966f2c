/* The client's CPUID instruction describes the processor that Quire offers. */
#include "engine/client_cpuid.h"

#include <cpuid.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "engine/cpuid_text.h"
#include "engine/thread.h"
#include "engine/user.h"
#include "frontend/object/vcpu.h"
#include "frontend/state/cpuid.h"
#include "hosts/process/sys.h"
#include "vcpu/decode/decoder.h"

#define PAGE_BYTES UINT64_C(4096)
#define SET_CPUID 0x1012u /* arch_prctl(2) */
#define OPCODE_FIRST 0x0f
#define CPUID_LAST 0xa2
#define INVD_LAST 0x08
#define OPCODE_BYTES 2
#define MWAIT_BIT (UINT32_C(1) << 3) /* leaf 1, ECX */
#define VMX_BIT (UINT32_C(1) << 5)   /* leaf 1, ECX */
#define SVM_BIT (UINT32_C(1) << 2)   /* leaf 80000001, ECX */

/* Written before client code runs. */
static enum { WAY_NONE, WAY_FAULTS, WAY_REPLACED } way;
static struct vcpu_cpuid offered;

int cpuid_prepare(void)
{
	if (!sys_call(SYS_arch_prctl, SET_CPUID, 0)) {
		sys_call(SYS_arch_prctl, SET_CPUID, 1);
		way = WAY_FAULTS;
		return 0;
	}
	way = WAY_REPLACED;
	return decoder_load();
}

/*
 * The client's processor has what KVM needs, or there would be no /dev/kvm; guests may be offered
 * less (kvm_amd.nested=0), or another maker's (SVM on Intel's machines). And it has MWAIT, which
 * KVM shows to no guest by itself: a client shows it to guests where it sees it.
 */
static void add_what_guests_lack(void)
{
	bool is_amd = cpuid_host_is_amd();

	for (uint32_t i = 0; i < offered.count; i++) {
		if (offered.entries[i].function == 1)
			offered.entries[i].ecx |= MWAIT_BIT;
		if (!is_amd && offered.entries[i].function == 1)
			offered.entries[i].ecx |= VMX_BIT;
		if (is_amd && offered.entries[i].function == 0x80000001)
			offered.entries[i].ecx |= SVM_BIT;
	}
}

void cpuid_begin(void)
{
	if (way == WAY_NONE)
		return;
	cpuid_supported(&offered);
	add_what_guests_lack();
	if (way == WAY_FAULTS)
		sys_call(SYS_arch_prctl, SET_CPUID, 0);
}

/* ---- Replacing ---- */

/* The pages are not to be had in the rights that they need: they are mapped once more. */
static void restore(const struct cpuid_mapping *mapping, uint64_t page)
{
	sys_call(SYS_mmap, page, PAGE_BYTES, (uint64_t)mapping->protection, MAP_PRIVATE | MAP_FIXED,
		 (uint64_t)mapping->fd, mapping->offset + (page - mapping->start));
}

/*
 * Only the last byte differs: the store is whole for a thread that executes it. The page is never
 * writable and executable at once, unless the client has it so; it was mapped a moment ago, so that
 * nothing runs in it yet.
 */
static void replace(const struct cpuid_mapping *mapping, uint64_t instruction)
{
	uint64_t at = instruction + OPCODE_BYTES - 1, page = at & ~(PAGE_BYTES - 1);
	bool is_writable = (mapping->protection & PROT_WRITE) != 0;

	if (!is_writable && sys_call(SYS_mprotect, page, PAGE_BYTES, PROT_READ | PROT_WRITE))
		return;
	*(volatile uint8_t *)at = INVD_LAST;
	if (!is_writable && sys_call(SYS_mprotect, page, PAGE_BYTES, (uint64_t)mapping->protection))
		restore(mapping, page);
}

void cpuid_mapped(const struct cpuid_mapping *mapping)
{
	uint64_t end = mapping->offset + mapping->bytes, at = mapping->offset;
	struct cpuid_text text;

	if (way != WAY_REPLACED || cpuid_text_open(&text, mapping->fd))
		return;
	while ((at = cpuid_text_find(&text, at, end)) < end) {
		replace(mapping, mapping->start + (at - mapping->offset));
		at += OPCODE_BYTES;
	}
}

void cpuid_loaded(int fd, uint64_t bias)
{
	struct cpuid_text text;

	if (way != WAY_REPLACED || cpuid_text_open(&text, fd))
		return;
	for (unsigned int i = 0; i < text.header.e_phnum; i++) {
		const Elf64_Phdr *segment = &text.segments[i];
		uint64_t before = segment->p_vaddr & (PAGE_BYTES - 1);
		const struct cpuid_mapping mapping = {
		    .fd = fd,
		    .protection =
			PROT_READ | PROT_EXEC | (segment->p_flags & PF_W ? PROT_WRITE : 0),
		    .offset = segment->p_offset - before,
		    .start = segment->p_vaddr + bias - before,
		    .bytes = segment->p_filesz + before,
		};

		if (segment->p_type == PT_LOAD && (segment->p_flags & PF_X))
			cpuid_mapped(&mapping);
	}
}

/* ---- Answering ---- */

static bool is_fault(const siginfo_t *info)
{
	return way != WAY_NONE && info->si_signo == SIGSEGV && info->si_code == SI_KERNEL;
}

static void query(uint32_t leaf, uint32_t subleaf, struct kvm_cpuid_entry2 *entry)
{
	uint32_t processor = 0;

	cpuid_list_query(&offered, leaf, subleaf, entry);
	sys_call(SYS_getcpu, sys_address(&processor));
	if (leaf == 1)
		entry->ebx = (entry->ebx & 0xffffff) | processor << 24;
	else if (leaf == 0xb)
		entry->edx = processor;
}

/* FS is the engine's: not inlined, since the address of thread-local storage may be kept. */
__attribute__((noinline)) static bool answer(greg_t *registers)
{
	struct kvm_cpuid_entry2 entry;
	uint8_t bytes[OPCODE_BYTES];

	if (user_read(bytes, (uint64_t)registers[REG_RIP], sizeof(bytes)) ||
	    bytes[0] != OPCODE_FIRST || (bytes[1] != CPUID_LAST && bytes[1] != INVD_LAST))
		return false;
	query((uint32_t)registers[REG_RAX], (uint32_t)registers[REG_RCX], &entry);
	registers[REG_RAX] = entry.eax;
	registers[REG_RBX] = entry.ebx;
	registers[REG_RCX] = entry.ecx;
	registers[REG_RDX] = entry.edx;
	registers[REG_RIP] += OPCODE_BYTES;
	return true;
}

bool cpuid_answer(struct engine_thread *thread, const siginfo_t *info, ucontext_t *context)
{
	bool is_answered;

	if (!is_fault(info))
		return false;
	thread_enter(thread);
	is_answered = answer(context->uc_mcontext.gregs);
	thread_leave(thread);
	return is_answered;
}

bool cpuid_answer_inside(const siginfo_t *info, ucontext_t *context)
{
	greg_t *registers = context->uc_mcontext.gregs;
	const uint8_t *bytes = (const uint8_t *)registers[REG_RIP];
	uint32_t out[4];

	if (way != WAY_FAULTS || !is_fault(info) || bytes[0] != OPCODE_FIRST ||
	    bytes[1] != CPUID_LAST)
		return false;
	sys_call(SYS_arch_prctl, SET_CPUID, 1);
	__cpuid_count((uint32_t)registers[REG_RAX], (uint32_t)registers[REG_RCX], out[0], out[1],
		      out[2], out[3]);
	sys_call(SYS_arch_prctl, SET_CPUID, 0);
	registers[REG_RAX] = out[0];
	registers[REG_RBX] = out[1];
	registers[REG_RCX] = out[2];
	registers[REG_RDX] = out[3];
	registers[REG_RIP] += OPCODE_BYTES;
	return true;
}
