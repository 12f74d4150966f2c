/*
 * `quire run`: start PROGRAM with the library in it, and keep the run's directory until it ends.
 *
 * The run is a child, so that its state can be removed when it is over. The command then ends as
 * the program did, by exit status or by signal.
 */
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/filter.h"
#include "cli/look/runs.h"
#include "cli/output.h"
#include "cli/quire.h"
#include "cli/report.h"
#include "cli/sanitize.h"
#include "frontend/file/broker.h"
#include "frontend/param/params.h"
#include "preload/launch.h"
#include "preload/program.h"

#define PARAMS_MAX 64
/* In the run's directory. */
#define LIBRARY_LINK "libquire_preload.so"
#define ENGINE_LINK "quire-engine"

struct run {
	const char *params[PARAMS_MAX];
	int param_count;
	struct report report;
	struct sanitize sanitize;
	char **program; /* its argv */
	char path[PATH_MAX];
	char library[PATH_MAX];
	char engine[PATH_MAX]; /* empty: there is none */
	bool is_on_engine;     /* the program is started on it; else it has the library */
	bool lists_params;
	bool shows_cpuid; /* its CPUID instruction describes the processor that Quire offers */
	struct launch launch;
	char directory[PATH_MAX / 2];
	/* As the caller had them, for the program. */
	sigset_t client_mask;
	struct sigaction client_child, client_usr2, client_xfsz;
};

/* The child of this run; read by the signal handler. */
static volatile sig_atomic_t child_pid;

enum {
	RUN_CPUID,
	RUN_LIST_PARAMS,
	RUN_PARAM,
	RUN_REPORT,
	RUN_SANITIZE,
	RUN_SANITIZE_EXIT,
	RUN_SANITIZE_JSON,
	RUN_SANITIZE_SUPPRESSIONS,
	RUN_STATS,
	RUN_TRACE,
	RUN_TRACE_FILTER,
	RUN_TRACE_SIZE
};

static const struct cli_option run_options[] = {
    {"param", "MODULE.NAME=VALUE", "set a module parameter, as modprobe would", RUN_PARAM},
    {"cpuid", NULL, "show the processor that Quire offers to programs that execute CPUID",
     RUN_CPUID},
    {"report", "FILE.html", "make a page of the run, with the memory as it changed", RUN_REPORT},
    {"sanitize", "KINDS", "report what the program does wrong: tlb, private, dirty, slot",
     RUN_SANITIZE},
    {"sanitize-exit", "N", "the exit status if it did, and ended with 0 (66)", RUN_SANITIZE_EXIT},
    {"sanitize-json", "FILE", "write what was found there, a JSON object a line",
     RUN_SANITIZE_JSON},
    {"sanitize-suppressions", "FILE", "leave out what FILE names, a KIND:PATTERN a line",
     RUN_SANITIZE_SUPPRESSIONS},
    {"list-params", NULL, "print the parameters: value, range and meaning; and do nothing",
     RUN_LIST_PARAMS},
    {"stats", "FILE", "write the counters at the end of the run, and at SIGUSR2", RUN_STATS},
    {"trace", "FILE", "write the events likewise", RUN_TRACE},
    {"trace-filter", "EVENTS", "only those: names and patterns, separated by commas",
     RUN_TRACE_FILTER},
    {"trace-size", "N", "keep the newest N events of each thread (65536)", RUN_TRACE_SIZE},
    {0},
};

static int take_option(void *ctx, int key, const char *value)
{
	struct run *run = ctx;

	switch (key) {
	case RUN_CPUID:
		run->shows_cpuid = true;
		return 0;
	case RUN_REPORT:
		run->report.page_path = value;
		return 0;
	case RUN_SANITIZE:
		return sanitize_choose(&run->sanitize, value);
	case RUN_SANITIZE_EXIT:
		return sanitize_choose_exit(&run->sanitize, value);
	case RUN_SANITIZE_JSON:
		run->sanitize.json_path = value;
		return 0;
	case RUN_SANITIZE_SUPPRESSIONS:
		run->sanitize.rules_path = value;
		return 0;
	case RUN_LIST_PARAMS:
		run->lists_params = true;
		return 0;
	case RUN_STATS:
		run->report.stats_path = value;
		return 0;
	case RUN_TRACE_FILTER:
		return report_choose_events(&run->report, value);
	case RUN_TRACE_SIZE:
		return report_size_trace(&run->report, value);
	case RUN_TRACE:
		run->report.trace_path = value;
		return 0;
	default:
		if (run->param_count == PARAMS_MAX)
			return -1;
		run->params[run->param_count++] = value;
		return 0;
	}
}

