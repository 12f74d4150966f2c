/* Memory ioctls of a VM: regions, attributes, guest_memfd, dirty logs. */
#include <errno.h>
#include <string.h>

#include <quire/dirty.h>

#include "frontend/file/user_copy.h"
#include "frontend/object/gmem_file.h"
#include "frontend/object/log_watch.h"
#include "frontend/object/vm.h"
#include "frontend/param/params.h"
#include "frontend/run/signals.h"
#include "frontend/uapi.h"
#include "sanitize/private.h"

#define REGION_V1_FLAGS (KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY)

/*
 * The guest_memfd behind a descriptor, as quire_region wants it. Returns the file to be put, NULL
 * when there is none; the library decides when the error counts.
 */
static struct file *find_gmem(int fd, struct quire_region *region)
{
	struct file *file = file_get_kind(fd, &gmem_file_ops);

	if (file)
		region->gmem = gmem_file_gmem(file);
	else
		region->gmem_error = gmem_file_lookup_error(fd);
	return file;
}

/* The slot is so from now on. */
static void tell_sanitizers(struct vm *vm, const struct quire_region *region)
{
	sanitize_slot_set(&(struct sanitize_slot){
	    .vm = &vm->host,
	    .id = region->slot,
	    .has_private = region->flags & KVM_MEM_GUEST_MEMFD,
	    .gpa = region->gpa.v,
	    .size_bytes = region->size_bytes,
	    .hva = region->hva.v,
	});
	log_watch_region(vm, region);
}

static long set_region(struct vm *vm, const struct kvm_userspace_memory_region2 *request)
{
	struct quire_region region = {
	    .slot = request->slot,
	    .flags = request->flags,
	    .gpa = {request->guest_phys_addr},
	    .size_bytes = request->memory_size,
	    .hva = {request->userspace_addr},
	    .gmem_offset_bytes = request->guest_memfd_offset,
	};
	struct file *gmem = NULL;
	long result;

	if ((request->flags & KVM_MEM_GUEST_MEMFD) && request->memory_size)
		gmem = find_gmem((int)request->guest_memfd, &region);
	result = quire_vm_set_region(vm->memory, &region);
	if (!result)
		tell_sanitizers(vm, &region);
	if (gmem)
		file_put(gmem);
	return result;
}

long vm_set_region(struct ioctl_call *call)
{
	const struct kvm_userspace_memory_region *v1 = call->data;
	struct kvm_userspace_memory_region2 request = {0};

	if (v1->flags & ~(uint32_t)REGION_V1_FLAGS)
		return -EINVAL;
	memcpy(&request, v1, sizeof(*v1));
	return set_region(call->object, &request);
}

long vm_set_region2(struct ioctl_call *call)
{
	return set_region(call->object, call->data);
}

long vm_set_attributes(struct ioctl_call *call)
{
	const struct kvm_memory_attributes *request = call->data;
	const struct sanitize_range range = {request->address, request->size};
	bool is_private = request->attributes & QUIRE_ATTRIBUTE_PRIVATE;
	struct vm *vm = call->object;
	long result;

	if (request->flags)
		return -EINVAL;
	if (!is_private)
		sanitize_private_end(&vm->host, &range);
	result = quire_vm_set_attributes(vm->memory, (gpa_t){request->address}, request->size,
					 request->attributes);
	if (is_private && !result)
		sanitize_private_begin(&vm->host, &range);
	return result;
}

long vm_create_gmem(struct ioctl_call *call)
{
	const struct kvm_create_guest_memfd *request = call->data;

	return gmem_file_create(call->object, request->size, request->flags);
}

/* Unknown while its parameter is off: then the argument is not read. */
long vm_link_gmem(struct ioctl_call *call)
{
	struct kvm_link_guest_memfd request;

	if (!params_get_bool("kvm.quire_gmem_link"))
		return -ENOTTY;
	if (user_copy_in(&request, call->argument, sizeof(request)))
		return -EFAULT;
	return request.flags ? -EINVAL : gmem_file_link(call->object, (int)request.fd);
}

/* Where a log's bits go. */
struct log_target {
	uint64_t address; /* the client's */
	struct log_watch_bits copy;
};

static int log_copy_out(void *ctx, uint64_t offset_bytes, const void *src, uint64_t size_bytes)
{
	const struct log_target *target = ctx;

	log_watch_copy(&target->copy, offset_bytes, src, size_bytes);
	return user_copy_out(target->address + offset_bytes, src, size_bytes);
}

/* Where bits to clear come from. */
struct log_source {
	uint64_t address;     /* the client's */
	uint64_t first_bytes; /* of the log */
	struct log_watch_bits copy;
};

static int log_copy_in(void *ctx, uint64_t offset_bytes, void *dst, uint64_t size_bytes)
{
	const struct log_source *source = ctx;
	int error = user_copy_in(dst, source->address + offset_bytes, size_bytes);

	if (!error)
		log_watch_copy(&source->copy, source->first_bytes + offset_bytes, dst, size_bytes);
	return error;
}

long vm_get_dirty_log(struct ioctl_call *call)
{
	const struct kvm_dirty_log *request = call->data;
	struct vm *vm = call->object;
	struct log_target target = {
	    .address = (uintptr_t)request->dirty_bitmap,
	    .copy = log_watch_begin(vm, request->slot),
	};
	long result = quire_vm_get_dirty_log(vm->memory, request->slot, log_copy_out, &target);

	log_watch_harvested(vm, request->slot, &target.copy, result);
	return result;
}

long vm_clear_dirty_log(struct ioctl_call *call)
{
	const struct kvm_clear_dirty_log *request = call->data;
	struct vm *vm = call->object;
	struct log_source source = {
	    .address = (uintptr_t)request->dirty_bitmap,
	    .first_bytes = request->first_page / 8,
	    .copy = log_watch_begin(vm, request->slot),
	};
	const struct quire_clear_log clear = {
	    .slot = request->slot,
	    .npages = request->num_pages,
	    .first_page = request->first_page,
	    .copy_in = log_copy_in,
	    .ctx = &source,
	};
	long result = quire_vm_clear_dirty_log(vm->memory, &clear);

	log_watch_cleared(vm, request->slot, &source.copy, result);
	return result;
}

static int interrupted(void)
{
	return run_signals_pending();
}

/* A signal cuts it short: the client counts what it got, and calls again. */
long vm_reset_dirty_rings(struct ioctl_call *call)
{
	struct vm *vm = call->object;
	struct log_watch_rings *rings = log_watch_rings_begin(vm);
	long taken = quire_vm_reset_dirty_rings(vm->memory, interrupted);

	log_watch_rings_end(rings, taken);
	return taken;
}

long vm_set_nr_mmu_pages(struct ioctl_call *call)
{
	struct vm *vm = call->object;

	return quire_vm_set_nr_mmu_pages(vm->memory, call->argument);
}
