"""Writes the tables of README.md and docs/results.md from the committed results.

    python -m experiments.publish [--check]

First the wording of claims (statement, source, note) is copied from the configs into results/NAME/results.json; their
values and targets stay. With --check nothing is written, and the exit code is 1, with one line, if a page is stale.
"""

import ast
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from icl_gd.lab.command_line import load
from icl_gd.lab.config.claims import Claim
from icl_gd.lab.config.errors import ConfigError
from icl_gd.lab.evaluation.pictures import captions
from icl_gd.lab.reporting.report import number, target, trapped, wall_time
from icl_gd.lab.reporting.results import holds, write_json

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
NONE = "No results are committed."
AGAIN = "another_seed.json"  # beside results.json
HEADER = ("claim", "source", "target", "measured", "at another seed", "holds", "note")
TITLE = """# Results

`python -m experiments.publish` generates this page from `results/*/results.json`. Configs state
claims with targets, and full runs test them. A claim that was added after a first run says so. A claim that fails
stays, with the reason in its note.

- *Measured*: the value of the run. A dash is a mean that is not finite, or a mean over free seeds where there are none.
- *At another seed*: the value of a second run, all of whose members have other seeds
  (`python -m experiments.another_seed`). It is bold where the claim fails, and empty where there was no second run.
- *Holds*: "at one seed" means that the claim holds in one run and fails in the other. Such a claim is not counted.
- *Trapped seeds* end above 1.2 times the loss of a reference: the best layer where its loss is known in closed form,
  otherwise the learner of comparison (for function classes: nine tenths of the labels' variance). A trapped seed may be
  on a plateau, converging slowly, overfitting a small training set, or limited by the architecture. Claims about free
  seeds leave trapped ones out.
- *Times* are those of all processes of a run, on machines that may have had other work, or of the last process where
  earlier ones were not recorded.
"""
# The papers of the experiments, by the arXiv number in the docstring of a config.
PAPERS = {
    "2212.07677": "von Oswald et al.",
    "2208.01066": "Garg et al.",
    "2310.13220": "Ren & Liu",
}
BEYOND = "beyond the papers"

Results = Mapping[str, Any]


class Stated(NamedTuple):
    """What identifies a claim: where one of these differs it is another claim, whatever its wording."""

    id: str
    relation: str
    target: float
    tolerance: float


def stated(claim: Mapping[str, Any]) -> Stated:
    """What is stated by a claim of results, or of a config."""
    return Stated(**{name: claim[name] for name in Stated._fields})


def committed(root: Path = ROOT) -> dict[str, Results]:
    """Every results/NAME/results.json, by name.

    Raises:
      ValueError: if one of them is not JSON.
    """
    return _read(root, "results.json")


def at_another_seed(root: Path = ROOT) -> dict[str, Results]:
    """Every results/NAME/another_seed.json, by name.

    Raises:
      ValueError: if one of them is not JSON.
    """
    return _read(root, AGAIN)


def _read(root: Path, file: str) -> dict[str, Results]:
    found = {}
    for path in sorted(root.glob(f"results/*/{file}")):
        try:
            found[path.parent.name] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path.relative_to(root)} is unreadable: {error}") from error
    return found


class Judged(NamedTuple):
    """A claim as it was judged at its own base seed, and at another where that was done."""

    claim: Mapping[str, Any]
    again: Mapping[str, Any] | None

    @property
    def holds(self) -> bool:
        """Whether it holds wherever it was judged."""
        return all(holds(its) for its in self if its is not None)

    @property
    def verdict(self) -> str:
        """Whether it holds, as tables say it."""
        if self.holds:
            return "yes"
        return "**at one seed**" if any(holds(its) for its in self if its is not None) else "**no**"

    @property
    def there(self) -> str:
        """Its value at the other seed."""
        if self.again is None:
            return ""
        value = number(self.again["value"])
        return value if holds(self.again) else f"**{value}**"


