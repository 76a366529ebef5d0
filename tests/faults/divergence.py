"""A member whose loss or weights become non-finite is frozen and reported; other members are unaffected, bit for bit.

    python tests/faults/divergence.py [--count N] [--json]

One random member of a population has a learning rate that overflows at some step. The population is compared with one
in which this member has a moderate learning rate. The cases vary shared and own batches, Gram and token form, and one
and two devices.
"""

import random
import sys
from pathlib import Path

import harness
from harness import Record

MEMBERS, STEPS, RATE = 4, 20, 1e-2


def frozen(rng: random.Random, case: str) -> Record:
    """Trains both populations and compares them, for one random setting."""
    import jax
    import numpy as np

    import icl_gd

    task, clip = icl_gd.LinearRegression(2, 1, 3), rng.choice([None, 1e30])
    model = icl_gd.TransformerConfig(3, init_scale=1.0, clip=clip, n_layers=rng.choice([1, 2]))
    parallel, share = rng.choice(["none", "jit", "pmap"]), rng.random() < 0.5
    wild, at = 10 ** rng.uniform(8, 30), rng.randrange(MEMBERS)
    case = f"{case}: rate {wild:.2g} at {at}, clip {clip}, parallel {parallel}, shared batches {share}"

    def run(rate: float) -> tuple[icl_gd.training.Population, np.ndarray]:
        rates = [RATE * (1 + i) for i in range(MEMBERS)]
        rates[at] = rate
        settings = icl_gd.TrainSettings(STEPS, 16, learning_rate=tuple(rates), clip=1.0, share_batches=share)
        losses = []
        trained = icl_gd.train(
            task,
            model,
            settings,
            chunk_steps=4,
            parallel=parallel,
            on_chunk=lambda trained, step, loss: losses.append(loss),
        )
        return trained, np.concatenate(losses)

    (calm, calm_losses), (both, losses) = run(5 * RATE), run(wild)
    when, others = int(both.diverged_at[at]), [i for i in range(MEMBERS) if i != at]
    wrong = []
    if not 0 <= when < STEPS:
        wrong.append(f"diverged_at is {when}")
    if not np.isnan(losses[when:, at]).all():
        wrong.append("the loss of the member is not NaN from diverged_at on")
    earlier = int(both.skipped[at]) - icl_gd.training.population.PATIENCE
    if np.isfinite(losses[:when, at]).sum() != when - earlier:
        wrong.append("the loss of the member is not finite at the steps that were taken before diverged_at")
    if any(int(both.diverged_at[i]) != -1 for i in others):
        wrong.append("other members diverged")
    for leaf, calm_leaf in zip(jax.tree.leaves(both.params), jax.tree.leaves(calm.params), strict=True):
        if not np.isfinite(leaf).all():
            wrong.append("weights are not finite")
        if np.asarray(leaf)[others].tobytes() != np.asarray(calm_leaf)[others].tobytes():
            wrong.append("weights of other members differ")
    if losses[:, others].tobytes() != calm_losses[:, others].tobytes():
        wrong.append("losses of other members differ")
    return Record("a diverging member is frozen, the others are unaffected", case, not wrong, "; ".join(wrong))


def run(count: int, directory: Path) -> list[Record]:
    """Trains `count` populations with one diverging member each."""
    from icl_gd.training import mesh

    mesh.use_cpu_cores()
    rng = random.Random(0)
    return [frozen(rng, str(i)) for i in range(count)]


if __name__ == "__main__":
    sys.exit(harness.main(run, 20))
