/* Loops that run natively and in a guest. All their code is in one section, which is copied. */
#include "cli/bench/loops.h"

#define GUEST_VECTORS __attribute__((section("bench_loops"), noinline))
#define GUEST_CODE __attribute__((section("bench_loops"), noinline, target("general-regs-only")))
/* The compiler makes no memset() or memcpy() of a loop with this in it. */
#define AS_WRITTEN() __asm__ volatile("" ::: "memory")

/* Arithmetic in registers: a generator of noise, a checksum bit by bit, a division. */
static GUEST_CODE u64 alu(void)
{
	u64 noise = 88172645463325252, sum = 0xffffffff;

	for (u32 i = 0; i < 6000000; i++) {
		noise ^= noise << 13;
		noise ^= noise >> 7;
		noise ^= noise << 17;
		sum ^= noise & 0xff;
		for (u32 bit = 0; bit < 4; bit++)
			sum = sum & 1 ? (sum >> 1) ^ 0xedb88320 : sum >> 1;
		if (noise % 7 == 3)
			sum += 11;
	}
	return noise ^ sum;
}

static GUEST_CODE u64 sieve(u8 *is_prime)
{
	const u64 end = 4u << 20;
	u64 count = 0;

	for (u32 round = 0; round < 3; round++) {
		for (u64 i = 0; i < end; i++) {
			is_prime[i] = 1;
			AS_WRITTEN();
		}
		for (u64 i = 2; i * i < end; i++) {
			if (!is_prime[i])
				continue;
			for (u64 multiple = i * i; multiple < end; multiple += i)
				is_prime[multiple] = 0;
		}
		for (u64 i = 2; i < end; i++)
			count += is_prime[i];
	}
	return count;
}

static GUEST_CODE void sort(u64 *words, s64 first, s64 last)
{
	while (first < last) {
		u64 pivot = words[(first + last) / 2];
		s64 low = first, high = last;

		while (low <= high) {
			while (words[low] < pivot)
				low++;
			while (words[high] > pivot)
				high--;
			if (low <= high) {
				u64 other = words[low];

				words[low++] = words[high];
				words[high--] = other;
			}
		}
		if (high - first < last - low) {
			sort(words, first, high);
			first = low;
		} else {
			sort(words, low, last);
			last = high;
		}
	}
}

static GUEST_CODE u64 sort_noise(u64 *words)
{
	const s64 count = 1 << 20;
	u64 noise = 1, sum = 0;

	for (s64 i = 0; i < count; i++) {
		noise = noise * 6364136223846793005u + 1442695040888963407u;
		words[i] = noise >> 16;
	}
	sort(words, 0, count - 1);
	for (s64 i = 0; i < count; i += 997)
		sum = sum * 31 + words[i];
	return sum;
}

/* Between two pages that meet in every table that is indexed by the low bits of a page number. */
static GUEST_CODE u64 copy(volatile u64 *from)
{
	const u32 words = (1 << 20) / sizeof(u64);
	volatile u64 *to = from + words;

	for (u32 round = 0; round < 60; round++)
		for (u32 i = 0; i < words; i++)
			to[i] = from[i] + round;
	return to[77];
}

static GUEST_CODE u64 fib(u64 n)
{
	return n < 2 ? n : fib(n - 1) + fib(n - 2);
}

static GUEST_CODE u64 touch(u8 *memory)
{
	u64 sum = 0;

	for (u32 round = 0; round < 20; round++) {
		for (u64 page = 0; page < LOOP_MEMORY_BYTES; page += 4096) {
			memory[page + round] = (u8)round;
			sum += memory[page];
		}
	}
	return sum;
}

/* A cycle through 256 Ki lines, each of which says which is the next. */
static GUEST_CODE u64 chase(u64 *words)
{
	const u64 count = 1 << 18, stride = 32;
	u64 noise = 7, at = 0;

	for (u64 i = 0; i < count; i++)
		words[i * stride] = i;
	for (u64 i = count - 1; i; i--) {
		u64 other, value;

		noise = noise * 6364136223846793005u + 1;
		other = (noise >> 33) % i;
		value = words[i * stride];
		words[i * stride] = words[other * stride];
		words[other * stride] = value;
	}
	for (u32 i = 0; i < 3000000; i++)
		at = words[at * stride];
	return at;
}

