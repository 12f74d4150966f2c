/* Module parameters: a table, and one small file each in the directory of the run. */
#include "frontend/param/params.h"

#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "frontend/param/cap_names.h"
#include "frontend/param/run_vms.h"
#include "frontend/param/watch.h"
#include "hosts/process/map.h"
#include "hosts/process/sys.h"

#define SYSFS_PREFIX "/sys/module/kvm"
#define VALUE_MAX PARAMS_TEXT_MAX

enum param_type { PARAM_BOOL, PARAM_INT, PARAM_UINT, PARAM_NX, PARAM_CAPS };
enum vendor { ANY_VENDOR, VENDOR_INTEL, VENDOR_AMD };

struct param {
	const char *module, *name;
	enum param_type type;
	enum vendor vendor;
	mode_t mode;
	long initial;
	long max; /* of unsigned numbers; 0: no limit of its own */
	const char *meaning;
};

#define RO 0444
#define RW 0644
#define KVM_BOOL(name, mode, value, text)                                 \
	{                                                                 \
		"kvm", name, PARAM_BOOL, ANY_VENDOR, mode, value, 0, text \
	}
#define KVM_UINT(name, mode, value, max, text)                              \
	{                                                                   \
		"kvm", name, PARAM_UINT, ANY_VENDOR, mode, value, max, text \
	}
#define INTEL_BOOL(name, mode, value, text)                                       \
	{                                                                         \
		"kvm_intel", name, PARAM_BOOL, VENDOR_INTEL, mode, value, 0, text \
	}
#define AMD_BOOL(name, mode, value, text)                                     \
	{                                                                     \
		"kvm_amd", name, PARAM_BOOL, VENDOR_AMD, mode, value, 0, text \
	}

/*
 * Features that Quire does not offer are off: programs look here before they try. A module's
 * "nested" follows the same rule.
 */
