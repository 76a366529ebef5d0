"""The verdicts as text, for the terminal."""

import textwrap
from collections.abc import Sequence

from icl_gd.identification import Verdict
from icl_gd.lab.inspection.verdicts.content import (
    SQUARES,
    bound,
    evidence_rows,
    headline,
    in_short,
    number,
    open_rungs,
    parameter_rows,
    shift_rows,
    symmetry_rows,
)
from icl_gd.lab.inspection.verdicts.subject import Examined, ExaminedMember

WIDTH, INDENT = 110, 16


def text_of(examined: Examined, verdicts: Sequence[Verdict]) -> str:
    """All verdicts as text; for several members, the summary first."""
    several = len(verdicts) > 1
    lines = [headline(examined, verdicts), ""] if several else []
    for member, verdict in zip(examined.members, verdicts, strict=True):
        lines += [f"{examined.title(member)}: {verdict.sentence}"] if several else []
    blocks = [_block(examined, *pair) for pair in zip(examined.members, verdicts, strict=True)]
    return "\n\n".join(["\n".join(lines), *blocks] if several else blocks)


def _block(examined: Examined, member: ExaminedMember, verdict: Verdict) -> str:
    """One verdict: the answer, its parameters, what is not excluded, and what supports it."""
    lines = [f"{examined.title(member)}", f"  {verdict.sentence}", ""]
    lines += _entry("task", [examined.task_in_words])
    source = "the predictions after every layer" if verdict.reading == "layer by layer" else "the predictions alone"
    lines += _entry("read from", [f"{source}, in {verdict.seconds:.0f} s"])
    lines += _entry("shares", [SQUARES])
    rows = parameter_rows(verdict)
    lines += _entry("parameters", [f"{name} {value}{_in_brackets(interval)}" for name, value, interval in rows])
    lines += _entry("not excluded", [f"{in_short(one)} ({number(one.unexplained)})" for one in verdict.not_excluded])
    if verdict.reading != "black box" and len(verdict.black_box) > 1:
        others = ", ".join(one.name for one in verdict.black_box[1:])
        lines += _entry("", [f"the predictions alone would not exclude {others}, too"])
    if verdict.nearest is not None:
        lines += _entry("nearest", [f"{in_short(verdict.nearest)} ({number(verdict.nearest.unexplained)})"])
    if verdict.not_excluded:
        lines += _entry("unexplained", [f"{number(value):<8} {name}" for name, value in shift_rows(verdict)])
    rows = symmetry_rows(verdict, None)
    lines += _entry("violation of", [f"{number(violation):<8} {name}: {says}" for name, says, violation, _ in rows])
    lines += _entry(
        "evidence",
        [
            f"{'for' if supports else 'against':<8} {rung}: {says}: {number(value)}, "
            f"{bound(value, threshold, supports)} {number(threshold)}"
            for rung, says, value, threshold, supports in evidence_rows(verdict)
        ],
    )
    if verdict.verdict not in ("none", "zero") and (missing := open_rungs(verdict)):
        lines += _entry("", [f"{'open':<8} {', '.join(missing)}: not observed"])
    lines += _entry(
        "controls", [f"{number(value):<8} left unexplained by {name}" for name, value in verdict.controls.items()]
    )
    return "\n".join(lines)


def _in_brackets(interval: str) -> str:
    return "" if interval == "–" else f"  [{interval}]"


def _entry(name: str, texts: Sequence[str]) -> list[str]:
    """Lines of one entry, the first of which begins with its name."""
    lines = []
    for i, text in enumerate(texts):
        first = f"  {name if i == 0 else ''}".ljust(INDENT)
        hanging = " " * (INDENT + (9 if text[8:9] == " " else 2))
        lines.append(textwrap.fill(text, WIDTH, initial_indent=first, subsequent_indent=hanging, tabsize=1))
    return lines