const struct cli_command run_command = {
    .name = "quire run",
    .operand = "[--] PROGRAM [ARGUMENTS]",
    .about = "Run PROGRAM, unmodified, with a /dev/kvm of its own.",
    .options = run_options,
    .take = take_option,
};

#define WHOLE "; build or install all of Quire, which has it"

/* The interpreter that a script's first line names, which is not there; false: it is no script. */
static bool names_interpreter(const char *path, char *interpreter, size_t size)
{
	FILE *file = fopen(path, "re");
	char line[PATH_MAX] = "";
	bool is_script;

	if (file && !fgets(line, sizeof(line), file))
		line[0] = '\0';
	if (file)
		fclose(file);
	is_script = !strncmp(line, "#!", 2);
	if (is_script) {
		char *name = line + 2 + strspn(line + 2, " \t");

		name[strcspn(name, " \t\n")] = '\0';
		snprintf(interpreter, size, "%s", name);
	}
	return is_script;
}

/* It is not there, or cannot be executed. What to do about it, too. */
static void complain_of_program(const char *name, const char *path, int error)
{
	char interpreter[PATH_MAX];

	if (error == ENOENT && *path && names_interpreter(path, interpreter, sizeof(interpreter)))
		fprintf(stderr,
			"quire run: %s: bad interpreter %s: %s; install it, or correct the first "
			"line\n",
			name, interpreter, strerror(error));
	else if (error == ENOENT)
		fprintf(stderr, "quire run: %s: %s; %s\n", name, strerror(error),
			strchr(name, '/') ? "check the path"
					  : "no folder of PATH has it: give its path");
	else if (error == EACCES)
		fprintf(stderr,
			"quire run: %s: %s; a program is a file that may be executed (chmod +x)\n",
			name, strerror(error));
	else
		fprintf(stderr, "quire run: %s: %s\n", name, strerror(error));
}

static const char *advice_for(enum program_kind kind)
{
	switch (kind) {
	case PROGRAM_STATIC:
	case PROGRAM_OTHER_LIBC:
	case PROGRAM_GO:
		return WHOLE;
	case PROGRAM_SETUID:
		return "; a copy has not that bit (cp)";
	default:
		return "";
	}
}

/* The program is to start on the engine. */
static int check_engine(struct run *run, enum program_kind kind)
{
	int error;

	if (!*run->engine && kind == PROGRAM_OK) {
		fprintf(stderr,
			"quire run: --cpuid needs quire-engine, and there is none" WHOLE "\n");
		return EXIT_CANNOT_RUN;
	}
	if (!*run->engine) {
		fprintf(stderr, "quire run: %s %s%s\n", run->path, program_reason(kind),
			advice_for(kind));
		return EXIT_CANNOT_RUN;
	}
	run->is_on_engine = true;
	error = launch_resolve(&run->launch, run->path);
	if (!error)
		return 0;
	complain_of_program(run->path, run->path, -error);
	return EXIT_CANNOT_RUN;
}

/* Everything that can be known to fail is said before anything starts. */
static int check_program(struct run *run)
{
	int missing = find_engine(run->engine);
	int error = program_find(run->program[0], getenv("PATH"), run->path, sizeof(run->path));
	enum program_kind kind;

	if (missing)
		run->engine[0] = '\0';
	if (error) {
		complain_of_program(run->program[0], "", -error);
		return error == -ENOENT ? EXIT_NOT_FOUND : EXIT_CANNOT_RUN;
	}
	kind = program_check(run->path);
	if (program_wants_engine(kind) || (kind == PROGRAM_OK && run->shows_cpuid))
		return check_engine(run, kind);
	if (kind == PROGRAM_OK)
		return 0;
	if (kind == PROGRAM_UNREADABLE)
		complain_of_program(run->path, run->path, errno);
	else
		fprintf(stderr, "quire run: %s %s%s\n", run->path, program_reason(kind),
			advice_for(kind));
	return EXIT_CANNOT_RUN;
}

