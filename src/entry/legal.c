/* Which words a table may hold: the definition that the other files of this folder keep to. */
#include "src/entry/format.h"

/* A leaf that was just used. */
static bool is_legal_used(const struct entry_format *f, u64 entry, u32 level)
{
	const u8 type = entry_memtype(f, entry);
	u64 large = level > QUIRE_LEVEL_4K ? f->large : f->page;
	u64 always =
	    f->present | (f->readable & ~f->unreadable) | f->memtypes[type] | f->accessed | large;
	u64 maybe = f->writable | f->dirty | f->mmu_writable | f->host_writable | f->executable |
		    f->noexec | f->executable_user | f->unreadable;
	u64 block = level_pages((enum quire_level)level) << QUIRE_PAGE_SHIFT;
	u64 address = entry_address(f, entry);

	if (level > QUIRE_LEVEL_1G || address % block || entry_pfn(f, entry).v >= f->frames)
		return false;
	if ((entry & f->memtype) != f->memtypes[type])
		return false;
	if ((entry & always) != always || (entry & ~f->address & ~(always | maybe)))
		return false;
	/* What is not readable is for executing alone. */
	if ((entry & f->readable) != f->readable &&
	    (!entry_is_executable(f, entry) || (entry & (f->host_writable | f->mmu_writable))))
		return false;
	/* D comes and goes with W, which needs two permissions. */
	if (f->dirty && !(entry & f->writable) != !(entry & f->dirty))
		return false;
	if ((entry & f->writable) && !(entry & f->mmu_writable))
		return false;
	return !(entry & f->mmu_writable) || (entry & f->host_writable);
}

/* A leaf is one that was just used, or what aging makes of it. */
static bool is_legal_leaf(const struct entry_format *f, u64 entry, u32 level)
{
	u64 used = entry_make_young(f, entry);

	return (entry == used || entry == entry_make_old(f, used)) && is_legal_used(f, used, level);
}

static bool is_legal_table(const struct entry_format *f, u64 entry)
{
	return entry_pfn(f, entry).v < f->frames &&
	       entry == entry_make_table(f, entry_table(f, entry));
}

static bool is_legal_mmio(const struct entry_format *f, u64 entry, u32 level)
{
	gfn_t gfn = entry_mmio_gfn(f, entry);

	return level == QUIRE_LEVEL_4K && gfn.v >> (f->gpa_bits - QUIRE_PAGE_SHIFT) == 0 &&
	       entry == entry_make_mmio(f, gfn, entry_mmio_generation(f, entry));
}

int entry_is_legal(const struct entry_format *f, u64 entry, u32 level)
{
	if (entry == f->nonpresent || entry == f->frozen)
		return 1;
	if (!entry_is_present(f, entry))
		return entry_is_mmio(f, entry) && is_legal_mmio(f, entry, level);
	return entry_is_leaf(f, entry, level) ? is_legal_leaf(f, entry, level)
					      : is_legal_table(f, entry);
}
