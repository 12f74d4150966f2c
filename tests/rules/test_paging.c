/* The guest's own page tables: what they refuse, their A and D, and that changing them counts. */
#include <string.h>

#include "client.h"

/*
 * The slot's pages: IDT, GDT, code, data, and tables that map 4K pages from HIGH on, entry i of the
 * lowest one for HIGH + i pages. It shows at its gpa, too.
 */
#define GPA 0x10000000ul
#define SLOT 5
#define PAGES 16
#define GDT_PAGE 1
#define CODE_PAGE 2
#define DATA_PAGE 3
#define OTHER_PAGE 4
#define LEAVES_PAGE 8
#define MIDDLE_PAGE 9
#define UPPER_PAGE 10
#define HIGH (1ul << 39)
#define AT(page) (GPA + (page)*PAGE)

#define P 1ul
#define W 2ul
#define A 0x20ul
#define D 0x40ul
#define NX (1ul << 63)

#define ERROR_P 1u
#define ERROR_W 2u
#define ERROR_RSVD 8u
#define ERROR_I 16u

/* Each ends by out to AGENT_PORT, the handler of #PF too: rbx is CR2 then, rcx the error code. */
asm(".pushsection .rodata\n"
    "paging_text:\n"
    "paging_handler: popq %rcx\n movq %cr2, %rbx\n movl $0xfa, %esi\n out %al, $0x80\n"
    "paging_load: movq (%rdx), %rax\n out %al, $0x80\n"
    "paging_store: movq %rax, (%rdx)\n out %al, $0x80\n"
    "paging_jump: jmpq *%rdx\n"
    "paging_xadd: xaddq %rax, (%rdx)\n out %al, $0x80\n"
    "paging_cmpxchg: lock cmpxchgq %rcx, (%rdx)\n out %al, $0x80\n"
    "paging_fist: fninit\n fld1\n fistpll (%rdx)\n out %al, $0x80\n"
    "paging_fault_on: movq %rsp, %rdi\n movq %rdx, %rsp\n movq (%rcx), %rax\n"
    "paging_out: out %al, $0x80\n"
    "paging_invlpg: movq %rax, (%rcx)\n invlpg (%rdx)\n movq (%rdx), %rax\n out %al, $0x80\n"
    "paging_reload: movq %rax, (%rcx)\n movq %cr3, %rcx\n movq %rcx, %cr3\n"
    "movq (%rdx), %rax\n out %al, $0x80\n"
    "paging_unprotected: movq %cr0, %rcx\n btrq $16, %rcx\n movq %rcx, %cr0\n"
    "movq %rax, (%rdx)\n btsq $16, %rcx\n movq %rcx, %cr0\n"
    "movq %rax, (%rdx)\n out %al, $0x80\n"
    "paging_text_end:\n"
    ".popsection\n");
extern const uint8_t paging_text[], paging_handler[], paging_load[], paging_store[], paging_jump[],
    paging_xadd[], paging_cmpxchg[], paging_fist[], paging_fault_on[], paging_out[],
    paging_invlpg[], paging_reload[], paging_unprotected[], paging_text_end[];

static struct vm vm;
static struct vcpu vcpu;
static uint8_t *memory;

static uint64_t *page(unsigned int number)
{
	return word_at(memory, number * PAGE);
}

static uint64_t code_at(const uint8_t *code)
{
	return AT(CODE_PAGE) + (uint64_t)(code - paging_text);
}

static void build_events(void)
{
	uint64_t handler = code_at(paging_handler);

	page(0)[2 * 14] =
	    (handler & 0xffff) | 8ul << 16 | 0x8eul << 40 | (handler >> 16 & 0xffff) << 48;
	page(0)[2 * 14 + 1] = handler >> 32;
	page(GDT_PAGE)[1] = 0x00af9b000000fffful;
	page(GDT_PAGE)[2] = 0x00cf93000000fffful;
}

static void set_control(uint64_t cr0_clear, uint64_t efer)
{
	struct kvm_sregs sregs;

	CHECK_OK(ioctl(vcpu.fd, KVM_GET_SREGS, &sregs));
	sregs.idt.base = AT(0);
	sregs.idt.limit = PAGE - 1;
	sregs.gdt.base = AT(GDT_PAGE);
	sregs.gdt.limit = 3 * 8 - 1;
	sregs.cr0 &= ~cr0_clear;
	sregs.efer |= efer;
	CHECK_OK(ioctl(vcpu.fd, KVM_SET_SREGS, &sregs));
}

