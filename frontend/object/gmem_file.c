/* guest_memfd files. */
#include "frontend/object/gmem_file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/mman.h>
#include <unistd.h>

#include "frontend/file/gmem_remote.h"
#include "frontend/object/vm.h"
#include "frontend/run/signals.h"
#include "hosts/process/heap.h"

/*
 * The memfd is the memory: file/file.c keeps one mapping of ours of it, which the library's host
 * port uses as the store. At the release the mapping becomes the object's, and both go when the
 * library has done with the store: a vCPU may be on its way to a page and outlast the file.
 */
struct gmem_object {
	struct process_store store; /* first: store_destroyed() gets it */
	struct vm *vm;
	struct quire_gmem *gmem;
};

struct quire_gmem *gmem_file_gmem(const struct file *file)
{
	const struct gmem_object *object = file_object(file);

	return object->gmem;
}

int gmem_file_lookup_error(int fd)
{
	return fcntl(fd, F_GETFD) < 0 ? -EBADF : -EINVAL;
}

static void store_destroyed(struct process_store *store)
{
	struct gmem_object *object = (struct gmem_object *)store;

	munmap(store->base, store->size_bytes);
	process_heap_free(object);
}

static void gmem_destroy(struct gmem_object *object)
{
	struct vm *vm = object->vm;

	gmem_remote_count(-1);
	if (object->gmem)
		quire_gmem_release(object->gmem); /* store_destroyed(), sooner or later */
	else
		process_heap_free(object);
	vm_put(vm);
}

/* The checks of KVM's own order, before a descriptor is made. */
static int check_request(const struct vm *vm, uint64_t size_bytes, uint64_t flags)
{
	if (flags & ~quire_gmem_supported_flags(vm->memory))
		return -EINVAL;
	if ((int64_t)size_bytes <= 0 || size_bytes % QUIRE_PAGE_SIZE)
		return -EINVAL;
	return 0;
}

long gmem_file_create(struct vm *vm, uint64_t size_bytes, uint64_t flags)
{
	struct file_config config = {
	    .ops = &gmem_file_ops,
	    .size_bytes = size_bytes,
	    .memory = flags & QUIRE_GMEM_INIT_SHARED ? FILE_MEMORY_MAPPABLE : FILE_MEMORY_PRIVATE,
	    .is_mapped = (flags & QUIRE_GMEM_MMAP) != 0,
	};
	struct gmem_object *object;
	struct file *file;
	int error, fd;

	error = check_request(vm, size_bytes, flags);
	if (error)
		return error;
	object = process_heap_alloc(sizeof(*object));
	if (!object)
		return -ENOMEM;
	vm_get(vm);
	gmem_remote_count(1);
	object->vm = vm;
	config.object = object;
	fd = file_create(&config);
	if (fd < 0) {
		gmem_destroy(object);
		return fd;
	}
	file = file_get_kind(fd, &gmem_file_ops);
	if (!file)
		return -EBADF; /* another thread closed it already, and released the object */
	object->store.base = file_memory(file);
	object->store.size_bytes = size_bytes;
	object->store.born_zero = true;
	object->store.destroyed = store_destroyed;
	error = quire_gmem_create(vm->memory, size_bytes, flags, &object->store, &object->gmem);
	file_put(file);
	if (error) {
		file_close(fd);
		return error;
	}
	return fd;
}

static int gmem_map(struct file *file, const struct file_map_request *request)
{
	uint64_t flags = quire_gmem_flags(gmem_file_gmem(file));
	int type = request->flags & MAP_TYPE;

	if (!(flags & QUIRE_GMEM_MMAP))
		return -ENODEV;
	if (type != MAP_SHARED && type != MAP_SHARED_VALIDATE)
		return -EINVAL;
	return flags & QUIRE_GMEM_INIT_SHARED ? 0 : 1;
}

static int interrupted(void)
{
	return run_signals_pending();
}

static int gmem_allocate(struct file *file, int mode, off_t offset_bytes, off_t size_bytes)
{
	struct quire_gmem *gmem = gmem_file_gmem(file);

	if (!(mode & FALLOC_FL_KEEP_SIZE) || (mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE)))
		return -EOPNOTSUPP;
	if (!file_is_own(file))
		return gmem_remote_allocate(file, mode, offset_bytes, size_bytes);
	if (mode & FALLOC_FL_PUNCH_HOLE)
		return quire_gmem_punch(gmem, (uint64_t)offset_bytes, (uint64_t)size_bytes);
	return quire_gmem_allocate(gmem, (uint64_t)offset_bytes, (uint64_t)size_bytes, interrupted);
}

/* A guest_memfd has no ioctls of its own. */
static long gmem_ioctl(struct file *file, unsigned long command, unsigned long argument)
{
	(void)file;
	(void)command;
	(void)argument;
	return -ENOTTY;
}

static void gmem_release(struct file *file)
{
	struct gmem_object *object = file_object(file);

	if (object->gmem)
		(void)file_take_memory(file);
	gmem_destroy(object);
}

const struct file_ops gmem_file_ops = {
    .kind = FILE_GMEM,
    .name = "[kvm-gmem]",
    .ioctl = gmem_ioctl,
    .map = gmem_map,
    .allocate = gmem_allocate,
    .release = gmem_release,
};
