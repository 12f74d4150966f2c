/* Making and freeing dirty bitmaps. */
#include "src/dirty/bitmap.h"

/* With the scratch words behind the bits: memory made anew costs a harvest more than its copying.
 */
static size_t bitmap_bytes(u64 npages)
{
	return sizeof(struct dirty_bitmap) + 2 * (round_up_u64(npages, 64) / 8);
}

struct dirty_bitmap *dirty_bitmap_alloc(const struct quire_host_ops *host, void *host_ctx,
					u64 npages, u32 set)
{
	struct dirty_bitmap *bitmap = host->alloc(host_ctx, bitmap_bytes(npages));

	CHECK(npages);
	if (!bitmap)
		return NULL;
	bitmap->refs = 1;
	bitmap->npages = npages;
	bitmap->words = round_up_u64(npages, 64) / 64;
	bitmap->scratch = bitmap->bits + bitmap->words;
	CHECK((char *)(bitmap->scratch + bitmap->words) ==
	      (char *)bitmap + round_up_u64(bitmap_bytes(npages), sizeof(u64)));
	if (!set)
		return bitmap;
	for (u64 i = 0; i < npages / 64; i++)
		bitmap->bits[i] = UINT64_MAX;
	if (npages % 64)
		bitmap->bits[npages / 64] = (UINT64_C(1) << (npages % 64)) - 1;
	return bitmap;
}

void dirty_bitmap_free(const struct quire_host_ops *host, void *host_ctx,
		       struct dirty_bitmap *bitmap)
{
	host->free(host_ctx, bitmap, bitmap_bytes(bitmap->npages));
}
