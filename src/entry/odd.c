/* What is not so in every format, out of the way of x86's: see entry_format.odd. */
#include "src/entry/format.h"

int entry_holds_odd_page(const struct entry_format *f, struct quire_page *page)
{
	if (page->memtype == QUIRE_MEMTYPE_UC && f->uncached_noexec)
		page->noexec = QUIRE_NOEXEC;
	return page->memtype <= QUIRE_MEMTYPE_WC &&
	       (!page->noread ||
		(f->unreadable && !page->writable && entry_page_is_executable(f, page)));
}

u64 *entry_table_odd(const struct entry_format *f, u64 entry)
{
	u64 address = likely(!f->odd) ? entry & f->address : entry_address(f, entry);

	if (f->tables.virt)
		return f->tables.virt(f->tables.ctx, address);
	return (u64 *)(uintptr_t)(address + f->tables.offset);
}
