/* What a client's path leads to: /dev/kvm by its object, the parameters of KVM's modules by name.
 */
#ifndef QUIRE_BOUNDARY_PLACE_H
#define QUIRE_BOUNDARY_PLACE_H

#include <stdbool.h>

#include "frontend/param/params.h"

enum place_links { PLACE_FOLLOW, PLACE_NOFOLLOW };

/* One path argument of a call; @path is the client's pointer. */
struct place {
	int directory;
	unsigned long path;
	enum place_links links;
};

/*
 * Does the place mean the device 10:232, or the place in /dev where this machine has none? By the
 * object that the path leads to, however it is spelled. For calls that failed: several calls long.
 */
bool place_is_kvm(const struct place *place);

/*
 * The same for a path that leads nowhere yet, before a call that would make a file of it. One
 * system call for a name that is no "kvm".
 */
bool place_is_missing_kvm(const struct place *place);

/* Can a call that failed with @error have meant the device? */
bool place_may_be_kvm(long error);

/* Is the path below the parameters of KVM's modules? Then @room is where they are. */
bool place_is_parameter(const struct place *place, char room[PARAMS_PATH_MAX]);

#endif
