"""Time of a training step, beside a plain token-by-token step and beside what no step can beat.

    python benchmarks/training.py [--json] [--rows=FIELD=VALUE,...] [--read=FILE] [--write | --smoke]

Every row is timed alternately with the yardstick: the same network run token by token on prompts sampled one by one,
one member, one step at a time, as published implementations do it. Compilation is not counted. Without --json a table
is printed, with ratios; --json prints the rows as one list and nothing else; --write puts the table, and the targets
that were reached, into benchmarks/README.md. --rows=n_layers=5,members=1 takes the rows that match; --read=FILE takes
what an earlier --json printed instead of measuring.

Runs unchanged on a GPU, and takes about a quarter of an hour on two CPU cores, on which nothing else should run.
"""

import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import pages  # beside this script
from tqdm import tqdm

from icl_gd import LinearRegression, TrainSettings, TransformerConfig, models
from icl_gd.tokens import concatenated
from icl_gd.training import mesh, population
from icl_gd.training.problem import learning_problem
from icl_gd.types import Array, Gram

BATCH, D_INPUT = 2048, 10
E = D_INPUT + 1
# Milliseconds a step of the published code took, as a share of our yardstick's, timed side by side on two CPU cores.
PUBLISHED = {(1, 10): 0.93, (5, 10): 0.93, (5, 100): 0.84}
DRAWS = 4  # of random numbers, timed at once


class Effort(NamedTuple):
    """How long and how often each thing is timed, and the size of the matrix product that gives the peak."""

    seconds_each: float = 0.15
    rounds: int = 3
    matrix: int = 2048


SMOKE = Effort(0.0, 1, 64)


class Row(NamedTuple):
    """One setting of a training step."""

    n_layers: int
    n_context: int
    members: int
    share_batches: bool
    form: str = "gram"
    inputs: str = "uniform"
    sampler: str = "tokens"
    batch_size: int = BATCH

    @property
    def task(self) -> LinearRegression:
        return LinearRegression(D_INPUT, 1, self.n_context, self.inputs)

    @property
    def model(self) -> TransformerConfig:
        return TransformerConfig(E, n_layers=self.n_layers, shared=True)

    @property
    def settings(self) -> TrainSettings:
        return TrainSettings(batch_size=self.batch_size, share_batches=self.share_batches, form=self.form)

    @property
    def batches(self) -> int:
        """Batches drawn a step."""
        return 1 if self.share_batches else self.members


def rows() -> list[Row]:
    kinds = [(1, False), (10, True), (10, False), (32, True), (32, False)]
    layers, contexts = (1, 5), (10, 100, 1000)
    moments = [Row(depth, n, *kind) for depth in layers for n in contexts for kind in kinds]
    tokens = [Row(depth, n, 1, False, "tokens") for depth in layers for n in (10, 100)]
    normal = [
        Row(depth, n, 1, False, "gram", "normal", sampler)
        for depth in layers
        for n in contexts
        for sampler in ("tokens", "gram")
    ]
    return moments + tokens + normal


SMOKE_ROWS = [Row(1, 10, 32, True, batch_size=8), Row(5, 1000, 1, False, batch_size=8)]


def problem(row: Row) -> tuple[Callable, Callable]:
    """`draw` and `loss` of a row."""
    draw, loss = learning_problem(row.task, row.model, concatenated(D_INPUT, 1), row.settings)

    def moments(key: Array, step: Array) -> tuple[Gram, Array]:
        return row.task.sample_gram(key, row.batch_size, direct=row.sampler == "gram")

    return moments if row.form == "gram" else draw, loss


def only_drawing(batch_of: Callable) -> tuple[Callable, Callable]:
    """The problem that draws the same batches and learns nothing from them, of a network with one weight."""

    def touch(params: Array, batch: Any) -> Array:
        return 0 * params * sum(jnp.sum(leaf.reshape(-1)[0]) for leaf in jax.tree.leaves(batch))

    return batch_of, touch


def drawn_once(draw: Callable) -> Callable:
    """Gives the same batch at every step."""
    batch = jax.jit(draw)(jax.random.key(0), 0)
    return lambda key, step: batch


