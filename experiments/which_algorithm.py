"""Names the algorithm of every model of the zoo, and writes the table of docs/which_algorithm.md.

    python -m experiments.which_algorithm [NAME ...] [--workdir=DIR ...] [--check]

Every model is examined as by `icl-gd identify --model=NAME`, and every member of a run as by
`icl-gd identify --workdir=DIR`. The verdicts are written to results/which_algorithm/NAME.json, one file per model or
run, and the table is written from all of these files. Given names are examined again; without names, all models of the
zoo. A run needs a name of its own: the name of its workdir. `--check` examines nothing, and fails if the table differs
from the files.

Exit codes: 0 finished; 1 the table is out of date; 2 bad input, nothing ran.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from icl_gd import zoo
from icl_gd.identification import identify
from icl_gd.identification.naming import sentence
from icl_gd.identification.verdict import percent
from icl_gd.lab.config.errors import ConfigError, nearest, one_line
from icl_gd.lab.inspection.verdicts.output import plain
from icl_gd.lab.inspection.verdicts.subject import load_examined
from icl_gd.lab.reporting.results import write_json

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results" / "which_algorithm"
PAGE = ROOT / "docs" / "which_algorithm.md"
BEGIN, END = "<!-- verdicts:begin -->", "<!-- verdicts:end -->"
COLUMNS = "model | verdict | numbers | unexplained | under shift | breaks symmetries | loss kept | not excluded"


def main(words: Sequence[str]) -> int:
    """Runs the command.

    Returns:
      The exit code.
    """
    if any(word in ("--help", "-h") for word in words):
        print(__doc__)
        return 0
    names = [word for word in words if not word.startswith("-")]
    runs = [word.removeprefix("--workdir=") for word in words if word.startswith("--workdir=")]
    unknown = [word for word in words if word.startswith("-") and not word.startswith(("--workdir=", "--check"))]
    try:
        if unknown:
            raise ConfigError(f"{unknown[0]}: unknown flag; {nearest(unknown[0], ('--workdir', '--check'))}")
        if missing := [name for name in names if name not in zoo.names()]:
            raise ConfigError(f"{missing[0]}: the zoo has no such model; {nearest(missing[0], zoo.names())}")
        if "--check" in words:
            if written() != PAGE.read_text(encoding="utf-8"):
                print("docs/which_algorithm.md is out of date: python -m experiments.which_algorithm writes it")
                return 1
            return 0
        for source, text in [
            *(("model", name) for name in names or (zoo.names() if not runs else ())),
            *(("workdir", run) for run in runs),
        ]:
            examine(source, text)
    except ConfigError as error:
        print("error:", one_line(error), file=sys.stderr)
        return 2
    PAGE.write_text(written(), encoding="utf-8")
    return 0


def examine(source: str, text: str) -> None:
    """Examines a model, or every member of a run, and writes the verdicts."""
    examined = load_examined(source, text, {})
    verdicts = []
    for member in examined.members:
        verdict = identify(member.predictor, examined.task)
        print(f"{examined.title(member)}: {verdict.sentence}", flush=True)
        verdicts.append({"seed": member.number, **verdict.as_dict()})
    name = Path(text).name
    RESULTS.mkdir(parents=True, exist_ok=True)
    content = {"source": source, "task": examined.task_in_words, "verdicts": plain(verdicts)}
    write_json(RESULTS / f"{name}.json", content)


def written() -> str:
    """The page with the table of all verdicts.

    Returns:
      The text of the page.
    """
    text = PAGE.read_text(encoding="utf-8")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def table() -> str:
    """The Markdown table of all verdicts, one row per model or member."""
    lines = [f"| {COLUMNS} |", "| --- " * (COLUMNS.count("|") + 1) + "|"]
    for path in sorted(RESULTS.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        for verdict in content["verdicts"]:
            number = verdict["seed"]
            name = path.stem if number is None or len(content["verdicts"]) == 1 else f"{path.stem}, member {number}"
            lines.append(row(name, verdict))
    return "\n".join(lines)


def row(name: str, verdict: Mapping[str, Any]) -> str:
    """One row of the table."""
    kept = [each["value"] for each in verdict["evidence"] if each["rung"] == "cause" and "control" not in each["says"]]
    shares = verdict["unexplained"]
    others = [sentence(one["verdict"], one["parameters"]) for one in verdict["black_box"]]
    if verdict["verdict"] == "none":
        near = verdict["nearest"]
        words = (
            f"none (nearest: {sentence(near['verdict'], near['parameters'])}, to within {size(near['unexplained'])})"
        )
        cells = [words, "", "", ""]
    else:
        cells = [verdict["name"], numbers(verdict), size(shares["in_distribution"]), size(shares["shifted"])]
    return (
        "| "
        + " | ".join(
            [
                f"`{name}`",
                *cells,
                size(shares["noise_floor"]),
                f"{min(kept):.3f}" if kept else "",
                ", ".join(others[:4]) + (f" and {len(others) - 4} more" if len(others) > 4 else ""),
            ]
        )
        + " |"
    )


def size(share: float | None) -> str:
    """A difference in words; a dash for a prediction that is not finite."""
    return "–" if share is None else percent(share)


def numbers(verdict: Mapping[str, Any]) -> str:
    """The fitted numbers of a verdict in words."""
    parameters = verdict["parameters"]
    parts = []
    for name, symbol in (("step_sizes", "step sizes"), ("gammas", "gammas")):
        values = parameters.get(name, [])
        if name == "gammas":
            values = values[:-1]  # the last one has no effect
        if values:
            parts.append(f"{symbol} {', '.join(f'{value:.3g}' for value in values)}")
    for name in ("penalty", "alpha", "momentum", "bandwidth", "noise_std", "neighbours"):
        if name in parameters:
            parts.append(f"{name} {parameters[name]:.3g}")
    return "; ".join(parts)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
