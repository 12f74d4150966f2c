/* System management mode: SMIs, its address space, what a client sees and sets of it. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "client.h"

#define SMBASE 0x30000ul
#define SMRAM_BYTES 0x10000ul
#define HANDLER 0x8000ul
#define STATE 0xfe00ul
#define HANDLER_PORT 0x81
#define MSR_SMI_COUNT 0x34u
#define MSR_SMBASE 0x9eu
/* The same guest addresses in both spaces, with other memory behind them. */
#define DATA 0x50000ul
#define DATA_SLOT 2u
#define SPACE_1 (1u << 16)
#define VALUE 0x1122334455667788ul
/* Offsets in the larger layout of the state save area. */
#define SAVED_CR0 0x158
#define SAVED_REVISION 0xfc
#define SAVED_RIP 0x178
#define SAVED_RAX 0x1f8
#define LARGER_LAYOUT 0x20064u

/* Store a byte to DATA, tell the client, return. The addresses are 32 bits in 16-bit code. */
static const uint8_t handler[] = {0x67, 0xc6, 0x05, 0x00, 0x00,		0x05, 0x00,
				  0x77, 0xb0, 0x5a, 0xe6, HANDLER_PORT, 0x0f, 0xaa};

static struct vm vm;
static struct vcpu vcpu;
static uint8_t *smram, *data[2];

static void add_memory(uint32_t flags)
{
	smram = memory_alloc(SMRAM_BYTES);
	memcpy(smram + HANDLER, handler, sizeof(handler));
	CHECK_ZERO(REGION(&vm, .slot = SPACE_1 | 1, .guest_phys_addr = SMBASE,
			  .memory_size = SMRAM_BYTES, .userspace_addr = (uintptr_t)smram));
	for (uint32_t space = 0; space < 2; space++) {
		data[space] = memory_alloc(PAGE);
		CHECK_ZERO(REGION(&vm, .slot = space << 16 | DATA_SLOT, .flags = flags,
				  .guest_phys_addr = DATA, .memory_size = PAGE,
				  .userspace_addr = (uintptr_t)data[space]));
	}
	*word_at(data[0], 0) = VALUE;
}

/* Which layout the state has depends on the guest's processor. */
static void add_vcpu(void)
{
	struct kvm_cpuid2 *cpuid = supported_cpuid(&vm);

	vcpu_open(&vm, &vcpu, 0);
	CHECK_ZERO(ioctl(vcpu.fd, KVM_SET_CPUID2, cpuid));
	free(cpuid);
}

static void begin(void)
{
	vm_open(&vm, KVM_X86_DEFAULT_VM);
	if (!vm_cap(&vm, KVM_CAP_X86_SMM))
		check_skip("this KVM has no system management mode");
	vm_add_agent(&vm);
}

static void open_machine(uint32_t flags)
{
	begin();
	add_vcpu();
	add_memory(flags);
}

static void prepare(void)
{
	vcpu_prepare(&vcpu, &(struct guest_op){.code = GUEST_LOAD8, .rbx = DATA});
}

static void run_into_handler(void)
{
	CHECK_ZERO(ioctl(vcpu.fd, KVM_RUN, 0));
	CHECK_EQ(vcpu.run->exit_reason, KVM_EXIT_IO);
	CHECK_EQ(vcpu.run->io.port, HANDLER_PORT);
	CHECK(vcpu.run->flags & KVM_RUN_X86_SMM);
}

/* The guest is about to load the word of DATA; the handler comes first. */
static void enter_handler(void)
{
	prepare();
	CHECK_ZERO(ioctl(vcpu.fd, KVM_SMI, 0));
	run_into_handler();
}

/* Back in the guest, which knows nothing of it. */
static void finish(void)
{
	struct outcome outcome = vcpu_run(&vcpu);

	CHECK_END(outcome, END_DONE);
	CHECK_EQ(outcome.value, VALUE);
	CHECK(!(vcpu.run->flags & KVM_RUN_X86_SMM));
}

static struct kvm_vcpu_events get_events(void)
{
	struct kvm_vcpu_events events;

	CHECK_ZERO(ioctl(vcpu.fd, KVM_GET_VCPU_EVENTS, &events));
	CHECK(events.flags & KVM_VCPUEVENT_VALID_SMM);
	return events;
}

