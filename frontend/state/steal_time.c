/*
 * Steal time: how long the vCPU's thread waited for a processor, told to the guest.
 *
 * The kernel's figure for a thread is in its schedstat file. The guest reads its page without a
 * lock: an odd version says that it is being written.
 */
#include "frontend/state/steal_time.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <quire/place.h>

#include "frontend/file/hidden_fd.h"
#include "frontend/object/vcpu.h"
#include "hosts/process/sys.h"

#define SCHEDSTAT "/proc/thread-self/schedstat"
#define MSR_ENABLED UINT64_C(1)
#define MSR_RESERVED UINT64_C(0x3e)
/* A guest that never leaves is told this often. */
#define RUNNING_NS 1000000u
/* The kernel is asked at most this often: what a thread waited meanwhile is told with the next. */
#define ASK_NS 100000u

/* KVM's paravirtual interface. */
struct steal_page {
	uint64_t steal_ns;
	uint32_t version;
	uint32_t flags;
	uint8_t preempted; /* never set: the kernel does not tell us */
	uint8_t pad[47];
};
_Static_assert(sizeof(struct steal_page) == 64, "layout");

static int is_offered;

static void look(void)
{
	is_offered = !access(SCHEDSTAT, R_OK);
}

int steal_time_is_offered(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, look);
	return is_offered;
}

void steal_time_init(struct vcpu *vcpu)
{
	vcpu->steal = (struct steal_time){.fd = -1};
}

static void forget_thread(struct steal_time *steal)
{
	if (steal->fd >= 0)
		hidden_fd_close(steal->fd);
	steal->fd = -1;
}

void steal_time_destroy(struct vcpu *vcpu)
{
	forget_thread(&vcpu->steal);
}

int steal_time_set(struct vcpu *vcpu, uint64_t value)
{
	gpa_t gpa = {value & ~(MSR_RESERVED | MSR_ENABLED)};
	int on = (value & MSR_ENABLED) != 0;

	if (!steal_time_is_offered() || (value & MSR_RESERVED))
		return -EINVAL;
	vcpu->steal.msr = value;
	vcpu->steal.looked_ns = 0;
	/* Aligned, so within one page. Until there is memory, updates come to nothing. */
	return quire_place_set(vcpu->steal_place, gpa, on ? sizeof(struct steal_page) : 0);
}

static int open_schedstat(void)
{
	long fd =
	    sys_call(SYS_openat, (uint64_t)AT_FDCWD, sys_address(SCHEDSTAT), O_RDONLY | O_CLOEXEC);
	int hidden;

	if (fd < 0)
		return (int)fd;
	hidden = hidden_fd_move((int)fd);
	sys_call(SYS_close, (uint64_t)fd);
	return hidden;
}

/* How long the thread has waited in its life; 0 when the machine does not say. */
static uint64_t waited_ns(struct steal_time *steal)
{
	char text[128];
	uint64_t ran, waited;
	long length =
	    sys_call(SYS_pread64, (uint64_t)steal->fd, sys_address(text), sizeof(text) - 1, 0);

	if (length <= 0)
		return 0;
	text[length] = '\0';
	return sscanf(text, "%lu %lu", &ran, &waited) == 2 ? waited : 0;
}

/* Since the last look. The first look of a thread counts all of its life, as on KVM. */
static uint64_t take_wait(struct steal_time *steal)
{
	pid_t thread = (pid_t)sys_call(SYS_gettid, 0);
	uint64_t now, before = steal->waited_ns;

	if (steal->fd < 0 || steal->thread != thread) {
		bool first = steal->fd < 0;

		forget_thread(steal);
		steal->fd = open_schedstat();
		steal->thread = thread;
		if (steal->fd < 0)
			return 0;
		/* What another thread has waited says nothing about this one. */
		before = first ? 0 : waited_ns(steal);
	}
	now = waited_ns(steal);
	steal->waited_ns = now;
	return now > before ? now - before : 0;
}

static int write_version(struct vcpu *vcpu, uint32_t version)
{
	int error;

	/* The guest sees version, contents and version in this order. */
	atomic_thread_fence(memory_order_seq_cst);
	error = quire_place_write(vcpu->steal_place, offsetof(struct steal_page, version), &version,
				  sizeof(version));
	atomic_thread_fence(memory_order_seq_cst);
	return error;
}

static int write_page(struct vcpu *vcpu, uint64_t more_ns)
{
	struct steal_page page;
	int error = quire_place_read(vcpu->steal_place, 0, &page, sizeof(page));

	if (error)
		return error;
	page.version = (page.version | 1) + 2;
	page.steal_ns += more_ns;
	page.preempted = 0;
	error = write_version(vcpu, page.version);
	if (!error)
		error = quire_place_write(vcpu->steal_place, offsetof(struct steal_page, preempted),
					  &page.preempted, sizeof(page.preempted));
	if (!error)
		error =
		    quire_place_write(vcpu->steal_place, 0, &page.steal_ns, sizeof(page.steal_ns));
	if (!error)
		error = write_version(vcpu, page.version + 1);
	return error;
}

void steal_time_update(struct vcpu *vcpu, enum steal_pace pace)
{
	struct steal_time *steal = &vcpu->steal;
	uint64_t now_ns, more_ns = 0;

	if (!(steal->msr & MSR_ENABLED))
		return;
	now_ns = timers_now_ns();
	if (pace == STEAL_RUNNING && now_ns - steal->looked_ns < RUNNING_NS)
		return;
	if (now_ns - steal->looked_ns >= ASK_NS) {
		steal->looked_ns = now_ns;
		more_ns = take_wait(steal);
	}
	/* A page out of reach is the guest's own loss, as on KVM. */
	if (write_page(vcpu, more_ns))
		return;
}
