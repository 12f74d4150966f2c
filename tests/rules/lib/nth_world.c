/* The VM of an operation, and what can be seen of it. */
#include <quire/format.h>

#include "src/vm/vm.h"
#include "tests/rules/lib/nth.h"
#include "tests/rules/lib/nth_host.h"

struct nth nth;

int nth_make_vm(struct quire_vm **vm)
{
	struct quire_vm_config config = {
	    .type = nth.vm_kind & NTH_PRIVATE ? QUIRE_VM_SW_PROTECTED : QUIRE_VM_DEFAULT,
	    .mmu = nth.vm_kind & NTH_SHADOWED ? QUIRE_MMU_SHADOW : QUIRE_MMU_TDP,
	    .maxphyaddr = 48,
	    .mmio_caching = 1,
	    .gmem_in_place_conversion = (nth.vm_kind & NTH_IN_PLACE) != 0,
	    .host = &nth.ops,
	    .host_ctx = nth.machine->context(),
	    .tunables = &nth.tunables,
	    .confidential = nth.vm_kind & NTH_CONFIDENTIAL ? &nth_confidential : NULL,
	};

	return quire_vm_create(&config, vm);
}

int nth_make_vcpu(uint32_t id, struct quire_vcpu **vcpu)
{
	return quire_vcpu_create(nth.vm, id, nth.machine->vcpu_cookie(), vcpu);
}

/* All of the VM's memory for tables is taken: an operation that wants one more asks the host. */
static void use_tables_up(void)
{
	struct arena *arena = &nth.vm->arena;

	if (table_cache_refill(&nth.taken, arena, (uint32_t)arena->free_count))
		fail();
	assert_int_equal(arena->free_count, 0);
}

/* A VM that ends has all of its tables. */
static void give_tables_back(void)
{
	if (nth.vm)
		table_cache_drain(&nth.taken, &nth.vm->arena);
}

void nth_begin(const struct nth_machine *machine, const struct operation *operation,
	       int are_tables_used_up)
{
	memset(&nth, 0, sizeof(nth));
	nth.machine = machine;
	nth.ops = nth_failing_ops(machine->ops);
	nth.vm_kind = operation->vm;
	nth.tunables.gmem_huge_pages = (operation->vm & NTH_HUGE_GMEM) != 0;
	nth.tunables.eager_page_split = !(operation->vm & NTH_SPLITS_LATE);
	machine->begin();
	assert_int_equal(nth_make_vm(&nth.vm), 0);
	if (operation->vm & NTH_RINGS)
		assert_int_equal(quire_vm_enable_dirty_ring(nth.vm, NTH_RING_BYTES), 0);
	assert_int_equal(nth_make_vcpu(0, &nth.vcpu), 0);
	if (operation->vm & NTH_RINGS)
		assert_int_equal(quire_vcpu_set_dirty_ring(nth.vcpu, nth.ring), 0);
	if (operation->setup)
		operation->setup();
	/* A VM that an operation ends ends with all of them. */
	if (are_tables_used_up && nth.vcpu)
		use_tables_up();
	if (machine->use_memory_up)
		machine->use_memory_up();
}

const char *nth_end(void)
{
	const char *left;

	give_tables_back();

	if (nth.is_mapped)
		quire_vcpu_unmap(nth.vcpu, &nth.map);
	if (nth.place)
		quire_place_destroy(nth.place);
	if (nth.other_vcpu)
		quire_vcpu_destroy(nth.other_vcpu);
	if (nth.vcpu)
		quire_vcpu_destroy(nth.vcpu);
	if (nth.linked)
		quire_gmem_release(nth.linked);
	if (nth.gmem)
		quire_gmem_release(nth.gmem);
	if (nth.cookie)
		nth.machine->cookie_free(nth.cookie);
	if (nth.second)
		quire_vm_put(nth.second);
	if (nth.vm)
		quire_vm_put(nth.vm);
	left = nth.bytes    ? "memory is not given back"
	       : nth.chunks ? "memory for tables is not given back"
	       : nth.stores ? "a store is not given back"
	       : nth.pages  ? "a page is not given back"
			    : NULL;
	if (!left)
		nth.machine->end();
	return left;
}

