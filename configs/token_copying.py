"""Tokens that hold x and y apart: a first layer learns to copy, then a second learns the gradient step
(von Oswald et al. 2212.07677, standard token construction; published as normal_token_construct.ipynb).

    python -m experiments.run --config=configs/token_copying.py

Five seeds, tokens x_1, y_1, x_2, ..., x_query with ten sinusoidal dimensions for their place, softmax attention in the
first of two layers, d = n = 10, 10,000 steps of batch 2048; half an hour on two CPU cores. Members share each step's
batch, so they differ in their initial weights alone. Expected: the loss stays for thousands of steps where predicting
zero is, then falls to 1.02 to 1.045 times that of one gradient step on the same prompts; just before it falls, the
first layer's output comes to depend on the next token more than on the others.

Targets other than 1.04, the closed form and those of the construction are ours. Most were set while part of the curves
could be seen, and the claim about the coordinate that y shares (`VO.copy.shared`) after the run had shown it.

Variants: `converged` trains 20,000 steps with a decaying learning rate; `smoke`.
"""

from icl_gd.lab import Eval, Experiment, GradientDescent, Network, Regression, Train, claim, smoke

VARIANTS = ("converged", "smoke")

PAPER = "VO, separate tokens"


def get_config(variant: str = "") -> Experiment:
    experiment = Experiment(
        task=Regression(),
        model=Network(layout="interleaved", n_layers=2, attention=("softmax", "linear"), init_scale=0.02),
        train=Train(steps=10_000, clip=10.0, share_batches=True, checkpoint_every=500),
        eval=Eval(prompts=2**17),
        reference=GradientDescent(steps=1),  # the first layer merges tokens, and takes none
        seeds=5,
        analyses=("alignment", "copying"),
        claims=(
            claim("VO.copy.loss",
                  "two layers on separate tokens reach 1.04 times the loss of one gradient step (how many of 5 seeds)",
                  metric="seeds_near_gd", source=PAPER, at_least=4,
                  note="1.016, 1.037, 1.039, 1.042 and 1.043; the published code's seed 0 has 1.038. A step of 0.62 in "
                  "the coordinate whose place y shares costs 1.4 %; the rest is a part of the predictions, 0.11 of "
                  "0.64 in standard deviation, that is no step in any coordinate. At a constant rate the ratio moves "
                  "by 0.003 every 100 steps"),
            claim("VO.copy.gd", "the gradient step beside them reaches the closed-form risk",
                  metric="loss_gd", source="closed form: best single gradient step, d = n = 10",
                  within=(0.206229, 0.002)),
            claim("VO.copy.plateau",
                  "every seed's loss stays on a plateau for thousands of steps (the first to be halfway down)",
                  metric="loss_halfway_at", source=PAPER, at_least=3000, reduce="min"),
            claim("VO.copy.first", "in the first layer the next token overtakes the others before the loss is halfway "
                  "down (by how many steps at least)",
                  metric="copying_leads_by", source=PAPER, at_least=100, reduce="min"),
            claim("VO.copy.zero",
                  "and while predicting zero is still as good (least ratio of the loss to that of zero)",
                  metric="loss_ratio_zero_at_start", source=PAPER, at_least=0.95, reduce="min"),
            claim("VO.copy.clear", "it has twice their norm by halfway",
                  metric="copying_clear_leads_by", source="found here", at_least=0, reduce="min"),
            claim("VO.copy.derivative", "the norm of the derivative to the next token ends large (its least)",
                  metric="derivative_following", source=PAPER, at_least=0.7, reduce="min",
                  note="one seed of five copies at a smaller scale, 0.61: the second layer's weights make up for it"),
            claim("VO.copy.others", "and that to the others is small (its largest)",
                  metric="derivative_others", source=PAPER, at_most=0.15, reduce="max"),
            claim("VO.copy.untrained",
                  "untrained layers do not tell the next token from others (largest next-token score; 1/20 is uniform)",
                  metric="following_token_score_untrained", source="control", at_most=0.06, reduce="max"),
            claim("VO.copy.label",
                  "inputs read their label in the first layer more than all else together (least share)",
                  metric="label_token_score", source=PAPER, at_least=0.5, reduce="min",
                  note="one seed's inputs give 0.40 to their label and half to themselves, its labels 0.6 to the next "
                  "input: another solution than the others have, and with 1.016 the best one"),
            claim("VO.copy.cosine", "what is learned points where the gradient step does (least sensitivity cosine)",
                  metric="sensitivity_cosine_gd", source=PAPER, at_least=0.95, reduce="min"),
            claim("VO.copy.shared",
                  "the coordinate whose place y shares takes a shorter step than others (largest ratio)",
                  metric="shared_coordinate_step", source="found here", at_most=0.75, reduce="max"),
            claim("VO.copy.built", "a copying layer built by hand and a gradient step are the learner at large scale "
                  "(largest error, float64)",
                  metric="copying_construction_error", source="constructions/copying.py", at_most=1e-6),
            claim("VO.copy.scale", "and not at a scale of 8: copying needs large scores (largest error)",
                  metric="copying_error_by_scale[8.0]", source="constructions/copying.py", at_least=0.01),
        ),
    )  # fmt: skip
    if variant == "converged":
        return experiment.change({
            "train.steps": 20_000,
            "train.schedule": "cosine",
            "claims": (
                claim("VO.copyc.loss", "every seed reaches 1.02 times the loss of one gradient step (largest ratio)",
                      metric="loss_ratio_gd", source=PAPER, at_most=1.02, reduce="max",
                      note="1.009, 1.028, 1.033, 1.035 and 1.036: all below 1.04, .7 % better than after half the "
                      "steps at a constant rate, and flat. The coordinate whose place y shares still takes .61 to .66 "
                      "of the others' step, which costs 1.4 %"),
                claim("VO.copyc.label",
                      "inputs read their label in the first layer more than all else together (least share)",
                      metric="label_token_score", source=PAPER, at_least=0.5, reduce="min",
                      note="the seed with another solution has .39, the others .60 to .69; it is the best one"),
            ),
        })  # fmt: skip
    if variant == "smoke":
        return smoke(experiment)
    if variant:
        raise ValueError(f"unknown variant {variant!r}; choose from {', '.join(VARIANTS)}")
    return experiment
