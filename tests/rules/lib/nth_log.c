/* Operations on logs: bitmaps, rings, splitting ahead of them. */
#include "tests/rules/lib/nth.h"

/* --- bitmaps --- */

static uint64_t taken;

static int take_bits(void *ctx, uint64_t offset_bytes, const void *src, uint64_t size_bytes)
{
	(void)ctx;
	if (!offset_bytes && size_bytes >= sizeof(taken))
		memcpy(&taken, src, sizeof(taken));
	return 0;
}

static int get_log(void)
{
	int error = quire_vm_get_dirty_log(nth.vm, 1, take_bits, NULL);

	return error ? error : taken != 1u << 3;
}

static int give_bits(void *ctx, uint64_t offset_bytes, void *dst, uint64_t size_bytes)
{
	(void)ctx;
	(void)offset_bytes;
	memset(dst, 0xff, size_bytes);
	return 0;
}

static int clear_log(void)
{
	const struct quire_clear_log request = {.slot = 1, .npages = PAGES, .copy_in = give_bits};

	return quire_vm_clear_dirty_log(nth.vm, &request);
}

static void need_manual_log(void)
{
	assert_int_equal(quire_vm_set_manual_protect(nth.vm, 1), 0);
	need_log();
}

/* All bits are set from the start, and pages are split as they are cleared. */
static void need_huge_set_log(void)
{
	assert_int_equal(quire_vm_set_manual_protect(nth.vm, 3), 0);
	need_huge();
	assert_int_equal(nth_set_slot(2, HUGE_GPA, QUIRE_SLOT_LOG_DIRTY), 0);
}

static int clear_huge_log(void)
{
	const struct quire_clear_log request = {.slot = 2, .npages = 64, .copy_in = give_bits};

	return quire_vm_clear_dirty_log(nth.vm, &request);
}

static int set_manual_protect(void)
{
	return quire_vm_set_manual_protect(nth.vm, 1);
}

static int split(void)
{
	uint64_t done = 0;
	int error = quire_vm_split(nth.vm, 0, (gpa_t){HUGE_GPA}, HUGE_BYTES, &done);

	return error ? error : done == 0;
}

/* --- rings --- */

static void no_vcpu(void)
{
	quire_vcpu_destroy(nth.vcpu);
	nth.vcpu = NULL;
}

static int enable_ring(void)
{
	/* Once: it cannot be taken back. */
	return quire_vm_enable_dirty_ring(nth.vm, NTH_RING_BYTES);
}

static int ring_bytes(void)
{
	return quire_vm_dirty_ring_bytes(nth.vm) != NTH_RING_BYTES;
}

static struct quire_ring_entry other_ring[NTH_RING_ENTRIES];

static void need_other(void)
{
	memset(other_ring, 0, sizeof(other_ring));
	assert_int_equal(nth_make_vcpu(7, &nth.other_vcpu), 0);
}

static int set_ring(void)
{
	return quire_vcpu_set_dirty_ring(nth.other_vcpu, other_ring);
}

static int ring_is_full(void)
{
	return quire_vcpu_dirty_ring_is_full(nth.vcpu);
}

/* The client has seen the entry. */
static void need_seen_entry(void)
{
	need_log();
	assert_int_equal(nth.ring[0].flags, 1);
	nth.ring[0].flags = 2;
}

static int reset_rings(void)
{
	int count = quire_vm_reset_dirty_rings(nth.vm, NULL);

	return count < 0 ? count : count != 1;
}

const struct operation nth_log_operations[] = {
    {"quire_vm_get_dirty_log", 0, need_log, get_log},
    {"quire_vm_get_dirty_log", NTH_SHADOWED, need_log, get_log},
    {"quire_vm_get_dirty_log", 0, need_manual_log, get_log},
    {"quire_vm_clear_dirty_log", 0, need_manual_log, clear_log},
    {"quire_vm_clear_dirty_log", NTH_SHADOWED, need_manual_log, clear_log},
    {"quire_vm_clear_dirty_log", NTH_SIM_ONLY, need_huge_set_log, clear_huge_log},
    {"quire_vm_set_manual_protect", 0, need_log, set_manual_protect},
    {"quire_vm_split", NTH_SPLITS_LATE, need_huge, split},
    {"quire_vm_enable_dirty_ring", 0, no_vcpu, enable_ring},
    {"quire_vm_dirty_ring_bytes", NTH_RINGS, NULL, ring_bytes},
    {"quire_vcpu_set_dirty_ring", NTH_RINGS, need_other, set_ring},
    {"quire_vcpu_dirty_ring_is_full", NTH_RINGS, need_log, ring_is_full},
    {"quire_vm_reset_dirty_rings", NTH_RINGS, need_seen_entry, reset_rings},
    {NULL, 0, NULL, NULL},
};
