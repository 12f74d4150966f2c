/* Reading KVM's binary statistics: a header, descriptors by name, then values. */
#include "stats.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "machine.h"

static int read_exactly(int fd, void *dst, size_t size_bytes, off_t offset)
{
	ssize_t got = pread(fd, dst, size_bytes, offset);

	if (got >= 0 && (size_t)got != size_bytes)
		errno = EIO;
	return got == (ssize_t)size_bytes ? 0 : -1;
}

static int read_one(int fd, const struct kvm_stats_header *header, char *descriptor,
		    struct stat_value *wanted, unsigned int count)
{
	const struct kvm_stats_desc *desc = (const void *)descriptor;
	const char *name = descriptor + sizeof(*desc);

	for (unsigned int i = 0; i < count; i++) {
		if (strncmp(name, wanted[i].name, header->name_size) != 0)
			continue;
		if (read_exactly(fd, &wanted[i].value, sizeof(wanted[i].value),
				 header->data_offset + desc->offset))
			return -1;
		wanted[i].found = 1;
	}
	return 0;
}

static int read_all(int fd, struct stat_value *wanted, unsigned int count)
{
	struct kvm_stats_header header;
	int result = -1;

	if (read_exactly(fd, &header, sizeof(header), 0))
		return -1;

	size_t each = sizeof(struct kvm_stats_desc) + header.name_size;
	char *descriptors = calloc(header.num_desc, each);

	if (!descriptors)
		return -1;
	if (read_exactly(fd, descriptors, header.num_desc * each, header.desc_offset))
		goto out;
	for (unsigned int i = 0; i < header.num_desc; i++)
		if (read_one(fd, &header, descriptors + i * each, wanted, count))
			goto out;
	result = 0;
out:
	free(descriptors);
	return result;
}

int stats_read(int fd, struct stat_value *values, unsigned int count)
{
	int file = ioctl(fd, KVM_GET_STATS_FD, NULL);

	if (file < 0)
		return complain("KVM_GET_STATS_FD");
	if (read_all(file, values, count)) {
		complain("statistics");
		close(file);
		return -1;
	}
	close(file);
	return 0;
}
