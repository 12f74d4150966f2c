/* The host port: pages of every kind of mapping, what is known of mappings, copies, stores. */
#include "tests/unit/process/support.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/perf_event.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "hosts/process/maps.h"
#include "hosts/process/watched.h"

#define HUGE ((size_t)2 << 20)

static struct process_host host;

/* By a caller that hears of invalidations, unless it asks for a pin. */
static int get(const void *mem, uint32_t flags, struct quire_page *page)
{
	if (!(flags & QUIRE_PAGE_PIN))
		flags |= QUIRE_PAGE_GUARDED;
	return process_host_ops.page_get(&host, (hva_t){address_of(mem)}, flags, page);
}

enum { READ = 0, WRITE = QUIRE_PAGE_WRITE, NOWAIT = QUIRE_PAGE_NOWAIT };

/* What a read and a write of a mapping give; writable is what the read says. */
static void check_page(uint8_t *mem, int read, int write, int writable)
{
	struct quire_page page = {.refcounted = 1};

	assert_int_equal(get(mem, READ, &page), read);
	if (!read) {
		assert_true(page.pfn.v == address_of(mem) >> 12);
		assert_int_equal(page.writable, writable);
		assert_int_equal(page.refcounted, 0);
	}
	memset(&page, 0, sizeof(page));
	assert_int_equal(get(mem, WRITE, &page), write);
	if (!write) {
		assert_true(page.pfn.v == address_of(mem) >> 12);
		assert_int_equal(page.writable, 1);
		assert_int_equal(page.refcounted, 0);
	}
}

/* A page asked for with PIN is kept and counted; unguarded, and not kept, it is refused. */
static void pages_that_are_kept(void **state)
{
	uint8_t *mem = map_anonymous(PAGE, PROT_READ | PROT_WRITE);
	struct quire_page page[2];

	handle_signals();
	for (uint32_t i = 0; i < 2; i++) {
		assert_int_equal(get(mem, QUIRE_PAGE_PIN | WRITE, &page[i]), 0);
		assert_true(page[i].refcounted);
		assert_int_equal(host.pinned, i + 1);
	}
	for (uint32_t i = 0; i < 2; i++)
		process_host_ops.page_put(&host, &page[i], QUIRE_PAGE_DIRTY);
	assert_int_equal(host.pinned, 0);
	assert_int_equal(
	    process_host_ops.page_get(&host, (hva_t){address_of(mem)}, WRITE, &page[0]), -EINVAL);
	unmap(mem, PAGE);
	assert_int_equal(get(mem, QUIRE_PAGE_PIN, &page[0]), -EFAULT);
	assert_int_equal(host.pinned, 0);
}

static void pages_of_every_mapping(void **state)
{
	const int rw = PROT_READ | PROT_WRITE;
	uint8_t *anonymous = map_anonymous(PAGE, rw);
	uint8_t *shared = map_file(PAGE, 2 * PAGE, rw, MAP_SHARED);
	uint8_t *private = map_file(PAGE, PAGE, rw, MAP_PRIVATE);

	handle_signals();
	anonymous[5] = 55;
	check_page(anonymous, 0, 0, 1);
	assert_int_equal(anonymous[5], 55);
	check_page(shared, 0, 0, 1);
	check_page(shared + PAGE, -EFAULT, -EFAULT, 0);
	check_page(private, 0, 0, 1);
	check_page(map_file(PAGE, PAGE, PROT_READ, MAP_SHARED), 0, -EFAULT, 0);
	check_page(map_anonymous(PAGE, PROT_READ), 0, -EFAULT, 0);
	check_page(map_anonymous(PAGE, PROT_NONE), -EFAULT, -EFAULT, 0);
	check_page(NULL, -EFAULT, -EFAULT, 0);
	check_page((uint8_t *)(UINT64_C(1) << 47), -EFAULT, -EFAULT, 0);
	check_page((uint8_t *)(UINT64_C(1) << 48), -EFAULT, -EFAULT, 0);
	check_page((uint8_t *)UINT64_MAX, -EFAULT, -EFAULT, 0);
	assert_int_equal(mprotect(anonymous, PAGE, PROT_READ), 0);
	process_mappings_changed();
	check_page(anonymous, 0, -EFAULT, 0);
	unmap(anonymous, PAGE);
	check_page(anonymous, -EFAULT, -EFAULT, 0);
}

