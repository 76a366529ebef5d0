"""Is one trained layer as good as one gradient step at every context size (von Oswald et al. 2212.07677, section 3)?

    python -m experiments.run --config=configs/context_sweep.py

The context size N is 5, 10, 15, 20, 25 or 50 examples. Five seeds are trained for each N, one N after another. A run
takes ten to twenty minutes on two CPU cores. Expected losses, in this order, from the closed form for the best gradient
step: 0.27590, 0.20623, 0.16465, 0.13702, 0.11734 and 0.06828.

Variants: `smoke`.
"""

from icl_gd.lab import Claim, Experiment, GradientDescent, Network, Regression, Train, claim, smoke

VARIANTS = ("smoke",)
EXACT = {5: 0.27590, 10: 0.206229, 15: 0.16465, 20: 0.13702, 25: 0.11734, 50: 0.06828}


def at_size(n: int, exact: float) -> tuple[Claim, ...]:
    """Claims about context size n; `exact` is the closed-form loss of the best gradient step."""
    return (
        claim(
            f"VO.N{n}.gd",
            f"with N = {n} examples, the best gradient step has the closed-form loss",
            metric=f"loss_gd_by_n_context[{n}]",
            source="closed form: best single gradient step",
            within=(exact, 0.005 * exact),
        ),
        claim(
            f"VO.N{n}.trained",
            f"with N = {n} examples, every free seed is as good as one gradient step (largest loss ratio)",
            metric=f"loss_ratio_gd_untrapped_by_n_context[{n}]",
            source="VO, section 3",
            at_most=1.01,
            reduce="max",
        ),
        claim(
            f"VO.N{n}.free",
            f"with N = {n} examples, at most 1 of 5 seeds is trapped (number of trapped seeds)",
            metric=f"seeds_trapped_by_n_context[{n}]",
            source="VO, published code",
            at_most=1,
        ),
    )


def get_config(variant: str = "") -> Experiment:
    experiment = Experiment(
        task=Regression(),
        model=Network(),
        train=Train(share_batches=True),
        reference=GradientDescent(),
        seeds=5,
        analyses=("alignment", "weights"),
        sweep={"task.n_context": tuple(EXACT)},
        claims=tuple(each for n, exact in EXACT.items() for each in at_size(n, exact)),
    )
    if variant == "smoke":
        return smoke(experiment, {"task.n_context": (3, 5)})
    if variant:
        raise ValueError(f"unknown variant {variant!r}; choose from {', '.join(VARIANTS)}")
    return experiment
