/* Random turns of one L1, each checked against the oracle. */
#include <stdio.h>
#include <string.h>

#include "play_internal.h"

#define LEAF_BLOCKS 6u /* of data, read-only memory and none */
#define EXIT_VMMCALL (VMCB_EXIT_INTR + INTERCEPT_VMMCALL)

/* One access of L2 and what it may come to. */
struct attempt {
	enum l2_code code;
	enum oracle_access access;
	uint64_t gpa, value, offset;
	uint64_t leaf_before; /* the entry, when there is one translation alone */
	uint64_t device_gpa;  /* where it ended when that is no memory; 0: it did not */
	struct oracle_set set;
};

static struct fuzz_random *dice(struct play *play)
{
	return &play->random;
}

static uint64_t random_page_index(struct play *play)
{
	static const uint64_t far[] = {0, 7, 255, 256, 510, 511};

	return random_once_in(dice(play), 4) ? far[random_below(dice(play), 6)]
					     : random_below(dice(play), 8);
}

static uint64_t random_gpa(struct play *play)
{
	return (1 + random_below(dice(play), 3)) << 30 |
	       (play->base + (random_below(dice(play), 4) << 21)) | random_page_index(play) << 12;
}

static uint64_t random_rights(struct play *play)
{
	uint64_t rights = ORACLE_P;

	if (random_below(dice(play), 5))
		rights |= ORACLE_W;
	if (random_below(dice(play), 12))
		rights |= ORACLE_U;
	if (random_once_in(dice(play), 5))
		rights |= ORACLE_NX;
	if (random_once_in(dice(play), 2))
		rights |= ORACLE_A;
	if (random_once_in(dice(play), 2))
		rights |= ORACLE_D;
	if (random_once_in(dice(play), 40))
		rights |= 1ul << (48 + random_below(dice(play), 4));
	return rights;
}

static uint64_t table_gpa(const struct play *play, uint64_t table)
{
	return play->memory[PLAY_TABLE_SLOT].gpa + table * PAGE;
}

/* Any entry that may stand in a table of @level. */
static uint64_t random_entry(struct play *play, uint32_t level)
{
	uint64_t rights = random_rights(play), data = play->base;

	if (random_once_in(dice(play), 8))
		return rights & ~ORACLE_P;
	data += random_below(dice(play), LEAF_BLOCKS) << 21;
	switch (level) {
	case 3:
		if (random_once_in(dice(play), 4))
			return rights | ORACLE_PS;
		return table_gpa(play, T_FIRST_PD + random_below(dice(play), 2)) | rights;
	case 2:
		if (random_once_in(dice(play), 50))
			data |= 1ul << 13;
		if (random_once_in(dice(play), 3))
			return data | rights | ORACLE_PS;
		return table_gpa(play, T_FIRST_PT + random_below(dice(play),
								 PLAY_TABLE_PAGES - T_FIRST_PT)) |
		       rights;
	default:
		return (data + random_page_index(play) * PAGE) | rights;
	}
}

void play_fill_tables(struct play *play)
{
	static const uint64_t indices[] = {0, 1, 2, 3, 4, 5, 6, 7, 255, 256, 510, 511};

	for (uint64_t gib = 1; gib <= 3; gib++)
		play_store(play, table_gpa(play, T_PDPT) + gib * 8, random_entry(play, 3));
	for (uint64_t block = 0; block < 2 * 4; block++)
		play_store(play,
			   table_gpa(play, T_FIRST_PD + block / 4) +
			       ((play->base >> 21) + block % 4) * 8,
			   random_entry(play, 2));
	for (uint64_t table = T_FIRST_PT; table < PLAY_TABLE_PAGES; table++)
		for (uint32_t i = 0; i < sizeof(indices) / sizeof(indices[0]); i++)
			play_store(play, table_gpa(play, table) + indices[i] * 8,
				   random_entry(play, 1));
}

static uint32_t level_of(const struct play *play, uint64_t at)
{
	uint64_t table = (at - table_gpa(play, 0)) / PAGE;

	if (table >= T_FIRST_PT)
		return 1;
	return table >= T_FIRST_PD ? 2 : 3;
}

static struct box_store random_change(struct play *play)
{
	uint64_t which = random_below(dice(play), 20), at;
	uint32_t level = which < 2 ? 3 : which < 7 ? 2 : 1;

