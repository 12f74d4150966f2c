/* guest_memfd files. */
#include "frontend/object/gmem_file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#include "frontend/file/gmem_remote.h"
#include "frontend/file/memory.h"
#include "frontend/file/user_copy.h"
#include "frontend/object/gmem_children.h"
#include "frontend/object/gmem_view.h"
#include "frontend/object/vm.h"
#include "frontend/param/params.h"
#include "frontend/run/signals.h"
#include "frontend/uapi.h"
#include "hosts/process/heap.h"
#include "hosts/process/sys.h"
#include "sanitize/in_place.h"

/*
 * The memfd is the memory: file/file.c keeps one mapping of ours of it, which the library's host
 * port uses as the store. At the release the mapping becomes the object's, and both go when the
 * library has done with the store: a vCPU may be on its way to a page and outlast the file.
 */
struct gmem_object {
	struct process_store store; /* first: store_destroyed() gets it; unused in a linked file */
	struct vm *vm;
	struct quire_gmem *gmem;
	struct gmem_links *links; /* [A] set once; NULL: the only file there ever was */
	bool is_link;		  /* not the first: the store is that one's */
	bool converts;		  /* the client may map it, and pages change what they are */
	struct gmem_view view;	  /* where that is seen: the descriptor's own inode */
	uint32_t was_mapped;	  /* [A] ever */
};

/*
 * What the files of one inode have in common from the second on. Each has a memfd of its own, by
 * which it is found; the client is told of the first one's. Fields without a letter never change.
 */
struct gmem_links {
	uint32_t refs;	/* [A] of objects */
	uint32_t count; /* [A] as i_nlink counts: one, and all links that were ever made */
	dev_t device;
	ino_t inode;
	int64_t accessed_ns, modified_ns, changed_ns; /* [A] */
};

#define NS_PER_S INT64_C(1000000000)

static int64_t ns_of(const struct timespec *time)
{
	return time->tv_sec * NS_PER_S + time->tv_nsec;
}

static int64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return ns_of(&now);
}

static struct gmem_links *links_get(const struct gmem_object *object)
{
	return __atomic_load_n(&object->links, __ATOMIC_ACQUIRE);
}

/* Those of the file at @fd, made if it is the only one so far; NULL without memory. */
static struct gmem_links *links_make(struct gmem_object *object, int fd)
{
	struct gmem_links *links = links_get(object), *made;
	struct stat status;

	if (links)
		return links;
	made = process_heap_alloc(sizeof(*made));
	if (!made || fstat(fd, &status)) {
		process_heap_free(made);
		return NULL;
	}
	made->refs = made->count = 1;
	made->device = status.st_dev;
	made->inode = status.st_ino;
	made->accessed_ns = ns_of(&status.st_atim);
	made->modified_ns = ns_of(&status.st_mtim);
	made->changed_ns = ns_of(&status.st_ctim);
	if (__atomic_compare_exchange_n(&object->links, &links, made, false, __ATOMIC_ACQ_REL,
					__ATOMIC_ACQUIRE))
		return made;
	process_heap_free(made);
	return links;
}

static void links_put(struct gmem_links *links)
{
	if (links && !__atomic_sub_fetch(&links->refs, 1, __ATOMIC_ACQ_REL))
		process_heap_free(links);
}

/* As the kernel's link(2) does: the inode has one name more. */
static void links_count(struct gmem_links *links)
{
	int64_t now = now_ns();

	(void)__atomic_add_fetch(&links->count, 1, __ATOMIC_RELAXED);
	__atomic_store_n(&links->accessed_ns, now, __ATOMIC_RELAXED);
	__atomic_store_n(&links->changed_ns, now, __ATOMIC_RELAXED);
}

