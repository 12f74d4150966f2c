/* Running a plan: the operations, and what must hold when all of them are over. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <quire/gmem.h>
#include <quire/stats.h>
#include <quire/vcpu.h>

#include "cli/sim/world.h"
#include "hosts/sim/kernel.h"
#include "hosts/sim/order.h"
#include "src/change/change.h"

struct sim_world sim;

void sim_init(void)
{
	machine_init(&sim.machine);
}

void sim_destroy(void)
{
	machine_destroy(&sim.machine);
}

static void report(const char *text)
{
	/* The first is the one that explains the others. */
	if (!sim.broken[0])
		snprintf(sim.broken, sizeof(sim.broken), "%s", text);
	oracle_fail(&sim.oracle, sim.broken);
}

/* The host has the page that the access would have waited for, and then the guest asks again. */
static int wait_for_page(uint32_t thread, struct machine_access *access)
{
	uint64_t page = (access->hva.v - SIM_HVA_BASE) >> QUIRE_PAGE_SHIFT;
	uint64_t error = access->write ? QUIRE_PFERR_WRITE : access->fetch ? QUIRE_PFERR_FETCH : 0;

	if (!access->nowait || !oracle_shows(&sim.oracle, access->gpa >> QUIRE_PAGE_SHIFT, page)) {
		oracle_fail(&sim.oracle, "a page to be waited for that was not asked for");
		return 0;
	}
	(void)!sim_fault_in(&sim.machine.host, (uint32_t)page, access->write);
	quire_vcpu_page_ready(sim.machine.vcpus[thread], (gpa_t){access->gpa}, error);
	access->nowait = 0;
	return machine_access(&sim.machine, thread, access);
}

/* Outcomes that a guest access may have while anything goes on. */
static void check_outcome(int ret)
{
	if (ret && ret != QUIRE_EMULATE && ret != -EFAULT && ret != -EHWPOISON)
		oracle_fail(&sim.oracle, "an access with an outcome that it cannot have");
}

static void guest_op(uint32_t thread, const struct sim_op *op)
{
	struct machine_access access = {.gpa = op->first << QUIRE_PAGE_SHIFT, .size_bytes = 8};
	uint64_t done;
	int ret;

	if (op->kind == OP_PREFAULT) {
		ret = quire_vcpu_prefault(sim.machine.vcpus[thread], (gpa_t){access.gpa},
					  QUIRE_PAGE_SIZE, &done);
		if (ret != -EAGAIN && ret != -ENOENT)
			check_outcome(ret);
		return;
	}
	access.write = op->kind == OP_STORE;
	access.fetch = !access.write && (op->flags & ACCESS_FETCH);
	access.nowait = (op->flags & ACCESS_NOWAIT) != 0;
	/* Every store has a value of its own. */
	access.value = access.write ? ++sim.stores << 16 | op->first : 0;
	sim.oracle.nowait[thread] = access.nowait;
	ret = machine_access(&sim.machine, thread, &access);
	sim.oracle.nowait[thread] = false;
	if (ret == -EAGAIN)
		ret = wait_for_page(thread, &access);
	check_outcome(ret);
}

static void use_page(uint32_t thread, const struct sim_op *op, struct quire_map *map,
		     const struct oracle_hold *hold)
{
	struct quire_vcpu *vcpu = sim.machine.vcpus[thread];
	uint64_t value = ++sim.stores << 16 | op->first;

	for (uint64_t turn = 0; turn < op->npages; turn++) {
		sched_yield_point();
		oracle_hold_check(&sim.oracle, hold);
	}
	/* The client may have unmapped it. */
	if (op->flags && !quire_map_write(vcpu, map, 0, &value, sizeof(value)))
		oracle_wrote(&sim.oracle, vcpu->as_id, op->first);
	(void)!quire_map_read(vcpu, map, 0, &value, sizeof(value));
	oracle_hold_check(&sim.oracle, hold);
}

