"""Live migration of a guest that writes and checks its memory all the time."""
import pathlib
import tempfile
import time

from vmms import counters, memory_guest
from vmms.machine import Limit, Machine
from vmms.scenario import Failure, Scenario

PAGE_BYTES = 4096
# A run in which the guest wrote less on the way has shown nothing.
LEAST_DIRTIED_PAGES = 1000
# Slow enough that the guest writes its whole memory on the way, on a quick machine too.
BYTES_A_SECOND = 48 << 20
DOWNTIME_MILLISECONDS = 2000
HIDE_CLEAR = "kvm.quire_hide_caps=168"
WAYS = {"CLEAR": ((), ()), "GET": ((HIDE_CLEAR,), ()), "ring": ((), ("dirty-ring-size=4096",))}
# A finding is another exit status than 0.
SANITIZE = "--sanitize=dirty,private,slot"
SPLITS = {"eager splitting": (), "no eager splitting": ("kvm.eager_page_split=N",)}


def with_accelerator(words, options):
    """The arguments of QEMU with options of its KVM accelerator."""
    return ["kvm," + ",".join(options) if word == "kvm" and options else word for word in words]


def wait_completed(source, seconds, once_active=None, at_each=None):
    """QEMU's account of the finished migration. Once pages are on their way it is asked
    @once_active, and @at_each gets its account each time."""
    limit = Limit(source, seconds)
    while True:
        state = source.ask("query-migrate")
        if state["status"] == "completed":
            return state
        if state["status"] == "failed" or limit.is_over():
            source.fail(f"the migration's state is {state}")
        if once_active and state["status"] == "active":
            source.ask(once_active)
            once_active = None
        if at_each and state["status"] == "active":
            at_each(state)
        time.sleep(0.05)


def transfer(source, target_path, seconds=120, at_each=None):
    """Migrates source to the listener there; QEMU's account of the memory it sent."""
    source.ask("migrate-set-parameters", **{"max-bandwidth": BYTES_A_SECOND,
                                            "downtime-limit": DOWNTIME_MILLISECONDS})
    source.ask("migrate", uri=f"unix:{target_path}")
    return wait_completed(source, seconds, at_each=at_each)


def dirtied_pages(account):
    """Pages sent once more, because the guest wrote them on the way."""
    ram = account["ram"]
    return ram["normal"] + ram["duplicate"] - ram["total"] // PAGE_BYTES


def enable(capability, *machines):
    for machine in machines:
        machine.ask("migrate-set-capabilities", capabilities=[{"capability": capability, "state": True}])


def migrate(qemu, way, split, form=memory_guest.FORM, launch=(), capability=None):
    """@launch: further options of 'quire run'; @capability: one of QEMU's migration."""
    params, options = WAYS[way]
    words = with_accelerator(memory_guest.arguments(form=form), options)
    params = (*params, *SPLITS[split])
    with Machine(qemu, words, params, launch) as source:
        memory_guest.wait_beyond(source, 0)
        with Machine(qemu, [*words, "-incoming", "defer"], params, launch) as target:
            place = target.folder / "migration"
            if capability:
                enable(capability, source, target)
            target.ask("migrate-incoming", uri=f"unix:{place}")
            account = transfer(source, place)
            last = memory_guest.generations(source)[-1]
            arrived = memory_guest.wait_beyond(target, last)
            final = memory_guest.wait_beyond(target, arrived)
            pages = dirtied_pages(account)
            if pages < LEAST_DIRTIED_PAGES:
                source.fail(f"only {pages} pages were written on the way")
            for machine in (source, target):
                machine.ask("quit")
                machine.wait_end()
            return (f"{pages} pages written on the way, {account['ram']['dirty-sync-count']} rounds, "
                    f"{account['downtime']} ms down, {final} generations, none bad")


def finish_by_demand(source, target, place):
    """Moves a guest that goes on at once, and takes what it misses by userfaultfd."""
    enable("postcopy-ram", source, target)
    target.ask("migrate-incoming", uri=f"unix:{place}")
    source.ask("migrate-set-parameters", **{"max-bandwidth": BYTES_A_SECOND // 6,
                                            "max-postcopy-bandwidth": BYTES_A_SECOND // 3})
    source.ask("migrate", uri=f"unix:{place}")
    return wait_completed(source, 120, once_active="migrate-start-postcopy")


def postcopy(qemu):
    """The guest's kernel puts tasks aside whose pages are missing: asynchronous page faults."""
    words = [*memory_guest.arguments(), "-cpu", "max"]
    with Machine(qemu, words) as source:
        memory_guest.wait_beyond(source, 0)
        with tempfile.TemporaryDirectory(prefix="quire-vmm-") as folder:
            stats = pathlib.Path(folder) / "target.json"
            with Machine(qemu, [*words, "-incoming", "defer"],
                         options=("--stats", str(stats))) as target:
                account = finish_by_demand(source, target, target.folder / "migration")
                last = memory_guest.generations(source)[-1]
                final = memory_guest.wait_beyond(target, memory_guest.wait_beyond(target, last))
                target.ask("quit")
                target.wait_end()
            told = counters.totals(stats)["pf_guest"]
    if not told:
        raise Failure("the guest was told of no page that was missing", "")
    return (f"{account['ram']['postcopy-requests']} pages asked for, {told} of them told to the "
            f"guest, {final} generations, none bad")


CI = (("CLEAR", "eager splitting"), ("GET", "no eager splitting"), ("ring", "eager splitting"))


def scenarios(client, qemu):
    return [Scenario(client, f"live migration, {way}, {split}",
                     lambda way=way, split=split: migrate(qemu, way, split),
                     in_ci=(way, split) in CI) for way in WAYS for split in SPLITS] + \
           [Scenario(client, f"live migration, {way}, --sanitize",
                     lambda way=way: migrate(qemu, way, "eager splitting", launch=(SANITIZE,)))
            for way in WAYS] + \
           [Scenario(client, f"live migration, CLEAR, {capability}, --sanitize",
                     lambda capability=capability: migrate(qemu, "CLEAR", "eager splitting", launch=(SANITIZE,),
                                                           capability=capability))
            for capability in ("multifd", "xbzrle")] + \
           [Scenario(client, "post-copy, asynchronous page faults", lambda: postcopy(qemu), in_ci=True)]
