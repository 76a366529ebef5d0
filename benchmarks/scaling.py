"""Estimates the cost of a large population on many devices from the measured cost of one device's share.

    python benchmarks/scaling.py [--members=10000] [--devices=64] [--steps=5000] [--json] [--write | --smoke]

The share of a device consists of the members and prompts that `train.parallel=auto` assigns to it. One share is trained
on one device of this machine, a GPU if there is one, and its time and memory are measured. The other numbers are
computed from the sizes of its arrays. --write replaces the table in docs/scaling.md.
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
from icl_gd.training.mesh import Placement
from icl_gd.training.problem import learning_problem
from icl_gd.trees import flatten
from icl_gd.types import Array

TASK, MODEL = LinearRegression(), TransformerConfig(11)
PAGE = Path(__file__).parents[1] / "docs" / "scaling.md"


class Sweep(NamedTuple):
    """A population, and how the share of one device is timed.

    Attributes:
      members, devices: number of members, and of devices that train them.
      steps, batch_size: training steps, and prompts per batch.
      chunk: steps per timing.
      times: number of timings; the minimum counts.
    """

    members: int = 10_000
    devices: int = 64
    steps: int = 5_000
    batch_size: int = 2048
    chunk: int = 10
    times: int = 3


SMOKE = Sweep(members=8, devices=4, steps=10, batch_size=8, chunk=2, times=1)


def share_of_one_device(sweep: Sweep, members: int, batch_size: int, share_batches: bool) -> dict[str, float]:
    """Times the share of one device, and measures its memory.

    Args:
      sweep: the whole population.
      members, batch_size: number of members, and of prompts per batch, on this device.
      share_batches: whether all members train on the same batches.

    Returns:
      Milliseconds per step, bytes of all arrays on the device, of a checkpoint of its members, and of their gradients.
    """
    settings = TrainSettings(batch_size=batch_size, share_batches=share_batches)
    layout = concatenated(TASK.d_input, TASK.d_output)
    # Without shared batches, every device draws the whole batch and uses a part of it.
    drawn = settings if share_batches else replace(settings, batch_size=sweep.batch_size)
    draw_all, loss = learning_problem(TASK, MODEL, layout, drawn)

    def draw(key: Array, step: Array) -> Any:
        return jax.tree.map(lambda leaf: leaf[..., :batch_size], draw_all(key, step))

    chunk = population.make_chunk(draw, loss, settings, Placement())
    state, keys = (
        in_context.initialise(MODEL, settings, 0, members),
        population.member_specs(0, members, settings, MODEL.per_member),
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
    device_bytes = memory.argument_size_in_bytes + memory.temp_size_in_bytes + memory.output_size_in_bytes
    device_bytes -= memory.alias_size_in_bytes  # the state is updated in place
    return {
        "milliseconds_per_step": 1e3 * min(times[1:]) / sweep.chunk,
        "device_bytes": float(device_bytes),
        "checkpoint_bytes": float(checkpoint),
        "gradient_bytes": float(weights),
    }


def plan(sweep: Sweep, share_batches: bool) -> dict[str, Any]:
    """The cost of the whole population, by row name of the table.

    Args:
      sweep: the population.
      share_batches: whether all members train on the same batches.
    """
    placement = mesh.place("auto", sweep.members, sweep.batch_size, share_batches, sweep.devices)
    members, prompts = sweep.members // placement.member, sweep.batch_size // placement.data
    share = share_of_one_device(sweep, members, prompts, share_batches)
    # A ring all-reduce over k devices sends 2 (k - 1)/k times the gradients from every device.
    sent = 2 * (1 - 1 / placement.data) * share["gradient_bytes"]
    return {
        "share_batches": share_batches,
        "mesh": f"{placement.member} x {placement.data}",
        "devices used": placement.member * placement.data,
        "members per device": members,
        "prompts per device and member": prompts,
        "memory per device / MiB": share["device_bytes"] / 2**20,
        "communication per device and step / MiB": sent / 2**20,
        "checkpoint / MiB": share["checkpoint_bytes"] * placement.member / 2**20,
        "milliseconds per step": share["milliseconds_per_step"],
        "microseconds per step and member": 1e3 * share["milliseconds_per_step"] / members,
        f"hours for {sweep.steps:,} steps, without communication": share["milliseconds_per_step"] * sweep.steps / 3.6e6,
    }


def table(plans: list[dict[str, Any]]) -> str:
    """A Markdown table with one column per plan."""

    def cell(value: Any) -> str:
        if isinstance(value, str):
            return value
        return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"

    titles = ["shared batches" if plan["share_batches"] else "own batches" for plan in plans]
    lines = [f"| | {' | '.join(titles)} |", "|---" * (len(plans) + 1) + "|"]
    for name in plans[0]:
        if name != "share_batches":
            lines.append(f"| {name} | {' | '.join(cell(plan[name]) for plan in plans)} |")
    return "\n".join(lines)


def main() -> None:
    parser = pages.parser(__doc__, PAGE)
    for name in ("members", "devices", "steps"):
        parser.add_argument(f"--{name}", type=int, help=f"Default: {getattr(Sweep(), name):,}")
    options = pages.parse(parser)
    sweep = SMOKE if options.smoke else Sweep()
    for name in ("members", "devices", "steps"):
        if getattr(options, name) is not None:
            sweep = sweep._replace(**{name: getattr(options, name)})
    plans = [plan(sweep, share_batches) for share_batches in (True, False)]
    device = f"one device of {jax.devices()[0].device_kind}, JAX {jax.__version__}"
    text = (
        f"{sweep.members:,} members of `one_layer` (batch {sweep.batch_size}, N = {TASK.n_context}) over "
        f"{sweep.devices} devices; times measured on {device}.\n\n{table(plans)}"
    )
    pages.report(options, plans, {"plan": text}, PAGE)


if __name__ == "__main__":
    main()
