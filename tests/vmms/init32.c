/*
 * The first program of a 32-bit guest, without a libc: there need be none for 32 bits here. It
 * writes and checks more pages than one table maps, in two processes, and turns the power off.
 */
#include <stdint.h>

#define SYS_EXIT 1
#define SYS_FORK 2
#define SYS_WRITE 4
#define SYS_WAITPID 7
#define SYS_REBOOT 88
#define SYS_MMAP 90
#define POWER_OFF 0x4321fedc
#define PROT_BOTH 3
#define MAP_ANONYMOUS_PRIVATE 0x22
#define PAGE_WORDS 1024u
#define PAGES 6000u

static long call(long number, long a, long b, long c, long d)
{
	long result;

	__asm__ volatile("int $0x80"
			 : "=a"(result)
			 : "a"(number), "b"(a), "c"(b), "d"(c), "S"(d)
			 : "memory");
	return result;
}

static void say(const char *text)
{
	long length = 0;

	while (text[length])
		length++;
	call(SYS_WRITE, 1, (long)text, length, 0);
}

/* mmap2() has six arguments, the last of them in EBP: an older call takes a pointer to them. */
static uint32_t *map_memory(void)
{
	static long arguments[6] = {0, (long)PAGES * 4096, PROT_BOTH, MAP_ANONYMOUS_PRIVATE, -1, 0};

	return (uint32_t *)call(SYS_MMAP, (long)arguments, 0, 0, 0);
}

static uint32_t word_of(uint32_t page, uint32_t turn)
{
	return (page + 1) * 0x9e3779b9u ^ turn;
}

/* The pages as @turn has written them: the number of those that are not. */
static uint32_t bad_pages(const uint32_t *memory, uint32_t turn)
{
	uint32_t bad = 0;

	for (uint32_t i = 0; i < PAGES; i++)
		bad += memory[i * PAGE_WORDS + i % PAGE_WORDS] != word_of(i, turn);
	return bad;
}

static void write_pages(uint32_t *memory, uint32_t turn)
{
	for (uint32_t i = 0; i < PAGES; i++)
		memory[i * PAGE_WORDS + i % PAGE_WORDS] = word_of(i, turn);
}

/* A child writes its own copies; its parent's pages stay. */
static int check_memory(void)
{
	uint32_t *memory = map_memory();
	int status = -1;
	long child;

	if ((unsigned long)memory > -4096ul)
		return 0;
	write_pages(memory, 1);
	child = call(SYS_FORK, 0, 0, 0, 0);
	if (!child) {
		write_pages(memory, 2);
		call(SYS_EXIT, bad_pages(memory, 2) != 0, 0, 0, 0);
	}
	if (child < 0 || call(SYS_WAITPID, child, (long)&status, 0, 0) != child || status)
		return 0;
	return !bad_pages(memory, 1);
}

void _start(void)
{
	say(check_memory() ? "quire: 32 bits ok\n" : "quire: BAD 32 bits\n");
	call(SYS_REBOOT, (long)0xfee1deadu, 672274793, POWER_OFF, 0);
	for (;;)
		;
}
