/* Statistics files: header, name, descriptors and values, as one readable image. */
#include "frontend/report/stats_file.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <quire/stats.h>

#include "frontend/file/user_copy.h"
#include "frontend/object/vcpu.h"
#include "frontend/object/vm.h"
#include "frontend/uapi.h"
#include "hosts/process/heap.h"
#include "vcpu/svm/nested.h"

#define NAME_BYTES 48u
#define HEADER_BYTES ((uint32_t)sizeof(struct kvm_stats_header))
#define DESC_OFFSET (HEADER_BYTES + NAME_BYTES)

/* struct kvm_stats_desc with its name. */
struct stat_desc {
	uint32_t flags;
	int16_t exponent;
	uint16_t size;
	uint32_t offset;
	uint32_t bucket_size;
	char name[NAME_BYTES];
};
_Static_assert(sizeof(struct stat_desc) == sizeof(struct kvm_stats_desc) + NAME_BYTES, "layout");

struct stat_name {
	const char *name;
	uint32_t flags;
	int16_t exponent;
	uint16_t size; /* values */
};

#define STAT_NAME(name, kind) {#name, kind, 0, 1},
static const struct stat_name vm_names[] = {QUIRE_VM_STATS(STAT_NAME)};

#define COUNT_NAME(name) {#name, KVM_STATS_TYPE_CUMULATIVE, 0, 1},
#define TIME_NAME(name) {#name, KVM_STATS_TYPE_CUMULATIVE | KVM_STATS_UNIT_SECONDS, -9, 1},
#define HIST_NAME(name) \
	{#name, KVM_STATS_TYPE_LOG_HIST | KVM_STATS_UNIT_SECONDS, -9, VCPU_HALT_BUCKETS},
#define OWN_NAME(name) {"quire_" #name, KVM_STATS_TYPE_CUMULATIVE, 0, 1},
#define FLAG_NAME(name) {#name, KVM_STATS_TYPE_INSTANT | KVM_STATS_UNIT_BOOLEAN, 0, 1},
/* sample_vcpu() has the same order. */
static const struct stat_name vcpu_names[] = {
    VCPU_HALT_COUNTS(COUNT_NAME) VCPU_HALT_TIMES(TIME_NAME) HIST_NAME(halt_poll_success_hist)
	HIST_NAME(halt_poll_fail_hist) HIST_NAME(halt_wait_hist) FLAG_NAME(blocking)
	    QUIRE_VCPU_STATS(STAT_NAME) VCPU_EXIT_STATS(COUNT_NAME) FLAG_NAME(guest_mode)
		COUNT_NAME(notify_window_exits) CPU_CODE_COUNTS(OWN_NAME)};
#define VM_COUNT (sizeof(vm_names) / sizeof(vm_names[0]))
#define VCPU_COUNT (sizeof(vcpu_names) / sizeof(vcpu_names[0]))
#define MAX_COUNT (VM_COUNT > VCPU_COUNT ? VM_COUNT : VCPU_COUNT)
#define VCPU_VALUES (VCPU_COUNT + 3 * (VCPU_HALT_BUCKETS - 1))
#define MAX_VALUES (VM_COUNT > VCPU_VALUES ? VM_COUNT : VCPU_VALUES)

/* What is behind one descriptor; it holds a reference to the VM. */
struct stats_object {
	struct vm *vm;
	struct vcpu *vcpu; /* NULL: the VM's own statistics */
};

struct stats_image {
	struct kvm_stats_header header;
	char id[NAME_BYTES];
	struct stat_desc desc[MAX_COUNT];
	uint64_t data[MAX_VALUES];
};

static void sample_vm(const struct vm *vm, uint64_t *data)
{
	for (uint32_t i = 0; i < VM_COUNT; i++)
		data[i] = quire_vm_stat(vm->memory, (enum quire_vm_stat)i);
}

static void sample_vcpu(struct vcpu *vcpu, uint64_t *data)
{
	const struct cpu_counts *counts = cpu_counts(vcpu->cpu);

	atomic_store(&vcpu->stats.nmi_injections, __atomic_load_n(&counts->nmis, __ATOMIC_RELAXED));
	atomic_store(&vcpu->stats.nested_run,
		     __atomic_load_n(&counts->nested_enters, __ATOMIC_RELAXED));
#define SAMPLE(name) *data++ = atomic_load_explicit(&vcpu->stats.name, memory_order_relaxed);
	VCPU_HALT_COUNTS(SAMPLE)
	VCPU_HALT_TIMES(SAMPLE)
	/* The two of polling, which there is none of. */
	memset(data, 0, 2 * VCPU_HALT_BUCKETS * sizeof(*data));
	data += 2 * VCPU_HALT_BUCKETS;
	for (uint32_t i = 0; i < VCPU_HALT_BUCKETS; i++)
		SAMPLE(halt_wait_hist[i])
	SAMPLE(blocking)
	for (uint32_t i = 0; i < QUIRE_VCPU_STAT_COUNT; i++)
		data[i] = quire_vcpu_stat(vcpu->memory, (enum quire_vcpu_stat)i);
	data[QUIRE_VCPU_STAT_pf_guest] += atomic_load(&vcpu->async_pf.injected);
	data += QUIRE_VCPU_STAT_COUNT;
	VCPU_EXIT_STATS(SAMPLE)
#undef SAMPLE
	*data++ = (uint64_t)cpu_nested_active(vcpu->cpu);
	*data++ = 0;
#define SAMPLE_CODE(name) *data++ = __atomic_load_n(&counts->name, __ATOMIC_RELAXED);
	CPU_CODE_COUNTS(SAMPLE_CODE)
#undef SAMPLE_CODE
}

void stats_visit_vm(const struct vm *vm, stats_visit_fn visit, void *ctx)
{
	uint64_t data[VM_COUNT];

	sample_vm(vm, data);
	for (uint32_t i = 0; i < VM_COUNT; i++)
		visit(ctx, vm_names[i].name, data[i]);
}

void stats_visit_vcpu(struct vcpu *vcpu, stats_visit_fn visit, void *ctx)
{
	uint64_t data[VCPU_VALUES], *value = data;

	sample_vcpu(vcpu, data);
	for (uint32_t i = 0; i < VCPU_COUNT; value += vcpu_names[i++].size)
		if (vcpu_names[i].size == 1)
			visit(ctx, vcpu_names[i].name, *value);
}

/* The bytes of the values that they describe. */
static uint32_t fill_descs(struct stat_desc *desc, const struct stat_name *names, uint32_t count)
{
	uint32_t offset = 0;

	for (uint32_t i = 0; i < count; i++) {
		desc[i].flags = names[i].flags;
		desc[i].exponent = names[i].exponent;
		desc[i].size = names[i].size;
		desc[i].offset = offset;
		snprintf(desc[i].name, sizeof(desc[i].name), "%s", names[i].name);
		offset += names[i].size * (uint32_t)sizeof(uint64_t);
	}
	return offset;
}

/* The file's contents, one part after the other in @image; their size in bytes. */
static size_t build(const struct stats_object *object, struct stats_image *image)
{
	uint32_t count = object->vcpu ? VCPU_COUNT : VM_COUNT, data_bytes;

	memset(image, 0, sizeof(*image));
	image->header.name_size = NAME_BYTES;
	image->header.num_desc = count;
	image->header.id_offset = HEADER_BYTES;
	image->header.desc_offset = DESC_OFFSET;
	image->header.data_offset = DESC_OFFSET + count * (uint32_t)sizeof(struct stat_desc);
	if (object->vcpu) {
		snprintf(image->id, sizeof(image->id), "kvm-%d/vcpu-%u", object->vm->owner,
			 object->vcpu->id);
		data_bytes = fill_descs(image->desc, vcpu_names, count);
		sample_vcpu(object->vcpu, image->data);
	} else {
		snprintf(image->id, sizeof(image->id), "kvm-%d", object->vm->owner);
		data_bytes = fill_descs(image->desc, vm_names, count);
		sample_vm(object->vm, image->data);
	}
	/* The data follows the last descriptor in use. */
	memmove((char *)image + image->header.data_offset, image->data, data_bytes);
	return image->header.data_offset + data_bytes;
}

static ssize_t stats_read_at(struct file *file, void *dst, size_t size_bytes, off_t offset_bytes)
{
	struct stats_image image;
	size_t total = build(file_object(file), &image);

	if (offset_bytes < 0)
		return -EINVAL;
	if ((size_t)offset_bytes >= total)
		return 0;
	if (size_bytes > total - (size_t)offset_bytes)
		size_bytes = total - (size_t)offset_bytes;
	if (user_copy_out((uintptr_t)dst, (const char *)&image + offset_bytes, size_bytes))
		return -EFAULT;
	return (ssize_t)size_bytes;
}

/* KVM's statistics files know no ioctl at all. */
static long stats_ioctl(struct file *file, unsigned long command, unsigned long argument)
{
	(void)file;
	(void)command;
	(void)argument;
	return -ENOTTY;
}

static void stats_release(struct file *file)
{
	struct stats_object *object = file_object(file);

	vm_put(object->vm);
	process_heap_free(object);
}

static const struct file_ops stats_file_ops = {
    .kind = FILE_STATS,
    .name = "kvm-vm-stats",
    .ioctl = stats_ioctl,
    .read_at = stats_read_at,
    .release = stats_release,
};

static long open_stats(struct vm *vm, struct vcpu *vcpu)
{
	char name[40];
	struct file_config config = {.ops = &stats_file_ops, .cloexec = true};
	struct stats_object *object = process_heap_alloc(sizeof(*object));
	int fd;

	if (!object)
		return -ENOMEM;
	vm_get(vm);
	object->vm = vm;
	object->vcpu = vcpu;
	config.object = object;
	if (vcpu) {
		snprintf(name, sizeof(name), "kvm-vcpu-stats:%u", vcpu->id);
		config.name = name;
	}
	fd = file_create(&config);
	if (fd < 0) {
		vm_put(vm);
		process_heap_free(object);
	}
	return fd;
}

long vm_get_stats_fd(struct ioctl_call *call)
{
	return open_stats(call->object, NULL);
}

long vcpu_get_stats_fd(struct ioctl_call *call)
{
	struct vcpu *vcpu = call->object;

	return open_stats(vcpu->vm, vcpu);
}
