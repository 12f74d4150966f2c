/* The library in a small kernel: a toy CPU, then a guest on the processor's own second stage. */
#include <quire/dirty.h>
#include <quire/format.h>
#include <quire/vcpu.h>
#include <quire/vm.h>

#include <string.h>

#include "tests/kernel/compare.h"
#include "tests/kernel/image.h"
#include "tests/kernel/machine.h"
#include "tests/kernel/guest.h"

/* The toy: examples/embed/embed.c. */
int main(void);
_Noreturn void kernel(void);

#define DIRTY_STEP 5u
#define COMPARED_ACCESSES 6u /* of a page: compare_page() */

static unsigned int failures;

/* The one that is tested. */
static const struct guest_walker *walker;

static void expect(int holds, const char *what)
{
	if (holds)
		return;
	failures++;
	print("failed: ");
	print(what);
	print("\n");
}

/* The guest makes an access; the library repairs what is missing. Returns its last answer. */
static int touch(struct quire_vcpu *vcpu, uint64_t gpa, uint64_t access)
{
	struct guest_access request = {.gpa = gpa, .access = access, .value = 1};
	struct quire_memory_fault fault;
	struct quire_stage2 stage2;
	struct guest_result result;
	uint64_t requests;
	int outcome;

	do {
		if (quire_vcpu_enter(vcpu, &requests, &stage2))
			return -1;
		request.root_physical = stage2.root_physical;
		result = walker->access(&request);
		quire_vcpu_leave(vcpu);
		if (result.outcome != GUEST_FAULT)
			return result.outcome == GUEST_DONE ? 0 : -1;
		outcome = quire_vcpu_fault(vcpu, (gpa_t){result.gpa}, result.error_code, &fault);
	} while (outcome > 0 && outcome != QUIRE_EMULATE);
	return outcome;
}

static void touch_area(struct quire_vcpu *vcpu, enum image_area area, uint64_t access,
		       uint32_t step)
{
	uint32_t i;

	for (i = 0; i < image_pages(area); i += step)
		expect(!touch(vcpu, image_page_gpa(area, i), access), "an access is made");
}

/* Every page of every area but the guest's code, and a hole. */
static void compare_all(struct quire_vcpu *vcpu, const char *stage)
{
	unsigned int area, i, pages = 0, mapped = 0, different = 0;

	for (area = AREA_CODE + 1; area < AREA_COUNT; area++)
		for (i = 0; i < image_pages(area); i++, pages++)
			different += compare_page(walker, vcpu, image_page_gpa(area, i), &mapped);
	for (i = 0; i < IMAGE_HOLE_PAGES; i++, pages++)
		different +=
		    compare_page(walker, vcpu, IMAGE_HOLE_GPA + i * QUIRE_PAGE_SIZE, &mapped);
	print(stage);
	say(": pages", pages);
	say("  accesses made", mapped);
	say("  accesses refused", pages * COMPARED_ACCESSES - mapped);
	if (different)
		say("  accesses that differ", different);
	expect(!different, stage);
}

struct log {
	uint32_t pages, wrong;
};

/* The guest has written each page whose number DIRTY_STEP divides. */
static int look_at_log(void *ctx, uint64_t offset_bytes, const void *bits, uint64_t size_bytes)
{
	struct log *log = ctx;
	uint64_t i, page, byte;

	for (i = 0; i < size_bytes * 8; i++) {
		page = offset_bytes * 8 + i;
		byte = ((const uint8_t *)bits)[i / 8];
		log->pages++;
		if ((byte >> i % 8 & 1) != (page % DIRTY_STEP == 0))
			log->wrong++;
	}
	return 0;
}

static void populate(struct quire_vcpu *vcpu)
{
	unsigned int i;

	expect(!touch(vcpu, GUEST_CODE_GPA, QUIRE_PFERR_FETCH), "the guest's code is executed");
	touch_area(vcpu, AREA_SMALL, 0, 2);
	touch_area(vcpu, AREA_SMALL, QUIRE_PFERR_WRITE, 3);
	touch_area(vcpu, AREA_LARGE, QUIRE_PFERR_FETCH, 1);
	touch_area(vcpu, AREA_GIGANTIC, QUIRE_PFERR_WRITE, 1);
	touch_area(vcpu, AREA_READ_ONLY, 0, 1);
	touch_area(vcpu, AREA_HOST_READ_ONLY, 0, 1);
	touch_area(vcpu, AREA_NO_EXECUTE, QUIRE_PFERR_WRITE, 1);
	touch_area(vcpu, AREA_UNCACHED, 0, 1);
	touch_area(vcpu, AREA_COMBINING, 0, 1);
	if (walker->format == QUIRE_FORMAT_EPT_MODES)
		touch_area(vcpu, AREA_EXECUTE_ONLY, QUIRE_PFERR_FETCH, 1);
	expect(touch(vcpu, image_gpa(AREA_EXECUTE_ONLY), 0) < 0, "what is executed is not read");
	for (i = 0; i < IMAGE_HOLE_PAGES; i += 2)
		expect(touch(vcpu, IMAGE_HOLE_GPA + i * QUIRE_PAGE_SIZE, 0) == QUIRE_EMULATE,
		       "no memory in a hole");
	expect(touch(vcpu, image_gpa(AREA_READ_ONLY), QUIRE_PFERR_WRITE) == QUIRE_EMULATE,
	       "a store to a read-only slot is emulated");
	expect(touch(vcpu, image_gpa(AREA_NO_EXECUTE), QUIRE_PFERR_FETCH) < 0,
	       "a page without the right is not executed");
}

