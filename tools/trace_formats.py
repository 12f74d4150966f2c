"""Compares the events of a trace.dat with the kernel's headers: fields, formats, values printed."""
import pathlib
import re
import subprocess
import tempfile

HEADERS = ("include/trace/events/kvm.h", "arch/x86/kvm/trace.h", "arch/x86/kvm/mmu/mmutrace.h")

# What the headers include beside themselves is not needed to expand their own macros.
EMPTY = ("linux/tracepoint.h", "linux/trace_events.h", "asm/vmx.h", "asm/svm.h", "asm/clocksource.h",
         "asm/pvclock-abi.h", "trace/define_trace.h")
SHIM = """
#define TRACE_EVENT(name, proto, args, fields, assign, print) @EVENT name @FIELDS fields @PRINT print @END
#define TRACE_EVENT_FN TRACE_EVENT
#define DECLARE_EVENT_CLASS TRACE_EVENT
#define DEFINE_EVENT(class, name, ...) @SAME name class @END
#define TRACE_DEFINE_ENUM(x)
#define TP_PROTO(...)
#define TP_ARGS(...)
#define TP_STRUCT__entry(...) __VA_ARGS__
#define TP_fast_assign(...)
#define TP_printk(...) __VA_ARGS__
#define __field(type, name) @FIELD type @NAME name;
#define __array(...)
#define __KVM_HAVE_IOAPIC
#define CONFIG_HAVE_KVM_IRQCHIP
#define CONFIG_KVM_ASYNC_PF
#define CONFIG_KVM_GENERIC_MEMORY_ATTRIBUTES
#define CONFIG_X86_64
"""
# The kernel reads the role of a shadow page by a union, in a block of statements, and ends it with
# a byte of zero.
PAGE = re.compile(r"\(\{.*?trace_seq_printf\(p, (.*?)\);.*?\}\)", re.S)
LISTS = {"kvm_exit": "reasons of the software CPU alone"}


class Event:
    """What is compared of an event."""

    def __init__(self, fields, print_text):
        self.fields = [(" ".join(kind.split()), name) for kind, name in fields]
        literal = re.match(r'(?:\s*"[^"]*")+', print_text)
        self.format = "".join(re.findall(r'"([^"]*)"', literal[0]))
        rest = print_text[literal.end():]
        self.used = re.findall(r"(?:__entry|REC)->(\w+)", rest)
        self.words = re.findall(r'"([^"]*)"', rest)

    def differences(self, name, kernel):
        """As lines; nothing when they agree."""
        if name in LISTS:
            asked = ("fields", "format")
        elif "role" in self.used:
            asked = ("fields", "format", "words")
        else:
            asked = ("fields", "format", "used", "words")
        return [f"{name}: {what}: {getattr(self, what)}, the kernel's: {getattr(kernel, what)}"
                for what in asked if getattr(self, what) != getattr(kernel, what)]


def inline_page(print_text):
    """The text of an event that prints a page within its own format, as one format."""
    block = PAGE.search(print_text)
    if not block:
        return print_text
    words = re.search(r"access_str\[\]\s*=\s*\{(.*?)\}", print_text, re.S)
    inner = block[1].replace('%s%c"', '%s"', 1)
    inner = re.sub(r",\s*0$", "", inner.strip()).replace("access_str[", words[1] + "[")
    outer = re.match(r'\s*"([^"]*)"\s*,', print_text)
    literal = re.match(r'(?:\s*"[^"]*")+', inner)
    text = "".join(re.findall(r'"([^"]*)"', literal[0]))
    rest = print_text[block.end():]
    return f'"{outer[1].replace("%s", text, 1)}"{inner[literal.end():]}{rest}'


def of_headers(tree):
    """{name: Event} of the kernel's source in @tree."""
    events = {}
    with tempfile.TemporaryDirectory() as folder:
        shim = pathlib.Path(folder)
        for name in EMPTY:
            (shim / name).parent.mkdir(parents=True, exist_ok=True)
            (shim / name).touch()
        (shim / "shim.h").write_text(SHIM)
        for header in HEADERS:
            text = subprocess.run(
                ["gcc", "-E", "-P", "-nostdinc", "-I", folder, "-include", str(shim / "shim.h"),
                 str(tree / header)], check=True, capture_output=True, text=True).stdout
            for name, fields, print_text in re.findall(
                    r"@EVENT (\w+) @FIELDS (.*?) @PRINT (.*?) @END", text, re.S):
                found = re.findall(r"@FIELD (.*?) @NAME (\w+);", fields, re.S)
                events[name] = (found, inline_page(print_text))
            for name, kind in re.findall(r"@SAME (\w+) (\w+) @END", text):
                events[name] = events[kind]
    return {name: Event(*what) for name, what in events.items()}


def of_trace(data):
    """{name: Event} of a trace.dat's bytes."""
    events = {}
    for name, fields, print_text in re.findall(
            r"name: (\w+)\nID: \d+\nformat:\n(.*?)\nprint fmt: (.*?)\n", data.decode("latin-1"), re.S):
        found = re.findall(r"field:([^;]*?)\s?(\w+);", fields)
        events[name] = Event([one for one in found if not one[1].startswith("common_")], print_text)
    return events


def differences(data, tree):
    """What a trace.dat says otherwise than the kernel's source in @tree, as lines."""
    ours, kernels = of_trace(data), of_headers(tree)
    if not ours:
        return ["the trace has no events"]
    lines = [f"{name}: the kernel has no such event" for name in ours if name not in kernels]
    for name in sorted(ours.keys() & kernels.keys()):
        lines += ours[name].differences(name, kernels[name])
    return lines