static void open_machine(void)
{
	machine_open(&vm, &vcpu, KVM_X86_DEFAULT_VM);
	memory = memory_alloc(PAGES * PAGE);
	CHECK_ZERO(REGION(&vm, .slot = SLOT, .guest_phys_addr = GPA, .memory_size = PAGES * PAGE,
			  .userspace_addr = (uintptr_t)memory));
	memcpy(page(CODE_PAGE), paging_text, (size_t)(paging_text_end - paging_text));
	build_events();
	page(UPPER_PAGE)[0] = AT(MIDDLE_PAGE) | P | W;
	page(MIDDLE_PAGE)[0] = AT(LEAVES_PAGE) | P | W;
	*word_at(vm.agent, 4 * PAGE + 8) = AT(UPPER_PAGE) | P | W;
	page(DATA_PAGE)[0] = 33;
	page(OTHER_PAGE)[0] = 44;
	set_control(0, 1ul << 11);
}

struct access {
	const uint8_t *code;
	uint64_t address, value, table;
};

static struct outcome run(const struct access *access)
{
	return GUEST(&vcpu, GUEST_CALL, .rax = access->value, .rbx = code_at(access->code),
		     .rcx = access->table, .rdx = access->address);
}

#define RUN(...) run(&(struct access){__VA_ARGS__})

static uint64_t load(uint64_t address)
{
	struct outcome outcome = RUN(.code = paging_load, .address = address);

	CHECK_END(outcome, END_DONE);
	return outcome.value;
}

/* The guest got a page fault at @address with @error. */
static void check_fault(struct outcome outcome, uint64_t address, uint64_t error)
{
	struct kvm_regs regs;

	CHECK_END(outcome, END_DONE);
	CHECK_OK(ioctl(vcpu.fd, KVM_GET_REGS, &regs));
	CHECK_EQ(regs.rsi, 0xfa);
	CHECK_EQ(regs.rbx, address);
	CHECK_EQ(regs.rcx, error);
}

static void faults_reach_the_guest(void)
{
	uint64_t address = HIGH + 24;

	open_machine();
	check_fault(RUN(.code = paging_load, .address = address), address, 0);
	check_fault(RUN(.code = paging_store, .address = address), address, ERROR_W);
	check_fault(RUN(.code = paging_jump, .address = address), address, ERROR_I);
	page(LEAVES_PAGE)[0] = AT(DATA_PAGE) | P | NX;
	CHECK_EQ(load(HIGH), 33);
	check_fault(RUN(.code = paging_store, .address = address), address, ERROR_P | ERROR_W);
	check_fault(RUN(.code = paging_jump, .address = address), address, ERROR_P | ERROR_I);
	page(LEAVES_PAGE)[1] = AT(DATA_PAGE) | P | W | 1ul << 51;
	check_fault(RUN(.code = paging_load, .address = address + PAGE), address + PAGE,
		    ERROR_P | ERROR_RSVD);
	/* CR2 holds the whole address. */
	address = 0xffff800000001000;
	check_fault(RUN(.code = paging_load, .address = address), address, 0);
	/* Without a second stage it was the hypervisor that told the guest. */
	CHECK_EQ(stat_get(vcpu.fd, "pf_guest") > 0, !has_second_stage());
	/* Nothing was written. */
	CHECK_EQ(page(DATA_PAGE)[3], 0);
}

static void rights_of_every_level_count(void)
{
	open_machine();
	page(MIDDLE_PAGE)[0] = AT(LEAVES_PAGE) | P | NX;
	page(LEAVES_PAGE)[0] = AT(DATA_PAGE) | P | W;
	page(LEAVES_PAGE)[1] = AT(CODE_PAGE) | P | W;
	check_fault(RUN(.code = paging_store, .address = HIGH), HIGH, ERROR_P | ERROR_W);
	check_fault(RUN(.code = paging_jump, .address = HIGH + PAGE), HIGH + PAGE,
		    ERROR_P | ERROR_I);
	CHECK_EQ(load(HIGH), 33);
}

static void accessed_and_dirty(void)
{
	open_machine();
	page(LEAVES_PAGE)[0] = AT(DATA_PAGE) | P | W;
	CHECK_EQ(load(HIGH), 33);
	CHECK_EQ(page(LEAVES_PAGE)[0], AT(DATA_PAGE) | P | W | A);
	CHECK_EQ(page(MIDDLE_PAGE)[0] & (A | D), A);
	CHECK_END(RUN(.code = paging_store, .address = HIGH, .value = 34), END_DONE);
	CHECK_EQ(page(LEAVES_PAGE)[0], AT(DATA_PAGE) | P | W | A | D);
	CHECK_EQ(page(DATA_PAGE)[0], 34);
}

