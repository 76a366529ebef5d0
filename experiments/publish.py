"""Writes the tables of README.md and docs/results.md from the committed results.

    python -m experiments.publish [--check]

First, the wording of claims (statement, source, note) is copied from the configs to results/NAME/results.json; values
and targets stay unchanged. With --check nothing is written; if a page is stale, one line is printed and the exit code
is 1.
"""

import ast
import json
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
from icl_gd.paths import replacing

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
NONE = "No results are committed."
AGAIN = "another_seed.json"  # in the directory of results.json
HEADER = ("claim", "source", "target", "measured", "at another seed", "holds", "note")
TITLE = """# Results

`python -m experiments.publish` generates this page from `results/*/results.json`. Configs state claims with targets,
and full runs test them. If a claim was added after the first run, its note says so. A claim that fails stays on this
page, and its note gives the reason.

- *Measured*: the value in the run. A dash means that the mean is not finite, or is over free seeds and there are none.
- *At another seed*: the value in a second run, whose members all have other seeds
  (`python -m experiments.another_seed`). It is bold if the claim fails, and empty if there was no second run.
- *Holds*: "at one seed" means that the claim holds in one run and fails in the other. Such a claim is not counted as
  one that holds.
- *Trapped seeds* have a final loss above 1.2 times a baseline: the loss of the best layer if it is known in closed
  form, otherwise that of the reference learner. For function classes, their final error is above 0.9 times the variance
  of the labels. A trapped seed may be on a plateau, converge slowly, overfit a small training set, or be limited by the
  architecture. Claims about free seeds leave trapped seeds out.
- *Times* are summed over all processes of a run, on machines that may have had other work. If earlier processes were
  not recorded, the time is that of the last process.
"""
# The authors of the papers, by arXiv number. The docstring of a config contains the number.
PAPERS = {
    "2212.07677": "von Oswald et al.",
    "2208.01066": "Garg et al.",
    "2310.13220": "Ren & Liu",
}
BEYOND = "beyond the papers"

Results = Mapping[str, Any]


class ClaimKey(NamedTuple):
    """The fields that identify a claim. Claims that differ only in wording have the same key."""

    id: str
    relation: str
    target: float
    tolerance: float


def claim_key(claim: Mapping[str, Any]) -> ClaimKey:
    """The key of a claim of results, or of a config."""
    return ClaimKey(**{name: claim[name] for name in ClaimKey._fields})


def committed(root: Path = ROOT) -> dict[str, Results]:
    """The content of every results/NAME/results.json, by name.

    Raises:
      ValueError: if a file is not JSON.
    """
    return _read(root, "results.json")


def at_another_seed(root: Path = ROOT) -> dict[str, Results]:
    """The content of every results/NAME/another_seed.json, by name.

    Raises:
      ValueError: if a file is not JSON.
    """
    return _read(root, AGAIN)


def _read(root: Path, file: str) -> dict[str, Results]:
    contents = {}
    for path in sorted(root.glob(f"results/*/{file}")):
        try:
            contents[path.parent.name] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path.relative_to(root)} is unreadable: {error}") from error
    return contents


class TestedClaim(NamedTuple):
    """A claim tested in the committed run (`claim`), and in a run with other seeds (`again`) if there was one."""

    claim: Mapping[str, Any]
    again: Mapping[str, Any] | None

    @property
    def holds(self) -> bool:
        """Whether the claim holds in every run that tested it."""
        return all(holds(tested) for tested in self if tested is not None)

    @property
    def verdict(self) -> str:
        """The entry in the column "holds" of the tables."""
        if self.holds:
            return "yes"
        return "**at one seed**" if any(holds(tested) for tested in self if tested is not None) else "**no**"

    @property
    def value_again(self) -> str:
        """The entry in the column "at another seed" of the tables."""
        if self.again is None:
            return ""
        value = number(self.again["value"])
        return value if holds(self.again) else f"**{value}**"


def tested_claims(results: Results, again: Results | None) -> list[TestedClaim]:
    """The claims of `results`. Each is paired with the same claim in `again`, the results at another seed, if any."""
    claims_again = {claim_key(claim): claim for claim in again["claims"]} if again else {}
    return [TestedClaim(claim, claims_again.get(claim_key(claim))) for claim in results["claims"]]


def pages(root: Path = ROOT) -> dict[Path, str]:
    """The up-to-date content of README.md and docs/results.md, by path.

    Raises:
      ValueError: if README.md lacks its markers, or a result is unreadable.
    """
    all_results, again = committed(root), at_another_seed(root)
    readme = (root / "README.md").read_text(encoding="utf-8")
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"README.md needs the markers {BEGIN} and {END}, in this order")
    sections = [_section(name, results, again.get(name)) for name, results in all_results.items()] or [f"{NONE}\n"]
    if missing := _not_run(all_results, root):
        sections.append(f"## No full run yet\n\n{', '.join(missing)}\n")
    overview = f"{_overview(all_results, again, root)}\n"
    return {
        root / "README.md": f"{before}{BEGIN}\n{_summary(all_results, again, root)}\n{END}{after}",
        root / "docs" / "results.md": "\n".join([TITLE, overview, *sections]),
    }


