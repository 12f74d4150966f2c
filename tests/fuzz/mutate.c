/* Inputs out of other inputs, by whole records: what libFuzzer does by itself moves their borders.
 */
#include "tests/fuzz/target.h"

#include <string.h>

/* libFuzzer's. The last two are defined here, for it to call. */
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed);
size_t LLVMFuzzerCustomCrossOver(const uint8_t *data1, size_t size1, const uint8_t *data2,
				 size_t size2, uint8_t *out, size_t max_out_size,
				 unsigned int seed);

#define RECORD FUZZ_RECORD_BYTES

struct records {
	uint8_t *bytes;
	size_t count, max;
	struct fuzz_random random;
};

static uint8_t *record_at(struct records *records, size_t index)
{
	return records->bytes + index * RECORD;
}

static size_t any_record(struct records *records)
{
	return random_below(&records->random, records->count);
}

/* A gap of @count records at @index, which the caller fills; less where there is no room. */
static size_t make_gap(struct records *records, size_t index, size_t count)
{
	if (count > records->max - records->count)
		count = records->max - records->count;
	memmove(record_at(records, index + count), record_at(records, index),
		(records->count - index) * RECORD);
	records->count += count;
	return count;
}

static void insert_new(struct records *records)
{
	size_t at = random_below(&records->random, records->count + 1);

	if (!make_gap(records, at, 1))
		return;
	random_bytes(&records->random, record_at(records, at), RECORD);
	record_at(records, at)[0] = (uint8_t)random_below(&records->random, fuzz_target.kinds);
}

static void erase(struct records *records)
{
	size_t at = any_record(records);
	size_t count = 1 + random_below(&records->random, 4);

	if (records->count < 2)
		return;
	if (count > records->count - at)
		count = records->count - at;
	if (count == records->count)
		count--;
	memmove(record_at(records, at), record_at(records, at + count),
		(records->count - at - count) * RECORD);
	records->count -= count;
}

static void repeat(struct records *records)
{
	size_t from = any_record(records), count = 1 + random_below(&records->random, 4);
	uint8_t copy[4 * RECORD];
	size_t at = random_below(&records->random, records->count + 1);

	if (count > records->count - from)
		count = records->count - from;
	memcpy(copy, record_at(records, from), count * RECORD);
	count = make_gap(records, at, count);
	memcpy(record_at(records, at), copy, count * RECORD);
}

static void exchange(struct records *records)
{
	uint8_t *one = record_at(records, any_record(records));
	uint8_t *other = record_at(records, any_record(records)), copy[RECORD];

	memcpy(copy, one, RECORD);
	memcpy(one, other, RECORD);
	memcpy(other, copy, RECORD);
}

static void change_kind(struct records *records)
{
	record_at(records, any_record(records))[0] =
	    (uint8_t)random_below(&records->random, fuzz_target.kinds);
}

/* libFuzzer's own changes, with what it saw compared, inside of the draws of one record. */
static void change_draws(struct records *records)
{
	uint8_t *draws = record_at(records, any_record(records)) + 1;
	size_t size = LLVMFuzzerMutate(draws, RECORD - 1, RECORD - 1);

	memset(draws + size, 0, RECORD - 1 - size);
}

static void change_byte(struct records *records)
{
	uint8_t *record = record_at(records, any_record(records));

	record[1 + random_below(&records->random, RECORD - 1)] =
	    (uint8_t)random_word(&records->random);
}

/* Two steps that mean the same thing, a page or a register, have the same bytes. */
static void copy_draws(struct records *records)
{
	const uint8_t *from = record_at(records, any_record(records));
	size_t at = 1 + random_below(&records->random, RECORD - 1);
	size_t count = 1 + random_below(&records->random, RECORD - at);

	memmove(record_at(records, any_record(records)) + at, from + at, count);
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed)
{
	static void (*const changes[])(struct records *) = {
	    insert_new,	  insert_new,	erase,	      repeat,	   exchange,	change_kind,
	    change_draws, change_draws, change_draws, change_byte, change_byte, copy_draws,
	};
	struct records records = {.bytes = data, .count = size / RECORD, .max = max_size / RECORD};

	random_seed(&records.random, seed);
	if (!records.max)
		return 0;
	if (!records.count)
		insert_new(&records);
	for (uint64_t left = 1 + random_below(&records.random, 3); left; left--)
		changes[random_below(&records.random, ARRAY_SIZE(changes))](&records);
	return records.count * RECORD;
}

/* Some of the one, some of the other, in turn. */
size_t LLVMFuzzerCustomCrossOver(const uint8_t *data1, size_t size1, const uint8_t *data2,
				 size_t size2, uint8_t *out, size_t max_out_size, unsigned int seed)
{
	const uint8_t *data[] = {data1, data2};
	size_t left[] = {size1 / RECORD, size2 / RECORD};
	size_t room = max_out_size / RECORD, made = 0;
	struct fuzz_random random;

	random_seed(&random, seed);
	for (unsigned int turn = 0; room > made && (left[0] || left[1]); turn ^= 1) {
		size_t count = random_below(&random, 8);

		if (count > left[turn])
			count = left[turn];
		if (count > room - made)
			count = room - made;
		memcpy(out + made * RECORD, data[turn], count * RECORD);
		data[turn] += count * RECORD;
		left[turn] -= count;
		made += count;
	}
	return made * RECORD;
}
