/* Persistent interval tree: every change makes a new root and leaves the old tree as it was. */
#ifndef QUIRE_TREE_PTREE_H
#define QUIRE_TREE_PTREE_H

#include <quire/host.h>

#include "src/base/types.h"

/*
 * A B+tree from a unique 64-bit key to an interval end and a value, changed by copying the path
 * from the root to a leaf. A tree is a value of two words: copy it to keep the old version.
 *
 * Readers: publish the root with a release store, load it with an acquire load inside a read
 * section, and look up with ptree_of(root). They see one version, whole.
 *
 * Writers, one at a time:
 *
 *   ptree_edit_init(&edit, ...);
 *   new = old;                        copy the tree
 *   ptree_insert(&new, ..., &edit)    any number of changes to the copy
 *   on error: ptree_edit_abort(&edit) frees what was built; old is intact
 *   ptree_edit_seal(&edit);           from here on new is as immutable as old
 *   publish new.root; reclaim_synchronize();
 *   ptree_edit_free_replaced(&edit);  the nodes only old had
 *
 * A sealed edit can still be undone: publish old.root, synchronize, ptree_edit_abort(). Edits may
 * be chained (old -> mid -> new, each sealed before the next begins); then either all replaced
 * lists are freed, or all edits are aborted.
 */
struct ptree_node;

struct ptree {
	struct ptree_node *root; /* NULL: empty */
	u64 count;
};

/* The interval [key, end) and what it stands for. Keys are unique; intervals may overlap. */
struct ptree_item {
	u64 key; /* below UINT64_MAX */
	u64 end; /* above key */
	void *value;
};

/* Memory of one edit: nodes built by it and nodes it replaced. */
struct ptree_edit {
	const struct quire_host_ops *host;
	void *host_ctx;
	struct ptree_node *built;
	struct ptree_node *replaced;
};

/* Deep enough for 2^40 items. */
#define PTREE_DEPTH_MAX 12

/* Where an overlap query stands; private to ptree.c. */
struct ptree_cursor {
	u64 start;
	u64 end;
	u32 depth; /* levels in use; 0: at the end */
	struct {
		const struct ptree_node *node;
		u32 at;
	} path[PTREE_DEPTH_MAX];
};

/* A tree for readers, from an atomically loaded root. */
static inline struct ptree ptree_of(struct ptree_node *root)
{
	return (struct ptree){.root = root};
}

/* Nonzero, with *@item, for the item with the largest key <= @key. O(log n). */
int ptree_floor(const struct ptree *tree, u64 key, struct ptree_item *item);
/* The value of that item where its interval holds @key, or NULL. */
void *ptree_find(const struct ptree *tree, u64 key);

/* Items that overlap [start, end), in key order: nonzero while there is one in *@item. */
int ptree_overlap_first(const struct ptree *tree, u64 start, u64 end, struct ptree_cursor *cursor,
			struct ptree_item *item);
int ptree_overlap_next(struct ptree_cursor *cursor, struct ptree_item *item);

#define ptree_for_overlap(tree, start, end, cursor, item)                                      \
	for (int more_ = ptree_overlap_first((tree), (start), (end), (cursor), (item)); more_; \
	     more_ = ptree_overlap_next((cursor), (item)))

void ptree_edit_init(struct ptree_edit *edit, const struct quire_host_ops *host, void *host_ctx);

/*
 * Change *@tree, a copy owned by the edit. -EEXIST: the key is there; -ENOENT: it is not; both
 * change nothing. -ENOMEM: abort the edit, *@tree is unusable, other copies are intact.
 */
must_check int ptree_insert(struct ptree *tree, const struct ptree_item *item,
			    struct ptree_edit *edit);
must_check int ptree_remove(struct ptree *tree, u64 key, struct ptree_edit *edit);

/* No more changes through this edit; the result may be published. */
void ptree_edit_seal(struct ptree_edit *edit);
/* Free the nodes that the sealed edit replaced; no reader may still see the old tree. */
void ptree_edit_free_replaced(struct ptree_edit *edit);
/* Free the nodes that the edit built; no reader may see the new tree. Harmless when empty. */
void ptree_edit_abort(struct ptree_edit *edit);

/* Free every node of a tree that no reader sees; *@tree is empty afterwards. */
void ptree_destroy(struct ptree *tree, const struct quire_host_ops *host, void *host_ctx);

#endif
