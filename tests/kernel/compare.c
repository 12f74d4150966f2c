/* Pages as the processor sees them and as the library says they are. */
#include "tests/kernel/compare.h"

#include <quire/format.h>

#include "tests/kernel/machine.h"

#define PATHS_MAX 12u
#define LINES_MAX 20u
/* What the processor adds for an access that no table of the guest's stands behind. */
#define BESIDES (QUIRE_PFERR_USER | QUIRE_PFERR_GUEST_FINAL)

/* The words that the accesses of one page go by. The last one decides about that page. */
struct words {
	uint64_t *slots[PATHS_MAX];
	uint64_t held[PATHS_MAX];
	unsigned int count;
};

/* What one access came to. */
struct seen {
	int is_mapped;
	uint64_t error_code;
	uint32_t value; /* loaded, executed, or stored */
	uint64_t left[PATHS_MAX];
};

struct trial {
	const struct guest_walker *walker;
	const struct quire_stage2 *stage2;
	struct words words;
	uint64_t gpa, access;
	uint64_t wrong; /* a bit of the last word, for the processor alone */
	uint32_t token; /* what is stored */
	unsigned int mapped;
	int is_quiet;
};

static void words_add(struct words *words, const struct quire_stage2 *stage2, uint64_t gpa)
{
	const struct quire_format *f = stage2->format;
	uint64_t *table = stage2->root;
	unsigned int level;
	uint64_t *slot;

	for (level = stage2->root_level;; level--) {
		slot = quire_table_entry(table, (gpa_t){gpa}, level);
		words->slots[words->count] = slot;
		words->held[words->count++] = *slot;
		if (!quire_entry_is_present(f, *slot) || quire_entry_is_reserved(f, *slot) ||
		    quire_entry_is_leaf(f, *slot, level))
			return;
		table = quire_entry_table(f, *slot);
	}
}

static void words_put_back(const struct words *words)
{
	unsigned int i;

	for (i = 0; i < words->count; i++)
		*words->slots[i] = words->held[i];
}

static void words_read(const struct words *words, uint64_t *into)
{
	unsigned int i;

	for (i = 0; i < words->count; i++)
		into[i] = __atomic_load_n(words->slots[i], __ATOMIC_RELAXED);
}

static struct seen see_processor(const struct trial *trial)
{
	const struct quire_format *f = trial->stage2->format;
	const uint64_t marks = f->accessed | f->dirty;
	const unsigned int last = trial->words.count - 1;
	const struct guest_access access = {.root_physical = trial->stage2->root_physical,
					    .gpa = trial->gpa,
					    .access = trial->access,
					    .value = trial->token};
	struct guest_result result;
	struct seen seen = {0};

	*trial->words.slots[last] ^= trial->wrong & ~marks;
	result = trial->walker->access(&access);
	*trial->words.slots[last] ^= trial->wrong & ~marks;
	words_read(&trial->words, seen.left);
	seen.left[last] ^= trial->wrong & marks;
	seen.is_mapped = result.outcome == GUEST_DONE;
	seen.value = seen.is_mapped ? result.value : 0;
	if (!seen.is_mapped)
		seen.error_code = result.error_code;
	return seen;
}

/* What the guest needs before it makes an access: its directory's entry, which a processor reads as
 * if it wrote it, and its code. */
static int library_walks_code(const struct trial *trial)
{
	struct quire_translation found;

	if (trial->walker->has_directory &&
	    !quire_walk(trial->stage2, (gpa_t){GUEST_DIRECTORY_GPA}, QUIRE_PFERR_WRITE, &found))
		return 0;
	return trial->access & QUIRE_PFERR_FETCH ||
	       quire_walk(trial->stage2, (gpa_t){GUEST_CODE_GPA}, QUIRE_PFERR_FETCH, &found);
}

/* After the processor: the frame that the library names must have what was stored. */
static struct seen see_library(const struct trial *trial)
{
	struct quire_translation found;
	const struct guest_page *page;
	struct seen seen = {0};

	if (!library_walks_code(trial))
		seen.error_code = UINT64_MAX;
	seen.is_mapped =
	    quire_walk(trial->stage2, (gpa_t){trial->gpa}, trial->access | BESIDES, &found);
	words_read(&trial->words, seen.left);
	if (!seen.is_mapped) {
		seen.error_code |= found.error_code;
		return seen;
	}
	page = memory_at(found.address);
	seen.value = trial->access & QUIRE_PFERR_WRITE ? page->stored : page->tag;
	return seen;
}

static void print_seen(const char *by, const struct trial *trial, const struct seen *seen)
{
	unsigned int i;

	print(by);
	print(seen->is_mapped ? " mapped" : " fault");
	print_hex(seen->is_mapped ? seen->value : seen->error_code);
	print(", words");
	for (i = 0; i < trial->words.count; i++)
		print_hex(seen->left[i]);
}

