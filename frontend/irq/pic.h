/* The pair of 8259 interrupt controllers. */
#ifndef QUIRE_FRONTEND_IRQ_PIC_H
#define QUIRE_FRONTEND_IRQ_PIC_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "frontend/uapi.h"

#define PIC_LINES 16u

struct pic;

/* What the PIC asks of the machine around it. Called under irqchip.lock; acked() may drive lines.
 */
struct pic_ops {
	/* The guest has served line 0..15. */
	void (*acked)(struct pic *pic, unsigned int line);
	void (*mask_changed)(struct pic *pic, unsigned int line, bool masked);
	/* The output rose. */
	void (*raised)(struct pic *pic);
	/* Does a processor take the PIC's interrupts? */
	bool (*has_listener)(struct pic *pic);
};

/* [0] is the first controller, [1] hangs on its line 2. Guarded by irqchip.lock, but for output. */
struct pic {
	const struct pic_ops *ops;
	struct kvm_pic_state chip[2];
	uint8_t sources[PIC_LINES]; /* sources that drive a line high, a bit each */
	atomic_bool output;	    /* to the processor; read at any time */
};

void pic_reset(struct pic *pic, const struct pic_ops *ops);
/* One of a line's sources drives it. 1: seen, 0: it was pending already, -1: it is masked. */
int pic_set_line(struct pic *pic, unsigned int line, unsigned int source, bool level);
/* After the state was set. */
void pic_update(struct pic *pic);
static inline bool pic_output(const struct pic *pic)
{
	return atomic_load_explicit(&pic->output, memory_order_acquire);
}
/* Interrupt acknowledge: the vector (a spurious one when nothing is pending). */
uint8_t pic_acknowledge(struct pic *pic);
/* A byte moves; false when @port is none of the PIC's. */
bool pic_read(struct pic *pic, uint16_t port, uint8_t *value);
bool pic_write(struct pic *pic, uint16_t port, uint8_t value);

#endif
