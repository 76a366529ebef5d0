"""Plans a large population over many devices, from what one device's share of it costs here.

    python benchmarks/scaling.py [--members=10000] [--devices=64] [--steps=5000] [--json] [--write | --smoke]

One device's share, as many members and prompts as `train.parallel=auto` would give it, is built and timed on one
device of this machine; the rest is arithmetic on the sizes of its arrays. --write puts the table into docs/scaling.md.
On a GPU node it times the GPU.
"""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import pages  # beside this script

from icl_gd import LinearRegression, TrainSettings, TransformerConfig
from icl_gd.tokens import concatenated
from icl_gd.training import in_context, mesh, population
from icl_gd.training.checkpoint import flatten
from icl_gd.training.mesh import Placement
from icl_gd.training.problem import learning_problem
from icl_gd.types import Array

TASK, MODEL = LinearRegression(), TransformerConfig(11)
PAGE = Path(__file__).parents[1] / "docs" / "scaling.md"


class Sweep(NamedTuple):
    """A population to plan, and how it is timed: so many times a chunk of steps."""

    members: int = 10_000
    devices: int = 64
    steps: int = 5_000
    batch_size: int = 2048
    chunk: int = 10
    times: int = 3


SMOKE = Sweep(members=8, devices=4, steps=10, batch_size=8, chunk=2, times=1)


def share_of_one_device(sweep: Sweep, members: int, batch_size: int, share_batches: bool) -> dict[str, float]:
    """Milliseconds a step, and bytes, of what one device does: so many members, and so many prompts of a batch."""
    settings = TrainSettings(batch_size=batch_size, share_batches=share_batches)
    layout = concatenated(TASK.d_input, TASK.d_output)
    # Of own batches each device draws the whole.
    drawn = settings if share_batches else replace(settings, batch_size=sweep.batch_size)
    draw_all, loss = learning_problem(TASK, MODEL, layout, drawn)

    def draw(key: Array, step: Array) -> Any:
        return jax.tree.map(lambda leaf: leaf[..., :batch_size], draw_all(key, step))

    chunk = population.make_chunk(draw, loss, settings, Placement())
    state, keys = (
        in_context.initialise(MODEL, settings, 0, members),
        population.members_of(0, members, settings, MODEL.per_member),
    )
    compiled = chunk.lower(state, keys, n_steps=sweep.chunk).compile()
    memory = compiled.memory_analysis()
    checkpoint = sum(leaf.nbytes for leaf in flatten(state).values())
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(state.member.params))
    times = []
    for _ in range(1 + sweep.times):
        began = time.perf_counter()
        state, losses = compiled(state, keys)
        jax.block_until_ready(losses)
        times.append(time.perf_counter() - began)
    held = memory.argument_size_in_bytes + memory.temp_size_in_bytes + memory.output_size_in_bytes
    held -= memory.alias_size_in_bytes  # a state is updated in place
    return {
        "milliseconds_per_step": 1e3 * min(times[1:]) / sweep.chunk,
        "device_bytes": float(held),
        "checkpoint_bytes": float(checkpoint),
        "gradient_bytes": float(weights),
    }


def plan(sweep: Sweep, share_batches: bool) -> dict[str, Any]:
    """What the whole costs."""
    placement = mesh.place("auto", sweep.members, sweep.batch_size, share_batches, sweep.devices)
    each, prompts = sweep.members // placement.member, sweep.batch_size // placement.data
    found = share_of_one_device(sweep, each, prompts, share_batches)
    # A ring all-reduce among the devices that share a batch sends twice the gradients, less one part in each round.
    sent = 2 * (1 - 1 / placement.data) * found["gradient_bytes"]
    return {
        "share_batches": share_batches,
        "mesh": f"{placement.member} x {placement.data}",
        "devices used": placement.member * placement.data,
        "members per device": each,
        "prompts per device and member": prompts,
        "memory per device / MiB": found["device_bytes"] / 2**20,
        "communication per device and step / MiB": sent / 2**20,
        "checkpoint / MiB": found["checkpoint_bytes"] * placement.member / 2**20,
        "milliseconds per step": found["milliseconds_per_step"],
        "microseconds per step and member": 1e3 * found["milliseconds_per_step"] / each,
        f"hours for {sweep.steps:,} steps, without communication": found["milliseconds_per_step"] * sweep.steps / 3.6e6,
    }


def table(plans: list[dict[str, Any]]) -> str:
    """Plans as columns of a Markdown table."""

    def number(value: Any) -> str:
        return value if isinstance(value, str) else f"{value:,}" if isinstance(value, int) else f"{value:.3g}"

    head = ["| | " + " | ".join("shared batches" if plan["share_batches"] else "own batches" for plan in plans) + " |"]
    head.append("|---" * (len(plans) + 1) + "|")
    names = [name for name in plans[0] if name != "share_batches"]
    return "\n".join(
        head + [f"| {name} | " + " | ".join(number(plan[name]) for plan in plans) + " |" for name in names]
    )


def main() -> None:
    parser = pages.parser(__doc__, PAGE)
    for name in ("members", "devices", "steps"):
        parser.add_argument(f"--{name}", type=int, help=f"{getattr(Sweep(), name):,} when left out")
    options = pages.parse(parser)
    asked = {name: getattr(options, name) for name in ("members", "devices", "steps")}
    sweep = (SMOKE if options.smoke else Sweep())._replace(**{name: n for name, n in asked.items() if n is not None})
    plans = [plan(sweep, share_batches) for share_batches in (True, False)]
    device = f"one device of {jax.devices()[0].device_kind}, JAX {jax.__version__}"
    text = (
        f"{sweep.members:,} members of `one_layer` (batch {sweep.batch_size}, N = {TASK.n_context}) over "
        f"{sweep.devices} devices; times measured on {device}.\n\n{table(plans)}"
    )
    pages.report(options, plans, {"plan": text}, PAGE)


if __name__ == "__main__":
    main()