static int set_events(const struct kvm_vcpu_events *events)
{
	return ioctl(vcpu.fd, KVM_SET_VCPU_EVENTS, events);
}

static uint64_t get_msr(uint32_t index)
{
	struct {
		struct kvm_msrs header;
		struct kvm_msr_entry entry;
	} one = {{.nmsrs = 1}, {.index = index}};

	CHECK_EQ(ioctl(vcpu.fd, KVM_GET_MSRS, &one), 1);
	return one.entry.data;
}

static int set_msr(uint32_t index, uint64_t value)
{
	struct {
		struct kvm_msrs header;
		struct kvm_msr_entry entry;
	} one = {{.nmsrs = 1}, {.index = index, .data = value}};

	return ioctl(vcpu.fd, KVM_SET_MSRS, &one);
}

static void an_smi_runs_the_handler(void)
{
	open_machine(0);
	CHECK_EQ(get_msr(MSR_SMBASE), SMBASE);
	enter_handler();
	CHECK_EQ(get_msr(MSR_SMI_COUNT), 1);
	CHECK_EQ(*(uint32_t *)(smram + STATE + SAVED_REVISION), LARGER_LAYOUT);
	CHECK_EQ(*word_at(smram, STATE + SAVED_RAX), 0);
	CHECK(get_events().smi.smm);
	CHECK(get_events().nmi.masked);
	finish();
	CHECK(!get_events().smi.smm);
	CHECK(!get_events().nmi.masked);
}

/* What it stores is in its own memory, and in the log of that. */
static void it_sees_its_own_address_space(void)
{
	uint64_t bits[2] = {0};

	open_machine(KVM_MEM_LOG_DIRTY_PAGES);
	enter_handler();
	CHECK_EQ(data[0][0], VALUE & 0xff);
	CHECK_EQ(data[1][0], 0x77);
	for (uint32_t space = 0; space < 2; space++)
		CHECK_ZERO(ioctl(vm.fd, KVM_GET_DIRTY_LOG,
				 &(struct kvm_dirty_log){.slot = space << 16 | DATA_SLOT,
							 .dirty_bitmap = &bits[space]}));
	CHECK_EQ(bits[0], 0);
	CHECK_EQ(bits[1], 1);
	finish();
	/* Asking has protected the page again; what clears a log knows the space, too. */
	CHECK_ZERO(vm_enable_cap(&vm, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, 1));
	for (int i = 0; i < 2; i++) {
		struct kvm_clear_dirty_log clear = {
		    .slot = SPACE_1 | DATA_SLOT, .num_pages = 1, .dirty_bitmap = &bits[1]};

		enter_handler();
		bits[1] = 0;
		CHECK_ZERO(
		    ioctl(vm.fd, KVM_GET_DIRTY_LOG,
			  &(struct kvm_dirty_log){.slot = clear.slot, .dirty_bitmap = &bits[1]}));
		CHECK_EQ(bits[1], 1);
		CHECK_ZERO(ioctl(vm.fd, KVM_CLEAR_DIRTY_LOG, &clear));
		finish();
	}
}

/* One at a time; the next waits for RSM, and the guest does not run between them. */
static void smis_wait_for_each_other(void)
{
	open_machine(0);
	enter_handler();
	CHECK_ZERO(ioctl(vcpu.fd, KVM_SMI, 0));
	CHECK(get_events().smi.pending);
	run_into_handler();
	CHECK(!get_events().smi.pending);
	CHECK_EQ(get_msr(MSR_SMI_COUNT), 2);
	finish();
}

static void events_are_kept_as_they_are_set(void)
{
	struct kvm_vcpu_events events, seen;

	open_machine(0);
	events = get_events();
	events.smi.smm = 1;
	events.smi.pending = 1;
	events.smi.smm_inside_nmi = 1;
	CHECK_ZERO(set_events(&events));
	seen = get_events();
	CHECK(seen.smi.smm && seen.smi.pending && seen.smi.smm_inside_nmi);
	/* Without the flag nothing of it changes. */
	events.smi.smm = events.smi.pending = events.smi.smm_inside_nmi = 0;
	events.flags &= ~(uint32_t)KVM_VCPUEVENT_VALID_SMM;
	CHECK_ZERO(set_events(&events));
	CHECK(get_events().smi.smm && get_events().smi.pending);
	events.flags |= KVM_VCPUEVENT_VALID_SMM;
	CHECK_ZERO(set_events(&events));
	seen = get_events();
	CHECK(!seen.smi.smm && !seen.smi.pending && !seen.smi.smm_inside_nmi);
}