static void map_op(uint32_t thread, const struct sim_op *op)
{
	struct quire_vcpu *vcpu = sim.machine.vcpus[thread];
	struct oracle_hold hold = {.index = SIM_GMEM_PAGES};
	struct quire_map map;
	int ret;

	oracle_hold_begin(&sim.oracle);
	ret = quire_vcpu_map(vcpu, (gpa_t){op->first << QUIRE_PAGE_SHIFT},
			     op->flags ? QUIRE_MAP_WRITE : QUIRE_MAP_READ, &map);
	if (!ret) {
		oracle_hold(&sim.oracle, op->first, &map, &hold);
		use_page(thread, op, &map, &hold);
	} else if (ret != -EFAULT && ret != -ENOSPC) {
		oracle_fail(&sim.oracle, "a page is kept from the hypervisor");
	}
	oracle_hold_let_go(&sim.oracle, &hold);
	if (!ret)
		quire_vcpu_unmap(vcpu, &map);
	oracle_hold_end(&sim.oracle);
}

/* Shadow pages for it are found, if not without others' going. */
static void far_op(uint32_t thread, const struct sim_op *op)
{
	struct machine_access access = {.gpa = (1 + op->first) * SIM_FAR_BLOCK << QUIRE_PAGE_SHIFT,
					.size_bytes = 8};

	if (machine_access(&sim.machine, thread, &access))
		oracle_fail(&sim.oracle, "a load of a page that is always there");
}

static void limit_op(const struct sim_op *op)
{
	change_set_quota(sim.machine.vm, op->npages);
}

static void space_op(uint32_t thread, const struct sim_op *op)
{
	if (quire_vcpu_set_address_space(sim.machine.vcpus[thread], (uint32_t)op->npages))
		oracle_fail(&sim.oracle, "a change of the address space was refused");
}

static struct quire_region region_of(uint32_t id, const struct oracle_view *view)
{
	return (struct quire_region){
	    .slot = sim_slot_number(id),
	    .flags = view->flags,
	    .gpa = {view->gfn << QUIRE_PAGE_SHIFT},
	    .size_bytes = view->npages << QUIRE_PAGE_SHIFT,
	    .hva = sim_hva(view->page),
	    .gmem_offset_bytes = (view->page % SIM_BLOCK) << QUIRE_PAGE_SHIFT,
	    .gmem = view->flags & QUIRE_SLOT_GMEM ? sim.gmem : NULL,
	};
}

/* Change slot @id to @next; refused changes leave it as it was. */
static void change_slot(uint32_t id, const struct oracle_view *next)
{
	struct oracle_view before = sim.oracle.slots[id].current;
	struct quire_region region = region_of(id, next);

	if (!oracle_slot_begin(&sim.oracle, id, next))
		return;
	if (quire_vm_set_region(sim.machine.vm, &region))
		next = &before;
	oracle_slot_end(&sim.oracle, id, next);
}

/* As a thread of the client's does it ahead of a log. */
static void split_op(const struct sim_op *op)
{
	uint64_t done;

	(void)!quire_vm_split(sim.machine.vm, 0, gpa_of((gfn_t){op->first}), QUIRE_PAGE_SIZE,
			      &done);
}

static void slot_op(const struct sim_op *op)
{
	struct oracle_view next = sim.oracle.slots[op->slot].current;

	if ((op->kind == OP_SLOT_CREATE) == (next.npages != 0))
		return;
	switch (op->kind) {
	case OP_SLOT_CREATE:
		next = (struct oracle_view){op->first, op->npages, op->page, op->flags};
		break;
	case OP_SLOT_DELETE:
		memset(&next, 0, sizeof(next));
		break;
	case OP_SLOT_MOVE:
		next.gfn = op->first;
		break;
	default:
		next.flags ^= QUIRE_SLOT_LOG_DIRTY;
		break;
	}
	change_slot(op->slot, &next);
}

/* Of a file that owns the attributes: the index is the gfn's in its block. */
static void convert_op(const struct sim_op *op)
{
	struct oracle *oracle = &sim.oracle;
	uint64_t first = op->first % SIM_GMEM_PAGES, end = first + op->npages;
	struct quire_gmem_conversion conversion = {
	    .offset_bytes = first << QUIRE_PAGE_SHIFT,
	    .attributes = op->flags,
	    .contents = op->page,
	};

	if (oracle->attributes_busy)
		return;
	oracle->attributes_busy = true;
	end = end < SIM_GMEM_PAGES ? end : SIM_GMEM_PAGES;
	conversion.size_bytes = (end - first) << QUIRE_PAGE_SHIFT;
	oracle_convert_begin(oracle, &conversion);
	oracle_convert_end(oracle, quire_gmem_set_attributes(sim.gmem, &conversion));
	oracle->attributes_busy = false;
}

