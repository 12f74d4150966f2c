/*
 * The first program of a guest under test. The kernel's command line says what to do: quire=WORK,
 * where WORK is "poweroff", "reboot", "triple", "wait", "memory", "wide", "root" or "program".
 * Without quire= the file /work has the word. Each line on the console that begins with "quire:" is
 * for the test that reads it.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/klog.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/random.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE_BYTES 4096
#define MEMORY_BYTES (32UL << 20)
/* Of klogctl(): the console shows what is more urgent than a warning. */
#define SYSLOG_CONSOLE_LEVEL 8
#define KERNEL_ERRORS 4
#define PAGE_WORDS (PAGE_BYTES / sizeof(uint64_t))

static void mount_all(void)
{
	mount("proc", "/proc", "proc", 0, NULL);
	mount("sys", "/sys", "sysfs", 0, NULL);
	mount("dev", "/dev", "devtmpfs", 0, NULL);
}

/* Copies the value of NAME=VALUE on the kernel's command line; false when there is none. */
static int argument(const char *name, char *value, size_t size)
{
	char line[4096] = "";
	int fd = open("/proc/cmdline", O_RDONLY);
	ssize_t count = fd < 0 ? -1 : read(fd, line, sizeof(line) - 1);

	if (fd >= 0)
		close(fd);
	if (count < 0)
		return 0;
	for (char *word = strtok(line, " \n"); word; word = strtok(NULL, " \n")) {
		size_t length = strlen(name);

		if (!strncmp(word, name, length) && word[length] == '=') {
			snprintf(value, size, "%s", word + length + 1);
			return 1;
		}
	}
	return 0;
}

/* Where the VMM writes the command line: its word is a file beside this program. */
static void read_work(char *work, size_t size)
{
	int fd = open("/work", O_RDONLY);
	ssize_t count = fd < 0 ? 0 : read(fd, work, size - 1);

	if (fd >= 0)
		close(fd);
	if (count > 0)
		work[count] = '\0';
}

static uint64_t word_of(uint64_t generation, uint64_t page, uint64_t word)
{
	uint64_t mixed = (generation << 40) ^ (page << 12) ^ word;

	return (mixed + 1) * 0x9e3779b97f4a7c15UL;
}

/* Eight words of each page, spread over it. */
static void write_page(uint64_t *page, uint64_t generation, uint64_t number)
{
	for (uint64_t i = 0; i < PAGE_WORDS; i += PAGE_WORDS / 8)
		page[i] = word_of(generation, number, i);
}

static int check_page(const uint64_t *page, uint64_t generation, uint64_t number)
{
	for (uint64_t i = 0; i < PAGE_WORDS; i += PAGE_WORDS / 8) {
		if (page[i] == word_of(generation, number, i))
			continue;
		printf("quire: BAD page %lu word %lu generation %lu: %lx\n", number, i, generation,
		       page[i]);
		return 0;
	}
	return 1;
}

static double seconds_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/*
 * Writes memory and checks it, so many rounds (for ever, if 0): a page holds what the last
 * generation wrote, or the guest has lost a write. Says how far it is twice a second.
 */
static void work_memory(uint64_t rounds)
{
	uint64_t pages = MEMORY_BYTES / PAGE_BYTES, generation = 0;
	char *memory =
	    mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	double said = 0;

	if (memory == MAP_FAILED) {
		printf("quire: BAD no memory\n");
		return;
	}
	for (uint64_t i = 0; i < pages; i++)
		write_page((uint64_t *)(memory + i * PAGE_BYTES), 0, i);
	for (; !rounds || generation < rounds; generation++) {
		for (uint64_t i = 0; i < pages; i++) {
			uint64_t *page = (uint64_t *)(memory + i * PAGE_BYTES);

			if (!check_page(page, generation, i))
				return;
			write_page(page, generation + 1, i);
		}
		if (seconds_now() - said < 0.5)
			continue;
		said = seconds_now();
		printf("quire: generation %lu\n", generation);
	}
}

/*
 * The kernel gives a program addresses of more than 47 bits only where its tables have five levels,
 * and where the program asks for one.
 */
static void work_wide(void)
{
	char *wanted = (char *)(UINT64_C(0x00a5) << 48);
	char *memory = mmap(wanted, 2 * MEMORY_BYTES, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory != wanted) {
		printf("quire: BAD no address of 56 bits: %p\n", (void *)memory);
		return;
	}
	for (uint64_t i = 0; i < 2 * MEMORY_BYTES / PAGE_BYTES; i += 3)
		write_page((uint64_t *)(memory + i * PAGE_BYTES), 1, i);
	for (uint64_t i = 0; i < 2 * MEMORY_BYTES / PAGE_BYTES; i += 3)
		if (!check_page((uint64_t *)(memory + i * PAGE_BYTES), 1, i))
			return;
	printf("quire: wide ok\n");
}

