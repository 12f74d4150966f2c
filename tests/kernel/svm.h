/* One access of a tiny guest, by the processor's own walk of nested tables (AMD's SVM). */
#ifndef KERNEL_SVM_H
#define KERNEL_SVM_H

#include <stdint.h>

#include <quire/vcpu.h>

/* Guests execute from here: a page that stays mapped, in tables of its own below the root. */
#define SVM_CODE_GPA UINT64_C(0xc0000000)

/* The start of a page of the guest: what a load finds, where a store goes, what a fetch executes.
 */
struct svm_page {
	uint32_t tag;
	uint32_t unused;
	uint32_t stored;
	uint32_t unused_too;
	uint8_t code[8]; /* loads the tag and halts */
};

void svm_fill_page(struct svm_page *page, uint32_t tag);
/* The guest's loads and stores, for the page behind SVM_CODE_GPA. */
void svm_fill_code(void *page);

enum svm_outcome {
	SVM_DONE,   /* the access was made */
	SVM_FAULT,  /* a nested page fault */
	SVM_BROKEN, /* anything else: the exit code is in .error_code */
};

struct svm_result {
	enum svm_outcome outcome;
	uint32_t value;	     /* what was loaded, or the tag of the code that ran */
	uint64_t error_code; /* QUIRE_PFERR_* */
	uint64_t gpa;	     /* of a fault */
};

/* Does this processor have SVM with nested paging? Then it is on from here on. */
int svm_start(void);

/*
 * The guest makes one @access to the svm_page at @gpa, below 4 GiB: QUIRE_PFERR_WRITE stores
 * @value, QUIRE_PFERR_FETCH executes its code, 0 loads its tag. No translation is kept from an
 * earlier one.
 */
struct svm_result svm_access(uint64_t root_physical, uint64_t gpa, uint64_t access, uint32_t value);

#endif
