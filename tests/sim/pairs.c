/* What all pairs of racing operations use. */
#include "tests/sim/pairs.h"

#include <stdlib.h>
#include <string.h>

struct pair_state pair;

void pairs_init(void)
{
	machine_init(&pair.machine);
	pair.machine.judges = 1;
}

void pairs_destroy(void)
{
	machine_destroy(&pair.machine);
}

bool pair_explore(const struct pair *test, struct sched_verdict *verdict)
{
	struct sched_test run = {.threads = test->threads ? test->threads : 2,
				 .preemptions_max = test->preemptions,
				 .setup = test->setup,
				 .body = test->body,
				 .check = test->check};

	*verdict = sched_explore(&run);
	pair.machine.rings = 0;
	pair.machine.in_place = 0;
	pair.machine.tunables.gmem_huge_pages = 0;
	pair.machine.mmu = QUIRE_MMU_TDP;
	pair.machine.tunables.eager_page_split = 1;
	return !verdict->failed;
}

void pair_start(enum quire_vm_type type)
{
	machine_start(&pair.machine, type);
	pair.results[0] = pair.results[1] = 1000;
	pair.bytes[0] = pair.bytes[1] = 0xee;
	memset(pair.log, 0, sizeof(pair.log));
}

void pair_start_private(void)
{
	struct quire_region region = {
	    .flags = QUIRE_SLOT_GMEM, .size_bytes = 4 * QUIRE_PAGE_SIZE, .hva = sim_hva(0)};

	pair_start(QUIRE_VM_SW_PROTECTED);
	for (uint32_t page = 0; page < 4; page++)
		sim_map(&pair.machine.host, page, SIM_WRITABLE);
	if (quire_gmem_create(pair.machine.vm, region.size_bytes, 0, NULL, &pair.gmem))
		abort();
	region.gmem = pair.gmem;
	if (quire_vm_set_region(pair.machine.vm, &region) ||
	    quire_vm_set_attributes(pair.machine.vm, (gpa_t){0}, region.size_bytes,
				    QUIRE_ATTRIBUTE_PRIVATE))
		abort();
}

int pair_set_flags(uint32_t npages, uint32_t flags)
{
	return machine_add_slot(&pair.machine, 0, npages, flags);
}

void pair_map(uint32_t flags)
{
	for (uint32_t page = 0; page < 4; page++)
		sim_map(&pair.machine.host, page, SIM_WRITABLE);
	if (pair_set_flags(4, flags))
		abort();
}

void pair_map_huge(uint32_t flags)
{
	sim_map_huge(&pair.machine.host, 0, SIM_WRITABLE);
	if (pair_set_flags(SIM_BLOCK, flags))
		abort();
}

uint32_t pair_host_replace(uint32_t page)
{
	hva_t start = sim_hva(page), end = sim_hva(page + 1);
	uint32_t old;

	quire_vm_host_invalidate_begin(pair.machine.vm, start, end);
	old = pair.machine.host.pages[page].frame;
	sched_yield_point();
	sim_unmap(&pair.machine.host, page);
	/* Here the page has no frame, which others may see. */
	sched_yield_point();
	sim_map(&pair.machine.host, page, SIM_WRITABLE);
	quire_vm_host_invalidate_end(pair.machine.vm, start, end);
	return old;
}

uint8_t *pair_byte(uint32_t page)
{
	return pair.machine.host.frames[pair.machine.host.pages[page].frame].bytes;
}

bool pair_untouched(uint32_t frame)
{
	const struct sim_frame *old = &pair.machine.host.frames[frame];

	return old->references > 0 || old->bytes[0] == SIM_POISON;
}

static int take_log(void *ctx, uint64_t offset_bytes, const void *src, uint64_t size_bytes)
{
	(void)ctx;
	memcpy((uint8_t *)pair.log + offset_bytes, src, size_bytes);
	return 0;
}

bool pair_frees_unwritten(void)
{
	/* The first frames are all that the pairs with a guest_memfd ever use. */
	for (uint32_t frame = 0; frame < 16; frame++) {
		const struct sim_frame *at = &pair.machine.host.frames[frame];

		if (!at->references && at->bytes[0] == 7)
			return false;
	}
	return true;
}

int pair_harvest(void)
{
	memset(pair.log, 0, sizeof(pair.log));
	return quire_vm_get_dirty_log(pair.machine.vm, 0, take_log, NULL);
}

bool pair_logged(uint64_t page)
{
	return pair.log[page / 64] >> (page % 64) & 1;
}

static int give_words(void *ctx, uint64_t offset_bytes, void *dst, uint64_t size_bytes)
{
	memcpy(dst, (const uint8_t *)ctx + offset_bytes, size_bytes);
	return 0;
}

int pair_clear(uint64_t first, uint32_t npages, const uint64_t *words)
{
	struct quire_clear_log request = {
	    .npages = npages, .first_page = first, .copy_in = give_words, .ctx = (void *)words};

	return quire_vm_clear_dirty_log(pair.machine.vm, &request);
}

int pair_store(uint32_t vcpu, uint64_t page, uint8_t value)
{
	return machine_store(&pair.machine, vcpu, PAIR_GPA_OF(page), value);
}

int pair_load(uint32_t vcpu, uint64_t page, uint8_t *value)
{
	return machine_load(&pair.machine, vcpu, PAIR_GPA_OF(page), value);
}
