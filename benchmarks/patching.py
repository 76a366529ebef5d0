"""Compares the speed of activation patching with that of plain forward passes and of Python loops.

    python benchmarks/patching.py [--json] [--write | --smoke]

About 1,000 patches, each of one site at one position in one member, are computed on 256 prompts, for two models with
random weights. A call of `analysis.patch` computes all patches of one kind of site. It is timed alternately with

- plain passes: as many forward passes without patches, in the same form (`Model.run`, which computes every site), each
  one call for all members and prompts;
- calls: a Python loop with one jitted call per patch and member, for all prompts;
- single calls: a Python loop with one jitted call per patch, member and prompt. A few of them are timed, and the time
  is scaled to all of them.

The programs of both loops take the position as an argument, so they are compiled once per layer. Cold times include
compilation; warm times do not. This takes about a quarter of an hour on two CPU cores, on which nothing else should
run.
"""

import math
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import pages  # beside this script
from tqdm import tqdm

from icl_gd import LinearRegression, TransformerConfig, analysis, models, tokens
from icl_gd.lab.lifecycle.costs import Clock
from icl_gd.models import Model, edits, sites
from icl_gd.types import Array, Layout

TARGET = 1.5  # largest accepted warm time, in times of the plain passes
AT_ONCE = 1  # places that are patched at once: members and prompts fill the caches already
SITES = ("resid_pre", "attn.q", "attn.k", "attn.v", "attn.z", "attn_out", "resid_post")


class Setting(NamedTuple):
    """A model, its prompts and the sites that are patched.

    Attributes:
      name: name of the model in the tables.
      config, layout: the model.
      d_input, n_context: sizes of a prompt.
      kinds: the kinds of sites. All layers and positions are patched, with all heads together.
      members: number of models.
      prompts: number of prompts.
      rounds: number of timings; the minimum counts.
      sample: number of single calls per timing.
    """

    name: str
    config: TransformerConfig
    layout: Layout
    d_input: int
    n_context: int
    kinds: tuple[str, ...]
    members: int = 2
    prompts: int = 256
    rounds: int = 3
    sample: int = 500


def settings(is_smoke: bool) -> list[Setting]:
    """The models of the tables, or tiny models."""
    d, n = (2, 2) if is_smoke else (10, 10)
    linear = TransformerConfig(d + 1, n_layers=2 if is_smoke else 5, init_scale=1.0)
    five = Setting(
        "five layers", linear, tokens.concatenated(d, 1), d, n, ("embed", *SITES, "attn.scores", "attn.pattern")
    )
    d, n, width, layers = (2, 2, 4, 1) if is_smoke else (5, 10, 64, 3)
    config = models.gpt2_config(d, 2 * n + 1, d_embed=width, n_layers=layers, n_heads=2, d_read_out=1)
    gpt2 = Setting("small GPT-2", config, tokens.alternating(d, 1), d, n, (*SITES, "mlp_out"))
    if not is_smoke:
        return [five, gpt2]
    return [each._replace(kinds=each.kinds[:2], prompts=3, rounds=1, sample=4) for each in (five, gpt2)]


Call = Callable[..., Array]


class Programs(NamedTuple):
    """Functions of a kind of site, each with new jitted programs.

    Attributes:
      patch: all patches of all members on all prompts.
      record: the values of the source run of one member on all prompts.
      call: one patch of one member on all prompts.
      single: one patch of one member on one prompt.
    """

    patch: Any
    record: Call
    call: Call
    single: Call


def over_prompts(function: Callable) -> Callable:
    """Maps `function(model, problem, ...)` over prompts; the other arguments belong to the prompts too."""

    def mapped(model: Model, *of_prompts: Any) -> Any:
        return jax.vmap(partial(function, model))(*of_prompts)

    return mapped


def over_all(function: Callable) -> Callable:
    """Maps `function(model, problem, ...)` over members and prompts, in one program."""

    def mapped(population: Model, *of_prompts: Any) -> Any:
        return jax.vmap(lambda model: over_prompts(function)(model, *of_prompts))(population)

    return jax.jit(mapped)


def plain(model: Model, base: Any) -> Array:
    """A forward pass in the form that has all sites."""
    return model.run(*base, names="prediction")["prediction"]


