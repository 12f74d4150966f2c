/* The stage-2 walk: every leaf and access, in each format, and what the walk leaves in the tables.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "src/entry/format.h"
#include "tests/unit/vcpu/fake_vcpu.h"
#include "vcpu/inside.h"
#include "vcpu/mem/stage2.h"

static const struct entry_format *const formats[] = {&entry_npt, &entry_ept, &entry_ept_no_ad};

#define GPA UINT64_C(0x4080604123) /* another index at each level */
#define FRAME UINT64_C(0x7f4000000000)

static _Alignas(4096) uint64_t tables[5][512];

static uint64_t *entry_at(unsigned int level)
{
	return &tables[level][GPA >> (12 + 9 * (level - 1)) & 511];
}

/* The path to @leaf at @level; no processor has set A in it yet. */
static void build(const struct entry_format *f, uint64_t leaf, unsigned int level)
{
	memset(tables, 0, sizeof(tables));
	for (unsigned int at = 4; at > level; at--)
		*entry_at(at) = entry_make_table(f, tables[at - 1]) & ~f->accessed;
	*entry_at(level) = leaf;
}

static void check_walk(struct cpu *cpu, const struct entry_format *f, const struct entry_leaf *leaf,
		       enum mmu_access access)
{
	bool has_ad = f != &entry_ept_no_ad, awake = has_ad || leaf->accessed, allowed;
	uint64_t entry = entry_make_leaf(f, leaf), bytes = UINT64_C(0x1000)
							   << (9 * (leaf->level - 1));
	uint64_t host = 0, path[5], error;
	enum stage2_result result;

	allowed = access == MMU_WRITE	? leaf->writable
		  : access == MMU_FETCH ? leaf->executable
					: true;
	build(f, entry, leaf->level);
	for (unsigned int at = leaf->level; at <= 4; at++)
		path[at] = *entry_at(at);
	result = stage2_translate(
	    cpu, &(struct stage2_request){.gpa = GPA, .access = access, .origin = 0}, &host);
	/* Upper tables are seen whatever the leaf says. */
	for (unsigned int at = leaf->level + 1; at <= 4; at++)
		assert_int_equal(*entry_at(at), path[at] | f->accessed);
	if (awake && allowed) {
		assert_int_equal(result, STAGE2_MAPPED);
		assert_int_equal(host, FRAME + (GPA & (bytes - 1)));
		entry |= f->accessed | (access == MMU_WRITE ? f->dirty : 0);
	} else {
		error = access == MMU_WRITE ? QUIRE_PFERR_WRITE : 0;
		error |= access == MMU_FETCH ? QUIRE_PFERR_FETCH : 0;
		assert_int_equal(result, STAGE2_FAULT);
		assert_int_equal(cpu->fault_error & ~(uint64_t)QUIRE_PFERR_USER,
				 error | (awake ? QUIRE_PFERR_PRESENT : 0));
	}
	assert_int_equal(*entry_at(leaf->level), entry);
}

static void test_walk(void **state)
{
	struct fake_vm *vm = fake_vm_create();
	struct quire_vcpu *vcpu = fake_vcpu_create(vm);
	struct cpu *cpu = vcpu->cpu;

	(void)state;
	for (unsigned int which = 0; which < 3 * 3 * 3 * 8; which++) {
		unsigned int bits = which % 8;
		struct entry_leaf leaf = {
		    .pfn = {FRAME >> 12},
		    .level = 1 + which / 8 % 3,
		    .writable = bits & 1,
		    .mmu_writable = true,
		    .host_writable = true,
		    .executable = bits >> 1 & 1,
		    .accessed = bits >> 2 & 1,
		};

		struct quire_format told = entry_describe(formats[which / 24 % 3], 48);

		cpu->stage2.format = &told;
		cpu->stage2.root = tables[4];
		cpu->stage2.root_level = QUIRE_LEVEL_512G;
		check_walk(cpu, formats[which / 24 % 3], &leaf, (enum mmu_access)(which / 72));
	}
	/* Without A and D there is nothing that the walk could set. */
	assert_int_equal(entry_ept_no_ad.accessed | entry_ept_no_ad.dirty, 0);
	fake_vcpu_destroy(vcpu);
	fake_vm_destroy(vm);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_walk)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
