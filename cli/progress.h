/* How far a program's long work is, told to the program that started it. */
#ifndef QUIRE_CLI_PROGRESS_H
#define QUIRE_CLI_PROGRESS_H

#include <stdint.h>

/*
 * @done of @total are done: for tools/progress.py, which shows it; started otherwise, the program
 * tells of it to no one. Often enough is each step: it writes some ten times a second. One thread.
 */
void progress_tell(uint64_t done, uint64_t total);

#endif