static uint64_t there(const uint8_t *mem, uint32_t npages)
{
	struct quire_page pages[64];
	uint64_t named =
	    process_host_ops.pages_there(NULL, (hva_t){address_of(mem)}, npages, pages);

	for (uint32_t i = 0; i < npages; i++)
		if (named >> i & 1) {
			assert_int_equal(pages[i].pfn.v, (address_of(mem) >> 12) + i);
			assert_true(pages[i].writable);
		}
	return named;
}

/* Named are those in memory that the client may write; nothing is brought in, or waited for. */
static void pages_that_are_there(void **state)
{
	uint8_t *all = map_anonymous(3 * HUGE, PROT_READ | PROT_WRITE);
	uint8_t *mem = all + (HUGE - address_of(all) % HUGE), *next = mem + HUGE;
	uint8_t *other = map_file(8 * PAGE, 8 * PAGE, PROT_READ, MAP_SHARED);

	handle_signals();
	assert_int_equal(madvise(all, 3 * HUGE, MADV_NOHUGEPAGE), 0);
	process_mappings_changed();
	next[-1] = next[0] = 1;
	mem[2 * PAGE] = mem[9 * PAGE] = 1;
	/* The first question about a block, and those that are answered for all of it. */
	for (uint32_t i = 0; i < 3; i++) {
		assert_int_equal(there(mem, 8), 4);
		assert_int_equal(there(mem + 8 * PAGE, 8), 2);
		assert_int_equal(there(mem + 16 * PAGE, 48), 0);
	}
	/* It came meanwhile: named sooner or later. */
	mem[3 * PAGE] = 1;
	for (uint32_t i = 0; there(mem, 8) == 4; i++)
		assert_true(i < 1000);
	assert_int_equal(there(mem, 8), 12);
	/* It went: the client's call is told. */
	assert_int_equal(madvise(mem + 2 * PAGE, PAGE, MADV_DONTNEED), 0);
	process_mappings_changed();
	for (uint32_t i = 0; i < 3; i++)
		assert_int_equal(there(mem, 8), 8);
	(void)*(volatile uint8_t *)other;
	assert_int_equal(there(other, 8), 0);
	assert_int_equal(mprotect(mem + 4 * PAGE, PAGE, PROT_NONE), 0);
	process_mappings_changed();
	assert_int_equal(there(mem + 3 * PAGE, 2), 1);
	assert_int_equal(there(mem + 4 * PAGE, 2), 0);
	/* An answer ends where its block of 2 MiB does. */
	for (uint32_t i = 0; i < 3; i++)
		assert_int_equal(there(next - 2 * PAGE, 4), 2);
	unmap(all, 3 * HUGE);
	assert_int_equal(there(mem, 8), 0);
	assert_int_equal(there(NULL, 8), 0);
	assert_int_equal(there((uint8_t *)(UINT64_C(1) << 48), 8), 0);
}

/* The kernel's own data page is a mapping of bare page frames that may be read only. */
static void frames_without_pages(void **state)
{
	struct process_mapping mapping = {0};
	struct quire_page page;
	char line[256];
	FILE *maps = fopen("/proc/self/maps", "r");
	unsigned long start = 0;

	handle_signals();
	while (fgets(line, sizeof(line), maps))
		if (strstr(line, "[vvar]"))
			assert_int_equal(sscanf(line, "%lx", &start), 1);
	fclose(maps);
	if (!start || !process_mapping_find(start, &mapping) || !mapping.pfnmap)
		skip();
	check_page((uint8_t *)start, 0, -EROFS, 0);
	/* Nothing can keep them. */
	assert_int_equal(get((void *)start, QUIRE_PAGE_PIN, &page), -EINVAL);
	assert_int_equal(get((void *)start, QUIRE_PAGE_PIN | QUIRE_PAGE_GUARDED, &page), 0);
	assert_false(page.refcounted);
	assert_int_equal(host.pinned, 0);
}

/* A driver's buffer in a mapping that may be written: its entries are read-only, but for the first.
 */
