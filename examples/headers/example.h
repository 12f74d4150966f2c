/* What the examples of the public headers share: a small host, a small VM, and a check. */
#ifndef EXAMPLE_H
#define EXAMPLE_H

#include <quire/host.h>
#include <quire/platform.h>
#include <quire/vcpu.h>
#include <quire/vm.h>

#define EXAMPLE_GPA UINT64_C(0x100000)
#define EXAMPLE_PAGES 16u

extern const struct quire_platform example_platform; /* platform.c */
extern const struct quire_host_ops example_host;     /* host.c */

/* A VM whose slot 0 has EXAMPLE_PAGES pages at EXAMPLE_GPA, and one vCPU. */
struct example {
	uint8_t *memory;
	struct quire_vm *vm;
	struct quire_vcpu *vcpu;
};

/* vm.c: 0 or a negative errno; flags are enum quire_slot_flags. */
int example_create(struct example *example, enum quire_vm_type type, uint32_t flags);
/* The same with private memory that belongs to an architecture (confidential.c). */
int example_create_confidential(struct example *example, const struct quire_confidential_ops *ops,
				void *ctx);
void example_destroy(struct example *example);

/* vcpu.c: the guest writes to a page; the outcome or a negative errno. */
int example_guest_writes(struct example *example, uint64_t gpa);

/* main.c: prints the condition and ends the program when it does not hold. */
#define EXAMPLE_CHECK(condition) example_check((condition) ? 1 : 0, #condition)
void example_check(int truth, const char *condition);

/* One of each header, run in this order by main.c. */
void example_types(void);
void example_vm(void);
void example_vcpu(void);
void example_format(void);
void example_stats(void);
void example_trace(void);
void example_dirty(void);
void example_place(void);
void example_gmem(void);
void example_confidential(void);
void example_view(void);

#endif
