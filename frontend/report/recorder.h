/* Trace events of this process, into rings of a mapped file: one a thread. */
#ifndef QUIRE_FRONTEND_REPORT_RECORDER_H
#define QUIRE_FRONTEND_REPORT_RECORDER_H

#include "frontend/report/report.h"

/*
 * Make the process's file in the run's directory; @on_full is called when there is no room for more
 * events, by the thread that has one. 0, or -1: there is no file. No other thread records yet.
 */
int recorder_start(const char *directory, const struct report_control *run, void (*on_full)(void));
/* A quire_trace_fn. Any thread, any lock. */
void recorder_record(enum quire_trace_event event, const uint64_t *args);
/* In a child of fork: its thread takes a ring of its own file. */
void recorder_forget_thread(void);

#endif
