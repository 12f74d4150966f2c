/* A format as walkers see it: the processor's bits, and none of ours. */
#include "src/entry/format.h"

struct quire_format entry_describe(const struct entry_format *f, u32 maxphyaddr)
{
	const u64 below = (UINT64_C(1) << maxphyaddr) - 1;
	/* Of what may be present at all, EPT refuses writing without reading. */
	const bool is_ept = f->executable != 0;

	return (struct quire_format){
	    .name = f->name,
	    .present = f->hw_present,
	    .readable = f->readable,
	    .writable = f->writable,
	    .executable = f->executable,
	    .noexec = f->noexec,
	    .accessed = f->accessed,
	    .dirty = f->dirty,
	    .memtype = f->memtype,
	    .large = f->large,
	    .address = ENTRY_ADDRESS_MASK,
	    .reserved = ENTRY_ADDRESS_MASK & ~below,
	    .misfit_mask = is_ept ? f->readable | f->writable : 0,
	    .misfit = is_ept ? f->writable : 0,
	    .mmio_mask = f->mmio_mask,
	    .mmio = f->mmio_value,
	    .table_offset = f->tables.offset,
	    .table_virt = f->tables.virt,
	    .table_ctx = f->tables.ctx,
	};
}
