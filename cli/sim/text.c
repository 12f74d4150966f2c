/* A plan as text, and back: what quire-sim prints of a failure is what --replay takes. */
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "cli/sim/sim.h"
#include "src/entry/format.h"

#define FIRST_LINE "quire-sim plan 1"
#define LINE_BYTES 512

static const char *const op_names[OP_COUNT] = {
    "load",	"store",      "prefault",     "slot-create", "slot-delete", "slot-move",
    "slot-log", "attributes", "host-replace", "kernel",	     "age",	    "punch",
    "allocate", "poison",     "harvest",      "zap-all",     "eager-split", "far",
    "limit",	"other",      "link",	      "map",	     "rights",	    "space"};

/* What a VM is, each a number below @end. */
static const struct setting {
	const char *name;
	size_t offset;
	uint32_t end;
} settings[] = {
    {"type", offsetof(struct sim_plan, type), QUIRE_VM_SW_PROTECTED + 1},
    {"mmu", offsetof(struct sim_plan, mmu), QUIRE_MMU_SHADOW + 1},
    {"format", offsetof(struct sim_plan, format), ENTRY_FORMATS},
    {"limit", offsetof(struct sim_plan, limit), 1000},
    {"rings", offsetof(struct sim_plan, rings), 2},
    {"manual", offsetof(struct sim_plan, manual_protect), 4},
    {"zap-all", offsetof(struct sim_plan, zap_all), 2},
    {"eager-split", offsetof(struct sim_plan, eager_split), 2},
    {"host-huge", offsetof(struct sim_plan, host_huge), 2},
    {"file-huge", offsetof(struct sim_plan, gmem_huge), 2},
    {"spaces", offsetof(struct sim_plan, spaces), 2},
    {"linked", offsetof(struct sim_plan, linked), 2},
    {"pool", offsetof(struct sim_plan, pool), 2},
    {"owner", offsetof(struct sim_plan, owner), OWNER_FILE_SHARED + 1},
    {"rights", offsetof(struct sim_plan, rights), 2},
    {"vcpus", offsetof(struct sim_plan, vcpus), SIM_THREADS_MAX + 1},
    {"threads", offsetof(struct sim_plan, threads), SIM_THREADS_MAX + 1},
    {"odds", offsetof(struct sim_plan, preemption_odds), UINT32_MAX},
};
#define SETTINGS (sizeof(settings) / sizeof(settings[0]))

void sim_op_print(const struct sim_op *op, FILE *file)
{
	fprintf(file, "%s slot %u first %" PRIu64 " pages %" PRIu64 " page %u flags %#x",
		op_names[op->kind], op->slot, op->first, op->npages, op->page, op->flags);
}

static uint32_t setting_of(const struct sim_plan *plan, const struct setting *setting)
{
	uint32_t value;

	memcpy(&value, (const char *)plan + setting->offset, sizeof(value));
	return value;
}

void sim_plan_print(const struct sim_plan *plan)
{
	printf(FIRST_LINE "\n# %s, %s\nseed %" PRIu64 " %" PRIu64 "\nvm",
	       plan->mmu == QUIRE_MMU_SHADOW ? "shadow pages" : "TDP",
	       entry_formats[plan->format]->name, plan->seed, plan->preemption_seed);
	for (size_t i = 0; i < SETTINGS; i++)
		printf(" %s %u", settings[i].name, setting_of(plan, &settings[i]));
	printf("\n");
	if (plan->order)
		printf("order %u\n", plan->order);
	for (uint32_t thread = 0; thread < plan->threads; thread++) {
		for (uint32_t i = 0; i < plan->op_count[thread]; i++) {
			printf("thread %u: ", thread);
			sim_op_print(&plan->ops[thread][i], stdout);
			printf("\n");
		}
	}
	if (!plan->preemptions)
		return;
	printf("preemptions %u\n", plan->preemptions->count);
	for (uint32_t i = 0; i < plan->preemptions->count; i++) {
		const struct sim_preemption *at = &plan->preemptions->at[i];

		printf("%s step %u to %u\n", at->part ? "end" : "run", at->step, at->thread);
	}
}

/* The file while it is read. The preemptions' number comes before them. */
struct reader {
	struct sim_plan *plan;
	struct sim_preemptions *preemptions;
	uint32_t expected;
	bool has_vm;
};

