"""What tests cost: `python -m pytest --costs` prints seconds and seconds of compiling, by file and of the worst tests.

A test is listed with what its fixtures cost where it is the first to use them. Workers of pytest-xdist are added up.
"""

import pytest

from experiments.costs import COLUMNS, Clock, minus, row

WORST = 40


class Costs:
    """The plugin that `--costs` switches on."""

    def __init__(self):
        self.clock = Clock()
        self.rows: list[tuple[str, dict[str, float]]] = []

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
        if report.when == "teardown":
            self.rows += [(report.nodeid, cost) for name, cost in report.user_properties if name == "costs"]

    def pytest_terminal_summary(self, terminalreporter):
        by_file: dict[str, dict[str, float]] = {}
        for name, cost in [*self.rows, *(("all", cost) for _, cost in self.rows)]:
            before = by_file.setdefault(name.split("::")[0], dict.fromkeys(COLUMNS, 0.0))
            by_file[name.split("::")[0]] = {column: before[column] + cost[column] for column in COLUMNS}
        terminalreporter.section("costs")
        terminalreporter.write_line("".join(f"{column:>10}" for column in COLUMNS))
        for rows in (by_file.items(), self.rows):
            for name, cost in sorted(rows, key=lambda named: -named[1]["seconds"])[:WORST]:
                terminalreporter.write_line(f"{row(cost)}  {name}")
