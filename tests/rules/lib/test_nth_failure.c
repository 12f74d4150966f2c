/* Every public operation with every allocation and every other call of the host failing once, with
 * each of its errors, and in a process every system call below them: the operation answers an error
 * or succeeds, the state is the one before or the one after, again works, and nothing is left over.
 */
#include "tests/rules/lib/nth.h"

#include "hosts/process/process.h"
#include "tests/rules/lib/nth_gate.h"
#include "tests/rules/lib/nth_kernel.h"
#include "tests/rules/lib/nth_names.h"

#define CALLS_MAX 400u /* of a host, by one operation */
#define FUNCTIONS_LEAST 60u
#define FAILURES_LEAST 2800u
#define REFUSALS_LEAST 2500u

static const struct operation *const tables[] = {
    nth_vm_operations,	nth_vcpu_operations,   nth_gmem_operations,
    nth_log_operations, nth_access_operations, nth_plain_operations,
};
#define TABLES (sizeof(tables) / sizeof(tables[0]))

static const struct nth_machine *machine;
static int are_tables_used_up;
static uint64_t failures; /* calls of a host that failed, in all */
static uint64_t refusals; /* system calls that did */
static uint64_t events;	  /* that were traced */
static unsigned int lists_run;

/* One operation as it is without a failure. */
struct wanted {
	uint64_t before, after; /* digests */
	uint64_t calls;
	int result;
};

static void told(const struct operation *operation, uint64_t number, const char *what)
{
	fail_msg("%s on the %s, call %u (%s: %d): %s", operation->function, machine->name,
		 (unsigned int)number, nth.failing ? nth.failing : "none", nth.error, what);
}

static void end(const struct operation *operation, uint64_t number)
{
	const char *left = nth_end();

	if (left)
		told(operation, number, left);
}

static struct wanted look(const struct operation *operation)
{
	struct wanted wanted;

	nth_begin(machine, operation, are_tables_used_up);
	wanted.before = nth_digest();
	end(operation, 0);
	nth_begin(machine, operation, are_tables_used_up);
	wanted.result = nth_call(operation, 0, 0);
	wanted.calls = nth.calls;
	wanted.after = nth_digest();
	end(operation, 0);
	return wanted;
}

/* The state is that of before, or of after, as the result says. */
static void state_after(const struct operation *operation, uint64_t number, uint32_t variant,
			const struct wanted *wanted)
{
	int result;

	nth_begin(machine, operation, are_tables_used_up);
	result = nth_call(operation, number, variant);
	if (!nth.error)
		told(operation, number, "made fewer calls than before");
	if (result < 0 && result != nth.error && result != -ENOMEM && result != -EFAULT)
		told(operation, number, "an error that nothing explains");
	if (result >= 0 && nth_digest() != wanted->after)
		told(operation, number, "success, and another state than without a failure");
	else if (result < 0 && !(operation->vm & NTH_KEEPS_PART) && nth_digest() != wanted->before)
		told(operation, number, "an error that changed the state");
	end(operation, number);
}

/* Once more, and it is as if nothing had failed. */
static void again_after(const struct operation *operation, uint64_t number, uint32_t variant,
			const struct wanted *wanted)
{
	int result;

	nth_begin(machine, operation, are_tables_used_up);
	result = nth_call(operation, number, variant);
	if (result < 0) {
		result = nth_call(operation, 0, 0);
		if (result < 0)
			told(operation, number, "fails again, without a failure of the host");
		if (nth_digest() != wanted->after)
			told(operation, number, "done again, it comes to another state");
	}
	end(operation, number);
}

static void explore(const struct operation *operation)
{
	struct wanted wanted = look(operation);

	if (wanted.result < 0)
		told(operation, 0, "fails by itself");
	assert_true(wanted.calls < CALLS_MAX);
	for (uint64_t number = 1; number <= wanted.calls; number++) {
		uint32_t variant = 0;

		do {
			state_after(operation, number, variant, &wanted);
			again_after(operation, number, variant, &wanted);
			*(machine->fails_below ? &refusals : &failures) += 1;
		} while (++variant < nth.variants);
	}
}

