/* Translation: linear to guest physical to host address, and the caches of it. */
#ifndef QUIRE_VCPU_MEM_MMU_H
#define QUIRE_VCPU_MEM_MMU_H

#include "vcpu/inside.h"

enum mmu_access { MMU_READ, MMU_WRITE, MMU_FETCH };

struct mmu_request {
	uint64_t linear;
	enum mmu_access access; /* what the guest's tables must permit */
	enum mmu_access stage2; /* what the stage-2 tables must permit */
};

static inline struct mmu_request mmu_request_of(uint64_t linear, enum mmu_access guest,
						enum mmu_access stage2)
{
	return (struct mmu_request){.linear = linear, .access = guest, .stage2 = stage2};
}

struct mmu_result {
	uint64_t gpa;
	uint64_t host; /* host address of the byte; 0 for a device */
	uint8_t global;
	uint8_t large; /* levels of the guest's leaf above that of 4K: 0, 1, 2 */
};

/*
 * Translate, setting accessed and dirty bits of both stages. STEP_ABORT: cpu->stop is a page
 * fault of the guest or a stage-2 fault. A frame that the fault path called MMIO for this
 * instruction comes back with host == 0. In guest mode.
 */
enum step mmu_translate(struct cpu *cpu, const struct mmu_request *request,
			struct mmu_result *result);

/*
 * mmu_translate() for the common case alone: 4-level long mode, every right there, and no bit left
 * to set but in the guest's leaf of 4 KiB.
 */
enum mmu_fast {
	MMU_FAST_OTHER, /* nothing has happened but that the leaf may be marked */
	MMU_FAST_FOUND,
	MMU_FAST_ABSENT, /* the guest's leaf of 4 KiB is not present, the levels above it are */
};
enum mmu_fast mmu_translate_fast(struct cpu *cpu, const struct mmu_request *request,
				 struct mmu_result *result);

/* @linear with all bits above the lower 57, or 48, as the highest of these. */
static inline uint64_t mmu_extend(uint64_t linear, int is_wide)
{
	unsigned int shift = unlikely(is_wide) ? 64 - 57 : 64 - 48;

	return (uint64_t)((int64_t)(linear << shift) >> shift);
}

/* As the tables translate that are in use. */
static inline uint64_t mmu_make_canonical(const struct cpu *cpu, uint64_t linear)
{
	return mmu_extend(linear, (cpu->s.cr4 & CR4_LA57) != 0);
}

static inline int mmu_is_canonical_now(const struct cpu *cpu, uint64_t linear)
{
	return mmu_make_canonical(cpu, linear) == linear;
}

/*
 * As any tables of this processor may translate, whatever a guest's CPUID says: for bases of
 * segments and tables, for addresses that MSRs hold, and for INVPCID. A guest with four levels of
 * tables sets up what is to be used with five.
 */
static inline uint64_t mmu_make_canonical_base(uint64_t base)
{
	return mmu_extend(base, 1);
}

static inline int mmu_is_canonical_base(uint64_t base)
{
	return mmu_make_canonical_base(base) == base;
}

/* Outside long mode every address is. */
static inline int mmu_is_canonical(const struct cpu *cpu, uint64_t linear)
{
	return !(cpu->s.efer & EFER_LMA) || mmu_is_canonical_now(cpu, linear);
}

/* #GP, or #SS for the stack. */
enum step mmu_raise_non_canonical(struct cpu *cpu);

/* Has the access the rights of user mode? */
static inline int mmu_is_user(const struct cpu *cpu)
{
	return cpu->tlb_mode & TLB_USER;
}

/* Does PKRU deny @access to data of a page with these rights (PTE_U, PTE_KEY)? */
int mmu_key_denies(const struct cpu *cpu, enum mmu_access access, uint64_t rights);

/*
 * Do the rights of a walk (PTE_W, PTE_U: all levels have them; PTE_NX: one has it; PTE_KEY of the
 * leaf) allow @access in the current mode?
 */
int mmu_rights_permit(const struct cpu *cpu, enum mmu_access access, uint64_t rights);

/*
 * mmu_translate() while cpu->linear_root is set; .gpa of @result is then what the tables translate
 * of the linear address, as the library and stage2_mark_device() know it.
 */