/* The guest writes its tables: at once where nothing was, else once it has flushed. */
static void changes_by_the_guest(void)
{
	open_machine();
	for (uint64_t i = 0; i < 8; i++) {
		const uint8_t *flush = i & 1 ? paging_reload : paging_invlpg;
		uint64_t target = i & 2 ? OTHER_PAGE : DATA_PAGE;
		struct outcome outcome = RUN(.code = flush, .table = AT(LEAVES_PAGE),
					     .value = AT(target) | P | W, .address = HIGH);

		CHECK_END(outcome, END_DONE);
		CHECK_EQ(outcome.value, page((unsigned int)target)[0]);
		/* A higher level: the same table, or none. */
		outcome = RUN(.code = flush, .table = AT(UPPER_PAGE), .value = 0, .address = HIGH);
		check_fault(outcome, HIGH, 0);
		outcome = RUN(.code = flush, .table = AT(UPPER_PAGE),
			      .value = AT(MIDDLE_PAGE) | P | W, .address = HIGH);
		CHECK_EQ(outcome.value, page((unsigned int)target)[0]);
	}
}

/* A table that is mapped by itself. */
static void table_that_maps_itself(void)
{
	open_machine();
	page(LEAVES_PAGE)[0] = AT(LEAVES_PAGE) | P | W;
	CHECK_END(RUN(.code = paging_store, .address = HIGH + 8, .value = AT(DATA_PAGE) | P | W),
		  END_DONE);
	CHECK_EQ(page(LEAVES_PAGE)[1] & ~(A | D), AT(DATA_PAGE) | P | W);
	CHECK_EQ(load(HIGH + PAGE), 33);
	CHECK_EQ(load(HIGH + 8) & ~(A | D), AT(DATA_PAGE) | P | W);
}

/* What reads and writes such a table gets what was there before. */
static void exchange_with_the_table_that_maps_itself(void)
{
	struct outcome outcome;

	open_machine();
	page(LEAVES_PAGE)[0] = AT(LEAVES_PAGE) | P | W;
	page(LEAVES_PAGE)[9] = 7;
	outcome = RUN(.code = paging_xadd, .address = HIGH + 72, .value = 100);
	CHECK_END(outcome, END_DONE);
	CHECK_EQ(outcome.value, 7);
	CHECK_EQ(page(LEAVES_PAGE)[9], 107);
	outcome = RUN(.code = paging_cmpxchg, .address = HIGH + 72, .value = 107, .table = 200);
	CHECK_END(outcome, END_DONE);
	CHECK_EQ(outcome.value, 107);
	CHECK_EQ(page(LEAVES_PAGE)[9], 200);
	outcome = RUN(.code = paging_cmpxchg, .address = HIGH + 72, .value = 5, .table = 300);
	CHECK_END(outcome, END_DONE);
	CHECK_EQ(outcome.value, 200);
	CHECK_EQ(page(LEAVES_PAGE)[9], 200);
}

/* Code writes, by another way, to each of the tables that map it. */
static void tables_that_map_the_code(void)
{
	static const unsigned int tables[] = {UPPER_PAGE, MIDDLE_PAGE, LEAVES_PAGE};

	open_machine();
	page(LEAVES_PAGE)[0] = AT(CODE_PAGE) | P;
	for (unsigned int i = 0; i < 3; i++)
		for (uint64_t turn = 0; turn < 3; turn++) {
			struct outcome outcome =
			    GUEST(&vcpu, GUEST_CALL, .rax = turn << 12 | W,
				  .rbx = HIGH + (uint64_t)(paging_store - paging_text),
				  .rdx = AT(tables[i]) + 8 * 500);

			CHECK_END(outcome, END_DONE);
			CHECK_EQ(page(tables[i])[500], turn << 12 | W);
		}
}

/*
 * What KVM's emulator does not know writes to a table in use, where MOV has written before. The
 * table need not go on as one: a page that was freed, and is something else now, is written so.
 */
static void table_that_becomes_data(void)
{
	uint64_t address = AT(MIDDLE_PAGE) + 8 * 500;

	open_machine();
	page(LEAVES_PAGE)[0] = AT(DATA_PAGE) | P | W;
	for (uint64_t turn = 2; turn < 6; turn++) {
		CHECK_EQ(load(HIGH), 33);
		CHECK_END(RUN(.code = paging_store, .address = address, .value = turn), END_DONE);
		CHECK_EQ(page(MIDDLE_PAGE)[500], turn);
		CHECK_EQ(load(HIGH), 33);
		CHECK_END(RUN(.code = paging_fist, .address = address), END_DONE);
		CHECK_EQ(page(MIDDLE_PAGE)[500], 1);
	}
}

