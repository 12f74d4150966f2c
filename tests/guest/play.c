/* The memory of one random L1 and of its L2; storing entries. */
#include "play.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "play_internal.h"

/* Every word tells where it is. */
#define WORD_OF(gpa) ((gpa) ^ 0x5a00000000000000ul)
/* mov $PAGE, %eax; vmmcall: the landing place of a jump to the page. */
#define LANDING_CODE 0xb8u
#define LANDING_CALL 0xd9010ful

static const uint32_t slot_pages[PLAY_SLOTS] = {1024, 1024, 512, PLAY_TABLE_PAGES};

void play_alloc(struct play *play, unsigned int index)
{
	memset(play, 0, sizeof(*play));
	play->base = PLAY_DATA(index);
	for (uint32_t i = 0; i < PLAY_SLOTS; i++) {
		struct play_memory *memory = &play->memory[i];

		memory->slot = index * PLAY_SLOTS + i;
		memory->pages = slot_pages[i];
		memory->gpa = play->base + i * 1024 * PAGE;
		memory->host = memory_alloc(memory->pages * PAGE);
		memory->mirror = memory_alloc(memory->pages * PAGE);
		if (i == PLAY_HUGE)
			(void)madvise(memory->host, memory->pages * PAGE, MADV_HUGEPAGE);
	}
	play->memory[PLAY_TABLE_SLOT].gpa = PLAY_TABLES(index);
}

static void fill_page(uint8_t *page, uint64_t gpa)
{
	uint64_t landing = LANDING_CODE | (uint64_t)(uint32_t)(gpa >> 12) << 8 | LANDING_CALL << 40;

	for (uint64_t i = 0; i < PAGE; i += 8) {
		uint64_t word = i == PLAY_LANDING ? landing : WORD_OF(gpa + i);

		memcpy(page + i, &word, sizeof(word));
	}
}

static void fill(struct play_memory *memory, int is_table)
{
	memset(memory->written, 0, sizeof(memory->written));
	memset(memory->reported, 0, sizeof(memory->reported));
	memset(memory->host, 0, memory->pages * PAGE);
	for (uint64_t page = 0; page < memory->pages && !is_table; page++)
		fill_page(memory->host + page * PAGE, memory->gpa + page * PAGE);
	memcpy(memory->mirror, memory->host, memory->pages * PAGE);
}

static void add_memory(struct play *play, const struct oracle_memory *memory)
{
	play->oracle.memory[play->oracle.memories++] = *memory;
}

/* The tables that do not change: L2's code, its own tables, and L1's as L2 sees them. */
static void build_fixed(struct play *play)
{
	struct nest *nest = &play->nest;
	uint64_t all = ORACLE_P | ORACLE_W | ORACLE_U, tables = play->memory[PLAY_TABLE_SLOT].gpa;
	uint64_t *l2 = (uint64_t *)(void *)(nest->memory + PLAY_L2_TABLES);

	l2[0] = (PLAY_L2_CODE_GPA + 2 * PAGE) | all;
	for (uint64_t gib = 0; gib < 4; gib++)
		l2[512 + gib] = gib << 30 | all | ORACLE_PS;
	l2_copy(nest->memory + PLAY_L2_CODE);
	play_store(play, tables + T_PML4 * PAGE, (tables + T_PDPT * PAGE) | all);
	play_store(play, tables + T_PDPT * PAGE, (tables + T_LOW_PD * PAGE) | all);
	play_store(play, tables + T_LOW_PD * PAGE, (tables + T_LOW_PT * PAGE) | all);
	for (uint64_t page = 0; page < 3; page++)
		play_store(play, tables + T_LOW_PT * PAGE + (PLAY_L2_CODE_GPA / PAGE + page) * 8,
			   (nest->gpa + PLAY_L2_CODE + page * PAGE) | all);
	for (uint64_t table = 0; table < PLAY_TABLE_PAGES; table++)
		play_store(play, tables + T_LOW_PT * PAGE + (PLAY_ALIAS / PAGE + table) * 8,
			   (tables + table * PAGE) | all);
}

