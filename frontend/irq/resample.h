/* Eventfds that hear when a guest has served a level-triggered line (resampling irqfds). */
#ifndef QUIRE_FRONTEND_IRQ_RESAMPLE_H
#define QUIRE_FRONTEND_IRQ_RESAMPLE_H

#include <stdbool.h>
#include <stdint.h>

struct vm;

/*
 * An irqfd's request to signal an eventfd when the guest has served a line. All requests of the
 * line are met together. The irqfd holds the memory.
 */
struct resample {
	struct resample *next; /* in irqchip.resamples, under irqchip.lock */
	uint32_t gsi;
	int fd; /* hidden; signalled when @gsi is served */
};

/* No lock held. Afterwards no end of interrupt touches @resample any more. */
void resample_add(struct vm *vm, struct resample *resample);
void resample_remove(struct vm *vm, struct resample *resample);

/* With irqchip.lock held. */
bool resample_wanted_locked(const struct vm *vm, uint32_t gsi);
/* The guest has served @gsi: the line falls, and its source may raise it again. */
void resample_acked_locked(struct vm *vm, uint32_t gsi);

#endif
