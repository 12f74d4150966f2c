/* The end of a process without its destructors. */
#ifndef QUIRE_PRELOAD_EXIT_H
#define QUIRE_PRELOAD_EXIT_H

/* Before it, by whichever call: the reports of a run are brought up to date. */
void exit_prepare(void);

#endif
