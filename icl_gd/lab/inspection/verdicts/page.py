"""The page of a verdict: one self-contained HTML file, for light and dark themes and for narrow windows."""

from collections.abc import Iterable, Sequence
from html import escape

from icl_gd.identification import Verdict
from icl_gd.identification.fingerprint import Fingerprint
from icl_gd.lab.inspection.verdicts.content import (
    SQUARES,
    bound,
    evidence_rows,
    exclusion,
    headline,
    in_short,
    number,
    open_rungs,
    parameter_rows,
    shift_rows,
    symmetry_rows,
)
from icl_gd.lab.inspection.verdicts.figures import fingerprint_svg
from icl_gd.lab.inspection.verdicts.subject import Examined, ExaminedMember

MARK = '<meta name="generator" content="icl-gd identify">'  # in every page, so that no other file is overwritten
STYLE = """
:root { color-scheme: light dark; --yes: #00795c; --no: #b23a00; --quiet: #5a5a5a; --back: #ffffff; --text: #1a1a1a;
  --measured: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --yes: #4fd1a5; --no: #ff9b6a; --quiet: #a8a8a8; --back: #121212;
  --text: #e8e8e8; --measured: #6fc3ff; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 52rem; margin: 1.5rem auto; padding: 0 1rem;
  background: var(--back); color: var(--text); }
h1 { margin: 0; font-size: 1.5rem; overflow-wrap: anywhere; } h2 { margin: 2rem 0 .25rem; font-size: 1.3rem; }
h3 { margin: 1.75rem 0 .25rem; font-size: 1.05rem; }
.answer { font-size: 1.25rem; line-height: 1.4; margin: .5rem 0; }
.quiet { color: var(--quiet); margin: 0 0 .5rem; font-size: .95rem; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; } .wide { overflow-x: auto; margin: .5rem 0 1rem; }
th, td { text-align: left; vertical-align: top; padding: .3rem .5rem .3rem 0; border-bottom: 1px solid #8885; }
th { font-weight: 600; } .number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
ul { margin: 0; padding-left: 1.2rem; font-size: .95rem; } .quiet + .wide, .quiet + ul { margin-top: 0; }
@media (max-width: 32rem) { table { font-size: .8rem; } }
.yes { color: var(--yes); white-space: nowrap; } .no { color: var(--no); font-weight: 600; white-space: nowrap; }
figure { margin: 1rem 0; } svg { display: block; width: 100%; max-width: 34rem; height: auto; }
figcaption { font-size: .9rem; color: var(--quiet); }
details { margin: 1rem 0; border-top: 1px solid #8886; padding-top: .5rem; }
summary { font-weight: 600; cursor: pointer; }
pre { overflow-x: auto; font-size: .8rem; }
"""
CAPTION = (
    "Spectral fingerprint: the share λ p(λ) of the least-squares solution that the predictor takes in directions of "
    "the inputs with eigenvalue λ. Points are measured without assuming an algorithm, with inputs multiplied by "
    "several factors; bars are 95 % intervals over prompts. Lines are algorithms fitted to the response at all "
    "factors. A learner with a filter has one curve, on which the points of all factors lie. Triangles mark points "
    "outside of the frame."
)
THICK = " The thick line is the verdict."
BROKEN = " The response breaks the symmetries of filters, so the points describe only a part of it."


