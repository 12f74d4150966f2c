/* One access of a tiny guest, by the processor's own walk of second-stage tables. */
#ifndef KERNEL_GUEST_H
#define KERNEL_GUEST_H

#include <stdint.h>

#include <quire/vcpu.h>
#include <quire/vm.h>

/* Guests execute from here: a page that stays mapped, in tables of its own below the root. */
#define GUEST_CODE_GPA UINT64_C(0xc0000000)
/* The page behind it: the guest's own page directory, for walkers that need one. */
#define GUEST_DIRECTORY_GPA (GUEST_CODE_GPA + QUIRE_PAGE_SIZE)
/* Offsets in that page. EBX has the address of a guest_page. */
#define GUEST_RIP_LOAD 0x00u
#define GUEST_RIP_STORE 0x10u

/* The start of a page of the guest: what a load finds, where a store goes, what a fetch executes.
 */
struct guest_page {
	uint32_t tag;
	uint32_t unused;
	uint32_t stored;
	uint32_t unused_too;
	uint8_t code[8]; /* loads the tag and halts */
};

void guest_fill_page(struct guest_page *page, uint32_t tag);
/* The guest's loads and stores, for the page behind GUEST_CODE_GPA. */
void guest_fill_code(void *page);
/* Each address below 4 GiB is its own translation, with A and D set. */
void guest_fill_directory(void *page);

/* The guest makes one access to the guest_page at .gpa, below 4 GiB. */
struct guest_access {
	uint64_t root_physical;
	uint64_t gpa;
	uint64_t access; /* QUIRE_PFERR_WRITE: store .value; _FETCH: execute; 0: load the tag */
	uint32_t value;
};

/* The first instruction of @access. */
uint64_t guest_rip(const struct guest_access *access);

enum guest_outcome {
	GUEST_DONE,   /* the access was made */
	GUEST_FAULT,  /* the tables refused it */
	GUEST_BROKEN, /* anything else: .error_code is the processor's reason */
};

struct guest_result {
	enum guest_outcome outcome;
	uint32_t value;	     /* what was loaded, or the tag of the code that ran */
	uint64_t error_code; /* QUIRE_PFERR_* */
	uint64_t gpa;	     /* of a fault */
};

/* A processor's way to run guests. */
struct guest_walker {
	const char *name;
	enum quire_format_id format; /* of the tables that it walks */
	/* Has the processor this? Then it is on from here on. */
	int (*start)(void);
	/* No translation is kept from an earlier access. */
	struct guest_result (*access)(const struct guest_access *access);
	/* Does it set A on the way to an entry that refuses? A processor may do either. */
	int marks_refused;
	/* Does its guest page, with the directory at GUEST_DIRECTORY_GPA? Otherwise it has no
	 * paging. */
	int has_directory;
};

extern const struct guest_walker walker_svm, walker_vmx, walker_vmx_no_ad, walker_vmx_execute_only;

/* The registers EAX, EBX, ECX and EDX of a leaf. */
void guest_cpuid(uint32_t leaf, uint32_t registers[4]);

#endif