static void frames_that_the_driver_protects(void **state)
{
	struct perf_event_attr event = {.type = PERF_TYPE_SOFTWARE,
					.size = sizeof(event),
					.config = PERF_COUNT_SW_CPU_CLOCK,
					.disabled = 1};
	int fd = (int)syscall(SYS_perf_event_open, &event, 0, -1, -1, 0);
	uint8_t *buffer = MAP_FAILED;
	struct process_mapping mapping;

	handle_signals();
	if (fd >= 0)
		buffer = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	process_mappings_changed();
	if (buffer == MAP_FAILED || !process_mapping_find(address_of(buffer), &mapping) ||
	    !mapping.pfnmap)
		skip();
	check_page(buffer, 0, 0, 0);
	check_page(buffer + PAGE, 0, -EROFS, 0);
	check_page(buffer + 2 * PAGE, 0, -EROFS, 0);
	close(fd);
}

static void nowait_does_not_fault_in(void **state)
{
	uint8_t *mem = map_anonymous(PAGE, PROT_READ | PROT_WRITE);
	unsigned char resident = 0;
	struct quire_page page;

	handle_signals();
	watched_set(address_of(mem), address_of(mem) + PAGE, WATCHED_MISSING);
	assert_int_equal(get(mem, NOWAIT, &page), -EAGAIN);
	assert_int_equal(mincore(mem, PAGE, &resident), 0);
	assert_int_equal(resident & 1, 0);
	mem[0] = 1;
	assert_int_equal(get(mem + 9, NOWAIT | WRITE, &page), 0);
	watched_set(address_of(mem), address_of(mem) + PAGE, 0);
	unmap(mem, PAGE);
	assert_int_equal(get(mem, NOWAIT, &page), -EFAULT);
}

/* A page that no page stands for yet is made, and not waited for. */
static void nowait_makes_new_pages(void **state)
{
	uint8_t *mem = map_anonymous(PAGE, PROT_READ | PROT_WRITE);
	struct quire_page page;

	handle_signals();
	assert_int_equal(get(mem, NOWAIT, &page), 0);
	unmap(mem, PAGE);
}

/* Which pages are watched: ranges that are cut, and more of them than are told apart. */
static void watched_ranges(void **state)
{
	enum { MANY = 200 };

	watched_set(0x10000, 0x20000, WATCHED_MISSING);
	watched_set(0x14000, 0x16000, 0);
	watched_set(0x18000, 0x19000, WATCHED_WRITES);
	assert_int_equal(watched_modes(0xffff), 0);
	assert_int_equal(watched_modes(0x13fff), WATCHED_MISSING);
	assert_int_equal(watched_modes(0x14000), 0);
	assert_int_equal(watched_modes(0x16000), WATCHED_MISSING);
	assert_int_equal(watched_modes(0x18000), WATCHED_WRITES);
	assert_int_equal(watched_modes(0x19000), WATCHED_MISSING);
	assert_int_equal(watched_modes(0x20000), 0);
	for (uint64_t i = 0; i < MANY; i++)
		watched_set(i << 20, (i << 20) + PAGE, WATCHED_MINOR);
	for (uint64_t i = 0; i < MANY; i++)
		assert_true(watched_modes(i << 20) & WATCHED_MINOR);
	watched_set(0, UINT64_MAX, 0);
	assert_int_equal(watched_modes(0), 0);
}

/* A page that a userfaultfd keeps back, and a thread that asks for it. */
static struct {
	uint8_t *mem;
	uint32_t flags;
	struct process_runner runner;
	int result;
	int ended; /* atomic */
} asker;

static void *ask(void *ctx)
{
	struct quire_page page;

	(void)ctx;
	process_runner_enter(&asker.runner);
	asker.result = get(asker.mem, asker.flags, &page);
	process_runner_leave(&asker.runner);
	__atomic_store_n(&asker.ended, 1, __ATOMIC_RELEASE);
	return NULL;
}

static int keep_back(void)
{
	struct uffdio_api api = {.api = UFFD_API};
	struct uffdio_register request = {.mode = UFFDIO_REGISTER_MODE_MISSING};
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);

	asker.mem = map_anonymous(PAGE, PROT_READ | PROT_WRITE);
	request.range = (struct uffdio_range){address_of(asker.mem), PAGE};
	if (fd < 0 || ioctl(fd, UFFDIO_API, &api) || ioctl(fd, UFFDIO_REGISTER, &request))
		skip();
	return fd;
}