def stepper(row: Row, draw: Callable, loss: Callable, init: Callable, steps: int) -> Callable[[], None]:
    """Trains `steps` steps at each call, from where the last call ended."""
    placement = mesh.place("auto", row.members, row.batch_size, row.share_batches)
    chunk = population.make_chunk(draw, loss, row.settings, placement, side_by_side=row.n_layers == 1)
    members = population.members_of(0, row.members, row.settings, {})
    state = population.start(init, row.settings, members)
    held = [population.PopulationState(placement.device_put(state.member), placement.device_put(state.step, mesh.ALL))]
    members = placement.device_put(members)

    def run() -> None:
        held[0], losses = chunk(held[0], members, steps)
        jax.block_until_ready(losses)

    run()
    return run


def yardstick(row: Row) -> Callable[[], None]:
    """One plain step at each call: prompts by vmap of one, every token through every layer, one program a step."""
    predictor = lambda params: models.predictor(row.model, params, concatenated(D_INPUT, 1))
    optimizer = row.settings.transformation(population.MemberHyperparams(1e-3, 1e-3, 0.9, 0.98, 0.0, 0.0))

    def loss(params: Any, key: Any) -> Any:
        prompts = jax.vmap(row.task.sample)(jax.random.split(key, row.batch_size))
        y_hat = jax.vmap(predictor(params))(prompts.x, prompts.y, prompts.x_query)
        return 0.5 * jnp.mean(jnp.sum((y_hat - prompts.y_query) ** 2, axis=-1))

    @jax.jit
    def step(params: Any, opt_state: Any, key: Any) -> Any:
        gradient = jax.grad(loss)(params, key)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    params = models.init(row.model, jax.random.key(0))
    held, key = [(params, optimizer.init(params))], jax.random.key(1)

    def run() -> None:
        held[0] = step(*held[0], key)
        jax.block_until_ready(held[0])

    run()
    return run


def seconds(run: Callable[[], None], times: int = 1) -> float:
    began = time.perf_counter()
    for _ in range(times):
        run()
    return (time.perf_counter() - began) / times


def drawing(row: Row) -> Callable[[], None]:
    """Draws a step's random numbers, and does nothing with them; DRAWS batches at each call."""
    d, n = D_INPUT, row.n_context
    count = min(n, d) * (min(n, d) + 1) // 2 + max(d - n, 0) * n + d if row.sampler == "gram" else (n + 1) * d
    count += d  # the weights
    placement = mesh.place("auto", row.members, row.batch_size, row.share_batches)
    spread = placement.constrain if placement.mode == "jit" and row.batches == 1 else lambda batch: batch
    one = lambda key: spread(jax.random.bits(key, (count, row.batch_size)))
    another = lambda key: lambda bits, i: (one(jax.random.fold_in(key, i)), None)
    draw = jax.jit(lambda key: jax.lax.scan(another(key), one(key), jnp.arange(DRAWS - 1))[0])

    def run() -> None:
        jax.block_until_ready(draw(jax.random.key(0)))

    run()
    return run


def multiplications(row: Row) -> float:
    """The least of a step in the moment form, forward and twice as many backward, besides drawing.

    A batch: the moments, of which half are distinct. A member and prompt: below the last layer four products of e x e
    matrices, in the last layer, whose query slot alone is read, two of a matrix with a vector.
    """
    forming = row.batch_size * row.n_context * E * (E + 1) / 2 if row.sampler == "tokens" else 0.0
    deep = row.n_layers > 1  # a single layer's data need no gradient
    network = 12 * (row.n_layers - 1) * E**3 + (6 if deep else 4) * E**2
    return row.batches * forming + row.members * row.batch_size * network


def matrix_peak(size: int, rounds: int) -> float:
    """Multiply-adds a second of one large float32 product."""
    a = jnp.ones((size, size))
    product = jax.jit(lambda a: a @ a)
    run = lambda: jax.block_until_ready(product(a))
    run()
    return size**3 / min(seconds(run) for _ in range(rounds))


