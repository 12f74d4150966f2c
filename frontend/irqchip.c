/* Interrupt routing: from lines, messages and IPIs to the PIC, the I/O APIC and local APICs. */
#include "frontend/irqchip.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "frontend/lapic.h"
#include "frontend/user_copy.h"
#include "frontend/vcpu.h"
#include "frontend/vm.h"

#define PIC_LINES 16u
#define IOAPIC_LINES 24u

void irqchip_init(struct irqchip *irqchip)
{
	pthread_mutex_init(&irqchip->lock, NULL);
	atomic_init(&irqchip->kind, IRQCHIP_NONE);
	pic_reset(&irqchip->pic);
	ioapic_reset(&irqchip->ioapic);
}

void irqchip_destroy(struct irqchip *irqchip)
{
	free(irqchip->routes);
	pthread_mutex_destroy(&irqchip->lock);
}

/* Of the vCPUs named, the one whose processor priority is lowest. */
static struct vcpu *find_lowest(struct vm *vm, const struct apic_message *message)
{
	uint32_t count = atomic_load_explicit(&vm->vcpu_count, memory_order_acquire);
	struct vcpu *best = NULL;

	for (uint32_t i = 0; i < count; i++) {
		struct vcpu *vcpu = vm->vcpus[i];

		if (!lapic_matches(vcpu, message->destination, message->logical, message->wide) ||
		    !lapic_is_enabled(vcpu))
			continue;
		if (!best || lapic_priority(vcpu) < lapic_priority(best))
			best = vcpu;
	}
	return best;
}

int apic_deliver(struct vm *vm, const struct apic_message *message)
{
	uint32_t count = atomic_load_explicit(&vm->vcpu_count, memory_order_acquire);
	int accepted = -1;

	if (message->delivery_mode == APIC_MODE_LOWEST) {
		struct vcpu *vcpu = find_lowest(vm, message);

		return vcpu ? lapic_accept(vcpu, APIC_MODE_FIXED, message->vector, message->level)
			    : -1;
	}
	for (uint32_t i = 0; i < count; i++) {
		struct vcpu *vcpu = vm->vcpus[i];

		if (vcpu == message->excluded ||
		    !lapic_matches(vcpu, message->destination, message->logical, message->wide))
			continue;
		if (accepted < 0)
			accepted = 0;
		accepted +=
		    lapic_accept(vcpu, message->delivery_mode, message->vector, message->level);
	}
	return accepted;
}

static int deliver_msi(struct vm *vm, uint64_t address, uint32_t data)
{
	bool wide = atomic_load(&vm->settings.x2apic_32bit_ids);
	struct apic_message message = {
	    .destination = (uint32_t)(address >> 12 & 0xff),
	    .logical = address >> 2 & 1,
	    .level = data >> 15 & 1,
	    .delivery_mode = data >> 8 & 7,
	    .vector = (uint8_t)data,
	};

	if (wide)
		message.destination |= (uint32_t)(address >> 32) & 0xffffff00;
	return apic_deliver(vm, &message);
}

void irqchip_pic_notify(struct vm *vm)
{
	struct vcpu *boot = vm_find_vcpu(vm, vm->settings.boot_vcpu_id);

	if (boot)
		vcpu_wake(boot);
}

/* Drive one pin of one chip. Under irqchip.lock. */
static void drive_pin(struct vm *vm, uint32_t chip, uint32_t pin, bool level)
{
	bool before;

	if (chip == KVM_IRQCHIP_IOAPIC) {
		if (pin < IOAPIC_LINES)
			ioapic_set_line(vm, pin, level);
		return;
	}
	if (pin >= PIC_LINES / 2)
		return;
	before = pic_output(&vm->irqchip.pic);
	pic_set_line(&vm->irqchip.pic, pin + (chip == KVM_IRQCHIP_PIC_SLAVE ? 8 : 0), level);
	if (!before && pic_output(&vm->irqchip.pic))
		irqchip_pic_notify(vm);
}

/* Without a table from the client: lines 0-15 to both chips, 16-23 to the I/O APIC. */
static void drive_default(struct vm *vm, uint32_t gsi, bool level)
{
	if (gsi < PIC_LINES)
		drive_pin(vm, gsi < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE, gsi & 7,
			  level);
	if (gsi < IOAPIC_LINES) /* the timer is wired to input 2 */
		drive_pin(vm, KVM_IRQCHIP_IOAPIC, gsi == 0 ? 2 : gsi, level);
}

static int drive_gsi_locked(struct vm *vm, uint32_t gsi, bool level)
{
	const struct irqchip *irqchip = &vm->irqchip;
	int result = 0;

	if (!irqchip->routes) {
		if (irqchip_has_pic(irqchip))
			drive_default(vm, gsi, level);
		return 1;
	}
	for (uint32_t i = 0; i < irqchip->route_count; i++) {
		const struct kvm_irq_routing_entry *route = &irqchip->routes[i];

		if (route->gsi != gsi)
			continue;
		result = 1;
		if (route->type == KVM_IRQ_ROUTING_IRQCHIP)
			drive_pin(vm, route->u.irqchip.irqchip, route->u.irqchip.pin, level);
		else if (level)
			(void)deliver_msi(
			    vm, (uint64_t)route->u.msi.address_hi << 32 | route->u.msi.address_lo,
			    route->u.msi.data);
	}
	return result;
}

