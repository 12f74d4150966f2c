/* quire/confidential.h: a made-up architecture that encrypts what belongs to a guest alone. */
#include <quire/confidential.h>

#include <errno.h>
#include <quire/format.h>
#include <stdlib.h>
#include <string.h>

#include "example.h"

#define SECRET_GPA UINT64_C(0x200000)
#define SECRET_PAGES 4u
#define PAGE_WORDS (QUIRE_PAGE_SIZE / sizeof(uint64_t))
#define SCRUBBED UINT64_C(0xdeadbeefdeadbeef)

/* The hardware: a key for the guest, and a measurement of what was launched. */
struct hardware {
	uint64_t key;
	uint64_t measured;
	uint32_t owned, encrypted, scrubbed; /* pages */
};

static uint64_t *words_of(pfn_t pfn)
{
	return (uint64_t *)(uintptr_t)(pfn.v << QUIRE_PAGE_SHIFT);
}

/* A toy: each word has a pad of its own, which depends on the key and on its address. */
static uint64_t pad(const struct hardware *hw, const uint64_t *word)
{
	return hw->key * ((uintptr_t)word | 1);
}

static void encrypt(struct hardware *hw, pfn_t pfn, const uint64_t *plain)
{
	uint64_t *words = words_of(pfn);

	for (size_t i = 0; i < PAGE_WORDS; i++)
		words[i] = (plain ? plain[i] : 0) ^ pad(hw, &words[i]);
	hw->encrypted++;
}

static int make_private(void *ctx, gfn_t gfn, pfn_t pfn, unsigned int order)
{
	struct hardware *hw = ctx;

	(void)gfn;
	(void)pfn;
	hw->owned += 1u << order;
	return 0;
}

/* The guest finds what the page held: zeroes, as a rule. */
static int prepare(void *ctx, gfn_t gfn, pfn_t pfn, unsigned int order)
{
	(void)gfn;
	for (uint64_t i = 0; i < UINT64_C(1) << order; i++)
		encrypt(ctx, (pfn_t){pfn.v + i}, words_of((pfn_t){pfn.v + i}));
	return 0;
}

/* A launch: copied, measured, encrypted. @request_ctx is the number of pages it may still do. */
static int64_t post_populate(void *ctx, const struct quire_gmem_unit *unit, void *request_ctx)
{
	unsigned int *budget = request_ctx;
	struct hardware *hw = ctx;
	int64_t done = 0;

	if (!*budget)
		return -EAGAIN;
	for (; done < INT64_C(1) << unit->order && *budget; done++, --*budget) {
		const uint64_t *plain = unit->source ? words_of(unit->source[done].pfn) : NULL;

		for (size_t i = 0; plain && i < PAGE_WORDS; i++)
			hw->measured = hw->measured * 31 + plain[i];
		encrypt(hw, (pfn_t){unit->pfn.v + (uint64_t)done}, plain);
	}
	return done;
}

/* No key opens what is left: neither the host nor the next guest learns a word. */
static void reclaim(void *ctx, pfn_t pfn, uint64_t npages)
{
	struct hardware *hw = ctx;

	for (uint64_t i = 0; i < npages; i++)
		for (size_t word = 0; word < PAGE_WORDS; word++)
			words_of((pfn_t){pfn.v + i})[word] = SCRUBBED;
	hw->scrubbed += (uint32_t)npages;
}

static const struct quire_confidential_ops toy = {
    .make_private = make_private,
    .prepare = prepare,
    .post_populate = post_populate,
    .reclaim = reclaim,
};

/* The guest's CPU has the key: what it loads is decrypted, what it stores encrypted. */
static uint64_t *guest_word(struct quire_vcpu *vcpu, uint64_t gpa)
{
	struct quire_translation found = {0};
	struct quire_memory_fault fault;
	struct quire_stage2 stage2;
	uint64_t requests;
	int mapped = 0;

	while (!mapped) {
		EXAMPLE_CHECK(quire_vcpu_enter(vcpu, &requests, &stage2) == 0);
		mapped = quire_walk(&stage2, (gpa_t){gpa}, QUIRE_PFERR_WRITE, &found);
		quire_vcpu_leave(vcpu);
		if (!mapped)
			EXAMPLE_CHECK(
			    quire_vcpu_fault(vcpu, (gpa_t){gpa}, QUIRE_PFERR_WRITE, &fault) > 0);
	}
	return (uint64_t *)(uintptr_t)found.address;
}

