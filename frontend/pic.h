/* The pair of 8259 interrupt controllers. */
#ifndef QUIRE_FRONTEND_PIC_H
#define QUIRE_FRONTEND_PIC_H

#include <stdbool.h>
#include <stdint.h>

#include "frontend/uapi.h"

/* [0] is the first controller, [1] hangs on its line 2. Guarded by irqchip.lock. */
struct pic {
	struct kvm_pic_state chip[2];
};

void pic_reset(struct pic *pic);
/* Drive line 0..15. */
void pic_set_line(struct pic *pic, unsigned int line, bool level);
/* Is the output to the processor high? */
bool pic_output(const struct pic *pic);
/* Interrupt acknowledge: the vector (a spurious one when nothing is pending). */
uint8_t pic_acknowledge(struct pic *pic);
/* Port access; false when @port is none of the PIC's. */
bool pic_read(struct pic *pic, uint16_t port, uint8_t *value);
bool pic_write(struct pic *pic, uint16_t port, uint8_t value);

#endif