/* A client that stops the guest in its handler starts it there again, in another VM. */
static void a_guest_moves_in_its_handler(void)
{
	struct kvm_vcpu_events events;
	struct kvm_sregs sregs;
	struct kvm_regs regs;
	uint8_t *saved = malloc(SMRAM_BYTES);

	open_machine(0);
	enter_handler();
	vcpu_complete(&vcpu);
	events = get_events();
	CHECK_ZERO(ioctl(vcpu.fd, KVM_GET_SREGS, &sregs));
	CHECK_ZERO(ioctl(vcpu.fd, KVM_GET_REGS, &regs));
	memcpy(saved, smram, SMRAM_BYTES);
	open_machine(0);
	memcpy(smram, saved, SMRAM_BYTES);
	free(saved);
	CHECK_ZERO(ioctl(vcpu.fd, KVM_SET_SREGS, &sregs));
	CHECK_ZERO(set_events(&events));
	CHECK_ZERO(ioctl(vcpu.fd, KVM_SET_REGS, &regs));
	finish();
}

/* The client says where SMRAM is; the handler may say so, too, by what RSM loads. */
static void smram_moves(void)
{
	open_machine(0);
	CHECK_ZERO(REGION(&vm, .slot = SPACE_1 | 1));
	CHECK_ZERO(REGION(&vm, .slot = SPACE_1 | 1, .guest_phys_addr = 0x1000000,
			  .memory_size = SMRAM_BYTES, .userspace_addr = (uintptr_t)smram));
	CHECK_EQ(set_msr(MSR_SMBASE, 0x1000000), 1);
	enter_handler();
	*(uint32_t *)(smram + STATE + 0x100) = 0x1010000;
	finish();
	CHECK_EQ(get_msr(MSR_SMBASE), 0x1010000);
}

/* RSM finds a state that no processor has. */
static void a_bad_state_shuts_down(void)
{
	open_machine(0);
	enter_handler();
	*word_at(smram, STATE + SAVED_CR0) = 1ul << 40;
	CHECK_ZERO(ioctl(vcpu.fd, KVM_RUN, 0));
	CHECK_EQ(vcpu.run->exit_reason, KVM_EXIT_SHUTDOWN);
	CHECK(!get_events().smi.smm);
}

/* With nowhere to save to the VM is over. */
static void without_smram_the_vm_dies(void)
{
	struct kvm_regs regs;

	open_machine(0);
	CHECK_ZERO(REGION(&vm, .slot = SPACE_1 | 1));
	prepare();
	CHECK_ZERO(ioctl(vcpu.fd, KVM_SMI, 0));
	CHECK_ERR(ioctl(vcpu.fd, KVM_RUN, 0), EIO);
	CHECK_ERR(ioctl(vcpu.fd, KVM_GET_REGS, &regs), EIO);
	CHECK_ERR(REGION(&vm, .slot = 7), EIO);
}

/* A message of the APIC's with the delivery mode SMI, and one with INIT. */
static void send(uint32_t mode)
{
	struct kvm_msi msi = {.address_lo = 0xfee00000, .data = mode << 8};

	CHECK_EQ(CHECK_OK(ioctl(vm.fd, KVM_SIGNAL_MSI, &msi)), 1);
}

static void messages_bring_smis(void)
{
	begin();
	CHECK_ZERO(ioctl(vm.fd, KVM_CREATE_IRQCHIP, 0));
	add_vcpu();
	add_memory(0);
	prepare();
	send(2);
	run_into_handler();
	finish();
}

