/*
 * The first program of a guest, built for x86-64-v3: AVX2, FMA and F16C stand in its own code. It
 * keeps YMM registers through other processes and signals, calculates, says "quire: v3 ok" and
 * powers off. What is wrong is on a line that begins with "quire: BAD".
 */
#include <immintrin.h>
#include <math.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define PROCESSES 4
#define TURNS 300
#define REGISTERS 16
#define REGISTER_BYTES 32
#define NUMBERS 4096

static int bad(const char *what)
{
	printf("quire: BAD %s\n", what);
	return 1;
}

static void clobber(int number)
{
	(void)number;
	__asm__ volatile("vpcmpeqd %%ymm0, %%ymm0, %%ymm0\n\tvmovdqa %%ymm0, %%ymm7\n\t"
			 "vmovdqa %%ymm0, %%ymm15"
			 :
			 :
			 : "xmm0", "xmm7", "xmm15");
}

/* All registers from @from, @turns times a system call with two arguments, and all to @to. */
struct turn {
	const void *from;
	void *to;
	long turns, number, first, second;
};

static void hold(const struct turn *turn)
{
	long turns = turn->turns;

	__asm__ volatile(".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n\t"
			 "vmovdqu 32*\\n(%[from]), %%ymm\\n\n\t.endr\n"
			 "1:\tmov %[number], %%rax\n\tmov %[first], %%rdi\n\t"
			 "mov %[second], %%rsi\n\tsyscall\n\tdec %[turns]\n\tjnz 1b\n\t"
			 ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n\t"
			 "vmovdqu %%ymm\\n, 32*\\n(%[to])\n\t.endr\n\tvzeroupper"
			 : [turns] "+r"(turns)
			 : [from] "r"(turn->from), [to] "r"(turn->to), [number] "r"(turn->number),
			   [first] "r"(turn->first), [second] "r"(turn->second)
			 : "rax", "rdi", "rsi", "rcx", "r11", "memory", "xmm0", "xmm1", "xmm2",
			   "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11",
			   "xmm12", "xmm13", "xmm14", "xmm15");
}

/* Each process has its own values, and gives the processor away between their uses. */
static int registers_stay(int seed)
{
	uint8_t before[REGISTERS * REGISTER_BYTES], after[sizeof(before)];
	struct turn turn = {before, after, TURNS, SYS_sched_yield, 0, 0};

	for (size_t i = 0; i < sizeof(before); i++)
		before[i] = (uint8_t)(i * 7 + 31 * seed);
	hold(&turn);
	if (memcmp(before, after, sizeof(before)))
		return bad("registers after other processes ran");
	/* A handler that uses them itself. */
	turn.turns = 20;
	turn.number = SYS_kill;
	turn.first = getpid();
	turn.second = SIGUSR1;
	memset(after, 0, sizeof(after));
	hold(&turn);
	if (memcmp(before, after, sizeof(before)))
		return bad("registers after a handler ran");
	return 0;
}

static int processes(void)
{
	int failures = 0, status;

	signal(SIGUSR1, clobber);
	for (int i = 0; i < PROCESSES; i++) {
		if (!fork())
			_exit(registers_stay(i));
	}
	for (int i = 0; i < PROCESSES; i++) {
		wait(&status);
		failures += status != 0;
	}
	return failures;
}

/* Loops that the compiler makes vectors of, against sums that are known. */
static int arithmetic(void)
{
	static int numbers[NUMBERS];
	static double squares[NUMBERS];
	long sum = 0;
	double total = 0;
	volatile double near_one = 1 + 0x1p-30;

	for (int i = 0; i < NUMBERS; i++) {
		numbers[i] = i ^ 0x55;
		squares[i] = (double)i * i;
	}
	for (int i = 0; i < NUMBERS; i++) {
		sum += numbers[i];
		total += squares[i];
	}
	if (sum != (long)NUMBERS * (NUMBERS - 1) / 2)
		return bad("a sum of integers");
	if (total != (NUMBERS - 1.0) * NUMBERS * (2.0 * NUMBERS - 1) / 6)
		return bad("a sum of squares");
	/* Rounded once, the square of 2^-30 is left. */
	if (fma(near_one, near_one, -(1 + 0x1p-29)) != 0x1p-60)
		return bad("a fused multiplication");
	return 0;
}

static int halves_and_gathers(void)
{
	float singles[8] = {0, 1, -2, 0.5f, 65504, 1e-8f, 3.14159f, 100000}, back[8];
	int table[64], found[8];
	__m256i index = _mm256_setr_epi32(63, 0, 17, 5, 5, 42, 1, 33);

	for (int i = 0; i < 64; i++)
		table[i] = i * i;
	_mm256_storeu_ps(back, _mm256_cvtph_ps(_mm256_cvtps_ph(_mm256_loadu_ps(singles), 0)));
	if (back[2] != -2 || back[4] != 65504 || back[5] != 0 || !isinf(back[7]) ||
	    fabsf(back[6] - 3.14159f) > 0.002f)
		return bad("halves");
	_mm256_storeu_si256((__m256i *)found, _mm256_i32gather_epi32(table, index, 4));
	if (found[0] != 63 * 63 || found[2] != 17 * 17 || found[5] != 42 * 42 ||
	    found[7] != 33 * 33)
		return bad("a gather");
	return 0;
}

int main(void)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (!(processes() | arithmetic() | halves_and_gathers()))
		printf("quire: v3 ok\n");
	sync();
	reboot(RB_POWER_OFF);
	for (;;)
		pause();
}
