"""Times a training step of a small GPT-2 on linear functions, in JAX and in PyTorch.

    python benchmarks/gpt2.py [--json] [--write | --smoke]

The size is `tiny` (width 64, 3 layers, 2 heads) with batches of 64 prompts. The whole step is timed: sampling, forward,
backward, Adam. The JAX step is that of `configs/garg_linear.py`. The PyTorch step is that of the published code:
HuggingFace's GPT-2 between two linear maps, without dropout, with one thread per core. It is omitted if PyTorch or
transformers is missing (pip install 'icl-gd[interop]').

PyTorch is timed before and after JAX, and the minimum of several timings is printed for each. This takes about three
minutes on two cores, on which nothing else should run.
"""

import sys
import time
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import jax
import pages  # beside this script

import icl_gd
from icl_gd import models
from icl_gd.tasks import FunctionRegression, Linear
from icl_gd.training import mesh

TARGET = 2  # steps per second relative to PyTorch, with 20 inputs
NO_PYTORCH = pages.missing("interop", "torch", "transformers")


class Sizes(NamedTuple):
    """Sizes of tasks, networks and timings.

    Attributes:
      settings: number of inputs and number of points, for each row of the table.
      network: width, layers and heads.
      batch_size: prompts per batch.
      steps: steps per timing.
      rounds: number of timings.
    """

    settings: tuple[tuple[int, int], ...] = ((5, 11), (20, 41))
    network: tuple[int, int, int] = (64, 3, 2)
    batch_size: int = 64
    steps: int = 100
    rounds: int = 3


SMOKE = Sizes(((20, 3),), (8, 1, 1), batch_size=4, steps=2, rounds=1)


def jax_seconds(sizes: Sizes, d: int, points: int) -> float:
    """Seconds per step in JAX: the minimum over several chunks of steps. The first chunk compiles and is not counted.

    Args:
      sizes: sizes of network and timings.
      d: number of inputs.
      points: number of points of a prompt.

    Returns:
      The seconds per step.
    """
    config = models.gpt2_config(d, 2 * points - 1, *sizes.network)
    steps = sizes.steps * (sizes.rounds + 1)
    settings = icl_gd.TrainSettings(steps, sizes.batch_size, learning_rate=1e-4, clip=1e6, beta2=0.999, epsilon=1e-8)
    times = [time.perf_counter()]

    def record_time(trained: icl_gd.Population, step: int, loss: jax.Array) -> None:
        jax.block_until_ready(loss)
        times.append(time.perf_counter())

    task = FunctionRegression(Linear(d), points - 1)
    icl_gd.train(
        task, config, settings, layout="alternating", parallel="auto", on_chunk=record_time, chunk_steps=sizes.steps
    )
    return min(end - begin for begin, end in pairwise(times[1:])) / sizes.steps


def pytorch(sizes: Sizes, d: int, points: int) -> Callable[[], float]:
    """Prepares the PyTorch step.

    Args:
      sizes: sizes of network and timings.
      d: number of inputs.
      points: number of points of a prompt.

    Returns:
      A function that times the step: the mean seconds over `sizes.steps` steps.
    """
    import torch
    from transformers import GPT2Config, GPT2Model

    width, layers, heads = sizes.network
    config = GPT2Config(
        n_positions=2 * points,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        use_cache=False,
    )
    backbone, read_in, read_out = GPT2Model(config), torch.nn.Linear(d, width), torch.nn.Linear(width, 1)
    parameters = [leaf for part in (backbone, read_in, read_out) for leaf in part.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-4)
    batch = sizes.batch_size

    def step() -> None:
        x, w = torch.randn(batch, points, d), torch.randn(batch, d, 1)
        y = (x @ w)[:, :, 0]
        labels = torch.zeros(batch, points, d)
        labels[:, :, 0] = y
        tokens = torch.stack((x, labels), dim=2).reshape(batch, 2 * points, d)
        y_hat = read_out(backbone(inputs_embeds=read_in(tokens)).last_hidden_state)[:, ::2, 0]
        optimizer.zero_grad()
        ((y_hat - y) ** 2).mean().backward()
        optimizer.step()

    def timed() -> float:
        began = time.perf_counter()
        for _ in range(sizes.steps):
            step()
        return (time.perf_counter() - began) / sizes.steps

    timed()
    return timed


def measure(sizes: Sizes) -> list[dict]:
    """Measures the rows of the table."""
    rows = []
    for d, points in sizes.settings:
        row: dict[str, float] = {"inputs": d, "points": points}
        if NO_PYTORCH:
            row["step"] = jax_seconds(sizes, d, points)
        else:
            time_pytorch = pytorch(sizes, d, points)
            before = min(time_pytorch() for _ in range(sizes.rounds))
            row["step"] = jax_seconds(sizes, d, points)
            row["pytorch"] = min(before, *(time_pytorch() for _ in range(sizes.rounds)))
            row["faster"] = row["pytorch"] / row["step"]
        rows.append(row)
        print({name: round(value, 4) for name, value in row.items()}, file=sys.stderr, flush=True)
    return rows


def table(records: list[dict]) -> str:
    """The rows as a Markdown table. If PyTorch is missing, its columns are omitted."""
    measured = f"Measured on {jax.local_device_count()} x cpu, JAX {jax.__version__}."
    head = ["inputs", "points", "step / ms"]
    if NO_PYTORCH:
        note = f"{measured} PyTorch is omitted: {NO_PYTORCH}."
    else:
        reached = "yes" if records[-1]["faster"] >= TARGET else "no"
        target = f"Target: with 20 inputs, {TARGET} times as many steps per second as PyTorch."
        note = f"{measured} {target} Reached: {reached}."
        head += ["PyTorch's / ms", "times faster"]
    lines = [head, ["---"] * len(head)]
    for row in records:
        cells = [str(row["inputs"]), str(row["points"]), f"{1e3 * row['step']:.3g}"]
        if not NO_PYTORCH:
            cells += [f"{1e3 * row['pytorch']:.3g}", f"{row['faster']:.3g}"]
        lines.append(cells)
    return "\n".join([note, "", *(f"| {' | '.join(line)} |" for line in lines)])


def main() -> None:
    options = pages.parse(pages.parser(__doc__))
    mesh.use_cpu_cores()
    records = measure(SMOKE if options.smoke else Sizes())
    pages.report(options, records, {"gpt2": table(records)})


if __name__ == "__main__":
    main()
