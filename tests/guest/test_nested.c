/*
 * Random guest hypervisors under dirty logging, against the oracle. One seed is one VM with one or
 * two of them; the client meanwhile reads and clears logs, and between rounds changes slots.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "play_internal.h"
#include "seeds.h"

#define PLAYS 2u
#define ROUNDS 8u
#define TURNS 400u

static struct play plays[PLAYS];
static struct vm vm;
static struct client {
	struct fuzz_random random;
	uint32_t plays;
	uint64_t manual; /* KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 */
	uint32_t is_logging, is_running;
	uint64_t rounds, harvests, huge_seen;
} client;

static void *play_thread(void *argument)
{
	play_turns(argument, TURNS);
	return NULL;
}

static void clear_log(const struct play_memory *memory, uint64_t *bits)
{
	struct kvm_clear_dirty_log request = {
	    .slot = memory->slot, .num_pages = memory->pages, .dirty_bitmap = bits};

	request.num_pages = memory->pages;
	CHECK_OK(ioctl(vm.fd, KVM_CLEAR_DIRTY_LOG, &request));
}

static void harvest(struct play_memory *memory)
{
	uint64_t bits[PLAY_PAGES_MAX / 64] = {0};
	struct kvm_dirty_log request = {.slot = memory->slot, .dirty_bitmap = bits};

	CHECK_OK(ioctl(vm.fd, KVM_GET_DIRTY_LOG, &request));
	for (uint32_t page = 0; page < memory->pages; page++)
		memory->reported[page] |= bits[page / 64] >> page % 64 & 1;
	if (client.manual)
		clear_log(memory, bits);
	client.harvests++;
}

static void for_each_logged(void (*work)(struct play_memory *memory))
{
	for (uint32_t i = 0; i < client.plays; i++)
		for (uint32_t slot = 0; slot < PLAY_SLOTS; slot++)
			if (slot != PLAY_ROM)
				work(&plays[i].memory[slot]);
}

static void set_logging(uint32_t on)
{
	for (uint32_t i = 0; i < client.plays; i++)
		for (uint32_t slot = 0; slot < PLAY_SLOTS; slot++)
			if (slot != PLAY_ROM)
				play_set_slot(&plays[i], &vm, (enum play_slot)slot,
					      on ? KVM_MEM_LOG_DIRTY_PAGES : 0);
	client.is_logging = on;
}

static void check_log(struct play_memory *memory)
{
	for (uint32_t page = 0; page < memory->pages; page++)
		if (memory->written[page] && !memory->reported[page])
			FAIL("slot %u: page %u was written and is not in the log", memory->slot,
			     page);
}

static void forget_writes(struct play_memory *memory)
{
	memset(memory->written, 0, sizeof(memory->written));
	memset(memory->reported, 0, sizeof(memory->reported));
}

/* The memory of a slot stays and its mappings go: by the host, or by deleting the slot. */
static void take_away(struct play *play)
{
	struct play_memory *memory = &play->memory[random_below(&client.random, PLAY_SLOTS)];
	size_t bytes = memory->pages * PAGE;
	uint32_t flags = client.is_logging ? KVM_MEM_LOG_DIRTY_PAGES : 0;

	if (random_once_in(&client.random, 2)) {
		CHECK_ZERO(mprotect(memory->host, bytes, PROT_READ));
		CHECK_ZERO(mprotect(memory->host, bytes, PROT_READ | PROT_WRITE));
		return;
	}
	CHECK_ZERO(REGION(&vm, .slot = memory->slot));
	play_set_slot(play, &vm, (enum play_slot)(memory - play->memory), flags);
}

static void between_rounds(void)
{
	for (uint32_t i = 0; i < client.plays; i++)
		play_check_memory(&plays[i]);
	if (client.is_logging) {
		for_each_logged(harvest);
		for_each_logged(check_log);
	}
	client.huge_seen += stat_get(vm.fd, "pages_2m");
	if (random_once_in(&client.random, 2))
		take_away(&plays[random_below(&client.random, client.plays)]);
	if (random_once_in(&client.random, 3))
		set_logging(!client.is_logging);
	for_each_logged(forget_writes);
}

/* Logging starts before the round, or in its midst; then only the next one is checked. */
static void one_round(void)
{
	pthread_t threads[PLAYS];
	uint64_t harvests = random_below(&client.random, 6);
	int starts = !client.is_logging && random_once_in(&client.random, 2);

	for (uint32_t i = 0; i < client.plays; i++)
		CHECK_ZERO(pthread_create(&threads[i], NULL, play_thread, &plays[i]));
	if (starts) {
		usleep(2000);
		set_logging(1);
	}
	for (uint64_t i = 0; i < harvests && client.is_logging; i++) {
		for_each_logged(harvest);
		usleep(1000);
	}
	for (uint32_t i = 0; i < client.plays; i++)
		CHECK_ZERO(pthread_join(threads[i], NULL));
	if (starts) {
		for_each_logged(harvest);
		for (uint32_t i = 0; i < client.plays; i++)
			play_check_memory(&plays[i]);
		for_each_logged(forget_writes);
	}
	client.rounds++;
}

static void tell(void)
{
	struct play_counts sum = {0};

	for (uint32_t i = 0; i < client.plays; i++) {
		const struct play_counts *counts = &plays[i].counts;

		sum.accesses += counts->accesses;
		sum.faults += counts->faults;
		sum.devices += counts->devices;
		sum.stale += counts->stale;
		sum.changes += counts->changes;
	}
	fprintf(stderr,
		"  %lu accesses of L2, %lu faults, %lu at devices, %lu stale; %lu entries changed, "
		"%lu harvests, 2M pages seen %lu\n",
		sum.accesses, sum.faults, sum.devices, sum.stale, sum.changes, client.harvests,
		client.huge_seen);
}

static void run_seed(uint64_t seed)
{
	static const uint64_t manuals[] = {0, 1, 3};

	if (!plays[0].memory[0].host)
		for (uint32_t i = 0; i < PLAYS; i++)
			play_alloc(&plays[i], i);
	client = (struct client){0};
	random_seed(&client.random, seed);
	client.plays = 1 + (uint32_t)random_below(&client.random, PLAYS);
	client.manual = manuals[random_below(&client.random, 3)];
	vm_open(&vm, KVM_X86_DEFAULT_VM);
	vm_add_agent(&vm);
	if (client.manual)
		CHECK_ZERO(vm_enable_cap(&vm, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, client.manual));
	for (uint32_t i = 0; i < client.plays; i++)
		play_open(&plays[i], &vm, i, seed);
	for (uint32_t round = 0; round < ROUNDS; round++) {
		one_round();
		between_rounds();
	}
	if (getenv("GUEST_VERBOSE"))
		tell();
	for (uint32_t i = 0; i < client.plays; i++)
		play_close(&plays[i]);
	munmap(vm.agent, AGENT_BYTES);
	close(vm.fd);
	close(vm.kvm);
}

int main(int argc, char **argv)
{
	return seeds_main(argc, argv, run_seed);
}