/* An INIT waits for RSM; then it is the end of what was interrupted. */
static void init_is_latched(void)
{
	struct kvm_vcpu_events events;
	struct kvm_regs regs;

	begin();
	CHECK_ZERO(ioctl(vm.fd, KVM_CREATE_IRQCHIP, 0));
	add_vcpu();
	add_memory(0);
	enter_handler();
	send(5);
	events = get_events();
	CHECK(events.smi.smm && events.smi.latched_init);
	/* The vector of RESET is no memory: there the guest ends. */
	CHECK_ZERO(ioctl(vcpu.fd, KVM_RUN, 0));
	CHECK(vcpu.run->exit_reason != KVM_EXIT_IO);
	events = get_events();
	CHECK(!events.smi.smm && !events.smi.latched_init);
	CHECK_ZERO(ioctl(vcpu.fd, KVM_GET_REGS, &regs));
	CHECK_EQ(regs.rip, 0xfff0);
	CHECK_EQ(get_msr(MSR_SMBASE), SMBASE);
}

/* A SIPI does not get through to that mode, so no vCPU in it waits for one. */
static void no_vcpu_waits_for_its_sipi_there(void)
{
	struct kvm_mp_state state = {KVM_MP_STATE_INIT_RECEIVED};
	struct kvm_vcpu_events events;

	begin();
	CHECK_ZERO(ioctl(vm.fd, KVM_CREATE_IRQCHIP, 0));
	add_vcpu();
	events = get_events();
	events.smi.smm = 1;
	CHECK_ZERO(set_events(&events));
	CHECK_ZERO(ioctl(vcpu.fd, KVM_SET_MP_STATE, &state));
	vcpu.run->immediate_exit = 1;
	CHECK_ERR(ioctl(vcpu.fd, KVM_RUN, 0), EINTR);
	vcpu.run->immediate_exit = 0;
	CHECK_ERR(ioctl(vcpu.fd, KVM_RUN, 0), EINVAL);
}

/* An entry of the ring says of which space the page is. */
static void rings_tell_the_space(void)
{
	struct kvm_dirty_gfn *ring;
	int next = 0;

	vm_open(&vm, KVM_X86_DEFAULT_VM);
	if (!vm_cap(&vm, KVM_CAP_X86_SMM))
		check_skip("this KVM has no system management mode");
	CHECK_ZERO(vm_enable_cap(&vm, KVM_CAP_DIRTY_LOG_RING, 16384));
	vm_add_agent(&vm);
	add_vcpu();
	add_memory(KVM_MEM_LOG_DIRTY_PAGES);
	ring = mmap(NULL, 16384, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu.fd, 64 * PAGE);
	CHECK(ring != MAP_FAILED);
	enter_handler();
	CHECK_EQ(ring[0].flags, KVM_DIRTY_GFN_F_DIRTY);
	CHECK_EQ(ring[0].slot, SPACE_1 | DATA_SLOT);
	CHECK_EQ(ring[0].offset, 0);
	finish();
	/* Told back, the page of that space is protected again. */
	for (; ring[next].flags & KVM_DIRTY_GFN_F_DIRTY; next++)
		ring[next].flags = KVM_DIRTY_GFN_F_RESET;
	CHECK_EQ(ioctl(vm.fd, KVM_RESET_DIRTY_RINGS, 0), next);
	enter_handler();
	CHECK_EQ(ring[next].flags, KVM_DIRTY_GFN_F_DIRTY);
	CHECK_EQ(ring[next].slot, SPACE_1 | DATA_SLOT);
	finish();
}

/* Private memory and a second address space exclude each other. */
static void private_vms_have_one_space(void)
{
	vm_open(&vm, KVM_X86_SW_PROTECTED_VM);
	CHECK_EQ(vm_cap(&vm, KVM_CAP_MULTI_ADDRESS_SPACE), 1);
	CHECK_EQ(vm_cap(&vm, KVM_CAP_X86_SMM), 1);
	vm_add_agent(&vm);
	add_vcpu();
	CHECK_ZERO(ioctl(vcpu.fd, KVM_SMI, 0));
	prepare();
	CHECK_ERR(ioctl(vcpu.fd, KVM_RUN, 0), EIO);
}

/* Load the byte at rbx, tell the client, return. */
static const uint8_t loading_handler[] = {0x67, 0x8a, 0x03, 0xe6, HANDLER_PORT, 0x0f, 0xaa};
/* No memory is there in space 1 at first; in space 0 there is, which the guest loads afterwards. */
#define HOLES_GPA 0x400000ul
#define HOLES 64ul
#define ROUND (1ul << 18) /* generations that MMIO entries tell apart */
#define NEAR 4ul