def measure(row: Row, effort: Effort, peak: float, plain: Callable[[], None] | None) -> dict[str, Any]:
    """Times a row, its sampling, its random numbers and the yardstick in turns, and takes the least of each."""
    draw, loss = problem(row)
    # A guess, good to a factor of three, so that one timing takes about `seconds_each`.
    network = 1e-3 + row.members * ((row.n_layers - 1) * 4e-3 + 1e-4)
    guess = network + row.batches * (1e-3 + 2e-4 * row.n_context)
    steps = max(1, round(effort.seconds_each / guess))
    # For any N the same: a loop of one step is none to the compiler, which then keeps no batch apart from its uses.
    alone = max(2, round(effort.seconds_each / network))
    init = lambda key, of_model: models.init(row.model, key)
    placement = mesh.place("auto", row.members, row.batch_size, row.share_batches)
    runs = {
        "milliseconds_per_step": (stepper(row, draw, loss, init, steps), steps),
        "sampling_milliseconds": (stepper(row, *only_drawing(draw), lambda key, scale: jnp.ones(()), steps), steps),
        "without_sampling_milliseconds": (stepper(row, drawn_once(draw), loss, init, alone), alone),
        # Batches of members' own are drawn side by side.
        "drawing": (drawing(row), DRAWS * (placement.member if row.batches > 1 else 1) / row.batches),
    }
    if row.n_context == 1000:  # beside the same at N = 100, of which it should be no more
        at_100 = drawn_once(problem(row._replace(n_context=100))[0])
        runs["without_sampling_at_100_milliseconds"] = (stepper(row, at_100, loss, init, alone), alone)
    if plain is not None:
        runs["yardstick_milliseconds"] = (plain, 1)
    least = dict.fromkeys(runs, math.inf)
    for _ in range(effort.rounds if guess < 4 * effort.seconds_each else 1):
        for name, (run, each) in runs.items():
            least[name] = min(least[name], 1e3 * seconds(run) / each)
    work = multiplications(row)
    floor = least.pop("drawing") + 1e3 * work / peak
    found = {**row._asdict(), "yardstick_milliseconds": None, **least, "floor_milliseconds": floor}
    found["fraction_of_peak"] = 1e3 * work / peak / found["milliseconds_per_step"]
    return found | {"device": f"{jax.device_count()} x {jax.devices()[0].device_kind}, JAX {jax.__version__}"}


def measured(chosen: list[Row], effort: Effort) -> Iterator[dict[str, Any]]:
    peak, plain = matrix_peak(effort.matrix, effort.rounds), {}
    for row in chosen:
        size = row.n_layers, row.n_context
        if size not in plain and row.n_context <= 100:  # scores of 1,000 tokens do not fit the memory
            plain[size] = yardstick(row._replace(inputs="uniform"))
        yield measure(row, effort, peak, plain.get(size))


def speedup(found: dict[str, Any]) -> float | None:
    """How many times less a member's step takes than one of the published code; None where that was not timed."""
    share, plain = PUBLISHED.get((found["n_layers"], found["n_context"])), found["yardstick_milliseconds"]
    return share and plain and share * plain * found["members"] / found["milliseconds_per_step"]


def times_the_floor(found: dict[str, Any]) -> float:
    """How many times longer a step takes than no step can take less."""
    return found["milliseconds_per_step"] / found["floor_milliseconds"]


def growth(found: dict[str, Any]) -> float:
    """By which part of itself the step without its sampling grows from N = 100 to N = 1000."""
    return found["without_sampling_milliseconds"] / found["without_sampling_at_100_milliseconds"] - 1


class Target(NamedTuple):
    """What is asked of a row: that its figure is at least (≥) or at most (≤) so much."""

    what: str
    row: Row
    figure: Callable[[dict[str, Any]], float | None]
    relation: str
    asked: float

    def line(self, found: dict[str, Any]) -> str:
        """Its line of a Markdown table."""
        figure = self.figure(found)
        if figure is None:
            raise ValueError(f"{self.what}: the row has no such figure: {found}")
        holds = figure >= self.asked if self.relation == "≥" else figure <= self.asked
        cells = (self.what, f"{self.relation} {self.asked:g}", f"{figure:.3g}", "yes" if holds else "no")
        return f"| {' | '.join(cells)} |"