	if (level == 3)
		at = table_gpa(play, T_PDPT) + (1 + random_below(dice(play), 3)) * 8;
	else if (level == 2)
		at = table_gpa(play, T_FIRST_PD + random_below(dice(play), 2)) +
		     ((play->base >> 21) + random_below(dice(play), 4)) * 8;
	else
		at = table_gpa(play, T_FIRST_PT +
					 random_below(dice(play), PLAY_TABLE_PAGES - T_FIRST_PT)) +
		     random_page_index(play) * 8;
	return (struct box_store){at, random_entry(play, level)};
}

static void prepare_l2(struct play *play, enum l2_code code, uint64_t gpa, uint64_t value)
{
	struct nest *nest = &play->nest;

	nest->box->vmcb = nest->gpa + NEST_VMCB;
	nest->box->rbx = gpa;
	nest->box->rdx = value;
	nest->vmcb->save.rip = PLAY_L2_CODE_GPA + l2_entry(code);
	play->counts.turns++;
}

static void finish_l2(struct play *play)
{
	play->nest.vmcb->control.tlb_control = 0;
	play->nest.box->has_invlpga = 0;
	play->nest.box->store_count = 0;
}

static uint64_t alias_of(const struct play *play, uint64_t at)
{
	return PLAY_ALIAS + at - play->memory[PLAY_TABLE_SLOT].gpa;
}

static void change_by_l2(struct play *play, const struct box_store *change)
{
	prepare_l2(play, L2_STORE, alias_of(play, change->at), change->value);
	CHECK_EQ(nest_turn(&play->nest), NEST_DONE);
	CHECK_EQ(play->nest.vmcb->control.exit_code, EXIT_VMMCALL);
	finish_l2(play);
	play_note_write(play, change->at, &change->value);
}

/* Up to three entries in one turn, by L1, or one by L2, which has L1's tables in its memory. */
static void change_tables(struct play *play)
{
	struct box *box = play->nest.box;
	uint64_t count = 1 + random_below(dice(play), 3);

	for (box->store_count = 0; box->store_count < count; box->store_count++) {
		struct box_store *change = &box->stores[box->store_count];

		*change = random_change(play);
		if (!oracle_note_change(&play->oracle, change->at)) {
			play_flush(play);
			CHECK(oracle_note_change(&play->oracle, change->at));
		}
	}
	play->counts.changes += count;
	if (random_once_in(dice(play), 5)) {
		box->store_count = 0;
		change_by_l2(play, &(struct box_store){box->stores[0].at, box->stores[0].value});
		return;
	}
	box->vmcb = 0;
	CHECK_EQ(nest_turn(&play->nest), NEST_DONE);
	for (uint64_t i = 0; i < box->store_count; i++)
		play_note_write(play, box->stores[i].at, &box->stores[i].value);
	box->store_count = 0;
}

static int may_end_in(const struct oracle_set *set, enum oracle_kind kind)
{
	for (uint32_t i = 0; i < set->count; i++)
		if (set->seen[i].kind == kind)
			return 1;
	return 0;
}

static void report(const struct attempt *attempt, const struct vmcb_control *control)
{
	static const char *const kinds[] = {"memory", "no memory", "fault"};

	fprintf(stderr,
		"L2 %#lx + %#lx, access %d, exit %#lx, information %#lx %#lx, of %u outcomes:\n",
		attempt->gpa, attempt->offset, attempt->access, control->exit_code,
		control->exit_info1, control->exit_info2, attempt->set.count);
	for (uint32_t i = 0; i < attempt->set.count; i++)
		fprintf(stderr, "  %s at %#lx, error %#lx\n", kinds[attempt->set.seen[i].kind],
			attempt->set.seen[i].gpa, attempt->set.seen[i].error);
}

/* L2's access left the VM: it must be one that may, and gets a value. */
static void serve_device(struct play *play, struct attempt *attempt)
{
	struct kvm_run *run = play->nest.vcpu.run;
	const struct oracle_set *set = &attempt->set;

	CHECK_EQ(run->mmio.len, 8);
	CHECK_EQ(run->mmio.is_write, attempt->access == ORACLE_WRITE);
	for (uint32_t i = 0; i < set->count; i++)
		if (set->seen[i].kind == ORACLE_DEVICE &&
		    set->seen[i].gpa + attempt->offset == run->mmio.phys_addr)
			attempt->device_gpa = set->seen[i].gpa;
	if (!attempt->device_gpa) {
		report(attempt, &play->nest.vmcb->control);
		FAIL("no access to %#llx was due", run->mmio.phys_addr);
	}
	if (run->mmio.is_write)
		CHECK(!memcmp(run->mmio.data, &attempt->value, 8));
	else
		memcpy(run->mmio.data, &attempt->value, 8);
	play->counts.devices++;
}