static void attributes_op(const struct sim_op *op)
{
	struct oracle *oracle = &sim.oracle;
	uint64_t end = op->first + op->npages < SIM_GFNS ? op->first + op->npages : SIM_GFNS;

	if (oracle->attributes_busy)
		return;
	oracle->attributes_busy = true;
	for (uint64_t gfn = op->first; gfn < end; gfn++)
		oracle->attributes_other[gfn] = op->flags != 0;
	if (quire_vm_set_attributes(sim.machine.vm, (gpa_t){op->first << QUIRE_PAGE_SHIFT},
				    (end - op->first) << QUIRE_PAGE_SHIFT, op->flags))
		oracle_fail(oracle, "attributes were refused");
	memcpy(oracle->attributes, oracle->attributes_other, sizeof(oracle->attributes));
	oracle->attributes_busy = false;
}

static void block_pages(hva_t start, hva_t end, int change)
{
	uint64_t first = (start.v - SIM_HVA_BASE) >> QUIRE_PAGE_SHIFT;
	uint64_t last = (end.v - SIM_HVA_BASE) >> QUIRE_PAGE_SHIFT;

	for (uint64_t page = first; page < last; page++)
		sim.oracle.page_blocked[page] = (uint8_t)(sim.oracle.page_blocked[page] + change);
}

static void notify_begin(void *vm, hva_t start, hva_t end)
{
	quire_vm_host_invalidate_begin(vm, start, end);
	block_pages(start, end, 1);
}

static void notify_end(void *vm, hva_t start, hva_t end)
{
	block_pages(start, end, -1);
	quire_vm_host_invalidate_end(vm, start, end);
}

static void host_replace_op(const struct sim_op *op)
{
	hva_t start = sim_hva((uint32_t)op->first),
	      end = sim_hva((uint32_t)(op->first + op->npages));

	for (uint64_t page = op->first; page < op->first + op->npages; page++)
		if (sim.oracle.page_busy[page])
			return;
	memset(&sim.oracle.page_busy[op->first], 1, op->npages);
	notify_begin(sim.machine.vm, start, end);
	for (uint64_t page = op->first; page < op->first + op->npages; page++) {
		sched_yield_point();
		sim_unmap(&sim.machine.host, (uint32_t)page);
		sched_yield_point();
		if (op->flags)
			sim_map_empty(&sim.machine.host, (uint32_t)page, SIM_WRITABLE);
		else
			sim_map(&sim.machine.host, (uint32_t)page, SIM_WRITABLE);
	}
	notify_end(sim.machine.vm, start, end);
	memset(&sim.oracle.page_busy[op->first], 0, op->npages);
}

/* As mprotect(2). */
static void rights_op(const struct sim_op *op)
{
	hva_t start = sim_hva((uint32_t)op->first),
	      end = sim_hva((uint32_t)(op->first + op->npages));

	notify_begin(sim.machine.vm, start, end);
	for (uint64_t page = op->first; page < op->first + op->npages; page++) {
		uint32_t *flags = &sim.machine.host.pages[page].flags;

		*flags = (*flags & ~(uint32_t)(SIM_NOEXEC | SIM_NOREAD)) | op->flags;
	}
	notify_end(sim.machine.vm, start, end);
}

/* Whether it is done or refused: what the guest sees stays. */
static void kernel_op(const struct sim_op *op)
{
	struct sim_host *host = &sim.machine.host;
	uint32_t page = (uint32_t)op->first;

	switch ((enum sim_kernel_op)op->flags) {
	case KERNEL_SWAP_OUT:
		(void)sim_swap_out(host, page);
		break;
	case KERNEL_MIGRATE:
		(void)sim_migrate(host, page);
		break;
	case KERNEL_MERGE:
		(void)sim_merge(host, page, page + 1);
		break;
	case KERNEL_COLLAPSE:
		(void)sim_collapse(host, 0);
		break;
	default:
		(void)sim_split(host, 0);
		break;
	}
}

static void age_op(const struct sim_op *op)
{
	(void)!quire_vm_age(sim.machine.vm, sim_hva((uint32_t)op->first),
			    sim_hva((uint32_t)(op->first + op->npages)),
			    op->flags ? QUIRE_AGE_TEST : QUIRE_AGE_CLEAR);
}