int nth_call(const struct operation *operation, uint64_t number, uint32_t variant)
{
	int result;

	nth.calls = 0;
	nth.fail_at = number;
	nth.variant = variant;
	nth.error = 0;
	nth.has_ended = 0;
	nth.is_armed = 1;
	result = operation->call();
	nth.is_armed = 0;
	return result;
}

static void fold(uint64_t *digest, uint64_t value)
{
	*digest = (*digest ^ value) * UINT64_C(0x9e3779b97f4a7c15);
	*digest ^= *digest >> 29;
}

static int fold_slot(void *digest, const struct quire_view_piece *piece)
{
	fold(digest, piece->slot_id | (uint64_t)piece->as_id << 32);
	fold(digest, piece->flags);
	fold(digest, piece->gfn.v);
	fold(digest, piece->npages);
	/* Two machines of one kind have their memory in different places. */
	fold(digest, piece->hva.v - nth.machine->hva(0).v);
	return 0;
}

static int fold_bits(void *digest, uint64_t offset_bytes, const void *src, uint64_t size_bytes)
{
	for (uint64_t i = 0; i < size_bytes / 8; i++)
		fold(digest, ((const uint64_t *)src)[i] + offset_bytes);
	return 0;
}

int nth_enter(void)
{
	struct quire_stage2 stage2;
	uint64_t requests;
	int error = quire_vcpu_enter(nth.vcpu, &requests, &stage2);

	if (!error)
		quire_vcpu_leave(nth.vcpu);
	return error;
}

int nth_fault(uint64_t gpa, uint64_t access)
{
	struct quire_memory_fault fault;

	return quire_vcpu_fault(nth.vcpu, (gpa_t){gpa}, access, &fault);
}

/* The guest's access: some of the bytes there, or why it got none. */
static uint64_t guest_access(uint64_t gpa, uint64_t access)
{
	for (;;) {
		struct quire_translation found;
		struct quire_stage2 stage2;
		uint64_t requests, bytes[2];
		int result;

		assert_int_equal(quire_vcpu_enter(nth.vcpu, &requests, &stage2), 0);
		result = quire_walk(&stage2, (gpa_t){gpa}, access, &found);
		if (result)
			memcpy(bytes, (const void *)(uintptr_t)found.address, sizeof(bytes));
		quire_vcpu_leave(nth.vcpu);
		if (result)
			return bytes[0] + 31 * bytes[1];
		result = nth_fault(gpa, found.error_code);
		if (result != QUIRE_RETRY && result != QUIRE_FIXED && result != QUIRE_SPURIOUS)
			return UINT64_C(0xbad) << 32 | (uint32_t)result;
	}
}

static void fold_pages(uint64_t *digest, uint64_t gpa, uint32_t count, uint64_t step)
{
	for (uint32_t i = 0; i < count; i++, gpa += step) {
		uint64_t own = 0;
		int error = quire_vm_read(nth.vm, (gpa_t){gpa}, &own, sizeof(own));

		fold(digest, quire_vm_get_attributes(nth.vm, gfn_of((gpa_t){gpa})));
		fold(digest, error ? (uint64_t)(int64_t)error : own);
		fold(digest, guest_access(gpa, 0));
		fold(digest, guest_access(gpa, QUIRE_PFERR_WRITE));
	}
}

static void fold_logs(uint64_t *digest)
{
	for (uint32_t slot = 1; slot <= 2; slot++)
		fold(digest, (uint64_t)quire_vm_get_dirty_log(nth.vm, slot, fold_bits, digest));
	for (size_t i = 0; i < NTH_RING_ENTRIES; i++)
		fold(digest, nth.ring[i].offset << 32 | nth.ring[i].slot << 8 | nth.ring[i].flags);
}

