"""One layer against one gradient step over context sizes (von Oswald et al. 2212.07677, section 3).

    python -m experiments.run --config=configs/context_sweep.py

N = 5, 10, 15, 20, 25, 50, five seeds each, one size after another; ten to twenty minutes on two CPU cores. Expected:
the closed form .27590, .20623, .16465, .13702, .11734, .06828 under the points. Variants: `smoke`.
"""

from icl_gd.lab import Experiment, GradientDescent, Network, Regression, Train, claim, smoke

VARIANTS = ("smoke",)
EXACT = {5: 0.27590, 10: 0.206229, 15: 0.16465, 20: 0.13702, 25: 0.11734, 50: 0.06828}


def get_config(variant: str = "") -> Experiment:
    experiment = Experiment(
        task=Regression(),
        model=Network(),
        train=Train(share_batches=True),
        reference=GradientDescent(),
        seeds=5,
        analyses=("alignment", "weights"),
        sweep={"task.n_context": tuple(EXACT)},
        claims=tuple(
            claim(f"VO.N{n}.{name}", f"{what}, N = {n}", metric=f"{metric}[{n}]", source=source, **asked)
            for n, exact in EXACT.items()
            for name, what, source, metric, asked in (
                ("gd", "one gradient step meets the closed form", "closed form: best single gradient step",
                 "loss_gd_by_n_context", {"within": (exact, 0.005 * exact)}),
                ("trained", "every free seed is as good as one gradient step (worst loss ratio)", "VO, section 3",
                 "loss_ratio_gd_untrapped_by_n_context", {"at_most": 1.01, "reduce": "max"}),
                ("free", "at least 4 of 5 seeds are free", "VO, published code",
                 "seeds_trapped_by_n_context", {"at_most": 1}),
            )
        ),
    )  # fmt: skip
    if variant == "smoke":
        return smoke(experiment, {"task.n_context": (3, 5)})
    if variant:
        raise ValueError(f"unknown variant {variant!r}; choose from {', '.join(VARIANTS)}")
    return experiment
