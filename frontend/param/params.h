/* Module parameters of kvm, kvm_amd and kvm_intel, shared by the processes of one `quire run`. */
#ifndef QUIRE_FRONTEND_PARAM_PARAMS_H
#define QUIRE_FRONTEND_PARAM_PARAMS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <quire/vm.h>

/* The environment variable that names the directory of the run. */
#define PARAMS_RUN_DIR "QUIRE_RUN_DIR"

/*
 * Each parameter is a small text file in the run's directory, laid out as in sysfs
 * (DIR/module/kvm/parameters/tdp_mmu); reading one is reading that file. A write is
 * checked as the kernel would; one we do not see (libc's own, of a stream that is not flushed by
 * its program) is checked at the next look, and gives the parameter its last known or default value
 * when it makes no sense.
 */

/*
 * These functions may make ordinary file calls: where the library is preloaded, call them inside a
 * client call (frontend/file/client_call.h), so that the file calls are not taken for the client's.
 */

/* Make the directory's contents with the default values. 0 or -errno. */
int params_create(const char *directory);
/* Set a parameter whatever its mode, as modprobe would: "kvm.tdp_mmu=N". 0; -ENOENT: no such
 * parameter; -EINVAL: no such value; or the -errno of the file. */
int params_set(const char *directory, const char *assignment);

/* One of them: what it is before any is set, what it may be, and what it means. */
struct params_about {
	char name[64];
	char value[256], range[256];
	bool is_writable; /* while a client runs, through its file */
	const char *meaning;
};
/* By index, from 0 on. -ENOENT behind the last. */
int params_about(size_t index, struct params_about *about);

/* Remove what params_create() made, and the directory. */
void params_destroy(const char *directory);

/* Which directory this process uses; NULL: none, every parameter has its default. Once. */
void params_attach(const char *directory);
const char *params_directory(void);

/*
 * The path that a client's @path really means: @path itself, or one in the run's directory when
 * it is below the modules of KVM, written to @room. Values that others wrote are checked first.
 */
#define PARAMS_PATH_MAX 4096
bool params_covers(const char *path); /* would params_path() change it? */
const char *params_path(const char *path, char room[PARAMS_PATH_MAX]);

/*
 * Open flags for the file of a parameter: sysfs neither creates nor truncates. -EACCES when
 * written but read-only.
 */
int params_open_flags(const char *real_path, int flags);

/* May this process have a parameter open for writing? No system call. */
bool params_any_open(void);

/*
 * Which parameter @fd is open on, for params_write(); -ENOENT when it is none (cheap in a process
 * that never opened one for writing).
 */
int params_of_fd(int fd);
/* write(2) on a parameter's descriptor, @text being a copy of ours: bytes taken, or -errno. */
#define PARAMS_TEXT_MAX 256 /* this long or longer is -EINVAL */
ssize_t params_write(int which, int fd, const char *text, size_t size_bytes);
/*
 * libc has written to the parameter's file past params_write(), as it does for its streams: make of
 * it what params_write() would. 0; or -errno, and the parameter has the value that it had.
 */
int params_written(int which);

/* Does kvm.quire_hide_caps name the capability? Fixed for the process. */
bool params_hides_cap(uint64_t number);

/*
 * Call @apply when a parameter was written, by this process or another of the run, before that
 * write returns. On a thread of ours, or the writer's; with no lock held.
 */
void params_watch(void (*apply)(void));

/* A VM of this process is made (1), or gone (-1): some parameters are fixed while any process of
 * the run has one. */
void params_count_vm(int change);

/* The value now; of one that no client may write, the first that was read. @name is "kvm.tdp_mmu";
 * of an unknown name it is 0. */
long params_get_int(const char *name);
bool params_get_bool(const char *name);

/*
 * Parameters looked at so often that their files are mapped: a write by any process of the run is
 * seen without a system call. Values of the kind that params_get_int() gives.
 */
enum params_live {
	PARAMS_EAGER_PAGE_SPLIT,
	PARAMS_NX_HUGE_PAGES,
	PARAMS_NX_RECOVERY_RATIO,
	PARAMS_NX_RECOVERY_PERIOD_MS,
	PARAMS_GMEM_HUGE_PAGES,
	PARAMS_SPLIT_AHEAD,
	PARAMS_IGNORE_MSRS,
	PARAMS_REPORT_IGNORED_MSRS,
	PARAMS_MIN_TIMER_PERIOD_US,
	PARAMS_LIVE_COUNT,
};
long params_live(enum params_live which);

/* Before the run's directory is out of reach: read what is fixed, map what is looked at often. */
void params_keep(void);

/* The library's share of them, brought up to date by params_refresh(); lives for ever. */
const struct quire_tunables *params_tunables(void);
void params_refresh(void);

#endif
