"""Names the algorithm of every model of the zoo, and writes the table of docs/which_algorithm.md.

    python -m experiments.which_algorithm [NAME ...] [--workdir=DIR ...] [--check]

Every model is examined as by `icl-gd identify --model=NAME`, and every member of a run as by
`icl-gd identify --workdir=DIR`. A causal model predicts at every number of examples, and is examined at several, as by
`--task.n_context=N`. The layers of another model with an embedding are also examined as by `--features`.

Given names are examined again; without names, all models of the zoo. A run needs a name of its own: the name of its
workdir. `--check` examines nothing, and fails if the table differs from the files.

The verdicts are written to results/verdicts/NAME.json, one file per model or run, and the table is written from all of
these files. results/verdicts/figures/NAME.png is the spectral fingerprint of the last member. The card of a model of
the zoo gets its verdict.

Exit codes: 0 finished; 1 the table is out of date; 2 bad input, nothing ran.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from icl_gd import plots, zoo
from icl_gd.identification import after_embedding, identify
from icl_gd.identification.fingerprint import Fingerprint, fingerprint
from icl_gd.identification.naming import sentence
from icl_gd.identification.verdict import in_words, percent
from icl_gd.lab.config.errors import ConfigError, nearest, one_line
from icl_gd.lab.inspection.verdicts.figures import fingerprint_figure
from icl_gd.lab.inspection.verdicts.subject import load_examined
from icl_gd.lab.reporting.results import plain, write_json
from icl_gd.models import Model
from icl_gd.paths import replacing

ON_CARD = ("sentence", "verdict", "examples", "unexplained")
ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results" / "verdicts"
PAGE = ROOT / "docs" / "which_algorithm.md"
ON_FEATURES = ", on its features"
BEGIN, END = "<!-- verdicts:begin -->", "<!-- verdicts:end -->"
EXAMPLES = (1, 2, 4, 8, 16)  # of causal models, beside the number of their task
COLUMNS = (
    "model | verdict | parameters | unexplained | under shift | breaks symmetries | improvement kept | exchanged | "
    "not excluded"
)


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
    name, seen = Path(text).name, []
    for member in examined.members:
        for predictor, task, on_features in ways_of(member.predictor, member.task):
            verdict = identify(predictor, task)
            where = ON_FEATURES * on_features
            print(f"{examined.title(member)}{where}, {in_examples(task.n_context)}: {verdict.sentence}", flush=True)
            about = {"seed": member.number, "label": member.label, "examples": task.n_context, "where": where}
            seen.append((predictor, task, verdict, about | verdict.as_dict()))
    verdicts = [each for *_, each in seen]
    RESULTS.mkdir(parents=True, exist_ok=True)
    content = {"source": source, "task": examined.task_in_words, "verdicts": verdicts}
    write_json(RESULTS / f"{name}.json", content)
    predictor, task, verdict, _ = seen[-1]
    if verdict.verdict != "zero":
        draw(RESULTS / "figures" / f"{name}.png", fingerprint(predictor, task, verdict), verdict.verdict)
    card = ROOT / "icl_gd" / "zoo" / "data" / name / "card.json"
    if source == "model" and card.is_file():
        on_inputs = [each for each in verdicts if not each["where"]][-1]
        known = json.loads(card.read_text(encoding="utf-8")) | {"verdict": {key: on_inputs[key] for key in ON_CARD}}
        with replacing(card) as partial:
            partial.write_text(json.dumps(plain(known), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def draw(path: Path, seen: Fingerprint, answer: str) -> None:
    """Draws the spectral fingerprint of the last member."""
    path.parent.mkdir(exist_ok=True)
    with plots.style(), replacing(path) as partial:
        fingerprint_figure(seen, answer).savefig(partial, format="png", dpi=150)


def ways_of(predictor: Any, task: Any) -> list[tuple[Any, Any, bool]]:
    """What is examined, with its task, and whether on features.

    A causal model is also examined with fewer examples, and a model with an embedding also on its features.
    """
    if not isinstance(predictor, Model):
        return [(predictor, task, False)]
    fewer = [n for n in EXAMPLES if n < task.n_context] if predictor.config.causal else []
    on_inputs = [(predictor, each, False) for each in (*(replace(task, n_context=n) for n in fewer), task)]
    try:
        return [*on_inputs, (*after_embedding(predictor, task), True)]
    except ValueError:  # there is no embedding, or its tokens are no features with a target
        return on_inputs


def in_examples(count: int) -> str:
    """A number of examples in words."""
    return f"{count} example{'s' * (count > 1)}"


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
            number, label = verdict["seed"], verdict["label"]
            name = f"`{path.stem}`" + (f", {label or f'member {number}'}" if number is not None else "")
            name += verdict["where"]
            several = len({each["examples"] for each in content["verdicts"]}) > 1
            lines.append(row(name + f", {in_examples(verdict['examples'])}" * several, verdict))
    return "\n".join(lines)


def row(name: str, verdict: Mapping[str, Any]) -> str:
    """One row of the table."""
    observed = {each["name"]: each["value"] for each in verdict["evidence"]}
    shares = verdict["unexplained"]
    others = [sentence(one["verdict"], one["parameters"]) for one in verdict["black_box"]]
    if verdict["verdict"] == "none":
        cells = [in_words(verdict), "", "", ""]
    else:
        cells = [verdict["name"], numbers(verdict), size(shares["in_distribution"]), size(shares["shifted"])]
    return (
        "| "
        + " | ".join(
            [
                name,
                *cells,
                size(shares["noise_floor"]),
                f"{observed['kept_worst_layer']:.3f}" if "kept_worst_layer" in observed else "",
                size(observed["exchange_unexplained"]) if "exchange_unexplained" in observed else "",
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
