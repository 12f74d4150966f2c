/* A format as walkers see it: the processor's bits, and none of ours. */
#include "src/entry/format.h"

const struct entry_format *const entry_formats[ENTRY_FORMATS] = {
    [QUIRE_FORMAT_NPT] = &entry_npt,
    [QUIRE_FORMAT_EPT] = &entry_ept,
    [QUIRE_FORMAT_EPT_NO_AD] = &entry_ept_no_ad,
    [QUIRE_FORMAT_SV39X4] = &entry_sv39x4,
    [QUIRE_FORMAT_SV39X4_NO_AD] = &entry_sv39x4_no_ad,
    [QUIRE_FORMAT_SV48X4] = &entry_sv48x4,
    [QUIRE_FORMAT_SV48X4_NO_AD] = &entry_sv48x4_no_ad,
    [QUIRE_FORMAT_ARM64_3] = &entry_arm64_3,
    [QUIRE_FORMAT_ARM64_3_NO_AF] = &entry_arm64_3_no_af,
    [QUIRE_FORMAT_ARM64_4] = &entry_arm64_4,
    [QUIRE_FORMAT_ARM64_4_NO_AF] = &entry_arm64_4_no_af,
    [QUIRE_FORMAT_EPT_MODES] = &entry_ept_modes,
    [QUIRE_FORMAT_POWER] = &entry_power,
    [QUIRE_FORMAT_POWER_NO_RC] = &entry_power_no_rc,
    [QUIRE_FORMAT_ARM64_3_DBM] = &entry_arm64_3_dbm,
    [QUIRE_FORMAT_ARM64_4_DBM] = &entry_arm64_4_dbm,
};

struct quire_format entry_describe(const struct entry_format *f, u32 maxphyaddr)
{
	const u64 below = (UINT64_C(1) << maxphyaddr) - 1;
	/* A processor that does not set these wants them set. */
	const u64 a = f->accessed & ~f->marks, d = f->dirty & ~f->marks;

	return (struct quire_format){
	    .name = f->name,
	    .present = f->hw_present,
	    .readable = f->readable | a,
	    .writable = f->writable | d,
	    .executable = f->executable | a,
	    .noexec = f->noexec,
	    .executable_user = f->executable_user,
	    .accessed = f->accessed & f->marks,
	    .dirty = f->dirty & f->marks,
	    .memtype = f->memtype,
	    .table_mask = f->table_mask & ~f->present,
	    .table = f->table_value & ~f->present,
	    .table_rights = f->table_rights,
	    .root_entries = entry_root_tables(f) * QUIRE_TABLE_ENTRIES,
	    .address = f->address,
	    .address_shift = QUIRE_PAGE_SHIFT - f->pfn_shift,
	    .swapped = f->swapped,
	    .odd = f->odd,
	    .reserved = f->reserved | (f->checks_width ? f->address & ~below : 0),
	    .misfit_mask = f->misfit_mask,
	    .misfit = f->misfit,
	    .mmio_mask = f->mmio_mask,
	    .mmio = f->mmio_value,
	    .table_offset = f->tables.offset,
	    .table_virt = f->tables.virt,
	    .table_ctx = f->tables.ctx,
	};
}
