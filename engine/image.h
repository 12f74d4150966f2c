/* This process as its client is to see it: where the program came from, and where the run is. */
#ifndef QUIRE_ENGINE_IMAGE_H
#define QUIRE_ENGINE_IMAGE_H

#include <limits.h>
#include <stdbool.h>

/* Written at the start, before client code runs. */
struct image {
	char engine[PATH_MAX];	  /* the engine's own path */
	char directory[PATH_MAX]; /* of the run; empty: none */
	char program[PATH_MAX];	  /* what /proc/self/exe is to say */
	bool shows_cpuid;	  /* engine/client_cpuid.h */
};
extern struct image image;

/* Does @path name this process's program by way of /proc? */
bool image_is_own(const char *path);

#endif
