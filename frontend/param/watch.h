/* A parameter that one process of a run writes takes effect in all of them before write() returns.
 */
#ifndef QUIRE_FRONTEND_PARAM_WATCH_H
#define QUIRE_FRONTEND_PARAM_WATCH_H

/*
 * A page in the run's directory counts the writes, and has a place for each process that runs
 * guests. A thread of such a process sleeps on the count. A writer of a parameter counts, lets
 * this process apply it, and waits for the others; not for ever: one that is stopped does it later.
 */

/*
 * Hear of writes from here on: @apply is called soon, after each write by another process, and in
 * param_watch_tell(). Once a process; a child of fork() starts anew. Best effort: without memory or
 * a thread this process hears of its own writes alone.
 */
void param_watch_start(const char *directory, void (*apply)(void));
/* A parameter's file has just been written. May sleep. */
void param_watch_tell(const char *directory);
/*
 * The command's side: the page by which the processes of the run tell each other. A client could
 * not make it under any limit. 0 or -errno.
 */
int param_watch_create(const char *directory);
/* The run has ended. */
void param_watch_remove(const char *directory);

#endif