void irqchip_pulse(struct vm *vm, uint32_t gsi)
{
	pthread_mutex_lock(&vm->irqchip.lock);
	drive_gsi_locked(vm, gsi, true);
	drive_gsi_locked(vm, gsi, false);
	pthread_mutex_unlock(&vm->irqchip.lock);
}

static int drive_line(struct vm *vm, const struct kvm_irq_level *line)
{
	int status;

	if (!irqchip_has_pic(&vm->irqchip))
		return -ENXIO;
	pthread_mutex_lock(&vm->irqchip.lock);
	status = drive_gsi_locked(vm, line->irq, line->level != 0);
	pthread_mutex_unlock(&vm->irqchip.lock);
	return status;
}

long vm_irq_line(struct ioctl_call *call)
{
	int status = drive_line(call->object, call->data);

	return status < 0 ? status : 0;
}

long vm_irq_line_status(struct ioctl_call *call)
{
	struct kvm_irq_level *line = call->data;
	int status = drive_line(call->object, line);

	if (status < 0)
		return status;
	line->status = status;
	return 0;
}

enum cpu_io_result irqchip_pio(struct vm *vm, struct cpu_io *io)
{
	struct irqchip *irqchip = &vm->irqchip;
	bool ours;

	if (!irqchip_has_pic(irqchip) || io->size_bytes != 1)
		return CPU_IO_USER;
	pthread_mutex_lock(&irqchip->lock);
	if (io->is_write)
		ours = pic_write(&irqchip->pic, (uint16_t)io->address, io->data[0]);
	else
		ours = pic_read(&irqchip->pic, (uint16_t)io->address, &io->data[0]);
	if (ours && io->is_write && pic_output(&irqchip->pic))
		irqchip_pic_notify(vm);
	pthread_mutex_unlock(&irqchip->lock);
	return ours ? CPU_IO_DONE : CPU_IO_USER;
}

enum cpu_io_result irqchip_mmio(struct vm *vm, struct cpu_io *io)
{
	struct irqchip *irqchip = &vm->irqchip;
	uint64_t offset;
	uint32_t value = 0;

	if (!irqchip_has_pic(irqchip))
		return CPU_IO_USER;
	pthread_mutex_lock(&irqchip->lock);
	offset = io->address - irqchip->ioapic.state.base_address;
	if (offset >= IOAPIC_SIZE_BYTES) {
		pthread_mutex_unlock(&irqchip->lock);
		return CPU_IO_USER;
	}
	if (io->is_write) {
		memcpy(&value, io->data, io->size_bytes < 4 ? io->size_bytes : 4);
		ioapic_write(vm, offset, value);
	} else {
		memset(io->data, 0, sizeof(io->data));
		value = ioapic_read(&irqchip->ioapic, offset);
		memcpy(io->data, &value, sizeof(value));
	}
	pthread_mutex_unlock(&irqchip->lock);
	return CPU_IO_DONE;
}

void irqchip_eoi(struct vm *vm, uint8_t vector)
{
	if (!irqchip_has_pic(&vm->irqchip))
		return;
	pthread_mutex_lock(&vm->irqchip.lock);
	ioapic_eoi(vm, vector);
	pthread_mutex_unlock(&vm->irqchip.lock);
}

bool irqchip_pic_pending(struct vm *vm)
{
	bool pending;

	if (!irqchip_has_pic(&vm->irqchip))
		return false;
	pthread_mutex_lock(&vm->irqchip.lock);
	pending = pic_output(&vm->irqchip.pic);
	pthread_mutex_unlock(&vm->irqchip.lock);
	return pending;
}

int irqchip_pic_take(struct vm *vm)
{
	int vector = -1;

	if (!irqchip_has_pic(&vm->irqchip))
		return -1;
	pthread_mutex_lock(&vm->irqchip.lock);
	if (pic_output(&vm->irqchip.pic))
		vector = pic_acknowledge(&vm->irqchip.pic);
	pthread_mutex_unlock(&vm->irqchip.lock);
	return vector;
}

static long create_kind_locked(struct vm *vm, enum irqchip_kind kind)
{
	if (atomic_load(&vm->irqchip.kind) != IRQCHIP_NONE)
		return -EEXIST;
	if (atomic_load(&vm->vcpu_count))
		return -EINVAL;
	atomic_store_explicit(&vm->irqchip.kind, kind, memory_order_release);
	return 0;
}

long vm_create_irqchip(struct ioctl_call *call)
{
	struct vm *vm = call->object;
	long result;

	pthread_mutex_lock(&vm->lock);
	result = create_kind_locked(vm, IRQCHIP_KERNEL);
	pthread_mutex_unlock(&vm->lock);
	return result;
}

