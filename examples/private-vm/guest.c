/* The guest: 64-bit code without an operating system, below it only its machine. */
#include "guest.h"

#define MAP_GPA_RANGE 12
#define MAP_SHARED_PAGES 0ul
#define MAP_PRIVATE_PAGES (1ul << 4)

static volatile struct mailbox *const mailbox = (volatile struct mailbox *)GUEST_MAILBOX;

static void report(enum step step)
{
	asm volatile("outl %0, %1" : : "a"(step), "Nd"((unsigned short)STEP_PORT) : "memory");
}

static int is_amd(void)
{
	unsigned int leaf = 0, b, c = 0, d;

	asm volatile("cpuid" : "+a"(leaf), "=b"(b), "+c"(c), "=d"(d));
	/* "Auth"enticAMD or "Hygo"nGenuine */
	return b == 0x68747541 || b == 0x6f677948;
}

/* Asks the machine to make pages private or shared; 0 or a negative errno. */
static long map_gpa_range(unsigned long gpa, unsigned long pages, unsigned long attributes)
{
	long result = MAP_GPA_RANGE;

	if (is_amd())
		asm volatile("vmmcall"
			     : "+a"(result)
			     : "b"(gpa), "c"(pages), "d"(attributes)
			     : "memory");
	else
		asm volatile("vmcall"
			     : "+a"(result)
			     : "b"(gpa), "c"(pages), "d"(attributes)
			     : "memory");
	return result;
}

static volatile unsigned long *page_at(unsigned long gpa, unsigned long page)
{
	return (volatile unsigned long *)(gpa + page * PAGE_BYTES);
}

static void fill(unsigned long first, unsigned long end, unsigned long word)
{
	for (unsigned long page = first; page < end; page++)
		for (unsigned long i = 0; i < PAGE_WORDS; i++)
			page_at(SECRET_GPA, page)[i] = word + page;
}

/* Counts the words that are not what they should be; word 0 means empty pages. */
static void check(unsigned long first, unsigned long end, unsigned long word)
{
	unsigned long wrong = 0;

	for (unsigned long page = first; page < end; page++)
		for (unsigned long i = 0; i < PAGE_WORDS; i++)
			wrong += page_at(SECRET_GPA, page)[i] != (word ? word + page : 0);
	mailbox->wrong_words += wrong;
}

static void convert(unsigned long pages, unsigned long attributes)
{
	if (map_gpa_range(SECRET_GPA, pages, attributes) != 0)
		mailbox->wrong_words++;
}

static unsigned long cycles(void)
{
	unsigned int low, high;

	asm volatile("rdtsc" : "=a"(low), "=d"(high));
	return (unsigned long)high << 32 | low;
}

/* Changes one word of a random page now and then, as a program at work does. */
static void keep_busy(void)
{
	unsigned long random = 1, writes = 0;

	while (!mailbox->stop) {
		unsigned long start = cycles();

		random = random * 6364136223846793005ul + 1442695040888963407ul;
		page_at(BUSY_GPA, (random >> 33) % BUSY_PAGES)[(random >> 50) % PAGE_WORDS] =
		    random;
		mailbox->writes = ++writes;
		while (cycles() - start < mailbox->cycles_per_write)
			asm volatile("pause");
	}
}

__attribute__((section(".text.guest_entry"), noreturn, used)) void guest_entry(void);

void guest_entry(void)
{
	fill(0, SECRET_PAGES, SHARED_WORD);
	report(STEP_SHARED_WRITTEN);

	convert(SECRET_PAGES, MAP_PRIVATE_PAGES);
	check(0, SECRET_PAGES, 0);
	fill(0, SECRET_PAGES, PRIVATE_WORD);
	report(STEP_PRIVATE_WRITTEN);

	check(0, SECRET_PAGES, PRIVATE_WORD);
	report(STEP_PRIVATE_CHECKED);

	convert(SECRET_PAGES / 2, MAP_SHARED_PAGES);
	check(0, SECRET_PAGES / 2, TAMPER_WORD);
	check(SECRET_PAGES / 2, SECRET_PAGES, PRIVATE_WORD);
	fill(0, SECRET_PAGES / 2, AGAIN_WORD);
	report(STEP_SHARED_AGAIN);

	convert(SECRET_PAGES / 2, MAP_PRIVATE_PAGES);
	check(0, SECRET_PAGES / 2, 0);
	check(SECRET_PAGES / 2, SECRET_PAGES, PRIVATE_WORD);
	report(STEP_PRIVATE_AGAIN);

	report(STEP_BEFORE_FAULT);
	*page_at(BUSY_GPA, 0) = 1;
	report(STEP_BUSY);

	keep_busy();
	for (;;)
		asm volatile("hlt");
}
