/* The interrupt controllers of a VM: lines and their routes, ports, ends of interrupt, states. */
#include "frontend/irq/irqchip.h"

#include <errno.h>
#include <string.h>

#include "frontend/file/user_copy.h"
#include "frontend/irq/lapic.h"
#include "frontend/object/vcpu.h"
#include "frontend/object/vm.h"
#include "hosts/process/heap.h"
#include "hosts/process/lock.h"

#define LEVEL_MSI (1u << 15)

static struct vm *vm_of_pic(struct pic *pic)
{
	return (struct vm *)((char *)pic - offsetof(struct vm, irqchip.pic));
}

static void pic_acked(struct pic *pic, unsigned int line)
{
	irqchip_acked_locked(vm_of_pic(pic),
			     line < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE, line & 7);
}

static void pic_mask_changed(struct pic *pic, unsigned int line, bool masked)
{
	irqchip_mask_changed_locked(vm_of_pic(pic),
				    line < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE,
				    line & 7, masked);
}

/* The vCPU that takes the PIC's interrupts, NULL when none does. */
static struct vcpu *find_pic_listener(struct vm *vm)
{
	uint32_t count = atomic_load_explicit(&vm->vcpu_count, memory_order_acquire);

	for (uint32_t i = 0; i < count; i++)
		if (lapic_accepts_pic(vm->vcpus[i]))
			return vm->vcpus[i];
	return NULL;
}

static void pic_raised(struct pic *pic)
{
	struct vcpu *vcpu = find_pic_listener(vm_of_pic(pic));

	if (vcpu)
		vcpu_wake(vcpu);
}

static bool pic_has_listener(struct pic *pic)
{
	return find_pic_listener(vm_of_pic(pic)) != NULL;
}

static const struct pic_ops pic_ops = {
    .acked = pic_acked,
    .mask_changed = pic_mask_changed,
    .raised = pic_raised,
    .has_listener = pic_has_listener,
};

void irqchip_init(struct irqchip *irqchip)
{
	irqchip->lock = (struct process_lock){0};
	atomic_init(&irqchip->kind, IRQCHIP_NONE);
	pic_reset(&irqchip->pic, &pic_ops);
	ioapic_reset(&irqchip->ioapic);
}

void irqchip_destroy(struct irqchip *irqchip)
{
	irq_routes_destroy(irqchip->routes);
}

static bool eoi_wanted(const atomic_uint_fast64_t vectors[4], uint8_t vector)
{
	return atomic_load_explicit(&vectors[vector / 64], memory_order_acquire) >> vector % 64 & 1;
}

/* How a line is driven, wherever it is routed. */
struct drive {
	uint32_t gsi;
	enum irq_source source;
	bool level;
	bool wants_status;
};

static int deliver_msi(struct vm *vm, uint64_t address, uint32_t data)
{
	struct apic_message message = apic_message_of_msi(vm, address, data);

	return apic_deliver(vm, &message);
}

static int drive_route(struct vm *vm, const struct kvm_irq_routing_entry *route,
		       const struct drive *drive)
{
	uint32_t pin = route->u.irqchip.pin;
	struct ioapic_drive ioapic = {pin, drive->source, drive->level, drive->wants_status};

	if (route->type == KVM_IRQ_ROUTING_MSI) {
		if (!drive->level)
			return -1;
		return deliver_msi(
		    vm, (uint64_t)route->u.msi.address_hi << 32 | route->u.msi.address_lo,
		    route->u.msi.data);
	}
	if (route->u.irqchip.irqchip == KVM_IRQCHIP_IOAPIC)
		return ioapic_set_line(vm, &ioapic);
	if (route->u.irqchip.irqchip == KVM_IRQCHIP_PIC_SLAVE)
		pin += PIC_LINES / 2;
	return pic_set_line(&vm->irqchip.pic, pin, drive->source, drive->level);
}

/* How many took it, 0: it was pending already, -1: none could. */
static int drive_locked(struct vm *vm, const struct drive *drive)
{
	const struct kvm_irq_routing_entry *route;
	int result = -1, taken;
	uint32_t count;

	route = irq_routes_find(vm->irqchip.routes, drive->gsi, &count);
	for (uint32_t i = 0; i < count; i++) {
		taken = drive_route(vm, &route[i], drive);
		if (taken >= 0)
			result = taken + (result < 0 ? 0 : result);
	}
	return result;
}