def programs(kind: str) -> Programs:
    """The functions of one kind of site, not yet compiled."""

    def patch(model: Model, base: Any, source: Any) -> Array:
        return analysis.patch(model, base, source, kind, heads="all", batch=AT_ONCE)

    def record(model: Model, source: Any) -> Any:
        return model.run(*source, names=kind)

    def single(name: str, position: Array, model: Model, base: Any, value: Array) -> Array:
        return plain(model.edit({name: edits.constant(value, position=position)}), base)

    def call(name: str, position: Array, model: Model, base: Any, value: Array) -> Array:
        return over_prompts(partial(single, name, position))(model, base, value)

    by_name = partial(jax.jit, static_argnums=0)
    return Programs(over_all(patch), jax.jit(over_prompts(record)), by_name(call), by_name(single))


def seconds(run: Callable[[], Any]) -> float:
    """Seconds of a call, with all of its results."""
    began = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - began


class Kind:
    """The measurements of one kind of site."""

    def __init__(self, setting: Setting, kind: str, model: Model, base: Any, source: Any):
        self.setting, self.kind, self.model, self.base, self.source = setting, kind, model, base, source
        n_tokens = jax.eval_shape(setting.layout.encode, *(part[0] for part in base)).shape[0]
        self.places = [(name, t) for name in sites.expand(setting.config, kind) for t in range(n_tokens)]
        self.members = [jax.tree.map(lambda leaf, i=i: leaf[i], model) for i in range(setting.members)]
        self.programs = programs(kind)

    def calls(self) -> list[Array]:
        """The predictions `[prompt m]` of every patch and member, in a Python loop."""
        results = []
        for member in self.members:
            values = self.programs.record(member, self.source)
            results += [self.programs.call(name, t, member, self.base, values[name]) for name, t in self.places]
        return results

    def single_calls(self, places: list[tuple[str, int]]) -> Callable[[], list[Array]]:
        """A Python loop over patches of the first member on one prompt each."""
        values = self.programs.record(self.members[0], self.source)
        count = self.setting.prompts
        alone = [jax.tree.map(lambda leaf, i=i: leaf[i], (self.base, values)) for i in range(min(count, len(places)))]
        jax.block_until_ready(alone)

        def run() -> list[Array]:
            given = ((name, t, *alone[i % len(alone)]) for i, (name, t) in enumerate(places))
            return [self.programs.single(name, t, self.members[0], one, of[name]) for name, t, one, of in given]

        return run

    def measure(self, passes: Callable[[Model, Any], Array]) -> dict[str, Any]:
        """Times everything for this kind.

        Args:
          passes: the compiled plain pass of all members on all prompts.

        Returns:
          The numbers of patches and programs, seconds, bytes, and the largest difference to the loop.
        """
        setting, given = self.setting, (self.model, self.base, self.source)
        clock, began = Clock(), time.perf_counter()
        compiled = self.programs.patch.lower(*given).compile()
        patched = jax.block_until_ready(compiled(*given))
        cold, n_programs = time.perf_counter() - began, clock.read()["programs"]

        called: list[Array] = []
        calls_cold = seconds(lambda: called.extend(self.calls()) or called)
        expected = np.stack([np.asarray(each) for each in called]).reshape(setting.members, len(self.places), -1)
        actual = np.asarray(patched).reshape(setting.members, setting.prompts, len(self.places), -1)
        actual = np.moveaxis(actual, 1, 2).reshape(expected.shape)

        names = list(dict.fromkeys(name for name, _ in self.places))
        compile_single = seconds(self.single_calls([(name, 0) for name in names]))
        sample = [self.places[i % len(self.places)] for i in range(setting.sample)]
        single = self.single_calls(sample)
        timed: dict[str, Callable[[], Any]] = {
            "warm": lambda: compiled(*given),
            "plain": lambda: [passes(self.model, self.base) for _ in self.places],
            "calls_warm": self.calls,
            "single": single,
        }
        least = dict.fromkeys(timed, math.inf)
        for _ in range(setting.rounds):
            for name, run in timed.items():
                least[name] = min(least[name], seconds(run))
        patches = len(self.places) * setting.members
        single_warm = least.pop("single") / len(sample) * patches * setting.prompts
        memory = compiled.memory_analysis()
        return {
            "site": self.kind,
            "patches": patches,
            "programs": n_programs,
            "cold": cold,
            **least,
            "calls_cold": calls_cold,
            "single_cold": compile_single + single_warm,
            "single_warm": single_warm,
            "bytes": None if memory is None else memory.temp_size_in_bytes + memory.output_size_in_bytes,
            "difference": float(np.max(np.abs(actual - expected))) / float(np.max(np.abs(expected))),
        }


