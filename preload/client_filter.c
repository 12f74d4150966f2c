/*
 * Filters that the client installs later. We make calls in the client's threads that the client
 * knows nothing of: a filter gets a beginning that lets them pass, by the address they come from.
 */
#include "preload/client_filter.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "frontend/file/client_call.h"
#include "frontend/file/user_copy.h"
#include "hosts/process/map.h"
#include "hosts/process/sys.h"
#include "vcpu/decode/decoder.h"

#define INSTRUCTION_POINTER offsetof(struct seccomp_data, instruction_pointer)
#define PER_GATE 6u
#define BEGINNING ((CLIENT_FILTER_GATES + 1) * PER_GATE + 1)

static struct sock_filter *let_pass(struct sock_filter *to, uint64_t start, uint32_t bytes)
{
	const struct sock_filter one[PER_GATE] = {
	    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, INSTRUCTION_POINTER + 4),
	    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)(start >> 32), 0, 4),
	    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, INSTRUCTION_POINTER),
	    BPF_STMT(BPF_ALU | BPF_SUB | BPF_K, (uint32_t)start),
	    BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, bytes, 1, 0),
	    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};

	memcpy(to, one, sizeof(one));
	return to + PER_GATE;
}

static void begin(struct sock_filter *to, const struct client_filter_gates *gates)
{
	for (unsigned int i = 0; i < CLIENT_FILTER_GATES; i++)
		to = let_pass(to, gates->gate[i].start, gates->gate[i].bytes);
	/* Where the clock is a device's, the vDSO asks the kernel what time it is. */
	to = let_pass(to, getauxval(AT_SYSINFO_EHDR), VDSO_BYTES);
	/* The accumulator as the kernel has it at the start. */
	*to = (struct sock_filter)BPF_STMT(BPF_LD | BPF_IMM, 0);
}

static long install(uint64_t flags, uint64_t address, const struct client_filter_gates *gates)
{
	struct sock_fprog program;
	struct sock_filter *room;
	uint64_t bytes;
	long mapped, result;

	/* Its file is opened and made executable memory: the filter may allow neither. */
	client_call_begin();
	(void)decoder_load();
	client_call_end();
	if (user_peek(&program, address, sizeof(program)))
		return -EFAULT;
	if (!program.len || program.len > BPF_MAXINSNS)
		return -EINVAL;
	bytes = (program.len + BEGINNING) * sizeof(*room);
	mapped = process_map(bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	if (sys_failed(mapped))
		return -ENOMEM;
	room = (struct sock_filter *)mapped;
	begin(room, gates);
	result =
	    user_peek(room + BEGINNING, sys_address(program.filter), program.len * sizeof(*room));
	program.filter = room;
	program.len = (unsigned short)(program.len + BEGINNING);
	if (!result)
		result =
		    sys_call(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, sys_address(&program));
	sys_call(SYS_munmap, (uint64_t)mapped, bytes);
	return result;
}

bool client_filter_install(const struct boundary_call *call,
			   const struct client_filter_gates *gates, long *result)
{
	const unsigned long *args = call->args;

	if (call->nr == SYS_seccomp && (int)args[0] == SECCOMP_SET_MODE_FILTER)
		*result = install(args[1], args[2], gates);
	else if (call->nr == SYS_prctl && (int)args[0] == PR_SET_SECCOMP &&
		 args[1] == SECCOMP_MODE_FILTER)
		*result = install(0, args[2], gates);
	else
		return false;
	return true;
}
