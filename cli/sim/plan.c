/* From a seed to a plan. */
#include <string.h>

#include <quire/gmem.h>

#include "cli/sim/sim.h"
#include "src/entry/format.h"

void sim_plan_order(struct sim_plan *plan)
{
	struct sim_random random = {plan->seed ^ UINT64_C(0x6a09e667f3bcc909)};

	plan->order = 2u << sim_random(&random, 5);
}

uint64_t sim_random(struct sim_random *random, uint64_t below)
{
	uint64_t z = random->state += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return (z ^ (z >> 31)) % below;
}

/* Few places, so that operations meet. */
static uint64_t pick_gfn(struct sim_random *random)
{
	static const uint64_t bases[] = {0, 0, 512, 512, 16, 600};

	return bases[sim_random(random, 6)] + sim_random(random, 6);
}

/* A slot of one block or of a few pages, over the block that the host maps huge or over others. */
static void pick_slot(const struct sim_plan *plan, struct sim_random *random, struct sim_op *op)
{
	static const uint64_t bases[] = {0, 512, 0, 16, 600};
	uint64_t place = sim_random(random, 5);
	bool big = place < 2;

	op->slot = (uint32_t)sim_random(random, SIM_SLOTS);
	op->first = bases[place];
	op->npages = big ? SIM_BLOCK : 8;
	/* Two slots may show the same pages of the host. */
	op->page = big ? 0 : (uint32_t)(sim_random(random, 2) ? SIM_BLOCK : 0);
	op->flags = 0;
	if (plan->type == QUIRE_VM_SW_PROTECTED && sim_random(random, 3))
		op->flags = QUIRE_SLOT_GMEM;
	else if (sim_random(random, 2))
		op->flags = QUIRE_SLOT_LOG_DIRTY;
	else if (!sim_random(random, 6))
		op->flags = QUIRE_SLOT_READONLY;
}

static void pick_range(struct sim_random *random, struct sim_op *op, uint64_t limit)
{
	op->first = sim_random(random, 4) ? sim_random(random, 6) : limit - 6;
	op->npages = 1 + sim_random(random, 3);
}

static void pick_details(const struct sim_plan *plan, struct sim_random *random, struct sim_op *op)
{
	op->slot = (uint32_t)sim_random(random, SIM_SLOTS);
	switch (op->kind) {
	case OP_SLOT_CREATE:
	case OP_SLOT_MOVE:
		pick_slot(plan, random, op);
		break;
	case OP_HOST_REPLACE:
		pick_range(random, op, SIM_HOST_PAGES);
		if (!sim_random(random, 3))
			op->first = SIM_BLOCK + sim_random(random, 6);
		op->flags = !sim_random(random, 3);
		break;
	case OP_KERNEL:
		op->first = (sim_random(random, 3) ? 0 : SIM_BLOCK) + sim_random(random, 6);
		op->flags = (uint32_t)sim_random(random, KERNEL_COUNT);
		break;
	case OP_AGE:
		op->first = sim_random(random, 2) ? sim_random(random, 6) : SIM_BLOCK;
		op->npages = sim_random(random, 2) ? 1 + sim_random(random, 3) : 64;
		op->flags = !sim_random(random, 4);
		break;
	case OP_PUNCH:
	case OP_ALLOCATE:
	case OP_POISON:
		pick_range(random, op, SIM_GMEM_PAGES);
		break;
	case OP_ATTRIBUTES:
		op->first = pick_gfn(random);
		op->npages = sim_random(random, 4) ? 1 + sim_random(random, 3) : SIM_BLOCK;
		op->flags = sim_random(random, 2) ? QUIRE_ATTRIBUTE_PRIVATE : 0;
		break;
	default:
		op->first = pick_gfn(random);
		op->npages = sim_random(random, 2);
		break;
	}
}

