/* Options of a command from one table: what getopt_long() takes, what --help prints. */
#include "cli/options.h"

#include <getopt.h>
#include <string.h>

#define OPTIONS_MAX 20
/* What getopt_long() answers: beyond all characters. */
#define KEY_HELP 256
#define KEY_FIRST 257

static void print_option(const char *name, const char *value, const char *help, FILE *file)
{
	char text[64];

	snprintf(text, sizeof(text), "--%s%s%s", name, value ? " " : "", value ? value : "");
	fprintf(file, "  %-29s %s\n", text, help);
}

void cli_print_help(const struct cli_command *command, FILE *file)
{
	fprintf(file, "usage: %s [OPTION]...%s%s\n%s\n\n", command->name,
		command->operand ? " " : "", command->operand ? command->operand : "",
		command->about);
	for (const struct cli_option *option = command->options; option->name; option++)
		print_option(option->name, option->value, option->help, file);
	print_option("help", NULL, "print this, and do nothing", file);
}

/* getopt_long()'s table of @command's options. */
static void fill(const struct cli_command *command, struct option list[OPTIONS_MAX])
{
	int count = 0;

	for (const struct cli_option *option = command->options; option->name; option++)
		list[count++] = (struct option){
		    .name = option->name,
		    .has_arg = option->value ? required_argument : no_argument,
		    .val = KEY_FIRST + option->key,
		};
	list[count++] = (struct option){.name = "help", .val = KEY_HELP};
	list[count] = (struct option){0};
}

static int wrong(const struct cli_command *command, const char *what, const char *word)
{
	fprintf(stderr, "%s: %s '%s'; %s --help says more\n", command->name, what, word,
		command->name);
	return EXIT_USAGE;
}

static int wrong_value(const struct cli_command *command, int key, const char *value)
{
	const struct cli_option *option = command->options;

	while (option->key != key)
		option++;
	fprintf(stderr, "%s: --%s: bad value '%s'; %s --help says more\n", command->name,
		option->name, value, command->name);
	return EXIT_USAGE;
}

int cli_parse(const struct cli_command *command, int argc, char **argv, void *ctx, int *rest)
{
	struct option list[OPTIONS_MAX];
	int key;

	fill(command, list);
	opterr = 0;
	optind = 1;
	/* '+': what follows the first operand is the program's. ':': a missing value has a sign. */
	while ((key = getopt_long(argc, argv, "+:", list, NULL)) != -1) {
		const char *word = argv[optind - 1];

		if (key == KEY_HELP) {
			cli_print_help(command, stdout);
			return 0;
		}
		if (key == ':')
			return wrong(command, "no value for", word);
		if (key < KEY_FIRST)
			return wrong(command, "bad option", word);
		if (command->take(ctx, key - KEY_FIRST, optarg))
			return wrong_value(command, key - KEY_FIRST, optarg);
	}
	*rest = optind;
	if (!command->operand && *rest < argc)
		return wrong(command, "unexpected", argv[*rest]);
	return CLI_GO_ON;
}