static uint64_t guest_load(struct example *example, const struct hardware *hw, uint64_t gpa)
{
	const uint64_t *word = guest_word(example->vcpu, gpa);

	return *word ^ pad(hw, word);
}

static void guest_store(struct example *example, const struct hardware *hw, uint64_t gpa,
			uint64_t value)
{
	uint64_t *word = guest_word(example->vcpu, gpa);

	*word = value ^ pad(hw, word);
}

/* The first two pages are launched with what they hold; the guest goes on with the others. */
static void launch_and_run(struct example *example, struct hardware *hw)
{
	unsigned int budget = 1;
	struct quire_gmem_fill launch = {
	    .gfn = gfn_of((gpa_t){SECRET_GPA}),
	    .npages = 2,
	    .source = {(uintptr_t)example->memory},
	    .ctx = &budget,
	};

	strcpy((char *)example->memory, "launched");
	EXAMPLE_CHECK(quire_gmem_populate(example->vm, &launch) == 1);
	launch.gfn.v++;
	launch.npages--;
	EXAMPLE_CHECK(quire_gmem_populate(example->vm, &launch) == -EAGAIN);
	budget = 8;
	EXAMPLE_CHECK(quire_gmem_populate(example->vm, &launch) == 1);
	EXAMPLE_CHECK(quire_gmem_populate(example->vm, &launch) == -EEXIST);
	EXAMPLE_CHECK(hw->measured && hw->encrypted == 2);

	/* The guest reads what was launched; the host, which looks at the frame, does not. */
	EXAMPLE_CHECK(guest_load(example, hw, SECRET_GPA) == *(uint64_t *)example->memory);
	EXAMPLE_CHECK(*guest_word(example->vcpu, SECRET_GPA) != *(uint64_t *)example->memory);
	EXAMPLE_CHECK(guest_load(example, hw, SECRET_GPA + 3 * QUIRE_PAGE_SIZE) == 0);
	guest_store(example, hw, SECRET_GPA + 3 * QUIRE_PAGE_SIZE, 42);
	EXAMPLE_CHECK(guest_load(example, hw, SECRET_GPA + 3 * QUIRE_PAGE_SIZE) == 42);
	EXAMPLE_CHECK(hw->encrypted == 3);
}

void example_confidential(void)
{
	struct hardware hw = {.key = UINT64_C(0x9e3779b97f4a7c15)};
	struct quire_gmem *gmem;
	struct example example;

	EXAMPLE_CHECK(example_create_confidential(&example, &toy, &hw) == 0);
	EXAMPLE_CHECK(
	    quire_gmem_create(example.vm, SECRET_PAGES * QUIRE_PAGE_SIZE, 0, NULL, &gmem) == 0);

	struct quire_region region = {
	    .slot = 1,
	    .flags = QUIRE_SLOT_GMEM,
	    .gpa = {SECRET_GPA},
	    .size_bytes = SECRET_PAGES * QUIRE_PAGE_SIZE,
	    .hva = {(uintptr_t)example.memory},
	    .gmem = gmem,
	};

	EXAMPLE_CHECK(quire_vm_set_region(example.vm, &region) == 0);
	EXAMPLE_CHECK(quire_vm_set_attributes(example.vm, region.gpa, region.size_bytes,
					      QUIRE_ATTRIBUTE_PRIVATE) == 0);
	launch_and_run(&example, &hw);

	/* What is punched is scrubbed before the host has it, and so is the rest at the end. */
	EXAMPLE_CHECK(quire_gmem_punch(gmem, 0, QUIRE_PAGE_SIZE) == 0);
	EXAMPLE_CHECK(hw.scrubbed == 3); /* two attempts had no budget: what they left went, too */
	quire_gmem_release(gmem);
	EXAMPLE_CHECK(hw.scrubbed == hw.owned);
	example_destroy(&example);
}
