/*
 * quire-phases: the phases of KVM's dirty_log_perf_test, done to the library alone, for counting
 * its instructions: tools/phases.py runs this under callgrind.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cli/bench/machine.h"
#include "src/entry/format.h"
#include "src/walk/range.h"

/* -b 64M: what the guest writes; for a nested guest behind a block that L1 keeps its tables in. */
#define PAGES UINT64_C(16384)
#define BLOCK UINT64_C(512)
#define WORDS ((PAGES + BLOCK) / 64)

#define MANUAL 3u /* KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE and _INITIALLY_SET */
#define ENTRY UINT64_C(0x67)
#define ENTRY_PS UINT64_C(0x80)

struct run {
	struct machine machine;
	enum memory_kind kind;
	unsigned int eager, manual, nested, percent;
	u64 first; /* gfn */
	u64 words[WORDS];
	int error; /* of the first step that failed */
};

/* Each phase is a function that callgrind knows by its name. */
#define PHASE __attribute__((noinline))

/* May the guest write @gfn as the tables are? Else *@error_code is that of its fault. */
static bool is_writable(const struct quire_stage2 *stage2, u64 gfn, u64 *error_code)
{
	const struct quire_format *f = stage2->format;
	const u64 *table = stage2->root;

	*error_code = FAULTS_MISSING;
	for (u32 level = stage2->root_level;; level--) {
		u64 entry = table[walk_index((gfn_t){gfn}, level)];

		if (!quire_entry_is_present(f, entry))
			return false;
		if (quire_entry_is_leaf(f, entry, level)) {
			*error_code = FAULTS_PROTECTED;
			return quire_entry_is_writable(f, entry);
		}
		table = quire_entry_table(f, entry);
	}
}

static void write_page(struct run *run, struct quire_stage2 *stage2, u64 gfn)
{
	struct quire_vcpu *vcpu = run->machine.vcpus[0];
	struct quire_memory_fault exit;
	u64 error_code, requests;

	while (!run->error && !is_writable(stage2, gfn, &error_code)) {
		quire_vcpu_leave(vcpu);
		if (quire_vcpu_fault(vcpu, gpa_of((gfn_t){gfn}), error_code, &exit) < 0 ||
		    quire_vcpu_enter(vcpu, &requests, stage2))
			run->error = EIO;
	}
}

/* Every page once, in rising order; or so many in a hundred, at random. */
static void write_pages(struct run *run, u32 percent)
{
	struct quire_stage2 stage2;
	u64 random = 1, requests;

	if (quire_vcpu_enter(run->machine.vcpus[0], &requests, &stage2)) {
		run->error = EIO;
		return;
	}
	for (u64 i = 0; i < PAGES * percent / 100; i++) {
		random = random * UINT64_C(6364136223846793005) + 1442695040888963407;
		write_page(run, &stage2, run->first + (percent < 100 ? (random >> 33) % PAGES : i));
	}
	quire_vcpu_leave(run->machine.vcpus[0]);
}

static int copy_out(void *ctx, uint64_t offset_bytes, const void *src, uint64_t size_bytes)
{
	memcpy((uint8_t *)ctx + offset_bytes, src, size_bytes);
	return 0;
}

static void get_log(struct run *run)
{
	if (quire_vm_get_dirty_log(run->machine.vm, 0, copy_out, run->words))
		run->error = EIO;
}

static void clear_log(struct run *run)
{
	if (run->manual && machine_clear_log(&run->machine, run->words))
		run->error = EIO;
}

static void set_flags(struct run *run, u32 flags)
{
	if (machine_set_flags(&run->machine, flags))
		run->error = EIO;
}

static PHASE void phase_populate(struct run *run)
{
	write_pages(run, 100);
}

static PHASE void phase_enable(struct run *run)
{
	set_flags(run, QUIRE_SLOT_LOG_DIRTY);
}

