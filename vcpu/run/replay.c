/*
 * Devices by replay. An instruction that touches devices runs from its start each time; what it
 * was answered so far stands in a log, so the k-th access of a run finds the k-th answer: reads get
 * the logged data, writes are skipped. The first access without an answer is put to the
 * surroundings, which answer at once or make the CPU leave for the client. So instructions that
 * read and write, cross pages or touch two devices need no state machine of their own.
 */
#include "vcpu/run/replay.h"

#include "vcpu/mem/stage2.h"
#include "vcpu/mem/watch.h"
#include "vcpu/run/raise.h"

static int entry_matches(const struct replay_entry *entry, enum replay_kind kind,
			 const struct cpu_io *io)
{
	return entry->kind == kind && entry->io.address == io->address &&
	       entry->io.size_bytes == io->size_bytes && entry->io.is_write == io->is_write;
}

enum step replay_ask(struct cpu *cpu, enum replay_kind kind, const struct cpu_io *io,
		     const struct replay_entry **entry)
{
	struct replay *replay = &cpu->replay;
	struct replay_entry *next;

	if (replay->position < replay->count) {
		next = &replay->entry[replay->position];
		if (entry_matches(next, kind, io)) {
			replay->position++;
			*entry = next;
			return STEP_NEXT;
		}
		replay->count = replay->position; /* memory changed: it goes another way now */
	}
	if (replay->count == REPLAY_MAX)
		return cpu_stop_exit(cpu, CPU_EXIT_EMULATION);
	next = &replay->entry[replay->count];
	*next = (struct replay_entry){.io = *io, .kind = kind};
	cpu->stop = STOP_DEVICE;
	return STEP_ABORT;
}

void replay_retire(struct cpu *cpu)
{
	cpu->replay.count = 0;
	cpu->replay.position = 0;
	cpu->replay.pending = 0;
	cpu->replay.unfinished = 0;
	cpu->replay.emulated_count = 0;
}

int replay_tries_again(struct cpu *cpu)
{
	uint64_t retired = cpu->counts.interpreted + cpu->counts.translated + 1;
	int is_first = cpu->replay.refused_after != retired;

	cpu->replay.refused_after = retired;
	return is_first;
}

static enum cpu_io_result perform_msr(struct cpu *cpu, struct replay_entry *entry)
{
	enum cpu_msr_result result;
	uint64_t value;

	memcpy(&value, entry->io.data, sizeof(value));
	if (entry->kind == REPLAY_MSR_READ)
		result = cpu->ops->rdmsr(cpu->ctx, entry->io.address, &value);
	else
		result = cpu->ops->wrmsr(cpu->ctx, entry->io.address, value);
	memcpy(entry->io.data, &value, sizeof(value));
	entry->failed = result == CPU_MSR_GP;
	return result == CPU_MSR_USER ? CPU_IO_USER : CPU_IO_DONE;
}

/* Memory that only the hypervisor may write: L1's tables that map the access itself. */
static void perform_memory(struct cpu *cpu, struct cpu_io *io)
{
	gpa_t gpa = {io->address};
	int error;

	if (io->is_write)
		tlb_watch_wrote(cpu, gpa.v);
	if (io->is_write)
		error = quire_vcpu_write(cpu->vcpu, gpa, io->data, io->size_bytes);
	else
		error = quire_vcpu_read(cpu->vcpu, gpa, io->data, io->size_bytes);
	/* It went away meanwhile: the next access finds out. */
	if (error && !io->is_write)
		memset(io->data, 0, sizeof(io->data));
}

static enum cpu_io_result perform_mmio(struct cpu *cpu, struct replay_entry *entry)
{
	enum cpu_io_result result = CPU_IO_DONE;
	struct cpu_io io = entry->io;
	int is_memory;

	/* The log knows it by the address of the instruction's own level. */
	io.address = stage2_device_address(cpu, io.address, &is_memory);
	if (is_memory)
		perform_memory(cpu, &io);
	else
		result = cpu->ops->mmio(cpu->ctx, &io);
	memcpy(entry->io.data, io.data, sizeof(io.data));
	return result;
}

static enum cpu_io_result perform_one(struct cpu *cpu, struct replay_entry *entry)
{
	enum cpu_io_result result;

	switch (entry->kind) {
	case REPLAY_MMIO:
		cpu->exit_reason = CPU_EXIT_MMIO;
		return perform_mmio(cpu, entry);
	case REPLAY_PIO:
		cpu->exit_reason = CPU_EXIT_IO;
		return cpu->ops->pio(cpu->ctx, &entry->io);
	case REPLAY_HYPERCALL:
		cpu->exit_reason = CPU_EXIT_HYPERCALL;
		result = cpu->ops->hypercall(cpu->ctx);
		memcpy(entry->io.data, &cpu->s.gpr[CPU_RAX], sizeof(uint64_t));
		return result;
	default:
		cpu->exit_reason =
		    entry->kind == REPLAY_MSR_READ ? CPU_EXIT_MSR_READ : CPU_EXIT_MSR_WRITE;
		return perform_msr(cpu, entry);
	}
}

int replay_perform(struct cpu *cpu)
{
	struct replay *replay = &cpu->replay;
	struct replay_entry *entry = &replay->entry[replay->count];
	int is_memory;

	/* No event comes between the answer and the end of the instruction: it would ask twice. */
	replay->unfinished = 1;
	replay->pending_rip = cpu->s.rip;
	if (perform_one(cpu, entry) == CPU_IO_DONE) {
		replay->count++;
		return 0;
	}
	replay->pending = 1;
	cpu->info->io = entry->io;
	if (entry->kind == REPLAY_MMIO)
		cpu->info->io.address = stage2_device_address(cpu, entry->io.address, &is_memory);
	if (entry->kind == REPLAY_MSR_READ || entry->kind == REPLAY_MSR_WRITE) {
		cpu->info->msr_index = entry->io.address;
		memcpy(&cpu->info->msr_value, entry->io.data, sizeof(uint64_t));
	}
	return 1;
}
