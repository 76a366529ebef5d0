"""Plans a large population over many devices, from what one device's share of it costs here.

    python benchmarks/scaling.py [--members=10000] [--devices=64] [--steps=5000] [--json] [--write]

One device's share, as many members and prompts as `train.parallel=auto` would give it, is built and timed on one
device of this machine; the rest is arithmetic on the sizes of its arrays. --write puts the table into docs/scaling.md.
On a GPU node it times the GPU.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax

from icl_gd import LinearRegression, TrainSettings, TransformerConfig
from icl_gd.tokens import concatenated
from icl_gd.training import in_context, mesh, population
from icl_gd.training.checkpoint import flatten
from icl_gd.training.mesh import Placement
from icl_gd.training.problem import learning_problem
from icl_gd.types import Array

TASK, MODEL, BATCH = LinearRegression(), TransformerConfig(11), 2048
CHUNK = 10  # steps of a timing
PAGE = Path(__file__).parents[1] / "docs" / "scaling.md"


def share_of_one_device(members: int, batch_size: int, share_batches: bool) -> dict[str, float]:
    """Milliseconds a step, and bytes, of what one device does."""
    settings = TrainSettings(batch_size=batch_size, share_batches=share_batches)
    layout = concatenated(TASK.d_input, TASK.d_output)
    drawn = settings if share_batches else replace(settings, batch_size=BATCH)  # then each device draws whole batches
    draw_all, loss = learning_problem(TASK, MODEL, layout, drawn)

    def draw(key: Array, step: Array) -> Any:
        return jax.tree.map(lambda leaf: leaf[..., :batch_size], draw_all(key, step))

    chunk = population.make_chunk(draw, loss, settings, Placement())
    state, keys = (
        in_context.initialise(MODEL, settings, 0, members),
        population.members_of(0, members, settings, MODEL.varied),
    )
    compiled = chunk.lower(state, keys, n_steps=CHUNK).compile()
    memory = compiled.memory_analysis()
    checkpoint = sum(leaf.nbytes for leaf in flatten(state).values())
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(state.member.params))
    times = []
    for _ in range(4):
        began = time.perf_counter()
        state, losses = compiled(state, keys)
        jax.block_until_ready(losses)
        times.append(time.perf_counter() - began)
    held = memory.argument_size_in_bytes + memory.temp_size_in_bytes + memory.output_size_in_bytes
    held -= memory.alias_size_in_bytes  # a state is updated in place
    return {
        "milliseconds_per_step": 1e3 * min(times[1:]) / CHUNK,
        "device_bytes": float(held),
        "checkpoint_bytes": float(checkpoint),
        "gradient_bytes": float(weights),
    }


def plan(members: int, devices: int, steps: int, share_batches: bool) -> dict[str, Any]:
    """What the whole costs."""
    placement = mesh.place("auto", members, BATCH, share_batches, devices)
    each = members // placement.member
    found = share_of_one_device(each, BATCH // placement.data, share_batches)
    # A ring all-reduce among the devices that share a batch sends twice the gradients, less one part in each round.
    sent = 2 * (1 - 1 / placement.data) * found["gradient_bytes"]
    return {
        "share_batches": share_batches,
        "mesh": f"{placement.member} x {placement.data}",
        "devices used": placement.member * placement.data,
        "members per device": each,
        "prompts per device and member": BATCH // placement.data,
        "memory per device / MiB": found["device_bytes"] / 2**20,
        "communication per device and step / MiB": sent / 2**20,
        "checkpoint / MiB": found["checkpoint_bytes"] * placement.member / 2**20,
        "milliseconds per step": found["milliseconds_per_step"],
        "microseconds per step and member": 1e3 * found["milliseconds_per_step"] / each,
        f"hours for {steps:,} steps, without communication": found["milliseconds_per_step"] * steps / 3.6e6,
    }


def table(plans: list[dict[str, Any]]) -> str:
    """Plans as columns of a Markdown table."""
    number = lambda value: (
        value if isinstance(value, str) else f"{value:,}" if isinstance(value, int) else f"{value:.3g}"
    )
    head = ["| | " + " | ".join("shared batches" if plan["share_batches"] else "own batches" for plan in plans) + " |"]
    head.append("|---" * (len(plans) + 1) + "|")
    names = [name for name in plans[0] if name != "share_batches"]
    return "\n".join(
        head + [f"| {name} | " + " | ".join(number(plan[name]) for plan in plans) + " |" for name in names]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("members", 10_000), ("devices", 64), ("steps", 5_000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", action="store_true", help="print the plans as one list and nothing else")
    parser.add_argument("--write", action="store_true", help="put the table into docs/scaling.md")
    options = parser.parse_args()
    plans = [plan(options.members, options.devices, options.steps, shared) for shared in (True, False)]
    if options.json:
        print(json.dumps(plans, indent=1))
        return
    device = f"one device of {jax.devices()[0].device_kind}, JAX {jax.__version__}"
    text = (f"{options.members:,} members of `one_layer` (batch {BATCH}, N = {TASK.n_context}) over {options.devices} "
            f"devices; times measured on {device}.\n\n{table(plans)}")  # fmt: skip
    print(text)
    if options.write:
        from pages import put  # beside this script

        put("plan", text, PAGE)


if __name__ == "__main__":
    main()
