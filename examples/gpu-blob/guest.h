/* A processor that knows one instruction: load or store one byte of guest memory. */
#ifndef QUIRE_EXAMPLES_GPU_BLOB_GUEST_H
#define QUIRE_EXAMPLES_GPU_BLOB_GUEST_H

#include <stdint.h>

#include <quire/vcpu.h>

#define GUEST_TLB_PAGES 16u

struct guest {
	struct quire_vcpu *vcpu;
	/* Translations that stay until the library asks for a flush: forgetting to ask shows. */
	struct {
		uint64_t gfn;
		uint8_t *page;
		int writable;
	} tlb[GUEST_TLB_PAGES];
};

/* 0; or what the fault said: -EFAULT, QUIRE_EMULATE when there is no memory ... */
int guest_load(struct guest *guest, uint64_t gpa, uint8_t *value);
int guest_store(struct guest *guest, uint64_t gpa, uint8_t value);

#endif
