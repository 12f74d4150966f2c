/*
 * Filters that the client installs later. The engine makes calls in the client's threads that the
 * client knows nothing of: a filter gets a beginning that lets them pass.
 */
#include "engine/seccomp.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>

#include "engine/gate.h"
#include "engine/user.h"
#include "hosts/process/map.h"
#include "hosts/process/sys.h"

#define INSTRUCTION_POINTER offsetof(struct seccomp_data, instruction_pointer)

/* The last one leaves the accumulator as the kernel has it at the start. */
static const struct sock_filter beginning[] = {
    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, INSTRUCTION_POINTER + 4),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ENGINE_BASE >> 32, 0, 3),
    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, INSTRUCTION_POINTER),
    BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, ENGINE_BYTES, 1, 0),
    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    BPF_STMT(BPF_LD | BPF_IMM, 0),
};
#define BEGINNING (sizeof(beginning) / sizeof(beginning[0]))

static long install(uint64_t flags, uint64_t address)
{
	struct sock_fprog program;
	struct sock_filter *room;
	uint64_t bytes;
	long mapped, result;

	if (user_read(&program, address, sizeof(program)))
		return -EFAULT;
	if (!program.len || program.len > BPF_MAXINSNS)
		return -EINVAL;
	bytes = (program.len + BEGINNING) * sizeof(*room);
	mapped = process_map(bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	if (sys_failed(mapped))
		return -ENOMEM;
	room = (struct sock_filter *)mapped;
	memcpy(room, beginning, sizeof(beginning));
	result =
	    user_read(room + BEGINNING, sys_address(program.filter), program.len * sizeof(*room));
	program.filter = room;
	program.len = (unsigned short)(program.len + BEGINNING);
	if (!result)
		result =
		    sys_call(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, sys_address(&program));
	sys_call(SYS_munmap, (uint64_t)mapped, bytes);
	return result;
}

enum trap_outcome seccomp_serve(const struct trap *trap, long *result)
{
	const uint64_t *args = trap->args;

	if (trap->number == SYS_seccomp && args[0] == SECCOMP_SET_MODE_FILTER)
		*result = install(args[1], args[2]);
	else if (trap->number == SYS_prctl && args[1] == SECCOMP_MODE_FILTER)
		*result = install(0, args[2]);
	else
		return TRAP_FORWARD;
	return TRAP_ANSWERED;
}