static bool gmem_inode(const struct file *file, struct file_inode *inode)
{
	const struct gmem_links *links = links_get(file_object(file));

	if (!links)
		return false;
	*inode = (struct file_inode){
	    .device = links->device,
	    .inode = links->inode,
	    .links = __atomic_load_n(&links->count, __ATOMIC_RELAXED),
	    .accessed_ns = __atomic_load_n(&links->accessed_ns, __ATOMIC_RELAXED),
	    .modified_ns = __atomic_load_n(&links->modified_ns, __ATOMIC_RELAXED),
	    .changed_ns = __atomic_load_n(&links->changed_ns, __ATOMIC_RELAXED),
	};
	return true;
}

/* An allocation or a punch has succeeded. */
static void links_touch(const struct gmem_object *object)
{
	struct gmem_links *links = links_get(object);
	int64_t now = now_ns();

	if (!links)
		return;
	__atomic_store_n(&links->modified_ns, now, __ATOMIC_RELAXED);
	__atomic_store_n(&links->changed_ns, now, __ATOMIC_RELAXED);
}

/* The first file's: it has the store. */
static struct gmem_object *owner_of(const struct gmem_object *object)
{
	return quire_gmem_store(object->gmem);
}

struct quire_gmem *gmem_file_gmem(const struct file *file)
{
	const struct gmem_object *object = file_object(file);

	return object->gmem;
}

int gmem_file_lookup_error(int fd)
{
	return fcntl(fd, F_GETFD) < 0 ? -EBADF : -EINVAL;
}

/* Under the inode's invalidate lock. */
static int store_show(struct process_store *store, uint64_t offset_bytes, uint64_t size_bytes,
		      int shown)
{
	const struct gmem_object *object = (const struct gmem_object *)store;
	const struct gmem_view_part part = {offset_bytes, size_bytes, 0, UINT64_MAX};
	int error;

	if (!__atomic_load_n(&object->was_mapped, __ATOMIC_ACQUIRE))
		return 0;
	error = gmem_children_show(&object->view, &part, shown != 0);
	if (!error)
		error = gmem_view_show(&object->view, &part, shown != 0);
	gmem_children_shown();
	return error;
}

static void store_destroyed(struct process_store *store)
{
	struct gmem_object *object = (struct gmem_object *)store;

	sys_call(SYS_munmap, sys_address(store->base), store->size_bytes);
	if (store->small)
		sys_call(SYS_munmap, sys_address(store->small), store->size_bytes);
	process_heap_free(store->units);
	process_heap_free(object);
}

/* The file was never made: of the store only huge pages are the object's own. */
static void store_abandon(struct process_store *store)
{
	if (store->huge_bytes && store->base)
		sys_call(SYS_munmap, sys_address(store->base), store->size_bytes);
	process_heap_free(store->units);
}

static void gmem_destroy(struct gmem_object *object)
{
	struct gmem_links *links = links_get(object);
	bool is_store = object->gmem && !object->is_link;
	struct vm *vm = object->vm;

	gmem_remote_count(-1);
	if (object->gmem)
		quire_gmem_release(object->gmem); /* store_destroyed(), sooner or later */
	else
		store_abandon(&object->store);
	if (!is_store)
		process_heap_free(object);
	links_put(links);
	vm_put(vm);
}

/* A file that was made while they were off never takes them: its pages come several at a time. */
static bool gmem_takes_userfaults(const struct file *file)
{
	const struct gmem_object *object = file_object(file);

	return object->gmem && owner_of(object)->store.is_exact;
}

static bool huge_pages_are_on(void)
{
	return params_get_bool("kvm.quire_gmem_hugetlb");
}

/* Their flag has the number of the other's. */
static bool writes_are_on(void)
{
	return params_get_bool("kvm.quire_gmem_write") && !huge_pages_are_on();
}

uint64_t gmem_file_flags(const struct vm *vm)
{
	uint64_t known = quire_gmem_supported_flags(vm->memory);
	uint64_t flags = known & (QUIRE_GMEM_MMAP | QUIRE_GMEM_INIT_SHARED);

	if (writes_are_on())
		flags |= known & QUIRE_GMEM_WRITE;
	if (huge_pages_are_on() && (known & QUIRE_GMEM_HUGETLB))
		flags |= GUEST_MEMFD_FLAG_HUGETLB;
	return flags;
}

