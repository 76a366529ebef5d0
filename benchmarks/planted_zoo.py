"""Measures how often `icl_gd.identify` names the algorithm of learners whose algorithm is known.

    python benchmarks/planted_zoo.py [--members=N] [--seed=S] [--records=FILE] [--json] [--write | --smoke]

The learners are drawn by `plants.py`: constructed Transformers with scrambled and noisy weights, learners themselves,
and controls that compute no known algorithm. The law of the draws was fixed before the thresholds of identification,
and the thresholds before the seeds of the table were drawn. A part of the table fails if the upper end of the one-sided
95 % interval of its rate lies below what is asked.

"Right" means the canonical name and the number of steps. A claim is within resolution if it is right, or if it is
nearer to the planted learner without noise than half of what the noise moved it.

This takes about an hour on two CPU cores with 1,000 members. With --records, the record of every learner is appended to
a file of JSON lines as soon as it is there, and learners that the file has are not identified again. --write does this
with results/planted_zoo/seed_S.jsonl, and writes the tables of all seeds of this folder to benchmarks/README.md: of
every seed that was ever drawn with frozen thresholds.
"""

import json
import multiprocessing
import os
import time
import warnings
from collections import Counter
from collections.abc import Container, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import pages  # beside this script
from tqdm import tqdm

RECORDS = pages.ROOT / "results" / "planted_zoo"
NOISE = 0.01  # of the weights, in times of the root mean square of a matrix
WORKERS = 2
SMALLEST = 4  # input dimension; with 2 or 3, noise of the weights has nearly all symmetries
BATCH = 10  # members per task of a worker
SMOKE = 2  # members per part of a smoke run


class Part(NamedTuple):
    """One row of the table.

    Attributes:
      words: what is counted.
      asked: the smallest accepted rate; the largest one if `is_most`.
      is_most: whether the rate has to be small.
    """

    words: str
    asked: float
    is_most: bool = False


PARTS = {
    "no_noise": Part("no noise, all kinds: name and number of steps", 0.99),
    "layerwise": Part("1 % noise, read layer by layer: name", 0.99),
    "few_numbers": Part("1 % noise, at most 3 steps or one step size: name and number of steps", 0.97),
    "resolution": Part("1 % noise: within resolution", 0.95),
    "in_set": Part("1 % noise: the truth is not excluded", 0.93),
    "strict": Part("1 % noise: name and number of steps", 0.85),
    "far": Part("1 % noise: wrong and not within resolution", 0.005, True),
    "controls": Part("controls: a claim", 0.01, True),
}
GROUPS = {"clean": 1.0, "noisy": 1.45, "layers": 1.0, "controls": 0.5, "half": 0.2, "twice": 0.2}  # times N
NOISES = {"clean": 0.0, "noisy": NOISE, "layers": NOISE, "controls": 0.0, "half": NOISE / 2, "twice": 2 * NOISE}


