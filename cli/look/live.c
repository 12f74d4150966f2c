/* A map in the terminal, drawn anew again and again, with keys. */
#include "cli/look/live.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "cli/look/processes.h"
#include "cli/look/view.h"

#define PAGE_SHIFT 12
#define PERIOD_MS 500
/* Lines beside those of cells: totals, what the keys do, the window. */
#define OTHER_LINES 10
#define ADDRESS_COLUMNS 18
#define CELLS_MAX 16384
/* A window has at least so many pages. */
#define WINDOW_MIN 64u

/* ECMA-48: the other screen, no cursor; and back. */
static const char screen_begin[] = "\033[?1049h\033[?25l";
static const char screen_end[] = "\033[0m\033[?25h\033[?1049l";

struct live {
	const char *target;
	unsigned int index;
	uint64_t start, end; /* the window, gfns */
	uint64_t low, high;  /* all that there is, as it was seen last */
	unsigned int columns, lines;
	bool has_help, has_ended;
};

static struct termios before;

static void restore(void)
{
	tcsetattr(STDIN_FILENO, TCSAFLUSH, &before);
	if (write(STDOUT_FILENO, screen_end, sizeof(screen_end) - 1) < 0)
		return;
}

static void on_signal(int number)
{
	restore();
	signal(number, SIG_DFL);
	raise(number);
}

/* Keys come at once, and are not shown. 0 unless the terminal is gone. */
static int begin(void)
{
	struct termios raw = before;

	raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
	raw.c_cc[VMIN] = 0;
	raw.c_cc[VTIME] = 0;
	tcsetattr(STDIN_FILENO, TCSAFLUSH, &raw);
	return write(STDOUT_FILENO, screen_begin, sizeof(screen_begin) - 1) < 0;
}

/* While we are stopped the terminal is the shell's. */
static void on_stop(int number)
{
	int saved_errno = errno;
	sigset_t one;

	restore();
	signal(number, SIG_DFL);
	raise(number);
	sigemptyset(&one);
	sigaddset(&one, number);
	sigprocmask(SIG_UNBLOCK, &one, NULL);
	signal(number, on_stop);
	errno = saved_errno;
}

/* In the background the kernel stops us here once more. */
static void on_continue(int number)
{
	int saved_errno = errno;

	(void)number;
	(void)!begin();
	errno = saved_errno;
}

static int take_terminal(void)
{
	static const int fatal[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};

	if (tcgetattr(STDIN_FILENO, &before))
		return -1;
	for (size_t i = 0; i < sizeof(fatal) / sizeof(fatal[0]); i++)
		signal(fatal[i], on_signal);
	signal(SIGTSTP, on_stop);
	signal(SIGCONT, on_continue);
	return begin();
}

static void measure(struct live *live)
{
	struct winsize size = {0};

	if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) || !size.ws_col || !size.ws_row)
		size = (struct winsize){.ws_col = 80, .ws_row = 24};
	live->columns = size.ws_col > ADDRESS_COLUMNS + 8 ? size.ws_col - ADDRESS_COLUMNS : 8;
	live->lines = size.ws_row > OTHER_LINES + 2 ? size.ws_row - OTHER_LINES : 2;
}

/* The terminal's own colours, so that they suit its background. */
static const char *colour_of(const struct map_cell *cell)
{
	static const char *const looks[] = {"\033[0;2m", "\033[0;34m", "\033[0;32m", "\033[0;33m"};

	if (cell->counts[MAP_logged])
		return "\033[0;1;31m";
	return map_is_mostly(cell, MAP_private) ? "\033[0;35m" : looks[map_look_of(cell)];
}

/* Lines of one slot, as far as @room goes. How many. */
static unsigned int draw_slot(const struct live *live, const struct map_slot *slot,
			      unsigned int room, FILE *file)
{
	unsigned int lines = 0;
	char size[MAP_SIZE_TEXT];

	if (room < 2)
		return 0;
	fprintf(file, "slot %" PRIu64 "%s %s%s%s%s\033[K\n", slot->id, slot->as_id ? " (SMM)" : "",
		map_size_text(slot->pages, size), slot->is_readonly ? ", read-only" : "",
		slot->is_logged ? ", logged" : "", slot->is_gmem ? ", guest_memfd" : "");
	for (size_t at = 0; at < slot->cell_count; at++) {
		if (at % live->columns == 0 && ++lines >= room)
			break;
		if (at % live->columns == 0)
			fprintf(file, "%s%#16" PRIx64 "  ", at ? "\033[0m\033[K\n" : "",
				slot->cells[at].gfn << PAGE_SHIFT);
		fprintf(file, "%s%c", colour_of(&slot->cells[at]), draw_char(&slot->cells[at]));
	}
	fputs("\033[0m\033[K\n", file);
	return lines + 1;
}

static void draw_map(const struct live *live, const struct draw_vm *vm, FILE *file)
{
	unsigned int used = 0;
	char size[MAP_SIZE_TEXT];

	fprintf(file, "%s (%d), VM %u; a cell is %s; %s\033[K\n", vm->command, vm->pid, vm->index,
		map_size_text(vm->map->cell_pages, size), "h: help, q: quit");
	draw_totals(vm->map, "", file);
	for (size_t i = 0; i < vm->map->slot_count; i++)
		used += draw_slot(live, &vm->map->slots[i],
				  live->lines > used ? live->lines - used : 0, file);
	if (live->has_help)
		fprintf(file,
			"%s\033[K\n+ -: zoom   left right: pan   0: all   v: next VM   h: help   "
			"q: quit\033[K\n",
			draw_legend);
}

