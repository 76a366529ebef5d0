"""The seconds of a run are summed over all of its processes; it is reported if those of earlier ones are unknown."""

import json
import signal
import time

import pytest
from whole import ONE_LAYER, ROOT, read  # from this directory

from icl_gd.lab.command_line import parse
from icl_gd.lab.lifecycle import monitor, seconds
from icl_gd.lab.lifecycle.seconds import FILE, Seconds
from icl_gd.lab.pipeline import carry_out
from icl_gd.training import Interrupted


@pytest.fixture
def clock(monkeypatch):
    """The value of time.monotonic, which a test sets."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_seconds_of_processes_add_up(clock, tmp_path):
    first = Seconds(tmp_path, has_begun=False)
    clock[0] += 2.0
    with first.training():
        clock[0] += 10.0
        first.keep()
        clock[0] += 3.0  # kill -9 would lose these seconds
    clock[0] += 4.0
    assert first.read() == {"training": 13.0, "rest": 6.0, "processes": 1, "partial": False}
    first.keep()
    second = Seconds(tmp_path, has_begun=True)
    clock[0] += 1.0
    with second.training():
        clock[0] += 5.0
        assert second.read() == {"training": 18.0, "rest": 7.0, "processes": 2, "partial": False}


@pytest.mark.parametrize("content", [None, "{", "[]", '{"training": 1.0}'])
def test_seconds_that_were_not_kept_make_a_part(content, tmp_path):
    if content is not None:
        (tmp_path / FILE).write_text(content)
    assert Seconds(tmp_path, has_begun=True).read()["partial"]
    assert not Seconds(tmp_path, has_begun=False).read()["partial"]


def test_a_disk_that_is_full_is_no_failure_of_the_clock(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(seconds, "write_json", full)
    Seconds(tmp_path, has_begun=False).keep()


@pytest.mark.slow
def test_a_run_that_was_stopped_counts_both_of_its_processes(tmp_path):
    words = ("run", f"--config={ROOT}/configs/one_layer.py:smoke", *ONE_LAYER, f"--workdir={tmp_path}")
    stop = monitor.Stop()
    stop.signal = signal.SIGTERM
    with pytest.raises(Interrupted):
        carry_out(parse([*words]), stop)
    before = json.loads((tmp_path / FILE).read_text())
    assert before["processes"] == 1
    assert before["training"] > 0.0
    carry_out(parse([*words]), monitor.Stop())
    done = read(tmp_path)
    assert (done["seconds"]["processes"], done["seconds"]["partial"]) == (2, False)
    assert done["seconds"]["training"] > before["training"]
    assert done["wall_seconds"] == done["seconds"]["training"] + done["seconds"]["rest"]
    assert "in 2 processes" in (tmp_path / "report.html").read_text()
