"""report.html: one self-contained page, drawn from a run's results alone.

It begins with the answer in one sentence and the figure that shows it. Every question follows under its own heading,
with its figures, main numbers and claims. All metrics, the settings and the run are folded below.
"""

import base64
import os
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from icl_gd.lab.reporting.answer import answer

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>
:root {{ color-scheme: light dark; --holds: #00795c; --fails: #b23a00; --quiet: #5a5a5a; }}
@media (prefers-color-scheme: dark) {{ :root {{ --holds: #4fd1a5; --fails: #ff9b6a; --quiet: #a8a8a8; }} }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}
h1 {{ margin-bottom: 0; }} h2 {{ margin-top: 2.5rem; margin-bottom: .25rem; }}
.answer {{ font-size: 1.25rem; line-height: 1.4; margin: .5rem 0; }} .about, .run {{ color: var(--quiet); margin: 0; }}
table {{ border-collapse: collapse; width: 100%; font-size: .9rem; }} .wide {{ overflow-x: auto; margin: 1rem 0; }}
th, td {{ text-align: left; vertical-align: top; padding: .3rem .6rem; border-bottom: 1px solid #8886; }}
td {{ min-width: 4rem; }} .claims td:nth-child(2) {{ min-width: 14rem; }}
.claims td:first-child, .claims td:nth-child(5) {{ white-space: nowrap; }}
.number {{ text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }}
.holds {{ color: var(--holds); white-space: nowrap; }}
.fails {{ color: var(--fails); font-weight: 600; white-space: nowrap; }}
figure {{ margin: 1.5rem 0; }} img {{ max-width: 100%; height: auto; background: #fff; border-radius: 4px; }}
figcaption {{ font-size: .9rem; }}
details {{ margin: 1rem 0; border-top: 1px solid #8886; padding-top: .5rem; }}
summary {{ font-size: 1.2rem; font-weight: 600; cursor: pointer; }}
</style></head><body><main>
<h1>{title}</h1>
<p class="answer">{answer}</p>
<p class="run">{summary}</p>
{first}
{sections}
<details><summary>All metrics</summary>{metrics}</details>
<details><summary>Run</summary>{run}</details>
<details><summary>Settings</summary>{settings}</details>
</main></body></html>
"""
MAIN_METRICS = 3  # of a section, beside its claims


class Section(NamedTuple):
    """One question of a report.

    Attributes:
      title: the heading.
      about: the question in one sentence.
      figures: names of its figures, without their numbers.
      is_of: whether a metric or curve, by name, is one of the question's.
    """

    title: str
    about: str
    figures: tuple[str, ...]
    is_of: Any


RELATIONS = {"within": "=", "at_least": "≥", "at_most": "≤"}


def write_report(
    workdir: Path,
    results: Mapping[str, Any],
    config: Mapping[str, Any],
    captions: Mapping[str, str],
    sections: Sequence[Section] = (),
) -> Path:
    """Writes `workdir/report.html` atomically.

    Args:
      workdir: has the figures, in `figures/`.
      results: the content of results.json.
      config: the resolved config.
      captions: of figures, by file stem; a figure without one is captioned by its stem.
      sections: the questions, in order. What fits none of them comes last, as "Other results".

    Returns:
      The path of the page.
    """
    name = results["experiment"] + (f": {results['variant']}" if results["variant"] else "")
    pngs = sorted(png for png in (workdir / "figures").glob("*.png") if not png.name.startswith("."))
    figures = {png.stem: _figure(png, captions.get(png.stem, png.stem)) for png in pngs}
    first = _first(figures)
    page = PAGE.format(
        title=escape(name),
        answer=escape(answer(results)),
        summary=escape(_summary(results, config)),
        first=figures.pop(first, ""),
        sections="".join(_sections(results, figures, sections)),
        metrics=_table(("metric", "mean ± standard error", "std over seeds", "seeds"), _metrics(results), numbers=3),
        settings=_table(("field", "value"), _fields(config)),
        run=_table(("", ""), _provenance(results)),
    )
    path, partial = workdir / "report.html", workdir / "report.html.partial"
    partial.write_text(page, encoding="utf-8")
    os.replace(partial, path)
    return path


def _first(figures: Mapping[str, str]) -> str:
    """The figure that shows the answer: the alignment over training where there is one."""
    named = {stem.partition("_")[2]: stem for stem in figures}
    return named.get("alignment") or next(iter(figures), "")


def _sections(results: Mapping[str, Any], figures: dict[str, str], sections: Sequence[Section]) -> list[str]:
    """The sections as HTML, each with its figures, main numbers and claims; empty ones are left out.

    The last section that a claim or a metric fits has it: the first, of the reference, fits most of them.
    """
    claims, named = list(results["claims"]), _named_metrics(results)
    pages = []
    for section in reversed(sections):
        own = [claim for claim in claims if section.is_of(_measured(claim))]
        claims = [claim for claim in claims if claim not in own]
        numbers = [row for row in named if section.is_of(row[0])]
        named = [row for row in named if row not in numbers]
        shown = [figures.pop(stem) for stem in list(figures) if _without_number(stem) in section.figures]
        if own or shown or numbers:
            pages.append(_section(section, shown, _main(numbers, own), own))
    pages.reverse()
    if claims or figures:
        pages.append(_section(Section("Other results", "", (), None), list(figures.values()), (), claims))
    return pages


def _section(section: Section, figures: Sequence[str], numbers: Sequence[tuple], claims: Sequence[Mapping]) -> str:
    about = f'<p class="about">{escape(section.about)}</p>' if section.about else ""
    table = _table(("metric", "mean ± standard error"), [row[:2] for row in numbers], numbers=1) if numbers else ""
    stated = _claims(sorted(claims, key=lambda claim: claim["holds"])) if claims else ""
    return f"<section><h2>{escape(section.title)}</h2>{about}{''.join(figures)}{table}{stated}</section>"


def _main(named: Sequence[tuple], claims: Sequence[Mapping[str, Any]]) -> list[tuple]:
    """Two or three metrics of a section: those of its claims first, of all seeds."""
    claimed = {_measured(claim) for claim in claims}
    plain = [row for row in named if not row[0].endswith(("_untrapped", "_trapped", ")"))]
    return sorted(plain, key=lambda row: row[0] not in claimed)[:MAIN_METRICS]


def _measured(claim: Mapping[str, Any]) -> str:
    """The metric or curve of a claim, without the point in brackets; empty in results of before they had it."""
    return claim.get("metric", "").partition("[")[0].removesuffix("_untrapped").removesuffix("_trapped")


def _without_number(stem: str) -> str:
    return stem.partition("_")[2]


def number(value: float | None, digits: int = 5) -> str:
    """A measured number, in so many digits.

    Returns:
      A dash for None.
    """
    return "–" if value is None else f"{value:.{digits}g}"


def target(claim: Mapping[str, Any]) -> str:
    """The relation and target of a claim, with its tolerance where that decides.

    Returns:
      For example "≤ 1.01", or "= 0.2062 ± 0.002".
    """
    tolerance = claim["tolerance"]
    shown = f" ± {number(tolerance)}" if claim["relation"] == "within" or tolerance else ""
    return f"{RELATIONS[claim['relation']]} {number(claim['target'])}{shown}"


def trapped(results: Mapping[str, Any]) -> str:
    """How many seeds are trapped, over all points of a sweep.

    Returns:
      For example "1 of 10"; a dash if no seed was trained.
    """
    points = [results["metrics"], *(point["metrics"] for point in results["sweep"])]
    main = [metrics.get("loss_trained", metrics.get("normalised_error")) for metrics in points]
    trained = [(metrics, one) for metrics, one in zip(points, main, strict=True) if one and "seeds_trapped" in metrics]
    seeds = sum(len(one["per_seed"]) for _, one in trained)
    stuck = sum(metrics["seeds_trapped"]["mean"] for metrics, _ in trained)
    return f"{stuck:.0f} of {seeds}" if trained else "–"


def _summary(results: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    trained = f"{config['seeds']} seeds (trapped: {trapped(results)}), {config['train']['steps']} training steps"
    return f"{trained}, {wall_time(results)} on {results['device']}, revision {results['git']}."


def wall_time(results: Mapping[str, Any]) -> str:
    """The time of a run in words: over all of its processes, or of the last one if the others were not recorded.

    Returns:
      For example "712 s in 3 processes, 600 s of them training".
    """
    spent = results.get("seconds")
    shown = _seconds(results["wall_seconds"])
    if spent is not None and not spent["partial"]:
        several = f" in {spent['processes']} processes" if spent["processes"] > 1 else ""
        return f"{shown}{several}, {_seconds(spent['training'])} of them training"
    after = f", from step {results['resumed_at']}" if "resumed_at" in results else ""
    return f"{shown} in the last process{after}"


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds:.0f} s"


def _claims(claims: Sequence[Mapping[str, Any]]) -> str:
    noted = any(claim["note"] for claim in claims)
    rows = []
    for claim in claims:
        verdict = '<span class="holds">✓ holds</span>' if claim["holds"] else '<span class="fails">✗ fails</span>'
        stated = (claim["id"], claim["statement"], claim["source"], target(claim), number(claim["value"]))
        rows.append([*map(escape, stated), verdict, *[escape(claim["note"])] * noted])
    head = ("id", "claim", "source", "target", "measured", "holds", *["note"] * noted)
    return f'<div class="claims">{_html_table(head, rows)}</div>'


def _named_metrics(results: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Metrics of a single population, as rows."""
    return _metrics({**results, "sweep": []})


def _metrics(results: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """All metrics as rows; those of a sweep carry the swept values in their names."""
    named = list(results["metrics"].items())
    for point in results["sweep"]:
        at = ", ".join(f"{field} = {value}" for field, value in point["fields"].items())
        named += [(f"{name} ({at})", value) for name, value in point["metrics"].items()]
    return [
        (name, f"{number(m['mean'])} ± {number(m['stderr'], digits=2)}", number(m["std"]), str(len(m["per_seed"])))
        for name, m in named
    ]


def _provenance(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    known = (("git", "revision"), ("device", "device"), ("precision", "precision"))
    rows = [(label, str(results[key])) for key, label in known if key in results]
    return [("wall time", wall_time(results)), *rows, *_fields(results["versions"])]


def _fields(config: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    flat = []
    for key, value in config.items():
        if prefix + key != "claims":  # they have their own table
            flat += _fields(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(prefix + key, str(value))]
    return flat


def _figure(png: Path, caption: str) -> str:
    data, text = png.read_bytes(), escape(caption)
    width = int.from_bytes(data[16:20], "big") // 2  # drawn for print, at twice a screen's dots
    source = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    return f'<figure><img alt="{text}" width="{width}" src="{source}"><figcaption>{text}</figcaption></figure>'


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: int = 0) -> str:
    """A table of plain text whose last `numbers` columns are numbers."""
    return _html_table(head, [[escape(cell) for cell in row] for row in rows], numbers)


def _html_table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: int = 0) -> str:
    kinds = [""] * (len(head) - numbers) + [' class="number"'] * numbers
    first = "".join(f'<th scope="col"{kind}>{name}</th>' for kind, name in zip(kinds, head, strict=True))
    lines = ["".join(f"<td{kind}>{cell}</td>" for kind, cell in zip(kinds, row, strict=True)) for row in rows]
    thead = f"<thead><tr>{first}</tr></thead>" if any(head) else ""
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="wide"><table>{thead}<tbody>{body}</tbody></table></div>'