/* Where the slots begin and end, while all of them are shown. */
static void note_ends(struct live *live, const struct map *map)
{
	if (live->start || live->end != UINT64_MAX || !map->slot_count)
		return;
	live->low = UINT64_MAX;
	live->high = 0;
	for (size_t i = 0; i < map->slot_count; i++) {
		const struct map_slot *slot = &map->slots[i];

		if (slot->gfn < live->low)
			live->low = slot->gfn;
		if (slot->gfn + slot->pages > live->high)
			live->high = slot->gfn + slot->pages;
	}
}

/* The screen of one moment. */
static void draw(struct live *live, FILE *file)
{
	struct question question = {
	    .target = live->target, .map_start = live->start, .map_end = live->end};
	struct processes processes;
	struct draw_vm vm;
	struct map map;

	measure(live);
	question.map_cells = (uint64_t)live->columns * live->lines;
	if (question.map_cells > CELLS_MAX)
		question.map_cells = CELLS_MAX;
	processes = processes_ask(&question);
	fputs("\033[H", file);
	live->has_ended = !processes.count;
	if (processes.count &&
	    !view_read(&processes.list[0], live->index, VIEW_LIVING, &map, &vm)) {
		note_ends(live, &map);
		draw_map(live, &vm, file);
		map_free(&map);
	} else if (processes.count) {
		fprintf(file, "There is no VM %u now; v shows the next, q ends.\033[K\n",
			live->index);
		live->index = 0;
	}
	fputs("\033[J", file);
	processes_free(&processes);
}

/* Half as much, or twice, around the middle of what is shown. */
static void zoom(struct live *live, bool closer)
{
	uint64_t start = live->end == UINT64_MAX ? live->low : live->start;
	uint64_t end = live->end == UINT64_MAX ? live->high : live->end;
	uint64_t pages = end - start;

	if (closer && pages >= 2 * WINDOW_MIN) {
		live->start = start + pages / 4;
		live->end = end - pages / 4;
	} else if (!closer) {
		live->start = start - live->low > pages / 2 ? start - pages / 2 : live->low;
		live->end = live->high - end > pages / 2 ? end + pages / 2 : live->high;
		if (live->start == live->low && live->end == live->high) {
			live->start = 0;
			live->end = UINT64_MAX;
		}
	}
}

/* By a quarter of what is shown, as far as there is something. */
static void pan(struct live *live, bool forward)
{
	uint64_t pages = live->end - live->start, step = pages / 4;

	if (live->end == UINT64_MAX)
		return;
	if (forward && live->end + step <= live->high)
		live->start += step;
	else if (forward)
		live->start = live->high > pages ? live->high - pages : live->low;
	else
		live->start -= live->start - live->low < step ? live->start - live->low : step;
	live->end = live->start + pages;
}

/* False: the view ends. */
static bool take_key(struct live *live, const char *keys)
{
	switch (keys[0] == '\033' && keys[1] == '[' ? keys[2] : keys[0]) {
	case 'q':
		return false;
	case 'h':
		live->has_help = !live->has_help;
		break;
	case 'v':
		live->index++;
		break;
	case '+':
	case 'A': /* up */
		zoom(live, true);
		break;
	case '-':
	case 'B': /* down */
		zoom(live, false);
		break;
	case 'D': /* left */
		pan(live, false);
		break;
	case 'C': /* right */
		pan(live, true);
		break;
	case '0':
		live->start = 0;
		live->end = UINT64_MAX;
		break;
	default:
		break;
	}
	return true;
}

/* A signal may cut a write short: we were stopped, and go on. */
static bool put_all(const char *text, size_t length)
{
	while (length) {
		ssize_t put = write(STDOUT_FILENO, text, length);

		if (put < 0 && errno != EINTR)
			return false;
		if (put > 0) {
			text += put;
			length -= (size_t)put;
		}
	}
	return true;
}

static bool show(struct live *live)
{
	char *text = NULL;
	size_t length = 0;
	FILE *file = open_memstream(&text, &length);
	bool shown = false;

	if (file) {
		draw(live, file);
		fclose(file);
		shown = !live->has_ended && put_all(text, length);
	}
	free(text);
	return shown;
}

int live_view(const char *target, unsigned int index)
{
	struct live live = {.target = target, .index = index, .end = UINT64_MAX};
	struct processes processes = processes_ask(&(struct question){.target = target});
	bool any = processes.count;

	processes_free(&processes);
	if (!any) {
		processes_complain("quire view", target);
		return EXIT_FAILURE;
	}
	if (take_terminal()) {
		fprintf(stderr, "quire view: the terminal cannot be set; try --text\n");
		return EXIT_FAILURE;
	}
	while (show(&live)) {
		struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
		char keys[8] = "";

		if (poll(&input, 1, PERIOD_MS) <= 0)
			continue;
		if (input.revents & (POLLHUP | POLLERR | POLLNVAL))
			break;
		/* Nothing: what was typed before we were stopped is gone. */
		if (read(STDIN_FILENO, keys, sizeof(keys) - 1) > 0 && !take_key(&live, keys))
			break;
	}
	restore();
	if (live.has_ended)
		fprintf(stderr, "quire view: the program has ended\n");
	return EXIT_SUCCESS;
}