void irqchip_pulse_locked(struct vm *vm, uint32_t gsi, enum irq_source source)
{
	struct drive drive = {.gsi = gsi, .source = source, .level = true};

	(void)drive_locked(vm, &drive);
	drive.level = false;
	(void)drive_locked(vm, &drive);
}

void irqchip_pulse(struct vm *vm, uint32_t gsi)
{
	process_lock_acquire(&vm->irqchip.lock);
	irqchip_pulse_locked(vm, gsi, IRQ_SOURCE_CLIENT);
	process_lock_release(&vm->irqchip.lock);
}

void irqchip_drive_locked(struct vm *vm, uint32_t gsi, enum irq_source source, bool level)
{
	struct drive drive = {.gsi = gsi, .source = source, .level = level};

	(void)drive_locked(vm, &drive);
}

void irqchip_drive(struct vm *vm, uint32_t gsi, enum irq_source source, bool level)
{
	process_lock_acquire(&vm->irqchip.lock);
	irqchip_drive_locked(vm, gsi, source, level);
	process_lock_release(&vm->irqchip.lock);
}

static int gsi_of(const struct irqchip *irqchip, uint32_t chip, uint32_t pin)
{
	return irqchip->routes ? irqchip->routes->pin_gsi[chip][pin] : -1;
}

void irqchip_acked_locked(struct vm *vm, uint32_t chip, uint32_t pin)
{
	int gsi = gsi_of(&vm->irqchip, chip, pin);

	if (gsi < 0)
		return;
	if (gsi == (int)PIT_GSI)
		pit_acked_locked(vm);
	resample_acked_locked(vm, (uint32_t)gsi);
}

bool irqchip_has_listener_locked(struct vm *vm, uint32_t chip, uint32_t pin)
{
	const struct pit *pit = &vm->irqchip.pit;
	int gsi = gsi_of(&vm->irqchip, chip, pin);

	if (gsi == (int)PIT_GSI && pit->present && pit->reinject)
		return true;
	return gsi >= 0 && resample_wanted_locked(vm, (uint32_t)gsi);
}

void irqchip_mask_changed_locked(struct vm *vm, uint32_t chip, uint32_t pin, bool masked)
{
	if (gsi_of(&vm->irqchip, chip, pin) == (int)PIT_GSI)
		pit_mask_changed_locked(vm, masked);
}

bool irqchip_gsi_is_masked_locked(struct vm *vm, uint32_t gsi)
{
	const struct irqchip *irqchip = &vm->irqchip;
	const struct kvm_irq_routing_entry *route;
	uint32_t count, chip, pin;

	route = irq_routes_find(irqchip->routes, gsi, &count);
	for (uint32_t i = 0; i < count; i++) {
		chip = route[i].u.irqchip.irqchip;
		pin = route[i].u.irqchip.pin;
		if (route[i].type != KVM_IRQ_ROUTING_IRQCHIP)
			return false;
		if (chip == KVM_IRQCHIP_IOAPIC ? !irqchip->ioapic.state.redirtbl[pin].fields.mask
					       : !(irqchip->pic.chip[chip].imr >> pin & 1))
			return false;
	}
	return true;
}

void irqchip_watchdog_locked(struct vm *vm)
{
	uint32_t count = atomic_load_explicit(&vm->vcpu_count, memory_order_acquire);

	if (!irqchip_watchdog_listens(&vm->irqchip))
		return;
	for (uint32_t i = 0; i < count; i++)
		lapic_deliver_lint0(vm->vcpus[i]);
}

void irqchip_watchdog_began(struct vm *vm)
{
	process_lock_acquire(&vm->irqchip.lock);
	pit_wake_locked(vm);
	process_lock_release(&vm->irqchip.lock);
}

void irqchip_lapic_restored(struct vm *vm)
{
	if (!irqchip_has_pic(&vm->irqchip))
		return;
	process_lock_acquire(&vm->irqchip.lock);
	ioapic_clock_restore(vm);
	process_lock_release(&vm->irqchip.lock);
}