static uint64_t word_of(const struct play *play, uint64_t gpa)
{
	uint64_t word;

	memcpy(&word, oracle_host(&play->oracle, gpa), sizeof(word));
	return word;
}

/* Did L2 get there? */
static int came_to(struct play *play, const struct attempt *attempt, const struct oracle_seen *seen)
{
	uint64_t gpa = seen->gpa + attempt->offset, before;
	const struct play_memory *memory;

	if (seen->kind == ORACLE_DEVICE)
		return attempt->device_gpa == seen->gpa &&
		       (attempt->access == ORACLE_WRITE || play->nest.box->rdx == attempt->value);
	memory = play_memory_at(play, gpa);
	if (seen->kind != ORACLE_MEMORY || attempt->device_gpa || !memory)
		return 0;
	memcpy(&before, memory->mirror + (gpa - memory->gpa), sizeof(before));
	switch (attempt->code) {
	case L2_LOAD:
		return play->nest.box->rdx == before;
	case L2_CALL:
		return play->nest.vmcb->save.rax == (uint32_t)(seen->gpa >> 12);
	case L2_STORE:
		return word_of(play, gpa) == attempt->value;
	default:
		return word_of(play, gpa) == attempt->value && play->nest.box->rdx == before;
	}
}

/* The only translation there may be has A set, and D when and only when L2 wrote. */
static void check_marks(struct play *play, const struct attempt *attempt)
{
	uint64_t entry;

	if (attempt->set.count > 1 || attempt->set.seen[0].kind != ORACLE_MEMORY)
		return;
	entry = word_of(play, attempt->set.seen[0].leaf);
	CHECK(entry & ORACLE_A);
	if (attempt->access == ORACLE_WRITE)
		CHECK(entry & ORACLE_D);
	else
		CHECK_EQ(entry & ORACLE_D, attempt->leaf_before & ORACLE_D);
}

static void check_attempt(struct play *play, const struct attempt *attempt)
{
	const struct vmcb_control *control = &play->nest.vmcb->control;
	const struct oracle_set *set = &attempt->set;

	play->counts.accesses++;
	if (control->exit_code == VMCB_EXIT_NPF) {
		play->counts.faults++;
		if (set->seen[0].kind == ORACLE_FAULT &&
		    control->exit_info1 == set->seen[0].error &&
		    control->exit_info2 == attempt->gpa + attempt->offset)
			return;
	}
	for (uint32_t i = 0; i < set->count && control->exit_code == EXIT_VMMCALL; i++) {
		if (!came_to(play, attempt, &set->seen[i]))
			continue;
		play->counts.stale += i > 0;
		if (attempt->access == ORACLE_WRITE && set->seen[i].kind == ORACLE_MEMORY)
			play_note_write(play, set->seen[i].gpa + attempt->offset, &attempt->value);
		check_marks(play, attempt);
		return;
	}
	report(attempt, control);
	FAIL("L2 came to something else");
}

static void choose_access(struct play *play, struct attempt *attempt)
{
	static const enum oracle_access accesses[] = {
	    [L2_LOAD] = ORACLE_READ,
	    [L2_STORE] = ORACLE_WRITE,
	    [L2_EXCHANGE] = ORACLE_WRITE,
	    [L2_CALL] = ORACLE_FETCH,
	};

	attempt->code = (enum l2_code)random_below(dice(play), 4);
	attempt->access = accesses[attempt->code];
	oracle_look(&play->oracle, attempt->gpa, attempt->access, &attempt->set);
	/* Instructions come from memory, and a device is written once. */
	if (!may_end_in(&attempt->set, ORACLE_DEVICE) || attempt->code < L2_EXCHANGE)
		return;
	attempt->code = L2_LOAD;
	attempt->access = ORACLE_READ;
	oracle_look(&play->oracle, attempt->gpa, ORACLE_READ, &attempt->set);
}

