/* Resampling: a line that irqfds raised stays high until the guest has served it. */
#include "frontend/irq/resample.h"

#include "frontend/file/eventfd.h"
#include "frontend/object/vm.h"
#include "hosts/process/lock.h"

bool resample_wanted_locked(const struct vm *vm, uint32_t gsi)
{
	for (const struct resample *at = vm->irqchip.resamples; at; at = at->next)
		if (at->gsi == gsi)
			return true;
	return false;
}

void resample_add(struct vm *vm, struct resample *resample)
{
	struct irqchip *irqchip = &vm->irqchip;

	process_lock_acquire(&irqchip->lock);
	resample->next = irqchip->resamples;
	irqchip->resamples = resample;
	ioapic_scan(vm);
	process_lock_release(&irqchip->lock);
}

/* With the last of its line the line falls. */
void resample_remove(struct vm *vm, struct resample *resample)
{
	struct irqchip *irqchip = &vm->irqchip;
	struct resample **link = &irqchip->resamples;

	process_lock_acquire(&irqchip->lock);
	while (*link != resample)
		link = &(*link)->next;
	*link = resample->next;
	ioapic_scan(vm);
	if (!resample_wanted_locked(vm, resample->gsi))
		irqchip_drive_locked(vm, resample->gsi, IRQ_SOURCE_RESAMPLE, false);
	process_lock_release(&irqchip->lock);
}

void resample_acked_locked(struct vm *vm, uint32_t gsi)
{
	if (!resample_wanted_locked(vm, gsi))
		return;
	irqchip_drive_locked(vm, gsi, IRQ_SOURCE_RESAMPLE, false);
	for (const struct resample *at = vm->irqchip.resamples; at; at = at->next)
		if (at->gsi == gsi)
			(void)eventfd_signal(at->fd);
}