static bool is_below(uint64_t first, uint64_t npages, uint64_t end)
{
	return first < end && npages <= end - first;
}

/* What is an index of the model's arrays is one. */
static bool op_fits(const struct sim_plan *plan, uint32_t thread, const struct sim_op *op)
{
	switch (op->kind) {
	case OP_LOAD:
	case OP_STORE:
	case OP_PREFAULT:
	case OP_MAP:
		return thread < plan->vcpus && op->first < SIM_GFNS;
	case OP_FAR:
		return thread < plan->vcpus && plan->mmu == QUIRE_MMU_SHADOW &&
		       op->first < SIM_FAR_SLOTS;
	case OP_OTHER:
		return thread < plan->vcpus && plan->linked && op->first < SIM_GMEM_PAGES;
	case OP_SPACE:
		return thread < plan->vcpus && plan->spaces && op->npages < 2;
	case OP_LINK:
		return plan->linked;
	case OP_SLOT_CREATE:
	case OP_SLOT_MOVE:
		return is_below(op->first, op->npages, SIM_GFNS) &&
		       is_below(op->page, op->npages, SIM_HOST_PAGES) && op->npages <= SIM_BLOCK;
	case OP_HOST_REPLACE:
	case OP_AGE:
	case OP_RIGHTS:
		return is_below(op->first, op->npages, SIM_HOST_PAGES);
	case OP_KERNEL:
		return is_below(op->first, 2, SIM_HOST_PAGES) && op->flags < KERNEL_COUNT;
	case OP_PUNCH:
	case OP_ALLOCATE:
	case OP_POISON:
		return is_below(op->first, op->npages, SIM_GMEM_PAGES);
	default:
		return op->first < SIM_GFNS;
	}
}

static const char *take_op(struct reader *reader, const char *line)
{
	struct sim_plan *plan = reader->plan;
	struct sim_op op = {0};
	uint32_t thread;
	char name[32];
	int end = -1;

	if (sscanf(
		line,
		"thread %u: %31s slot %u first %" SCNu64 " pages %" SCNu64 " page %u flags %x %n",
		&thread, name, &op.slot, &op.first, &op.npages, &op.page, &op.flags, &end) != 7 ||
	    end < 0 || line[end])
		return "not an operation";
	for (op.kind = 0; op.kind < OP_COUNT && strcmp(op_names[op.kind], name);)
		op.kind++;
	if (op.kind == OP_COUNT)
		return "no such operation";
	if (!reader->has_vm || thread >= plan->threads)
		return "no such thread";
	if (op.slot >= SIM_SLOTS || op.npages > SIM_GFNS || !op_fits(plan, thread, &op))
		return "an operation out of range";
	if (plan->op_count[thread] == SIM_OPS_MAX)
		return "too many operations of one thread";
	plan->ops[thread][plan->op_count[thread]++] = op;
	return NULL;
}

static const char *take_vm(struct reader *reader, const char *line)
{
	struct sim_plan *plan = reader->plan;

	line += strlen("vm");
	for (size_t i = 0; i < SETTINGS; i++) {
		uint32_t value;
		char name[32];
		int end = -1;

		if (sscanf(line, " %31s %u%n", name, &value, &end) != 2 || end < 0 ||
		    strcmp(name, settings[i].name))
			return "not a VM";
		if (value >= settings[i].end)
			return "a VM out of range";
		memcpy((char *)plan + settings[i].offset, &value, sizeof(value));
		line += end;
	}
	if (line[strspn(line, " \n")] || reader->has_vm)
		return "not a VM";
	if (!plan->vcpus || plan->vcpus >= plan->threads || !plan->preemption_odds ||
	    (plan->mmu == QUIRE_MMU_SHADOW && plan->type != QUIRE_VM_DEFAULT) ||
	    (plan->type == QUIRE_VM_DEFAULT && (plan->linked || plan->owner != OWNER_VM)))
		return "a VM out of range";
	reader->has_vm = true;
	return NULL;
}