static void remove_links(const char *directory)
{
	char path[PATH_MAX + sizeof("/" LIBRARY_LINK) + sizeof("/" ENGINE_LINK)];

	snprintf(path, sizeof(path), "%s/" LIBRARY_LINK, directory);
	unlink(path);
	snprintf(path, sizeof(path), "%s/" ENGINE_LINK, directory);
	unlink(path);
}

/* A run whose command was killed. */
static void remove_stale(const char *directory, pid_t pid, void *ctx)
{
	(void)ctx;
	if (!kill(pid, 0) || errno != ESRCH)
		return;
	remove_links(directory);
	report_remove(directory);
	sanitize_remove(directory);
	broker_end(directory);
	params_destroy(directory);
}

static void remove_directory(const struct run *run)
{
	remove_links(run->directory);
	report_remove(run->directory);
	sanitize_remove(run->directory);
	broker_end(run->directory);
	params_destroy(run->directory);
}

static void complain_of_directory(const struct run *run, int error)
{
	fprintf(stderr, "quire run: %s: %s%s\n", run->directory, strerror(-error),
		output_advice(-error));
}

static int make_directory(struct run *run)
{
	char path[PATH_MAX];
	int error;

	runs_each_in(runs_parent(), remove_stale, NULL);
	snprintf(run->directory, sizeof(run->directory), "%s/" RUNS_NAME "XXXXXX", runs_parent(),
		 (int)getpid());
	if (!mkdtemp(run->directory)) {
		complain_of_directory(run, -errno);
		return EXIT_CANNOT_RUN;
	}
	snprintf(path, sizeof(path), "%s/" LIBRARY_LINK, run->directory);
	error = params_create(run->directory);
	/* Where it cannot be served, a process of the run does without. */
	(void)broker_start(run->directory);
	if (!error && symlink(run->library, path))
		error = -errno;
	/* Without it static programs fail when they are executed. */
	snprintf(path, sizeof(path), "%s/" ENGINE_LINK, run->directory);
	if (!error && *run->engine && symlink(run->engine, path))
		error = -errno;
	run->report.directory = run->directory;
	if (!error)
		error = report_create(&run->report);
	if (!error)
		error = sanitize_create(&run->sanitize, run->directory);
	if (error)
		complain_of_directory(run, error);
	for (int i = 0; !error && i < run->param_count; i++) {
		error = params_set(run->directory, run->params[i]);
		if (error)
			fprintf(stderr,
				"quire run: --param %s: %s; quire run --list-params says more\n",
				run->params[i],
				error == -ENOENT ? "no such parameter" : "bad value");
	}
	if (!error)
		return 0;
	remove_directory(run);
	return error == -ENOENT || error == -EINVAL ? EXIT_USAGE : EXIT_CANNOT_RUN;
}

static void set_environment(const struct run *run)
{
	const char *present = getenv("LD_PRELOAD");
	char library[PATH_MAX], *preload;

	/* The list is separated by spaces and colons: a path with one of them goes by the link. */
	snprintf(library, sizeof(library), "%s/" LIBRARY_LINK, run->directory);
	if (asprintf(&preload, "%s%s%s", strpbrk(run->library, " :") ? library : run->library,
		     present ? " " : "", present ? present : "") < 0)
		_exit(EXIT_CANNOT_RUN);
	setenv("LD_PRELOAD", preload, 1);
	setenv(PARAMS_RUN_DIR, run->directory, 1);
	free(preload);
}

/* Without the filter the machine's own KVM could be met: then nothing runs. */
static void set_filter(void)
{
	int error = filter_install();

	if (!error)
		return;
	fprintf(stderr, "quire run: seccomp filter: %s; a container must allow seccomp(2)\n",
		strerror(-error));
	_exit(EXIT_CANNOT_RUN);
}

static size_t list_length(char *const *list)
{
	size_t count = 0;

	while (list[count])
		count++;
	return count;
}

