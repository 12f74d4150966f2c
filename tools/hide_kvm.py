"""Keeps the machine's own /dev/kvm from this process and its children, so that a pass is Quire's.

Three ways, the first that works:
  a private mount namespace in which opening /dev/kvm is refused,
  the same inside a user namespace,
  a seccomp rule that refuses every KVM ioctl that reaches the kernel (Quire's never do).
"""
import ctypes
import errno
import fcntl
import os
import platform
import stat
import struct
import tempfile

CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
MNT_DETACH, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 32, 4096, 16384, 1 << 18
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
KVM_GET_API_VERSION = 0xAE00
AUDIT_ARCH_X86_64, NR_IOCTL_X86_64 = 0xC000003E, 16
LD_ABS, JEQ, AND, RET = 0x20, 0x15, 0x54, 0x06
SECCOMP_ALLOW, SECCOMP_ERRNO = 0x7FFF0000, 0x00050000

libc = ctypes.CDLL(None, use_errno=True)


def check(result, what):
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def mount(source, target, flags, kind=None):
    check(libc.mount(source, target, kind, ctypes.c_ulong(flags), None), "mount")


def cover_device():
    """A node of our own over /dev/kvm: tests change its mode and its times, which are the machine's otherwise."""
    node = os.stat("/dev/kvm")
    folder = tempfile.mkdtemp(prefix="quire-kvm-")
    path = os.path.join(folder, "kvm")
    mount(b"quire", folder.encode(), MS_NODEV, b"tmpfs")
    os.mknod(path, node.st_mode, node.st_rdev)
    os.chmod(path, stat.S_IMODE(node.st_mode))
    os.chown(path, node.st_uid, node.st_gid)
    mount(path.encode(), b"/dev/kvm", MS_BIND)
    check(libc.umount2(folder.encode(), MNT_DETACH), "umount2")
    os.rmdir(folder)


def refuse_in_namespace(flags):
    """A bind mount without device files over /dev/kvm: opening it answers EACCES, to root too."""
    uid, gid = os.getuid(), os.getgid()
    check(libc.unshare(flags), "unshare")
    if flags & CLONE_NEWUSER:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"),
                           ("gid_map", f"{gid} {gid} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    mount(None, b"/", MS_REC | MS_PRIVATE)
    # In a user namespace nobody may make a node, nor change the machine's.
    if flags & CLONE_NEWUSER:
        mount(b"/dev/kvm", b"/dev/kvm", MS_BIND)
    else:
        cover_device()
    mount(None, b"/dev/kvm", MS_BIND | MS_REMOUNT | MS_NODEV)


def refuse_ioctls():
    """Seccomp cannot see paths, but it sees the command: every KVM ioctl has type 0xae."""
    if platform.machine() != "x86_64":
        raise OSError(errno.ENOSYS, "the seccomp rule is written for x86-64 only")
    rule = [(LD_ABS, 0, 0, 4), (JEQ, 0, 6, AUDIT_ARCH_X86_64),
            (LD_ABS, 0, 0, 0), (JEQ, 0, 4, NR_IOCTL_X86_64),
            (LD_ABS, 0, 0, 24), (AND, 0, 0, 0xFF00), (JEQ, 0, 1, 0xAE00),
            (RET, 0, 0, SECCOMP_ERRNO | errno.ENODEV), (RET, 0, 0, SECCOMP_ALLOW)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *word) for word in rule))
    program = struct.pack("@HP", len(rule), ctypes.addressof(code))
    check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    check(libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0), "seccomp")


def reachable():
    """Whether this process can still use the kernel's KVM."""
    try:
        device = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.ioctl(device, KVM_GET_API_VERSION, 0)
        return True
    except OSError:
        return False
    finally:
        os.close(device)


WAYS = (("refused in a private mount namespace", lambda: refuse_in_namespace(CLONE_NEWNS)),
        ("refused in a private user and mount namespace",
         lambda: refuse_in_namespace(CLONE_NEWNS | CLONE_NEWUSER)),
        ("every KVM ioctl refused by seccomp", refuse_ioctls))


def hide(ways=WAYS):
    """Hides it and says how; raises OSError when it stays reachable."""
    if not os.path.exists("/dev/kvm"):
        return "absent on this machine"
    for name, way in ways:
        try:
            way()
        except OSError:
            continue
        if not reachable():
            return name
    raise OSError(errno.EPERM, "the machine's own /dev/kvm cannot be hidden here")