static void count_event(enum quire_trace_event event, const uint64_t *args)
{
	assert_true(event < QUIRE_TRACE_COUNT && args);
	events++;
}

/* Once as it is; once with no table left, and every event traced. */
static void explore_all(const struct operation *operations)
{
	lists_run++;
	for (; operations->function; operations++)
		if (operations->call && (machine == &nth_sim || !(operations->vm & NTH_SIM_ONLY))) {
			are_tables_used_up = 0;
			explore(operations);
			are_tables_used_up = 1;
			quire_trace_install(count_event);
			explore(operations);
			quire_trace_install(NULL);
		}
}

static void test_vm(void **state)
{
	(void)state;
	explore_all(nth_vm_operations);
}

static void test_vcpu(void **state)
{
	(void)state;
	explore_all(nth_vcpu_operations);
}

static void test_gmem(void **state)
{
	(void)state;
	explore_all(nth_gmem_operations);
}

static void test_log(void **state)
{
	(void)state;
	explore_all(nth_log_operations);
}

static void test_access(void **state)
{
	(void)state;
	explore_all(nth_access_operations);
}

static void test_plain(void **state)
{
	(void)state;
	explore_all(nth_plain_operations);
}

/* Their contracts name -EIO: they refuse a dead VM. The others may work: a client frees what it
 * has. */
static const char *const refuse_the_dead[] = {
    "quire_vm_set_region",	  "quire_vm_set_attributes",
    "quire_vcpu_enter",		  "quire_vcpu_fault",
    "quire_vcpu_prefault",	  "quire_vm_get_dirty_log",
    "quire_vm_clear_dirty_log",	  "quire_vm_split",
    "quire_vm_reset_dirty_rings", "quire_gmem_populate",
    "quire_gmem_set_attributes",  "quire_vm_view",
    "quire_vm_view_slots",	  "quire_vm_view_tables",
};

static int refuses_the_dead(const char *function)
{
	for (size_t i = 0; i < sizeof(refuse_the_dead) / sizeof(refuse_the_dead[0]); i++)
		if (!strcmp(refuse_the_dead[i], function))
			return 1;
	return 0;
}

static void on_a_dead_vm(const struct operation *operation)
{
	int result;

	nth_begin(machine, operation, 0);
	if (nth.vm) {
		quire_vm_set_dead(nth.vm);
		result = nth_call(operation, 0, 0);
		if (refuses_the_dead(operation->function) ? result != -EIO
							  : result < 0 && result != -EIO)
			told(operation, 0, "another answer of a dead VM");
		if (nth.vm && !quire_vm_is_dead(nth.vm))
			told(operation, 0, "the VM lives again");
	}
	end(operation, 0);
}

static void test_dead_vms(void **state)
{
	(void)state;
	for (size_t i = 0; i < TABLES; i++)
		for (const struct operation *row = tables[i]; row->function; row++)
			if (row->call && (machine == &nth_sim || !(row->vm & NTH_SIM_ONLY)))
				on_a_dead_vm(row);
}

/* Those that ask the host without a lock, and look whether it still holds. */
static int looks_again(const char *function)
{
	static const char *const names[] = {"quire_vcpu_fault", "quire_vcpu_prefault",
					    "quire_vcpu_page_ready", "quire_vcpu_walk_nested",
					    "quire_vcpu_enter"};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (!strcmp(names[i], function))
			return 1;
	return 0;
}

/* As a guest does: again, by a root that is valid. An error at last, or 0. */
static int finish(const struct operation *operation, int result)
{
	for (unsigned int tries = 0; result < 0 && tries < 4; tries++)
		result = nth_enter() ? -EIO : nth_call(operation, 0, 0);
	return result < 0 ? result : 0;
}

/* What comes of the call when the other thread was first. */
static struct wanted look_after(const struct operation *operation, void (*meanwhile)(void))
{
	struct wanted wanted = {0};

	nth_begin(machine, operation, 0);
	meanwhile();
	wanted.result = finish(operation, -EINTR);
	wanted.after = nth_digest();
	end(operation, 0);
	return wanted;
}

/* The same comes of it when the other thread is done while call @number of the host is under way.
 */
