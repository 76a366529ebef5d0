"""Compares the time of a training step with that of a plain token-by-token step, and with a lower bound.

    python benchmarks/training.py [--json] [--rows=FIELD=VALUE,...] [--read=FILE] [--write | --smoke]

The plain step is the yardstick: it trains the same network as published implementations do, token by token, on prompts
sampled one by one, one member and one step at a time. Every row of the table is timed alternately with the yardstick.
Compilation is not counted.

By default, tables with ratios are printed. --json prints the rows as one list and nothing else. --write replaces the
tables in benchmarks/README.md. --rows=n_layers=5,members=1 selects the rows with these settings. --read=FILE uses the
output of an earlier --json instead of measuring.

This also runs on a GPU. It takes about 15 minutes on two CPU cores, on which nothing else should run.
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
# Time of a step of the published code divided by that of the yardstick, by (n_layers, n_context), on two CPU cores.
PUBLISHED = {(1, 10): 0.93, (5, 10): 0.93, (5, 100): 0.84}
DRAWS = 4  # batches of random numbers per timing


class Effort(NamedTuple):
    """Lengths of the timings.

    Attributes:
      seconds_each: approximate length of one timing.
      rounds: number of timings; the minimum counts.
      matrix: size of the matrix product that measures peak throughput.
    """

    seconds_each: float = 0.15
    rounds: int = 3
    matrix: int = 2048


SMOKE = Effort(0.0, 1, 64)


class Row(NamedTuple):
    """One setting of a training step.

    Attributes:
      n_layers: number of recurrent layers.
      n_context: examples per prompt.
      members: size of the population.
      share_batches: whether all members train on the same batches.
      form: "gram" or "tokens", the form in which the network is computed.
      inputs: distribution of the inputs.
      sampler: "tokens" draws the tokens; "gram" draws their second moments directly.
      batch_size: prompts per batch.
    """

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
        """Number of batches drawn per step."""
        return 1 if self.share_batches else self.members


def rows() -> list[Row]:
    """All rows of the table."""
    populations = [(1, False), (10, True), (10, False), (32, True), (32, False)]  # members, share_batches
    layers, contexts = (1, 5), (10, 100, 1000)
    gram = [Row(depth, n, *population) for depth in layers for n in contexts for population in populations]
    tokens = [Row(depth, n, 1, False, "tokens") for depth in layers for n in (10, 100)]
    normal = [
        Row(depth, n, 1, False, "gram", "normal", sampler)
        for depth in layers
        for n in contexts
        for sampler in ("tokens", "gram")
    ]
    return gram + tokens + normal


SMOKE_ROWS = [Row(1, 10, 32, True, batch_size=8), Row(5, 1000, 1, False, batch_size=8)]


def problem(row: Row) -> tuple[Callable, Callable]:
    """The functions `draw` and `loss` of a row, which `population.make_chunk` takes."""
    draw, loss = learning_problem(row.task, row.model, concatenated(D_INPUT, 1), row.settings)

    def draw_gram(key: Array, step: Array) -> tuple[Gram, Array]:
        return row.task.sample_gram(key, row.batch_size, direct=row.sampler == "gram")

    return draw_gram if row.form == "gram" else draw, loss


def only_drawing(batch_of: Callable) -> tuple[Callable, Callable]:
    """A `draw` and `loss` that only draw: the network has one weight, and its gradient is zero."""

    def touch(params: Array, batch: Any) -> Array:
        return 0 * params * sum(jnp.sum(leaf.reshape(-1)[0]) for leaf in jax.tree.leaves(batch))

    return batch_of, touch


def drawn_once(draw: Callable) -> Callable:
    """A `draw` that returns the same batch at every step."""
    batch = jax.jit(draw)(jax.random.key(0), 0)
    return lambda key, step: batch


def stepper(row: Row, draw: Callable, loss: Callable, init: Callable, steps: int) -> Callable[[], None]:
    """Returns a function that trains for `steps` steps per call, from where the last call ended.

    Args:
      row: the setting.
      draw, loss: draw a batch, and compute the loss on it.
      init: initial parameters of a member, from a key and the member's hyperparameters.
      steps: steps per call.

    Returns:
      The function, already compiled.
    """
    placement = mesh.place("auto", row.members, row.batch_size, row.share_batches)
    chunk = population.make_chunk(draw, loss, row.settings, placement, side_by_side=row.n_layers == 1)
    members = population.member_specs(0, row.members, row.settings, {})
    state = population.start(init, row.settings, members)
    state = population.PopulationState(placement.device_put(state.member), placement.device_put(state.step, mesh.ALL))
    members = placement.device_put(members)

    def run() -> None:
        nonlocal state
        state, losses = chunk(state, members, steps)
        jax.block_until_ready(losses)

    run()
    return run


def yardstick(row: Row) -> Callable[[], None]:
    """Returns a function that takes one plain step per call.

    Prompts are sampled by `vmap` over keys, every layer processes every token, and a step is one program.
    """
    optimizer = row.settings.transformation(population.MemberHyperparams(1e-3, 1e-3, 0.9, 0.98, 0.0, 0.0))

    def loss(params: Any, key: Any) -> Any:
        prompts = jax.vmap(row.task.sample)(jax.random.split(key, row.batch_size))
        predictor = models.predictor(row.model, params, concatenated(D_INPUT, 1))
        y_hat = jax.vmap(predictor)(prompts.x, prompts.y, prompts.x_query)
        return 0.5 * jnp.mean(jnp.sum((y_hat - prompts.y_query) ** 2, axis=-1))

    @jax.jit
    def step(params: Any, opt_state: Any, key: Any) -> Any:
        gradient = jax.grad(loss)(params, key)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    params, key = models.init(row.model, jax.random.key(0)), jax.random.key(1)
    state = params, optimizer.init(params)

    def run() -> None:
        nonlocal state
        state = step(*state, key)
        jax.block_until_ready(state)

    run()
    return run


def seconds(run: Callable[[], None], times: int = 1) -> float:
    """Mean seconds per call."""
    began = time.perf_counter()
    for _ in range(times):
        run()
    return (time.perf_counter() - began) / times


def drawing(row: Row) -> Callable[[], None]:
    """Returns a function that draws the random numbers of DRAWS batches per call, and does nothing else."""
    d, n = D_INPUT, row.n_context
    if row.sampler == "gram":  # a triangular Bartlett factor and the query
        rank = min(n, d)
        count = rank * (rank + 1) // 2 + max(d - n, 0) * n + d
    else:
        count = (n + 1) * d
    count += d  # the weights
    placement = mesh.place("auto", row.members, row.batch_size, row.share_batches)
    is_sharded = placement.mode == "jit" and row.batches == 1

    def draw_one(key: Array) -> Array:
        bits = jax.random.bits(key, (count, row.batch_size))
        return placement.constrain(bits) if is_sharded else bits

    @jax.jit
    def draw(key: Array) -> Array:
        def next_draw(bits: Array, i: Array) -> tuple[Array, None]:
            return draw_one(jax.random.fold_in(key, i)), None

        return jax.lax.scan(next_draw, draw_one(key), jnp.arange(DRAWS - 1))[0]

    def run() -> None:
        jax.block_until_ready(draw(jax.random.key(0)))

    run()
    return run


def multiplications(row: Row) -> float:
    """Minimum number of multiplications of a training step in Gram form, without drawing random numbers.

    * Per batch: the Gram matrix of every prompt, which is symmetric.
    * Per member and prompt, in the forward pass: four products of e x e matrices in every layer but the last; two
      products of a matrix and a vector in the last layer, where only the output of the query is needed.
    * The backward pass takes twice the multiplications of the forward pass.
    """
    forming = row.batch_size * row.n_context * E * (E + 1) / 2 if row.sampler == "tokens" else 0.0
    # If there is one layer, no gradient with respect to its input is needed.
    last_layer = (4 if row.n_layers == 1 else 6) * E**2
    network = 12 * (row.n_layers - 1) * E**3 + last_layer
    return row.batches * forming + row.members * row.batch_size * network


def matrix_peak(size: int, rounds: int) -> float:
    """Multiply-adds per second of one large float32 matrix product."""
    a = jnp.ones((size, size))
    product = jax.jit(lambda a: a @ a)

    def run() -> None:
        jax.block_until_ready(product(a))

    run()
    return size**3 / min(seconds(run) for _ in range(rounds))


def measure(row: Row, effort: Effort, peak: float, plain: Callable[[], None] | None) -> dict[str, Any]:
    """Times a row, its sampling, its random numbers and the yardstick alternately.

    Args:
      row: the setting.
      effort: lengths of the timings.
      peak: multiply-adds per second of the machine.
      plain: the yardstick. None: there is no yardstick for this row.

    Returns:
      The setting and the minimum of each timing, in milliseconds per step.
    """
    draw, loss = problem(row)
    # Estimated seconds of a step, within a factor of three, so that one timing takes about `seconds_each`.
    network = 1e-3 + row.members * ((row.n_layers - 1) * 4e-3 + 1e-4)
    guess = network + row.batches * (1e-3 + 2e-4 * row.n_context)
    steps = max(1, round(effort.seconds_each / guess))
    # Steps without sampling. Their time does not depend on N. At least 2, because XLA unrolls a loop of one step and
    # then fuses the batch into each of its uses.
    network_steps = max(2, round(effort.seconds_each / network))

    def init(key: Array, hyperparams: Any) -> Any:
        return models.init(row.model, key)

    placement = mesh.place("auto", row.members, row.batch_size, row.share_batches)
    runs = {
        "milliseconds_per_step": (stepper(row, draw, loss, init, steps), steps),
        "sampling_milliseconds": (stepper(row, *only_drawing(draw), lambda key, scale: jnp.ones(()), steps), steps),
        "without_sampling_milliseconds": (stepper(row, drawn_once(draw), loss, init, network_steps), network_steps),
        # A step draws `row.batches` batches. If members have their own batches, devices draw in parallel.
        "drawing": (drawing(row), DRAWS * (placement.member if row.batches > 1 else 1) / row.batches),
    }
    if row.n_context == 1000:  # for the target that the cost of the network does not depend on N
        at_100 = drawn_once(problem(row._replace(n_context=100))[0])
        runs["without_sampling_at_100_milliseconds"] = (stepper(row, at_100, loss, init, network_steps), network_steps)
    if plain is not None:
        runs["yardstick_milliseconds"] = (plain, 1)
    least = dict.fromkeys(runs, math.inf)
    for _ in range(effort.rounds if guess < 4 * effort.seconds_each else 1):
        for name, (run, n_steps) in runs.items():
            least[name] = min(least[name], 1e3 * seconds(run) / n_steps)
    work = multiplications(row)
    floor = least.pop("drawing") + 1e3 * work / peak
    record = {**row._asdict(), "yardstick_milliseconds": None, **least, "floor_milliseconds": floor}
    record["fraction_of_peak"] = 1e3 * work / peak / record["milliseconds_per_step"]
    return record | {"device": f"{jax.device_count()} x {jax.devices()[0].device_kind}, JAX {jax.__version__}"}


def measured(chosen: list[Row], effort: Effort) -> Iterator[dict[str, Any]]:
    """Measures rows one after another. Rows with equal n_layers and n_context share a yardstick."""
    peak, plain = matrix_peak(effort.matrix, effort.rounds), {}
    for row in chosen:
        size = row.n_layers, row.n_context
        if size not in plain and row.n_context <= 100:  # the scores of 1,000 tokens exceed memory
            plain[size] = yardstick(row._replace(inputs="uniform"))
        yield measure(row, effort, peak, plain.get(size))


def speedup(record: dict[str, Any]) -> float | None:
    """Time of a step of the published code divided by the time of a step per member; None if the former is unknown."""
    share, plain = PUBLISHED.get((record["n_layers"], record["n_context"])), record["yardstick_milliseconds"]
    if share is None or plain is None:
        return None
    return share * plain * record["members"] / record["milliseconds_per_step"]


def times_the_floor(record: dict[str, Any]) -> float:
    """Time of a step divided by its lower bound."""
    return record["milliseconds_per_step"] / record["floor_milliseconds"]


def growth(record: dict[str, Any]) -> float:
    """Relative growth of the time of a step without sampling, from N = 100 to N = 1000."""
    return record["without_sampling_milliseconds"] / record["without_sampling_at_100_milliseconds"] - 1


class Target(NamedTuple):
    """A target for one row.

    Attributes:
      what: description of the target.
      row: the setting.
      figure: computes the value from the measured row.
      relation: "≥" if the value must be at least the bound, "≤" if at most.
      bound: the bound.
    """

    what: str
    row: Row
    figure: Callable[[dict[str, Any]], float | None]
    relation: str
    bound: float

    def line(self, record: dict[str, Any]) -> str:
        """The target and the measured value as a line of a Markdown table.

        Raises:
          ValueError: if the value was not measured.
        """
        figure = self.figure(record)
        if figure is None:
            raise ValueError(f"{self.what}: the row lacks a measurement: {record}")
        reached = figure >= self.bound if self.relation == "≥" else figure <= self.bound
        cells = (self.what, f"{self.relation} {self.bound:g}", f"{figure:.3g}", "yes" if reached else "no")
        return f"| {' | '.join(cells)} |"


# The targets that do not depend on the processor come first.
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


def row_of(record: dict[str, Any]) -> Row:
    """The setting of a measured row."""
    return Row(**{name: record[name] for name in Row._fields if name in record})


def targets(records: list[dict[str, Any]]) -> list[str]:
    """A list with a Markdown table of the targets of the measured rows. Empty if the rows have no target."""
    by_row = {row_of(record)._replace(batch_size=BATCH): record for record in records}
    lines = [target.line(by_row[target.row]) for target in TARGETS if target.row in by_row]
    return ["\n".join(["| target | bound | measured | reached |", "|---|---|---|---|", *lines])] if lines else []


def table(records: list[dict[str, Any]]) -> str:
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
        "sampling / ms",
        "without sampling / ms",
        "fraction of peak",
        "yardstick / ms",
        "times faster per member than published",
    )
    lines = [head, ("---",) * len(head)]
    for row in records:
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
    parser.add_argument("--rows", default="", help="FIELD=VALUE,...: measure only the rows with these settings")
    parser.add_argument("--read", type=Path, help="use the output of an earlier --json instead of measuring")
    options = pages.parse(parser)
    selection: dict[str, str] = {}
    for word in options.rows.split(","):
        if word:
            name, _, value = word.partition("=")
            selection[name] = value
    if unknown := set(selection) - set(Row._fields):
        parser.error(f"--rows: unknown field {', '.join(sorted(unknown))}; use {', '.join(Row._fields)}")
    if selection and options.write:
        parser.error(
            "--rows with --write: the page shows all rows, so selected rows are not written; use one of the two options"
        )
    if options.read and options.smoke:
        parser.error("--read with --smoke: rows of a file are not measured again; use one of the two options")

    def is_selected(row: Row) -> bool:
        return all(str(getattr(row, name)) == value for name, value in selection.items())

    if options.read:
        records = [record for record in json.loads(options.read.read_text()) if is_selected(row_of(record))]
        if options.write and any(row_of(record).batch_size != BATCH for record in records):
            parser.error(
                f"--read={options.read} with --write: the file has rows of a smoke run; measure without --smoke"
            )
    else:
        settings = [row for row in (SMOKE_ROWS if options.smoke else rows()) if is_selected(row)]
        mesh.use_cpu_cores()
        timings = measured(settings, SMOKE if options.smoke else Effort())
        records = list(tqdm(timings, total=len(settings), unit="row", file=sys.stderr))
    if not records:
        parser.error(f"--rows={options.rows}: no row has these settings; use settings in the table of {pages.README}")
    text = "\n\n".join([f"Measured on {records[0]['device']}.", *targets(records), table(records)])
    pages.report(options, records, {"training": text})


if __name__ == "__main__":
    main()