/* Execute the engine, which loads the program. Returns with errno. */
static void execute_on_engine(const struct run *run)
{
	const struct launch_place place = {run->engine, run->directory, false, run->shows_cpuid};
	size_t arguments = list_length(run->program), variables = list_length(environ);
	struct launch_strings *strings = malloc(sizeof(*strings));
	const char **argv = calloc(LAUNCH_WORDS_MAX + arguments + 1, sizeof(*argv));
	const char **environment = calloc(LAUNCH_STRINGS + variables + 1, sizeof(*environment));
	size_t words = run->launch.word_count, skipped = words ? 1 : 0;

	if (strings && argv && environment) {
		launch_write(strings, &run->launch, &place);
		memcpy(argv, run->launch.words, words * sizeof(*argv));
		memcpy(argv + words, run->program + skipped, (arguments - skipped) * sizeof(*argv));
		memcpy(environment, strings->list, sizeof(strings->list));
		memcpy(environment + LAUNCH_STRINGS, environ, variables * sizeof(*environment));
		execve(run->engine, (char *const *)argv, (char *const *)environment);
	}
	free(environment);
	free(argv);
	free(strings);
}

static void run_child(const struct run *run, pid_t parent)
{
	int error;

	/* A run does not outlive its command, whose directory it needs. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(EXIT_CANNOT_RUN);
	sigaction(SIGCHLD, &run->client_child, NULL);
	sigaction(SIGUSR2, &run->client_usr2, NULL);
	sigaction(SIGXFSZ, &run->client_xfsz, NULL);
	sigprocmask(SIG_SETMASK, &run->client_mask, NULL);
	set_environment(run);
	set_filter();
	if (run->is_on_engine)
		execute_on_engine(run);
	else
		execv(run->path, run->program);
	if (errno == ENOEXEC) {
		/* A script without its first line: the shell's, as execvp(3) has it. */
		size_t count = 0;
		char **argv;

		while (run->program[count])
			count++;
		argv = calloc(count + 2, sizeof(*argv));
		if (argv) {
			argv[0] = (char *)"/bin/sh";
			argv[1] = (char *)(uintptr_t)run->path;
			memcpy(argv + 2, run->program + 1, count * sizeof(*argv));
			execv(argv[0], argv);
		}
	}
	error = errno;
	complain_of_program(run->path, run->path, error);
	_exit(error == ENOENT ? EXIT_NOT_FOUND : EXIT_CANNOT_RUN);
}

static void forward(int signal)
{
	int saved_errno = errno;

	if (child_pid > 0)
		kill((pid_t)child_pid, signal);
	errno = saved_errno;
}

/* A terminal's own signals reach the whole foreground group; the others are ours to pass on. */
static void set_handlers(struct run *run)
{
	static const int passed_on[] = {SIGTERM, SIGHUP, SIGUSR1, SIGUSR2, SIGCONT, SIGWINCH};
	struct sigaction act = {.sa_handler = forward, .sa_flags = SA_RESTART};
	sigset_t passed;

	sigemptyset(&passed);
	for (size_t i = 0; i < sizeof(passed_on) / sizeof(passed_on[0]); i++)
		sigaddset(&passed, passed_on[i]);
	sigprocmask(SIG_BLOCK, &passed, &run->client_mask);
	child_pid = 0;
	/* A parent that ignores it gets no child's status, and so would we. */
	sigaction(SIGCHLD, &(struct sigaction){.sa_handler = SIG_DFL}, &run->client_child);
	sigaction(SIGUSR2, NULL, &run->client_usr2);
	for (size_t i = 0; i < sizeof(passed_on) / sizeof(passed_on[0]); i++) {
		struct sigaction before;

		/* What the caller ignores (nohup) stays ignored, in the child too. */
		if (!sigaction(passed_on[i], NULL, &before) && before.sa_handler != SIG_IGN)
			sigaction(passed_on[i], &act, NULL);
	}
}

/*
 * The caller's mask. With reports, SIGUSR2 and SIGCHLD are blocked, too: wait_reporting() takes
 * them with sigwaitinfo(), and no handler sees them.
 */
static void set_mask(const struct run *run)
{
	sigset_t mask = run->client_mask;

	if (report_is_wanted(&run->report)) {
		sigaddset(&mask, SIGUSR2);
		sigaddset(&mask, SIGCHLD);
		/* The kernel drops an ignored SIGUSR2 instead of keeping it for sigwaitinfo(). */
		sigaction(SIGUSR2, &(struct sigaction){.sa_handler = forward}, NULL);
	}
	sigprocmask(SIG_SETMASK, &mask, NULL);
}

/* Sleep until one of the signals comes, or it is time for the page's next moment: its number, or 0.
 */
