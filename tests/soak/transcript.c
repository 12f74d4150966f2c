/* All that a guest and its hypervisor see of a long row of operations drawn by a seed, one line
 * each: the same on every way through the library. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/mman.h>

#include "tests/rules/client.h"

#define GPA UINT64_C(0x10000000)
#define PAGES 1024u /* two huge pages */
#define BYTES (PAGES * PAGE)
#define WORDS (PAGES / 64)
#define SLOT 5u
#define HOLE UINT64_C(0x20000000) /* no slot is there */
#define OPERATIONS 3000u

enum kind {
	LOAD,
	STORE,
	ADD,
	SWEEP,
	FAR,
	HARVEST,
	CLEAR,
	LOG,
	MOVE,
	DISCARD,
	CONVERT,
	PUNCH,
	KINDS
};

static const char *const names[KINDS] = {"load",  "store", "add",  "sweep",   "far",	 "harvest",
					 "clear", "log",   "move", "discard", "convert", "punch"};

static struct {
	struct vm vm;
	struct vcpu vcpu;
	uint8_t *memory;
	int gmem; /* -1: the VM has no private memory */
	uint32_t flags;
	uint64_t manual; /* of KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 */
	uint64_t gpa, random;
	uint64_t written[WORDS]; /* by the guest, since the log was taken last */
} world = {.gmem = -1, .gpa = GPA};