/* @status: where KVM_IRQ_LINE_STATUS wants the answer, or NULL. */
static long drive_line(struct vm *vm, const struct kvm_irq_level *line, __s32 *status)
{
	struct drive drive = {
	    .gsi = line->irq,
	    .source = IRQ_SOURCE_CLIENT,
	    .level = line->level != 0,
	    .wants_status = status != NULL,
	};
	int taken;

	if (!irqchip_has_lapic(&vm->irqchip))
		return -ENXIO;
	process_lock_acquire(&vm->irqchip.lock);
	taken = drive_locked(vm, &drive);
	process_lock_release(&vm->irqchip.lock);
	if (status)
		*status = taken;
	return 0;
}

long vm_irq_line(struct ioctl_call *call)
{
	return drive_line(call->object, call->data, NULL);
}

long vm_irq_line_status(struct ioctl_call *call)
{
	struct kvm_irq_level *line = call->data;
	__s32 status = 0;
	long error = drive_line(call->object, line, &status);

	if (!error)
		line->status = status;
	return error;
}

/* Two ports each: a pair of them is accessed as a byte each, or not at all. */
static bool is_pic_port(const struct cpu_io *io)
{
	uint64_t pair = io->address & ~UINT64_C(1);

	return (pair == 0x20 || pair == 0xa0 || pair == 0x4d0) &&
	       (io->address & 1) + io->size_bytes <= 2;
}

static void pic_pio_locked(struct vm *vm, struct cpu_io *io)
{
	struct pic *pic = &vm->irqchip.pic;
	uint16_t port = (uint16_t)io->address;

	if (!io->is_write)
		memset(io->data, 0, sizeof(io->data));
	if (io->size_bytes != 1)
		return;
	if (io->is_write)
		(void)pic_write(pic, port, io->data[0]);
	else
		(void)pic_read(pic, port, &io->data[0]);
	if (io->is_write)
		pit_wake_locked(vm);
}

enum cpu_io_result irqchip_pio(struct vm *vm, struct cpu_io *io)
{
	struct irqchip *irqchip = &vm->irqchip;
	bool ours = true;

	/* The PIT's and the speaker's ports, or the PICs'; most accesses are none, and take no
	 * lock. */
	if (!irqchip_has_pic(irqchip) || (io->address & ~UINT64_C(0x23)) != 0x40) {
		if (!irqchip_has_pic(irqchip) || !is_pic_port(io))
			return CPU_IO_USER;
	}
	process_lock_acquire(&irqchip->lock);
	if (is_pic_port(io))
		pic_pio_locked(vm, io);
	else
		ours = pit_pio_locked(vm, io);
	process_lock_release(&irqchip->lock);
	return ours ? CPU_IO_DONE : CPU_IO_USER;
}

static void ioapic_mmio_locked(struct vm *vm, struct cpu_io *io, uint64_t offset)
{
	uint32_t value = 0;

	if (io->is_write) {
		memcpy(&value, io->data, io->size_bytes < 4 ? io->size_bytes : 4);
		ioapic_write(vm, offset, value);
	} else {
		memset(io->data, 0, sizeof(io->data));
		value = ioapic_read(&vm->irqchip.ioapic, offset);
		memcpy(io->data, &value, sizeof(value));
	}
}

/* The chip stays where it was made; a state with another base makes it deaf. */
enum cpu_io_result irqchip_mmio(struct vm *vm, struct cpu_io *io)
{
	struct irqchip *irqchip = &vm->irqchip;
	uint64_t offset = io->address - IOAPIC_DEFAULT_BASE;
	bool ours;

	if (!irqchip_has_pic(irqchip) || offset + io->size_bytes > IOAPIC_SIZE_BYTES ||
	    offset >= IOAPIC_SIZE_BYTES)
		return CPU_IO_USER;
	process_lock_acquire(&irqchip->lock);
	ours = io->address - irqchip->ioapic.state.base_address < IOAPIC_SIZE_BYTES;
	if (ours)
		ioapic_mmio_locked(vm, io, io->address & 0xff);
	process_lock_release(&irqchip->lock);
	return ours ? CPU_IO_DONE : CPU_IO_USER;
}

/* Of a split irqchip: is @vector one of the client's I/O APIC's, to @vcpu? */
static bool route_ends_locked(struct vcpu *vcpu, uint8_t vector)
{
	const struct irqchip *irqchip = &vcpu->vm->irqchip;
	const struct irq_routes *routes = irqchip->routes;

	for (uint32_t i = 0; i < routes->gsi_count && i < irqchip->reserved_pins; i++) {
		const struct kvm_irq_routing_entry *route = &routes->entries[routes->first[i]];
		struct apic_message message;

		if (routes->first[i] == routes->first[i + 1])
			continue;
		message = apic_message_of_msi(
		    vcpu->vm, (uint64_t)route->u.msi.address_hi << 32 | route->u.msi.address_lo,
		    route->u.msi.data);
		if (message.level && message.vector == vector && lapic_matches(vcpu, &message))
			return true;
	}
	return false;
}