#define DEFAULT_HUGE_LOG2 21u /* of x86's pool */

/* The library's flags of a file of huge pages, or 0: no such file can be. */
static uint64_t huge_flags(uint64_t flags)
{
	uint64_t log2 = flags >> GUESTMEM_HUGETLB_FLAG_SHIFT & GUESTMEM_HUGETLB_FLAG_MASK;

	if (!log2)
		log2 = DEFAULT_HUGE_LOG2;
	if ((log2 != 21 && log2 != 30) || (flags & GUEST_MEMFD_FLAG_INIT_SHARED))
		return 0;
	return (flags & QUIRE_GMEM_MMAP) | QUIRE_GMEM_HUGETLB | log2 << QUIRE_GMEM_HUGE_SHIFT;
}

/* The checks of KVM's own order, before a descriptor is made. *@flags become the library's. */
static int check_request(const struct vm *vm, uint64_t size_bytes, uint64_t *flags)
{
	const uint64_t sizes = GUESTMEM_HUGETLB_FLAG_MASK << GUESTMEM_HUGETLB_FLAG_SHIFT;
	uint64_t known = gmem_file_flags(vm), unit = QUIRE_PAGE_SIZE;
	bool is_huge = huge_pages_are_on() && (*flags & known & GUEST_MEMFD_FLAG_HUGETLB);

	if (*flags & ~(is_huge ? known | sizes : known))
		return -EINVAL;
	if (is_huge) {
		*flags = huge_flags(*flags);
		unit = UINT64_C(1) << (*flags >> QUIRE_GMEM_HUGE_SHIFT);
	}
	if (!*flags && is_huge)
		return -EINVAL;
	return (int64_t)size_bytes <= 0 || size_bytes % unit ? -EINVAL : 0;
}

/* Do pages of such a file become what the client may see? */
static bool is_converting(const struct vm *vm, uint64_t flags)
{
	return (flags & QUIRE_GMEM_MMAP) && quire_gmem_attributes(vm->memory);
}

static void fill_store(struct gmem_object *object, const struct file *file, uint64_t flags)
{
	object->store.is_exact =
	    (flags & QUIRE_GMEM_INIT_SHARED) && params_get_bool("kvm.quire_gmem_userfault");
	object->store.base = file_memory(file);
	object->store.size_bytes = file_size_bytes(file);
	object->store.born_zero = true;
	object->store.destroyed = store_destroyed;
	if (object->converts)
		object->store.show = store_show;
	file_inode(file, &object->view.device, &object->view.inode);
	object->view.own_start = (uintptr_t)object->store.base;
	object->view.own_end = object->view.own_start + object->store.size_bytes;
}

/* Huge pages, all of them reserved; what the file has by then is where they are small. */
static int fill_huge(struct process_store *store, uint64_t size_bytes, uint64_t flags)
{
	unsigned int log2 = (unsigned int)(flags >> QUIRE_GMEM_HUGE_SHIFT);

	if (!(flags & QUIRE_GMEM_HUGETLB))
		return 0;
	store->small = store->base;
	store->base = NULL;
	store->size_bytes = size_bytes;
	store->huge_bytes = UINT64_C(1) << log2;
	store->units = process_heap_alloc(size_bytes >> log2);
	if (!store->units)
		return -ENOMEM;
	return file_memory_make_huge(size_bytes, log2, &store->base);
}

/* As the kernel's list of mappings has the file. */
static struct sanitize_file sanitize_name(const struct gmem_object *object)
{
	const struct gmem_view *view = &owner_of(object)->view;

	return (struct sanitize_file){
	    .device = (uint64_t)major(view->device) << 20 | minor(view->device),
	    .inode = view->inode,
	    .size_bytes = quire_gmem_size_bytes(object->gmem),
	    .away_bytes = FILE_SIGBUS_OFFSET,
	};
}

