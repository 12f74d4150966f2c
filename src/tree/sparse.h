/* A sparse array of words, indexed like a page table and made of table pages. */
#ifndef QUIRE_TREE_SPARSE_H
#define QUIRE_TREE_SPARSE_H

#include "src/tree/radix.h"
#include "src/walk/table.h"

/*
 * 2^36 words, one for every gfn of 48 bits of address; words are 0 until another value is
 * stored. Eight bytes a word in use, in pages of 512. One thread makes words at a time; readers
 * need no lock for the array, only for what the words say. Pages go back only when the array ends.
 */
struct sparse {
	u64 root; /* of a radix tree */
	u64 pages;
};

/* Pages that making one word may take. */
#define SPARSE_DEPTH 4u
#define SPARSE_LIMIT (UINT64_C(1) << (SPARSE_DEPTH * QUIRE_TABLE_BITS))

/* The word at @index; NULL when it is 0 and has no page. */
u64 *sparse_find(const struct sparse *sparse, u64 index);
/* The same, making its page with tables of @tables. NULL: they ran out, or @index is too large. */
u64 *sparse_make(struct sparse *sparse, u64 index, struct table_cache *tables);
/* The first word of [*@index, @end) that is not 0, and its index; NULL when all are. */
u64 *sparse_next(const struct sparse *sparse, u64 *index, u64 end);
void sparse_free(struct sparse *sparse, struct arena *arena);

#endif
