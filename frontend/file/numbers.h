/* What is known of the client's descriptors by their numbers alone, without asking the kernel. */
#ifndef QUIRE_FRONTEND_FILE_NUMBERS_H
#define QUIRE_FRONTEND_FILE_NUMBERS_H

#include <stdbool.h>
#include <stdint.h>

/*
 * A cache: the kernel's answer (fstat) is the truth, and a thread that found it out may keep it
 * here. Calls that change descriptors say so afterwards, by numbers_changed(). Changes that are not
 * seen (raw system calls, a close inside libc) leave an entry that is wrong, so an entry is
 * believed only where a wrong one does no harm:
 *
 *  - "this file": for KVM's own ioctls, which mean nothing on any other file. A KVM descriptor that
 *    the client makes by a call that we see (open, ioctl, dup) replaces the entry.
 *  - "no file of ours": for reading and writing, where the kernel answers instead, on a descriptor
 *    that is nothing but a name.
 *
 * All else asks the kernel each time. Lock-free, and needs nothing after a fork, a raw one too.
 */
enum {
	NUMBER_NO_FILE = 1,	 /* no object of KVM */
	NUMBER_NO_PARAMETER = 2, /* no parameter of KVM's modules, open for writing */
};

/* What was known before the kernel was asked: for numbers_learn_file() afterwards. */
uint64_t numbers_sample(int fd);

/*
 * Keep that @fd is the file with these @references, or that it lacks what @flags say, unless the
 * descriptor has changed since @sample. The caller holds a reference.
 */
void numbers_learn_file(int fd, uint32_t *references, uint64_t sample);
void numbers_learn_lack(int fd, unsigned int flags, uint64_t sample);

/* The reference count of the file that @fd is known to be, with one reference more; or NULL. */
uint32_t *numbers_get_file(int fd);
/* Is @fd known to lack all of @flags? */
bool numbers_lack(int fd, unsigned int flags);

/* @fd, or each of [first, last], has become something else, or may have. */
void numbers_changed(int fd);
void numbers_changed_range(unsigned int first, unsigned int last);

/* The file with these @references leaves its table, which holds a reference until afterwards. */
void numbers_forget_file(const uint32_t *references);

#endif