/* Let the thread wait, and kick it until it hears; for a while if it must not. */
static void kick_asker(int fd, pthread_t *thread, uint32_t flags)
{
	const int turns = flags & QUIRE_PAGE_INTERRUPTIBLE ? 20000 : 50;
	struct pollfd wait = {.fd = fd, .events = POLLIN};

	asker.flags = flags;
	asker.ended = 0;
	assert_int_equal(pthread_create(thread, NULL, ask, NULL), 0);
	assert_int_equal(poll(&wait, 1, 10000), 1);
	for (int turn = 0; turn < turns && !__atomic_load_n(&asker.ended, __ATOMIC_ACQUIRE);
	     turn++) {
		process_host_ops.kick(NULL, &asker.runner);
		usleep(1000);
	}
}

static void give_back(int fd)
{
	uint8_t page[PAGE] = {1};
	struct uffdio_copy copy = {
	    .dst = address_of(asker.mem), .src = address_of(page), .len = PAGE};

	assert_int_equal(ioctl(fd, UFFDIO_COPY, &copy), 0);
}

static void only_who_wants_it_is_interrupted(void **state)
{
	pthread_t thread;
	int fd;

	handle_signals();
	fd = keep_back();
	kick_asker(fd, &thread, WRITE | QUIRE_PAGE_INTERRUPTIBLE);
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_int_equal(asker.result, -EINTR);
	kick_asker(fd, &thread, WRITE | QUIRE_PAGE_PIN);
	assert_int_equal(__atomic_load_n(&asker.ended, __ATOMIC_ACQUIRE), 0);
	give_back(fd);
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_int_equal(asker.result, 0);
	close(fd);
	unmap(asker.mem, PAGE);
}

static void check_mapping(const uint8_t *mem, size_t pages, uint32_t prot, bool shared)
{
	for (int warm = 0; warm < 2; warm++) {
		struct process_mapping found;

		memset(&found, 0xff, sizeof(found));
		assert_true(process_mapping_find(address_of(mem), &found));
		assert_true(found.start <= address_of(mem));
		assert_true(found.end >= address_of(mem) + pages * PAGE);
		assert_int_equal(found.prot, prot);
		assert_int_equal(found.shared, shared);
		assert_int_equal(found.pfnmap, false);
		assert_int_equal(found.page_size_bytes, 4096);
	}
}

static int facts_of_mappings(void)
{
	uint8_t *mem = map_anonymous(30 * PAGE, PROT_READ | PROT_WRITE);
	uint8_t *file = map_file(PAGE, PAGE, PROT_READ, MAP_SHARED);
	struct process_mapping found;

	check_mapping(mem, 30, PROT_READ | PROT_WRITE, false);
	check_mapping(file, 1, PROT_READ, true);
	check_mapping(map_file(PAGE, PAGE, PROT_READ | PROT_EXEC, MAP_PRIVATE), 1,
		      PROT_READ | PROT_EXEC, false);
	/* More mappings than a thread keeps, again and again. */
	for (int i = 1; i < 30; i += 2)
		assert_int_equal(mprotect(mem + (size_t)i * PAGE, PAGE, PROT_READ), 0);
	process_mappings_changed();
	for (int i = 0; i < 120; i++)
		check_mapping(mem + (size_t)(i % 30) * PAGE, 1,
			      i % 2 ? PROT_READ : PROT_READ | PROT_WRITE, false);
	unmap(mem + 3 * PAGE, PAGE);
	assert_false(process_mapping_find(address_of(mem + 3 * PAGE), &found));
	assert_true(process_mapping_find(address_of(mem + 4 * PAGE), &found));
	assert_int_equal(found.start, address_of(mem + 4 * PAGE));
	assert_false(process_mapping_find(UINT64_C(1) << 60, &found));
	return 0;
}

static void mappings_are_known(void **state)
{
	facts_of_mappings();
}

/* As on a kernel that cannot be asked by address: every ioctl is unknown. */
static void mappings_are_known_from_text(void **state)
{
	struct sock_filter filter[] = {
	    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
	    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_ioctl, 0, 1),
	    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOTTY),
	    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {.len = 4, .filter = filter};
	int status;
	pid_t child = fork();

	if (!child) {
		if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
		    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
			_exit(77);
		process_mappings_changed();
		_exit(facts_of_mappings());
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
		skip();
	assert_int_equal(status, 0);
}

