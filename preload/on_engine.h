/* A client's exec of a program that nothing can be preloaded into: it is started on the engine. */
#ifndef QUIRE_PRELOAD_ON_ENGINE_H
#define QUIRE_PRELOAD_ON_ENGINE_H

#include <stdbool.h>
#include <stddef.h>

/* In the run's directory: a link to the engine. */
#define ENGINE_LINK "quire-engine"

/* What to execute in the program's place. */
struct on_engine {
	const char *engine;
	char *const *argv, *const *environment;
	bool by_path; /* descriptors will be others when the program starts */
	int opened;   /* the program's descriptor, to be closed where the exec fails; -1: none */
};

/* Bytes that on_engine_prepare() needs; 0 when one of the lists cannot be read. */
size_t on_engine_room(char *const argv[], char *const environment[]);

/*
 * How to start @path with the lists in @start, which are replaced by the engine's.
 * on_engine_room() bytes at @room are for that; they must live until the program starts.
 * 0 or -errno. Async-signal-safe, inside a client call.
 */
int on_engine_prepare(struct on_engine *start, const char *path, void *room);

#endif