static int is_same(const struct trial *trial, const struct seen *one, const struct seen *other)
{
	const int is_free = !one->is_mapped && !trial->walker->marks_refused;
	const uint64_t free_bits = is_free ? trial->stage2->format->accessed : 0;
	unsigned int i;

	for (i = 0; i < trial->words.count; i++)
		if ((one->left[i] ^ other->left[i]) & ~free_bits)
			return 0;
	return one->is_mapped == other->is_mapped && one->error_code == other->error_code &&
	       one->value == other->value;
}

/* Returns whether the two differ. */
static int compare_one(struct trial *trial)
{
	static unsigned int lines;
	static uint32_t token;
	struct seen processor, library;
	int differs;

	trial->token = ++token;
	words_put_back(&trial->words);
	processor = see_processor(trial);
	words_put_back(&trial->words);
	library = see_library(trial);
	trial->mapped += (unsigned int)processor.is_mapped;
	differs = !is_same(trial, &processor, &library);
	if (!differs || trial->is_quiet || lines++ >= LINES_MAX)
		return differs;
	print("differs: page");
	print_hex(trial->gpa);
	print(", access");
	print_hex(trial->access);
	print_seen("; the processor:", trial, &processor);
	print_seen("; the library:", trial, &library);
	print("\n");
	return differs;
}

static unsigned int compare_accesses(struct trial *trial)
{
	static const uint64_t accesses[] = {0, QUIRE_PFERR_WRITE, QUIRE_PFERR_FETCH};
	unsigned int i, different = 0;

	for (i = 0; i < 3; i++) {
		trial->access = accesses[i];
		different += (unsigned int)compare_one(trial);
	}
	return different;
}

/* Runs @function with the trial of a page, and puts the tables' words back. */
static unsigned int with_trial(struct quire_vcpu *vcpu, struct trial *trial,
			       unsigned int (*function)(struct trial *trial))
{
	struct quire_stage2 stage2;
	struct words before;
	unsigned int result;
	uint64_t requests;

	if (quire_vcpu_enter(vcpu, &requests, &stage2))
		return 1;
	trial->stage2 = &stage2;
	if (trial->walker->has_directory)
		words_add(&trial->words, &stage2, GUEST_DIRECTORY_GPA);
	words_add(&trial->words, &stage2, GUEST_CODE_GPA);
	words_add(&trial->words, &stage2, trial->gpa);
	before = trial->words;
	result = function(trial);
	words_put_back(&before);
	quire_vcpu_leave(vcpu);
	return result;
}

/* Entries that are present lose A and D. */
static void forget_marks(struct trial *trial)
{
	const struct quire_format *f = trial->stage2->format;
	unsigned int i;

	for (i = 0; i < trial->words.count; i++)
		if (quire_entry_is_present(f, trial->words.held[i]) &&
		    !quire_entry_is_mmio(f, trial->words.held[i]))
			trial->words.held[i] &= ~(f->accessed | f->dirty);
}

static unsigned int compare_both(struct trial *trial)
{
	const unsigned int different = compare_accesses(trial);

	forget_marks(trial);
	return different + compare_accesses(trial);
}

unsigned int compare_page(const struct guest_walker *walker, struct quire_vcpu *vcpu, uint64_t gpa,
			  unsigned int *mapped)
{
	struct trial trial = {.walker = walker, .gpa = gpa};
	const unsigned int different = with_trial(vcpu, &trial, compare_both);

	*mapped += trial.mapped;
	return different;
}

static unsigned int wrong_bits_tried;

static unsigned int try_wrong_bits(struct trial *trial)
{
	const struct quire_format *f = trial->stage2->format;
	/* No processor here has user mode's bit. Bit 12 leads to another frame, bit 51 is in no
	 * address. */
	const uint64_t unseen = f->executable_user;
	const uint64_t bits = (f->present & ~unseen) | f->readable | f->writable | f->executable |
			      f->noexec | f->accessed | f->dirty | UINT64_C(1) << 12 |
			      UINT64_C(1) << 51;
	unsigned int i, reported = 0;

	wrong_bits_tried = 0;
	for (i = 0; i < 64; i++) {
		trial->wrong = bits & UINT64_C(1) << i;
		wrong_bits_tried += trial->wrong != 0;
		if (!trial->wrong)
			continue;
		if (compare_accesses(trial)) {
			reported++;
		} else {
			print("a wrong bit is not reported:");
			print_hex(trial->wrong);
			print("\n");
		}
	}
	return reported;
}

unsigned int compare_wrong_bits(const struct guest_walker *walker, struct quire_vcpu *vcpu,
				uint64_t gpa, unsigned int *tried)
{
	struct trial trial = {.walker = walker, .gpa = gpa, .is_quiet = 1};
	const unsigned int reported = with_trial(vcpu, &trial, try_wrong_bits);

	*tried = wrong_bits_tried;
	return reported;
}
