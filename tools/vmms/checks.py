"""Scenarios as checks of './dev test' and './dev vmms'."""
import check_report
import check_runner
from vmms.scenario import Failure, MissingPrivilege


def outcome_of(scenario):
    try:
        return check_report.Outcome("pass", scenario.run())
    except Failure as error:
        return check_report.Outcome("fail", str(error), error.output)
    except MissingPrivilege as error:
        return check_report.Outcome("skip", str(error))


def check(scenario):
    return check_runner.Check(scenario.client, f"{scenario.client}: {scenario.name}",
                              lambda: outcome_of(scenario), is_alone=scenario.is_alone)
