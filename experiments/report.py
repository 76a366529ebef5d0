"""report.html: one self-contained page with claims, figures, metrics and settings."""

import base64
import os
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}
table {{ border-collapse: collapse; width: 100%; font-size: .9rem; }} .wide {{ overflow-x: auto; }}
th, td {{ text-align: left; vertical-align: top; padding: .3rem .6rem; border-bottom: 1px solid #8886; }}
td.number {{ text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }}
.holds {{ color: #00795c; white-space: nowrap; }} .fails {{ color: #c2410c; font-weight: 600; white-space: nowrap; }}
figure {{ margin: 2rem 0; }} img {{ max-width: 100%; background: #fff; border-radius: 4px; }}
figcaption {{ font-size: .9rem; }} pre {{ overflow-x: auto; font-size: .85rem; }}
</style></head><body>
<h1>{title}</h1><p>{summary}</p>
<h2>Claims</h2>{claims}
<h2>Figures</h2>{figures}
<h2>Metrics</h2>{metrics}
<h2>Settings</h2>{settings}
</body></html>
"""
RELATIONS = {"within": "=", "at_least": "≥", "at_most": "≤"}


def write_report(
    workdir: Path, done: Mapping[str, Any], config: Mapping[str, Any], captions: Mapping[str, str]
) -> Path:
    """Writes `workdir/report.html` atomically from results.json, the resolved config and the figures' captions."""
    name = done["experiment"] + (f": {done['variant']}" if done["variant"] else "")
    held = sum(claim["holds"] for claim in done["claims"])
    summary = (
        f"{held} of {len(done['claims'])} claims hold. {config['seeds']} seeds, {config['train']['steps']} training "
        f"steps, {done['wall_seconds']:.0f} s on {done['device']}, {done['precision']}, revision {done['git']}."
    )
    rows = [
        [metric, _number(value["mean"]), _number(value["stderr"]), _number(value["std"]), str(len(value["per_seed"]))]
        for metric, value in _all_metrics(done)
    ]
    versions = {"versions": done["versions"]}
    page = PAGE.format(
        title=escape(name),
        summary=escape(summary),
        claims=_claims(done["claims"]),
        figures="".join(_figure(workdir / "figures" / f"{stem}.png", text) for stem, text in captions.items()),
        metrics=_table(["metric", "mean", "standard error", "std over seeds", "seeds"], rows),
        settings=_table(["field", "value"], [[field, str(value)] for field, value in _fields({**config, **versions})]),
    )
    path, temporary = workdir / "report.html", workdir / "report.html.partial"
    temporary.write_text(page)
    os.replace(temporary, path)
    return path


def _all_metrics(done: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    swept = [
        (f"{name} ({', '.join(f'{field} = {value}' for field, value in point['fields'].items())})", value)
        for point in done["sweep"]
        for name, value in point["metrics"].items()
    ]
    return [*done["metrics"].items(), *swept]


def _claims(claims: list[Mapping[str, Any]]) -> str:
    if not claims:
        return "<p>This variant states no claims.</p>"
    rows = []
    for claim in claims:
        tolerance = f" ± {_number(claim['tolerance'])}" if claim["relation"] == "within" else ""
        target = f"{RELATIONS[claim['relation']]} {_number(claim['target'])}{tolerance}"
        verdict = '<span class="holds">✓ holds</span>' if claim["holds"] else '<span class="fails">✗ fails</span>'
        cells = [claim["id"], claim["statement"], claim["source"], target, _number(claim["value"])]
        rows.append(
            "".join(f"<td>{escape(c)}</td>" for c in cells) + f"<td>{verdict}</td><td>{escape(claim['note'])}</td>"
        )
    head = "".join(f"<th>{name}</th>" for name in ("id", "claim", "source", "target", "measured", "", "note"))
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'


def _figure(png: Path, caption: str) -> str:
    data = base64.b64encode(png.read_bytes()).decode()
    caption = escape(caption)
    return (
        f'<figure><img alt="{caption}" src="data:image/png;base64,{data}"><figcaption>{caption}</figcaption></figure>'
    )


def _table(head: list[str], rows: list[list[str]]) -> str:
    first = "".join(f"<th>{escape(name)}</th>" for name in head)
    cells = lambda row: f"<td>{escape(row[0])}</td>" + "".join(f'<td class="number">{escape(c)}</td>' for c in row[1:])
    return f'<div class="wide"><table><tr>{first}</tr>{"".join(f"<tr>{cells(row)}</tr>" for row in rows)}</table></div>'


def _fields(config: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    flat = []
    for key, value in config.items():
        if key != "claims":
            flat += _fields(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(prefix + key, value)]
    return flat


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.5g}"
