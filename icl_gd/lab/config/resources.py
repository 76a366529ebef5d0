"""Estimates of the memory and disk that a run needs, made before anything is compiled."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from icl_gd.lab.config.errors import ConfigError
from icl_gd.lab.config.experiment import BYTES_PER_FLOAT, Experiment
from icl_gd.lab.config.parts import Train
from icl_gd.models import TransformerConfig

FIT_FLOATS = 2**27  # at most, in the prompts that step sizes are fitted on
FIGURES = 4 * 2**20  # bytes of the figures, the report and the metrics of a run
SIZES = (
    *("seeds", "task.d_input", "task.d_output", "task.n_context", "model.n_layers", "model.n_heads", "model.d_head"),
    *("model.d_embed", "model.input_mlp_width", "train.batch_size", "eval.curve_prompts", "eval.n_context"),
)


def check_memory(experiment: Experiment) -> None:
    """Checks that every population of an experiment fits into the available memory.

    Raises:
      ConfigError: if one does not; the message lists the sizes that can be lowered.
    """
    available, owner = available_memory()
    for _, one in experiment.in_turn():
        needed = memory_needed(one)
        if needed <= available:
            continue
        sizes = ", ".join(f"{field}={one.get(field)}" for field in SIZES if one.get(field) not in (None, 1))
        combinations = len(one.together())
        if combinations > 1:
            sizes += f", or sweep over fewer than {combinations} combinations"
        raise ConfigError(
            f"this run needs about {needed / 2**30:.3g} GiB of memory, but {owner} has {available / 2**30:.3g} GiB; "
            f"lower one of {sizes}"
        )


def available_memory(root: Path = Path("/"), environment: Mapping[str, str] = os.environ) -> tuple[float, str]:
    """The memory that this process may use.

    Args:
      root: the root of the file system in which control groups are looked up. Default: `/`.
      environment: the environment variables, of which those of Slurm are read.

    Returns:
      Bytes, and the owner of the limit: "this machine", "this container" or "this Slurm job".
    """
    limits = [(float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")), "this machine")]
    limits += [(limit, "this container") for limit in _limits_of_groups(root)]
    per_cpu = float(environment.get("SLURM_MEM_PER_CPU") or 0) * float(environment.get("SLURM_CPUS_ON_NODE") or 1)
    if (megabytes := float(environment.get("SLURM_MEM_PER_NODE") or per_cpu)) > 0:
        limits.append((megabytes * 2**20, "this Slurm job"))
    return min(limits)


def _limits_of_groups(root: Path) -> Iterator[float]:
    """Memory limits in bytes of the control groups (versions 1 and 2) of this process, and of their parent groups."""
    try:
        groups = [line.split(":", 2) for line in (root / "proc/self/cgroup").read_text().splitlines()]
    except OSError:
        return  # not Linux
    for _, controllers, path in groups:
        if controllers == "":
            top, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            top, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        own = top / path.lstrip("/")
        for group in (own, *own.parents):
            with contextlib.suppress(OSError, ValueError):  # "max" is not a number: there is no limit
                yield float((group / name).read_text())
            if group == top:
                break


def memory_needed(experiment: Experiment) -> float:
    """Bytes for one population, within a factor of about two: the larger of a training step and an evaluation."""
    floats = _floats_of_prefixes if experiment.network.causal else _floats_of_attention
    return BYTES_PER_FLOAT[experiment.precision] * floats(experiment)


def _members(experiment: Experiment) -> int:
    return experiment.seeds * len(experiment.together())


def _examples(task: Any) -> int:
    return getattr(task, "n_context", 1)


def _floats_of_prefixes(experiment: Experiment) -> float:
    """Floats for a causal Transformer.

    A step holds the weights, gradients and optimiser moments of all members and, for the forward and backward passes,
    about twenty vectors and three attention maps per layer and token.
    """
    task, network, train = experiment.law, experiment.network, experiment.train
    training_tokens = 2 * _examples(experiment.law_of_training) + 1
    evaluation_tokens = 2 * _examples(task) + 1

    def activations(tokens: int) -> int:
        return tokens * (20 * network.width + 3 * network.n_heads * tokens)

    members = _members(experiment)
    at_once = members if train.share_batches else 1
    step = train.batch_size * at_once * network.n_layers * activations(training_tokens)
    prompts = max(experiment.eval.prompts, experiment.eval.curve_prompts)
    evaluation = prompts * evaluation_tokens * (task.d_input + task.d_output + 1) * (3 + members)
    return float(4 * members * _weights(network, task) + step + evaluation + 64 * activations(evaluation_tokens))


def _weights(network: TransformerConfig, task: Any) -> float:
    """The number of weights of one member, within a factor of about two."""
    e = network.width
    if network.causal:
        return float(network.n_layers * 12 * e * e + e * ((network.n_positions or 0) + task.d_input + task.d_output))
    return float(network.n_layers * network.n_heads * 4 * e * network.head_width)


def _floats_of_attention(experiment: Experiment) -> float:
    """Floats for self-attention on one query per prompt.

    A step holds two batches, because the next one is drawn beside the current one; the batches count once if they are
    shared or if the members run one after another. For the forward and backward passes it holds about six vectors (in
    the Gram form: six second-moment matrices) per layer, member and prompt. An evaluation holds the same without
    gradients, for a chunk of prompts and for the prompts of the curves.
    """
    task, network, train = experiment.law, experiment.network, experiment.train
    n = _examples(task) * (2 if experiment.model.layout == "interleaved" else 1)
    e, layers, width, members = network.width, network.n_layers, network.head_width, _members(experiment)
    context = (n + 1) * e + e * e
    tokenwise, hidden = bool(experiment.beside_linear), network.input_mlp_width or 0
    per_layer = 3 * network.n_heads * (n + 1) * (n + 1 + width) if tokenwise else e * e
    inner = 6 * network.n_heads * (layers * per_layer if layers > 1 or tokenwise else e) + 3 * (n + 1) * hidden
    at_once = members if train.share_batches else 1
    step = train.batch_size * (3 * context + at_once * inner)
    weights = members * layers * network.n_heads * 48 * e * max(e, width)
    prompts = max(experiment.eval.curve_prompts, min(experiment.eval.prompts, 8192))
    evaluation = prompts * (3 * context + min(members, 16) * 6 * layers * per_layer)
    fit = 3 * min(experiment.eval.prompts * (n + 1) * e, FIT_FLOATS)
    return float(weights + max(step, evaluation, fit))


def disk_needed(experiment: Experiment) -> float:
    """Bytes that a run writes, within a factor of about two.

    A checkpoint holds the weights and two optimiser moments of each of them; figures and the report come on top.
    """
    floats = 0.0
    for _, one in experiment.in_turn():
        floats += _members(one) * _weights(one.network, one.law) * _checkpoints_kept(one.train)
    return 3 * BYTES_PER_FLOAT[experiment.precision] * floats + FIGURES


def _checkpoints_kept(train: Train) -> int:
    """The number of checkpoints on disk at once: the last two, the one that is being written, and those to keep."""
    more = {"last": 0, "log": train.steps.bit_length() + 1, "all": train.steps // train.checkpoint_every + 1}
    return 3 + more[train.keep_checkpoints]