static void file_op(const struct sim_op *op)
{
	uint64_t offset = op->first << QUIRE_PAGE_SHIFT, size = op->npages << QUIRE_PAGE_SHIFT;
	uint8_t *lost = &sim.oracle.index_lost[op->first];

	if (!sim.gmem || sim.oracle.file_busy)
		return;
	if (op->kind == OP_ALLOCATE) {
		if (quire_gmem_allocate(sim.gmem, offset, size, NULL))
			oracle_fail(&sim.oracle, "an allocation was refused");
		return;
	}
	sim.oracle.file_busy = true;
	sim.oracle.punches_begun++;
	if (op->kind == OP_POISON) {
		*lost = *lost ? *lost : 2;
		quire_gmem_poison(sim.gmem, op->first);
		*lost = 1;
	} else {
		/* A page that was lost may come back as soon as the punch has begun. */
		for (uint64_t i = 0; i < op->npages; i++)
			lost[i] = lost[i] ? 2 : 0;
		if (quire_gmem_punch(sim.gmem, offset, size))
			oracle_fail(&sim.oracle, "a punch was refused");
		/* Of a huge page a part stays lost. */
		if (!sim.oracle.is_pool || op->npages == SIM_GMEM_PAGES)
			memset(lost, 0, op->npages);
		for (uint64_t i = 0; i < op->npages; i++)
			lost[i] = lost[i] ? 1 : 0;
	}
	sim.oracle.file_busy = false;
}

/* The second VM has a file of its own, and shows it. */
static void link_second(void)
{
	struct quire_region region = {
	    .flags = QUIRE_SLOT_GMEM,
	    .size_bytes = SIM_GMEM_PAGES * QUIRE_PAGE_SIZE,
	    .hva = sim_hva(0),
	};

	if (quire_gmem_link(sim.gmem, sim.second.vm, &sim.linked)) {
		oracle_fail(&sim.oracle, "a link was refused");
		return;
	}
	region.gmem = sim.linked;
	if (quire_vm_set_region(sim.second.vm, &region))
		oracle_fail(&sim.oracle, "a slot of the second VM was refused");
}

/* Before the slot goes, or after it: both are orders that a client may choose. */
static void link_op(const struct sim_op *op)
{
	struct quire_region none = {0};

	if (!machine_try(&sim.link_busy))
		return;
	if (op->flags)
		quire_gmem_release(sim.linked);
	if (quire_vm_set_region(sim.second.vm, &none))
		oracle_fail(&sim.oracle, "a slot of the second VM was not deleted");
	if (!op->flags)
		quire_gmem_release(sim.linked);
	link_second();
	machine_done(&sim.link_busy);
}

static void other_op(uint32_t thread, const struct sim_op *op)
{
	struct machine_access access = {.gpa = op->first << QUIRE_PAGE_SHIFT, .size_bytes = 8};

	access.write = op->flags != 0;
	access.value = access.write ? ++sim.stores << 16 | op->first : 0;
	check_outcome(machine_access(&sim.second, thread, &access));
}

static void vcpu_op(uint32_t thread, const struct sim_op *op)
{
	if (op->kind == OP_FAR)
		far_op(thread, op);
	else if (op->kind == OP_OTHER)
		other_op(thread, op);
	else if (op->kind == OP_MAP)
		map_op(thread, op);
	else
		guest_op(thread, op);
}

static void perform(uint32_t thread, const struct sim_op *op)
{
	switch (op->kind) {
	case OP_LOAD:
	case OP_STORE:
	case OP_PREFAULT:
	case OP_FAR:
	case OP_OTHER:
	case OP_MAP:
		vcpu_op(thread, op);
		break;
	case OP_ATTRIBUTES:
		if (sim.oracle.in_place)
			convert_op(op);
		else
			attributes_op(op);
		break;
	case OP_HOST_REPLACE:
		host_replace_op(op);
		break;
	case OP_KERNEL:
		kernel_op(op);
		break;
	case OP_AGE:
		age_op(op);
		break;
	case OP_PUNCH:
	case OP_ALLOCATE:
	case OP_POISON:
		file_op(op);
		break;
	case OP_HARVEST:
		sim_harvest(op->slot);
		break;
	case OP_ZAP_ALL:
		quire_vm_set_slot_zap_all(sim.machine.vm, (int)op->npages);
		break;
	case OP_EAGER_SPLIT:
		sim.machine.tunables.eager_page_split = (uint32_t)op->npages;
		split_op(op);
		break;
	case OP_LIMIT:
		limit_op(op);
		break;
	case OP_LINK:
		link_op(op);
		break;
	case OP_RIGHTS:
		rights_op(op);
		break;
	case OP_SPACE:
		space_op(thread, op);
		break;
	default:
		slot_op(op);
		break;
	}
}

