/* Ends a process whose input has no end. libFuzzer's clock is a signal, which two fuzzers block. */
#ifndef QUIRE_TESTS_FUZZ_WATCH_H
#define QUIRE_TESTS_FUZZ_WATCH_H

/*
 * Around each input, by the thread that runs them. After @seconds between the two that thread gets
 * SIGABRT, whose stack and input libFuzzer tells; if it takes no signals, the process gets it
 * later.
 */
void watch_begin(unsigned int seconds);
void watch_end(void);

#endif
