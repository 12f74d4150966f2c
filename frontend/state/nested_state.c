/* Nested state in KVM's layout: a header of 128 bytes, then L1's VMCB while L2 runs. */
#include "frontend/state/nested_state.h"

#include <errno.h>

#include "frontend/file/user_copy.h"
#include "frontend/object/vcpu.h"
#include "frontend/object/vm.h"
#include "frontend/param/params.h"
#include "frontend/state/cpuid.h"
#include "hosts/process/heap.h"
#include "vcpu/arch.h"
#include "vcpu/svm/nested.h"

#define FORMAT_SVM 1u
#define FLAG_GUEST_MODE 1u
#define FLAG_RUN_PENDING 2u
#define FLAG_EVMCS 4u
#define FLAG_MTF_PENDING 8u
#define FLAG_GIF_SET 0x100u
#define FLAGS_ANY \
	(FLAG_GUEST_MODE | FLAG_RUN_PENDING | FLAG_EVMCS | FLAG_MTF_PENDING | FLAG_GIF_SET)
#define FLAGS_SVM (FLAG_GUEST_MODE | FLAG_RUN_PENDING | FLAG_GIF_SET)

/* Linux adds members to its own struct; the sizes stay. */
struct nested_header {
	uint16_t flags;
	uint16_t format;
	uint32_t size;
	uint64_t vmcb_gpa;
	uint64_t pat;
	uint8_t reserved[104];
};

_Static_assert(sizeof(struct nested_header) == 128, "layout of kvm_nested_state");
_Static_assert(sizeof(struct kvm_nested_state) == 128, "layout of kvm_nested_state");

bool nested_is_offered(void)
{
	return params_get_bool("kvm_amd.nested") || params_get_bool("kvm.nested_svm");
}

long nested_state_size(void)
{
	return nested_is_offered() ? sizeof(struct nested_header) + sizeof(struct vmcb) : 0;
}

static long copy_out(uint64_t user, const struct nested_header *header, const struct vmcb *vmcb)
{
	if (user_copy_out(user, header, sizeof(*header)))
		return -EFAULT;
	if (header->size == sizeof(*header))
		return 0;
	return user_copy_out(user + sizeof(*header), vmcb, sizeof(*vmcb));
}

static long get_state(struct vcpu *vcpu, uint64_t user, struct cpu_nested *nested)
{
	struct nested_header header = {.format = FORMAT_SVM, .size = sizeof(header)};
	uint64_t size_at = user + offsetof(struct nested_header, size);
	uint32_t room;

	if (user_copy_in(&room, size_at, sizeof(room)))
		return -EFAULT;
	cpu_nested_get(vcpu->cpu, nested);
	if (nested->gif)
		header.flags |= FLAG_GIF_SET;
	if (nested->in_guest_mode) {
		header.flags |= FLAG_GUEST_MODE;
		if (nested->run_pending)
			header.flags |= FLAG_RUN_PENDING;
		header.vmcb_gpa = nested->vmcb_gpa;
		header.pat = nested->pat;
		header.size += sizeof(nested->vmcb);
	}
	if (room < header.size)
		return user_copy_out(size_at, &header.size, sizeof(header.size)) ? -EFAULT : -E2BIG;
	return copy_out(user, &header, &nested->vmcb);
}

/* What both need: a VMCB is too large for the stack. */
static long with_nested(struct ioctl_call *call,
			long (*body)(struct vcpu *vcpu, uint64_t user, struct cpu_nested *nested))
{
	struct cpu_nested *nested;
	long result;

	if (!nested_is_offered())
		return -EINVAL;
	nested = process_heap_alloc(sizeof(*nested));
	if (!nested)
		return -ENOMEM;
	result = body(call->object, call->argument, nested);
	process_heap_free(nested);
	return result;
}

long vcpu_get_nested_state(struct ioctl_call *call)
{
	return with_nested(call, get_state);
}

void nested_settle(struct vcpu *vcpu)
{
	uint64_t disabled = atomic_load(&vcpu->vm->settings.disabled_quirks);

	if (!cpu_nested_active(vcpu->cpu))
		cpu_nested_separate_pat(vcpu->cpu,
					(disabled & KVM_X86_QUIRK_NESTED_SVM_SHARED_PAT) != 0);
}

static bool header_valid(struct vcpu *vcpu, const struct nested_header *header)
{
	if (header->size < sizeof(*header) || (header->flags & ~FLAGS_ANY))
		return false;
	if ((header->flags & FLAG_RUN_PENDING) && !(header->flags & FLAG_GUEST_MODE))
		return false;
	if (header->format != FORMAT_SVM || (header->flags & ~FLAGS_SVM))
		return false;
	if (!(header->flags & FLAG_GUEST_MODE))
		return true;
	/* System management mode knows no L2. */
	if (cpu_state(vcpu->cpu)->smm)
		return false;
	/* In guest mode this is L2's EFER, which has the bit as well. */
	if (!(cpu_state(vcpu->cpu)->efer & EFER_SVME))
		return false;
	return !(header->vmcb_gpa % 4096) && !(header->vmcb_gpa >> cpuid_phys_bits(vcpu)) &&
	       header->size >= sizeof(*header) + sizeof(struct vmcb);
}

static long set_state(struct vcpu *vcpu, uint64_t user, struct cpu_nested *nested)
{
	struct nested_header header;

	if (user_copy_in(&header, user, sizeof(header)))
		return -EFAULT;
	if (!header_valid(vcpu, &header))
		return -EINVAL;
	nested->gif = (header.flags & FLAG_GIF_SET) != 0;
	nested->in_guest_mode = (header.flags & FLAG_GUEST_MODE) != 0;
	nested->run_pending = (header.flags & FLAG_RUN_PENDING) != 0;
	nested->vmcb_gpa = header.vmcb_gpa;
	nested->pat = header.pat;
	if (nested->in_guest_mode &&
	    user_copy_in(&nested->vmcb, user + sizeof(header), sizeof(nested->vmcb)))
		return -EFAULT;
	nested_settle(vcpu);
	return cpu_nested_set(vcpu->cpu, nested);
}

long vcpu_set_nested_state(struct ioctl_call *call)
{
	return with_nested(call, set_state);
}
