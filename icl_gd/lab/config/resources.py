"""What a run needs of a machine, estimated from its experiment before anything is compiled: memory and disk."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from icl_gd.lab.config.errors import ConfigError
from icl_gd.lab.config.experiment import BYTES_PER_FLOAT, Experiment
from icl_gd.lab.config.parts import Train
from icl_gd.models import TransformerConfig

FIT_FLOATS = 2**27  # at most, in the prompts that step sizes are tuned on
FIGURES = 4 * 2**20  # bytes of a run's figures, report and metrics
SIZES = (
    *("seeds", "task.d_input", "task.d_output", "task.n_context", "model.n_layers", "model.n_heads", "model.d_head"),
    *("model.d_embed", "model.input_mlp_width", "train.batch_size", "eval.curve_prompts", "eval.n_context"),
)


def check_memory(experiment: Experiment) -> None:
    """Whether every population of an experiment fits this machine.

    Raises:
      ConfigError: if one does not; names the sizes to lower.
    """
    there, by = memory_there()
    for _, one in experiment.in_turn():
        if (needed := memory_needed(one)) <= there:
            continue
        sizes = ", ".join(f"{field}={one.get(field)}" for field in SIZES if one.get(field) not in (None, 1))
        combinations = len(one.together())
        sizes += f", or sweep over fewer than {combinations} combinations" * (combinations > 1)
        raise ConfigError(
            f"these sizes need about {needed / 2**30:.3g} GiB, {by} has {there / 2**30:.3g}: lower {sizes}"
        )


def memory_there(root: Path = Path("/"), environment: Mapping[str, str] = os.environ) -> tuple[float, str]:
    """The bytes of memory that a process may use, and whose they are: the machine's, a container's or a Slurm job's.

    Args:
      root: of the file system in which control groups are looked up.
    """
    found = [(float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")), "this machine")]
    found += [(limit, "this container") for limit in _limits_of_groups(root)]
    per_cpu = float(environment.get("SLURM_MEM_PER_CPU") or 0) * float(environment.get("SLURM_CPUS_ON_NODE") or 1)
    if (megabytes := float(environment.get("SLURM_MEM_PER_NODE") or per_cpu)) > 0:
        found.append((megabytes * 2**20, "this Slurm job"))
    return min(found)


def _limits_of_groups(root: Path) -> Iterator[float]:
    """The limits of the control groups that this process is in, of versions 1 and 2, and of those above them."""
    try:
        groups = [line.split(":", 2) for line in (root / "proc/self/cgroup").read_text().splitlines()]
    except OSError:
        return  # no Linux
    for _, controllers, path in groups:
        if controllers == "":
            top, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            top, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        place = top / path.lstrip("/")
        for group in (place, *place.parents):
            with contextlib.suppress(OSError, ValueError):  # "max" is no number, and no limit
                yield float((group / name).read_text())
            if group == top:
                break


def memory_needed(experiment: Experiment) -> float:
    """Bytes of the larger of a training step and an evaluation, within a factor of about two, of one population."""
    floats = _floats_of_prefixes if experiment.network.causal else _floats_of_attention
    return BYTES_PER_FLOAT[experiment.precision] * floats(experiment)


def _members(experiment: Experiment) -> int:
    return experiment.seeds * len(experiment.together())


def _examples(law: Any) -> int:
    return getattr(law, "n_context", 1)


def _floats_of_prefixes(experiment: Experiment) -> float:
    """A step holds weights, gradients and the optimiser's moments of all members, and, forward and backward, some
    twenty vectors and three maps of attention a layer and token."""
    law, network, train, its = experiment.law, experiment.network, experiment.train, experiment.eval
    learned, measured = (2 * _examples(its) + 1 for its in (experiment.law_of_training, law))
    tokens = lambda t: t * (20 * network.width + 3 * network.n_heads * t)
    members = _members(experiment)
    at_once = members if train.share_batches else 1
    step = train.batch_size * at_once * network.n_layers * tokens(learned)
    prompts = max(its.prompts, its.curve_prompts) * measured * (law.d_input + law.d_output + 1) * (3 + members)
    return float(4 * members * _weights(network, law) + step + prompts + 64 * tokens(measured))


def _weights(network: TransformerConfig, law: Any) -> float:
    """Of one member, within a factor of about two."""
    e = network.width
    if network.causal:
        return float(network.n_layers * 12 * e * e + e * ((network.n_positions or 0) + law.d_input + law.d_output))
    return float(network.n_layers * network.n_heads * 4 * e * network.head_width)


def _floats_of_attention(experiment: Experiment) -> float:
    """A step holds two batches (the next is drawn beside it), once if shared or run member by member, and, forward and
    backward, some six vectors or, below the last layer, second-moment matrices a layer, member and prompt. An
    evaluation holds the same without gradients, for a chunk of prompts and those of the curves.
    """
    law, network, train, its = experiment.law, experiment.network, experiment.train, experiment.eval
    n = _examples(law) * (2 if experiment.model.layout == "interleaved" else 1)
    e, layers, width, members = network.width, network.n_layers, network.head_width, _members(experiment)
    context = (n + 1) * e + e * e
    tokenwise, hidden = bool(experiment.beside_linear), network.input_mlp_width or 0
    per_layer = 3 * network.n_heads * (n + 1) * (n + 1 + width) if tokenwise else e * e
    inner = 6 * network.n_heads * (layers * per_layer if layers > 1 or tokenwise else e) + 3 * (n + 1) * hidden
    at_once = members if train.share_batches else 1
    step = train.batch_size * (3 * context + at_once * inner)
    weights = members * layers * network.n_heads * 48 * e * max(e, width)
    evaluated = max(its.curve_prompts, min(its.prompts, 8192))
    evaluation = evaluated * (3 * context + min(members, 16) * 6 * layers * per_layer)
    fit = 3 * min(its.prompts * (n + 1) * e, FIT_FLOATS)
    return float(weights + max(step, evaluation, fit))


def disk_needed(experiment: Experiment) -> float:
    """Bytes that a run writes, within a factor of about two: its checkpoints, each of the weights and the optimiser's
    two moments of them, and figures and report."""
    weights = sum(_members(one) * _weights(one.network, one.law) * _kept(one.train) for _, one in experiment.in_turn())
    return 3 * BYTES_PER_FLOAT[experiment.precision] * weights + FIGURES


def _kept(train: Train) -> int:
    """How many checkpoints are there at once: the last two, one that is written before one goes, and those kept."""
    more = {"last": 0, "log": train.steps.bit_length() + 1, "all": train.steps // train.checkpoint_every + 1}
    return 3 + more[train.keep_checkpoints]