static const struct param params[] = {
    KVM_BOOL("tdp_mmu", RO, 1,
	     "second-stage tables are changed in parallel; N: shadow pages serve the guest itself"),
    KVM_BOOL("eager_page_split", RW, 1,
	     "huge leaves are split when logging begins, not at the first write"),
    KVM_BOOL("mmio_caching", RO, 1,
	     "tables note where no memory is, so that a device is found sooner"),
    {"kvm", "nx_huge_pages", PARAM_NX, ANY_VENDOR, RW, 0, 0,
     "what guests execute from has small pages"},
    KVM_UINT("nx_huge_pages_recovery_ratio", RW, 60, 0,
	     "one in so many of the tables kept small goes in a period; 0: none"),
    KVM_UINT("nx_huge_pages_recovery_period_ms", RW, 0, 3600000,
	     "that period in ms; 0: such that all go in an hour"),
    KVM_BOOL("flush_on_reuse", RW, 0, "kept, and changes nothing"),
    KVM_BOOL("allow_unsafe_mappings", RO, 0,
	     "the hypervisor keeps pages in hand that the kernel does not count"),
    /* Ours: stage-2 tables in Intel's format instead of AMD's; kvm_intel.eptad=N means it, too. */
    KVM_BOOL("quire_ept", RO, 0, "tables have Intel's format on any machine"),
    /* Ours: the width of physical addresses in CPUID, for a machine with fewer bits. */
    KVM_UINT("quire_phys_bits", RO, 48, 48, "physical address bits that CPUID shows"),
    /* Ours: hot code of guests becomes machine code of this process. */
    KVM_BOOL("quire_translate", RO, 1, "hot code of guests becomes machine code of the process"),
    /* Ours: each instruction of it runs in the interpreter, too, and both must agree. */
    KVM_BOOL("quire_lockstep", RO, 0,
	     "the interpreter runs translated instructions, too, and compares"),
    /* Ours: what eager_page_split does when a log starts, before one does. */
    KVM_BOOL("quire_split_ahead", RW, 0,
	     "huge leaves are split in the background, before any logging begins"),
    /* Ours: capabilities that clients shall not see, by number or name. */
    {"kvm", "quire_hide_caps", PARAM_CAPS, ANY_VENDOR, RO, 0, 0,
     "capabilities that clients do not see, by number or name"},
    KVM_BOOL("enable_pmu", RO, 0, "not offered"),
    KVM_BOOL("ignore_msrs", RW, 0, "accesses to MSRs that are not there do nothing"),
    KVM_BOOL("report_ignored_msrs", RW, 1,
	     "the standard error output names the MSRs of kvm.ignore_msrs"),
    KVM_BOOL("enable_vmware_backdoor", RO, 0, "not offered"),
    KVM_BOOL("kvmclock_periodic_sync", RO, 1, "kept, and changes nothing"),
    KVM_BOOL("lapic_timer_advance", RO, 0, "kept, and changes nothing"),
    KVM_BOOL("vector_hashing", RO, 1, "kept, and changes nothing"),
    KVM_BOOL("mitigate_smt_rsb", RO, 0, "kept, and changes nothing"),
    {"kvm", "force_emulation_prefix", PARAM_INT, ANY_VENDOR, RW, 0, 0, "not offered"},
    KVM_UINT("min_timer_period_us", RW, 200, 0,
	     "a periodic timer of a guest ticks no more often, from when it is armed"),
    KVM_UINT("tsc_tolerance_ppm", RW, 250, 0,
	     "so far may a TSC frequency be from the machine's without scaling"),
    KVM_UINT("halt_poll_ns", RW, 200000, 0, "kept, and changes nothing"),
    KVM_UINT("halt_poll_ns_grow", RW, 2, 0, "kept, and changes nothing"),
    KVM_UINT("halt_poll_ns_grow_start", RW, 10000, 0, "kept, and changes nothing"),
    KVM_UINT("halt_poll_ns_shrink", RW, 0, 0, "kept, and changes nothing"),
    INTEL_BOOL("ept", RO, 1, "nested paging; N: shadow pages"),
    INTEL_BOOL("eptad", RO, 1, "the tables have accessed and dirty bits"),
    INTEL_BOOL("unrestricted_guest", RO, 1, "kept, and changes nothing"),
    INTEL_BOOL("vpid", RO, 0, "not offered"),
    INTEL_BOOL("pml", RO, 0, "not offered"),
    INTEL_BOOL("flexpriority", RO, 0, "not offered"),
    INTEL_BOOL("enable_apicv", RO, 0, "not offered"),
    INTEL_BOOL("enable_mediated_pmu", RO, 0, "not offered"),
    INTEL_BOOL("nested", RO, 0, "not offered"),
    INTEL_BOOL("tdx", RO, 0, "not offered"),
    AMD_BOOL("npt", RO, 1, "nested paging; N: shadow pages"),
    AMD_BOOL("avic", RO, 0, "not offered"),
    AMD_BOOL("nrips", RO, 1, "kept, and changes nothing"),
    AMD_BOOL("vgif", RO, 1,
	     "a guest hypervisor's guests have a global interrupt flag of their own"),
    AMD_BOOL("sev", RO, 0, "not offered"),
    AMD_BOOL("sev_es", RO, 0, "not offered"),
    AMD_BOOL("sev_snp", RO, 0, "not offered"),
    AMD_BOOL("enable_mediated_pmu", RO, 0, "not offered"),
    {"kvm_amd", "lbrv", PARAM_INT, VENDOR_AMD, RO, 0, 0, "not offered"},
    {"kvm_amd", "nested", PARAM_INT, VENDOR_AMD, RO, 1, 0, "guests may have guests"},
    /* Ours, not Linux's: whole aligned blocks of such a guest_memfd are made at one touch. */
    KVM_BOOL("quire_gmem_huge_pages", RW, 0,
	     "a guest_memfd made while this is set has blocks of 1 GiB and 2 MiB"),
    /* Ours: KVM_LINK_GUEST_MEMFD, which was posted for Linux and is not in it. */
    KVM_BOOL("quire_gmem_link", RW, 0, "KVM_LINK_GUEST_MEMFD, as posted for Linux"),
    /* Ours: GUEST_MEMFD_FLAG_WRITE, likewise. */
    KVM_BOOL("quire_gmem_write", RW, 0, "GUEST_MEMFD_FLAG_WRITE, as posted for Linux"),
    /* Posted for Linux, where it is to be on: which pages are private is a file's to say. */
    KVM_BOOL("gmem_in_place_conversion", RO, 0,
	     "which pages are private is a file's to say, as posted for Linux"),
    /* Ours: flags of KVM_SET_MEMORY_ATTRIBUTES2, which later postings have no more. */
    KVM_BOOL("quire_gmem_contents", RW, 0,
	     "such a conversion takes flags that zero the contents or keep them"),
    /* Ours: GUEST_MEMFD_FLAG_HUGETLB, likewise. It has the number of GUEST_MEMFD_FLAG_WRITE, which
     * is unknown while this is set. */
    KVM_BOOL("quire_gmem_hugetlb", RW, 0,
	     "GUEST_MEMFD_FLAG_HUGETLB, as posted for Linux, in the place of FLAG_WRITE"),
    /* Ours: a userfaultfd that watches a mapping of a guest_memfd, as posted for Linux. */
    KVM_BOOL("quire_gmem_userfault", RW, 0,
	     "a userfaultfd may watch mappings of a guest_memfd made now, as posted for Linux"),
    /* Ours: AMD's virtualisation for guests of a machine that is not AMD's. */
    {"kvm", "nested_svm", PARAM_BOOL, VENDOR_INTEL, RO, 1, 0,
     "AMD's virtualisation for guests, on a machine that is not AMD's"},
};
#define PARAMS (sizeof(params) / sizeof(params[0]))

