/* A host for the tests of src/vm. */
#include "tests/unit/fake_host.h"
#include "src/base/reclaim.h"
#include "src/vm/vm.h"

#include <errno.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

struct fake_host fake = {.lock = PTHREAD_MUTEX_INITIALIZER};
uint64_t fake_reports;

static struct quire_thread *fake_self(void)
{
	static struct quire_thread records[256];
	static unsigned int used;
	static _Thread_local struct quire_thread *self;

	if (!self) {
		unsigned int at = __atomic_fetch_add(&used, 1, __ATOMIC_SEQ_CST);

		if (at >= sizeof(records) / sizeof(records[0]))
			abort();
		self = &records[at];
		quire_thread_register(self);
	}
	return self;
}

static void fake_wait(const uint32_t *word, uint32_t value)
{
	(void)word;
	(void)value;
	sched_yield();
}

static void fake_wake(const uint32_t *word, uint32_t count)
{
	(void)word;
	(void)count;
}

static void fake_relax(unsigned int turn)
{
	if (turn % 16 == 15)
		sched_yield();
}

static void fake_report(const char *text)
{
	fprintf(stderr, "%s\n", text);
	__atomic_fetch_add(&fake_reports, 1, __ATOMIC_SEQ_CST);
}

static const struct quire_platform fake_platform = {
    .self = fake_self,
    .wait = fake_wait,
    .wake = fake_wake,
    .relax = fake_relax,
    .report = fake_report,
};

static void *fake_alloc(void *ctx, size_t size_bytes)
{
	void (*meanwhile)(void) = fake.meanwhile;
	void *mem = NULL;

	(void)ctx;
	fake.meanwhile = NULL;
	if (meanwhile)
		meanwhile();
	pthread_mutex_lock(&fake.lock);
	if (++fake.allocs != fake.fail_at) {
		mem = aligned_alloc(64, (size_bytes + 63) & ~(size_t)63);
		fake.live_allocs++;
		fake.live_bytes += size_bytes;
	}
	pthread_mutex_unlock(&fake.lock);
	if (mem)
		memset(mem, 0, size_bytes);
	return mem;
}

static void fake_free(void *ctx, void *mem, size_t size_bytes)
{
	(void)ctx;
	/* What a reader still looks at after this is seen to be wrong. */
	memset(mem, 0xa5, size_bytes);
	free(mem);
	pthread_mutex_lock(&fake.lock);
	fake.live_allocs--;
	fake.live_bytes -= size_bytes;
	pthread_mutex_unlock(&fake.lock);
}

static void *fake_chunk_alloc(void *ctx)
{
	void *chunk = aligned_alloc(1u << 21, 1u << 21);

	(void)ctx;
	if (chunk)
		memset(chunk, 0, 1u << 21);
	return chunk;
}

static void fake_chunk_free(void *ctx, void *chunk)
{
	(void)ctx;
	free(chunk);
}

static int fake_store_create(void *ctx, void *cookie, uint64_t size_bytes, void **store)
{
	struct fake_store *made = calloc(1, sizeof(*made));

	(void)ctx;
	(void)cookie;
	if (!made)
		return -ENOMEM;
	made->size_bytes = size_bytes;
	fake.stores++;
	*store = made;
	return 0;
}

static void fake_store_destroy(void *ctx, void *store)
{
	(void)ctx;
	fake.stores--;
	free(store);
}

static void page_make(struct fake_page *page)
{
	fake.next_pfn += fake.scatter ? 7 : 1;
	*page = (struct fake_page){.pfn = fake.next_pfn, .content = FAKE_GARBAGE};
}

/* The block of 512 around @index, when none of it is there and all of it is in the store. */
static struct fake_page *empty_block(struct fake_store *store, uint64_t index)
{
	uint64_t first = index & ~UINT64_C(511);

	if ((first + 512) * QUIRE_PAGE_SIZE > store->size_bytes || first + 512 > FAKE_STORE_PAGES)
		return NULL;
	for (unsigned int i = 0; i < 512; i++)
		if (store->pages[first + i].pfn)
			return NULL;
	return &store->pages[first];
}

