/* A guest for CPU tests: RAM, stage-2 tables filled on demand, a device everywhere else. */
#include "tests/unit/vcpu/fake_vcpu.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <quire/gmem.h>
#include <quire/place.h>

#include "hosts/process/guard.h"
#include "src/base/trace.h"
#include "src/entry/format.h"
#include "vcpu/svm/vmcb.h"

#define TABLES_BYTES (UINT64_C(1) << 20)
#define TABLE_FLAGS UINT64_C(0x7) /* P, W, U */
#define GUEST_FLAGS UINT64_C(0x7)

static void *map_bytes(uint64_t size_bytes)
{
	void *mem =
	    mmap(NULL, size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return mem == MAP_FAILED ? NULL : mem;
}

static void put64(struct fake_vm *vm, uint64_t gpa, uint64_t value)
{
	memcpy(vm->ram + gpa, &value, sizeof(value));
}

static void build_paging(struct fake_vm *vm)
{
	put64(vm, GUEST_PML4, GUEST_PDPT | GUEST_FLAGS);
	put64(vm, GUEST_PDPT, GUEST_PD | GUEST_FLAGS);
	put64(vm, GUEST_PDPT + 8, (UINT64_C(1) << 30) | GUEST_FLAGS | 0x80); /* the device */
	for (unsigned int i = 0; i < 4; i++)
		put64(vm, GUEST_PD + i * 8, ((uint64_t)i << 21) | GUEST_FLAGS | 0x80);
	put64(vm, GUEST_PD + 2 * 8, GUEST_PT | GUEST_FLAGS);
	for (unsigned int i = 0; i < 512; i++)
		put64(vm, GUEST_PT + i * 8, (PAGED_LINEAR + i * 4096) | GUEST_FLAGS);
}

struct fake_vm *fake_vm_create(void)
{
	struct fake_vm *vm = calloc(1, sizeof(*vm));

	vm->ram = map_bytes(RAM_BYTES);
	vm->tables = map_bytes(TABLES_BYTES);
	vm->root = vm->tables;
	vm->tables_used = 4096;
	vm->lock = malloc(sizeof(*vm->lock));
	pthread_mutex_init(vm->lock, NULL);
	build_paging(vm);
	guest_build_events(vm->ram);
	return vm;
}

void fake_vm_destroy(struct fake_vm *vm)
{
	munmap(vm->ram, RAM_BYTES);
	munmap(vm->tables, TABLES_BYTES);
	free(vm->lock);
	free(vm);
}

void fake_vm_zap(struct fake_vm *vm, struct quire_vcpu *vcpu)
{
	memset(vm->root, 0, 4096);
	vm->tables_used = 4096;
	memset((char *)vm->tables + 4096, 0, TABLES_BYTES - 4096);
	vcpu->doorbell |= QUIRE_REQ_TLB_FLUSH;
}

/* Space 1 has the halves of RAM the other way round. */
static uint8_t *ram_at(const struct quire_vcpu *vcpu, uint64_t gpa)
{
	return vcpu->vm->ram + (vcpu->space ? gpa ^ RAM_BYTES / 2 : gpa);
}

/* The library, as far as the CPU asks for it. */

const uint64_t *quire_vcpu_doorbell(const struct quire_vcpu *vcpu)
{
	return &vcpu->doorbell;
}

void quire_vcpu_request(struct quire_vcpu *vcpu, uint64_t request)
{
	__atomic_fetch_or(&vcpu->doorbell, request, __ATOMIC_SEQ_CST);
}

int quire_vcpu_enter(struct quire_vcpu *vcpu, uint64_t *requests, struct quire_stage2 *stage2)
{
	static struct quire_format npt;

	npt = entry_describe(&entry_npt, 48);
	*stage2 = (struct quire_stage2){
	    .format = &npt, .root = vcpu->vm->root, .root_level = QUIRE_LEVEL_512G};
	vcpu->in_guest = 1;
	*requests = __atomic_exchange_n(&vcpu->doorbell, 0, __ATOMIC_SEQ_CST);
	return 0;
}

uint32_t quire_vcpu_id(const struct quire_vcpu *vcpu)
{
	(void)vcpu;
	return 0;
}

union trace_listeners quire_trace_listeners;

void quire_trace_emit(enum quire_trace_event event, const uint64_t *args)
{
	(void)event;
	(void)args;
}

void quire_vcpu_leave(struct quire_vcpu *vcpu)
{
	vcpu->in_guest = 0;
}

static uint64_t *table_step(struct fake_vm *vm, uint64_t *slot)
{
	if (!*slot) {
		*slot = ((uint64_t)(uintptr_t)vm->tables + vm->tables_used) | TABLE_FLAGS;
		vm->tables_used += 4096;
	}
	return (uint64_t *)(uintptr_t)(*slot & ENTRY_ADDRESS_MASK);
}

static void map_page(const struct quire_vcpu *vcpu, uint64_t gpa, uint64_t flags)
{
	struct fake_vm *vm = vcpu->vm;
	uint64_t *table = vm->root;

	pthread_mutex_lock(vm->lock);
	for (unsigned int shift = 39; shift > 12; shift -= 9)
		table = table_step(vm, &table[gpa >> shift & 511]);
	__atomic_store_n(&table[gpa >> 12 & 511],
			 (uint64_t)(uintptr_t)ram_at(vcpu, gpa & ~UINT64_C(0xfff)) | flags,
			 __ATOMIC_RELEASE);
	pthread_mutex_unlock(vm->lock);
}

int quire_vcpu_lose_frame(struct quire_vcpu *vcpu, pfn_t pfn)
{
	vcpu->lost_pfn = pfn.v;
	return 1;
}

int quire_vcpu_fault(struct quire_vcpu *vcpu, gpa_t gpa, uint64_t error_code,
		     struct quire_memory_fault *fault)
{
	int read_only = vcpu->read_only_gpa && (gpa.v >> 12) == (vcpu->read_only_gpa >> 12);

	vcpu->faults++;
	vcpu->last_fault_gpa = gpa.v;
	vcpu->last_fault_error = error_code;
	if (vcpu->fault_result)
		return vcpu->fault_result;
	if (vcpu->retries) {
		if (!--vcpu->retries)
			mprotect(vcpu->vm->ram + (gpa.v & ~UINT64_C(0xfff)), 4096,
				 PROT_READ | PROT_WRITE);
		return QUIRE_RETRY;
	}
	if (vcpu->slow_gpa && gpa.v >> 12 == vcpu->slow_gpa >> 12 &&
	    (error_code & QUIRE_PFERR_NOWAIT))
		return -EAGAIN;
	if (vcpu->lost_pfn && vcpu->lost_pfn == ((uint64_t)(uintptr_t)vcpu->vm->ram + gpa.v) >> 12)
		return -EHWPOISON;
	if (vcpu->nested_root && gpa.v >> 12 == vcpu->nested_fault_gpa >> 12) {
		fault->flags = error_code;
		fault->gpa = gpa;
		return QUIRE_NESTED_FAULT;
	}
	if (gpa.v >= RAM_BYTES || (read_only && (error_code & QUIRE_PFERR_WRITE)))
		return QUIRE_EMULATE;
	map_page(vcpu, gpa.v, read_only ? TABLE_FLAGS & ~UINT64_C(2) : TABLE_FLAGS);
	return QUIRE_FIXED;
}

int quire_vcpu_read(struct quire_vcpu *vcpu, gpa_t gpa, void *dst, size_t size_bytes)
{
	if (vcpu->in_guest || gpa.v >= RAM_BYTES || size_bytes > RAM_BYTES - gpa.v)
		return -EFAULT;
	memcpy(dst, ram_at(vcpu, gpa.v), size_bytes);
	return 0;
}

int quire_vcpu_map(struct quire_vcpu *vcpu, gpa_t gpa, enum quire_map_kind kind,
		   struct quire_map *map)
{
	if (vcpu->in_guest || gpa.v >= RAM_BYTES)
		return -EFAULT;
	map->gfn.v = gpa.v >> 12;
	map->kind = kind;
	vcpu->maps++;
	return 0;
}

int quire_map_read(struct quire_vcpu *vcpu, const struct quire_map *map, uint64_t offset_bytes,
		   void *data, uint64_t size_bytes)
{
	return quire_vcpu_read(vcpu, (gpa_t){map->gfn.v << 12 | offset_bytes}, data, size_bytes);
}

int quire_map_write(struct quire_vcpu *vcpu, const struct quire_map *map, uint64_t offset_bytes,
		    const void *data, uint64_t size_bytes)
{
	if (map->kind != QUIRE_MAP_WRITE)
		return -EINVAL;
	return quire_vcpu_write(vcpu, (gpa_t){map->gfn.v << 12 | offset_bytes}, data, size_bytes);
}

void quire_vcpu_unmap(struct quire_vcpu *vcpu, struct quire_map *map)
{
	(void)map;
	vcpu->maps--;
}

/* Nested paging: remembered for the test to look at. */
int quire_vcpu_set_nested(struct quire_vcpu *vcpu, const struct quire_nested *nested)
{
	vcpu->nested_root = nested ? nested->root.v : 0;
	vcpu->nested_roots += nested != NULL;
	return 0;
}

int quire_vcpu_set_address_space(struct quire_vcpu *vcpu, uint32_t address_space)
{
	if (vcpu->in_guest || (address_space && vcpu->one_space))
		return -EINVAL;
	vcpu->space = address_space;
	fake_vm_zap(vcpu->vm, vcpu);
	return 0;
}

int quire_vcpu_walk_nested(struct quire_vcpu *vcpu, gpa_t gpa, uint64_t error_code, gpa_t *result)
{
	vcpu->nested_error = error_code;
	result->v = gpa.v + vcpu->nested_offset;
	return vcpu->nested_offset ? 0 : -EFAULT;
}

void quire_vcpu_flush_nested(struct quire_vcpu *vcpu)
{
	vcpu->nested_flushes++;
}

int quire_vcpu_write(struct quire_vcpu *vcpu, gpa_t gpa, const void *src, size_t size_bytes)
{
	if (vcpu->in_guest || gpa.v >= RAM_BYTES || size_bytes > RAM_BYTES - gpa.v)
		return -EFAULT;
	memcpy(ram_at(vcpu, gpa.v), src, size_bytes);
	return 0;
}

/* The machine around the CPU. */

static void ops_cpuid(void *ctx, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
	const struct quire_vcpu *vcpu = ctx;

	memset(out, 0, 4 * sizeof(*out));
	if (vcpu->cpuid) {
		vcpu->cpuid(leaf, subleaf, out);
		return;
	}
	/* Leaf 1 is empty: nothing is hidden. */
	if (leaf == 1)
		return;
	out[0] = leaf;
	out[1] = subleaf;
	if (leaf == 7)
		out[1] = 1u << 7 | 1u << 20; /* SMEP, SMAP */
	if (leaf == 0x80000000)
		out[0] = SVM_CPUID_LEAF;
	if (leaf == 0x80000008)
		out[0] = 0x3030; /* address widths */
	if (leaf == 0x80000001)
		out[2] = 1u << 2; /* SVM */
	if (leaf == 0x80000001 && !vcpu->no_long_mode)
		out[3] = 1u << 29;
	if (leaf == SVM_CPUID_LEAF)
		out[3] = vcpu->svm_features;
}

void fake_cpuid_with_pcid(uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
	out[0] = leaf & 0x80000000 ? 0x80000008 : 7;
	if (leaf == 1 || leaf == 7)
		memset(out, 0xff, 4 * sizeof(*out));
	if (leaf == 0x80000001)
		out[3] = 1u << 29 | 1u << 20; /* long mode, NX */
	if (leaf == 0x80000008)
		out[0] = 0x3030; /* address widths */
}

static enum cpu_msr_result ops_rdmsr(void *ctx, uint32_t index, uint64_t *value)
{
	*value = index;
	return index == 0x1234 ? CPU_MSR_OK : index == 0x4321 ? CPU_MSR_USER : CPU_MSR_GP;
}

static enum cpu_msr_result ops_wrmsr(void *ctx, uint32_t index, uint64_t value)
{
	return CPU_MSR_GP;
}

static enum cpu_io_result ops_io(void *ctx, struct cpu_io *io)
{
	struct quire_vcpu *vcpu = ctx;

	vcpu->device_calls++;
	if (!vcpu->device_in_kernel)
		return CPU_IO_USER;
	if (io->is_write && vcpu->freed_interrupt)
		vcpu->interrupt = vcpu->freed_interrupt;
	if (io->is_write)
		memcpy(&vcpu->device_value, io->data, io->size_bytes);
	else
		memcpy(io->data, &vcpu->device_value, io->size_bytes);
	return CPU_IO_DONE;
}

static enum cpu_io_result ops_hypercall(void *ctx)
{
	return CPU_IO_USER;
}

static int ops_interrupt_take(void *ctx)
{
	struct quire_vcpu *vcpu = ctx;
	int vector = vcpu->interrupt;

	vcpu->interrupt = -1;
	return vector;
}

static bool ops_interrupt_waiting(void *ctx)
{
	struct quire_vcpu *vcpu = ctx;
	bool waits = vcpu->interrupt >= 0;

	if (vcpu->late_interrupt) {
		vcpu->interrupt = vcpu->late_interrupt;
		vcpu->late_interrupt = 0;
		quire_vcpu_request(vcpu, UINT64_C(1) << QUIRE_REQ_CLIENT_SHIFT);
	}
	return waits;
}

static uint64_t ops_cr8_read(void *ctx)
{
	return 5;
}

static void ops_cr8_write(void *ctx, uint64_t value)
{
}

static void ops_log(void *ctx, const char *line)
{
	struct quire_vcpu *vcpu = ctx;

	snprintf(vcpu->log, sizeof(vcpu->log), "%s", line);
}

static const struct cpu_ops ops = {
    .cpuid = ops_cpuid,
    .rdmsr = ops_rdmsr,
    .wrmsr = ops_wrmsr,
    .pio = ops_io,
    .mmio = ops_io,
    .hypercall = ops_hypercall,
    .interrupt_take = ops_interrupt_take,
    .interrupt_waiting = ops_interrupt_waiting,
    .cr8_read = ops_cr8_read,
    .cr8_write = ops_cr8_write,
    .log = ops_log,
};

void fake_flat_segments(struct cpu_state *s)
{
	for (int i = 0; i <= CPU_GS; i++)
		s->seg[i] =
		    (struct cpu_segment){.limit = UINT32_MAX,
					 .selector = i == CPU_CS ? SELECTOR_CODE32 : SELECTOR_DATA,
					 .type = i == CPU_CS ? 11 : 3,
					 .s = 1,
					 .present = 1,
					 .db = 1,
					 .g = 1};
}

struct quire_vcpu *fake_vcpu_create(struct fake_vm *vm)
{
	struct quire_vcpu *vcpu = calloc(1, sizeof(*vcpu));

	vcpu->vm = vm;
	vcpu->interrupt = -1;
	vcpu->svm_features =
	    SVM_CPUID_NPT | SVM_CPUID_NEXT_RIP | SVM_CPUID_VIRTUAL_VMLOAD | SVM_CPUID_V_GIF;
	vcpu->cpu = cpu_create(vcpu, &ops, vcpu);
	guest_enter_long_mode(cpu_state(vcpu->cpu));
	cpu_state_changed(vcpu->cpu);
	/* Whole programs of tests run both ways, and in lockstep. */
	if (getenv("TEST_TRANSLATE") && cpu_translate_after(vcpu->cpu, 0))
		exit(77);
	if (getenv("TEST_LOCKSTEP"))
		(void)cpu_translate_lockstep(vcpu->cpu);
	return vcpu;
}

void fake_vcpu_destroy(struct quire_vcpu *vcpu)
{
	if (vcpu->maps) {
		fprintf(stderr, "the CPU keeps %d pages mapped\n", vcpu->maps);
		abort();
	}
	cpu_destroy(vcpu->cpu);
	free(vcpu);
}

int fake_vcpu_teardown(void **state)
{
	struct quire_vcpu *vcpu = *state;
	struct fake_vm *vm = vcpu->vm;

	fake_vcpu_destroy(vcpu);
	fake_vm_destroy(vm);
	return 0;
}

enum cpu_exit fake_vcpu_run(struct quire_vcpu *vcpu, const uint8_t *start, const uint8_t *end)
{
	struct cpu_state *s = cpu_state(vcpu->cpu);
	struct cpu_exit_info info;

	memcpy(vcpu->vm->ram + GUEST_CODE, start, (size_t)(end - start));
	s->rip = GUEST_CODE;
	s->gpr[CPU_RSP] = GUEST_STACK;
	s->halted = 0;
	cpu_state_changed(vcpu->cpu);
	return cpu_run(vcpu->cpu, 0, &info);
}

int fake_memory_failure;

static void on_fault(int signal_number, siginfo_t *info, void *context)
{
	if (fake_memory_failure && signal_number == SIGSEGV) {
		info->si_code = BUS_MCEERR_AR;
		signal_number = SIGBUS;
	}
	if (guard_handle_signal(signal_number, info, context))
		return;
	signal(signal_number, SIG_DFL);
}

void fake_signals_install(void)
{
	struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER};

	sigaction(SIGSEGV, &action, NULL);
	sigaction(SIGBUS, &action, NULL);
}
