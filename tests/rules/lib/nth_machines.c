/* The machines: the simulated one, this process, and this process on a kernel that refuses. */
#include <sys/mman.h>

#include <quire/process.h>

#include "hosts/process/process.h"
#include "tests/rules/lib/nth.h"
#include "tests/rules/lib/nth_gate.h"

#define ALL_PAGES (2 * HUGE_PAGE)

static struct sim_host sim;

static void sim_begin(void)
{
	if (!sim.memory)
		assert_true(sim_host_init(&sim));
	sim_host_reset(&sim);
	sim.violations = 0;
	sim.pool[0] = 2;
	sim.pool_reserved[0] = 0;
	for (uint32_t page = 0; page < PAGES; page++)
		sim_map(&sim, page, SIM_WRITABLE);
	sim_map_huge(&sim, HUGE_PAGE, SIM_WRITABLE);
	for (uint32_t page = 0; page < PAGES; page++)
		sim.frames[sim.pages[page].frame].bytes[0] = (uint8_t)(page + 1);
}

static void sim_end(void)
{
	assert_int_equal(sim.violations, 0);
	assert_int_equal(sim.allocated_bytes, 0);
	assert_int_equal(sim.chunks, 0);
	sim_unmap_range(&sim, 0, SIM_PAGES);
	for (uint32_t frame = 0; frame < SIM_FRAMES; frame++)
		assert_int_equal(sim.frames[frame].references, 0);
}

static void *sim_context(void)
{
	return &sim;
}

static int no_cookie(uint64_t size_bytes, void **cookie)
{
	(void)size_bytes;
	*cookie = NULL;
	return 0;
}

static void no_cookie_free(void *cookie)
{
	(void)cookie;
}

static void *no_vcpu_cookie(void)
{
	return NULL;
}

const struct nth_machine nth_sim = {
    .name = "simulator",
    .ops = &sim_host_ops,
    .begin = sim_begin,
    .end = sim_end,
    .context = sim_context,
    .hva = sim_hva,
    .cookie = no_cookie,
    .cookie_free = no_cookie_free,
    .vcpu_cookie = no_vcpu_cookie,
};

static uint8_t *memory;
static struct quire_process_vm process_vm;
static struct quire_process_vcpu process_vcpu;
static uint64_t bytes_before;

/* Aligned, so that the kernel may give a huge page. */
static void process_begin(void)
{
	const uint64_t bytes = ALL_PAGES * QUIRE_PAGE_SIZE;
	uint8_t *all = mmap(NULL, bytes + HUGE_BYTES, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t head = -(uint64_t)(uintptr_t)all % HUGE_BYTES;

	assert_true(all != MAP_FAILED);
	memory = all + head;
	if (head)
		assert_int_equal(munmap(all, head), 0);
	assert_int_equal(munmap(memory + bytes, HUGE_BYTES - head), 0);
	for (uint32_t page = 0; page < PAGES; page++)
		memory[page * QUIRE_PAGE_SIZE] = (uint8_t)(page + 1);
	process_mappings_changed();
	bytes_before = process_bytes_allocated() - nth_gate_taken_bytes();
}

static void process_end(void)
{
	assert_int_equal(process_vm.pinned_pages, 0);
	assert_int_equal(process_bytes_allocated() - nth_gate_taken_bytes(), bytes_before);
	assert_int_equal(munmap(memory, ALL_PAGES * QUIRE_PAGE_SIZE), 0);
	process_mappings_changed();
}

static void *process_context(void)
{
	return &process_vm;
}

static hva_t process_hva(uint32_t page)
{
	return (hva_t){(uint64_t)(uintptr_t)memory + page * QUIRE_PAGE_SIZE};
}

static void *process_vcpu_cookie(void)
{
	return &process_vcpu;
}

const struct nth_machine nth_process = {
    .name = "process",
    .ops = &process_host_ops,
    .begin = process_begin,
    .end = process_end,
    .context = process_context,
    .hva = process_hva,
    .cookie = quire_process_memory_create,
    .cookie_free = quire_process_memory_free,
    .vcpu_cookie = process_vcpu_cookie,
};

static void kernel_begin(void)
{
	nth_gate_begin();
	process_begin();
}

static void kernel_end(void)
{
	process_end();
	assert_int_equal(nth_gate_end(), 0);
}

const struct nth_machine nth_kernel = {
    .name = "kernel below the process",
    .ops = &process_host_ops,
    .begin = kernel_begin,
    .end = kernel_end,
    .context = process_context,
    .hva = process_hva,
    .cookie = quire_process_memory_create,
    .cookie_free = quire_process_memory_free,
    .vcpu_cookie = process_vcpu_cookie,
    .fails_below = 1,
    .use_memory_up = nth_gate_use_memory_up,
};