static uint64_t draw(uint64_t below)
{
	uint64_t mixed = world.random += UINT64_C(0x9e3779b97f4a7c15);

	mixed = (mixed ^ mixed >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	mixed = (mixed ^ mixed >> 27) * UINT64_C(0x94d049bb133111eb);
	return (mixed ^ mixed >> 31) % below;
}

/* Few pages, so that operations meet; each has words of its own. */
static uint64_t draw_gpa(void)
{
	uint64_t page = draw(4) ? draw(12) : draw(PAGES);

	return world.gpa + page * PAGE + draw(4) * 8;
}

static void set_slot(uint64_t size_bytes)
{
	struct kvm_userspace_memory_region2 region = {
	    .slot = SLOT,
	    .flags = world.flags | (world.gmem >= 0 ? KVM_MEM_GUEST_MEMFD : 0),
	    .guest_phys_addr = world.gpa,
	    .memory_size = size_bytes,
	    .userspace_addr = (uintptr_t)world.memory,
	    .guest_memfd = world.gmem >= 0 ? (uint32_t)world.gmem : 0,
	};
	int result = ioctl(world.vm.fd, KVM_SET_USER_MEMORY_REGION2, &region);

	printf(" slot %d", result ? errno : 0);
	/* A slot that is made anew has a log of its own, and one without a log keeps none. */
	if (!size_bytes || !(world.flags & KVM_MEM_LOG_DIRTY_PAGES))
		memset(world.written, 0, sizeof(world.written));
}

/*
 * The pages that the log has and the guest wrote. A log may have more, and which is up to how pages
 * are mapped: where a neighbour is mapped as well, it counts as written.
 */
static void harvest(void)
{
	uint64_t bitmap[WORDS] = {0};
	struct kvm_dirty_log log = {.slot = SLOT, .dirty_bitmap = bitmap};
	int result = ioctl(world.vm.fd, KVM_GET_DIRTY_LOG, &log);

	printf(" %d", result ? errno : 0);
	for (uint32_t i = 0; i < WORDS; i++) {
		if (bitmap[i] & world.written[i])
			printf(" %u:%" PRIx64, i, bitmap[i] & world.written[i]);
		if (!result)
			CHECK_EQ(world.written[i] & ~bitmap[i], 0);
		if (!result && !world.manual)
			world.written[i] = 0;
	}
}

static void clear(void)
{
	uint64_t some[WORDS] = {draw(UINT64_MAX)};
	struct kvm_clear_dirty_log log = {.slot = SLOT, .num_pages = 64, .dirty_bitmap = some};
	int result = ioctl(world.vm.fd, KVM_CLEAR_DIRTY_LOG, &log);

	printf(" %d", result ? errno : 0);
	if (!result)
		world.written[0] &= ~some[0];
}

/* The pages that the guest's operation has written. */
static void note_written(const struct guest_op *op)
{
	uint64_t count = op->code == GUEST_STORE_EACH ? op->rcx : 1;

	for (uint64_t i = 0; i < count; i++) {
		uint64_t page = (op->rbx - world.gpa) / PAGE + i;

		world.written[page / 64] |= UINT64_C(1) << page % 64;
	}
}

static void print_outcome(const struct outcome *outcome)
{
	printf(" end %d error %d", outcome->end, outcome->error);
	if (outcome->end == END_DONE)
		printf(" value %" PRIx64, outcome->value);
	if (outcome->end == END_MMIO)
		printf(" gpa %" PRIx64 " data %" PRIx64 " bytes %u write %u", outcome->mmio.gpa,
		       outcome->mmio.is_write ? outcome->mmio.data : 0, outcome->mmio.bytes,
		       outcome->mmio.is_write);
	if (outcome->end == END_MEMORY_FAULT)
		printf(" gpa %" PRIx64 " size %" PRIx64 " flags %" PRIx64,
		       (uint64_t)outcome->fault.gpa, (uint64_t)outcome->fault.size,
		       (uint64_t)outcome->fault.flags);
}

/* By the guest. */
static void access_memory(enum kind kind)
{
	struct guest_op op = {.rax = draw(1000), .rbx = draw_gpa()};
	struct outcome outcome;

	op.code = kind == LOAD ? GUEST_LOAD8 : kind == STORE ? GUEST_STORE8 : GUEST_INCREMENT;
	if (kind == FAR) {
		op.code = draw(2) ? GUEST_LOAD4 : GUEST_STORE4;
		op.rbx = HOLE + draw(3) * PAGE;
	} else if (kind == SWEEP) {
		op.code = draw(2) ? GUEST_LOAD_EACH : GUEST_STORE_EACH;
		op.rbx = world.gpa + draw(PAGES / 2) * PAGE;
		op.rcx = 1 + draw(200);
		op.rdx = PAGE;
	}
	printf(" %u %" PRIx64, op.code, op.rbx);
	outcome = guest_do(&world.vcpu, &op);
	print_outcome(&outcome);
	if ((world.flags & KVM_MEM_LOG_DIRTY_PAGES) && outcome.end == END_DONE &&
	    (op.code == GUEST_STORE8 || op.code == GUEST_INCREMENT || op.code == GUEST_STORE_EACH))
		note_written(&op);
}

/* Logging begins or ends. */
static void change_log(void)
{
	world.flags ^= KVM_MEM_LOG_DIRTY_PAGES;
	set_slot(BYTES);
}

static void move(void)
{
	set_slot(0);
	world.gpa = GPA + draw(3) * BYTES;
	set_slot(BYTES);
}

/* The client's memory of some pages goes, and is zero. */
static void discard(void)
{
	uint64_t first = draw(2) ? draw(12) : 0, pages = first ? 1 + draw(4) : PAGES / 2;

	CHECK_ZERO(madvise(world.memory + first * PAGE, pages * PAGE, MADV_DONTNEED));
}

static void convert(void)
{
	uint64_t first = draw(12), attributes = draw(2) ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0;
	int result = vm_set_attributes(&world.vm, world.gpa + first * PAGE,
				       (draw(3) ? 1 + draw(6) : PAGES / 2) * PAGE, attributes);

	printf(" %d", result ? errno : 0);
}

static void punch(void)
{
	int result = fallocate(world.gmem, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			       (off_t)(draw(12) * PAGE), (off_t)((1 + draw(6)) * PAGE));

	printf(" %d", result ? errno : 0);
}

static void do_one(enum kind kind)
{
	switch (kind) {
	case HARVEST:
		harvest();
		break;
	case CLEAR:
		clear();
		break;
	case LOG:
		change_log();
		break;
	case MOVE:
		move();
		break;
	case DISCARD:
		discard();
		break;
	case CONVERT:
		convert();
		break;
	case PUNCH:
		punch();
		break;
	default:
		access_memory(kind);
		break;
	}
}

/* A private VM has no log; one without private memory has nothing to convert. */
static enum kind draw_kind(void)
{
	enum kind kind = draw(3) ? (enum kind)draw(FAR + 1) : (enum kind)draw(KINDS);

	while (world.gmem >= 0 ? kind == HARVEST || kind == CLEAR || kind == LOG
			       : kind == CONVERT || kind == PUNCH)
		kind = (enum kind)draw(KINDS);
	return kind;
}

/* What the client has of the memory in the end. */
static void print_memory(void)
{
	for (uint64_t at = 0; at < BYTES; at += 8)
		if (*word_at(world.memory, at))
			printf("%" PRIx64 " %" PRIx64 "\n", at, *word_at(world.memory, at));
}

static void run(unsigned long type, uint64_t manual)
{
	machine_open(&world.vm, &world.vcpu, type);
	world.memory = memory_alloc(BYTES + HUGE_PAGE);
	madvise(world.memory, BYTES, MADV_HUGEPAGE);
	if (type != KVM_X86_DEFAULT_VM)
		world.gmem = vm_gmem(&world.vm, BYTES, 0);
	world.manual = manual;
	if (manual)
		CHECK_ZERO(vm_enable_cap(&world.vm, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, manual));
	set_slot(BYTES);
	printf("\n");
	for (uint32_t i = 0; i < OPERATIONS; i++) {
		enum kind kind = draw_kind();

		printf("%u %s", i, names[kind]);
		do_one(kind);
		printf("\n");
	}
	print_memory();
}

static void with_a_log(void)
{
	run(KVM_X86_DEFAULT_VM, 0);
}

static void with_a_log_that_is_cleared(void)
{
	run(KVM_X86_DEFAULT_VM, 3);
}

static void with_private_memory(void)
{
	run(KVM_X86_SW_PROTECTED_VM, 0);
}

int main(int argc, char **argv)
{
	static const struct check_test tests[] = {
	    TEST(with_a_log), TEST(with_a_log_that_is_cleared), TEST(with_private_memory)};

	return check_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
