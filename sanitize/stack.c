/* Where in the client's code a thread stands. */
#include "sanitize/stack.h"

#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <unwind.h>

#include "hosts/process/guard.h"
#include "hosts/process/process.h"
#include "hosts/process/room.h"

/* Our own module, from its first byte to the end of its code. */
extern const char __ehdr_start[] __attribute__((weak, visibility("hidden")));
extern const char etext[] __attribute__((weak, visibility("hidden")));

static _Thread_local const struct sanitize_registers *client_registers
    __attribute__((tls_model("initial-exec")));

struct taking {
	struct sanitize_stack *stack;
	uint32_t foreign; /* frames met since the last of ours */
	uint32_t inner;	  /* frames in .stack from before that */
};

void sanitize_stack_begin_at(const struct sanitize_registers *registers)
{
	client_registers = registers;
}

static bool is_ours(uint64_t address)
{
	return address >= (uintptr_t)__ehdr_start && address < (uintptr_t)etext;
}

static void add(struct sanitize_stack *stack, uint64_t address)
{
	if (stack->count < SANITIZE_FRAMES)
		stack->frames[stack->count++] = address;
}

/*
 * A second frame after ours. It was interrupted: then ours is a signal handler, the frame between
 * them its trampoline, and what is further in a handler of the client's that ours called. Or it
 * called us: then what is further in we called ourselves.
 */
static void after_ours(struct taking *taking, bool is_interrupted)
{
	struct sanitize_stack *stack = taking->stack;

	if (is_interrupted) {
		stack->count--;
	} else {
		stack->count -= taking->inner;
		memmove(stack->frames, stack->frames + taking->inner,
			stack->count * sizeof(stack->frames[0]));
	}
	taking->inner = 0;
}

/*
 * One frame. A signal's trampoline stands between a handler and what it interrupted; where the
 * handler is ours the client has no part in either, but in what our handler called.
 */
static _Unwind_Reason_Code take_frame(struct _Unwind_Context *context, void *ctx)
{
	struct taking *taking = ctx;
	int is_interrupted = 0;
	uint64_t address = _Unwind_GetIPInfo(context, &is_interrupted);

	if (!address)
		return _URC_END_OF_STACK;
	if (is_ours(address)) {
		if (taking->foreign)
			taking->inner = taking->stack->count;
		taking->foreign = 0;
		return _URC_NO_REASON;
	}
	if (taking->foreign == 1)
		after_ours(taking, is_interrupted);
	taking->foreign++;
	add(taking->stack, is_interrupted ? address : address - 1);
	return taking->stack->count == SANITIZE_FRAMES ? _URC_END_OF_STACK : _URC_NO_REASON;
}

/* Each frame begins with the caller's frame pointer and the return address. */
static void take_by_pointers(struct sanitize_stack *stack)
{
	struct sanitize_registers at = *client_registers;
	uint64_t words[2];
	size_t done;

	add(stack, at.ip);
	while (stack->count < SANITIZE_FRAMES && at.fp >= at.sp && !(at.fp & 7) &&
	       !guard_copy(words, (const void *)(uintptr_t)at.fp, sizeof(words), &done) &&
	       words[1] > 1) {
		add(stack, words[1] - 1);
		at.sp = at.fp + sizeof(words);
		at.fp = words[0];
	}
}

static _Thread_local struct sanitize_stack run_stack __attribute__((tls_model("initial-exec")));

void sanitize_run_begin(void)
{
	sanitize_stack_take(&run_stack);
}

const struct sanitize_stack *sanitize_run_stack(void)
{
	return run_stack.tid ? &run_stack : NULL;
}

__attribute__((noinline)) void sanitize_stack_take(struct sanitize_stack *stack)
{
	struct taking taking = {.stack = stack};

	stack->tid = process_thread_number();
	stack->count = 0;
	stack->place_frames = client_registers ? client_registers->place_frames : 1;
	if (client_registers)
		take_by_pointers(stack);
	else if (!process_is_cramped())
		_Unwind_Backtrace(take_frame, &taking);
}
