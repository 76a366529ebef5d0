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

FIT_FLOATS = 2**27  # largest number of floats in the prompts on which step sizes are fitted
FIGURES = 4 * 2**20  # bytes of the figures, the report and the metrics of a run
# Sizes that an error message lists, because a lower value saves memory.
SIZES = (
    *("seeds", "task.d_input", "task.d_output", "task.n_context", "model.n_layers", "model.n_heads", "model.d_head"),
    *("model.d_embed", "model.input_mlp_width", "train.batch_size", "eval.curve_prompts", "eval.n_context"),
)


def check_memory(experiment: Experiment) -> None:
    """Checks that every population of an experiment fits into the available memory.

    Raises:
      ConfigError: if a population does not fit; the message lists sizes that can be lowered.
    """
    available, owner = available_memory()
    for _, one in experiment.populations():
        needed = memory_needed(one)
        if needed <= available:
            continue
        sizes = ", ".join(f"{field}={one.get(field)}" for field in SIZES if one.get(field) not in (None, 1))
        combinations = len(one.combinations())
        if combinations > 1:
            sizes += f", or sweep over fewer than {combinations} combinations"
        raise ConfigError(
            f"this run needs about {needed / 2**30:.3g} GiB of memory, but {owner} has {available / 2**30:.3g} GiB; "
            f"lower one of {sizes}"
        )


def available_memory(root: Path = Path("/"), environment: Mapping[str, str] = os.environ) -> tuple[float, str]:
    """The memory that this process may use.

    Args:
      root: the directory that contains `proc` and `sys`, from which limits of control groups are read. Default: `/`.
      environment: the environment variables, from which limits of Slurm are read. Default: those of this process.

    Returns:
      The smallest limit in bytes, and its owner: "this machine", "this container" or "this Slurm job".
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
        innermost = top / path.lstrip("/")
        for group in (innermost, *innermost.parents):
            with contextlib.suppress(OSError, ValueError):  # "max" is not a number: there is no limit
                yield float((group / name).read_text())
            if group == top:
                break


def memory_needed(experiment: Experiment) -> float:
    """Bytes that training and evaluation of one population need, within a factor of about two."""
    floats = _floats_of_prefixes if experiment.network.causal else _floats_of_attention
    return BYTES_PER_FLOAT[experiment.precision] * floats(experiment)


def _members(experiment: Experiment) -> int:
    return experiment.seeds * len(experiment.combinations())


def _examples(task: Any) -> int:
    return getattr(task, "n_context", 1)


def _floats_of_prefixes(experiment: Experiment) -> float:
    """The number of floats in memory for a causal Transformer.

    A training step stores the weights, gradients and optimiser moments of all members. The forward and backward passes
    store about twenty vectors per layer and token, and three rows of the attention pattern per layer, head and token.
    """
    task, network, train = experiment.eval_task, experiment.network, experiment.train
    training_tokens = 2 * _examples(experiment.train_task) + 1
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
    """The number of floats in memory for self-attention on one query per prompt.

    A training step stores two batches, the current one and the next one. Members that share batches or run in sequence
    need these only once. The forward and backward passes store about six vectors (in the Gram form: six second-moment
    matrices) per layer, member and prompt. An evaluation stores the same without gradients, for a chunk of prompts or
    for the prompts of the curves.
    """
    task, network, train = experiment.eval_task, experiment.network, experiment.train
    n = _examples(task) * (2 if experiment.model.layout == "interleaved" else 1)
    e, layers, width, members = network.width, network.n_layers, network.head_width, _members(experiment)
    context = (n + 1) * e + e * e
    tokenwise, hidden = bool(experiment.beyond_linear), network.input_mlp_width or 0
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

    A checkpoint stores every weight and its two optimiser moments. Figures, report and metrics add a constant.
    """
    floats = 0.0
    for _, one in experiment.populations():
        floats += _members(one) * _weights(one.network, one.eval_task) * _checkpoints_kept(one.train)
    return 3 * BYTES_PER_FLOAT[experiment.precision] * floats + FIGURES


def _checkpoints_kept(train: Train) -> int:
    """The largest number of checkpoints on disk at a time: the last two, a partly written one, and those to keep."""
    more = {"last": 0, "log": train.steps.bit_length() + 1, "all": train.steps // train.checkpoint_every + 1}
    return 3 + more[train.keep_checkpoints]
