/* What stands between the library and the kernel: its system calls, any of which may fail. */
#ifndef QUIRE_TESTS_RULES_LIB_NTH_GATE_H
#define QUIRE_TESTS_RULES_LIB_NTH_GATE_H

#include <stdint.h>

/*
 * Every call of the library from here on is asked about first: an error is the kernel's answer, and
 * 0 lets the call through. A whole mapping can always go: munmap() is let through unasked.
 */
void nth_gate_install(long (*error_of)(long number));

/*
 * All memory that the library has in hand is taken: its next allocation asks the kernel. What is
 * taken stays so, and has no pages.
 */
void nth_gate_use_memory_up(void);
/* Bytes taken that way, as process_bytes_allocated() counts them. */
uint64_t nth_gate_taken_bytes(void);

/* Bytes of files' mappings that the library made and that are still there. */
uint64_t nth_gate_shared_bytes(void);

/*
 * From begin to end the library gives all back that it maps, but for arenas, all of which is free
 * at the end: these go then, and are not to be used again. The bytes that it kept: 0.
 */
void nth_gate_begin(void);
uint64_t nth_gate_end(void);

#endif
