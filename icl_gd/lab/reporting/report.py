"""report.html: one self-contained page with claims, metrics, figures and settings, drawn from a run's results alone."""

import base64
import os
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>
:root {{ color-scheme: light dark; --holds: #00795c; --fails: #b23a00; }}
@media (prefers-color-scheme: dark) {{ :root {{ --holds: #4fd1a5; --fails: #ff9b6a; }} }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}
table {{ border-collapse: collapse; width: 100%; font-size: .9rem; }} .wide {{ overflow-x: auto; }}
th, td {{ text-align: left; vertical-align: top; padding: .3rem .6rem; border-bottom: 1px solid #8886; }}
td {{ min-width: 4rem; }}
.number {{ text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }}
.holds {{ color: var(--holds); white-space: nowrap; }}
.fails {{ color: var(--fails); font-weight: 600; white-space: nowrap; }}
figure {{ margin: 2rem 0; }} img {{ max-width: 100%; height: auto; background: #fff; border-radius: 4px; }}
figcaption {{ font-size: .9rem; }}
</style></head><body><main>
<h1>{title}</h1>
<p>{summary}</p>
<section><h2>Claims</h2>{claims}</section>
<section><h2>Figures</h2>{figures}</section>
<section><h2>Metrics</h2>{metrics}</section>
<section><h2>Settings</h2>{settings}</section>
<section><h2>Run</h2>{run}</section>
</main></body></html>
"""
RELATIONS = {"within": "=", "at_least": "≥", "at_most": "≤"}


def write_report(
    workdir: Path, results: Mapping[str, Any], config: Mapping[str, Any], captions: Mapping[str, str]
) -> Path:
    """Writes `workdir/report.html` atomically and returns its path.

    Args:
      results: the content of results.json.
      config: the resolved config.
      captions: of figures, by file stem; a figure without one is captioned by its stem.
    """
    name = results["experiment"] + (f": {results['variant']}" if results["variant"] else "")
    pngs = sorted(png for png in (workdir / "figures").glob("*.png") if not png.name.startswith("."))
    page = PAGE.format(
        title=escape(name),
        summary=escape(_summary(results, config)),
        claims=_claims(results["claims"]),
        metrics=_table(("metric", "mean ± standard error", "std over seeds", "seeds"), _metrics(results), numbers=3),
        figures="".join(_figure(png, captions.get(png.stem, png.stem)) for png in pngs) or "<p>None.</p>",
        settings=_table(("field", "value"), _fields(config)),
        run=_table(("", ""), _provenance(results)),
    )
    path, partial = workdir / "report.html", workdir / "report.html.partial"
    partial.write_text(page, encoding="utf-8")
    os.replace(partial, path)
    return path


def number(value: float | None) -> str:
    """A measured number as tables print it."""
    return "–" if value is None else f"{value:.5g}"


def target(claim: Mapping[str, Any]) -> str:
    """What a claim asks of its value; the tolerance is shown wherever it is part of the judgement."""
    tolerance = claim["tolerance"]
    shown = f" ± {number(tolerance)}" if claim["relation"] == "within" or tolerance else ""
    return f"{RELATIONS[claim['relation']]} {number(claim['target'])}{shown}"


def trapped(results: Mapping[str, Any]) -> str:
    """How many seeds are trapped, over all points of a sweep: claims about free seeds say nothing of those."""
    points = [results["metrics"], *(point["metrics"] for point in results["sweep"])]
    trained = lambda metrics: metrics.get("loss_trained", metrics.get("normalised_error"))
    points = [metrics for metrics in points if "seeds_trapped" in metrics and trained(metrics)]
    seeds = sum(len(trained(metrics)["per_seed"]) for metrics in points)
    return f"{sum(metrics['seeds_trapped']['mean'] for metrics in points):.0f} of {seeds}" if points else "–"


def _summary(results: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    claims = results["claims"]
    held = f"{sum(claim['holds'] for claim in claims)} of {len(claims)} claims hold" if claims else "No claims"
    trained = f"{config['seeds']} seeds (trapped: {trapped(results)}), {config['train']['steps']} training steps"
    return f"{held}. {trained}, {wall_time(results)} on {results['device']}, revision {results['git']}."


def wall_time(results: Mapping[str, Any]) -> str:
    """How long a run took, over all of its processes; of the last one alone where no others were kept."""
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
    if not claims:
        return "<p>This variant states no claims.</p>"
    rows = []
    for claim in claims:
        verdict = '<span class="holds">✓ holds</span>' if claim["holds"] else '<span class="fails">✗ fails</span>'
        stated = (claim["id"], claim["statement"], claim["source"], target(claim), number(claim["value"]))
        rows.append([*map(escape, stated), verdict, escape(claim["note"])])
    return _html_table(("id", "claim", "source", "target", "measured", "holds", "note"), rows)


def _metrics(results: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """All metrics; those of a sweep carry the swept values in their names."""
    named = list(results["metrics"].items())
    for point in results["sweep"]:
        at = ", ".join(f"{field} = {value}" for field, value in point["fields"].items())
        named += [(f"{name} ({at})", value) for name, value in point["metrics"].items()]
    return [
        (name, f"{number(m['mean'])} ± {number(m['stderr'])}", number(m["std"]), str(len(m["per_seed"])))
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