/*
 * What this process knows. Values are advisory copies: the files are the truth, and any thread may
 * read them again at any time.
 */
static const char *run_directory;
static char run_directory_room[PATH_MAX];
static long last_value[PARAMS];
static uint8_t is_fixed[PARAMS]; /* no client may write it, and its file was read */
static int opened_for_writing;
/* Mapped files, by enum params_live. */
static struct {
	const char *name;
	const char *text;
	size_t index;
} live[PARAMS_LIVE_COUNT] = {
    [PARAMS_EAGER_PAGE_SPLIT] = {.name = "kvm.eager_page_split"},
    [PARAMS_NX_HUGE_PAGES] = {.name = "kvm.nx_huge_pages"},
    [PARAMS_NX_RECOVERY_RATIO] = {.name = "kvm.nx_huge_pages_recovery_ratio"},
    [PARAMS_NX_RECOVERY_PERIOD_MS] = {.name = "kvm.nx_huge_pages_recovery_period_ms"},
    [PARAMS_GMEM_HUGE_PAGES] = {.name = "kvm.quire_gmem_huge_pages"},
    [PARAMS_SPLIT_AHEAD] = {.name = "kvm.quire_split_ahead"},
    [PARAMS_IGNORE_MSRS] = {.name = "kvm.ignore_msrs"},
    [PARAMS_REPORT_IGNORED_MSRS] = {.name = "kvm.report_ignored_msrs"},
    [PARAMS_MIN_TIMER_PERIOD_US] = {.name = "kvm.min_timer_period_us"},
};
static struct quire_tunables tunables = {.eager_page_split = 1};

/* CPUID is asked once: in a virtual machine it costs tens of microseconds. */
static enum vendor machine_vendor(void)
{
	static enum vendor known; /* ANY_VENDOR: not asked yet */
	enum vendor vendor = __atomic_load_n(&known, __ATOMIC_RELAXED);
	unsigned int eax, ebx = 0, ecx, edx;

	if (vendor != ANY_VENDOR)
		return vendor;
	/* "Genu", "Auth", "Hygo": the first word tells. */
	vendor =
	    __get_cpuid(0, &eax, &ebx, &ecx, &edx) && ebx == 0x756e6547 ? VENDOR_INTEL : VENDOR_AMD;
	__atomic_store_n(&known, vendor, __ATOMIC_RELAXED);
	return vendor;
}

static bool param_exists(const struct param *param)
{
	return param->vendor == ANY_VENDOR || param->vendor == machine_vendor();
}

