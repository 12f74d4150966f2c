/* `quire view`: a VM's memory as a map, of a running program or of what one left. */
#include "cli/look/view.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/look/json_read.h"
#include "cli/look/live.h"
#include "cli/look/processes.h"
#include "cli/quire.h"
#include "frontend/report/json.h"

/* What a process has room for in its text. */
#define CELLS_MAX 16384
#define CELLS 2048
#define ALL_VMS UINT32_MAX

enum form { FORM_LIVE, FORM_TEXT, FORM_JSON, FORM_SVG };

struct view {
	enum form form;
	unsigned int index; /* of a VM, or ALL_VMS */
	uint64_t cells;
	const char *target;
};

int view_read(const struct process *process, unsigned int index, enum view_of of, struct map *map,
	      struct draw_vm *drawn)
{
	const struct json_value *vm;
	unsigned int at = 0;

	json_each(vm, json_member(process->said, "vms")) if (at++ == index) break;
	if (map_read(map, json_member(vm, "memory")))
		return -1;
	if (of == VIEW_LIVING)
		map_ask_host(map, process->pid);
	*drawn =
	    (struct draw_vm){map, process->pid, json_member_text(process->said, "command"), index};
	return 0;
}

static void show_one(const struct view *view, const struct draw_vm *vm, struct json *json)
{
	if (view->form == FORM_TEXT) {
		draw_text(vm, stdout);
	} else if (view->form == FORM_SVG) {
		draw_svg(vm, stdout);
	} else {
		json_object(json, NULL);
		json_signed(json, "pid", vm->pid);
		json_string(json, "command", vm->command);
		json_unsigned(json, "vm", vm->index);
		draw_json(vm->map, json);
		json_end(json);
	}
}

static unsigned int vms_of(const struct process *process)
{
	const struct json_value *vm;
	unsigned int count = 0;

	json_each(vm, json_member(process->said, "vms")) count++;
	return count;
}

/* All VMs wanted; of pictures only the first fits into a file. How many were shown. */
static unsigned int show_all(const struct view *view, const struct processes *processes,
			     enum view_of of)
{
	struct json json = {.file = stdout, .lined_depth = 7};
	unsigned int shown = 0;

	if (view->form == FORM_JSON) {
		json_object(&json, NULL);
		json_array(&json, "vms");
	}
	for (size_t i = 0; i < processes->count; i++) {
		const struct process *process = &processes->list[i];

		for (unsigned int at = 0; at < vms_of(process); at++) {
			struct draw_vm vm;
			struct map map;

			if ((view->index != ALL_VMS && view->index != at) ||
			    (view->form == FORM_SVG && shown) ||
			    view_read(process, at, of, &map, &vm))
				continue;
			show_one(view, &vm, &json);
			shown++;
			map_free(&map);
		}
	}
	if (view->form == FORM_JSON) {
		json_end(&json);
		json_end(&json);
	}
	return shown;
}

enum { VIEW_SVG, VIEW_TEXT, VIEW_JSON, VIEW_VM, VIEW_CELLS };

static int take_option(void *ctx, int key, const char *value)
{
	static const enum form forms[] = {
	    [VIEW_SVG] = FORM_SVG, [VIEW_TEXT] = FORM_TEXT, [VIEW_JSON] = FORM_JSON};
	struct view *view = ctx;
	unsigned long number;
	char *end;

	if (key <= VIEW_JSON) {
		view->form = forms[key];
		return 0;
	}
	number = strtoul(value, &end, 10);
	if (*end || *value < '0' || *value > '9')
		return -1;
	if (key == VIEW_VM) {
		view->index = (unsigned int)number;
		return number >= ALL_VMS;
	}
	view->cells = number;
	return !number || number > CELLS_MAX;
}

static const struct cli_option view_options[] = {
    {"svg", NULL, "write a picture", VIEW_SVG},
    {"text", NULL, "write text, as where the output is no terminal", VIEW_TEXT},
    {"json", NULL, "write JSON", VIEW_JSON},
    {"vm", "N", "the VM with that number in its process, from 0 on", VIEW_VM},
    {"cells", "N", "cut the memory into about so many cells (2048; at most 16384)", VIEW_CELLS},
    {0},
};

const struct cli_command view_command = {
    .name = "quire view",
    .operand = "PID|NAME|FILE",
    .about =
	"Show the memory of VMs as a map: what is mapped how, private, dirty, and what it costs.\n"
	"FILE is what quire run --stats wrote. In a terminal the map lives; h tells the keys.",
    .options = view_options,
    .take = take_option,
};

static int show_file(const struct view *view)
{
	struct processes processes = processes_read(view->target);
	unsigned int shown = show_all(view, &processes, VIEW_DUMP);

	processes_free(&processes);
	if (shown)
		return EXIT_SUCCESS;
	fprintf(stderr,
		"quire view: %s: no VM has a map there; quire run --stats writes such files\n",
		view->target);
	return EXIT_FAILURE;
}

static int show_living(const struct view *view)
{
	const struct question question = {
	    .target = view->target, .map_end = UINT64_MAX, .map_cells = view->cells};
	struct processes processes = processes_ask(&question);
	unsigned int shown;

	if (!processes.count) {
		processes_complain(view_command.name, view->target);
		return EXIT_FAILURE;
	}
	shown = show_all(view, &processes, VIEW_LIVING);
	processes_free(&processes);
	if (shown)
		return EXIT_SUCCESS;
	fprintf(stderr, "quire view: %s has no such VM now; without --vm all are shown\n",
		view->target);
	return EXIT_FAILURE;
}

int command_view(int argc, char **argv)
{
	struct view view = {.index = ALL_VMS, .cells = CELLS};
	int rest, status = cli_parse(&view_command, argc, argv, &view, &rest);

	if (status != CLI_GO_ON)
		return status;
	if (argc - rest != 1) {
		fprintf(stderr, "quire view: one PID, NAME or FILE; quire view --help says more\n");
		return EXIT_USAGE;
	}
	view.target = argv[rest];
	if (!access(view.target, F_OK) &&
	    strspn(view.target, "0123456789") != strlen(view.target)) {
		if (view.form == FORM_LIVE)
			view.form = FORM_TEXT;
		return show_file(&view);
	}
	if (view.form == FORM_LIVE && isatty(STDIN_FILENO) && isatty(STDOUT_FILENO))
		return live_view(view.target, view.index == ALL_VMS ? 0 : view.index);
	if (view.form == FORM_LIVE)
		view.form = FORM_TEXT;
	return show_living(&view);
}