static void access_one(struct play *play)
{
	struct nest *nest = &play->nest;
	struct attempt attempt = {.gpa = random_gpa(play), .value = play->next_value++ << 8};

	if (random_once_in(dice(play), 6)) {
		nest->box->has_invlpga = 1;
		nest->box->invlpga = attempt.gpa;
		oracle_note_page_flush(&play->oracle, attempt.gpa);
	}
	choose_access(play, &attempt);
	if (attempt.set.is_full) {
		play_flush(play);
		choose_access(play, &attempt);
	}
	if (attempt.set.count == 1 && attempt.set.seen[0].kind == ORACLE_MEMORY)
		attempt.leaf_before = word_of(play, attempt.set.seen[0].leaf);
	attempt.offset =
	    attempt.code == L2_CALL ? PLAY_LANDING : random_below(dice(play), PLAY_LANDING / 8) * 8;
	prepare_l2(play, attempt.code, attempt.gpa + attempt.offset, attempt.value);
	while (nest_turn(nest) == NEST_MMIO)
		serve_device(play, &attempt);
	finish_l2(play);
	check_attempt(play, &attempt);
}

/* All of @set is memory, so that loading from it ends well. */
static int is_memory_alone(const struct oracle_set *set)
{
	return !set->is_full && !may_end_in(set, ORACLE_DEVICE) && !may_end_in(set, ORACLE_FAULT);
}

/* Two entries that L2 changes without leaving, and where it looks before and after. */
struct changes {
	struct box_store first, second;
	uint64_t before, near, after;
};

/*
 * Half of the time the second change leads to the table of the first one, on a way on which nothing
 * was mapped so far.
 */
static struct changes random_changes(struct play *play, uint64_t gpa, uint64_t leaf)
{
	struct changes changes = {.first = random_change(play), .before = gpa, .after = gpa};
	uint64_t block = random_below(dice(play), 4), table = leaf & ~(PAGE - 1);

	if (random_below(dice(play), 4)) {
		changes.first.at = leaf;
		changes.first.value = random_entry(play, level_of(play, leaf));
	}
	changes.second = changes.first;
	changes.near = gpa ^ PAGE;
	if (level_of(play, leaf) > 1 || random_once_in(dice(play), 2))
		return changes;
	changes.second.at = table_gpa(play, T_FIRST_PD + random_below(dice(play), 2)) +
			    ((play->base >> 21) + block) * 8;
	changes.second.value = table | random_rights(play) | ORACLE_W | ORACLE_U;
	changes.after = (1 + random_below(dice(play), 3)) << 30 | play->base | block << 21 |
			(leaf & (PAGE - 1)) / 8 << 12;
	changes.near = changes.after ^ PAGE;
	return changes;
}

static void note_changes(struct play *play, const struct changes *changes)
{
	const struct box_store *stores[] = {&changes->first, &changes->second};

	for (int i = 0; i < 2; i++)
		CHECK(oracle_note_change(&play->oracle, stores[i]->at));
	for (int i = 0; i < 2; i++)
		play_note_write(play, stores[i]->at, &stores[i]->value);
}

/*
 * One of the two loads that follow the changes is of no memory. Each exit gets a value of its own,
 * which tells what the last load has seen.
 */
static void serve_either(struct play *play, struct attempt *attempt, const struct changes *changes,
			 struct attempt *exits)
{
	uint64_t at = play->nest.vcpu.run->mmio.phys_addr;

	attempt->value = play->next_value++ << 8;
	attempt->gpa = changes->near;
	oracle_look(&play->oracle, attempt->gpa, ORACLE_READ, &attempt->set);
	for (uint32_t i = 0; i < attempt->set.count; i++)
		if (attempt->set.seen[i].kind == ORACLE_DEVICE && attempt->set.seen[i].gpa == at)
			attempt->device_gpa = at;
	if (attempt->device_gpa != at) {
		attempt->gpa = changes->after;
		oracle_look(&play->oracle, attempt->gpa, ORACLE_READ, &attempt->set);
	}
	serve_device(play, attempt);
	*exits = *attempt;
	attempt->device_gpa = 0;
}