static void texts_are_read(void **state)
{
	uint8_t *file = map_file(PAGE, PAGE, PROT_READ, MAP_SHARED);
	struct process_mapping plain, detailed;
	struct maps_name name;

	assert_int_equal(maps_find(address_of(file), &plain, &name), 0);
	assert_true(!strncmp(name.text, "/memfd:test", 11));
	assert_true(name.device != 0);
	assert_int_equal(smaps_find(address_of(file), &detailed), 0);
	assert_int_equal(plain.start, address_of(file));
	assert_int_equal(plain.end, address_of(file) + PAGE);
	assert_int_equal(detailed.start, plain.start);
	assert_int_equal(detailed.prot, PROT_READ);
	assert_true(detailed.shared);
	assert_int_equal(detailed.page_size_bytes, 4096);
	assert_int_equal(maps_find(0, &plain, &name), -ENOENT);
	assert_int_equal(smaps_find(UINT64_MAX, &plain), -ENOENT);
}

/* The kernel's question and its text tell the same of every shared mapping of a file. */
static void shared_files_are_found(void **state)
{
	static const uint64_t offsets[] = {0, 5, 2};
	struct maps_file asked, read;
	uint64_t from = 0, inode = 0;
	uint8_t *file = map_file(3 * PAGE, 3 * PAGE, PROT_READ, MAP_SHARED);
	unsigned int pieces = 0;
	int error;

	/* Three mappings of one file: page 0, page 5 (beyond the end), page 2. */
	assert_int_equal(syscall(SYS_remap_file_pages, file + PAGE, PAGE, 0, 5, MAP_NONBLOCK), 0);
	for (;; from = asked.end) {
		error = maps_next_file(from, &asked);
		assert_int_equal(maps_next_file_in_text(from, &read), error);
		if (error)
			break;
		assert_int_equal(asked.start, read.start);
		assert_int_equal(asked.end, read.end);
		assert_int_equal(asked.offset, read.offset);
		assert_int_equal(asked.device, read.device);
		assert_int_equal(asked.inode, read.inode);
		if (asked.start < address_of(file) || asked.end > address_of(file) + 3 * PAGE)
			continue;
		assert_true(pieces < 3);
		assert_int_equal(asked.offset, offsets[pieces] * PAGE);
		assert_true(asked.inode && (!inode || asked.inode == inode));
		inode = asked.inode;
		pieces++;
	}
	assert_int_equal(error, -ENOENT);
	assert_int_equal(pieces, 3);
}

static enum quire_level level_of(const uint8_t *mem, enum quire_level max)
{
	return process_host_ops.page_level(NULL, (hva_t){address_of(mem)}, max);
}

static void levels_are_the_machine_s(void **state)
{
	uint8_t *area = map_anonymous(4 * HUGE, PROT_READ | PROT_WRITE);
	uint8_t *mem = area + (-address_of(area) & (HUGE - 1));
	uint8_t *hugetlb =
	    mmap(NULL, HUGE, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | 21 << MAP_HUGE_SHIFT, -1, 0);

	assert_int_equal(madvise(mem, HUGE, MADV_NOHUGEPAGE), 0);
	memset(mem, 1, HUGE);
	process_mappings_changed();
	assert_int_equal(level_of(mem, QUIRE_LEVEL_1G), QUIRE_LEVEL_4K);
	assert_int_equal(level_of(NULL, QUIRE_LEVEL_1G), QUIRE_LEVEL_4K);
	if (hugetlb != MAP_FAILED) {
		assert_int_equal(level_of(hugetlb + 5 * PAGE, QUIRE_LEVEL_1G), QUIRE_LEVEL_2M);
		assert_int_equal(level_of(hugetlb, QUIRE_LEVEL_4K), QUIRE_LEVEL_4K);
		munmap(hugetlb, HUGE);
	}
	mem += HUGE;
	if (madvise(mem, HUGE, MADV_HUGEPAGE))
		skip();
	mem[0] = 1;
	process_mappings_changed();
	if (level_of(mem, QUIRE_LEVEL_1G) == QUIRE_LEVEL_4K) {
		print_message("the kernel gave or shows no huge page\n");
		skip();
	}
	assert_int_equal(level_of(mem + HUGE - 1, QUIRE_LEVEL_2M), QUIRE_LEVEL_2M);
	assert_int_equal(level_of(mem, QUIRE_LEVEL_4K), QUIRE_LEVEL_4K);
	assert_int_equal(mprotect(mem + PAGE, PAGE, PROT_READ), 0);
	process_mappings_changed();
	/* Three mappings share the block now, and none fills it. */
	for (uint64_t at = 0; at < 3; at++)
		assert_int_equal(level_of(mem + at * PAGE, QUIRE_LEVEL_2M), QUIRE_LEVEL_4K);
	unmap(area, 4 * HUGE);
}

