"""A training step of a small GPT-2 on linear functions, beside PyTorch's of the same size.

    python benchmarks/gpt2.py [--json] [--write]

Size `tiny` (64 wide, 3 layers, 2 heads), batches of 64 prompts; the whole step: sampling, forward, backward, Adam. Ours
is what `configs/garg_linear.py` runs; theirs is HuggingFace's GPT-2 between two linear maps, without dropout, as
published, where PyTorch and transformers are installed (pip install 'icl-gd[interop]'), on as many threads as there are
cores. Both take turns; a figure is the least of several timings. Takes some three minutes on two cores, on which
nothing else should run.
"""

import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from itertools import pairwise

import jax

import icl_gd
from icl_gd import models
from icl_gd.tasks import FunctionRegression, Linear
from icl_gd.training import mesh

SETTINGS = ((5, 11), (20, 41))  # inputs, points
SIZE = (64, 3, 2)  # width, layers, heads
BATCH, STEPS, ROUNDS = 64, 100, 3
ASKED = 2  # times PyTorch's steps per second, at 20 inputs


def ours(d: int, points: int) -> float:
    """Seconds of a step, the least of several chunks; the first compiles."""
    config = models.gpt2_config(d, 2 * points - 1, *SIZE)
    settings = icl_gd.TrainSettings(
        STEPS * (ROUNDS + 1), BATCH, learning_rate=1e-4, clip=1e6, beta2=0.999, epsilon=1e-8
    )
    times = [time.perf_counter()]

    def took(trained: icl_gd.Population, step: int, loss: jax.Array) -> None:
        jax.block_until_ready(loss)
        times.append(time.perf_counter())

    task = FunctionRegression(Linear(d), points - 1)
    icl_gd.train(task, config, settings, layout="alternating", parallel="auto", on_chunk=took, chunk_steps=STEPS)
    return min(end - begin for begin, end in pairwise(times[1:])) / STEPS


def pytorch(d: int, points: int) -> Callable[[], float]:
    """Seconds of a step, whenever it is called."""
    import torch
    from transformers import GPT2Config, GPT2Model

    width, layers, heads = SIZE
    about = GPT2Config(
        n_positions=2 * points, n_embd=width, n_layer=layers, n_head=heads,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, use_cache=False,
    )  # fmt: skip
    backbone, read_in, read_out = GPT2Model(about), torch.nn.Linear(d, width), torch.nn.Linear(width, 1)
    parameters = [leaf for part in (backbone, read_in, read_out) for leaf in part.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-4)

    def step() -> None:
        x, w = torch.randn(BATCH, points, d), torch.randn(BATCH, d, 1)
        y = (x @ w)[:, :, 0]
        labels = torch.zeros(BATCH, points, d)
        labels[:, :, 0] = y
        tokens = torch.stack((x, labels), dim=2).reshape(BATCH, 2 * points, d)
        y_hat = read_out(backbone(inputs_embeds=read_in(tokens)).last_hidden_state)[:, ::2, 0]
        optimizer.zero_grad()
        ((y_hat - y) ** 2).mean().backward()
        optimizer.step()

    def timed() -> float:
        began = time.perf_counter()
        for _ in range(STEPS):
            step()
        return (time.perf_counter() - began) / STEPS

    timed()
    return timed


def measure() -> list[dict]:
    rows = []
    for d, points in SETTINGS:
        row: dict[str, float] = {"inputs": d, "points": points}
        if find_spec("torch") and find_spec("transformers"):
            theirs = pytorch(d, points)
            before = min(theirs() for _ in range(ROUNDS))
            row["step"] = ours(d, points)
            row["pytorch"] = min(before, *(theirs() for _ in range(ROUNDS)))
            row["faster"] = row["pytorch"] / row["step"]
        else:
            row["step"] = ours(d, points)
        rows.append(row)
        print({name: round(value, 4) for name, value in row.items()}, file=sys.stderr, flush=True)
    return rows


def table(found: list[dict]) -> str:
    lines = [f"Measured on {jax.local_device_count()} x cpu, JAX {jax.__version__}.", ""]
    if "faster" in found[-1]:
        holds = "yes" if found[-1]["faster"] >= ASKED else "no"
        lines[0] += f" At 20 inputs {ASKED} times as many steps as PyTorch's were asked for: {holds}."
    lines += ["| inputs | points | step / ms | PyTorch's / ms | times faster |", "|---|---|---|---|---|"]
    for row in found:
        theirs = (f"{1e3 * row['pytorch']:.3g}", f"{row['faster']:.3g}") if "faster" in row else ("", "")
        lines.append(f"| {row['inputs']} | {row['points']} | {1e3 * row['step']:.3g} | {theirs[0]} | {theirs[1]} |")
    return "\n".join(lines)


if __name__ == "__main__":
    from pages import command  # beside this script

    mesh.use_cpu_cores()
    command(__doc__, "gpt2", measure, table)