def judged(results: Results, again: Results | None) -> list[Judged]:
    """The claims of results, each with what became of the same claim at another seed."""
    there = {stated(claim): claim for claim in again["claims"]} if again else {}
    return [Judged(claim, there.get(stated(claim))) for claim in results["claims"]]


def pages(root: Path = ROOT) -> dict[Path, str]:
    """The content that README.md and docs/results.md should have.

    Raises:
      ValueError: if README.md lacks its markers, or a result is unreadable.
    """
    found, again = committed(root), at_another_seed(root)
    readme = (root / "README.md").read_text(encoding="utf-8")
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"README.md needs the markers {BEGIN} and {END}, in this order")
    sections = [_section(name, results, again.get(name)) for name, results in found.items()] or [f"{NONE}\n"]
    if missing := _not_run(found, root):
        sections.append(f"## No full run yet\n\n{', '.join(missing)}\n")
    overview = f"{_overview(found, again, root)}\n"
    return {
        root / "README.md": f"{before}{BEGIN}\n{_summary(found, again, root)}\n{END}{after}",
        root / "docs" / "results.md": "\n".join([TITLE, overview, *sections]),
    }


def _summary(found: Mapping[str, Results], again: Mapping[str, Results], root: Path) -> str:
    """The README's table: a row for every paper."""
    if not found:
        return NONE
    of_paper: dict[str, list[str]] = {}
    for name, results in found.items():
        of_paper.setdefault(_paper(root / "configs" / f"{results['experiment']}.py"), []).append(name)
    rows = []
    for paper in (*PAPERS, BEYOND):
        names = of_paper.get(paper, [])
        claims = [one for name in names for one in judged(found[name], again.get(name))]
        title = f"{PAPERS[paper]} ([{paper}](https://arxiv.org/abs/{paper}))" if paper in PAPERS else paper
        if names:
            rows.append((title, str(len(names)), str(len(claims)), str(sum(one.holds for one in claims))))
    table = _table(("paper", "experiments", "claims", "claims that hold"), rows)
    said = "Configs state claims with targets; runs test them."
    if again:
        count = len(found.keys() & again.keys())
        verb = "was" if count == 1 else "were"
        said += f" {count} of {len(found)} experiments {verb} repeated at a second base seed; "
        said += "a claim counts if it holds at both."
    return f"{said} [docs/results.md](docs/results.md) lists each claim and explains each failure.\n\n{table}"


def _paper(config: Path) -> str:
    """The arXiv number of a config's paper: the first one in its docstring."""
    numbers = re.findall(r"\d{4}\.\d{5}", _docstring(config))
    return next((number for number in numbers if number in PAPERS), BEYOND)


def _docstring(config: Path) -> str:
    return (ast.get_docstring(ast.parse(config.read_text(encoding="utf-8"))) if config.exists() else None) or ""


def _not_run(found: Mapping[str, Results], root: Path) -> list[str]:
    """Configs, and variants that are no smoke, without committed results."""
    missing = []
    for path in sorted(root.glob("configs/*.py")):
        said = re.search(r"^VARIANTS = (\(.*?\))$", path.read_text(encoding="utf-8"), re.MULTILINE)
        variants = ast.literal_eval(said[1]) if said else ()
        names = {path.stem: path.stem, **{f"{path.stem}-{v}": f"{path.stem}:{v}" for v in variants if v != "smoke"}}
        missing += [f"`{shown}`" for name, shown in names.items() if name not in found]
    return missing


def _overview(found: Mapping[str, Results], again: Mapping[str, Results], root: Path) -> str:
    """The first table of docs/results.md: a row for every experiment, with the claims that fail."""
    rows = []
    for name, results in found.items():
        its = judged(results, again.get(name))
        failing = ", ".join(one.claim["id"] for one in its if not one.holds) or "none"
        count = f"{sum(one.holds for one in its)} of {len(its)}"
        about = _about(root / "configs" / f"{results['experiment']}.py", name.partition("-")[2])
        rows.append((name, about, count, failing, trapped(results)))
    return _table(("experiment", "question", "claims that hold", "that fail", "trapped seeds"), rows) if rows else NONE


