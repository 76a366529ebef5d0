"""A layer trained on clean labels, tested with 0 to 8 of 10 replaced by noise (von Oswald et al. 2212.07677, appendix).

    python -m experiments.run --config=configs/noisy_labels.py

Five seeds trained as in one_layer. Their loss, that of the gradient step tuned for clean labels, of the best step for
every number of corrupted ones, and the closed form of both; about two minutes on two CPU cores. Expected: the closed
form .2062 .2568 .3159 .3835 .4596, and with the step tuned anew .2062 .2564 .3116 .3643 .4027.

Variants: `trained` trains at 0, 2, 4, 6 and 8 corrupted labels; `smoke`.
"""

from icl_gd.lab import Experiment, GradientDescent, Network, Regression, Train, claim, smoke

VARIANTS = ("trained", "smoke")
# k: risk of the step tuned for clean labels, and of the best step for k corrupted ones.
EXACT = {0: (0.206229, 0.206229), 2: (0.256819, 0.256410), 4: (0.315912, 0.311625), 6: (0.383507, 0.364256),
         8: (0.459604, 0.402731)}  # fmt: skip
WHY_LATE = "one seed is late: the mean cosine is .947 at step 4,600 and .986 at 5,000, where the others have .995"
EXACT_SOURCE = "closed form: one gradient step, k corrupted labels"


def get_config(variant: str = "") -> Experiment:
    experiment = Experiment(
        task=Regression(),
        model=Network(),
        train=Train(share_batches=True),
        reference=GradientDescent(),
        seeds=5,
        analyses=("alignment", "shifts"),
        claims=(
            claim("VO.noise.free", "at least 4 of 5 seeds are free",
                  metric="seeds_trapped", source="VO, published code", at_most=1),
            claim("VO.noise.follows",
                  "free seeds follow gradient descent at 0 to 8 corrupted labels of 10 (worst deviation of their loss)",
                  metric="corrupted_labels_deviation_untrapped", source="VO, corrupted labels", at_most=0.05,
                  reduce="max"),
            *(claim(f"VO.noise.{k}", f"gradient descent with {k} corrupted labels meets the closed form",
                    metric=f"loss_by_corrupted_labels_gd[{k}]", source=EXACT_SOURCE, within=(kept, 0.02 * kept))
              for k, (kept, _) in EXACT.items()),
        ),
    )  # fmt: skip
    if variant == "trained":
        at = lambda name, k: f"{name}_by_corrupted_labels[{k}]"
        claims = tuple(
            claim(f"VO.noise.trained_{k}.{name}", f"{what}, {k} corrupted labels", metric=at(metric, k), source=source,
                  **asked)
            for k, (_, tuned) in EXACT.items()
            for name, what, source, metric, asked in (
                ("gd", "the best gradient step meets the closed form", EXACT_SOURCE, "loss_gd",
                 {"within": (tuned, 0.005 * tuned)}),
                ("loss", "every free seed is as good as that step (worst loss ratio)", "VO, section 3",
                 "loss_ratio_gd_untrapped", {"at_most": 1.01, "reduce": "max"}),
                ("cosine", "every free seed's sensitivities point where the step's do", "VO, section 3",
                 "sensitivity_cosine_gd_untrapped",
                 {"at_least": 0.99, "reduce": "min", "note": WHY_LATE if k == 8 else ""}),
                ("free", "at least 4 of 5 seeds are free", "VO, published code", "seeds_trapped", {"at_most": 1}),
            )
        )  # fmt: skip
        return experiment.change(
            {"task.corrupted_labels": tuple(EXACT), "analyses": ("alignment", "weights"), "claims": claims}
        )
    if variant == "smoke":
        return smoke(experiment)
    if variant:
        raise ValueError(f"unknown variant {variant!r}; choose from {', '.join(VARIANTS)}")
    return experiment