static void copies_are_all_or_an_error(void **state)
{
	uint8_t *mem = map_anonymous(2 * PAGE, PROT_READ | PROT_WRITE);
	uint8_t ours[64];

	handle_signals();
	unmap(mem + PAGE, PAGE);
	memset(ours, 7, sizeof(ours));
	assert_int_equal(process_host_ops.copy_to(NULL, (hva_t){address_of(mem)}, ours, 64), 0);
	assert_int_equal(mem[63], 7);
	assert_int_equal(mem[64], 0);
	mem[PAGE - 64] = 9;
	assert_int_equal(
	    process_host_ops.copy_from(NULL, ours, (hva_t){address_of(mem) + PAGE - 64}, 64), 0);
	assert_int_equal(ours[0], 9);
	assert_int_equal(
	    process_host_ops.copy_from(NULL, ours, (hva_t){address_of(mem) + PAGE - 63}, 64),
	    -EFAULT);
	assert_int_equal(
	    process_host_ops.copy_to(NULL, (hva_t){address_of(mem) + PAGE - 63}, ours, 64),
	    -EFAULT);
	assert_int_equal(process_host_ops.copy_to(NULL, (hva_t){UINT64_MAX - 3}, ours, 64),
			 -EFAULT);
	unmap(mem, PAGE);
}

static void stores_make_and_take_pages(void **state)
{
	struct process_store store = {
	    .base = map_file(8 * PAGE, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED),
	    .size_bytes = 8 * PAGE,
	};
	uint8_t *mem = store.base;
	unsigned char resident[8];
	unsigned int order = 0;
	void *opened;
	pfn_t pfn;

	handle_signals();
	assert_int_equal(process_host_ops.store_create(NULL, &store, 9 * PAGE, &opened), -EINVAL);
	assert_int_equal(process_host_ops.store_create(NULL, &store, 8 * PAGE, &opened), 0);
	assert_int_equal(mincore(mem, 8 * PAGE, resident), 0);
	assert_int_equal(resident[3] & 1, 0);
	assert_int_equal(process_host_ops.store_get(NULL, opened, 3, &order, &pfn), 0);
	assert_int_equal(order, 0);
	assert_true(pfn.v == address_of(mem + 3 * PAGE) >> 12);
	assert_int_equal(mincore(mem, 8 * PAGE, resident), 0);
	assert_int_equal(resident[3] & 1, 1);
	assert_int_equal(resident[2] & 1, 0);
	assert_int_equal(process_host_ops.frame_lost(NULL, pfn), 0);
	order = 9;
	assert_int_equal(process_host_ops.store_get(NULL, opened, 5, &order, &pfn), 0);
	assert_true(order <= 3);
	assert_true(pfn.v == address_of(mem + 5 * PAGE) >> 12);
	memset(mem, 0xee, 8 * PAGE);
	assert_int_equal(process_host_ops.store_zero(NULL, opened, 2, 2), 0);
	assert_int_equal(mem[2 * PAGE - 1], 0xee);
	assert_int_equal(mem[2 * PAGE], 0);
	assert_int_equal(mem[4 * PAGE - 1], 0);
	assert_int_equal(mem[4 * PAGE], 0xee);
	process_host_ops.store_punch(NULL, opened, 4, 3);
	assert_int_equal(mincore(mem, 8 * PAGE, resident), 0);
	for (int i = 0; i < 8; i++)
		assert_int_equal(resident[i] & 1, i < 4 || i > 6);
	/* Of the page that went nothing is known but that it is not lost, and it is not made. */
	assert_int_equal(process_host_ops.frame_lost(NULL, pfn), 0);
	assert_int_equal(mincore(mem, 8 * PAGE, resident), 0);
	assert_int_equal(resident[5] & 1, 0);
	assert_int_equal(mem[4 * PAGE], 0);
	assert_int_equal(mem[7 * PAGE], 0xee);
	process_host_ops.store_destroy(NULL, opened);
	unmap(mem, 8 * PAGE);
	assert_int_equal(process_host_ops.frame_lost(NULL, pfn), 1);
}