/* What the client's accesses find from now on is its own mistake, or no more. */
static void tell_sanitizer(const struct gmem_object *object, const struct sanitize_range *range,
			   bool is_private)
{
	const struct sanitize_file file = sanitize_name(object);

	sanitize_in_place(&file, range, is_private);
}

static enum file_memory_kind memory_kind(uint64_t flags, bool converts)
{
	if (converts || (flags & QUIRE_GMEM_INIT_SHARED))
		return FILE_MEMORY_MAPPABLE;
	return flags & QUIRE_GMEM_HUGETLB ? FILE_NO_MEMORY : FILE_MEMORY_PRIVATE;
}

static long file_create_checked(struct vm *vm, uint64_t size_bytes, uint64_t flags)
{
	bool converts = is_converting(vm, flags);
	struct file_config config = {
	    .ops = &gmem_file_ops,
	    .size_bytes = size_bytes,
	    .memory = memory_kind(flags, converts),
	    .is_mapped = (flags & QUIRE_GMEM_MMAP) != 0,
	};
	struct gmem_object *object;
	struct file *file;
	int error, fd;

	object = process_heap_alloc(sizeof(*object));
	if (!object)
		return -ENOMEM;
	vm_get(vm);
	gmem_remote_count(1);
	object->vm = vm;
	object->converts = converts;
	config.object = object;
	fd = file_create(&config);
	if (fd < 0) {
		gmem_destroy(object);
		return fd;
	}
	file = file_get_kind(fd, &gmem_file_ops);
	if (!file)
		return -EBADF; /* another thread closed it already, and released the object */
	fill_store(object, file, flags);
	error = fill_huge(&object->store, size_bytes, flags);
	if (!error)
		error =
		    quire_gmem_create(vm->memory, size_bytes, flags, &object->store, &object->gmem);
	file_put(file);
	if (error) {
		file_close(fd);
		return error;
	}
	if (converts && !(flags & QUIRE_GMEM_INIT_SHARED))
		tell_sanitizer(object, &(struct sanitize_range){0, size_bytes}, true);
	return fd;
}

long gmem_file_create(struct vm *vm, uint64_t size_bytes, uint64_t flags)
{
	int error = check_request(vm, size_bytes, &flags);

	return error ? error : file_create_checked(vm, size_bytes, flags);
}

/* The new descriptor @made gets what is behind it: the VM's view of the pages of @source. */
static int link_fill(struct gmem_object *object, const struct gmem_object *source, int fd, int made)
{
	struct file *file = file_get_kind(made, &gmem_file_ops);
	int error = 0;

	if (!file)
		return -EBADF; /* another thread closed it already, and released the object */
	if ((quire_gmem_flags(source->gmem) & QUIRE_GMEM_INIT_SHARED) || owner_of(source)->converts)
		error = file_map_through(file, fd);
	if (!error)
		error = quire_gmem_link(source->gmem, object->vm->memory, &object->gmem);
	if (!error)
		links_count(object->links);
	file_put(file);
	if (error)
		file_close(made);
	return error;
}

static long link_file(struct vm *vm, struct gmem_object *source, int fd)
{
	struct file_config config = {
	    .ops = &gmem_file_ops,
	    .size_bytes = quire_gmem_size_bytes(source->gmem),
	    .is_mapped = (quire_gmem_flags(source->gmem) & QUIRE_GMEM_MMAP) != 0,
	};
	struct gmem_object *object = process_heap_alloc(sizeof(*object));
	struct gmem_links *links = object ? links_make(source, fd) : NULL;
	int made, error;

	if (!links) {
		process_heap_free(object);
		return -ENOMEM;
	}
	(void)__atomic_add_fetch(&links->refs, 1, __ATOMIC_RELAXED);
	vm_get(vm);
	gmem_remote_count(1);
	object->vm = vm;
	object->links = links;
	object->is_link = true;
	config.object = object;
	made = file_create(&config);
	if (made < 0) {
		gmem_destroy(object);
		return made;
	}
	error = link_fill(object, source, fd, made);
	return error ? error : made;
}