/* Large pages are split while they are logged, and the log has what was stored. */
static void log_writes(struct quire_vm *vm, struct quire_vcpu *vcpu)
{
	struct log log = {0, 0};

	expect(!image_set_slot(vm, AREA_LARGE, QUIRE_SLOT_LOG_DIRTY, image_size_bytes(AREA_LARGE)),
	       "logging starts");
	compare_all(vcpu, "split for logging");
	touch_area(vcpu, AREA_LARGE, QUIRE_PFERR_WRITE, DIRTY_STEP);
	compare_all(vcpu, "logged");
	expect(!quire_vm_get_dirty_log(vm, AREA_LARGE, look_at_log, &log), "the log is read");
	say("pages in the log", log.pages);
	expect(!log.wrong, "the log has the pages that were written");
	compare_all(vcpu, "protected again");
}

static void take_away(struct quire_vm *vm, struct quire_vcpu *vcpu)
{
	const hva_t start = image_hva(AREA_GIGANTIC);
	const hva_t end = {start.v + (UINT64_C(300) << 20)};

	expect(quire_vm_age(vm, image_hva(AREA_SMALL),
			    (hva_t){image_hva(AREA_SMALL).v + image_size_bytes(AREA_SMALL)},
			    QUIRE_AGE_CLEAR) == 1,
	       "pages were used");
	compare_all(vcpu, "aged");
	quire_vm_host_invalidate_begin(vm, start, end);
	compare_all(vcpu, "under an invalidation");
	quire_vm_host_invalidate_end(vm, start, end);
	quire_vm_set_nx_huge_pages(vm, 1);
	expect(!touch(vcpu, GUEST_CODE_GPA, QUIRE_PFERR_FETCH), "the guest's code is executed");
	touch_area(vcpu, AREA_LARGE, 0, 1);
	touch_area(vcpu, AREA_GIGANTIC, QUIRE_PFERR_WRITE, 1);
	touch_area(vcpu, AREA_GIGANTIC, QUIRE_PFERR_FETCH, 3);
	compare_all(vcpu, "without large pages that execute");
	/* With it go all mappings. */
	expect(!image_set_slot(vm, AREA_SMALL, 0, 0), "a slot goes");
	expect(!touch(vcpu, GUEST_CODE_GPA, QUIRE_PFERR_FETCH), "the guest's code is executed");
	touch_area(vcpu, AREA_LARGE, 0, 1);
	compare_all(vcpu, "without a slot");
}

static void test_walks(void)
{
	static struct quire_host_ops host;
	struct quire_vm_config config = {
	    .format = walker->format, .maxphyaddr = 48, .mmio_caching = 1, .host = &host};
	struct quire_platform unused;
	struct quire_vcpu *vcpu;
	unsigned int reported, tried;
	struct quire_vm *vm;

	fill_tables(&unused, &host);
	image_fill_host(&host);
	config.table_offset = DIRECT_MAP;
	if (quire_vm_create(&config, &vm) || quire_vcpu_create(vm, 0, NULL, &vcpu) ||
	    image_make(vm)) {
		expect(0, "a VM is made");
		return;
	}
	expect(!touch(vcpu, GUEST_CODE_GPA, QUIRE_PFERR_FETCH), "the guest's code is executed");
	compare_all(vcpu, "empty");
	populate(vcpu);
	compare_all(vcpu, "populated");
	reported = compare_wrong_bits(walker, vcpu, image_gpa(AREA_SMALL), &tried);
	say("wrong bits tried", tried);
	say("wrong bits reported", reported);
	expect(reported == tried, "a wrong bit is reported");
	log_writes(vm, vcpu);
	take_away(vm, vcpu);
	quire_vcpu_destroy(vcpu);
	quire_vm_put(vm);
}

void kernel(void)
{
	static const struct guest_walker *const walkers[] = {
	    &walker_svm, &walker_vmx, &walker_vmx_no_ad, &walker_vmx_execute_only};
	unsigned int i;

	machine_start();
	expect(main() == 0, "the toy runs");
	for (i = 0; i < sizeof(walkers) / sizeof(walkers[0]); i++) {
		walker = walkers[i];
		if (!walker->start())
			continue;
		print("walked by the processor: ");
		print(walker->name);
		print("\n");
		test_walks();
	}
	say("failures", failures);
	machine_stop(!failures);
}