static GUEST_CODE u64 rep(u8 *memory)
{
	for (u32 round = 0; round < 4000; round++) {
		u8 *to = memory + (round % 64) * 4096, *from = memory + (8u << 20);
		u64 count = 4096;

		__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count)::"memory");
		to = memory + (round % 64) * 4096;
		count = 4096;
		__asm__ volatile("rep stosb" : "+D"(to), "+c"(count) : "a"(round) : "memory");
	}
	return memory[5];
}

/* A page is copied, added up and searched by SSE2, as libc's memcpy(), strlen() and memchr() do. */
static GUEST_VECTORS u64 vector(u8 *memory)
{
	u64 sum = 0;

	for (u32 round = 0; round < 20000; round++) {
		u8 *from = memory + (round % 64) * 4096, *to = from + (1u << 20);
		u64 count = 4096 / 16, added;

		from[round % 4096] = (u8)(round % 251);
		__asm__ volatile("pcmpeqd %%xmm1, %%xmm1\n\tpxor %%xmm2, %%xmm2\n"
				 "1:\tmovdqa (%1), %%xmm0\n\tmovups %%xmm0, (%2)\n\t"
				 "paddd %%xmm0, %%xmm2\n\tpcmpeqb %%xmm1, %%xmm0\n\t"
				 "pmovmskb %%xmm0, %%eax\n\ttest %%eax, %%eax\n\tjnz 2f\n\t"
				 "add $16, %1\n\tadd $16, %2\n\tdec %3\n\tjnz 1b\n"
				 "2:\tmovq %%xmm2, %0"
				 : "=&r"(added), "+r"(from), "+r"(to), "+r"(count)
				 :
				 : "rax", "xmm0", "xmm1", "xmm2", "cc", "memory");
		sum = sum * 31 + added;
	}
	return sum;
}

/* Many functions, so that neither caches nor predictors hold them all. */
#define FUNCTION(n)                                            \
	static GUEST_CODE u64 function_##n(u64 x)              \
	{                                                      \
		x = x * ((n)*2 + 3) + (x >> 7);                \
		if (x & (UINT64_C(1) << ((n) % 61)))           \
			x ^= (n)*UINT64_C(0x9e3779b97f4a7c15); \
		else                                           \
			x += x << 3 | (n);                     \
		x = x >> 11 | x << 53;                         \
		return x - (n);                                \
	}
#define EACH_7(X, n) X(n##1) X(n##2) X(n##3) X(n##4) X(n##5) X(n##6) X(n##7)
#define EACH_8(X, n) X(n##0) EACH_7(X, n)
#define EACH_56(X, n)   \
	EACH_8(X, n##1) \
	EACH_8(X, n##2) \
	EACH_8(X, n##3) EACH_8(X, n##4) EACH_8(X, n##5) EACH_8(X, n##6) EACH_8(X, n##7)
#define EACH_FUNCTION(X) \
	EACH_56(X, 1)    \
	EACH_56(X, 2)    \
	EACH_56(X, 3)    \
	EACH_56(X, 4) EACH_56(X, 5) EACH_56(X, 6) EACH_56(X, 7) EACH_56(X, 8) EACH_56(X, 9)
EACH_FUNCTION(FUNCTION)

typedef u64 (*function)(u64 x);

static GUEST_CODE u64 big(function *table)
{
	u64 x = 12345, count = 0;

#define ENTER(n) table[count++] = function_##n;
	EACH_FUNCTION(ENTER)
	for (u32 i = 0; i < 6000000; i++)
		x = table[(x >> 20) % count](x);
	return x;
}

static GUEST_CODE void out_for_ever(void)
{
	for (;;)
		__asm__ volatile("out %al, $0x80");
}

GUEST_CODE void loop_halt(void)
{
	__asm__ volatile("hlt");
}

GUEST_CODE u64 loop_run(enum loop which, u8 *memory)
{
	u64 *words = (u64 *)(void *)memory;

	if (which == LOOP_ALU)
		return alu();
	if (which == LOOP_SIEVE)
		return sieve(memory);
	if (which == LOOP_QSORT)
		return sort_noise(words);
	if (which == LOOP_COPY)
		return copy(words);
	if (which == LOOP_FIB)
		return fib(34);
	if (which == LOOP_BIG)
		return big((function *)(void *)memory);
	if (which == LOOP_TOUCH)
		return touch(memory);
	if (which == LOOP_CHASE)
		return chase(words);
	if (which == LOOP_REP)
		return rep(memory);
	if (which == LOOP_VECTOR)
		return vector(memory);
	out_for_ever();
	return 0;
}
