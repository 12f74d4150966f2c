"""A KVM client in Rust, built by Debian's rustc."""
import subprocess

import program
from vmms import places
from vmms.scenario import Failure, Scenario

# Beside it a machine may have another one in its PATH.
RUSTC = "/usr/bin/rustc"


def run_client():
    places.WORK.mkdir(parents=True, exist_ok=True)
    made = places.WORK / "rust-client"
    subprocess.run([RUSTC, "-O", "--edition", "2021", "-o", str(made),
                    str(places.SOURCES / "client.rs")], check=True)
    status, text, _ = program.start_and_wait([str(places.QUIRE), "run", "--", str(made)],
                                             places.WORK, 300)
    if status != 0:
        raise Failure(f"exit {status}", text)
    return text.strip()


def version():
    return subprocess.run([RUSTC, "--version"], text=True, stdout=subprocess.PIPE,
                          check=True).stdout.strip()


def scenarios():
    return [Scenario("rust", "files, threads, four vCPUs", run_client, in_ci=True)]