/* Pages wanted in order are made ahead, a few at a time; those wanted here and there are not. */
static void stores_make_pages_ahead(void **state)
{
	struct process_store store = {
	    .base = map_file(512 * PAGE, 512 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED),
	    .size_bytes = 500 * PAGE,
	};
	unsigned char resident[512];
	unsigned int order = 0, there;
	pfn_t pfn;

	handle_signals();
	for (uint64_t i = 0; i < 500; i++) {
		assert_int_equal(
		    process_host_ops.store_get(NULL, &store, i * 167 % 500, &order, &pfn), 0);
		there = 0;
		assert_int_equal(mincore(store.base, 512 * PAGE, resident), 0);
		for (uint32_t page = 0; page < 512; page++)
			there += resident[page] & 1;
		assert_int_equal(there, i + 1);
	}
	process_host_ops.store_punch(NULL, &store, 0, 500);
	for (uint64_t i = 0; i < 500; i++) {
		assert_int_equal(process_host_ops.store_get(NULL, &store, i, &order, &pfn), 0);
		assert_true(pfn.v == (address_of(store.base) >> 12) + i);
		assert_int_equal(mincore(store.base, 512 * PAGE, resident), 0);
		there = 0;
		for (uint32_t page = 0; page < 512; page++)
			there += resident[page] & 1;
		assert_in_range(there, i + 1, i + 16);
		/* Once the order is known, a group comes as one. */
		if (i >= 16 && i < 480)
			assert_int_equal(there, (i & ~UINT64_C(15)) + 16);
	}
	assert_int_equal(resident[500] & 1, 0);
	/* A punch takes what was made ahead, too. */
	process_host_ops.store_punch(NULL, &store, 16, 484);
	assert_int_equal(process_host_ops.store_get(NULL, &store, 15, &order, &pfn), 0);
	assert_int_equal(process_host_ops.store_get(NULL, &store, 16, &order, &pfn), 0);
	assert_int_equal(mincore(store.base, 512 * PAGE, resident), 0);
	assert_int_equal(resident[32] & 1, 0);
	unmap(store.base, 512 * PAGE);
}

/* The file is shorter than it was: shared memory raises the same signal when it is full. */
static void full_stores_say_so(void **state)
{
	struct process_store store = {
	    .base = map_file(PAGE, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED),
	    .size_bytes = 2 * PAGE,
	};
	unsigned int order = 0;
	pfn_t pfn;

	handle_signals();
	assert_int_equal(process_host_ops.store_get(NULL, &store, 1, &order, &pfn), -ENOMEM);
	assert_int_equal(process_host_ops.store_zero(NULL, &store, 0, 2), -ENOMEM);
	assert_int_equal(process_host_ops.store_get(NULL, &store, 0, &order, &pfn), 0);
	unmap(store.base, 2 * PAGE);
}

/* Private memory cannot be given back; its bytes must be gone all the same. */
static void punch_always_clears(void **state)
{
	struct process_store store = {
	    .base = map_anonymous(2 * PAGE, PROT_READ | PROT_WRITE),
	    .size_bytes = 2 * PAGE,
	};
	uint8_t *mem = store.base;

	memset(mem, 0xaa, 2 * PAGE);
	process_host_ops.store_punch(NULL, &store, 1, 1);
	assert_int_equal(mem[PAGE - 1], 0xaa);
	assert_int_equal(mem[PAGE], 0);
	assert_int_equal(mem[2 * PAGE - 1], 0);
	unmap(mem, 2 * PAGE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(pages_of_every_mapping),
	    cmocka_unit_test(frames_without_pages),
	    cmocka_unit_test(frames_that_the_driver_protects),
	    cmocka_unit_test(nowait_does_not_fault_in),
	    cmocka_unit_test(nowait_makes_new_pages),
	    cmocka_unit_test(watched_ranges),
	    cmocka_unit_test(pages_that_are_kept),
	    cmocka_unit_test(pages_that_are_there),
	    cmocka_unit_test(only_who_wants_it_is_interrupted),
	    cmocka_unit_test(mappings_are_known),
	    cmocka_unit_test(mappings_are_known_from_text),
	    cmocka_unit_test(texts_are_read),
	    cmocka_unit_test(shared_files_are_found),
	    cmocka_unit_test(levels_are_the_machine_s),
	    cmocka_unit_test(copies_are_all_or_an_error),
	    cmocka_unit_test(stores_make_and_take_pages),
	    cmocka_unit_test(stores_make_pages_ahead),
	    cmocka_unit_test(full_stores_say_so),
	    cmocka_unit_test(punch_always_clears),
	};

	return cmocka_run_group_tests(tests, install_platform, NULL);
}