static enum sim_op_kind pick_kind(const struct sim_plan *plan, struct sim_random *random,
				  bool is_vcpu)
{
	static const enum sim_op_kind changes[] = {
	    OP_SLOT_CREATE, OP_SLOT_CREATE,  OP_SLOT_DELETE,  OP_SLOT_MOVE,  OP_SLOT_LOG,
	    OP_SLOT_LOG,    OP_HOST_REPLACE, OP_HOST_REPLACE, OP_HARVEST,    OP_HARVEST,
	    OP_KERNEL,	    OP_KERNEL,	     OP_KERNEL,	      OP_HARVEST,    OP_ZAP_ALL,
	    OP_EAGER_SPLIT, OP_AGE,	     OP_AGE,	      OP_ATTRIBUTES, OP_ATTRIBUTES,
	    OP_PUNCH,	    OP_ALLOCATE,     OP_POISON};

	if (is_vcpu && sim_random(random, 8))
		return sim_random(random, 8) ? (enum sim_op_kind)sim_random(random, 2)
					     : OP_PREFAULT;
	/* The last five need private memory. */
	return changes[sim_random(random, plan->type == QUIRE_VM_DEFAULT ? 18 : 23)];
}

static uint32_t pick_limit(struct sim_random *random)
{
	return SIM_LIMIT_MIN + (uint32_t)sim_random(random, SIM_LIMIT_MAX - SIM_LIMIT_MIN + 1);
}

/*
 * Some VMs are on shadow pages, of which there are never enough. Drawn apart, so that a seed's plan
 * is otherwise what it would be without.
 */
static void choose_mmu(struct sim_plan *plan)
{
	struct sim_random random = {plan->seed ^ UINT64_C(0x2545f4914f6cdd1d)};

	if (plan->type != QUIRE_VM_DEFAULT || sim_random(&random, 4))
		return;
	plan->mmu = QUIRE_MMU_SHADOW;
	plan->format = QUIRE_FORMAT_NPT;
	plan->limit = pick_limit(&random);
	for (uint32_t thread = 0; thread < plan->threads; thread++) {
		bool is_vcpu = thread < plan->vcpus;

		/* But for the slots to begin with. */
		for (uint32_t i = is_vcpu ? 0 : 2; i < plan->op_count[thread]; i++) {
			struct sim_op *op = &plan->ops[thread][i];

			if (sim_random(&random, 6))
				continue;
			op->kind = is_vcpu ? OP_FAR : OP_LIMIT;
			op->first = sim_random(&random, SIM_FAR_SLOTS);
			op->npages = pick_limit(&random);
		}
	}
}

/* In half of those with the TDP MMU, tables of another processor. Drawn apart, too. DBM is drawn
 * after all others, so that it changes no other plan. */
static void choose_format(struct sim_plan *plan)
{
	struct sim_random random = {plan->seed ^ UINT64_C(0xd6e8feb86659fd93)};
	const uint64_t others = QUIRE_FORMAT_ARM64_3_DBM - QUIRE_FORMAT_SV39X4;

	if (plan->mmu != QUIRE_MMU_TDP || !sim_random(&random, 2))
		return;
	plan->format = (enum quire_format_id)(QUIRE_FORMAT_SV39X4 + sim_random(&random, others));
	if (plan->format == QUIRE_FORMAT_ARM64_3 && sim_random(&random, 2))
		plan->format = QUIRE_FORMAT_ARM64_3_DBM;
	else if (plan->format == QUIRE_FORMAT_ARM64_4 && sim_random(&random, 2))
		plan->format = QUIRE_FORMAT_ARM64_4_DBM;
}

