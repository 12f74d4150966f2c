/* What a mutated source asks at each of its sites; tools/mutate.py copies it into its tree. */
#ifndef QUIRE_TOOLS_MUTATE_SITE_H
#define QUIRE_TOOLS_MUTATE_SITE_H

#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

/* Sites of a tree, at most. */
#define MUTATE_SITES_MAX 65536

/* Each object has all of this, and the linker keeps one of each. */
__attribute__((weak)) int quire_mutate_number = -1;
__attribute__((weak)) unsigned char quire_mutate_nowhere[MUTATE_SITES_MAX];
__attribute__((weak)) unsigned char *quire_mutate_reached = quire_mutate_nowhere;

/* QUIRE_MUTANT is the site that is on; file QUIRE_MUTANT_REACHED gets a byte for each that runs. */
__attribute__((weak, constructor)) void quire_mutate_start(void)
{
	const char *number = getenv("QUIRE_MUTANT"), *path = getenv("QUIRE_MUTANT_REACHED");
	int file = path ? open(path, O_RDWR) : -1;

	if (number)
		quire_mutate_number = atoi(number);
	if (file < 0)
		return;
	/* Shared with children, and kept when the program dies. */
	quire_mutate_reached =
	    mmap(NULL, MUTATE_SITES_MAX, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	if (quire_mutate_reached == MAP_FAILED)
		abort();
	close(file);
}

/* 1 where mutant @number is on. */
static inline int quire_mutate(int number)
{
	quire_mutate_reached[number] = 1;
	return quire_mutate_number == number;
}

#endif
