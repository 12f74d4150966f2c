/* A persistent map from 64-bit numbers to values, as ranges. */
#ifndef QUIRE_TREE_RANGE_MAP_H
#define QUIRE_TREE_RANGE_MAP_H

#include "src/base/atomic.h"
#include "src/tree/ptree.h"

/*
 * Disjoint ranges, none touching another of the same value; numbers in no range have the value 0. A
 * change of any size costs a few nodes beside the ranges it swallows. Readers are in a read section
 * or keep writers away; one writer at a time:
 *
 *   range_map_prepare()     what can fail, fails here
 *   range_map_commit()      visible at once; never sleeps
 *   a grace period
 *   range_map_finish()      frees what was replaced
 *
 * or, after the commit, range_map_undo(), a grace period and range_map_abort().
 */
struct range_map {
	struct ptree ranges;
};

/* A change that is built but not visible. */
struct range_map_change {
	struct ptree before, after;
	struct ptree_edit edit;
};

/* The value of @at. O(log n). */
u64 range_map_get(const struct range_map *map, u64 at);

/* Nonzero, with *@value, when all of [start, end) have the same value. O(log n). */
int range_map_uniform(const struct range_map *map, u64 start, u64 end, u64 *value);

/* The end of the run of one value that begins at @start, @end at most; *@value is the value. */
u64 range_map_run(const struct range_map *map, u64 start, u64 end, u64 *value);

/* Build the map with [start, end) set to @value. -ENOMEM: nothing changed, nothing to clean up. */
must_check int range_map_prepare(const struct range_map *map, const struct quire_host_ops *host,
				 void *host_ctx, const struct ptree_item *range,
				 struct range_map_change *change);
void range_map_commit(struct range_map *map, struct range_map_change *change);
void range_map_finish(struct range_map_change *change);
/* The map is as it was before the commit. Never sleeps. */
void range_map_undo(struct range_map *map, const struct range_map_change *change);
/* Instead of a commit, or after range_map_undo(). */
void range_map_abort(struct range_map_change *change);

/* No readers. */
void range_map_destroy(struct range_map *map, const struct quire_host_ops *host, void *host_ctx);

#endif
