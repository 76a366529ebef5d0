"""With separate tokens for x and y, does layer one learn to copy before layer two learns the gradient step?

    python -m experiments.run --config=configs/token_copying.py

This is the standard token construction of von Oswald et al. 2212.07677 (published as normal_token_construct.ipynb). The
tokens are x_1, y_1, x_2, ..., x_query, each with a ten-dimensional sinusoidal positional encoding. The network is a
layer of softmax attention followed by a layer of linear attention. Five seeds are trained with d = n = 10 for 10,000
steps of batch 2048, which takes half an hour on two CPU cores. All members use the same batch in each step, so they
differ only in their initial weights. Expected: for thousands of steps the loss is that of predicting zero. Then it
falls to 1.02 to 1.045 times the loss of one gradient step on the same prompts. Just before it falls, the output of the
first layer begins to depend more on the next token than on the other tokens.

Three kinds of targets are not our choice: 1.04 (the published ratio), the closed form of one gradient step, and the
exactness of the construction. Most other targets were chosen when part of the training curves was already known. The
target of `VO.copy.shared` (about the coordinate of x that shares its slot with y) was chosen after the run.

Variants: `converged` trains for 20,000 steps with a decaying learning rate; `smoke`.
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
        reference=GradientDescent(steps=1),  # the first layer only merges tokens, so the two layers take one step
        seeds=5,
        analyses=("alignment", "copying"),
        claims=(
            claim(
                "VO.copy.loss",
                "at least 4 of 5 seeds reach 1.04 times the loss of one gradient step (number of seeds)",
                metric="seeds_near_gd",
                source=PAPER,
                at_least=4,
                note="The ratios are 1.016, 1.037, 1.039, 1.042 and 1.043; seed 0 of the published code has "
                "1.038. In the coordinate that shares its slot with y, the step is only 0.62 times as long as "
                "in the others. This raises the loss by 1.4 %. The remaining excess comes from a part of the "
                "predictions that no gradient step explains: its standard deviation is 0.11, that of the "
                "predictions 0.64. At a constant learning rate the ratio moves by 0.003 every "
                "100 steps.",
            ),
            claim(
                "VO.copy.gd",
                "one gradient step on the same prompts has the closed-form loss",
                metric="loss_gd",
                source="closed form: best single gradient step, d = n = 10",
                within=(0.206229, 0.002),
            ),
            claim(
                "VO.copy.plateau",
                "every seed's loss stays on a plateau for thousands of steps (first step at which a "
                "seed's loss is halfway down)",
                metric="loss_halfway_at",
                source=PAPER,
                at_least=3000,
                reduce="min",
            ),
            claim(
                "VO.copy.first",
                "the first layer's derivative to the next token exceeds that to other tokens before "
                "the loss is halfway down (smallest lead in steps)",
                metric="copying_leads_by",
                source=PAPER,
                at_least=100,
                reduce="min",
            ),
            claim(
                "VO.copy.zero",
                "when the first layer's derivative to the next token exceeds that to others, no seed "
                "is much better than predicting zero (smallest loss ratio)",
                metric="loss_ratio_zero_at_start",
                source=PAPER,
                at_least=0.95,
                reduce="min",
            ),
            claim(
                "VO.copy.clear",
                "the first layer's derivative to the next token is twice that to other tokens by the "
                "time the loss is halfway down (smallest lead in steps)",
                metric="copying_clear_leads_by",
                source="this project",
                at_least=0,
                reduce="min",
            ),
            claim(
                "VO.copy.derivative",
                "after training, the first layer's output depends strongly on the next token (smallest "
                "norm of the derivative)",
                metric="derivative_following",
                source=PAPER,
                at_least=0.7,
                reduce="min",
                note="One of five seeds copies at a smaller scale, 0.61; the weights of its second layer "
                "compensate for it.",
            ),
            claim(
                "VO.copy.others",
                "after training, the first layer's output depends little on the other tokens (largest "
                "norm of the derivative)",
                metric="derivative_others",
                source=PAPER,
                at_most=0.15,
                reduce="max",
            ),
            claim(
                "VO.copy.untrained",
                "untrained layers do not attend to the next token more than to others (largest "
                "next-token score; uniform attention has 1/20)",
                metric="following_token_score_untrained",
                source="control",
                at_most=0.06,
                reduce="max",
            ),
            claim(
                "VO.copy.label",
                "in the first layer, inputs attend to their labels more than to all other tokens "
                "together (smallest share of attention)",
                metric="label_token_score",
                source=PAPER,
                at_least=0.5,
                reduce="min",
                note="The inputs of one seed give 0.40 of their attention to their label and half to "
                "themselves; its labels give 0.6 to the next input. This is another solution than that "
                "of the other seeds, and with a ratio of 1.016 the best one.",
            ),
            claim(
                "VO.copy.cosine",
                "every seed's sensitivities are aligned with those of one gradient step (smallest cosine)",
                metric="sensitivity_cosine_gd",
                source=PAPER,
                at_least=0.95,
                reduce="min",
            ),
            claim(
                "VO.copy.shared",
                "the coordinate of x that shares its slot with y takes a shorter step than the others "
                "(largest ratio of step sizes)",
                metric="shared_coordinate_step",
                source="this project",
                at_most=0.75,
                reduce="max",
            ),
            claim(
                "VO.copy.built",
                "a constructed copying layer with a constructed gradient step computes gradient "
                "descent at a large score scale (largest error relative to the largest prediction, "
                "float64)",
                metric="copying_construction_error",
                source="constructions/copying.py",
                at_most=1e-6,
            ),
            claim(
                "VO.copy.scale",
                "at a score scale of 8 the constructed layers do not compute gradient descent, because "
                "copying needs large scores (largest error relative to the largest prediction)",
                metric="copying_error_by_scale[8.0]",
                source="constructions/copying.py",
                at_least=0.01,
            ),
        ),
    )
    if variant == "converged":
        return experiment.change(
            {
                "train.steps": 20_000,
                "train.schedule": "cosine",
                "claims": (
                    claim(
                        "VO.copyc.loss",
                        "after convergence, every seed reaches 1.02 times the loss of one gradient step "
                        "(largest ratio)",
                        metric="loss_ratio_gd",
                        source=PAPER,
                        at_most=1.02,
                        reduce="max",
                        note="The ratios are 1.009, 1.028, 1.033, 1.035 and 1.036: all are below "
                        "1.04 and no longer change. They are 0.7 % lower than after half the steps at a constant "
                        "learning rate. The coordinate that "
                        "shares its slot with y still takes 0.61 to 0.66 of the others' step, which costs 1.4 "
                        "%.",
                    ),
                    claim(
                        "VO.copyc.label",
                        "after convergence, inputs in the first layer attend to their labels more than to all "
                        "other tokens together (smallest share of attention)",
                        metric="label_token_score",
                        source=PAPER,
                        at_least=0.5,
                        reduce="min",
                        note="The seed with another solution has 0.39, the others 0.60 to 0.69; it has the smallest "
                        "loss.",
                    ),
                ),
            }
        )
    if variant == "smoke":
        return smoke(experiment)
    if variant:
        raise ValueError(f"unknown variant {variant!r}; choose from {', '.join(VARIANTS)}")
    return experiment
