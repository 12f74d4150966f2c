/* Persistent interval tree: a B+tree changed by copying the path from the root to a leaf. */
#include "src/tree/ptree.h"

#include <errno.h>
#include <string.h>

#include "src/base/assert.h"
#include "src/tree/ptree_node.h"

static struct ptree_item node_item(const struct ptree_node *node, u32 at)
{
	return (struct ptree_item){node->keys[at], node->ends[at], node->values[at]};
}

static void node_set(struct ptree_node *node, u32 at, const struct ptree_item *item)
{
	node->keys[at] = item->key;
	node->ends[at] = item->end;
	node->values[at] = item->value;
}

/* What the parent of @node says about it. */
static struct ptree_item node_summary(struct ptree_node *node)
{
	u64 end = 0;

	for (u32 i = 0; i < node->count; i++)
		end = max_u64(end, node->ends[i]);
	return (struct ptree_item){node->keys[0], end, node};
}

/* The leaf that holds the last key <= @key, and where; NULL when there is none. */
static inline const struct ptree_node *leaf_find(const struct ptree_node *node, u64 key, u32 *where)
{
	struct wanted_key wanted = wanted_key(key);

	if (!node)
		return NULL;
	while (node_floor(node, &wanted, where)) {
		if (node->level == 0)
			return node;
		node = node->values[*where];
	}
	return NULL;
}

int ptree_floor(const struct ptree *tree, u64 key, struct ptree_item *item)
{
	u32 at;
	const struct ptree_node *leaf = leaf_find(tree->root, key, &at);

	if (!leaf)
		return 0;
	*item = node_item(leaf, at);
	return 1;
}

void *ptree_find(const struct ptree *tree, u64 key)
{
	u32 at;
	const struct ptree_node *leaf = leaf_find(tree->root, key, &at);

	return leaf && key < leaf->ends[at] ? leaf->values[at] : NULL;
}

/*
 * The walk of an overlap query:
 * 1. Step side: skip entries that end at or before the start; an entry that begins at or after
 *    the end is the end of the whole walk, since keys only grow.
 * 2. Step down: an inner entry that survives has an item that may overlap.
 * 3. A leaf entry that survives is a result.
 * 4. Step up when a node is used up, and side from there.
 */
static int cursor_seek(struct ptree_cursor *cursor, struct ptree_item *item)
{
	while (cursor->depth > 0) {
		const struct ptree_node *node = cursor->path[cursor->depth - 1].node;
		u32 *at = &cursor->path[cursor->depth - 1].at;

		while (*at < node->count && node->ends[*at] <= cursor->start)
			(*at)++;
		if (*at == node->count) {
			if (--cursor->depth > 0)
				cursor->path[cursor->depth - 1].at++;
			continue;
		}
		if (node->keys[*at] >= cursor->end) {
			cursor->depth = 0;
			break;
		}
		if (node->level == 0) {
			*item = node_item(node, *at);
			return 1;
		}
		if (BROKEN(cursor->depth < PTREE_DEPTH_MAX)) {
			cursor->depth = 0;
			break;
		}
		cursor->path[cursor->depth].node = node->values[*at];
		cursor->path[cursor->depth].at = 0;
		cursor->depth++;
	}
	return 0;
}

int ptree_overlap_first(const struct ptree *tree, u64 start, u64 end, struct ptree_cursor *cursor,
			struct ptree_item *item)
{
	cursor->start = start;
	cursor->end = end;
	cursor->depth = tree->root ? 1 : 0;
	cursor->path[0].node = tree->root;
	cursor->path[0].at = 0;
	return cursor_seek(cursor, item);
}

int ptree_overlap_next(struct ptree_cursor *cursor, struct ptree_item *item)
{
	if (cursor->depth == 0)
		return 0;
	cursor->path[cursor->depth - 1].at++;
	return cursor_seek(cursor, item);
}

void ptree_edit_init(struct ptree_edit *edit, const struct quire_host_ops *host, void *host_ctx)
{
	*edit = (struct ptree_edit){.host = host, .host_ctx = host_ctx};
}

static struct ptree_node *node_new(struct ptree_edit *edit, u8 level)
{
	struct ptree_node *node = edit->host->alloc(edit->host_ctx, sizeof(*node));

	if (!node)
		return NULL;
	node_index(node);
	node->level = level;
	node->flags = NODE_OWN;
	node->built_next = edit->built;
	edit->built = node;
	return node;
}

/* The edit needs @node no more. */
static void node_drop(struct ptree_edit *edit, struct ptree_node *node)
{
	if (node->flags & NODE_OWN) {
		node->flags |= NODE_DEAD;
		return;
	}
	node->replaced_next = edit->replaced;
	edit->replaced = node;
}

/* @node itself when the edit built it, else a copy that takes its place; NULL without memory. */
static struct ptree_node *node_own(struct ptree_edit *edit, struct ptree_node *node)
{
	struct ptree_node *copy;

