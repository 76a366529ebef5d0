"""Prints the cost of tests: `python -m pytest --costs` lists seconds and compilation seconds of files and slow tests.

The cost of a shared fixture is added to the first test that uses it. Costs are summed over workers of pytest-xdist.
"""

import pytest

from icl_gd.lab.lifecycle.costs import COLUMNS, Clock, minus, plus, table

N_SLOWEST = 40


class Costs:
    """The pytest plugin that `--costs` enables."""

    def __init__(self):
        self.clock = Clock()
        self.tests: dict[str, dict[str, float]] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        self.before = self.clock.read()
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item, call):
        report = yield
        if call.when == "teardown":
            report.user_properties.append(("costs", minus(self.clock.read(), self.before)))
        return report

    def pytest_runtest_logreport(self, report):
        for name, cost in report.user_properties:
            if name == "costs":
                self.tests[report.nodeid] = cost

    def pytest_terminal_summary(self, terminalreporter):
        files = {}
        for test, cost in self.tests.items():
            file = test.split("::")[0]
            files[file] = plus(files.get(file, dict.fromkeys(COLUMNS, 0.0)), cost)
        slowest = sorted(self.tests.items(), key=lambda named: -named[1]["seconds"])[:N_SLOWEST]
        for title, costs in (
            ("cost of files", sorted(files.items(), key=lambda named: -named[1]["seconds"])),
            (f"cost of the {len(slowest)} slowest tests", slowest),
        ):
            terminalreporter.section(title)
            terminalreporter.write_line(table(costs))