static int format_value(const struct param *param, long value, char text[VALUE_MAX])
{
	switch (param->type) {
	case PARAM_BOOL:
		return snprintf(text, VALUE_MAX, "%c\n", value ? 'Y' : 'N');
	case PARAM_NX:
		return snprintf(text, VALUE_MAX, "%s\n", value < 0 ? "never" : value ? "Y" : "N");
	case PARAM_CAPS:
		return snprintf(text, VALUE_MAX, "\n"); /* none: the value is in the text alone */
	default:
		return snprintf(text, VALUE_MAX, "%ld\n", value);
	}
}

/* What may be written, as people read it. */
static void format_range(const struct param *param, char text[VALUE_MAX])
{
	switch (param->type) {
	case PARAM_BOOL:
		strcpy(text, "Y or N");
		break;
	case PARAM_NX:
		strcpy(text, "Y, N, auto, force, off or never");
		break;
	case PARAM_CAPS:
		strcpy(text, "names and numbers");
		break;
	case PARAM_INT:
		snprintf(text, VALUE_MAX, "%d to %d", INT_MIN, INT_MAX);
		break;
	case PARAM_UINT:
		snprintf(text, VALUE_MAX, "0 to %ld", param->max ? param->max : (long)UINT_MAX);
		break;
	}
}

int params_about(size_t index, struct params_about *about)
{
	const struct param *param;

	if (index >= PARAMS)
		return -ENOENT;
	param = &params[index];
	snprintf(about->name, sizeof(about->name), "%s.%s", param->module, param->name);
	format_value(param, param->initial, about->value);
	about->value[strcspn(about->value, "\n")] = '\0';
	format_range(param, about->range);
	about->is_writable = param->mode == RW;
	about->meaning = param->meaning;
	return 0;
}

static int parse_bool(const char *text, long *value)
{
	if (strchr("yYtT1", text[0]) && text[0])
		*value = 1;
	else if (strchr("nNfF0", text[0]) && text[0])
		*value = 0;
	else if (!strncasecmp(text, "on", 2))
		*value = 1;
	else if (!strncasecmp(text, "of", 2))
		*value = 0;
	else
		return -EINVAL;
	return 0;
}

static int parse_number(const struct param *param, const char *text, long *value)
{
	long long min = param->type == PARAM_UINT ? 0 : INT_MIN;
	long long max = param->type == PARAM_UINT ? UINT_MAX : INT_MAX;
	long long number;
	char *end;

	if (param->type == PARAM_UINT && text[0] == '-')
		return -EINVAL;
	errno = 0;
	number = strtoll(text, &end, 0);
	if (end == text || *end || errno)
		return -EINVAL;
	if (number < min || number > max || (param->max && number > param->max))
		return -EINVAL;
	*value = (long)number;
	return 0;
}

/* The first line of @text, as the kernel reads a parameter. */
static int parse_value(const struct param *param, const char *text, long *value)
{
	char line[VALUE_MAX];
	size_t length = strcspn(text, "\n");

	if (length >= sizeof(line))
		return -EINVAL;
	memcpy(line, text, length);
	line[length] = '\0';
	switch (param->type) {
	case PARAM_BOOL:
		return parse_bool(line, value);
	case PARAM_NX:
		/* This machine's vCPUs have no such erratum: "auto" means off. */
		if (!strcmp(line, "off") || !strcmp(line, "auto"))
			*value = 0;
		else if (!strcmp(line, "force"))
			*value = 1;
		else if (!strcmp(line, "never"))
			*value = -1;
		else
			return parse_bool(line, value);
		return 0;
	case PARAM_CAPS:
		*value = 0;
		return cap_names_parse(line, NULL);
	default:
		return parse_number(param, line, value);
	}
}

static void param_file(const struct param *param, const char *directory, char *path)
{
	snprintf(path, PARAMS_PATH_MAX, "%s/module/%s/parameters/%s", directory, param->module,
		 param->name);
}

static int file_read(const char *path, char text[VALUE_MAX])
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t got;

	if (fd < 0)
		return -errno;
	got = read(fd, text, VALUE_MAX - 1);
	close(fd);
	if (got < 0)
		return -EIO;
	text[got] = '\0';
	return 0;
}

