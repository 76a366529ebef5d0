"""report.html: one self-contained page, drawn from a run's results alone.

The page begins with the result in one sentence and the main figure. Then each question has a section with figures, main
metrics and claims. Tables of all metrics, of the environment and of the settings are collapsed at the end.
"""

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from icl_gd.lab.reporting.answer import answer
from icl_gd.paths import replacing

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
MAIN_METRICS = 3  # the largest number of metrics that a section shows


class Section(NamedTuple):
    """One question of a report.

    Attributes:
      title: the heading.
      about: the question in one sentence.
      figures: names of its figures, without their numbers.
      includes: `includes(name)` returns whether a metric or curve belongs to the question.
    """

    title: str
    about: str
    figures: tuple[str, ...]
    includes: Any


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
      workdir: the directory of the run, with the figures in `figures/`.
      results: the content of results.json.
      config: the resolved config.
      captions: captions of figures by file stem; a figure without a caption is captioned by its stem.
      sections: the questions, in order. Figures and claims of no section come last, as "Other results".

    Returns:
      The path of the page.
    """
    name = results["experiment"] + (f": {results['variant']}" if results["variant"] else "")
    pngs = sorted(png for png in (workdir / "figures").glob("*.png") if not png.name.startswith("."))
    figures = {png.stem: _figure(png, captions.get(png.stem, png.stem)) for png in pngs}
    main_figure = _main_figure(figures)
    page = PAGE.format(
        title=escape(name),
        answer=escape(answer(results)),
        summary=escape(_summary(results, config)),
        first=figures.pop(main_figure, ""),
        sections="".join(_sections(results, figures, sections)),
        metrics=_table(("metric", "mean ± standard error", "std over seeds", "seeds"), _metrics(results), numbers=3),
        settings=_table(("field", "value"), _fields(config)),
        run=_table(("", ""), _provenance(results)),
    )
    path = workdir / "report.html"
    with replacing(path) as partial:
        partial.write_text(page, encoding="utf-8")
    return path


def _main_figure(figures: Mapping[str, str]) -> str:
    """The stem of the main figure: alignment over training if the run has it, otherwise the first figure."""
    named = {stem.partition("_")[2]: stem for stem in figures}
    return named.get("alignment") or next(iter(figures), "")


def _sections(results: Mapping[str, Any], figures: dict[str, str], sections: Sequence[Section]) -> list[str]:
    """The sections as HTML, each with its figures, main metrics and claims; empty sections are left out.

    A claim or metric that several sections include is shown in the last of these, because the first section, that of
    the reference, includes most of them.
    """
    claims, rows = list(results["claims"]), _population_metrics(results)
    pages = []
    for section in reversed(sections):
        section_claims = [claim for claim in claims if section.includes(_measured(claim))]
        claims = [claim for claim in claims if claim not in section_claims]
        section_rows = [row for row in rows if section.includes(row[0])]
        rows = [row for row in rows if row not in section_rows]
        shown = [figures.pop(stem) for stem in list(figures) if _without_number(stem) in section.figures]
        if section_claims or shown or section_rows:
            pages.append(_section(section, shown, _main_rows(section_rows, section_claims), section_claims))
    pages.reverse()
    if claims or figures:
        pages.append(_section(Section("Other results", "", (), None), list(figures.values()), (), claims))
    return pages


def _section(section: Section, figures: Sequence[str], rows: Sequence[tuple], claims: Sequence[Mapping]) -> str:
    about = f'<p class="about">{escape(section.about)}</p>' if section.about else ""
    table = _table(("metric", "mean ± standard error"), [row[:2] for row in rows], numbers=1) if rows else ""
    claims_table = _claims(sorted(claims, key=lambda claim: claim["holds"])) if claims else ""
    return f"<section><h2>{escape(section.title)}</h2>{about}{''.join(figures)}{table}{claims_table}</section>"


def _main_rows(rows: Sequence[tuple], claims: Sequence[Mapping[str, Any]]) -> list[tuple]:
    """The main metrics of a section, over all seeds: first the metrics of its claims, then others."""
    claimed = {_measured(claim) for claim in claims}
    plain = [row for row in rows if not row[0].endswith(("_untrapped", "_trapped", ")"))]
    return sorted(plain, key=lambda row: row[0] not in claimed)[:MAIN_METRICS]


def _measured(claim: Mapping[str, Any]) -> str:
    """The metric or curve of a claim, without brackets and suffix; empty in results of versions that lack it."""
    return claim.get("metric", "").partition("[")[0].removesuffix("_untrapped").removesuffix("_trapped")


def _without_number(stem: str) -> str:
    return stem.partition("_")[2]


def number(value: float | None, digits: int = 5) -> str:
    """Formats a measured number with `digits` significant digits.

    Returns:
      The text; a dash for None.
    """
    return "–" if value is None else f"{value:.{digits}g}"


def target(claim: Mapping[str, Any]) -> str:
    """The relation and target of a claim as text, with its tolerance if it has one.

    Returns:
      For example "≤ 1.01", or "= 0.2062 ± 0.002".
    """
    tolerance = claim["tolerance"]
    shown = f" ± {number(tolerance)}" if claim["relation"] == "within" or tolerance else ""
    return f"{RELATIONS[claim['relation']]} {number(claim['target'])}{shown}"


def trapped(results: Mapping[str, Any]) -> str:
    """How many seeds are trapped, over all combinations of a sweep.

    Returns:
      For example "1 of 10"; a dash if no seed was trained.
    """
    points = [results["metrics"], *(point["metrics"] for point in results["sweep"])]
    losses = [metrics.get("loss_trained", metrics.get("normalised_error")) for metrics in points]
    pairs = [
        (metrics, loss) for metrics, loss in zip(points, losses, strict=True) if loss and "seeds_trapped" in metrics
    ]
    n_seeds = sum(len(loss["per_seed"]) for _, loss in pairs)
    n_trapped = sum(metrics["seeds_trapped"]["mean"] for metrics, _ in pairs)
    return f"{n_trapped:.0f} of {n_seeds}" if pairs else "–"


def _summary(results: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    trained = f"{config['seeds']} seeds (trapped: {trapped(results)}), {config['train']['steps']} training steps"
    return f"{trained}, {wall_time(results)} on {results['device']}, revision {results['git']}."


def wall_time(results: Mapping[str, Any]) -> str:
    """The wall time of a run as text: of all its processes, or of the last one if earlier ones were not recorded.

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


def _population_metrics(results: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The metrics of a single population as rows; no rows for a sweep."""
    return _metrics({**results, "sweep": []})


def _metrics(results: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """All metrics as rows: name, mean ± standard error, std over seeds, number of seeds. Names contain swept values."""
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
        if prefix + key != "claims":  # claims have a separate table
            flat += _fields(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(prefix + key, str(value))]
    return flat


def _figure(png: Path, caption: str) -> str:
    data, text = png.read_bytes(), escape(caption)
    width = int.from_bytes(data[16:20], "big") // 2  # the PNG header; figures have twice the resolution of a screen
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
