/*
 * What is known of the client's descriptors by their numbers alone, without asking the kernel.
 *
 * One word a number. A word with a pointer is a file, by its reference count; the bits above the
 * pointer count readers that are about to take a reference. A word without one is a version and
 * flags: numbers_changed() gives the number a version that no word ever had, so that an answer
 * which the kernel gave before the change is not kept after it.
 *
 * | reader                                  | numbers_changed(), numbers_forget_file()        |
 * |-----------------------------------------|-------------------------------------------------|
 * | word: readers + 1 (compare-exchange)    | word = new version (exchange)                   |
 * | references + 1                          | references + readers that the word counted      |
 * | word still the file: readers - 1        |                                                 |
 * | else: references - 1                    |                                                 |
 *
 * A reader's count keeps the file: the thread that takes the word away turns it into a reference
 * first, and the table's own reference goes later still.
 */
#include "frontend/file/numbers.h"

#include <stddef.h>

#define NUMBERS 65536
#define TAG_BITS 3 /* of a word without a pointer: the flags, and that it is none */
#define IS_VERSION UINT64_C(4)
#define FLAGS UINT64_C(3)
#define READER_SHIFT 48
#define ONE_READER (UINT64_C(1) << READER_SHIFT)
#define POINTER_MASK (ONE_READER - 1)

/* 0 is a version, too: nothing is known. */
static uint64_t words[NUMBERS];
static uint64_t versions;
/* Numbers from here on were never sampled. Raised before the kernel is asked. */
static int top;

static uint64_t *word_of(int fd)
{
	return fd >= 0 && fd < NUMBERS ? &words[fd] : NULL;
}

static uint32_t *references_of(uint64_t word)
{
	return word & IS_VERSION ? NULL : (uint32_t *)(uintptr_t)(word & POINTER_MASK);
}

static void top_raise(int fd)
{
	int seen = __atomic_load_n(&top, __ATOMIC_RELAXED);

	while (seen <= fd && !__atomic_compare_exchange_n(&top, &seen, fd + 1, false,
							  __ATOMIC_SEQ_CST, __ATOMIC_RELAXED))
		;
}

uint64_t numbers_sample(int fd)
{
	uint64_t *word = word_of(fd);

	if (!word)
		return 0;
	top_raise(fd);
	return __atomic_load_n(word, __ATOMIC_SEQ_CST);
}

static void learn(int fd, uint64_t sample, uint64_t value)
{
	uint64_t *word = word_of(fd);

	if (!word || references_of(sample))
		return;
	__atomic_compare_exchange_n(word, &sample, value, false, __ATOMIC_SEQ_CST,
				    __ATOMIC_RELAXED);
}

void numbers_learn_file(int fd, uint32_t *references, uint64_t sample)
{
	uint64_t pointer = (uintptr_t)references;

	/* A change that was not seen: what was known is wrong. */
	if (references_of(sample) && references_of(sample) != references)
		numbers_changed(fd);
	else if (!(pointer & ~POINTER_MASK) && !(pointer & (IS_VERSION | FLAGS)))
		learn(fd, sample, pointer);
}

void numbers_learn_lack(int fd, unsigned int flags, uint64_t sample)
{
	if (references_of(sample) && (flags & NUMBER_NO_FILE))
		numbers_changed(fd);
	else
		learn(fd, sample, sample | IS_VERSION | flags);
}

uint32_t *numbers_get_file(int fd)
{
	uint64_t *word = word_of(fd), seen;
	uint32_t *references;

	if (!word)
		return NULL;
	seen = __atomic_load_n(word, __ATOMIC_RELAXED);
	do {
		references = references_of(seen);
		if (!references)
			return NULL;
	} while (!__atomic_compare_exchange_n(word, &seen, seen + ONE_READER, false,
					      __ATOMIC_SEQ_CST, __ATOMIC_RELAXED));
	__atomic_fetch_add(references, 1, __ATOMIC_SEQ_CST);
	seen += ONE_READER;
	do {
		if (references_of(seen) != references || seen < ONE_READER) {
			/* Our count has become a reference. */
			__atomic_fetch_sub(references, 1, __ATOMIC_SEQ_CST);
			break;
		}
	} while (!__atomic_compare_exchange_n(word, &seen, seen - ONE_READER, false,
					      __ATOMIC_SEQ_CST, __ATOMIC_RELAXED));
	return references;
}

bool numbers_lack(int fd, unsigned int flags)
{
	uint64_t *word = word_of(fd), seen;

	if (!word)
		return false;
	seen = __atomic_load_n(word, __ATOMIC_RELAXED);
	return (seen & IS_VERSION) && (seen & flags) == flags;
}

static uint64_t new_version(void)
{
	uint64_t number = __atomic_add_fetch(&versions, 1, __ATOMIC_RELAXED);

	return number << TAG_BITS | IS_VERSION;
}

static void hand_over(uint64_t old)
{
	uint32_t *references = references_of(old);

	if (references && old >> READER_SHIFT)
		__atomic_fetch_add(references, (uint32_t)(old >> READER_SHIFT), __ATOMIC_SEQ_CST);
}

void numbers_changed(int fd)
{
	uint64_t *word = word_of(fd);

	if (!word)
		return;
	hand_over(__atomic_exchange_n(word, new_version(), __ATOMIC_SEQ_CST));
}

void numbers_changed_range(unsigned int first, unsigned int last)
{
	/* A number from there on was asked for later, if at all: the kernel's answer is the new. */
	unsigned int end = (unsigned int)__atomic_load_n(&top, __ATOMIC_SEQ_CST);

	for (unsigned int fd = first; fd < end && fd <= last; fd++)
		numbers_changed((int)fd);
}

void numbers_forget_file(const uint32_t *references)
{
	int end = __atomic_load_n(&top, __ATOMIC_SEQ_CST);

	for (int fd = 0; fd < end; fd++)
		if (references_of(__atomic_load_n(&words[fd], __ATOMIC_SEQ_CST)) == references)
			numbers_changed(fd);
}