/* The new text is in place before the old tail goes, so that a reader always finds a line. */
static int file_replace(int fd, const char *text, int length)
{
	if (pwrite(fd, text, (size_t)length, 0) != length || ftruncate(fd, length))
		return -errno;
	return 0;
}

static int file_write(const char *path, const char *text, int length, mode_t mode)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	int error;

	if (fd < 0)
		return -errno;
	error = file_replace(fd, text, length);
	if (!error && fchmod(fd, mode))
		error = -errno;
	close(fd);
	return error;
}

/* Read a parameter's file; when someone else wrote to it, make of it what the kernel would. */
static long param_settle(size_t index)
{
	const struct param *param = &params[index];
	char path[PARAMS_PATH_MAX], text[VALUE_MAX], proper[VALUE_MAX];
	long value;
	int length;

	if (!run_directory || !param_exists(param) || param->type == PARAM_CAPS ||
	    __atomic_load_n(&is_fixed[index], __ATOMIC_ACQUIRE))
		return last_value[index];
	param_file(param, run_directory, path);
	if (file_read(path, text))
		return last_value[index];
	if (parse_value(param, text, &value))
		value = last_value[index];
	last_value[index] = value;
	if (!(param->mode & 0222))
		__atomic_store_n(&is_fixed[index], 1, __ATOMIC_RELEASE);
	length = format_value(param, value, proper);
	if (strcmp(text, proper))
		(void)!file_write(path, proper, length, param->mode);
	return value;
}

static size_t param_index(const char *name)
{
	for (size_t i = 0; i < PARAMS; i++) {
		size_t length = strlen(params[i].module);

		if (!strncmp(name, params[i].module, length) && name[length] == '.' &&
		    !strcmp(name + length + 1, params[i].name) && param_exists(&params[i]))
			return i;
	}
	return PARAMS;
}

long params_get_int(const char *name)
{
	size_t index = param_index(name);

	return index == PARAMS ? 0 : param_settle(index);
}

bool params_get_bool(const char *name)
{
	return params_get_int(name) > 0;
}

static uint64_t hidden_caps[CAP_NAMES_WORDS];

static void hidden_caps_read(void)
{
	const struct param *param = &params[param_index("kvm.quire_hide_caps")];
	char path[PARAMS_PATH_MAX], text[VALUE_MAX];

	if (!run_directory)
		return;
	param_file(param, run_directory, path);
	if (file_read(path, text))
		return;
	text[strcspn(text, "\n")] = '\0';
	(void)cap_names_parse(text, hidden_caps);
}

bool params_hides_cap(uint64_t number)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, hidden_caps_read);
	return number < CAP_NAMES_MAX && (hidden_caps[number / 64] >> number % 64 & 1);
}

static void make_parents(const char *directory, const char *module, char *path)
{
	snprintf(path, PARAMS_PATH_MAX, "%s/module", directory);
	mkdir(path, 0755);
	snprintf(path, PARAMS_PATH_MAX, "%s/module/%s", directory, module);
	mkdir(path, 0755);
	snprintf(path, PARAMS_PATH_MAX, "%s/module/%s/parameters", directory, module);
	mkdir(path, 0755);
}

int params_create(const char *directory)
{
	char path[PARAMS_PATH_MAX], text[VALUE_MAX];

	for (size_t i = 0; i < PARAMS; i++) {
		int length, error;

		if (!param_exists(&params[i]))
			continue;
		make_parents(directory, params[i].module, path);
		param_file(&params[i], directory, path);
		length = format_value(&params[i], params[i].initial, text);
		error = file_write(path, text, length, params[i].mode);
		if (error)
			return error;
	}
	/* Without it a write acts at the next look: no reason not to run. */
	(void)param_watch_create(directory);
	return 0;
}

int params_set(const char *directory, const char *assignment)
{
	const char *equals = strchr(assignment, '=');
	char name[128], path[PARAMS_PATH_MAX], text[VALUE_MAX];
	size_t index;
	long value;
	int length;

	if (!equals || (size_t)(equals - assignment) >= sizeof(name))
		return -EINVAL;
	memcpy(name, assignment, (size_t)(equals - assignment));
	name[equals - assignment] = '\0';
	index = param_index(name);
	if (index == PARAMS)
		return -ENOENT;
	if (parse_value(&params[index], equals + 1, &value))
		return -EINVAL;
	param_file(&params[index], directory, path);
	/* The owner may not write to a read-only file. */
	unlink(path);
	if (params[index].type == PARAM_CAPS)
		length = snprintf(text, sizeof(text), "%s\n", equals + 1);
	else
		length = format_value(&params[index], value, text);
	return file_write(path, text, length, params[index].mode);
}