def html(
    examined: Examined, verdicts: Sequence[Verdict], fingerprints: Sequence[Fingerprint | None], content: str
) -> str:
    """The page as text. It refers to no other file.

    Args:
      examined: what was examined.
      verdicts: one per member.
      fingerprints: one per member; None for predictions that are zero.
      content: the content of verdict.json, shown at the end.

    Returns:
      HTML.
    """
    several = len(verdicts) > 1
    parts = zip(examined.members, verdicts, fingerprints, strict=True)
    members = [_member(examined, *part, several, f"m{i}") for i, part in enumerate(parts)]
    titles = [examined.title(member) for member in examined.members]
    summary = _table(
        ("member", "verdict"),
        [(escape(title), escape(verdict.sentence)) for title, verdict in zip(titles, verdicts, strict=True)],
    )
    name = escape(examined.name if several else titles[0])
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">{MARK}
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{name}: which algorithm?</title><style>{STYLE}</style></head><body><main>
<h1>{name}</h1>
<p class="answer">{escape(headline(examined, verdicts))}</p>
<p class="quiet">Prompts: {escape(examined.task_in_words)}. {SQUARES}</p>
{summary if several else ""}
{"".join(members)}
<details><summary>verdict.json</summary><pre>{escape(content)}</pre></details>
</main></body></html>
"""


def _member(
    examined: Examined, member: ExaminedMember, verdict: Verdict, seen: Fingerprint | None, several: bool, name: str
) -> str:
    """The sections about one member; for several members, under its name."""
    head = f"<h2>{escape(examined.title(member))}</h2>" if several else ""
    answer = f'<p class="answer">{escape(verdict.sentence)}</p>' if several else ""
    source = "the predictions after every layer" if verdict.reading == "layer by layer" else "the predictions alone"
    read = _note(f"Read from {source}, in {verdict.seconds:.0f} s.")
    sections = [
        *_parameters(verdict),
        *_not_excluded(verdict),
        *_fingerprint(verdict, seen, name),
        *_changes(verdict, seen),
        *_shifts(verdict),
        *_symmetries(verdict, seen),
        *_evidence(verdict),
        *_controls(verdict),
    ]
    level = "h3" if several else "h2"
    return head + answer + read + "".join(f"<{level}>{title}</{level}>{body}" for title, body in sections)


Sections = Iterable[tuple[str, str]]  # titles and bodies; none if there is nothing to show


def _parameters(verdict: Verdict) -> Sections:
    if rows := parameter_rows(verdict):
        yield "Parameters", _table(("parameter", "value", "95 % interval"), [map(escape, row) for row in rows])


def _not_excluded(verdict: Verdict) -> Sections:
    """What is not excluded, or the nearest algorithm."""
    if verdict.not_excluded:
        rows = [(escape(in_short(one)), number(one.unexplained)) for one in verdict.not_excluded]
        body = _table(("algorithm", "unexplained"), rows, numbers=1)
        read = {one.name for one in verdict.not_excluded}
        if others := [one.name for one in verdict.black_box if one.name not in read]:
            body += _note(f"The predictions alone would not exclude {', '.join(others)}; the layers do.")
        yield "Not excluded", body
    if verdict.nearest is not None:
        row = (escape(in_short(verdict.nearest)), number(verdict.nearest.unexplained))
        yield "Nearest algorithm, which is excluded", _table(("algorithm", "unexplained"), [row], numbers=1)


def _fingerprint(verdict: Verdict, seen: Fingerprint | None, name: str) -> Sections:
    if seen is not None:
        caption = CAPTION + THICK * (verdict.verdict in seen.hypotheses) + BROKEN * (not seen.symmetric)
        picture = fingerprint_svg(seen, verdict.verdict, name)
        yield "Spectral fingerprint", f"<figure>{picture}<figcaption>{escape(caption)}</figcaption></figure>"


def _changes(verdict: Verdict, seen: Fingerprint | None) -> Sections:
    """The observation that excludes each alternative, and those that would speak against the verdict."""
    body = ""
    if seen is not None:
        rows = [
            (escape(each.name), escape(exclusion(each, verdict, seen.symmetric))) for each in seen.hypotheses.values()
        ]
        body += _note("The best fit of each family of filters. Shares are of the response that has all symmetries.")
        body += _table(("algorithm", "observation"), rows)
    items = [
        f"<li>{escape(says)}: not {bound(value, threshold, supports)} {number(threshold)} "
        f"(measured: {number(value)})</li>"
        for _, says, value, threshold, supports in evidence_rows(verdict)
        if supports and verdict.verdict not in ("none", "zero")
    ]
    if items:
        body += _note("Observations that would speak against the verdict:") + f"<ul>{''.join(items)}</ul>"
    if body:
        yield "What would change the verdict", body


def _shifts(verdict: Verdict) -> Sections:
    if verdict.not_excluded and verdict.by_shift:
        floor = verdict.unexplained.get("noise_floor", 0.0)
        rows = [
            (escape(name), number(value), number(value / floor) if floor > 0 else "–")
            for name, value in shift_rows(verdict)
        ]
        yield "Unexplained share by shift", _table(("prompts", "unexplained", "÷ noise floor"), rows, numbers=2)


def _symmetries(verdict: Verdict, seen: Fingerprint | None) -> Sections:
    floor = None if seen is None else seen.rounding
    kinds = {"exact": "yes", "up to noise": "yes", "no": ""}
    rows = [
        (f"{escape(name)}: {escape(says)}", number(value), number(floor), _mark(status, kinds[status]))
        for name, says, value, status in symmetry_rows(verdict, floor)
    ]
    if rows:
        head = ("symmetry of the predictions", "violation", "rounding", "holds")
        yield "Symmetries", _table(head, rows, numbers=(1, 2))


def _evidence(verdict: Verdict) -> Sections:
    """The ladder, with the rungs that were not observed."""
    rows = [
        (
            _on_rung(rung, says),
            number(value),
            f"{bound(value, threshold, ok)} {number(threshold)}",
            _mark("✓ yes", "yes") if ok else _mark("✗ no", "no"),
        )
        for rung, says, value, threshold, ok in evidence_rows(verdict)
    ]
    rows += [(_on_rung(rung, "not observed"), "–", "–", "–") for rung in open_rungs(verdict)]
    yield "Evidence", _table(("rung and observation", "value", "limit", "supports"), rows, numbers=(1, 2))


def _on_rung(rung: str, says: str) -> str:
    return f"<strong>{escape(rung)}</strong>: {escape(says)}"


def _controls(verdict: Verdict) -> Sections:
    if verdict.controls:
        rows = [(escape(name), number(value)) for name, value in verdict.controls.items()]
        body = _note("What wrong predictors leave unexplained. All of it should be far above the verdict's share.")
        yield "Controls", body + _table(("predictor", "unexplained"), rows, numbers=1)


def _note(text: str) -> str:
    return f'<p class="quiet">{escape(text)}</p>'


def _mark(text: str, kind: str) -> str:
    return f'<span class="{kind}">{text}</span>' if kind else text


def _table(head: Sequence[str], rows: Iterable[Iterable[str]], numbers: int | Sequence[int] = ()) -> str:
    """A table of HTML cells; `numbers` are the columns of numbers, or how many of the last ones are."""
    columns = range(len(head) - numbers, len(head)) if isinstance(numbers, int) else numbers
    kinds = [' class="number"' if i in columns else "" for i in range(len(head))]
    first = "".join(f'<th scope="col"{kind}>{name}</th>' for kind, name in zip(kinds, head, strict=True))
    lines = ["".join(f"<td{kind}>{cell}</td>" for kind, cell in zip(kinds, row, strict=True)) for row in rows]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="wide"><table><thead><tr>{first}</tr></thead><tbody>{body}</tbody></table></div>'
