/* The trace events of entries, exits and accesses. */
#include <string.h>

#include "frontend/object/vcpu.h"
#include "frontend/run/exit.h"
#include "src/base/trace.h"

/* kvm_mmio's types. */
enum mmio_trace { MMIO_UNSATISFIED_READ, MMIO_READ, MMIO_WRITE };

/* Exit codes and exit information of AMD's manual, volume 2, appendix C and 15.10.2. */
#define ISA_SVM 2
enum svm_exit {
	SVM_DB = 0x41,
	SVM_BP = 0x43,
	SVM_INTR = 0x60,
	SVM_VINTR = 0x64,
	SVM_HLT = 0x78,
	SVM_IOIO = 0x7b,
	SVM_MSR = 0x7c,
	SVM_SHUTDOWN = 0x7f,
	SVM_VMMCALL = 0x81,
	SVM_NPF = 0x400,
};
#define IOIO_IN 1u
#define IOIO_SIZE_SHIFT 4
#define IOIO_PORT_SHIFT 16
#define VECTOR_BP 3

struct svm_info {
	enum svm_exit code;
	uint64_t info1, info2;
};

static uint64_t npf_error(const struct cpu_io *io)
{
	return QUIRE_PFERR_GUEST_FINAL | QUIRE_PFERR_USER | (io->is_write ? QUIRE_PFERR_WRITE : 0);
}

static struct svm_info as_svm(enum cpu_exit reason, const struct cpu_exit_info *info)
{
	switch (reason) {
	case CPU_EXIT_IO:
		return (struct svm_info){SVM_IOIO,
					 (!info->io.is_write ? IOIO_IN : 0) |
					     info->io.size_bytes << IOIO_SIZE_SHIFT |
					     info->io.address << IOIO_PORT_SHIFT,
					 0};
	case CPU_EXIT_MMIO:
		return (struct svm_info){SVM_NPF, npf_error(&info->io), info->io.address};
	case CPU_EXIT_HYPERCALL:
		return (struct svm_info){SVM_VMMCALL, 0, 0};
	case CPU_EXIT_MSR_READ:
	case CPU_EXIT_MSR_WRITE:
		return (struct svm_info){SVM_MSR, reason == CPU_EXIT_MSR_WRITE, 0};
	case CPU_EXIT_HLT:
		return (struct svm_info){SVM_HLT, 0, 0};
	case CPU_EXIT_SHUTDOWN:
		return (struct svm_info){SVM_SHUTDOWN, 0, 0};
	case CPU_EXIT_IRQ_WINDOW:
		return (struct svm_info){SVM_VINTR, 0, 0};
	case CPU_EXIT_DEBUG:
		return (struct svm_info){info->debug_exception == VECTOR_BP ? SVM_BP : SVM_DB, 0,
					 0};
	case CPU_EXIT_WAIT:
		return (struct svm_info){SVM_NPF, info->error_code, info->gpa};
	case CPU_EXIT_EMULATION:
	case CPU_EXIT_DELIVERY:
		return (struct svm_info){SVM_NPF, QUIRE_PFERR_GUEST_FINAL, info->gpa};
	case CPU_EXIT_ERROR:
		return (struct svm_info){SVM_NPF, QUIRE_PFERR_GUEST_FINAL, info->fault.gpa.v};
	case CPU_EXIT_DEAD:
	case CPU_EXIT_INTR:
	case CPU_EXIT_DIRTY_RING:
	case CPU_EXIT_STEPPED:
		break;
	}
	return (struct svm_info){SVM_INTR, 0, 0};
}

void exit_trace(struct vcpu *vcpu, enum cpu_exit reason, const struct cpu_exit_info *info)
{
	struct svm_info svm;

	if (!quire_trace_is_on())
		return;
	svm = as_svm(reason, info);
	QUIRE_TRACE(kvm_exit, svm.code, cpu_state(vcpu->cpu)->rip, ISA_SVM, svm.info1, svm.info2, 0,
		    0, vcpu->id, 0);
}

void exit_trace_access(enum iobus_kind kind, const struct cpu_io *io, const uint8_t data[8])
{
	uint64_t value = 0;

	if (!quire_trace_is_on())
		return;
	memcpy(&value, data, io->size_bytes);
	if (kind == IOBUS_PIO)
		QUIRE_TRACE(kvm_pio, io->is_write, io->address, io->size_bytes, 1, value);
	else
		QUIRE_TRACE(kvm_mmio, io->is_write ? MMIO_WRITE : MMIO_READ, io->size_bytes,
			    io->address, value);
}

void exit_trace_unsatisfied(const struct cpu_io *io)
{
	QUIRE_TRACE(kvm_mmio, MMIO_UNSATISFIED_READ, io->size_bytes, io->address, 0);
}