void params_destroy(const char *directory)
{
	static const char *const modules[] = {"kvm", "kvm_intel", "kvm_amd"};
	char path[PARAMS_PATH_MAX];

	for (size_t i = 0; i < PARAMS; i++) {
		param_file(&params[i], directory, path);
		unlink(path);
	}
	for (size_t i = 0; i < sizeof(modules) / sizeof(modules[0]); i++) {
		snprintf(path, sizeof(path), "%s/module/%s/parameters", directory, modules[i]);
		rmdir(path);
		snprintf(path, sizeof(path), "%s/module/%s", directory, modules[i]);
		rmdir(path);
	}
	snprintf(path, sizeof(path), "%s/module", directory);
	rmdir(path);
	run_vms_remove(directory);
	param_watch_remove(directory);
	rmdir(directory);
}

static void live_map_one(size_t which)
{
	char path[PARAMS_PATH_MAX];
	long page;
	int fd;

	live[which].index = param_index(live[which].name);
	param_file(&params[live[which].index], run_directory, path);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	page = process_map(QUIRE_PAGE_SIZE, PROT_READ, MAP_SHARED, fd);
	close(fd);
	if (!sys_failed(page))
		__atomic_store_n(&live[which].text, (const char *)page, __ATOMIC_RELEASE);
}

long params_live(enum params_live which)
{
	const char *text = __atomic_load_n(&live[which].text, __ATOMIC_ACQUIRE);
	const struct param *param = &params[live[which].index];
	long value;

	if (!text)
		return params_get_int(live[which].name);
	/* What makes no sense counts as not written, until the next look at the file. */
	return parse_value(param, text, &value) ? last_value[live[which].index] : value;
}

const char *params_directory(void)
{
	return run_directory;
}

/* Which parameter @fd is open on, by inode. */
static size_t param_of_fd(int fd)
{
	struct stat status, candidate;
	char path[PARAMS_PATH_MAX];

	if (fstat(fd, &status) || !S_ISREG(status.st_mode) || stat(run_directory, &candidate) ||
	    candidate.st_dev != status.st_dev)
		return PARAMS;
	for (size_t i = 0; i < PARAMS; i++) {
		if (!(params[i].mode & 0222) || !param_exists(&params[i]))
			continue;
		param_file(&params[i], run_directory, path);
		if (!stat(path, &candidate) && candidate.st_ino == status.st_ino &&
		    candidate.st_dev == status.st_dev)
			return i;
	}
	return PARAMS;
}

/* Did the program that became this one, a shell say, open a parameter for our standard streams? */
static bool inherits_parameter(void)
{
	for (int fd = 0; fd <= 2; fd++)
		if (param_of_fd(fd) != PARAMS)
			return true;
	return false;
}

void params_attach(const char *directory)
{
	for (size_t i = 0; i < PARAMS; i++)
		last_value[i] = params[i].initial;
	if (!directory || directory[0] != '/' || strlen(directory) >= sizeof(run_directory_room))
		return;
	strcpy(run_directory_room, directory);
	run_directory = run_directory_room;
	if (inherits_parameter())
		__atomic_store_n(&opened_for_writing, 1, __ATOMIC_RELAXED);
}

bool params_covers(const char *path)
{
	return path && path[0] == '/' && !strncmp(path, SYSFS_PREFIX, strlen(SYSFS_PREFIX));
}

const char *params_path(const char *path, char room[PARAMS_PATH_MAX])
{
	static const char modules[] = "/sys/module";
	int length;

	if (!params_covers(path))
		return path;
	/* Without a run there is nothing; the machine's own parameters stay hidden even so. */
	length = snprintf(room, PARAMS_PATH_MAX, "%s/module%s",
			  run_directory ? run_directory : "/nonexistent", path + strlen(modules));
	if (length >= PARAMS_PATH_MAX)
		return path;
	for (size_t i = 0; i < PARAMS; i++) {
		const char *name = strrchr(path, '/') + 1;

		if ((params[i].mode & 0222) && !strcmp(params[i].name, name))
			param_settle(i);
	}
	return room;
}