/* L2 changes entries and looks at what is below, without leaving in between. */
static void change_and_load(struct play *play)
{
	struct attempt attempt = {.code = L2_LOAD, .gpa = random_gpa(play)};
	struct attempt served[2];
	struct nest *nest = &play->nest;
	struct changes changes;
	uint32_t exits = 0;

	oracle_look(&play->oracle, attempt.gpa, ORACLE_READ, &attempt.set);
	if (!is_memory_alone(&attempt.set) || play->oracle.change_count + 2 > ORACLE_CHANGES)
		return;
	changes = random_changes(play, attempt.gpa, attempt.set.seen[0].leaf);
	prepare_l2(play, L2_CHANGE, alias_of(play, changes.first.at), changes.first.value);
	nest->box->rcx = changes.before;
	nest->box->rsi = alias_of(play, changes.second.at);
	nest->box->rdi = changes.second.value;
	nest->vmcb->save.rsp = changes.near;
	nest->vmcb->save.rax = changes.after;
	note_changes(play, &changes);
	/* The oracle reads the tables, which are changed by now. */
	while (nest_turn(nest) == NEST_MMIO && exits < 2)
		serve_either(play, &attempt, &changes, &served[exits++]);
	finish_l2(play);
	for (uint32_t i = 0; i < exits; i++)
		if (nest->box->rdx == served[i].value) {
			attempt.device_gpa = served[i].device_gpa;
			attempt.value = served[i].value;
		}
	attempt.gpa = changes.after;
	oracle_look(&play->oracle, attempt.gpa, ORACLE_READ, &attempt.set);
	if (attempt.set.seen[0].kind == ORACLE_MEMORY)
		attempt.leaf_before = word_of(play, attempt.set.seen[0].leaf);
	if (nest->vmcb->control.exit_code == VMCB_EXIT_NPF &&
	    nest->vmcb->control.exit_info2 == changes.near) {
		attempt.gpa = changes.near;
		oracle_look(&play->oracle, attempt.gpa, ORACLE_READ, &attempt.set);
	}
	if (!attempt.set.is_full)
		check_attempt(play, &attempt);
}

/* How many of the stores before @count hit memory for certain; *@fault: the next one is refused. */
static uint64_t plan_pattern(struct play *play, uint64_t gpa, uint64_t count, uint64_t *targets,
			     uint64_t *fault)
{
	struct oracle_set set;

	*fault = 0;
	for (uint64_t i = 0; i < count; i++) {
		oracle_look(&play->oracle, (gpa + i * PAGE) & ~(PAGE - 1), ORACLE_WRITE, &set);
		if (set.count > 1 || set.seen[0].kind == ORACLE_DEVICE)
			return i;
		if (set.seen[0].kind == ORACLE_FAULT) {
			*fault = set.seen[0].error;
			return i;
		}
		targets[i] = set.seen[0].gpa + (gpa & (PAGE - 1));
	}
	return count;
}

/* A store to each of some pages in a row, some of which are the same memory. */
static void store_pattern(struct play *play)
{
	struct nest *nest = &play->nest;
	const struct vmcb_control *control = &nest->vmcb->control;
	uint64_t gpa = random_gpa(play) + random_below(dice(play), PLAY_LANDING / 8) * 8,
		 targets[16];
	uint64_t fault, value = play->next_value << 8;
	uint64_t count = plan_pattern(play, gpa, 2 + random_below(dice(play), 15), targets, &fault);

	if (!count && !fault)
		return;
	play->next_value++;
	prepare_l2(play, L2_STORE_EACH, gpa, value);
	nest->box->rcx = count + (fault != 0);
	nest->box->rsi = PAGE;
	CHECK_EQ(nest_turn(nest), NEST_DONE);
	finish_l2(play);
	play->counts.accesses += count;
	for (uint64_t i = 0; i < count; i++, value++)
		play_note_write(play, targets[i], &value);
	if (!fault) {
		CHECK_EQ(control->exit_code, EXIT_VMMCALL);
		return;
	}
	play->counts.faults++;
	CHECK_EQ(control->exit_code, VMCB_EXIT_NPF);
	CHECK_EQ(control->exit_info1, fault);
	CHECK_EQ(control->exit_info2, gpa + count * PAGE);
}

/* L1 looks at its memory itself, and writes there. */
static void access_by_l1(struct play *play)
{
	uint64_t gpa = play->base + random_below(dice(play), 2048) * PAGE +
		       random_below(dice(play), PLAY_LANDING / 8) * 8;
	const struct play_memory *memory = play_memory_at(play, gpa);
	uint64_t wanted;

	if (random_once_in(dice(play), 2)) {
		play_store(play, gpa, play->next_value++ << 8);
		return;
	}
	memcpy(&wanted, memory->mirror + (gpa - memory->gpa), sizeof(wanted));
	CHECK_EQ(play_load(play, gpa), wanted);
}

void play_turns(struct play *play, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++) {
		uint64_t which = random_below(dice(play), 32);

		if (random_once_in(dice(play), 4))
			play_flush(play);
		if (which < 8)
			change_tables(play);
		else if (which < 10)
			access_by_l1(play);
		else if (which < 13)
			store_pattern(play);
		else if (which < 16)
			change_and_load(play);
		else
			access_one(play);
	}
}