static void thread_body(uint32_t thread, void *ctx)
{
	const struct sim_plan *plan = sim.plan;

	(void)ctx;
	for (uint32_t i = 0; i < plan->op_count[thread] && !sim.oracle.failure; i++) {
		sim.at[thread] = i;
		if (plan->trace)
			printf("# thread %u begins %u\n", thread, i);
		perform(thread, &plan->ops[thread][i]);
		if (plan->trace)
			printf("# thread %u ends %u\n", thread, i);
	}
}

void sim_record_to(struct sim_preemptions *preemptions)
{
	sim.recorded = preemptions;
}

static int preempt_as_planned(uint32_t step, uint32_t *thread)
{
	const struct sim_preemptions *planned = sim.plan->preemptions;
	const struct sim_preemption *next = &planned->at[sim.next_planned];

	/* One of a step that never came is passed over with its part. */
	while (sim.next_planned < planned->count && next->part < sim.part)
		next = &planned->at[++sim.next_planned];
	if (sim.next_planned >= planned->count || next->part != sim.part || next->step != step)
		return 0;
	sim.next_planned++;
	*thread = next->thread;
	return 1;
}

static void record(uint32_t step, uint32_t thread)
{
	struct sim_preemptions *recorded = sim.recorded;

	if (recorded && recorded->count < SIM_PREEMPTIONS_MAX)
		recorded->at[recorded->count++] = (struct sim_preemption){sim.part, step, thread};
}

/* Which older store a load sees: planned and kept as preemptions are. */
static int choose(void *ctx, uint32_t step, uint8_t choices, uint32_t *choice)
{
	(void)ctx;
	if (sim.plan->preemptions)
		return preempt_as_planned(step, choice);
	if (sim_random(&sim.preemptions, sim.plan->order))
		return 0;
	do
		*choice = (uint32_t)sim_random(&sim.preemptions, SCHED_THREADS_MAX);
	while (!(choices >> *choice & 1));
	record(step, *choice);
	return 1;
}

static int preempt(void *ctx, uint32_t step, uint32_t *thread)
{
	(void)ctx;
	if (sim.plan->preemptions)
		return preempt_as_planned(step, thread);
	if (sim_random(&sim.preemptions, sim.plan->preemption_odds))
		return 0;
	*thread = (uint32_t)sim_random(&sim.preemptions, sim.plan->threads);
	/* Also the running thread: those that spin look again then. */
	record(step, *thread);
	return 1;
}

static void add_far_slots(const struct sim_plan *plan)
{
	sim_map(&sim.machine.host, SIM_FAR_PAGE, SIM_WRITABLE);
	/* Each in both spaces. */
	for (uint32_t slot = 0; slot < 2 * SIM_FAR_SLOTS; slot++) {
		uint32_t i = slot / 2;
		struct quire_region region = {
		    .slot = (slot % 2) << 16 | (SIM_SLOTS + i),
		    .gpa = {(i + 1) * SIM_FAR_BLOCK << QUIRE_PAGE_SHIFT},
		    .size_bytes = QUIRE_PAGE_SIZE,
		    .hva = sim_hva(SIM_FAR_PAGE),
		};

		if (quire_vm_set_region(sim.machine.vm, &region))
			abort();
	}
	change_set_quota(sim.machine.vm, plan->limit);
}

static uint64_t file_flags(const struct sim_plan *plan)
{
	if (plan->pool)
		return QUIRE_GMEM_HUGETLB | UINT64_C(21) << QUIRE_GMEM_HUGE_SHIFT |
		       (plan->owner == OWNER_VM ? 0 : QUIRE_GMEM_MMAP);
	return plan->owner == OWNER_FILE_SHARED ? QUIRE_GMEM_INIT_SHARED : 0;
}