int params_open_flags(const char *real_path, int flags)
{
	struct stat status;

	flags &= ~(O_CREAT | O_EXCL | O_TRUNC | O_APPEND);
	if ((flags & O_ACCMODE) == O_RDONLY)
		return flags;
	if (!stat(real_path, &status) && !(status.st_mode & 0222))
		return -EACCES;
	__atomic_store_n(&opened_for_writing, 1, __ATOMIC_RELAXED);
	return flags;
}

void params_count_vm(int change)
{
	if (run_directory)
		run_vms_count(run_directory, change);
}

/* "never" is for ever, and only while no process of the run has a VM. */
static int nx_refusal(const struct param *param, long old, long value)
{
	if (param->type != PARAM_NX)
		return 0;
	if (old < 0)
		return -EPERM;
	return value < 0 && run_vms_any(run_directory) ? -EBUSY : 0;
}

bool params_any_open(void)
{
	return __atomic_load_n(&opened_for_writing, __ATOMIC_RELAXED) != 0;
}

int params_of_fd(int fd)
{
	size_t index;

	if (!run_directory || !params_any_open())
		return -ENOENT;
	index = param_of_fd(fd);
	return index == PARAMS ? -ENOENT : (int)index;
}

ssize_t params_write(int which, int fd, const char *text, size_t size_bytes)
{
	char line[PARAMS_TEXT_MAX], proper[VALUE_MAX];
	size_t index = (size_t)which;
	long value;
	int error;

	if (size_bytes >= sizeof(line))
		return -EINVAL;
	memcpy(line, text, size_bytes);
	line[size_bytes] = '\0';
	error = parse_value(&params[index], line, &value);
	if (!error)
		error = nx_refusal(&params[index], param_settle(index), value);
	if (error)
		return error;
	error = file_replace(fd, proper, format_value(&params[index], value, proper));
	if (error)
		return error;
	last_value[index] = value;
	param_watch_tell(run_directory);
	return (ssize_t)size_bytes;
}

int params_written(int which)
{
	char path[PARAMS_PATH_MAX], text[VALUE_MAX], proper[VALUE_MAX];
	size_t index = (size_t)which;
	const struct param *param = &params[index];
	long old = last_value[index], value;
	int error;

	param_file(param, run_directory, path);
	error = file_read(path, text);
	if (!error)
		error = parse_value(param, text, &value);
	if (!error && value != old)
		error = nx_refusal(param, old, value);
	if (error)
		value = old;
	last_value[index] = value;
	(void)!file_write(path, proper, format_value(param, value, proper), param->mode);
	param_watch_tell(run_directory);
	return error;
}

void params_keep(void)
{
	params_refresh();
	for (size_t i = 0; i < PARAMS; i++)
		if (!(params[i].mode & 0222))
			param_settle(i);
}

void params_watch(void (*apply)(void))
{
	param_watch_start(run_directory, apply);
}

void params_refresh(void)
{
	uint32_t split, gmem_huge;

	if (!run_directory)
		return;
	if (!__atomic_load_n(&live[0].text, __ATOMIC_ACQUIRE))
		for (size_t i = PARAMS_LIVE_COUNT; i-- > 0;)
			live_map_one(i);
	split = params_live(PARAMS_EAGER_PAGE_SPLIT) > 0;
	__atomic_store_n(&tunables.eager_page_split, split, __ATOMIC_RELAXED);
	gmem_huge = params_live(PARAMS_GMEM_HUGE_PAGES) > 0;
	__atomic_store_n(&tunables.gmem_huge_pages, gmem_huge, __ATOMIC_RELAXED);
}

const struct quire_tunables *params_tunables(void)
{
	params_refresh();
	tunables.allow_unsafe_mappings = params_get_bool("kvm.allow_unsafe_mappings");
	return &tunables;
}