static int wait_signal(const sigset_t *wanted, struct report *report)
{
	struct timespec wait;
	uint64_t wait_ns;

	if (!report->page_path)
		return sigwaitinfo(wanted, NULL);
	wait_ns = page_wait_ns(&report->page);
	wait = (struct timespec){(time_t)(wait_ns / 1000000000u), (long)(wait_ns % 1000000000u)};
	if (!wait_ns)
		page_take(&report->page);
	return sigtimedwait(wanted, NULL, &wait);
}

/* waitpid(), with a report whenever SIGUSR2 asks for one. */
static int wait_reporting(pid_t pid, struct report *report)
{
	sigset_t wanted;
	int status;

	sigemptyset(&wanted);
	sigaddset(&wanted, SIGUSR2);
	sigaddset(&wanted, SIGCHLD);
	for (;;) {
		pid_t ended = waitpid(pid, &status, WNOHANG);

		if (ended == pid)
			return status;
		if (ended < 0 && errno != EINTR)
			return -1;
		if (wait_signal(&wanted, report) == SIGUSR2)
			report_write(report);
	}
}

static int wait_for(pid_t pid, struct report *report)
{
	struct sigaction ignore = {.sa_handler = SIG_IGN};
	int status;

	/* Interrupting the program is not interrupting us: its directory is to be removed. */
	sigaction(SIGINT, &ignore, NULL);
	sigaction(SIGQUIT, &ignore, NULL);
	if (report_is_wanted(report))
		return wait_reporting(pid, report);
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -1;
	return status;
}

/* End as the program did. */
static int end_as(int status)
{
	const struct rlimit no_core = {0, 0};
	struct sigaction fallback = {.sa_handler = SIG_DFL};
	sigset_t one;
	int signal;

	if (WIFEXITED(status))
		return WEXITSTATUS(status);
	signal = WTERMSIG(status);
	setrlimit(RLIMIT_CORE, &no_core);
	sigaction(signal, &fallback, NULL);
	sigemptyset(&one);
	sigaddset(&one, signal);
	raise(signal);
	sigprocmask(SIG_UNBLOCK, &one, NULL);
	return 128 + signal;
}

/* Of both vendors; a run has those of the machine's. */
static int list_params(void)
{
	struct params_about about;

	printf("%-40s %-8s %-32s %s\n", "parameter", "value", "range",
	       "meaning (* : writable later, too)");
	for (size_t i = 0; !params_about(i, &about); i++)
		printf("%-40s %-8s %-32s %s%s\n", about.name, *about.value ? about.value : "-",
		       about.range, about.meaning, about.is_writable ? " *" : "");
	return EXIT_SUCCESS;
}

int command_run(int argc, char **argv)
{
	static struct run run;
	pid_t parent = getpid(), pid;
	int rest, status;

	status = cli_parse(&run_command, argc, argv, &run, &rest);
	if (status != CLI_GO_ON)
		return status;
	if (run.lists_params)
		return list_params();
	if (rest == argc) {
		fprintf(stderr, "quire run: no program given; quire run --help says more\n");
		return EXIT_USAGE;
	}
	run.program = argv + rest;
	status = check_program(&run);
	if (status)
		return status;
	if (find_library(run.library)) {
		fprintf(stderr,
			"quire run: libquire_preload.so is not beside this command" WHOLE "\n");
		return EXIT_CANNOT_RUN;
	}
	if (report_check(&run.report) || sanitize_check(&run.sanitize))
		return EXIT_USAGE;
	/* Beyond a limit on files we are to say what could not be written. */
	sigaction(SIGXFSZ, &(struct sigaction){.sa_handler = SIG_IGN}, &run.client_xfsz);
	status = make_directory(&run);
	if (status)
		return status;
	set_handlers(&run);
	fflush(NULL);
	pid = fork();
	if (pid == 0)
		run_child(&run, parent);
	if (pid < 0) {
		fprintf(stderr, "quire run: fork: %s; are there too many processes (ulimit -u)?\n",
			strerror(errno));
		remove_directory(&run);
		return EXIT_CANNOT_RUN;
	}
	child_pid = pid;
	set_mask(&run);
	status = wait_for(pid, &run.report);
	child_pid = 0;
	if (report_is_wanted(&run.report))
		report_write(&run.report);
	if (run.report.page_path)
		report_write_page(&run.report, run.program);
	if (status != -1)
		status = sanitize_settle(&run.sanitize, status);
	remove_directory(&run);
	return status == -1 ? EXIT_CANNOT_RUN : end_as(status);
}