int irqchip_eoi(struct vcpu *vcpu, uint8_t vector, bool level)
{
	struct irqchip *irqchip = &vcpu->vm->irqchip;
	int wanted = 0;

	if (irqchip_has_pic(irqchip)) {
		if (!eoi_wanted(irqchip->ioapic.eoi_vectors, vector))
			return 0;
		process_lock_acquire(&irqchip->lock);
		ioapic_eoi(vcpu, vector, level);
		process_lock_release(&irqchip->lock);
	} else if (eoi_wanted(irqchip->eoi_vectors, vector)) {
		process_lock_acquire(&irqchip->lock);
		wanted = level || route_ends_locked(vcpu, vector);
		process_lock_release(&irqchip->lock);
	}
	return wanted;
}

bool irqchip_hears_eoi(const struct vm *vm, uint8_t vector)
{
	const struct irqchip *irqchip = &vm->irqchip;

	if (irqchip_has_pic(irqchip))
		return eoi_wanted(irqchip->ioapic.eoi_vectors, vector);
	return eoi_wanted(irqchip->eoi_vectors, vector);
}

bool irqchip_pic_pending(struct vm *vm)
{
	return irqchip_has_pic(&vm->irqchip) && pic_output(&vm->irqchip.pic);
}

int irqchip_pic_take(struct vm *vm)
{
	int vector;

	if (!irqchip_pic_pending(vm))
		return -1;
	process_lock_acquire(&vm->irqchip.lock);
	vector = pic_acknowledge(&vm->irqchip.pic);
	process_lock_release(&vm->irqchip.lock);
	return vector;
}

/* Set the routes first: a reader of the kind then finds them. */
static long create_kind_locked(struct vm *vm, enum irqchip_kind kind)
{
	struct irqchip *irqchip = &vm->irqchip;
	int error;

	if (atomic_load(&irqchip->kind) != IRQCHIP_NONE)
		return -EEXIST;
	if (atomic_load(&vm->vcpu_count))
		return kind == IRQCHIP_SPLIT ? -EEXIST : -EINVAL;
	/* For the local APICs, the I/O APIC and the PIT, which need one of these calls first. */
	error = vm_timers_start(&vm->timers);
	if (error)
		return error;
	if (kind == IRQCHIP_KERNEL)
		error = irq_routes_create_default(&irqchip->routes);
	else
		error = irq_routes_create(&(struct irq_route_rules){0}, NULL, 0, &irqchip->routes);
	if (error)
		return error;
	ioapic_scan(vm);
	atomic_store_explicit(&irqchip->kind, kind, memory_order_release);
	return 0;
}

long vm_create_irqchip(struct ioctl_call *call)
{
	struct vm *vm = call->object;
	long result;

	process_lock_acquire(&vm->lock);
	result = create_kind_locked(vm, IRQCHIP_KERNEL);
	process_lock_release(&vm->lock);
	return result;
}

long irqchip_split_locked(struct vm *vm, uint64_t lines)
{
	if (lines > IRQ_ROUTES_MAX)
		return -EINVAL;
	if (!irqchip_has_lapic(&vm->irqchip))
		vm->irqchip.reserved_pins = (uint32_t)lines;
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
	process_lock_acquire(&irqchip->lock);
	if (chip->chip_id == KVM_IRQCHIP_IOAPIC)
		ioapic_get_state(&irqchip->ioapic, &chip->chip.ioapic);
	else
		chip->chip.pic = irqchip->pic.chip[chip->chip_id];
	process_lock_release(&irqchip->lock);
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
	process_lock_acquire(&irqchip->lock);
	if (chip->chip_id == KVM_IRQCHIP_IOAPIC) {
		ioapic_set_state(vm, &chip->chip.ioapic);
	} else {
		irqchip->pic.chip[chip->chip_id] = chip->chip.pic;
		pic_update(&irqchip->pic);
	}
	pit_wake_locked(vm);
	process_lock_release(&irqchip->lock);
	return 0;
}