enum step mmu_translate_linear(struct cpu *cpu, const struct mmu_request *request,
			       struct mmu_result *result);
/* The linear address of which the library knows these bits. */
uint64_t mmu_linear_of(const struct cpu *cpu, uint64_t translated_bits);
/* The error code of an access that the tables do not allow, but for PRESENT. */
uint64_t mmu_linear_error(const struct cpu *cpu, enum mmu_access access);
/*
 * Tell the library which page tables the guest has now, if that changed: before guest mode is
 * entered. 0 or -errno.
 */
int mmu_take_paging(struct cpu *cpu);
/* PKRU is @value from now on. */
void mmu_set_pkru(struct cpu *cpu, uint32_t value);
/* The guest changed its paging, or flushed translations: guest mode is left where that matters. */
void mmu_paging_changed(struct cpu *cpu);
/* mmu_probe() while cpu->linear_root is set: out of guest mode. */
int mmu_probe_linear(struct cpu *cpu, uint64_t linear, gpa_t *gpa);

/* The guest's stage only, without stop or exception: for KVM_TRANSLATE. Zero when it worked. */
int mmu_probe(struct cpu *cpu, uint64_t linear, uint64_t *gpa);

/*
 * A guarded access to @request->linear failed although the tables led there: drop what is cached
 * and say why the instruction aborts. Returns STEP_ABORT.
 */
enum step mmu_guard_failed(struct cpu *cpu, const struct mmu_request *request);

/* The cached host address for a read or write, or NULL: both ways of the TLB. */
void *tlb_find(const struct cpu *cpu, uint64_t linear, enum mmu_access access);
const struct tlb_entry *tlb_entry_of(const struct cpu *cpu, uint64_t linear,
				     enum mmu_access access);
/* Is the translation that code at @linear was found by cached, and global? */
int tlb_fetches_global(const struct cpu *cpu, uint64_t linear);
void tlb_fill(struct cpu *cpu, const struct mmu_request *request, const struct mmu_result *result);
/* Each flush is a serialising event, too: code is compared with memory before it runs again. */
void tlb_flush_all(struct cpu *cpu);
/* The same for another reason than a flush of the guest's or new registers. */
void tlb_forget_all(struct cpu *cpu);
/* The same where what a processor would hold stays what it is, for the watch. */
void tlb_drop_all(struct cpu *cpu);
void tlb_flush_non_global(struct cpu *cpu);
/*
 * CR3 becomes @cr3, whose PCID is another one: what is cached of the present one is put aside, and
 * what was put aside of @cr3 comes back. A serialising event, and no flush.
 */
void tlb_switch_space(struct cpu *cpu, uint64_t cr3);
/* Drop what was put aside: of @pcid, of its page, or all. */
void tlb_drop_space(struct cpu *cpu, uint64_t pcid);
void tlb_drop_space_page(struct cpu *cpu, uint64_t pcid, uint64_t linear);
void tlb_drop_spaces(struct cpu *cpu);
/* The two steps of a switch: what is not global leaves the TLB, for @into unless that is NULL; and
 * comes back. */
void tlb_drop_local(struct cpu *cpu, struct tlb_space *into);
void tlb_take_back(struct cpu *cpu, const struct tlb_space *from);
/* May a large page around @linear be cached, by any space? */
int tlb_may_be_large(const struct cpu *cpu, uint64_t linear);
/* One 4K piece; tlb_invlpg() is exact for large pages too. */
void tlb_flush_page(struct cpu *cpu, uint64_t linear);
void tlb_invlpg(struct cpu *cpu, uint64_t linear);
/* Drop the write translations that lead to the host page @host_page. */
void tlb_protect_host_page(struct cpu *cpu, uint64_t host_page);

/* Where the code at @linear is: *@found stays until the next call; NULL: in a device. */
enum step mmu_fetch_page(struct cpu *cpu, uint64_t linear, struct fetch_entry **found);

/* Which privilege the tags carry now: after changes of CPL, CR0, CR4 or AC. */
void mmu_update_mode(struct cpu *cpu);
/* Accesses from here on are the processor's own (descriptors, TSS), whatever the CPL. Returns
 * what to hand to mmu_system_end(). */
unsigned int mmu_system_begin(struct cpu *cpu);
void mmu_system_end(struct cpu *cpu, unsigned int saved);

#endif
