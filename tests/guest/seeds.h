/* Runs of seed after seed for some seconds, in a child that a parent watches. */
#ifndef TESTS_GUEST_SEEDS_H
#define TESTS_GUEST_SEEDS_H

#include <stdint.h>

/*
 * Runs @run_seed in a child for the seeds from --seed on, for --seconds. The parent reports the
 * seed at which the child died or took more than a minute. Returns main()'s value.
 */
int seeds_main(int argc, char **argv, void (*run_seed)(uint64_t seed));

#endif