void play_open(struct play *play, struct vm *vm, unsigned int index, uint64_t seed)
{
	random_seed(&play->random, seed * 16 + index);
	memset(&play->oracle, 0, sizeof(play->oracle));
	memset(&play->counts, 0, sizeof(play->counts));
	play->next_value = 1;
	for (uint32_t i = 0; i < PLAY_SLOTS; i++) {
		struct play_memory *memory = &play->memory[i];

		fill(memory, i == PLAY_TABLE_SLOT);
		play_set_slot(play, vm, (enum play_slot)i, 0);
		add_memory(play, &(struct oracle_memory){.gpa = memory->gpa,
							 .bytes = memory->pages * PAGE,
							 .host = memory->host,
							 .is_rom = i == PLAY_ROM});
	}
	nest_open(&play->nest, vm, index);
	add_memory(play, &(struct oracle_memory){.gpa = play->nest.gpa,
						 .bytes = NEST_BYTES,
						 .host = play->nest.memory});
	play->oracle.root = play->memory[PLAY_TABLE_SLOT].gpa + T_PML4 * PAGE;
	nest_reset(&play->nest, 0);
	play->nest.vmcb->control.misc = VMCB_NESTED_PAGING;
	play->nest.vmcb->control.nested_cr3 = play->oracle.root;
	play->nest.vmcb->save.cr3 = PLAY_L2_CODE_GPA + PAGE;
	build_fixed(play);
	play_fill_tables(play);
	play_flush(play);
}

void play_close(struct play *play)
{
	munmap(play->nest.vcpu.run, (size_t)ioctl(play->nest.vm->kvm, KVM_GET_VCPU_MMAP_SIZE, 0));
	close(play->nest.vcpu.fd);
	munmap(play->nest.memory, NEST_BYTES);
}

void play_set_slot(struct play *play, struct vm *vm, enum play_slot which, uint32_t flags)
{
	struct play_memory *memory = &play->memory[which];

	if (which == PLAY_ROM)
		flags = KVM_MEM_READONLY;
	CHECK_ZERO(REGION(vm, .slot = memory->slot, .flags = flags, .guest_phys_addr = memory->gpa,
			  .memory_size = memory->pages * PAGE,
			  .userspace_addr = (uintptr_t)memory->host));
}

struct play_memory *play_memory_at(struct play *play, uint64_t gpa)
{
	for (uint32_t i = 0; i < PLAY_SLOTS; i++)
		if (gpa - play->memory[i].gpa < play->memory[i].pages * PAGE)
			return &play->memory[i];
	return NULL;
}

void play_note_write(struct play *play, uint64_t gpa, const uint64_t *value)
{
	struct play_memory *memory = play_memory_at(play, gpa);
	uint64_t offset = gpa - memory->gpa;

	memory->written[offset / PAGE] = 1;
	memcpy(memory->mirror + offset, value, sizeof(*value));
}

/* Does the turn in the box, which has no L2 in it. */
static void turn_of_l1(struct play *play)
{
	play->nest.box->vmcb = 0;
	CHECK_EQ(nest_turn(&play->nest), NEST_DONE);
	play->counts.turns++;
	play->nest.box->store_count = 0;
}

void play_store(struct play *play, uint64_t at, uint64_t value)
{
	struct box *box = play->nest.box;

	box->stores[0] = (struct box_store){at, value};
	box->store_count = 1;
	turn_of_l1(play);
	play_note_write(play, at, &value);
}

uint64_t play_load(struct play *play, uint64_t at)
{
	struct box *box = play->nest.box;

	box->load_at = at;
	turn_of_l1(play);
	box->load_at = 0;
	return box->loaded;
}

void play_flush(struct play *play)
{
	static const uint8_t kinds[] = {1, 3};

	play->nest.vmcb->control.tlb_control = kinds[random_below(&play->random, 2)];
	oracle_note_flush(&play->oracle);
	play->counts.flushes++;
}

void play_check_memory(struct play *play)
{
	for (uint32_t i = 0; i < PLAY_SLOTS; i++) {
		struct play_memory *memory = &play->memory[i];

		for (uint64_t page = 0; page < memory->pages; page++) {
			uint8_t *is = memory->host + page * PAGE,
				*was = memory->mirror + page * PAGE;

			if (!memcmp(is, was, PAGE))
				continue;
			if (i != PLAY_TABLE_SLOT)
				FAIL("page %#lx of L1 holds what was never stored there",
				     memory->gpa + page * PAGE);
			/* A and D were set: hardware's own writes. */
			memory->written[page] = 1;
			memcpy(was, is, PAGE);
		}
	}
}
