/* <linux/userfaultfd.h>, and what a header older than the kernel lacks. */
#ifndef QUIRE_BOUNDARY_USERFAULT_H
#define QUIRE_BOUNDARY_USERFAULT_H

#include <linux/userfaultfd.h>
#include <sys/ioctl.h>

#ifndef _UFFDIO_MOVE
struct uffdio_move {
	__u64 dst, src, len, mode;
	__s64 move;
};
#define _UFFDIO_MOVE 0x05
#define UFFDIO_MOVE _IOWR(UFFDIO, _UFFDIO_MOVE, struct uffdio_move)
#endif

#endif