static void start_second(void)
{
	machine_start_second(&sim.second, &sim.machine);
	sim.second.on_access = oracle_other_access;
	sim.second.on_access_ctx = &sim.oracle;
	link_second();
	if (!sim.oracle.in_place &&
	    quire_vm_set_attributes(sim.second.vm, (gpa_t){0}, SIM_GMEM_PAGES * QUIRE_PAGE_SIZE,
				    QUIRE_ATTRIBUTE_PRIVATE))
		abort();
}

static void start(const struct sim_plan *plan)
{
	struct sim_host *host = &sim.machine.host;

	sim.plan = plan;
	sim.preemptions.state = plan->preemption_seed ^ UINT64_C(0x5851f42d4c957f2d);
	sim.part = sim.next_planned = 0;
	sim.broken[0] = '\0';
	if (sim.recorded)
		sim.recorded->count = 0;
	sim.stores = 0;
	sim.gmem = sim.linked = NULL;
	sim.link_busy = 0;
	memset(sim.ring_bits, 0, sizeof(sim.ring_bits));
	sim.machine.vcpu_count = plan->vcpus;
	sim.machine.format = plan->format;
	sim.machine.mmu = plan->mmu;
	sim.machine.rings = plan->rings;
	sim.machine.in_place = plan->owner != OWNER_VM;
	sim.machine.tunables.eager_page_split = (uint32_t)plan->eager_split;
	sim.machine.tunables.gmem_huge_pages = (uint32_t)plan->gmem_huge;
	oracle_init(&sim.oracle, &sim.machine);
	sim.oracle.on_failure = sim.on_failure;
	sim.oracle.spaces = plan->spaces;
	sim.machine.on_access = oracle_access;
	sim.machine.on_access_ctx = &sim.oracle;
	sched_on_report(report);
	machine_start(&sim.machine, plan->type);
	host->notifier = (struct sim_notifier){notify_begin, notify_end, sim.machine.vm};
	oracle_watch(&sim.oracle);
	quire_vm_set_slot_zap_all(sim.machine.vm, plan->zap_all);
	if (quire_vm_set_manual_protect(sim.machine.vm, plan->manual_protect))
		abort();
	if (plan->host_huge)
		sim_map_huge(host, 0, SIM_WRITABLE);
	for (uint32_t page = plan->host_huge ? SIM_BLOCK : 0; page < SIM_HOST_PAGES; page++)
		sim_map(host, page, SIM_WRITABLE);
	if (plan->mmu == QUIRE_MMU_SHADOW)
		add_far_slots(plan);
	if (plan->type == QUIRE_VM_DEFAULT)
		return;
	host->pool[0] = 1;
	if (quire_gmem_create(sim.machine.vm, SIM_GMEM_PAGES * QUIRE_PAGE_SIZE, file_flags(plan),
			      NULL, &sim.gmem))
		abort();
	sim.oracle.is_pool = plan->pool;
	sim.oracle.in_place = plan->owner != OWNER_VM;
	sim.oracle.is_shown = plan->owner == OWNER_FILE_SHARED;
	memset(sim.oracle.kinds, plan->owner == OWNER_FILE_PRIVATE, sizeof(sim.oracle.kinds));
	memcpy(sim.oracle.kinds_other, sim.oracle.kinds, sizeof(sim.oracle.kinds));
	sim.oracle.store = quire_gmem_store(sim.gmem);
	if (plan->linked)
		start_second();
}

/*
 * An MMIO entry outlives the attribute that makes its gfn private, and an access through it is a
 * shared one (F-004): it is refused, or emulated while the generation is the same.
 */
static bool is_through_old_mmio(const struct machine_access *access, uint64_t gfn, int ret,
				int expected)
{
	return oracle_is_private(&sim.oracle, gfn) && (access->error & QUIRE_PFERR_RSVD) &&
	       (ret == -EFAULT || (ret == QUIRE_EMULATE && expected == -EFAULT));
}

/*
 * After the run: a guest's load, or fetch, at each gfn that is looked at gives what the model says.
 * These are the first 24 of each 2 MiB, where operations begin, and every 61st of the others.
 */
