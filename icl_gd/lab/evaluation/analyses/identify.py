"""The algorithm that every member computes, and the one that a member computed at earlier steps of training.

With `train.keep_checkpoints=log` (or `all`), one member is identified at the kept steps, too: the typical member of
those that are not trapped.
"""

import contextlib
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from icl_gd import identification, plots
from icl_gd.identification import Verdict
from icl_gd.identification.verdict import in_words, size_of
from icl_gd.lab.config.questions import Analysis, Done, Evidence, Picture
from icl_gd.lab.evaluation.measured import GROUPS, Evaluation, Records
from icl_gd.lab.reporting.results import curve
from icl_gd.models import Model
from icl_gd.training.checkpoint import Checkpoints
from icl_gd.training.in_context import load

NAMED = ("gd", "preconditioned_gd", "gd_plus_plus", "none")  # verdicts that are counted
# Observations that are reported for every member; nan if a verdict does not have them.
OBSERVED = (
    "weight_distance", "kept_worst_layer", "kept_all_layers", "kept_on_line", "kept_without_rest",
    "exchange_unexplained", "control_kept", "control_exchange_unexplained",
)  # fmt: skip
UNTRAINED = 3  # untrained members that are identified
SHARES = {  # of a verdict's `unexplained`: label, role, marker
    "in_distribution": ("unexplained", "trained", "o"),
    "shifted": ("unexplained under the worst shift", "wrong_step", "^"),
    "noise_floor": ("breaks symmetries", "zero", "s"),
}
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")