def examine(group: str, seed: int, indices: list[int]) -> list[dict[str, Any]]:
    """Plants members of one group and identifies them. Runs in a worker."""
    import numpy as np
    import plants

    from icl_gd.analysis.calls import Calls
    from icl_gd.identification.black_box import black_box
    from icl_gd.identification.layerwise import layered
    from icl_gd.identification.samples import difference, unexplained
    from icl_gd.identification.subject import Subject

    warnings.simplefilter("ignore")
    records = []
    for index in indices:
        rng = np.random.default_rng([seed, list(GROUPS).index(group), index])
        if group == "controls":
            plant = plants.control(rng, plants.CONTROLS[index % len(plants.CONTROLS)])
        elif group == "clean" and index % 3:
            plant = plants.bare(rng, plants.BARE[(index // 3 * 2 + index % 3 - 1) % len(plants.BARE)], SMALLEST)
        else:
            plant = plants.transformer(rng, NOISES[group], SMALLEST, deep=group == "layers")
        began = time.perf_counter()
        try:
            subject = Subject(plant.predictor, plant.task, index)
        except ValueError:  # a control may diverge: its predictions are refused, which is no claim
            subject = None
        if subject is None:
            names, claim = [], None
        elif subject.is_zero:
            names, claim = [("zero", 0)], None
        elif group == "layers":
            assert plant.layerwise is not None
            answers = layered(subject, Calls(plant.layerwise), 0.1, groups=0)
            names, claim = [answer.name[:2] for answer in answers], None
        else:
            answers, _ = black_box(subject, 0.1, len)
            names, claim = [answer.name[:2] for answer in answers], answers[0] if answers else None
        seconds = time.perf_counter() - began
        record: dict[str, Any] = {"seed": seed, "group": group, "index": index, "kind": plant.kind, "seconds": seconds}
        record["truth"] = None if plant.truth is None else list(plant.truth)
        record["names"] = [list(name) for name in names]
        record["shape"] = [plant.task.d_input, plant.task.n_context, plant.task.d_output]
        if subject is not None and plant.clean is not None and group in ("noisy", "half", "twice"):
            clean = Calls(plant.clean)(*subject.fresh)
            record["moved"] = difference(clean, subject.response)
            record["missed"] = unexplained(subject.fresh, clean, claim.predict) if claim else None
        records.append(record)
    return records


def is_right(record: dict[str, Any]) -> bool:
    """Whether the verdict has the planted name and number of steps; for layers, which are counted, the name."""
    if not record["names"] or record["truth"] is None:
        return False
    parts = 1 if record["group"] == "layers" else 2
    return record["names"][0][:parts] == record["truth"][:parts]


def is_resolved(record: dict[str, Any]) -> bool:
    """Whether the verdict is right, or nearer to the planted learner than half of what the noise moved it."""
    return is_right(record) or (record.get("missed") is not None and record["missed"] <= record["moved"] / 2)


def rows(records: list[dict[str, Any]]) -> dict[str, tuple[int, int]]:
    """Counts by part: (how many, of how many)."""
    by_group = {group: [record for record in records if record["group"] == group] for group in GROUPS}
    noisy = by_group["noisy"]
    few = [record for record in noisy if record["truth"][1] <= 3 or record["truth"][2]]

    def count(chosen: list[dict[str, Any]], test: Any) -> tuple[int, int]:
        return sum(bool(test(record)) for record in chosen), len(chosen)

    return {
        "no_noise": count(by_group["clean"], is_right),
        "layerwise": count(by_group["layers"], is_right),
        "few_numbers": count(few, is_right),
        "resolution": count(noisy, is_resolved),
        "in_set": count(noisy, lambda record: record["truth"][:2] in record["names"]),
        "strict": count(noisy, is_right),
        "far": count(noisy, lambda record: record["names"] and not is_resolved(record)),
        "controls": count(by_group["controls"], lambda record: record["names"]),
    }


def judged(part: Part, count: int, total: int) -> dict[str, Any]:
    """The rate of a part with its one-sided 95 % interval (Clopper and Pearson), and whether the part holds."""
    from scipy.stats import beta

    upper = 1.0 if count == total else float(beta.ppf(0.95, count + 1, total - count))
    lower = 0.0 if count == 0 else float(beta.ppf(0.05, count, total - count + 1))
    holds = lower <= part.asked if part.is_most else upper >= part.asked
    rate = count / max(total, 1)
    ends = {"lower95": lower, "upper95": upper}
    return {"members": total, "right": count, "rate": rate, **ends, "asked": part.asked, "holds": holds}


def summary(records: list[dict[str, Any]], members: int, seed: int, seconds: float) -> dict[str, Any]:
    """The object that --json prints."""
    counts = rows(records)
    by_part = {name: judged(part, *counts[name]) for name, part in PARTS.items()}
    known = [record for record in records if record["truth"] is not None and record["group"] != "controls"]
    wrong = Counter(
        (record["group"], words(record["truth"][:2]), words((record["names"] or [["none"]])[0]))
        for record in known
        if not is_right(record)
    )
    sizes = [len(record["names"]) for record in records if record["group"] == "noisy" and record["names"]]

    def rate_by(key: Any) -> dict[str, Any]:
        groups: dict[str, list[bool]] = {}
        for record in known:
            groups.setdefault(str(key(record)), []).append(is_right(record))
        return {
            name: {"members": len(right), "rate": sum(right) / len(right)} for name, right in sorted(groups.items())
        }

    noisy = [record["seconds"] for record in records if record["group"] == "noisy"]
    return {
        "members": members,
        "seed": seed,
        "accuracy": by_part["strict"]["rate"],
        "covered": by_part["in_set"]["rate"],
        "set_size": median(sizes) if sizes else None,
        "false_claims": by_part["controls"]["rate"],
        "by_part": by_part,
        "by_kind": rate_by(lambda record: record["kind"]),
        "by_noise": rate_by(lambda record: f"{NOISES[record['group']]} {record['group']}"),
        "confusion": [[*names, count] for names, count in wrong.most_common()],
        "claims_on_controls": [
            [record["kind"], record["names"][0]]
            for record in records
            if record["group"] == "controls" and record["names"]
        ],
        "minutes_for_1000": sum(noisy) / max(len(noisy), 1) * 1000 / WORKERS / 60,
        "seconds": seconds,
    }


def words(name: list[Any]) -> str:
    """A name and its number of steps in words."""
    return " ".join(map(str, name))


def measure(members: int, seed: int, path: Path | None) -> list[dict[str, Any]]:
    """Identifies all members that a file does not have, in worker processes with one thread each."""
    os.environ.update(
        OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", JAX_PLATFORMS="cpu", JAX_CPU_ENABLE_ASYNC_DISPATCH="false",
        XLA_FLAGS="--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    )  # fmt: skip
    wanted = [(group, index) for group, share in GROUPS.items() for index in range(max(1, round(share * members)))]
    lines = path.read_text(encoding="utf-8").splitlines() if path and path.exists() else []
    known = {(one["group"], one["index"]): one for one in map(json.loads, lines) if one["seed"] == seed}
    records = [known[one] for one in wanted if one in known]
    with ProcessPoolExecutor(WORKERS, multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(examine, group, seed, each) for group, each in batches(wanted, known)]
        with tqdm(total=len(wanted), initial=len(records), unit="learner", mininterval=5) as bar:
            for future in as_completed(futures):
                found = future.result()
                records += found
                if path:
                    with path.open("a", encoding="utf-8") as file:
                        file.writelines(json.dumps(record) + "\n" for record in found)
                bar.update(len(found))
    return sorted(records, key=lambda record: (record["group"], record["index"]))


def batches(wanted: list[tuple[str, int]], known: Container[tuple[str, int]]) -> Iterator[tuple[str, list[int]]]:
    """The indices of members that are not known yet, by group, in batches."""
    for group in GROUPS:
        left = [index for name, index in wanted if name == group and (name, index) not in known]
        for start in range(0, len(left), BATCH):
            yield group, left[start : start + BATCH]


def table(result: dict[str, Any]) -> str:
    """The Markdown table of one seed."""
    lines = [
        f"**Seed {result['seed']}**. Median number of algorithms that are not excluded: {result['set_size']}. 1,000 "
        f"noisy members take {result['minutes_for_1000']:.1f} minutes on {WORKERS} cores.",
        "",
        "| part | members | rate | better end of the interval | asked | holds |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, part in PARTS.items():
        row = result["by_part"][name]
        asked = f"at {'most' if part.is_most else 'least'} {part.asked}"
        holds = "yes" if row["holds"] else "no"
        rates = f"{row['rate']:.4f} | {row['lower95' if part.is_most else 'upper95']:.4f}"
        lines.append(f"| {part.words} | {row['members']} | {rates} | {asked} | {holds} |")
    return "\n".join(lines)


def tables() -> str:
    """The tables of all seeds whose records are kept."""
    found = []
    for path in sorted(RECORDS.glob("seed_*.jsonl")):
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        found.append(table(summary(records, len(records), records[0]["seed"], 0.0)))
    return "\n\n".join(found)


def main() -> None:
    """Runs the benchmark."""
    parser = pages.parser(__doc__)
    parser.add_argument("--members", type=int, help="members per part; default: 1000")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draws; default: 0")
    parser.add_argument("--records", type=Path, help="a file of JSON lines; default: none, with --write see above")
    options = pages.parse(parser)
    members = options.members or (SMOKE if options.smoke else 1000)
    path = options.records
    if options.write:
        RECORDS.mkdir(parents=True, exist_ok=True)
        path = RECORDS / f"seed_{options.seed}.jsonl"
    began = time.perf_counter()
    records = measure(members, options.seed, path)
    result = summary(records, members, options.seed, time.perf_counter() - began)
    print(json.dumps(result) if options.json else table(result))
    if options.write:
        pages.put("planted_zoo", tables())


if __name__ == "__main__":
    main()
