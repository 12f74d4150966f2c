"""Runs checks, as many at a time as there are processors, and says at a signal what is not done."""
import concurrent.futures
import dataclasses
import os
import signal
import threading
import time
import traceback
from typing import Callable

import cache
import check_report
import program


@dataclasses.dataclass
class Check:
    """One check. Nothing else runs beside one that is alone."""
    suite: str
    name: str
    run: Callable[[], check_report.Outcome]
    is_alone: bool = False
    is_slow: bool = False
    outcome: check_report.Outcome = None


def command(argv, folder, limit=600, env=None):
    """The run() of a check that is one command: exit 0 passes, exit 77 skips."""
    def run():
        status, text, _ = program.start_and_wait(argv, folder, limit, env)
        if status is None:
            return check_report.Outcome("fail", f"no end within {limit} s", text)
        if status == 77:
            lines = text.strip().splitlines()
            return check_report.Outcome("skip", lines[-1] if lines else "", text)
        if status:
            return check_report.Outcome("fail", f"exit {status}", text)
        return check_report.Outcome("pass", output=text)
    return run


class Runner:
    """Runs lists of checks one list after the other."""

    def __init__(self, report, logs, jobs=None):
        self.report = report
        self.logs = logs
        self.jobs = jobs or os.cpu_count() or 1
        self.signal = None
        logs.mkdir(parents=True, exist_ok=True)

    def catch_signals(self):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self.interrupt)

    def interrupt(self, number, _frame):
        self.signal = number
        # Killing takes a while and a lock: no work for a signal handler's thread.
        threading.Thread(target=program.ending.set).start()

    def run(self, checks):
        """Runs these to their ends: those that are alone first, then slow ones, so that none is left when the rest is
        done and the other processors have nothing to do."""
        for check in checks:
            if check.is_alone:
                self.run_one(check)
        with concurrent.futures.ThreadPoolExecutor(self.jobs) as pool:
            beside = sorted((check for check in checks if not check.is_alone), key=lambda check: not check.is_slow)
            for done in [pool.submit(self.run_one, check) for check in beside]:
                done.result()

    def run_one(self, check):
        if self.signal or program.ending.is_set:
            return
        start = time.monotonic()
        try:
            with self.report.shown.doing(check.name):
                check.outcome = check.run()
        except program.Interrupted:
            return
        except (OSError, ValueError, KeyError, AssertionError, cache.Unavailable) as error:
            text = traceback.format_exc()
            check.outcome = check_report.Outcome("fail", f"{type(error).__name__}: {error}", text)
        if check.outcome.output:
            self.keep_log(check)
        self.report.add(check.suite, check.name, check.outcome, time.monotonic() - start)

    def keep_log(self, check):
        name = "".join(c if c.isalnum() or c in "._=" else "-" for c in check.name)
        (self.logs / f"{name}.log").write_text(check.outcome.output)
