/* What the tests of guest_memfd share: a file that a slot shows. */
#ifndef QUIRE_TESTS_UNIT_GMEM_SUPPORT_H
#define QUIRE_TESTS_UNIT_GMEM_SUPPORT_H

#include <quire/gmem.h>

#include "tests/unit/support.h"

extern struct quire_gmem *gmem;

/*
 * A fresh VM, in which slot 1 shows a file of @npages pages from @gfn on, with units of 2 MiB and
 * more; in a VM that knows private pages they are. @flags are the file's.
 */
void gmem_begin(enum quire_vm_type type, uint64_t flags, uint64_t gfn, uint64_t npages);
/* Its end, and the file's. */
void gmem_end(void);

/* [gfn, gfn + npages) gets @attributes: QUIRE_ATTRIBUTE_PRIVATE, or 0. */
void convert(uint64_t gfn, uint64_t npages, uint64_t attributes);
/* Pages of the file go. */
void punch(uint64_t index, uint64_t npages);
/* The machine loses the frame; the library is not told. */
void fail_frame(pfn_t pfn);

#endif