/* In some, a second VM has a file of the same pages. Drawn apart, too. */
static void choose_link(struct sim_plan *plan)
{
	struct sim_random random = {plan->seed ^ UINT64_C(0x9e6c63d0676a9a99)};

	plan->linked = plan->type != QUIRE_VM_DEFAULT && sim_random(&random, 2);
	for (uint32_t thread = 0; plan->linked && thread < plan->threads; thread++) {
		bool is_vcpu = thread < plan->vcpus;

		for (uint32_t i = is_vcpu ? 0 : 2; i < plan->op_count[thread]; i++) {
			struct sim_op *op = &plan->ops[thread][i];

			if (sim_random(&random, is_vcpu ? 3 : 8))
				continue;
			op->kind = is_vcpu ? OP_OTHER : OP_LINK;
			/* Where the other operations begin. */
			op->first = sim_random(&random, 24);
			op->flags = (uint32_t)sim_random(&random, 2);
		}
	}
}

static void choose_space(const struct sim_plan *plan, uint32_t thread, struct sim_random *random,
			 struct sim_op *op)
{
	if (op->kind == OP_LIMIT)
		op->npages += SIM_LIMIT_SPACE;
	if (thread >= plan->vcpus || sim_random(random, 5))
		return;
	op->kind = OP_SPACE;
	op->npages = sim_random(random, 2);
}

/* In half of those without private memory vCPUs change their address space. Drawn apart, too. */
static void choose_spaces(struct sim_plan *plan)
{
	struct sim_random random = {plan->seed ^ UINT64_C(0xa0761d6478bd642f)};

	plan->spaces = plan->type == QUIRE_VM_DEFAULT && sim_random(&random, 2);
	if (!plan->spaces)
		return;
	plan->limit += SIM_LIMIT_SPACE;
	for (uint32_t thread = 0; thread < plan->threads; thread++)
		for (uint32_t i = 0; i < plan->op_count[thread]; i++)
			choose_space(plan, thread, &random, &plan->ops[thread][i]);
}

/* In half of those with private memory the file owns the attributes. Drawn apart, too. */
static void choose_owner(struct sim_plan *plan)
{
	struct sim_random random = {plan->seed ^ UINT64_C(0xd1342543de82ef95)};

	if (plan->type == QUIRE_VM_DEFAULT || sim_random(&random, 2))
		return;
	plan->owner = sim_random(&random, 2) ? OWNER_FILE_PRIVATE : OWNER_FILE_SHARED;
}

/* In a third of those whose file is private at first it is a huge page. Drawn apart, too. */
static void choose_pool(struct sim_plan *plan)
{
	struct sim_random random = {plan->seed ^ UINT64_C(0x2545f4914f6cdd1d)};

	if (plan->type != QUIRE_VM_DEFAULT && plan->owner != OWNER_FILE_SHARED)
		plan->pool = !sim_random(&random, 3);
}

/* What is drawn for vCPUs beside their accesses, and for their accesses. Drawn apart, too. */
static void choose_accesses(struct sim_plan *plan)
{
	struct sim_random random = {plan->seed ^ UINT64_C(0xbf58476d1ce4e5b9)};
	bool maps = sim_random(&random, 2), leaves = sim_random(&random, 2);

	for (uint32_t thread = 0; thread < plan->vcpus; thread++) {
		for (uint32_t i = 0; i < plan->op_count[thread]; i++) {
			struct sim_op *op = &plan->ops[thread][i];

			if (op->kind != OP_LOAD && op->kind != OP_STORE)
				continue;
			if (maps && !sim_random(&random, 5)) {
				op->kind = OP_MAP;
				op->flags = (uint32_t)sim_random(&random, 2);
				op->npages = sim_random(&random, 2) ? 3 : 400;
				continue;
			}
			if (leaves && sim_random(&random, 2))
				op->flags |= ACCESS_NOWAIT;
			if (plan->rights && !sim_random(&random, 3))
				op->flags |= ACCESS_FETCH;
		}
	}
}