/* The same of a stack: the frame of a page fault goes twice to a page that is a table each time. */
static void table_that_becomes_a_stack(void)
{
	uint64_t stack = AT(MIDDLE_PAGE) + 8 * 500, missing = HIGH + PAGE;
	struct kvm_regs regs;

	open_machine();
	page(LEAVES_PAGE)[0] = AT(DATA_PAGE) | P | W;
	for (unsigned int turn = 0; turn < 4; turn++) {
		CHECK_EQ(load(HIGH), 33);
		check_fault(RUN(.code = paging_fault_on, .address = stack, .table = missing),
			    missing, 0);
		CHECK_OK(ioctl(vcpu.fd, KVM_GET_REGS, &regs));
		regs.rsp = regs.rdi;
		CHECK_OK(ioctl(vcpu.fd, KVM_SET_REGS, &regs));
		CHECK_EQ(page(MIDDLE_PAGE)[499], 0x10);
		page(MIDDLE_PAGE)[499] = 0;
	}
}

static void write_protection_of_the_supervisor(void)
{
	open_machine();
	page(LEAVES_PAGE)[0] = AT(DATA_PAGE) | P;
	/* Once with CR0.WP clear, then with it set. */
	check_fault(RUN(.code = paging_unprotected, .address = HIGH, .value = 35), HIGH,
		    ERROR_P | ERROR_W);
	CHECK_EQ(page(DATA_PAGE)[0], 35);
	CHECK_EQ(page(LEAVES_PAGE)[0], AT(DATA_PAGE) | P | A | D);
	set_control(1ul << 16, 0);
	CHECK_END(RUN(.code = paging_store, .address = HIGH, .value = 36), END_DONE);
	CHECK_EQ(load(HIGH), 36);
}

static void store_and_harvest(uint64_t value)
{
	uint64_t bits = 0;
	struct kvm_dirty_log log = {.slot = SLOT, .dirty_bitmap = &bits};

	CHECK_END(RUN(.code = paging_store, .address = HIGH, .value = value), END_DONE);
	CHECK_EQ(page(DATA_PAGE)[0], value);
	CHECK_ZERO(ioctl(vm.fd, KVM_GET_DIRTY_LOG, &log));
	CHECK(bits >> DATA_PAGE & 1);
}

/* A supervisor that may write everywhere still does not write unseen. */
static void unprotected_writes_are_logged(void)
{
	open_machine();
	page(LEAVES_PAGE)[0] = AT(DATA_PAGE) | P;
	set_control(1ul << 16, 0);
	CHECK_ZERO(REGION(&vm, .slot = SLOT, .flags = KVM_MEM_LOG_DIRTY_PAGES,
			  .guest_phys_addr = GPA, .memory_size = PAGES * PAGE,
			  .userspace_addr = (uintptr_t)memory));
	CHECK_EQ(load(HIGH), 33);
	for (uint64_t value = 34; value < 38; value++)
		store_and_harvest(value);
	CHECK_EQ(page(LEAVES_PAGE)[0], AT(DATA_PAGE) | P | A | D);
}

static void devices_by_their_physical_address(void)
{
	struct outcome outcome;

	open_machine();
	page(LEAVES_PAGE)[0] = AT(PAGES + 7) | P | W;
	outcome = RUN(.code = paging_load, .address = HIGH + 16);
	CHECK_END(outcome, END_MMIO);
	CHECK_EQ(outcome.mmio.gpa, AT(PAGES + 7) + 16);
	outcome = RUN(.code = paging_store, .address = HIGH + 32, .value = 5);
	CHECK_END(outcome, END_MMIO);
	CHECK_EQ(outcome.mmio.gpa, AT(PAGES + 7) + 32);
	CHECK_EQ(outcome.mmio.data, 5);
}

static void translation(void)
{
	struct kvm_translation request = {.linear_address = HIGH + 40};

	open_machine();
	page(LEAVES_PAGE)[0] = AT(DATA_PAGE) | P | W;
	CHECK_OK(ioctl(vcpu.fd, KVM_TRANSLATE, &request));
	CHECK(request.valid);
	CHECK_EQ(request.physical_address, AT(DATA_PAGE) + 40);
	request.linear_address = HIGH + PAGE;
	CHECK_OK(ioctl(vcpu.fd, KVM_TRANSLATE, &request));
	CHECK(!request.valid);
}

static const struct check_test tests[] = {
    TEST(faults_reach_the_guest),
    TEST(rights_of_every_level_count),
    TEST(accessed_and_dirty),
    TEST(changes_by_the_guest),
    TEST(table_that_maps_itself),
    TEST(exchange_with_the_table_that_maps_itself),
    TEST(tables_that_map_the_code),
    TEST(table_that_becomes_data),
    TEST(table_that_becomes_a_stack),
    TEST(write_protection_of_the_supervisor),
    TEST(unprotected_writes_are_logged),
    TEST(devices_by_their_physical_address),
    TEST(translation),
};

int main(int argc, char **argv)
{
	return check_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
