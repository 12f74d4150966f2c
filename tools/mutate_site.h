/* What a mutated source asks at each of its sites; tools/mutate.py copies it into its tree. */
#ifndef QUIRE_TOOLS_MUTATE_SITE_H
#define QUIRE_TOOLS_MUTATE_SITE_H

#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Sites of a tree, at most. */
#define MUTATE_SITES_MAX 16384u

/* What a run came by; tools/mutate_run.py reads it. */
struct mutate_reached {
	uint64_t visits[MUTATE_SITES_MAX];
	/* Whether the mutant of the site would have computed something else. */
	uint8_t differs[MUTATE_SITES_MAX];
};

/* As cmocka has it. */
struct mutate_test {
	const char *name;
	void *rest[4];
};

/* Each object has all of this, and the linker keeps one of each. */
__attribute__((weak)) int quire_mutate_number = -1;
__attribute__((weak)) uint64_t quire_mutate_visits_max = UINT64_MAX;
__attribute__((weak)) struct mutate_reached quire_mutate_nowhere;
__attribute__((weak)) struct mutate_reached *quire_mutate_reached = &quire_mutate_nowhere;

/* QUIRE_MUTANT is the site that is on, QUIRE_MUTANT_VISITS how often a run may come to one site;
 * file QUIRE_MUTANT_REACHED gets what runs. */
__attribute__((weak, constructor)) void quire_mutate_start(void)
{
	const char *number = getenv("QUIRE_MUTANT"), *path = getenv("QUIRE_MUTANT_REACHED");
	const char *visits = getenv("QUIRE_MUTANT_VISITS");
	int file = path ? open(path, O_RDWR) : -1;

	if (number)
		quire_mutate_number = atoi(number);
	if (visits)
		quire_mutate_visits_max = strtoull(visits, NULL, 10);
	if (file < 0)
		return;
	/* Shared with children, and kept when the program dies. */
	quire_mutate_reached =
	    mmap(NULL, sizeof(*quire_mutate_reached), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	if (quire_mutate_reached == MAP_FAILED)
		abort();
	close(file);
}

/* Far more visits than the whole test makes without a mutant: it does not end. */
__attribute__((weak, noreturn)) void quire_mutate_endless(void)
{
	static const char said[] = "\n[  ENDLESS ]\n";

	_exit(write(STDERR_FILENO, said, sizeof(said) - 1) < 0 ? 98 : 97);
}

static inline void quire_mutate_visit(unsigned int number)
{
	if (++quire_mutate_reached->visits[number] == quire_mutate_visits_max)
		quire_mutate_endless();
}

/* 1 where mutant @number is on. */
static inline int quire_mutate(unsigned int number)
{
	quire_mutate_visit(number);
	quire_mutate_reached->differs[number] = 1;
	return quire_mutate_number == (int)number;
}

/* The same, of a mutant that changes nothing unless @differs. */
static inline int quire_mutate_if(unsigned int number, int differs)
{
	quire_mutate_visit(number);
	if (!differs)
		return 0;
	quire_mutate_reached->differs[number] = 1;
	return quire_mutate_number == (int)number;
}

/* Whether QUIRE_MUTANT_PIECES, a list ",test_a,test_b,", has the test; all where there is no list.
 */
__attribute__((weak)) int quire_mutate_wants(const char *name)
{
	const char *pieces = getenv("QUIRE_MUTANT_PIECES");
	char wanted[256];

	snprintf(wanted, sizeof(wanted), ",%s,", name);
	return !pieces || strstr(pieces, wanted);
}

/* In the place of cmocka's own: runs the test functions that are wanted, each as a group, and
 * writes all names to file QUIRE_MUTANT_NAMES instead where that is set. */
__attribute__((weak)) int quire_mutate_run_tests(
    const char *name, const struct mutate_test *tests, size_t count, int (*begin)(void **),
    int (*end)(void **)) __asm__("_cmocka_run_group_tests");
int quire_mutate_run_tests(const char *name, const struct mutate_test *tests, size_t count,
			   int (*begin)(void **), int (*end)(void **))
{
	int (*run)(const char *, const struct mutate_test *, size_t, int (*)(void **),
		   int (*)(void **)) = NULL;
	const char *path = getenv("QUIRE_MUTANT_NAMES");
	FILE *names = path ? fopen(path, "a") : NULL;
	int failed = 0;

	*(void **)&run = dlsym(RTLD_NEXT, "_cmocka_run_group_tests");
	for (size_t i = 0; i < count; i++) {
		if (names)
			fprintf(names, "%s\n", tests[i].name);
		else if (quire_mutate_wants(tests[i].name))
			failed += run(name, &tests[i], 1, begin, end);
	}
	if (names)
		fclose(names);
	return failed;
}

#endif