/* Does the handler find memory at the hole? Its byte is then @wanted. */
static int handler_loads(uint64_t hole, uint8_t wanted)
{
	int is_memory;

	vcpu_prepare(&vcpu,
		     &(struct guest_op){.code = GUEST_LOAD8, .rbx = HOLES_GPA + hole * PAGE});
	CHECK_ZERO(ioctl(vcpu.fd, KVM_SMI, 0));
	CHECK_ZERO(ioctl(vcpu.fd, KVM_RUN, 0));
	is_memory = vcpu.run->exit_reason != KVM_EXIT_MMIO;
	if (!is_memory) {
		vcpu.run->mmio.data[0] = wanted;
		CHECK_ZERO(ioctl(vcpu.fd, KVM_RUN, 0));
	}
	CHECK_EQ(vcpu.run->exit_reason, KVM_EXIT_IO);
	CHECK_EQ(*((uint8_t *)vcpu.run + vcpu.run->io.data_offset), wanted);
	CHECK_END(vcpu_run(&vcpu), END_DONE);
	return is_memory;
}

static void slot_toggle(int is_there)
{
	CHECK_ZERO(REGION(&vm, .slot = SPACE_1 | 8, .guest_phys_addr = DATA + PAGE,
			  .memory_size = is_there ? PAGE : 0,
			  .userspace_addr = (uintptr_t)data[1]));
}

/*
 * What the handler knows of a hole is old when memory comes there, and stays so when the numbers of
 * space 1's generations come round: all of a round's fractions are tried, as in test_slot_changes.
 */
static void generations_come_round(void)
{
	static const uint64_t taken[] = {2, 3, 4, 6, 8};
	struct kvm_enable_cap keep = {.cap = KVM_CAP_DISABLE_QUIRKS2, .args = {1ul << 7}};
	uint8_t *late = memory_alloc(HOLES * PAGE);
	uint64_t hole = 0;

	open_machine(0);
	/* KVM_X86_QUIRK_SLOT_ZAP_ALL: a deletion is to leave the entries of holes. */
	CHECK_ZERO(ioctl(vm.fd, KVM_ENABLE_CAP, &keep));
	memcpy(smram + HANDLER, loading_handler, sizeof(loading_handler));
	CHECK_ZERO(REGION(&vm, .slot = 7, .guest_phys_addr = HOLES_GPA, .memory_size = HOLES * PAGE,
			  .userspace_addr = (uintptr_t)memory_alloc(HOLES * PAGE)));
	for (uint64_t page = 0; page < HOLES; page++) {
		CHECK(!handler_loads(page, 0));
		late[page * PAGE] = (uint8_t)(page + 1);
	}
	CHECK_ZERO(REGION(&vm, .slot = SPACE_1 | 7, .guest_phys_addr = HOLES_GPA,
			  .memory_size = HOLES * PAGE, .userspace_addr = (uintptr_t)late));
	for (uint64_t pair = 1; pair < ROUND / 2 + NEAR; pair++) {
		slot_toggle(1);
		slot_toggle(0);
		for (size_t i = 0; i < sizeof(taken) / sizeof(taken[0]); i++) {
			if (pair + NEAR < ROUND / taken[i] || pair >= ROUND / taken[i] + NEAR)
				continue;
			CHECK(handler_loads(hole, (uint8_t)(hole + 1)));
			hole++;
		}
	}
	CHECK_EQ(hole, 2 * NEAR * sizeof(taken) / sizeof(taken[0]));
}

int main(int argc, char **argv)
{
	static const struct check_test tests[] = {
	    TEST(an_smi_runs_the_handler),
	    TEST(it_sees_its_own_address_space),
	    TEST(smis_wait_for_each_other),
	    TEST(events_are_kept_as_they_are_set),
	    TEST(a_guest_moves_in_its_handler),
	    TEST(smram_moves),
	    TEST(a_bad_state_shuts_down),
	    TEST(without_smram_the_vm_dies),
	    TEST(messages_bring_smis),
	    TEST(init_is_latched),
	    TEST(rings_tell_the_space),
	    TEST(private_vms_have_one_space),
	    TEST(no_vcpu_waits_for_its_sipi_there),
	    TEST(generations_come_round),
	};

	return check_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
