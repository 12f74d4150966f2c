/* Reproducible draws: out of a seed, or out of the bytes of an input. */
#include "tests/fuzz/draws.h"

void random_seed(struct fuzz_random *random, uint64_t seed)
{
	*random = (struct fuzz_random){.state = (seed + 1) * 0x9e3779b97f4a7c15ull};
	for (int i = 0; i < 8; i++)
		random_word(random);
}

void random_from(struct fuzz_random *random, const uint8_t *bytes, size_t size)
{
	uint64_t seed = 0xcbf29ce484222325ull;

	for (size_t i = 0; i < size; i++)
		seed = (seed ^ bytes[i]) * 0x100000001b3ull;
	random_seed(random, seed);
	random->bytes = bytes;
	random->left = size;
}

/* The next @count bytes of the input as a number, as far as there are any. */
static uint64_t take(struct fuzz_random *random, size_t count)
{
	uint64_t value = 0;

	for (size_t i = 0; i < count && random->left; i++, random->left--)
		value |= (uint64_t)*random->bytes++ << (8 * i);
	return value;
}

uint64_t random_word(struct fuzz_random *random)
{
	uint64_t x = random->state ? random->state : 1;

	if (random->left)
		return take(random, sizeof(x));
	x ^= x >> 12;
	x ^= x << 25;
	x ^= x >> 27;
	random->state = x;
	return x * 0x2545f4914f6cdd1dull;
}

uint64_t random_bits(struct fuzz_random *random)
{
	uint64_t z;

	if (!random->left)
		return random_word(random);
	z = (take(random, 2) + 1) * 0x9e3779b97f4a7c15ull;
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}

uint64_t random_below(struct fuzz_random *random, uint64_t end)
{
	size_t bytes = 1;

	if (!random->left)
		return (random_word(random) >> 11) % end;
	while (bytes < sizeof(end) && (end - 1) >> (8 * bytes))
		bytes++;
	return take(random, bytes) % end;
}

int random_once_in(struct fuzz_random *random, uint64_t times)
{
	/* An input of zeroes is the plain one. */
	return random_below(random, times) == times - 1;
}

uint64_t random_edge(struct fuzz_random *random)
{
	static const uint64_t edges[] = {
	    0,		1,	    7,		0xff,	     0xfff,
	    0x1000,	0xffff,	    0x7fffffff, 0x80000000,  0xfffff000,
	    0xffffffff, 1ull << 32, 1ull << 47, -1ull << 47, (1ull << 47) - 1,
	    1ull << 52, 1ull << 63, ~0ull >> 1, ~0ull,	     ~0ull - 1,
	    ~0xfffull,
	};

	switch (random_below(random, 5)) {
	case 0:
		return edges[random_below(random, ARRAY_SIZE(edges))];
	case 1:
		return random_below(random, 64);
	case 2:
		return 1ull << random_below(random, 64);
	case 3:
		return edges[random_below(random, ARRAY_SIZE(edges))] + random_below(random, 17) -
		       8;
	default:
		return random_word(random) >> random_below(random, 64);
	}
}

void random_bytes(struct fuzz_random *random, void *bytes, size_t size)
{
	uint8_t *at = bytes;

	for (size_t i = 0; i < size; i++)
		at[i] = (uint8_t)(random->left ? take(random, 1) : random_word(random) >> 32);
}
