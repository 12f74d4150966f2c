"""KVM clients of ours in other languages and for other C libraries, built by Debian's compilers."""
import os
import subprocess

import program
from vmms import places
from vmms.scenario import Failure, Scenario

# Beside Debian's a machine may have other ones in its PATH.
RUSTC, GO, MUSL_GCC = "/usr/bin/rustc", "/usr/bin/go", "/usr/bin/musl-gcc"
LIMIT_SECONDS = 300


def build(made, command):
    """Runs a compiler, whose cache and settings are the tree's own."""
    places.WORK.mkdir(parents=True, exist_ok=True)
    settings = {**os.environ, "GOCACHE": str(places.WORK / "go-cache"), "GO111MODULE": "off",
                "GOFLAGS": "", "GOTOOLCHAIN": "local",
                "CGO_ENABLED": "1" if "client_cgo.go" in str(command) else "0"}
    done = subprocess.run(command, env=settings, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise Failure(f"{command[0]}: exit {done.returncode}", done.stdout)
    return made


def run(made, options=()):
    words = [*places.RUN, *options, "--", str(made)]
    status, text, _ = program.start_and_wait(words, places.WORK, LIMIT_SECONDS)
    if status != 0:
        raise Failure(f"exit {status}" if status is not None else "no end in time", text)
    return text.strip()


def sources(*names):
    return [str(places.SOURCES / name) for name in names]


def rust():
    made = places.WORK / "rust-client"
    return run(build(made, [RUSTC, "-O", "--edition", "2021", "-o", str(made),
                            *sources("client.rs")]))


def go(other, name):
    made = places.WORK / f"go-client-{name}"
    return run(build(made, [GO, "build", "-o", str(made), *sources("client.go", other)]))


def musl(*options):
    made = places.WORK / "-".join(["musl-client", *options])
    return run(build(made, [MUSL_GCC, "-O2", "-Wall", "-Wextra", *options, "-o", str(made),
                            *sources("client.c")]))


def first_line(*command):
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE, check=True)
    return done.stdout.splitlines()[0]


def rust_version():
    return first_line(RUSTC, "--version")


def go_version():
    return first_line(GO, "version")


def musl_version():
    return first_line("dpkg-query", "-W", "-f", "${Package} ${Version}\n", "musl-tools")


def rust_scenarios():
    return [Scenario("rust", "files, threads, four vCPUs", rust, in_ci=True)]


def go_scenarios():
    return [Scenario("go", "system calls of its own, four vCPUs, a child",
                     lambda: go("client_pure.go", "pure"), in_ci=True),
            Scenario("go", "the same with cgo", lambda: go("client_cgo.go", "cgo"), in_ci=True)]


def musl_scenarios():
    return [Scenario("musl", "static, four vCPUs, a child", lambda: musl("-static"), in_ci=True),
            Scenario("musl", "the same, dynamic", musl, in_ci=True)]