def _about(config: Path, variant: str) -> str:
    """The first line of a config's docstring; of a variant, what its line of variants says of it."""
    first, _, rest = _docstring(config).partition("\n")
    listed = " ".join(rest.partition("Variants: ")[2].partition("\n\n")[0].split())
    of_it = (part for part in re.split(r";\s(?=`)", listed) if part.startswith(f"`{variant}` "))
    return next(of_it, first)


def _section(name: str, results: Results, again: Results | None) -> str:
    """One experiment of docs/results.md: how it ran, and its claims with their notes."""
    ran = f"{_how(results)} Trapped seeds: {trapped(results)}."
    if again:
        ran += f" At base seed {again['seed']}: {_how(again)}"
    rows = [(one.claim["id"], *_row(one)) for one in judged(results, again)]
    table = _table(("id", *HEADER), rows) if rows else "It states no claims."
    shown = [
        f"- [{stem}](../results/{name}/figures/{stem}.png): {words}" for stem, words in captions(dict(results)).items()
    ]
    return "\n".join([f"## {name}", "", ran, "", table, "", *shown, *[""] * bool(shown)])


def _how(run: Results) -> str:
    """How long a run took, where and of what."""
    precision = f", {run['precision']}" if "precision" in run else ""
    return f"{wall_time(run)} on {run['device']}{precision}, revision {run['git']}."


def _row(one: Judged) -> tuple[str, ...]:
    """What was stated, and what came out: the columns of HEADER."""
    claim = one.claim
    return (
        claim["statement"],
        claim["source"],
        target(claim),
        number(claim["value"]),
        one.there,
        one.verdict,
        claim["note"],
    )


def restate(root: Path = ROOT) -> list[Path]:
    """Copies the wording of claims from the configs into committed results.

    Returns:
      The files that were written.

    Raises:
      ConfigError: if a config cannot be read.
    """
    written = []
    for name, results in committed(root).items():
        config = root / "configs" / f"{results['experiment']}.py"
        if not config.exists():
            continue
        wording = {stated(vars(claim)): claim for claim in load(config, results["variant"] or "").claims}
        claims = [claim | _wording(wording.get(stated(claim))) for claim in results["claims"]]
        if claims != results["claims"]:
            path = root / "results" / name / "results.json"
            write_json(path, {**results, "claims": claims})
            written.append(path)
    return written


def _wording(claim: Claim | None) -> dict[str, str]:
    return {} if claim is None else {"statement": claim.statement, "source": claim.source, "note": claim.note}


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *(map(_cell, row) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(text: str) -> str:
    """Text that ends neither its cell nor the table of the README."""
    return " ".join(text.split()).replace("|", r"\|").replace("<", "&lt;")


def stale(root: Path = ROOT) -> list[str]:
    """Pages that do not say what the results say, relative to the root."""
    return [
        str(path.relative_to(root))
        for path, text in pages(root).items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]


def main(argv: Sequence[str], root: Path = ROOT) -> int:
    """Runs the command line and returns the exit code."""
    if argv not in ([], ["--check"]):
        print(f"error: {' '.join(argv)}: accepted is --check, or nothing", file=sys.stderr)
        return 2
    try:
        found = stale(root)
        if argv:
            if found:
                print(f"stale: {', '.join(found)}; run python -m experiments.publish", file=sys.stderr)
            return int(bool(found))
        for path in restate(root):
            print(f"wrote {path.relative_to(root)}")
        found, texts = stale(root), pages(root)
    except (ValueError, ConfigError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for name in found:
        partial = root / f"{name}.partial"
        partial.write_text(texts[root / name], encoding="utf-8")
        os.replace(partial, root / name)
        print(f"wrote {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