static PHASE void phase_dirty1(struct run *run)
{
	write_pages(run, run->percent);
}

static PHASE void phase_get1(struct run *run)
{
	get_log(run);
}

static PHASE void phase_clear1(struct run *run)
{
	clear_log(run);
}

static PHASE void phase_dirty2(struct run *run)
{
	write_pages(run, run->percent);
}

static PHASE void phase_get2(struct run *run)
{
	get_log(run);
}

static PHASE void phase_clear2(struct run *run)
{
	clear_log(run);
}

static PHASE void phase_disable(struct run *run)
{
	set_flags(run, 0);
}

/* L1's tables: its memory at the same addresses, by entries of 2 MiB, in its first three pages. */
static int make_nested(struct run *run)
{
	const struct quire_nested tables = {.levels = 4, .nx = 1, .wp = 1};
	u64 *root = (u64 *)run->machine.memory;
	u64 *upper = root + QUIRE_TABLE_ENTRIES, *lower = upper + QUIRE_TABLE_ENTRIES;

	memset(root, 0, 2 * QUIRE_PAGE_SIZE);
	root[0] = QUIRE_PAGE_SIZE | ENTRY;
	upper[0] = 2 * QUIRE_PAGE_SIZE | ENTRY;
	for (u64 i = 0; i < QUIRE_TABLE_ENTRIES; i++)
		lower[i] = i << 21 | ENTRY | ENTRY_PS;
	return quire_vcpu_set_nested(run->machine.vcpus[0], &tables);
}

static int run_init(struct run *run)
{
	struct machine *machine = &run->machine;
	uint8_t *memory = memory_get(run->kind, (PAGES + BLOCK) * QUIRE_PAGE_SIZE);
	int error;

	if (!memory)
		return -ENOMEM;
	/* Under valgrind the machine's huge pages are left to luck: the host claims them. */
	error = machine_init(machine, QUIRE_VM_DEFAULT, 1,
			     run->kind == MEMORY_HUGE ? LEVEL_CLAIM_1G : LEVEL_REAL);
	machine->tunables.eager_page_split = run->eager;
	machine->memory = memory;
	machine->npages = PAGES + (run->nested ? BLOCK : 0);
	run->first = run->nested ? BLOCK : 0;
	if (!error)
		error = quire_vm_set_manual_protect(machine->vm, run->manual);
	if (!error)
		error = machine_set_flags(machine, 0);
	return error || !run->nested ? error : make_nested(run);
}

/* A run by the name it has in the kernel's figures: eps[YN]_anon[_2M]_(manual|g)[_nested][_w10a].
 */
static int parse(const char *name, struct run *run)
{
	run->eager = !strncmp(name, "epsY", 4);
	run->kind = strstr(name, "_2M") ? MEMORY_HUGE : MEMORY_SMALL;
	run->manual = strstr(name, "_manual") ? MANUAL : 0;
	run->nested = strstr(name, "_nested") != NULL;
	run->percent = strstr(name, "_w10a") ? 10 : 100;
	return strncmp(name, "eps", 3) ? -EINVAL : 0;
}

int main(int argc, char **argv)
{
	static void (*const phases[])(struct run * run) = {
	    phase_populate, phase_enable, phase_dirty1, phase_get1,    phase_clear1,
	    phase_dirty2,   phase_get2,	  phase_clear2, phase_disable,
	};
	static struct run run;

	if (argc != 2 || parse(argv[1], &run)) {
		fputs("usage: quire-phases RUN, for example epsY_anon_2M_manual\n", stderr);
		return 2;
	}
	quire_platform_install(&process_platform);
	if (process_signals_install() || run_init(&run)) {
		fputs("quire-phases: no memory for the run\n", stderr);
		return 1;
	}
	for (size_t i = 0; i < ARRAY_LEN(phases); i++)
		phases[i](&run);
	machine_destroy(&run.machine);
	return run.error ? 1 : 0;
}