def _summary(all_results: Mapping[str, Results], again: Mapping[str, Results], root: Path) -> str:
    """The summary in README.md: one sentence, and a table with one row per paper."""
    if not all_results:
        return NONE
    names_by_paper: dict[str, list[str]] = {}
    for name, results in all_results.items():
        names_by_paper.setdefault(_paper(root / "configs" / f"{results['experiment']}.py"), []).append(name)
    rows = []
    for paper in (*PAPERS, BEYOND):
        names = names_by_paper.get(paper, [])
        claims = [claim for name in names for claim in tested_claims(all_results[name], again.get(name))]
        title = f"{PAPERS[paper]} ([{paper}](https://arxiv.org/abs/{paper}))" if paper in PAPERS else paper
        if names:
            rows.append((title, str(len(names)), str(len(claims)), str(sum(claim.holds for claim in claims))))
    table = _table(("paper", "experiments", "claims", "claims that hold"), rows)
    about = "Every config states claims with targets, and its run tests them."
    if again:
        count = len(all_results.keys() & again.keys())
        verb = "was" if count == 1 else "were"
        about += (
            f" {count} of {len(all_results)} experiments {verb} run a second time, with other random seeds. A claim "
        )
        about += "of such an experiment counts as holding only if it holds in both runs."
    return f"{about} [docs/results.md](docs/results.md) lists each claim and explains each failure.\n\n{table}"


def _paper(config: Path) -> str:
    """The paper of a config: the first arXiv number of `PAPERS` in its docstring, otherwise `BEYOND`."""
    numbers = re.findall(r"\d{4}\.\d{5}", _docstring(config))
    return next((number for number in numbers if number in PAPERS), BEYOND)


def _docstring(config: Path) -> str:
    return (ast.get_docstring(ast.parse(config.read_text(encoding="utf-8"))) if config.exists() else None) or ""


def _not_run(all_results: Mapping[str, Results], root: Path) -> list[str]:
    """The configs and variants without committed results, except the variant `smoke`."""
    missing = []
    for path in sorted(root.glob("configs/*.py")):
        line = re.search(r"^VARIANTS = (\(.*?\))$", path.read_text(encoding="utf-8"), re.MULTILINE)
        variants = [name for name in (ast.literal_eval(line[1]) if line else ()) if name != "smoke"]
        names = {path.stem: path.stem, **{f"{path.stem}-{variant}": f"{path.stem}:{variant}" for variant in variants}}
        missing += [f"`{shown}`" for name, shown in names.items() if name not in all_results]
    return missing


def _overview(all_results: Mapping[str, Results], again: Mapping[str, Results], root: Path) -> str:
    """The first table of docs/results.md: one row per experiment, with the claims that fail."""
    rows = []
    for name, results in all_results.items():
        claims = tested_claims(results, again.get(name))
        failing = ", ".join(tested.claim["id"] for tested in claims if not tested.holds) or "none"
        count = f"{sum(tested.holds for tested in claims)} of {len(claims)}"
        about = _about(root / "configs" / f"{results['experiment']}.py", name.partition("-")[2])
        rows.append((name, about, count, failing, trapped(results)))
    return _table(("experiment", "question", "claims that hold", "that fail", "trapped seeds"), rows) if rows else NONE


def _about(config: Path, variant: str) -> str:
    """The first line of a config's docstring. For a variant, its entry in the list "Variants: " of the docstring."""
    first, _, rest = _docstring(config).partition("\n")
    listed = " ".join(rest.partition("Variants: ")[2].partition("\n\n")[0].split())
    entries = (entry for entry in re.split(r";\s(?=`)", listed) if entry.startswith(f"`{variant}` "))
    return next(entries, first)


def _section(name: str, results: Results, again: Results | None) -> str:
    """The section of an experiment in docs/results.md: a line about the run, its claims, and its figures."""
    about_run = f"{_about_run(results)} Trapped seeds: {trapped(results)}."
    if again:
        about_run += f" With seeds from {again['seed']} on: {_about_run(again)}"
    rows = [(tested.claim["id"], *_row(tested)) for tested in tested_claims(results, again)]
    table = _table(("id", *HEADER), rows) if rows else "It states no claims."
    shown = [
        f"- [{stem}](../results/{name}/figures/{stem}.png): {words}" for stem, words in captions(dict(results)).items()
    ]
    return "\n".join([f"## {name}", "", about_run, "", table, "", *shown, *[""] * bool(shown)])


def _about_run(run: Results) -> str:
    """The duration, device, precision and git revision of a run."""
    precision = f", {run['precision']}" if "precision" in run else ""
    return f"{wall_time(run)} on {run['device']}{precision}, revision {run['git']}."


def _row(tested: TestedClaim) -> tuple[str, ...]:
    """The row of a claim, with the columns of HEADER after the id."""
    claim = tested.claim
    return (
        claim["statement"],
        claim["source"],
        target(claim),
        number(claim["value"]),
        tested.value_again,
        tested.verdict,
        claim["note"],
    )


def restate(root: Path = ROOT) -> list[Path]:
    """Copies the wording of claims from the configs to the committed results.

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
        wording = {claim_key(vars(claim)): claim for claim in load(config, results["variant"] or "").claims}
        claims = [claim | _wording(wording.get(claim_key(claim))) for claim in results["claims"]]
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
    """Escapes characters that would end the cell of a table, or the marked part of README.md."""
    return " ".join(text.split()).replace("|", r"\|").replace("<", "&lt;")


def stale(root: Path = ROOT) -> list[str]:
    """The paths, relative to the root, of pages that are not up to date."""
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
        stale_pages = stale(root)
        if argv:
            if stale_pages:
                print(f"stale: {', '.join(stale_pages)}; run python -m experiments.publish", file=sys.stderr)
            return int(bool(stale_pages))
        for path in restate(root):
            print(f"wrote {path.relative_to(root)}")
        stale_pages, texts = stale(root), pages(root)
    except (ValueError, ConfigError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for name in stale_pages:
        with replacing(root / name) as partial:
            partial.write_text(texts[root / name], encoding="utf-8")
        print(f"wrote {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