static const char *take_preemption(struct reader *reader, const char *line)
{
	struct sim_preemptions *all = reader->preemptions;
	struct sim_preemption next = {0}, *last = &all->at[all->count - (all->count > 0)];
	char part[8];
	int end = -1;

	if (sscanf(line, "%7s step %u to %u %n", part, &next.step, &next.thread, &end) != 3 ||
	    end < 0 || line[end])
		return "not a preemption";
	next.part = !strcmp(part, "end");
	/* Under the memory model it may be the number of an older store instead. */
	if (all->count >= reader->expected ||
	    next.thread >= (reader->plan->order ? SCHED_THREADS_MAX : reader->plan->threads))
		return "a preemption out of range";
	if (all->count &&
	    (next.part < last->part || (next.part == last->part && next.step <= last->step)))
		return "a preemption before the last";
	all->at[all->count++] = next;
	return NULL;
}

static const char *take_line(struct reader *reader, const char *line)
{
	struct sim_plan *plan = reader->plan;
	int end = -1;

	if (!strncmp(line, "vm ", 3))
		return take_vm(reader, line);
	if (sscanf(line, "order %u %n", &plan->order, &end) == 1 && end > 0)
		return line[end] || !plan->order ? "not an order" : NULL;
	if (!strncmp(line, "thread ", 7))
		return take_op(reader, line);
	if (!strncmp(line, "run ", 4) || !strncmp(line, "end ", 4))
		return take_preemption(reader, line);
	if (sscanf(line, "seed %" SCNu64 " %" SCNu64 " %n", &plan->seed, &plan->preemption_seed,
		   &end) == 2 &&
	    end > 0 && !line[end])
		return NULL;
	if (sscanf(line, "preemptions %u %n", &reader->expected, &end) != 1 || end < 0 ||
	    line[end] || plan->preemptions || reader->expected > SIM_PREEMPTIONS_MAX)
		return "not a line of a plan";
	plan->preemptions = reader->preemptions;
	return NULL;
}

static bool refuse(const char *path, uint32_t number, const char *why)
{
	fprintf(stderr, "quire-sim: %s:%u: %s\n", path, number, why);
	return false;
}

/* How often a mail quotes @line: "> " for each time, and an empty line as ">". */
static uint32_t count_quotes(const char *line)
{
	uint32_t quotes = 0;

	for (; *line == '>'; quotes++)
		line += line[1] == ' ' ? 2 : 1;
	return quotes;
}

/*
 * The line as quire-sim printed it: a bug report may come back with the line ends of the Web, and
 * quoted in a mail. NULL: it is not quoted as often as the first line.
 */
static const char *unquote(char *line, uint32_t quotes)
{
	char *end = strstr(line, "\r\n");
	uint32_t found;

	if (end)
		memcpy(end, "\n", sizeof("\n"));
	for (found = 0; found < quotes && *line == '>'; found++)
		line += line[1] == ' ' ? 2 : 1;
	return found == quotes ? line : NULL;
}

static bool read_lines(FILE *file, const char *path, struct reader *reader)
{
	char buffer[LINE_BYTES];
	uint32_t number = 0, quotes = 0;
	bool is_plan = false;

	while (fgets(buffer, sizeof(buffer), file)) {
		const char *line, *wrong = NULL;

		if (!number++)
			quotes = count_quotes(buffer);
		line = unquote(buffer, quotes);
		if (!line)
			return refuse(path, number, "not quoted as the first line");
		if (line[0] == '#' || line[0] == '\n')
			continue;
		if (is_plan)
			wrong = take_line(reader, line);
		else if (strcmp(line, FIRST_LINE "\n") != 0)
			wrong = "not a plan of quire-sim";
		is_plan = true;
		if (wrong)
			return refuse(path, number, wrong);
	}
	if (ferror(file) || !is_plan)
		return refuse(path, number, "not a plan of quire-sim");
	if (!reader->has_vm || reader->preemptions->count != reader->expected)
		return refuse(path, number,
			      reader->has_vm ? "preemptions are missing"
					     : "the line of the VM is missing");
	return true;
}

bool sim_plan_read(const char *path, struct sim_plan *plan, struct sim_preemptions *preemptions)
{
	struct reader reader = {.plan = plan, .preemptions = preemptions};
	FILE *file = fopen(path, "r");
	bool good;

	memset(plan, 0, sizeof(*plan));
	memset(preemptions, 0, sizeof(*preemptions));
	if (!file) {
		perror(path);
		return false;
	}
	good = read_lines(file, path, &reader);
	fclose(file);
	return good;
}