	if (node->flags & NODE_OWN)
		return node;
	copy = node_new(edit, node->level);
	if (!copy)
		return NULL;
	copy->count = node->count;
	copy->shift = node->shift;
	memcpy(copy->leaders, node->leaders, sizeof(node->leaders));
	memcpy(copy->short_keys, node->short_keys, sizeof(node->short_keys));
	memcpy(copy->keys, node->keys, node->count * sizeof(node->keys[0]));
	memcpy(copy->ends, node->ends, node->count * sizeof(node->ends[0]));
	memcpy(copy->values, node->values, node->count * sizeof(node->values[0]));
	node_drop(edit, node);
	return copy;
}

void ptree_edit_seal(struct ptree_edit *edit)
{
	struct ptree_node **link = &edit->built;

	while (*link) {
		struct ptree_node *node = *link;

		if (node->flags & NODE_DEAD) {
			*link = node->built_next;
			edit->host->free(edit->host_ctx, node, sizeof(*node));
			continue;
		}
		node->flags = 0;
		link = &node->built_next;
	}
}

void ptree_edit_free_replaced(struct ptree_edit *edit)
{
	while (edit->replaced) {
		struct ptree_node *node = edit->replaced;

		edit->replaced = node->replaced_next;
		edit->host->free(edit->host_ctx, node, sizeof(*node));
	}
	edit->built = NULL;
}

void ptree_edit_abort(struct ptree_edit *edit)
{
	while (edit->built) {
		struct ptree_node *node = edit->built;

		edit->built = node->built_next;
		edit->host->free(edit->host_ctx, node, sizeof(*node));
	}
	edit->replaced = NULL;
}

static void node_destroy(struct ptree_node *node, const struct quire_host_ops *host, void *host_ctx)
{
	for (u32 i = 0; node->level > 0 && i < node->count; i++)
		node_destroy(node->values[i], host, host_ctx);
	host->free(host_ctx, node, sizeof(*node));
}

void ptree_destroy(struct ptree *tree, const struct quire_host_ops *host, void *host_ctx)
{
	if (tree->root)
		node_destroy(tree->root, host, host_ctx);
	*tree = (struct ptree){0};
}

/* From here on: nodes that functions change are owned by the edit. */

/* Move @n entries from @src[@from] to @dst[@to]; may be the same node. */
static void entries_move(struct ptree_node *dst, u32 to, struct ptree_node *src, u32 from, u32 n)
{
	/* memmove() is not ours to use: copy from the end that is safe. */
	for (u32 i = 0; i < n; i++) {
		u32 k = to > from ? n - 1 - i : i;
		struct ptree_item item = node_item(src, from + k);

		node_set(dst, to + k, &item);
	}
}

/* The first @count entries are all that the node holds. */
static void node_set_count(struct ptree_node *node, u32 count)
{
	node->count = (u16)count;
	node_index(node);
}

/* Say about child @at of @node what is true of it now. */
static void node_set_child(struct ptree_node *node, u32 at, struct ptree_node *child)
{
	struct ptree_item summary = node_summary(child);
	bool moved = node->keys[at] != summary.key;

	node_set(node, at, &summary);
	if (moved)
		node_index(node);
}

static void entry_open(struct ptree_node *node, u32 at, const struct ptree_item *item)
{
	entries_move(node, at + 1, node, at, node->count - at);
	node_set(node, at, item);
	node_set_count(node, node->count + 1u);
}

static void entry_close(struct ptree_node *node, u32 at)
{
	entries_move(node, at, node, at + 1, node->count - at - 1);
	node_set_count(node, node->count - 1u);
}

/*
 * Put @item in at @at. A full node is split: *@right, NULL before, is the new node to its right. At
 * the far right the new node starts with the item alone, so that rising keys fill nodes up.
 */
static int node_put(struct ptree_edit *edit, struct ptree_node *node, u32 at,
		    const struct ptree_item *item, struct ptree_node **right)
{
	u32 keep = at == FANOUT ? FANOUT : FANOUT / 2;

	CHECK(!*right);
	if (node->count < FANOUT) {
		entry_open(node, at, item);
		return 0;
	}
	*right = node_new(edit, node->level);
	if (!*right)
		return -ENOMEM;
	entries_move(*right, 0, node, keep, FANOUT - keep);
	node_set_count(*right, FANOUT - keep);
	node_set_count(node, keep);
	if (at > keep || keep == FANOUT)
		entry_open(*right, at - keep, item);
	else
		entry_open(node, at, item);
	return 0;
}

