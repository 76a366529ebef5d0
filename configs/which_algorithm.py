"""Which algorithm does every seed compute, does it use it, and when in training does it begin to?

    python -m experiments.run --config=configs/which_algorithm.py

Ten layers are trained with the settings of one_layer (von Oswald et al. 2212.07677, Figure 2), and each is identified:
from its predictions, layer by layer, and by replacing its layers by those of the algorithm's construction. One of them
is also identified at 14 steps of training. This takes about five minutes on two CPU cores. Expected: one step of
gradient descent, with a step size within 2 % of the best one, 6.06.

Variants: `two_layers` and `five_layers_recurrent` have the settings of these configs, five seeds each, and take a
quarter of an hour and three quarters of an hour; GD++ with as many steps as layers is expected. `smoke`.

All targets were set before the runs. Known by then were the verdicts on the models of the zoo with the same settings:
three seeds of one layer, one of two layers and one of five.
"""

from icl_gd.lab import Claim, Experiment, GradientDescent, Network, Regression, Train, claim, smoke
from icl_gd.lab.presets import deep

VARIANTS = ("two_layers", "five_layers_recurrent", "smoke")
BUILT = "VO, appendix A.10"


def claims_of(prefix: str, layers: str, verdict: str, words: str, steps: int, source: str) -> tuple[Claim, ...]:
    """The claims about the verdicts on untrapped seeds."""
    return (
        claim(
            f"{prefix}.named",
            f"every free seed of {layers} is identified as {words} (smallest share)",
            metric=f"named_{verdict}_untrapped",
            source=source,
            at_least=1,
            reduce="min",
        ),
        claim(
            f"{prefix}.steps",
            f"every free seed of {layers} takes as many steps as it has layers (mean number of steps)",
            metric="verdict_steps_untrapped",
            source=source,
            within=(steps, 1e-9),
        ),
        claim(
            f"{prefix}.replaced",
            f"every free seed of {layers} keeps its improvement over zero if any layer is replaced by that of the "
            "construction (smallest share that is kept)",
            metric="verdict_kept_worst_layer_untrapped",
            source=source,
            at_least=0.95,
            reduce="min",
        ),
        claim(
            f"{prefix}.replaced_mean",
            f"free seeds of {layers} keep their improvement if a layer is replaced (lower end of the 95 % interval of "
            "the mean over seeds)",
            metric="verdict_kept_worst_layer_untrapped",
            source=source,
            at_least=0.95,
            reduce="lower",
        ),
        claim(
            f"{prefix}.line",
            f"every free seed of {layers} keeps its improvement on the line from its layers to those of the "
            "construction (smallest share that is kept)",
            metric="verdict_kept_on_line_untrapped",
            source=source,
            at_least=0.95,
            reduce="min",
        ),
        claim(
            f"{prefix}.rest",
            f"every free seed of {layers} keeps its improvement without all weights that the algorithm does not need "
            "(smallest share that is kept)",
            metric="verdict_kept_without_rest_untrapped",
            source=source,
            at_least=0.95,
            reduce="min",
        ),
        claim(
            f"{prefix}.untrained",
            f"no untrained seed of {layers} is identified as an algorithm (share)",
            metric="named_untrained",
            source="control",
            at_most=0,
        ),
    )


ONE_LAYER = (
    *claims_of("ID.one", "one layer", "gd", "gradient descent", 1, "VO Proposition 1"),
    *(
        claim(
            f"ID.one.step_size_{which}",
            f"every free seed of one layer has the best step size of one step ({word} step size)",
            metric="verdict_step_size_untrapped",
            source="closed form: best single gradient step, d = n = 10",
            within=(6.06061, 0.02 * 6.06061),
            reduce=which,
        )
        for which, word in (("min", "smallest"), ("max", "largest"))
    ),
    claim(
        "ID.one.wrong",
        "with half the step size, one layer loses a quarter of its improvement over zero (largest share that is kept)",
        metric="verdict_control_kept_untrapped",
        source="control",
        at_most=0.8,
        reduce="max",
    ),
    claim(
        "ID.one.early",
        "the identified seed computes gradient descent well before the end of training (first step from which on it "
        "does)",
        metric="verdict_since_step",
        source="this project",
        at_most=2500,
    ),
)


def several_layers(prefix: str, layers: str, steps: int, exchanged: float) -> tuple[Claim, ...]:
    """The claims about several recurrent layers."""
    return (
        *claims_of(prefix, layers, "gd_plus_plus", "GD++", steps, BUILT),
        claim(
            f"{prefix}.exchanged",
            f"if contexts are exchanged between prompts before a layer of {layers}, GD++ predicts what every free seed "
            "does (largest share of the predictions that is unexplained)",
            metric="verdict_exchange_unexplained_untrapped",
            source="this project",
            at_most=exchanged,
            reduce="max",
        ),
        claim(
            f"{prefix}.wrong_exchanged",
            f"the best layers of gradient descent do not predict what {layers} do with exchanged contexts (smallest "
            "share of the predictions that is unexplained)",
            metric="verdict_control_exchange_unexplained_untrapped",
            source="control",
            at_least=0.2,
            reduce="min",
        ),
        claim(
            f"{prefix}.wrong",
            f"with the best layers of gradient descent, {layers} lose a part of their improvement (largest share that "
            "is kept)",
            metric="verdict_control_kept_untrapped",
            source="control",
            at_most=0.9,
            reduce="max",
        ),
        claim(
            f"{prefix}.black_box",
            f"the predictions of {layers} alone do not exclude GD++ (smallest share of free seeds)",
            metric="verdict_in_black_box_untrapped",
            source="this project",
            at_least=1,
            reduce="min",
        ),
    )


def get_config(variant: str = "") -> Experiment:
    if variant not in ("", *VARIANTS):
        raise ValueError(f"unknown variant {variant!r}; choose from {', '.join(VARIANTS)}")
    analyses = ("identify",)
    if variant == "two_layers":
        claims = several_layers("ID.two", "two layers", 2, 0.05)
        experiment = deep(n_layers=2, shared=True, analyses=analyses, claims=claims)
    elif variant == "five_layers_recurrent":
        claims = several_layers("ID.five", "five recurrent layers", 5, 0.1)
        experiment = deep(n_layers=5, shared=True, analyses=analyses, claims=claims)
    else:
        experiment = Experiment(
            task=Regression(),
            model=Network(),
            train=Train(share_batches=True),
            reference=GradientDescent(),
            analyses=analyses,
            claims=ONE_LAYER,
        )
    experiment = experiment.change({"train.keep_checkpoints": "log"})
    return smoke(experiment) if variant == "smoke" else experiment
