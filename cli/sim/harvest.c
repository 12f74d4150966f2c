/* Dirty logs of a simulated run: harvests by bitmap and by ring, and what none may have missed. */
#include <stdio.h>
#include <string.h>

#include "cli/sim/world.h"

/* The number that the library knows slot @id by. */
uint32_t sim_slot_number(uint32_t id)
{
	return oracle_space(&sim.oracle, id) << 16 | id;
}

static void ring_entry(void *ctx, uint32_t slot, uint64_t offset)
{
	uint32_t id = slot & 0xffff;

	(void)ctx;
	if (id >= SIM_SLOTS || slot != sim_slot_number(id) || offset >= SIM_BLOCK)
		oracle_fail(&sim.oracle, "a ring entry that names no page");
	else
		sim.ring_bits[id][offset / 64] |= UINT64_C(1) << (offset % 64);
}

static void read_rings(void)
{
	for (uint32_t i = 0; i < sim.machine.vcpu_count; i++)
		machine_read_ring(&sim.machine, i, ring_entry, NULL);
}

/* What was read before the reset is copied after it: the copy has all writes until then. */
static void ring_harvest(void)
{
	uint64_t bits[SIM_SLOTS][SIM_BLOCK / 64];

	if (!machine_try(&sim.oracle.rings_busy))
		return;
	read_rings();
	memcpy(bits, sim.ring_bits, sizeof(bits));
	memset(sim.ring_bits, 0, sizeof(sim.ring_bits));
	if (quire_vm_reset_dirty_rings(sim.machine.vm, NULL) < 0)
		oracle_fail(&sim.oracle, "a reset of rings was refused");
	for (uint32_t id = 0; id < SIM_SLOTS; id++)
		oracle_harvested(&sim.oracle, id, bits[id]);
	machine_done(&sim.oracle.rings_busy);
}

static int take_log(void *ctx, uint64_t offset_bytes, const void *src, uint64_t size_bytes)
{
	memcpy((uint8_t *)ctx + offset_bytes, src, size_bytes);
	return 0;
}

static int give_log(void *ctx, uint64_t offset_bytes, void *dst, uint64_t size_bytes)
{
	memcpy(dst, (const uint8_t *)ctx + offset_bytes, size_bytes);
	return 0;
}

/* The log of a slot: by GET, or with manual protection by GET and CLEAR. */
static void bitmap_harvest(uint32_t id)
{
	struct oracle_slot *slot = &sim.oracle.slots[id];
	uint64_t bits[SIM_BLOCK / 64] = {0};
	struct quire_clear_log clear = {.slot = sim_slot_number(id),
					.npages = (uint32_t)slot->current.npages,
					.copy_in = give_log,
					.ctx = bits};
	int ret;

	if (slot->busy || slot->harvesting || !(slot->current.flags & QUIRE_SLOT_LOG_DIRTY))
		return;
	/* The slot stays while its log is read, so that it is known whose pages the bits are. */
	slot->harvesting = true;
	ret = quire_vm_get_dirty_log(sim.machine.vm, sim_slot_number(id), take_log, bits);
	if (!ret && sim.plan->manual_protect)
		ret = quire_vm_clear_dirty_log(sim.machine.vm, &clear);
	slot->harvesting = false;
	if (ret)
		oracle_fail(&sim.oracle, "a harvest was refused");
	else
		oracle_harvested(&sim.oracle, id, bits);
}

void sim_harvest(uint32_t id)
{
	if (sim.plan->rings)
		ring_harvest();
	else
		bitmap_harvest(id);
}

void sim_check_logs(void)
{
	uint64_t bits[SIM_BLOCK / 64];

	read_rings();
	for (uint32_t id = 0; id < SIM_SLOTS; id++) {
		const struct oracle_view *view = &sim.oracle.slots[id].current;

		memset(bits, 0, sizeof(bits));
		if (!view->npages || !(view->flags & QUIRE_SLOT_LOG_DIRTY))
			continue;
		if (!sim.plan->rings &&
		    quire_vm_get_dirty_log(sim.machine.vm, sim_slot_number(id), take_log, bits))
			oracle_fail(&sim.oracle, "a harvest was refused");
		oracle_check_last(&sim.oracle, id, sim.plan->rings ? sim.ring_bits[id] : bits);
	}
}