long gmem_file_link(struct vm *vm, int fd)
{
	struct file *file = file_get_kind(fd, &gmem_file_ops);
	struct gmem_object *source;
	long result = -EINVAL;

	if (!file)
		return -EINVAL;
	source = file_object(file);
	if (file_is_own(file) && source->gmem && source->vm != vm)
		result = link_file(vm, source, fd);
	file_put(file);
	return result;
}

static int gmem_map(struct file *file, const struct file_map_request *request)
{
	uint64_t flags = quire_gmem_flags(gmem_file_gmem(file));
	int type = request->flags & MAP_TYPE;

	if (!(flags & QUIRE_GMEM_MMAP))
		return -ENODEV;
	if (type != MAP_SHARED && type != MAP_SHARED_VALIDATE)
		return -EINVAL;
	/* Those that the client may see are shown by gmem_settle(). */
	return (flags & QUIRE_GMEM_INIT_SHARED) && !owner_of(file_object(file))->converts ? 0 : 1;
}

struct settling {
	const struct gmem_view *view;
	uint64_t start, end;
};

static int show_run(void *ctx, uint64_t offset_bytes, uint64_t size_bytes)
{
	const struct settling *settling = ctx;
	const struct gmem_view_part part = {offset_bytes, size_bytes, settling->start,
					    settling->end};

	return gmem_view_show(settling->view, &part, true);
}

/* Nothing first: a mapping may have grown into pages that are private. */
static int gmem_settle(struct file *file, uintptr_t start, uintptr_t end)
{
	const struct gmem_object *object = file_object(file);
	const struct gmem_view_part all = {0, file_size_bytes(file), start, end};
	struct gmem_object *owner;
	struct settling settling = {.start = start, .end = end};
	int error;

	/* To a child nothing is shown: it does not hear of what is converted. */
	if (!object->gmem || !file_is_own(file))
		return 0;
	owner = owner_of(object);
	/* remap_file_pages() asks no file, so what no client sees is taken away afterwards. */
	if (!owner->converts && (quire_gmem_flags(object->gmem) & QUIRE_GMEM_INIT_SHARED))
		return 0;
	if (!owner->converts)
		return gmem_view_show(&owner->view, &all, false);
	settling.view = &owner->view;
	error = gmem_children_begin();
	if (error)
		return error;
	__atomic_store_n(&owner->was_mapped, 1, __ATOMIC_RELEASE);
	error = gmem_view_show(&owner->view, &all, false);
	if (!error)
		error =
		    quire_gmem_each_shared(object->gmem, 0, all.size_bytes, show_run, &settling);
	return error;
}

static int interrupted(void)
{
	return run_signals_pending();
}

static int gmem_allocate(struct file *file, int mode, off_t offset_bytes, off_t size_bytes)
{
	struct quire_gmem *gmem = gmem_file_gmem(file);
	int error;

	if (!(mode & FALLOC_FL_KEEP_SIZE) || (mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE)))
		return -EOPNOTSUPP;
	if (!file_is_own(file))
		return gmem_remote_allocate(file, mode, offset_bytes, size_bytes);
	if (mode & FALLOC_FL_PUNCH_HOLE)
		error = quire_gmem_punch(gmem, (uint64_t)offset_bytes, (uint64_t)size_bytes);
	else
		error = quire_gmem_allocate(gmem, (uint64_t)offset_bytes, (uint64_t)size_bytes,
					    interrupted);
	if (!error)
		links_touch(file_object(file));
	return error;
}

static int write_page(void *src, pfn_t pfn)
{
	memcpy((void *)(uintptr_t)(pfn.v << QUIRE_PAGE_SHIFT), src, QUIRE_PAGE_SIZE);
	return 0;
}

/* Page by page: what is done before an error is what was written. The copy from the client may wait
 * for it, and no lock is held then. */