static void end_the_same(const struct operation *operation, uint64_t number,
			 void (*meanwhile)(void), const struct wanted *wanted)
{
	int result;

	nth_begin(machine, operation, 0);
	nth.meanwhile = meanwhile;
	result = nth_call(operation, number, 0);
	nth.meanwhile = NULL;
	nth.failing = "meanwhile";
	/* Not where that call may be under a lock. */
	if (nth.has_happened) {
		if (finish(operation, result) != wanted->result)
			told(operation, number, "comes to another end");
		if (nth_digest() != wanted->after)
			told(operation, number, "comes to another state");
	}
	end(operation, number);
}

static void test_meanwhile(void **state)
{
	(void)state;
	for (const struct operation *row = nth_vcpu_operations; row->function; row++) {
		uint64_t calls = looks_again(row->function) ? look(row).calls : 0;

		for (size_t i = 0; calls && nth_meanwhile[i]; i++) {
			struct wanted wanted = look_after(row, nth_meanwhile[i]);

			for (uint64_t number = 1; number <= calls; number++)
				end_the_same(row, number, nth_meanwhile[i], &wanted);
		}
	}
}

/* For the request itself, and nothing changes. */
static void refuse(const struct refusal *refusal)
{
	const struct operation *operation = &refusal->operation;
	struct wanted wanted = look(operation);

	nth.failing = NULL;
	nth.error = wanted.result;
	if (wanted.result != refusal->error)
		told(operation, 0, "is not refused as it should be");
	if (wanted.before != wanted.after)
		told(operation, 0, "is refused, and changes the state");
}

static void test_refusals(void **state)
{
	(void)state;
	for (const struct refusal *row = nth_refusals; row->operation.function; row++)
		refuse(row);
}

static void test_nulls(void **state)
{
	(void)state;
	for (const struct refusal *row = nth_nulls; row->operation.function; row++)
		refuse(row);
}

static int has_row(const char *function)
{
	for (size_t i = 0; i < TABLES; i++)
		for (const struct operation *row = tables[i]; row->function; row++)
			if (!strcmp(row->function, function))
				return 1;
	return 0;
}

/* Each name that the library shows has a row. */
static void test_every_public_function(void **state)
{
	(void)state;
	nth_names_are_tried("QUIRE_MAP", has_row, FUNCTIONS_LEAST);
}

static void test_failures_were_many(void **state)
{
	(void)state;
	/* Run by itself it has nothing to look at. */
	if (!lists_run)
		skip();
	print_message("%u calls failed, %u system calls did, %u events were traced\n",
		      (unsigned int)failures, (unsigned int)refusals, (unsigned int)events);
	assert_true(failures >= FAILURES_LEAST && refusals >= REFUSALS_LEAST && events > failures);
}

int main(void)
{
	const struct CMUnitTest failing[] = {
	    cmocka_unit_test(test_vm),	cmocka_unit_test(test_vcpu),   cmocka_unit_test(test_gmem),
	    cmocka_unit_test(test_log), cmocka_unit_test(test_access), cmocka_unit_test(test_plain),
	};
	const struct CMUnitTest others[] = {
	    cmocka_unit_test(test_dead_vms),
	    cmocka_unit_test(test_meanwhile),
	    cmocka_unit_test(test_refusals),
	    cmocka_unit_test(test_nulls),
	};
	const struct CMUnitTest after[] = {
	    cmocka_unit_test(test_every_public_function),
	    cmocka_unit_test(test_failures_were_many),
	};
	const struct nth_machine *const machines[] = {&nth_sim, &nth_process, &nth_kernel};
	int failed = 0;

	quire_platform_install(&process_platform);
	if (process_signals_install())
		return 1;
	nth_gate_install(nth_kernel_error);
	for (size_t i = 0; i < sizeof(machines) / sizeof(machines[0]); i++) {
		machine = machines[i];
		failed += _cmocka_run_group_tests(machine->name, failing,
						  sizeof(failing) / sizeof(failing[0]), NULL, NULL);
		if (!machine->fails_below)
			failed += _cmocka_run_group_tests(
			    machine->name, others, sizeof(others) / sizeof(others[0]), NULL, NULL);
	}
	return failed + cmocka_run_group_tests(after, NULL, NULL);
}