SUMS = ("patches", "programs", "cold", "warm", "plain", "calls_cold", "calls_warm", "single_cold", "single_warm")


def measure(setting: Setting) -> dict[str, Any]:
    """Measures all kinds of sites of a model."""
    task = LinearRegression(setting.d_input, 1, setting.n_context)
    keys = jax.random.split(jax.random.key(0), (2, setting.prompts))
    base, source = (tuple(jax.vmap(task.sample)(row)[:3]) for row in keys)
    init = jax.vmap(partial(models.init, setting.config))
    model = Model(setting.config, init(jax.random.split(jax.random.key(1), setting.members)), setting.layout)
    passes = over_all(plain).lower(model, base).compile()
    fastest = over_all(lambda model, base: model(*base)).lower(model, base).compile()
    rows = []
    for kind in tqdm(setting.kinds, desc=setting.name, unit="site", file=sys.stderr):
        rows.append(Kind(setting, kind, model, base, source).measure(passes))
    both = {"sites": passes, "fastest": fastest}
    least = {name: min(seconds(partial(run, model, base)) for _ in range(10)) for name, run in both.items()}
    total = {name: sum(row[name] for row in rows) for name in SUMS}
    sizes = [row["bytes"] for row in rows]
    total |= {"site": "all", "bytes": None if None in sizes else max(sizes)}
    total["difference"] = max(row["difference"] for row in rows)
    return {
        "model": setting.name,
        "members": setting.members,
        "prompts": setting.prompts,
        "pass_milliseconds": 1e3 * least["sites"],
        "fastest_pass_milliseconds": 1e3 * least["fastest"],
        "rows": [*rows, total],
    }


HEAD = (
    *("site", "patches", "programs", "cold / s", "warm / s", "plain passes / s", "times plain"),
    *("times faster than calls, cold", "warm", "than single calls, cold", "warm", "memory / MB", "difference"),
)


def line(row: dict[str, Any]) -> tuple[str, ...]:
    """The cells of a row of a table."""
    figures = (
        row["cold"],
        row["warm"],
        row["plain"],
        row["warm"] / row["plain"],
        row["calls_cold"] / row["cold"],
        row["calls_warm"] / row["warm"],
        row["single_cold"] / row["cold"],
        row["single_warm"] / row["warm"],
    )
    size = "" if row["bytes"] is None else f"{row['bytes'] / 1e6:.3g}"
    counts = (row["site"], str(row["patches"]), str(row["programs"]))
    return (*counts, *(f"{figure:.3g}" for figure in figures), size, f"{row['difference']:.1g}")


def table(records: dict[str, Any]) -> str:
    """The tables of all models as Markdown."""
    parts = [f"Measured on {records['device']}."]
    for record in records["models"]:
        *rows, total = record["rows"]
        once = "yes" if all(row["programs"] == 1 for row in rows) else "no"
        reached = "yes" if total["warm"] <= TARGET * total["plain"] else "no"
        parts.append(
            f"**{record['model']}**: {total['patches']} patches on {record['prompts']} prompts. Target: one program "
            f"for each kind of site. Reached: {once}. Target: for all patches, at most {TARGET} times the warm time of "
            f"as many plain passes. Reached: {reached}. A plain pass of {record['members']} members on all prompts "
            f"takes {record['pass_milliseconds']:.3g} ms. In the fastest form of the model, which has no sites, it "
            f"takes {record['fastest_pass_milliseconds']:.3g} ms."
        )
        lines = [HEAD, ("---",) * len(HEAD), *map(line, record["rows"])]
        parts.append("\n".join(f"| {' | '.join(cells)} |" for cells in lines))
    return "\n\n".join(parts)


def main() -> None:
    options = pages.parse(pages.parser(__doc__))
    device = f"{jax.device_count()} x {jax.devices()[0].device_kind}, JAX {jax.__version__}"
    records = {"device": device, "models": [measure(setting) for setting in settings(options.smoke)]}
    pages.report(options, records, {"patching": table(records)})


if __name__ == "__main__":
    main()