static ssize_t gmem_write_at(struct file *file, const void *src, size_t size_bytes, off_t offset)
{
	struct quire_gmem *gmem = gmem_file_gmem(file);
	uint8_t page[QUIRE_PAGE_SIZE];
	size_t done = 0;
	int error = 0;

	if (!writes_are_on())
		return FILE_NO_WRITES;
	if (!file_is_own(file))
		return -EIO;
	while (!error && done < size_bytes) {
		if (!(quire_gmem_flags(gmem) & QUIRE_GMEM_WRITE))
			error = -ENODEV;
		else if (size_bytes - done < QUIRE_PAGE_SIZE)
			error = -EINVAL;
		else if (user_copy_in(page, (uintptr_t)src + done, sizeof(page)))
			error = -EFAULT;
		else if (interrupted())
			error = -EINTR;
		else
			error = quire_gmem_write(gmem, (uint64_t)offset + done, write_page, page);
		done += error ? 0 : QUIRE_PAGE_SIZE;
	}
	return done ? (ssize_t)done : error;
}

static bool is_zero(const __u64 *words, size_t count)
{
	__u64 any = 0;

	for (size_t i = 0; i < count; i++)
		any |= words[i];
	return !any;
}

/* Later postings take none: contents are kept. */
static uint64_t known_flags(void)
{
	return params_get_bool("kvm.quire_gmem_contents")
		   ? KVM_SET_MEMORY_ATTRIBUTES2_ZERO | KVM_SET_MEMORY_ATTRIBUTES2_PRESERVE
		   : 0;
}

static long convert(const struct gmem_object *object, struct kvm_memory_attributes2 *request)
{
	const struct gmem_view_part part = {request->offset, request->size, 0, UINT64_MAX};
	struct quire_gmem_conversion conversion = {
	    .offset_bytes = request->offset,
	    .size_bytes = request->size,
	    .attributes = request->attributes,
	    .contents = request->flags,
	};
	int error;

	if ((request->flags & ~known_flags()) ||
	    !is_zero(request->reserved, sizeof(request->reserved) / sizeof(__u64)))
		return -EINVAL;
	error = quire_gmem_set_attributes(object->gmem, &conversion);
	request->error_offset = conversion.error_offset_bytes;
	/* Slots may show the client's mappings, too. */
	if (!error && __atomic_load_n(&owner_of(object)->was_mapped, __ATOMIC_ACQUIRE))
		gmem_view_changed(&owner_of(object)->view, &part);
	if (!error)
		tell_sanitizer(object, &(struct sanitize_range){request->offset, request->size},
			       request->attributes & QUIRE_ATTRIBUTE_PRIVATE);
	return error;
}

static long gmem_ioctl(struct file *file, unsigned long command, unsigned long argument)
{
	const struct gmem_object *object = file_object(file);
	struct kvm_memory_attributes2 request;
	long result;

	if ((unsigned int)command != KVM_SET_MEMORY_ATTRIBUTES2 ||
	    !params_get_bool("kvm.gmem_in_place_conversion"))
		return -ENOTTY;
	if (!object->gmem || !file_is_own(file))
		return -EIO;
	if (user_copy_in(&request, argument, sizeof(request)))
		return -EFAULT;
	result = convert(object, &request);
	if (result && result != -EINVAL && user_copy_out(argument, &request, sizeof(request)))
		return -EFAULT;
	return result;
}

static void gmem_release(struct file *file)
{
	struct gmem_object *object = file_object(file);

	if (object->gmem)
		(void)file_take_memory(file);
	if (object->gmem && object->converts && !object->is_link) {
		const struct sanitize_file name = sanitize_name(object);

		sanitize_in_place_forget(&name);
	}
	gmem_destroy(object);
}

const struct file_ops gmem_file_ops = {
    .kind = FILE_GMEM,
    .name = GMEM_NAME,
    .ioctl = gmem_ioctl,
    .map = gmem_map,
    .settle = gmem_settle,
    .takes_userfaults = gmem_takes_userfaults,
    .allocate = gmem_allocate,
    .inode = gmem_inode,
    .write_at = gmem_write_at,
    .release = gmem_release,
};