def measure(evaluation: Evaluation, records: Records) -> None:
    """Identifies every member, some untrained members, and one member at the kept steps of training."""
    began = time.monotonic()

    def identified(model: Model, title: str) -> Verdict:
        verdict = identification.identify(model, evaluation.task, seed=evaluation.experiment.seed)
        print(f"  {title}: {in_words(verdict.as_dict())} ({time.monotonic() - began:.0f} s)", flush=True)
        return verdict

    trained, members = evaluation.trained, range(len(evaluation.trained))
    verdicts = [identified(trained[i], f"member {i}") for i in members]
    first = evaluation.experiment.seed
    records.verdicts = [{"seed": first + i, **verdict.as_dict()} for i, verdict in enumerate(verdicts)]
    for name in NAMED:
        records.add(f"named_{name}", [verdict.verdict == name for verdict in verdicts], 0.0, over=GROUPS)
    for name, values in numbers_of(verdicts).items():
        records.add(name, values)
    untrained = replace(trained, params=evaluation.untrained)
    count = min(len(members), UNTRAINED, evaluation.suite_values or UNTRAINED)
    of_untrained = [identified(untrained[i], f"untrained member {i}") for i in range(count)]
    records.add_one("named_untrained", np.mean([verdict.verdict not in ("none", "zero") for verdict in of_untrained]))
    if evaluation.checkpoints is not None and evaluation.experiment["train.keep_checkpoints"] != "last":
        member = int(records.shown[len(records.shown) // 2])
        steps = evaluation.subsample(log_spaced(kept_steps(evaluation.checkpoints)))
        if len(steps) > 1:
            earlier = [load(evaluation.checkpoints, step)[member] for step in steps]
            titles = [f"member {member}, step {step}" for step in steps]
            _add_training(records, first + member, steps, list(map(identified, earlier, titles)))


def kept_steps(checkpoints: Path) -> list[int]:
    """The steps of all checkpoints in a directory."""
    with contextlib.closing(Checkpoints(checkpoints, create=False)) as store:
        return store.steps


def log_spaced(steps: Sequence[int]) -> list[int]:
    """The first of the steps in every range from one power of two to the next, and the last step.

    Returns:
      Steps in ascending order.
    """
    first = {step.bit_length(): step for step in reversed(steps)}
    return sorted({*first.values(), *steps[-1:]})


def numbers_of(verdicts: Sequence[Verdict]) -> dict[str, list[float]]:
    """The numbers of verdicts that are metrics, one value per verdict; nan where a verdict has no such number.

    Returns:
      Values by metric.
    """

    def step_size(verdict: Verdict) -> float:
        return float(np.mean(verdict.parameters.get("step_sizes", np.nan)))

    def observed(verdict: Verdict, name: str) -> float:
        return next((row.value for row in verdict.evidence if row.name == name), np.nan)

    return {
        "verdict_steps": [float(verdict.parameters.get("n_steps", np.nan)) for verdict in verdicts],
        "verdict_step_size": [step_size(verdict) for verdict in verdicts],
        "verdict_unexplained": [verdict.unexplained["in_distribution"] for verdict in verdicts],
        "verdict_unexplained_shifted": [verdict.unexplained["shifted"] for verdict in verdicts],
        "verdict_noise": [verdict.unexplained["noise_floor"] for verdict in verdicts],
        "verdict_black_box_count": [float(len(verdict.black_box)) for verdict in verdicts],
        "verdict_in_black_box": [
            float(verdict.verdict in [one.verdict for one in verdict.black_box]) for verdict in verdicts
        ],
        **{f"verdict_{name}": [observed(verdict, name) for verdict in verdicts] for name in OBSERVED},
    }


def _add_training(records: Records, seed: int, steps: Sequence[int], seen: Sequence[Verdict]) -> None:
    """Adds the verdicts at steps of training, and the step from which on the verdict is that of the end."""
    rows = [{"seed": seed, "step": step, **verdict.as_dict()} for step, verdict in zip(steps, seen, strict=True)]
    records.arrays["verdicts_by_step"] = rows
    for name in ("in_distribution", "noise_floor"):
        records.curves[f"verdict_{name}_by_step"] = curve(steps, [_share(row, name) for row in rows])
    names = [(verdict.verdict, verdict.parameters.get("n_steps")) for verdict in seen]
    since = next(i for i in range(len(names)) if len(set(names[i:])) == 1)
    records.add_one("verdict_since_step", float(steps[since]), 0.0)


def _share(verdict: Mapping[str, Any], name: str) -> float:
    """A difference of a verdict in per cent of the predictions; for "none", that of the nearest algorithm."""
    value = verdict["unexplained"][name] if verdict["verdict"] != "zero" else None
    if verdict["verdict"] == "none" and name != "noise_floor":
        near = verdict["nearest"]
        value = near["unexplained"] if near and name == "in_distribution" else None
    return math.nan if value is None else size_of(value)


def _draw(done: Done) -> plots.Figure:
    """One row per member: its verdict, and how large the differences are."""
    verdicts = done["verdicts"]
    rows = range(len(verdicts))
    figure, ax = plots.subplots(figsize=(plots.PAGE, 0.9 + 0.22 * len(verdicts)))
    for name, (label, role, marker) in SHARES.items():
        values, colour = [_share(verdict, name) for verdict in verdicts], plots.role_of(role)[1]
        fill = colour if name == "in_distribution" else "none"
        ax.plot(values, rows, marker, color=colour, markerfacecolor=fill, label=label)
    ax.set_yticks(rows, [f"seed {verdict['seed']}: {in_words(verdict)}" for verdict in verdicts])
    ax.invert_yaxis()
    ax.set(xlim=(0, ax.get_xlim()[1]), xlabel="difference from the predictions (%)")
    figure.legend(loc="outside upper right", ncols=len(SHARES))
    return figure


def _draw_training(done: Done) -> plots.Figure:
    """The verdicts over training, as coloured spans, with the differences."""
    rows = done["arrays"]["verdicts_by_step"]
    figure, ax = plots.subplots(figsize=(plots.PAGE, 2.9))
    steps = [row["step"] for row in rows]
    steps[0] = max(steps[0], steps[1] / 4)  # step 0 has no place on a logarithmic axis
    edges = [steps[0] / 1.4, *np.sqrt(np.multiply(steps[1:], steps[:-1])), steps[-1] * 1.4]
    names = [in_words(row) for row in rows]
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(dict.fromkeys(names))}
    for left, right, name in zip(edges[:-1], edges[1:], names, strict=True):
        ax.axvspan(left, right, color=colours[name], alpha=0.18, linewidth=0)
    for name, colour in colours.items():
        ax.plot([], [], "s", color=colour, alpha=0.4, markersize=7, label=name)
    for name in ("in_distribution", "noise_floor"):
        label, role, marker = SHARES[name]
        shares = [_share(row, name) for row in rows]
        ax.plot(steps, shares, marker, linestyle="-", color=plots.role_of(role)[1], label=label)
    ax.set(xscale="log", xlim=(edges[0], edges[-1]), ylim=(0, 105))
    ax.set(xlabel="step of training; the first one is 0", ylabel="difference (%)")
    figure.legend(loc="outside lower center", ncols=3)
    return figure


ANALYSIS = Analysis(
    "identify",
    measure,
    records=("named_*", "verdict_*", "verdicts_by_step"),
    figures=(
        Picture(
            "verdicts",
            ("verdicts",),
            _draw,
            "The algorithm that every seed computes, or none with the nearest one. Circles: how far its predictions "
            "are from those of the seed, for prompts of the task. Triangles: for the worst distribution shift. "
            "Squares: the part of the predictions that breaks a symmetry of the algorithm. Differences are root mean "
            "squares, relative to the predictions.",
            place=215,
        ),
        Picture(
            "verdicts_over_training",
            ("verdicts_by_step",),
            _draw_training,
            "The algorithm that one seed computes at steps of training (colours), how far the predictions of the "
            "algorithm, or of the nearest one, are from those of the seed, and the part of the predictions that breaks "
            "a symmetry of the algorithm. Differences are root mean squares, relative to the predictions.",
            place=216,
        ),
    ),
    evidence=(Evidence("named_gd", at_least=1.0), Evidence("verdict_kept_worst_layer", at_least=0.999, at_most=1.001)),
)  # fmt: skip