# First what holds from one processor to the next.
TARGETS = [
    Target("one layer, 32 members sharing batches: times the floor", Row(1, 10, 32, True), times_the_floor, "≤", 3.0),
    Target(
        "five layers, from N = 100 to N = 1000: growth of the step without its sampling",
        Row(5, 1000, 1, False),
        growth,
        "≤",
        0.10,
    ),
    Target("one layer, one member: times faster than the published code", Row(1, 10, 1, False), speedup, "≥", 4.0),
    Target("one layer, 10 members sharing batches: times faster per member", Row(1, 10, 10, True), speedup, "≥", 30.0),
    Target("one layer, 32 members sharing batches: times faster per member", Row(1, 10, 32, True), speedup, "≥", 100.0),
    Target("five layers, N = 10: times faster than the published code", Row(5, 10, 1, False), speedup, "≥", 2.0),
    Target("five layers, N = 100: times faster than the published code", Row(5, 100, 1, False), speedup, "≥", 20.0),
]


def row_of(found: dict[str, Any]) -> Row:
    """The setting that was measured."""
    return Row(**{name: found[name] for name in Row._fields if name in found})


def targets(found: list[dict[str, Any]]) -> list[str]:
    """The targets of the rows that were measured, as a Markdown table; nothing where there are none."""
    by_row = {row_of(row)._replace(batch_size=BATCH): row for row in found}
    lines = [target.line(by_row[target.row]) for target in TARGETS if target.row in by_row]
    return ["\n".join(["| target | asked | reached | holds |", "|---|---|---|---|", *lines])] if lines else []


def table(found: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    head = (
        "layers",
        "N",
        "members",
        "batches",
        "form",
        "inputs",
        "sampler",
        "step / ms",
        "times the floor",
        "of it sampling",
        "without it",
        "fraction of peak",
        "yardstick",
        "faster per member than published",
    )
    lines = [head, ("---",) * len(head)]
    for row in found:
        batches = "shared" if row["share_batches"] else "own"
        setting = (
            row["n_layers"],
            row["n_context"],
            row["members"],
            batches,
            row["form"],
            row["inputs"],
            row["sampler"],
        )
        figures = (
            row["milliseconds_per_step"],
            times_the_floor(row),
            row["sampling_milliseconds"],
            row["without_sampling_milliseconds"],
            row["fraction_of_peak"],
            row["yardstick_milliseconds"],
            speedup(row),
        )
        lines.append((*map(str, setting), *("" if figure is None else f"{figure:.3g}" for figure in figures)))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = pages.parser(__doc__)
    parser.add_argument("--rows", default="", help="FIELD=VALUE,...: only the rows with these settings")
    parser.add_argument("--read", type=Path, help="take what an earlier --json printed")
    options = pages.parse(parser)
    asked = dict(word.partition("=")[::2] for word in options.rows.split(",") if word)
    if unknown := set(asked) - set(Row._fields):
        parser.error(f"--rows: no such field {', '.join(unknown)}; accepted: {', '.join(Row._fields)}")
    if asked and options.write:
        parser.error("--rows with --write: the page has the table of all rows; leave out one of the two")
    if options.read and options.smoke:
        parser.error("--read with --smoke: what was measured has its sizes already; leave out one of the two")

    def chosen(row: Row) -> bool:
        return all(str(getattr(row, name)) == value for name, value in asked.items())

    if options.read:
        found = [row for row in json.loads(options.read.read_text()) if chosen(row_of(row))]
        if options.write and any(row_of(row).batch_size != BATCH for row in found):
            parser.error(f"--read={options.read} with --write: these are rows of --smoke; measure without it")
    else:
        settings = list(filter(chosen, SMOKE_ROWS if options.smoke else rows()))
        mesh.use_cpu_cores()
        timings = measured(settings, SMOKE if options.smoke else Effort())
        found = list(tqdm(timings, total=len(settings), unit="row", file=sys.stderr))
    if not found:
        parser.error(f"--rows={options.rows}: no row has these settings; accepted are those of {pages.README}")
    text = "\n\n".join([f"Measured on {found[0]['device']}.", *targets(found), table(found)])
    pages.report(options, found, {"training": text})


if __name__ == "__main__":
    main()