uint64_t nth_digest(void)
{
	uint64_t digest = 1;

	if (!nth.vm || !nth.vcpu || quire_vm_is_dead(nth.vm))
		return nth.vm && nth.vcpu;
	for (uint32_t as = 0; as < quire_vm_address_spaces(nth.vm); as++)
		assert_int_equal(quire_vm_view_slots(nth.vm, as, fold_slot, &digest), 0);
	fold_logs(&digest);
	memset(nth.ring, 0, sizeof(nth.ring));
	if (quire_vcpu_set_nested(nth.vcpu, NULL))
		fail();
	fold_pages(&digest, GPA, PAGES, QUIRE_PAGE_SIZE);
	fold_pages(&digest, ELSEWHERE, PAGES, QUIRE_PAGE_SIZE);
	fold_pages(&digest, HUGE_GPA, 4, HUGE_BYTES / 4);
	return digest;
}

int nth_set_slot(uint32_t slot, uint64_t gpa, uint32_t flags)
{
	struct quire_region region = {
	    .slot = slot,
	    .flags = flags,
	    .gpa = {gpa},
	    .size_bytes = slot == 1 ? BYTES : HUGE_BYTES,
	    .hva = nth.machine->hva(slot == 1 ? 0 : HUGE_PAGE),
	    .gmem = flags & QUIRE_SLOT_GMEM ? nth.gmem : NULL,
	    .gmem_error = nth.gmem ? 0 : -EBADF,
	};

	return quire_vm_set_region(nth.vm, &region);
}

void need_slot(void)
{
	assert_int_equal(nth_set_slot(1, GPA, 0), 0);
}

void need_root(void)
{
	need_slot();
	assert_int_equal(nth_enter(), 0);
}

void need_mapped(void)
{
	need_root();
	/* A shadowed VM's fault may map neighbours, too. */
	for (uint32_t page = 0; page < PAGES; page++)
		assert_true(nth_fault(GPA + page * QUIRE_PAGE_SIZE, QUIRE_PFERR_WRITE) >=
			    QUIRE_FIXED);
}

void need_huge(void)
{
	assert_int_equal(nth_set_slot(2, HUGE_GPA, 0), 0);
	assert_int_equal(nth_enter(), 0);
	assert_int_equal(nth_fault(HUGE_GPA, QUIRE_PFERR_WRITE), QUIRE_FIXED);
}

void need_log(void)
{
	assert_int_equal(nth_set_slot(1, GPA, QUIRE_SLOT_LOG_DIRTY), 0);
	assert_int_equal(nth_enter(), 0);
	assert_int_equal(nth_fault(GPA + 3 * QUIRE_PAGE_SIZE, QUIRE_PFERR_WRITE), QUIRE_FIXED);
}

static int create_gmem(uint64_t size_bytes, uint64_t flags)
{
	int error = nth.cookie ? 0 : nth.machine->cookie(size_bytes, &nth.cookie);

	if (error)
		return error;
	error = quire_gmem_create(nth.vm, size_bytes, flags, nth.cookie, &nth.gmem);
	/* The file's from here on. */
	if (!error)
		nth.cookie = NULL;
	return error;
}

int nth_create_gmem(uint64_t flags)
{
	return create_gmem(BYTES, flags);
}

void need_block(void)
{
	assert_int_equal(create_gmem(HUGE_BYTES, 0), 0);
	assert_int_equal(nth_set_slot(2, HUGE_GPA, QUIRE_SLOT_GMEM), 0);
	assert_int_equal(
	    quire_vm_set_attributes(nth.vm, (gpa_t){HUGE_GPA}, HUGE_BYTES, QUIRE_ATTRIBUTE_PRIVATE),
	    0);
	assert_int_equal(nth_enter(), 0);
}

void need_gmem(void)
{
	assert_int_equal(nth_create_gmem(0), 0);
}

void need_bound(void)
{
	need_gmem();
	assert_int_equal(nth_set_slot(1, GPA, QUIRE_SLOT_GMEM), 0);
}

int nth_set_private(void)
{
	return quire_vm_set_attributes(nth.vm, (gpa_t){GPA + QUIRE_PAGE_SIZE}, 5 * QUIRE_PAGE_SIZE,
				       QUIRE_ATTRIBUTE_PRIVATE);
}

void need_private(void)
{
	need_bound();
	assert_int_equal(nth_set_private(), 0);
	assert_int_equal(nth_enter(), 0);
}
