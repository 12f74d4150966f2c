/*
 * `quire run --cpuid`: the client's CPUID instruction describes the processor that Quire offers.
 *
 * Where the machine lets CPUID fault, it does, and none is missed. Elsewhere the instructions in
 * the text that the client maps from files are replaced by INVD, which is as long, faults outside
 * of the kernel on every processor, and which no program executes on purpose. Both raise SIGSEGV at
 * the instruction, and there the answer is given.
 */
#ifndef QUIRE_ENGINE_CLIENT_CPUID_H
#define QUIRE_ENGINE_CLIENT_CPUID_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <ucontext.h>

struct engine_thread;

/* A run with the option, before anything of the client's is mapped. 0 or -errno. */
int cpuid_prepare(void);
/* The engine is ready to take signals: from here on CPUID faults, where it can. */
void cpuid_begin(void);

/* @bytes of the file @fd, from @offset on, were mapped at @start with the rights @protection. */
struct cpuid_mapping {
	int fd, protection;
	uint64_t offset, start, bytes;
};
void cpuid_mapped(const struct cpuid_mapping *mapping);
/* The same for all text of the ELF file @fd, which was loaded with @bias. */
void cpuid_loaded(int fd, uint64_t bias);

/* SIGSEGV from the client's code. True: it was a CPUID, and is answered. */
bool cpuid_answer(struct engine_thread *thread, const siginfo_t *info, ucontext_t *context);
/* SIGSEGV inside the engine, whose own CPUID tells the truth. True: done. */
bool cpuid_answer_inside(const siginfo_t *info, ucontext_t *context);

#endif