static int compare_names(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/*
 * Loads each file of /modules, in the order of the names, with the option= of the command line: a
 * module ignores one that it does not know.
 */
static void load_modules(void)
{
	char *names[128], path[512], option[64] = "";
	size_t count = 0;
	DIR *folder = opendir("/modules");

	for (struct dirent *entry; folder && (entry = readdir(folder)) && count < 128;)
		if (entry->d_name[0] != '.')
			names[count++] = strdup(entry->d_name);
	qsort(names, count, sizeof(names[0]), compare_names);
	argument("option", option, sizeof(option));
	for (size_t i = 0; i < count; i++) {
		int fd;

		snprintf(path, sizeof(path), "/modules/%s", names[i]);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0 || (syscall(SYS_finit_module, fd, option, 0) && errno != EEXIST))
			printf("quire: BAD module %s: %s\n", names[i], strerror(errno));
		if (fd >= 0)
			close(fd);
	}
}

/* Makes /dev/vda the root and gives it the process; returns when it cannot. */
static void work_root(void)
{
	load_modules();
	for (int tries = 0; access("/dev/vda", F_OK) && tries < 100; tries++)
		usleep(100000);
	if ((mkdir("/root", 0755) && errno != EEXIST) ||
	    mount("/dev/vda", "/root", "ext4", 0, NULL) || chdir("/root") ||
	    mount("/dev", "dev", NULL, MS_MOVE, NULL) || mount(".", "/", NULL, MS_MOVE, NULL) ||
	    chroot(".")) {
		printf("quire: BAD root: %s\n", strerror(errno));
		return;
	}
	umount("/proc");
	umount("/sys");
	execl("/sbin/init", "init", NULL);
	printf("quire: BAD init: %s\n", strerror(errno));
}

/* Runs the file /program with the rounds as its argument. */
static void work_program(char *rounds)
{
	char *words[] = {"/program", rounds, NULL};
	pid_t child;
	int status;

	load_modules();
	child = fork();
	if (!child) {
		execv(words[0], words);
		printf("quire: BAD program: %s\n", strerror(errno));
		_exit(1);
	}
	if (waitpid(child, &status, 0) != child || status)
		printf("quire: BAD program: status %#x\n", status);
}

/* Restart by a triple fault: for a VMM that has no other end to offer. */
static void end_by_triple_fault(void)
{
	int fd = open("/sys/kernel/reboot/type", O_WRONLY);

	if (fd < 0 || write(fd, "triple", 6) != 6)
		printf("quire: BAD reboot type: %s\n", strerror(errno));
	if (fd >= 0)
		close(fd);
	reboot(RB_AUTOBOOT);
}

/* What the machine is, as the kernel and the processor tell a program. */
static void say_machine(void)
{
	struct utsname name;
	uint64_t random = 0;

	uname(&name);
	if (getrandom(&random, sizeof(random), GRND_NONBLOCK) < 0)
		random = 0;
	printf("quire: up %s cpus %ld memory %ld MiB random %s\n", name.release,
	       sysconf(_SC_NPROCESSORS_ONLN),
	       sysconf(_SC_PHYS_PAGES) / (1048576 / sysconf(_SC_PAGESIZE)), random ? "yes" : "no");
}

int main(void)
{
	char work[64] = "poweroff", rounds[64] = "0";

	mount_all();
	/* The kernel writes to the console past the terminal: a note of its own would cut a line.
	 */
	klogctl(SYSLOG_CONSOLE_LEVEL, NULL, KERNEL_ERRORS);
	setvbuf(stdout, NULL, _IOLBF, 0);
	say_machine();
	if (!argument("quire", work, sizeof(work)))
		read_work(work, sizeof(work));
	argument("rounds", rounds, sizeof(rounds));
	if (!strcmp(work, "memory"))
		work_memory(strtoul(rounds, NULL, 10));
	if (!strcmp(work, "wide"))
		work_wide();
	if (!strcmp(work, "root"))
		work_root();
	if (!strcmp(work, "program"))
		work_program(rounds);
	while (!strcmp(work, "wait"))
		pause();
	printf("quire: %s\n",
	       strcmp(work, "reboot") && strcmp(work, "triple") ? "poweroff" : "reboot");
	sync();
	if (!strcmp(work, "triple"))
		end_by_triple_fault();
	reboot(!strcmp(work, "reboot") ? RB_AUTOBOOT : RB_POWER_OFF);
	for (;;)
		pause();
}