/* In some, the host takes rights to its pages away, and gives them back. Drawn apart, too. */
static void choose_rights(struct sim_plan *plan)
{
	static const uint32_t rights[] = {0, SIM_NOEXEC, SIM_NOREAD, SIM_NOREAD | SIM_NOEXEC};
	struct sim_random random = {plan->seed ^ UINT64_C(0x94d049bb133111eb)};

	plan->rights = !sim_random(&random, 3);
	for (uint32_t thread = plan->vcpus; plan->rights && thread < plan->threads; thread++) {
		for (uint32_t i = 2; i < plan->op_count[thread]; i++) {
			struct sim_op *op = &plan->ops[thread][i];

			if (op->kind != OP_HOST_REPLACE && sim_random(&random, 4))
				continue;
			op->kind = OP_RIGHTS;
			pick_range(&random, op, SIM_HOST_PAGES);
			if (!sim_random(&random, 3))
				op->first = SIM_BLOCK + sim_random(&random, 6);
			op->flags = rights[sim_random(&random, 4)];
		}
	}
}

/* What becomes of the contents of pages that are converted in place. Drawn apart, too. */
static void choose_contents(struct sim_plan *plan)
{
	static const uint32_t contents[] = {0, QUIRE_GMEM_ZERO, QUIRE_GMEM_PRESERVE};
	struct sim_random random = {plan->seed ^ UINT64_C(0xaf251af3b0f025b5)};

	for (uint32_t thread = plan->vcpus; plan->owner != OWNER_VM && thread < plan->threads;
	     thread++)
		for (uint32_t i = 2; i < plan->op_count[thread]; i++) {
			struct sim_op *op = &plan->ops[thread][i];

			/* There are more of them than of others. */
			if (!sim_random(&random, 4)) {
				op->kind = OP_ATTRIBUTES;
				pick_details(plan, &random, op);
			}
			if (op->kind == OP_ATTRIBUTES)
				op->page = contents[sim_random(&random, 3)];
		}
}

void sim_plan_make(struct sim_plan *plan, uint64_t seed)
{
	struct sim_random random = {seed};

	memset(plan, 0, sizeof(*plan));
	plan->seed = plan->preemption_seed = seed;
	plan->type = sim_random(&random, 3) ? QUIRE_VM_DEFAULT : QUIRE_VM_SW_PROTECTED;
	plan->format = (enum quire_format_id)sim_random(&random, 3);
	plan->rings = !sim_random(&random, 3);
	plan->manual_protect =
	    (uint32_t)(sim_random(&random, 2) ? sim_random(&random, 2) * 2 + 1 : 0);
	plan->zap_all = (int)sim_random(&random, 2);
	plan->eager_split = (int)sim_random(&random, 2);
	plan->host_huge = sim_random(&random, 4) != 0;
	plan->gmem_huge = (int)sim_random(&random, 2);
	plan->vcpus = 1 + (uint32_t)sim_random(&random, 2);
	plan->threads = plan->vcpus + 1 + (uint32_t)sim_random(&random, 2);
	plan->preemption_odds = 4u << sim_random(&random, 5);
	/* Slots to begin with. */
	plan->op_count[plan->vcpus] = 2;
	for (uint32_t i = 0; i < 2; i++) {
		plan->ops[plan->vcpus][i].kind = OP_SLOT_CREATE;
		pick_slot(plan, &random, &plan->ops[plan->vcpus][i]);
	}
	for (uint32_t thread = 0; thread < plan->threads; thread++) {
		uint32_t count = 6 + (uint32_t)sim_random(&random, SIM_OPS_MAX - 8);

		while (plan->op_count[thread] < count) {
			struct sim_op *op = &plan->ops[thread][plan->op_count[thread]++];

			op->kind = pick_kind(plan, &random, thread < plan->vcpus);
			pick_details(plan, &random, op);
		}
	}
	choose_mmu(plan);
	choose_format(plan);
	choose_link(plan);
	choose_owner(plan);
	choose_pool(plan);
	choose_rights(plan);
	choose_contents(plan);
	choose_accesses(plan);
	choose_spaces(plan);
}