/* Insert below @node, which need not be owned: the node in its place, or NULL without memory. */
static struct ptree_node *node_insert(struct ptree_edit *edit, struct ptree_node *node,
				      const struct ptree_item *item, struct ptree_node **right)
{
	struct ptree_node *own = node_own(edit, node);
	struct ptree_node *child_right = NULL;
	struct ptree_node *child;
	struct wanted_key wanted = wanted_key(item->key);
	struct ptree_item summary;
	bool first;
	u32 at;

	if (!own)
		return NULL;
	first = !node_floor(own, &wanted, &at);
	if (own->level == 0)
		return node_put(edit, own, first ? 0 : at + 1, item, right) ? NULL : own;

	/* Smaller than all keys: the first child takes it. */
	if (first)
		at = 0;
	child = node_insert(edit, own->values[at], item, &child_right);
	if (!child)
		return NULL;
	node_set_child(own, at, child);
	if (!child_right)
		return own;
	summary = node_summary(child_right);
	return node_put(edit, own, at + 1, &summary, right) ? NULL : own;
}

/* A root above @left and @right. */
static struct ptree_node *root_grow(struct ptree_edit *edit, struct ptree_node *left,
				    struct ptree_node *right)
{
	struct ptree_node *root = node_new(edit, (u8)(left->level + 1));
	struct ptree_item summary;

	if (!root)
		return NULL;
	summary = node_summary(left);
	entry_open(root, 0, &summary);
	summary = node_summary(right);
	entry_open(root, 1, &summary);
	return root;
}

int ptree_insert(struct ptree *tree, const struct ptree_item *item, struct ptree_edit *edit)
{
	struct ptree_node *right = NULL;
	struct ptree_node *root;
	struct ptree_item there;

	CHECK(item->key < item->end && !tree->root == !tree->count);
	if (ptree_floor(tree, item->key, &there) && there.key == item->key)
		return -EEXIST;
	if (!tree->root) {
		root = node_new(edit, 0);
		if (root)
			entry_open(root, 0, item);
	} else {
		root = node_insert(edit, tree->root, item, &right);
		if (root && right)
			root = root_grow(edit, root, right);
	}
	if (!root)
		return -ENOMEM;
	tree->root = root;
	tree->count++;
	CHECK(ptree_floor(tree, item->key, &there) && there.value == item->value);
	return 0;
}

/* Share out the entries of two neighbours; the right one may end up empty. */
static void node_balance(struct ptree_node *left, struct ptree_node *right)
{
	u32 total = (u32)left->count + right->count;
	u32 want = total <= FANOUT ? total : total / 2;

	if (want > left->count) {
		u32 n = want - left->count;

		entries_move(left, left->count, right, 0, n);
		entries_move(right, 0, right, n, right->count - n);
	} else {
		u32 n = left->count - want;

		entries_move(right, n, right, 0, right->count);
		entries_move(right, 0, left, want, n);
	}
	node_set_count(left, want);
	node_set_count(right, total - want);
}

/* Child @at of @parent got small: even it out with a neighbour. Both owned afterwards. */
static int child_refill(struct ptree_edit *edit, struct ptree_node *parent, u32 at)
{
	u32 first = at > 0 ? at - 1 : 0;
	struct ptree_node *pair[2];

	if (parent->count < 2)
		return 0;
	for (u32 i = 0; i < 2; i++) {
		pair[i] = node_own(edit, parent->values[first + i]);
		if (!pair[i])
			return -ENOMEM;
		parent->values[first + i] = pair[i];
	}
	node_balance(pair[0], pair[1]);
	node_set_child(parent, first, pair[0]);
	if (pair[1]->count == 0) {
		node_drop(edit, pair[1]);
		entry_close(parent, first + 1);
		return 0;
	}
	node_set_child(parent, first + 1, pair[1]);
	return 0;
}

/* Remove @key, which is there, below @node: the node in its place, perhaps empty, or NULL. */
static struct ptree_node *node_remove(struct ptree_edit *edit, struct ptree_node *node, u64 key)
{
	struct ptree_node *own = node_own(edit, node);
	struct wanted_key wanted = wanted_key(key);
	struct ptree_node *child;
	u32 at;

	if (!own)
		return NULL;
	if (BROKEN(node_floor(own, &wanted, &at)))
		return NULL;
	if (own->level == 0) {
		entry_close(own, at);
		return own;
	}
	child = node_remove(edit, own->values[at], key);
	if (!child)
		return NULL;
	if (child->count == 0) {
		node_drop(edit, child);
		entry_close(own, at);
		return own;
	}
	node_set_child(own, at, child);
	if (child->count < FILL_MIN && child_refill(edit, own, at))
		return NULL;
	return own;
}

int ptree_remove(struct ptree *tree, u64 key, struct ptree_edit *edit)
{
	struct ptree_node *root;
	struct ptree_item item;

	CHECK(!tree->root == !tree->count);
	if (!ptree_floor(tree, key, &item) || item.key != key)
		return -ENOENT;
	root = node_remove(edit, tree->root, key);
	if (!root)
		return -ENOMEM;
	/* An inner root with one child is a level too many. */
	while (root && (root->count == 0 || (root->level > 0 && root->count == 1))) {
		struct ptree_node *below = root->count ? root->values[0] : NULL;

		node_drop(edit, root);
		root = below;
	}
	tree->root = root;
	tree->count--;
	CHECK(!root == !tree->count && (!ptree_floor(tree, key, &item) || item.key != key));
	return 0;
}
