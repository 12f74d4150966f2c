/* Named counters, read from the statistics file of a VM or a vCPU. */
#ifndef PRIVATE_VM_STATS_H
#define PRIVATE_VM_STATS_H

#include <stdint.h>

struct stat_value {
	const char *name;
	uint64_t value;
	int found; /* this KVM has a counter of that name */
};

/* Fills the values of the named counters of @fd (a VM or vCPU). 0 or -1 with a complaint. */
int stats_read(int fd, struct stat_value *values, unsigned int count);

#endif