long irqchip_split_locked(struct vm *vm, uint64_t lines)
{
	if (lines > IRQCHIP_MAX_ROUTES)
		return -EINVAL;
	return create_kind_locked(vm, IRQCHIP_SPLIT);
}

/* Is there the chip that @chip names? */
static long chip_check(struct irqchip *irqchip, const struct kvm_irqchip *chip)
{
	if (!irqchip_has_pic(irqchip))
		return -ENXIO;
	return chip->chip_id > KVM_IRQCHIP_IOAPIC ? -EINVAL : 0;
}

long vm_get_irqchip(struct ioctl_call *call)
{
	struct kvm_irqchip *chip = call->data;
	struct vm *vm = call->object;
	struct irqchip *irqchip = &vm->irqchip;
	long error = chip_check(irqchip, chip);

	if (error)
		return error;
	pthread_mutex_lock(&irqchip->lock);
	if (chip->chip_id == KVM_IRQCHIP_IOAPIC)
		chip->chip.ioapic = irqchip->ioapic.state;
	else
		chip->chip.pic = irqchip->pic.chip[chip->chip_id];
	pthread_mutex_unlock(&irqchip->lock);
	return 0;
}

long vm_set_irqchip(struct ioctl_call *call)
{
	const struct kvm_irqchip *chip = call->data;
	struct vm *vm = call->object;
	struct irqchip *irqchip = &vm->irqchip;
	long error = chip_check(irqchip, chip);

	if (error)
		return error;
	pthread_mutex_lock(&irqchip->lock);
	if (chip->chip_id == KVM_IRQCHIP_IOAPIC) {
		irqchip->ioapic.state = chip->chip.ioapic;
		ioapic_service(vm);
	} else {
		irqchip->pic.chip[chip->chip_id] = chip->chip.pic;
		if (pic_output(&irqchip->pic))
			irqchip_pic_notify(vm);
	}
	pthread_mutex_unlock(&irqchip->lock);
	return 0;
}

static bool route_valid(const struct vm *vm, const struct kvm_irq_routing_entry *route)
{
	if (route->gsi >= IRQCHIP_MAX_ROUTES)
		return false;
	if (route->type == KVM_IRQ_ROUTING_MSI)
		return !route->flags;
	if (route->type != KVM_IRQ_ROUTING_IRQCHIP || route->flags ||
	    !irqchip_has_pic(&vm->irqchip))
		return false;
	if (route->u.irqchip.irqchip == KVM_IRQCHIP_IOAPIC)
		return route->u.irqchip.pin < IOAPIC_LINES;
	return route->u.irqchip.irqchip < KVM_IRQCHIP_IOAPIC &&
	       route->u.irqchip.pin < PIC_LINES / 2;
}

long vm_set_gsi_routing(struct ioctl_call *call)
{
	const struct kvm_irq_routing *header = call->data;
	struct vm *vm = call->object;
	struct kvm_irq_routing_entry *routes, *old;
	size_t size_bytes = header->nr * sizeof(*routes);

	if (!irqchip_has_lapic(&vm->irqchip) || header->nr > IRQCHIP_MAX_ROUTES || header->flags)
		return -EINVAL;
	routes = malloc(size_bytes + 1);
	if (!routes)
		return -ENOMEM;
	if (user_copy_in(routes, call->argument + sizeof(*header), size_bytes)) {
		free(routes);
		return -EFAULT;
	}
	for (uint32_t i = 0; i < header->nr; i++) {
		if (route_valid(vm, &routes[i]))
			continue;
		free(routes);
		return -EINVAL;
	}
	pthread_mutex_lock(&vm->irqchip.lock);
	old = vm->irqchip.routes;
	vm->irqchip.routes = routes;
	vm->irqchip.route_count = header->nr;
	pthread_mutex_unlock(&vm->irqchip.lock);
	free(old);
	return 0;
}

long vm_signal_msi(struct ioctl_call *call)
{
	const struct kvm_msi *msi = call->data;
	struct vm *vm = call->object;
	int accepted;

	if (!irqchip_has_lapic(&vm->irqchip) || msi->flags)
		return -EINVAL;
	pthread_mutex_lock(&vm->irqchip.lock);
	accepted = deliver_msi(vm, (uint64_t)msi->address_hi << 32 | msi->address_lo, msi->data);
	pthread_mutex_unlock(&vm->irqchip.lock);
	return accepted;
}

long vm_set_boot_cpu_id(struct ioctl_call *call)
{
	struct vm *vm = call->object;
	long result = 0;

	pthread_mutex_lock(&vm->lock);
	if (atomic_load(&vm->vcpu_count)) {
		result = -EBUSY;
	} else if (call->argument >= VM_MAX_VCPU_IDS) {
		result = -EINVAL;
	} else {
		vm->settings.boot_vcpu_id = (uint32_t)call->argument;
		vm->settings.boot_id_set = true;
	}
	pthread_mutex_unlock(&vm->lock);
	return result;
}