static int fake_store_get(void *ctx, void *opaque, uint64_t index, unsigned int *order, pfn_t *pfn)
{
	struct fake_store *store = opaque;
	struct fake_page *block;

	(void)ctx;
	if (fake.get_error)
		return fake.get_error;
	if (index >= FAKE_STORE_PAGES || index * QUIRE_PAGE_SIZE >= store->size_bytes)
		return -EFAULT;
	pthread_mutex_lock(&fake.lock);
	fake.gets++;
	block = *order >= 9 && fake.huge ? empty_block(store, index) : NULL;
	*order = block ? 9 : 0;
	for (unsigned int i = 0; block && i < 512; i++)
		page_make(&block[i]);
	if (!store->pages[index].pfn)
		page_make(&store->pages[index]);
	pfn->v = store->pages[index].pfn;
	pthread_mutex_unlock(&fake.lock);
	return 0;
}

static int fake_store_zero(void *ctx, void *opaque, uint64_t index, uint64_t npages)
{
	struct fake_store *store = opaque;

	(void)ctx;
	if (fake.zero_error)
		return fake.zero_error;
	for (uint64_t i = index; i < index + npages; i++) {
		if (!store->pages[i].pfn)
			fake_report("store_zero() of a page that is not there");
		store->pages[i].content = 0;
		store->pages[i].zeroed++;
	}
	return 0;
}

static void fake_store_punch(void *ctx, void *opaque, uint64_t index, uint64_t npages)
{
	struct fake_store *store = opaque;

	(void)ctx;
	for (uint64_t i = index; i < index + npages && i < FAKE_STORE_PAGES; i++)
		store->pages[i] = (struct fake_page){0};
}

static void fake_kick(void *ctx, void *cookie)
{
	(void)ctx;
	(void)cookie;
}

const struct quire_host_ops fake_ops = {
    .alloc = fake_alloc,
    .free = fake_free,
    .chunk_alloc = fake_chunk_alloc,
    .chunk_free = fake_chunk_free,
    .store_create = fake_store_create,
    .store_destroy = fake_store_destroy,
    .store_get = fake_store_get,
    .store_zero = fake_store_zero,
    .store_punch = fake_store_punch,
    .kick = fake_kick,
};

void fake_reset(void)
{
	fake = (struct fake_host){.lock = PTHREAD_MUTEX_INITIALIZER};
	fake.next_pfn = 1000;
	fake_reports = 0;
	quire_platform_install(&fake_platform);
}

void fake_fail_in(uint64_t n)
{
	fake.fail_at = n ? fake.allocs + n : 0;
}

static pthread_t reader;
/* Neither is taken back while it runs: it may have come and gone before anybody looks. */
static uint32_t has_entered, has_left;

static void *read_slowly(void *arg)
{
	const struct timespec rest = {.tv_nsec = 30000000};

	(void)arg;
	reclaim_enter();
	__atomic_store_n(&has_entered, 1, __ATOMIC_SEQ_CST);
	nanosleep(&rest, NULL);
	__atomic_store_n(&has_left, 1, __ATOMIC_SEQ_CST);
	reclaim_leave();
	return NULL;
}

void fake_reader_begin(void)
{
	has_entered = has_left = 0;
	assert_int_equal(pthread_create(&reader, NULL, read_slowly, NULL), 0);
	while (!__atomic_load_n(&has_entered, __ATOMIC_SEQ_CST))
		sched_yield();
}

int fake_reader_is_inside(void)
{
	return !__atomic_load_n(&has_left, __ATOMIC_SEQ_CST);
}

void fake_reader_end(void)
{
	assert_int_equal(pthread_join(reader, NULL), 0);
}

struct quire_vm *fake_vm_make(enum quire_vm_type type)
{
	struct quire_vm_config config = {.type = type, .maxphyaddr = 48, .host = &fake_ops};
	struct quire_vm *vm;

	fake_reset();
	assert_int_equal(quire_vm_create(&config, &vm), 0);
	return vm;
}

void fake_vm_end(struct quire_vm *vm)
{
	quire_vm_put(vm);
	assert_int_equal(fake.live_allocs, 0);
	assert_int_equal(fake_reports, 0);
}

struct quire_vm *fake_vm_make_locked(enum quire_vm_type type)
{
	struct quire_vm *vm = fake_vm_make(type);

	mutex_lock(&vm->slots_lock);
	return vm;
}

void fake_vm_end_locked(struct quire_vm *vm)
{
	mutex_unlock(&vm->slots_lock);
	fake_vm_end(vm);
}