static void check_space(uint32_t space, bool fetch)
{
	for (uint32_t vcpu = 0; vcpu < sim.plan->vcpus; vcpu++)
		if (sim.plan->spaces &&
		    quire_vcpu_set_address_space(sim.machine.vcpus[vcpu], space))
			abort();
	for (uint64_t gfn = 0; gfn < SIM_GFNS && !sim.oracle.failure;
	     gfn += gfn % 512 < 24 ? 1 : 61) {
		struct machine_access access = {.gpa = gfn << QUIRE_PAGE_SHIFT,
						.size_bytes = 8,
						.fetch = fetch,
						.space = space};
		uint64_t value = 0;
		int expected = oracle_expect(&sim.oracle, &access, &value);
		int ret = machine_access(&sim.machine, gfn % sim.plan->vcpus, &access);

		if (ret == expected && (ret || access.value == value))
			continue;
		if (is_through_old_mmio(&access, gfn, ret, expected))
			continue;
		oracle_fail(&sim.oracle, "memory that is not as it was left");
		sim.oracle.accessed = gfn;
		snprintf(sim.oracle.details, sizeof(sim.oracle.details),
			 "gfn %#" PRIx64 ": outcome %d, expected %d; value %#" PRIx64
			 ", expected %#" PRIx64,
			 gfn, ret, expected, access.value, value);
	}
}

static void check_memory(void)
{
	for (uint32_t space = 0; space <= (uint32_t)sim.plan->spaces; space++) {
		check_space(space, false);
		if (sim.plan->rights)
			check_space(space, true);
	}
}

/* The VM ends, while the host takes pages away: the last of the two frees it. */
static void end_body(uint32_t thread, void *ctx)
{
	const struct sim_op replace = {.npages = 3};

	(void)ctx;
	if (thread == 0) {
		machine_end_vm(&sim.machine);
	} else if (thread == 1) {
		host_replace_op(&replace);
		quire_vm_put(sim.machine.vm);
	} else {
		quire_gmem_release(thread == 2 ? sim.gmem : sim.linked);
	}
}

/* All that the host gave ought to be back. */
static void tell_leak(void)
{
	const struct sim_host *host = &sim.machine.host;
	uint32_t frames = 0;

	for (uint32_t frame = 0; frame < host->frame_count; frame++)
		frames += host->frames[frame].references != 0;
	snprintf(sim.oracle.details, sizeof(sim.oracle.details),
		 "not given back: %u frames of pages, %u pieces of memory for tables, %" PRIu64
		 " bytes of other memory",
		 frames, (uint32_t)host->chunks, (uint64_t)host->allocated_bytes);
	oracle_fail(&sim.oracle, "a leak");
}

static void end_vm(void)
{
	struct sched_run run = {.threads = sim.linked ? 4
					   : sim.gmem ? 3
						      : 2,
				.body = end_body,
				.preempt = preempt,
				.choose = choose};
	uint64_t limit = atomic_load_relaxed_u64(&sim.machine.vm->nr_mmu_pages);

	if (!machine_is_sound(&sim.machine) || (sim.linked && !machine_is_sound(&sim.second)))
		oracle_fail(&sim.oracle, "wrong statistics");
	if (limit && quire_vm_stat(sim.machine.vm, QUIRE_VM_STAT_mmu_shadow_pages) > limit)
		oracle_fail(&sim.oracle, "more shadow pages than the client allows");
	if (sim.oracle.failure)
		return;
	sim.part = 1;
	quire_vm_get(sim.machine.vm);
	if (sim.linked)
		machine_end_vm(&sim.second);
	sched_execute(&run);
	if (run.result != SCHED_DONE)
		oracle_fail(&sim.oracle, "an end of the VM that does not end");
	else if (!machine_is_empty(&sim.machine))
		tell_leak();
}

static void use_order(const struct sim_plan *plan)
{
#ifdef QUIRE_ORDER
	order_enable(plan->order);
#else
	if (plan->order)
		abort();
#endif
}

const char *sim_run(const struct sim_plan *plan)
{
	struct sched_run run = {
	    .threads = plan->threads, .body = thread_body, .preempt = preempt, .choose = choose};

	use_order(plan);
	start(plan);
	sched_execute(&run);
	if (run.result != SCHED_DONE)
		oracle_fail(&sim.oracle, run.result == SCHED_DEADLOCK ? "a deadlock" : "no end");
	if (!sim.oracle.failure) {
		sim_check_logs();
		check_memory();
	}
	/* A run that failed may have left anything: its remains are not taken apart. */
	if (sim.oracle.failure)
		return sim.oracle.failure;
	end_vm();
	return sim.oracle.failure;
}
