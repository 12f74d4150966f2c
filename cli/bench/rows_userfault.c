/* A restore by userfaultfd: what a page costs that a thread of the client's brings in. */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "cli/bench/machine.h"

#define PAGES UINT64_C(8192)
#define BYTES (PAGES * QUIRE_PAGE_SIZE)

/* A VM whose memory is missing at first, and the thread that copies pages into it. */
struct restore {
	struct machine machine;
	uint8_t *snapshot; /* one page, the contents of all */
	pthread_t reader;
	bool has_reader;
	int faults, end; /* the userfaultfd, and an eventfd */
};

/* Of both threads: the same work is done for the guest's access and for the client's. */
static double process_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
	return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

static void *serve(void *opaque)
{
	const struct restore *restore = opaque;
	struct pollfd waits[2] = {{.fd = restore->faults, .events = POLLIN},
				  {.fd = restore->end, .events = POLLIN}};
	struct uffd_msg message;

	while (poll(waits, 2, -1) > 0 && !waits[1].revents) {
		struct uffdio_copy copy = {.src = (uintptr_t)restore->snapshot,
					   .len = QUIRE_PAGE_SIZE};

		if (read(restore->faults, &message, sizeof(message)) != sizeof(message))
			continue;
		copy.dst = message.arg.pagefault.address & QUIRE_PAGE_MASK;
		/* What fails is asked for again. */
		(void)ioctl(restore->faults, UFFDIO_COPY, &copy);
	}
	return NULL;
}

static int watch(struct restore *restore)
{
	struct uffdio_api api = {.api = UFFD_API};
	struct uffdio_register request = {
	    .range = {(uintptr_t)restore->machine.memory, BYTES},
	    .mode = UFFDIO_REGISTER_MODE_MISSING,
	};

	restore->end = eventfd(0, EFD_CLOEXEC);
	restore->faults = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (restore->end < 0 || restore->faults < 0 || ioctl(restore->faults, UFFDIO_API, &api) ||
	    ioctl(restore->faults, UFFDIO_REGISTER, &request))
		return -errno;
	if (pthread_create(&restore->reader, NULL, serve, restore))
		return -EAGAIN;
	restore->has_reader = true;
	return 0;
}

static uint8_t *map(u64 size_bytes)
{
	uint8_t *memory = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (memory == MAP_FAILED)
		return NULL;
	madvise(memory, size_bytes, MADV_NOHUGEPAGE);
	process_mappings_changed();
	return memory;
}

static void restore_destroy(void *state)
{
	struct restore *restore = state;
	const uint64_t one = 1;

	if (restore->has_reader && write(restore->end, &one, sizeof(one)) == sizeof(one))
		pthread_join(restore->reader, NULL);
	machine_destroy(&restore->machine);
	if (restore->faults >= 0)
		close(restore->faults);
	if (restore->end >= 0)
		close(restore->end);
	if (restore->machine.memory)
		munmap(restore->machine.memory, BYTES);
	if (restore->snapshot)
		munmap(restore->snapshot, QUIRE_PAGE_SIZE);
	free(restore);
}

static int fill(struct restore *restore)
{
	int error = machine_init(&restore->machine, QUIRE_VM_DEFAULT, 1, LEVEL_REAL);

	restore->machine.npages = PAGES;
	restore->machine.memory = map(BYTES);
	restore->snapshot = map(QUIRE_PAGE_SIZE);
	if (error)
		return error;
	if (!restore->machine.memory || !restore->snapshot)
		return -ENOMEM;
	memset(restore->snapshot, 1, QUIRE_PAGE_SIZE);
	error = machine_set_flags(&restore->machine, 0);
	return error ? error : watch(restore);
}

static int restore_setup(const struct bench_row *row, void **state)
{
	struct restore *restore = calloc(1, sizeof(*restore));
	int error;

	if (!restore)
		return -ENOMEM;
	restore->faults = restore->end = -1;
	error = fill(restore);
	if (error)
		restore_destroy(restore);
	else
		*state = restore;
	return error;
}

/* All pages are missing again. */
static int forget(const struct restore *restore)
{
	return madvise(restore->machine.memory, BYTES, MADV_DONTNEED);
}

static double restore_guest(void *state)
{
	struct restore *restore = state;
	double start;

	machine_zap(&restore->machine);
	if (forget(restore))
		return -1;
	start = process_now();
	return machine_populate(&restore->machine) < 0 ? -1 : process_now() - start;
}

static double restore_client(void *state)
{
	struct restore *restore = state;
	double start;

	if (forget(restore))
		return -1;
	start = process_now();
	for (u64 at = 0; at < BYTES; at += QUIRE_PAGE_SIZE)
		((volatile uint8_t *)restore->machine.memory)[at] = 1;
	return process_now() - start;
}

static const struct bench_row rows[] = {
    {
	.name = "userfault_restore",
	.floor_text = "the client's own write to each page, brought in by the same thread",
	.setup = restore_setup,
	.teardown = restore_destroy,
	.operation = restore_guest,
	.floor = restore_client,
	.bound = 1.2,
	.operations = PAGES,
	.memory_bytes = 2 * BYTES,
    },
};

const struct bench_list bench_userfault = {rows, sizeof(rows) / sizeof(rows[0])};
