"""What tests cost: `python -m pytest --costs` prints seconds and seconds of compiling, by file and of the worst tests.

A test is listed with what its fixtures cost where it is the first to use them. Workers of pytest-xdist are added up.
"""

import pytest

from icl_gd.lab.lifecycle.costs import COLUMNS, Clock, minus, plus, table

WORST = 40


class Costs:
    """The plugin that `--costs` switches on."""

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
        worst = sorted(self.tests.items(), key=lambda named: -named[1]["seconds"])[:WORST]
        for title, costs in (
            ("costs of files", sorted(files.items(), key=lambda named: -named[1]["seconds"])),
            (f"costs of the {len(worst)} worst tests", worst),
        ):
            terminalreporter.section(title)
            terminalreporter.write_line(table(costs))