static bool is_owed(struct vm *vm, uint8_t vector)
{
	uint32_t count = atomic_load_explicit(&vm->vcpu_count, memory_order_acquire);

	for (uint32_t i = 0; i < count; i++)
		if (lapic_owes_eoi(vm->vcpus[i], vector))
			return true;
	return false;
}

/* Split: the vectors of level lines, and of old routes what is under way. */
static void scan_routes_locked(struct vm *vm)
{
	struct irqchip *irqchip = &vm->irqchip;
	const struct irq_routes *routes = irqchip->routes;
	uint64_t vectors[4] = {0};

	for (uint32_t i = 0; i < routes->gsi_count && i < irqchip->reserved_pins; i++) {
		const struct kvm_irq_routing_entry *route = &routes->entries[routes->first[i]];

		if (routes->first[i] != routes->first[i + 1] && (route->u.msi.data & LEVEL_MSI))
			vectors[(uint8_t)route->u.msi.data / 64] |= UINT64_C(1)
								    << route->u.msi.data % 64;
	}
	for (unsigned int vector = 0; vector < 256; vector++)
		if (eoi_wanted(irqchip->eoi_vectors, (uint8_t)vector) &&
		    is_owed(vm, (uint8_t)vector))
			vectors[vector / 64] |= UINT64_C(1) << vector % 64;
	for (unsigned int i = 0; i < 4; i++)
		atomic_store_explicit(&irqchip->eoi_vectors[i], vectors[i], memory_order_release);
}

static void set_routes(struct vm *vm, struct irq_routes *routes)
{
	struct irqchip *irqchip = &vm->irqchip;
	struct irq_routes *old;

	process_lock_acquire(&irqchip->lock);
	old = irqchip->routes;
	irqchip->routes = routes;
	if (irqchip_has_pic(irqchip)) {
		ioapic_scan(vm);
		pit_wake_locked(vm);
	} else {
		scan_routes_locked(vm);
	}
	process_lock_release(&irqchip->lock);
	irq_routes_destroy(old);
}

long vm_set_gsi_routing(struct ioctl_call *call)
{
	const struct kvm_irq_routing *header = call->data;
	struct vm *vm = call->object;
	struct irq_route_rules rules = {
	    .has_pins = irqchip_has_pic(&vm->irqchip),
	    .wide_ids = atomic_load(&vm->settings.x2apic_32bit_ids),
	};
	struct kvm_irq_routing_entry *entries;
	size_t size_bytes = header->nr * sizeof(*entries);
	struct irq_routes *routes;
	int error = -EFAULT;

	if (!irqchip_has_lapic(&vm->irqchip) || header->nr > IRQ_ROUTES_MAX || header->flags)
		return -EINVAL;
	entries = process_heap_alloc(size_bytes + 1);
	if (!entries)
		return -ENOMEM;
	if (!user_copy_in(entries, call->argument + sizeof(*header), size_bytes))
		error = irq_routes_create(&rules, entries, header->nr, &routes);
	process_heap_free(entries);
	if (!error)
		set_routes(vm, routes);
	return error;
}

#define MSI_VALID_DEVID 1u /* of ARM's; KVM takes it everywhere */

long vm_signal_msi(struct ioctl_call *call)
{
	const struct kvm_msi *msi = call->data;
	struct vm *vm = call->object;

	if (!irqchip_has_lapic(&vm->irqchip) || (msi->flags & ~MSI_VALID_DEVID))
		return -EINVAL;
	if (atomic_load(&vm->settings.x2apic_32bit_ids) && (msi->address_hi & 0xff))
		return -EINVAL;
	return deliver_msi(vm, (uint64_t)msi->address_hi << 32 | msi->address_lo, msi->data);
}

long vm_set_boot_cpu_id(struct ioctl_call *call)
{
	struct vm *vm = call->object;
	uint32_t most;
	long result = 0;

	process_lock_acquire(&vm->lock);
	most = vm->settings.max_vcpu_ids;
	if (atomic_load(&vm->vcpu_count)) {
		result = -EBUSY;
	} else if (call->argument > (most ? most : VM_MAX_VCPU_IDS)) {
		result = -EINVAL;
	} else {
		vm->settings.boot_vcpu_id = (uint32_t)call->argument;
	}
	process_lock_release(&vm->lock);
	return result;
}
