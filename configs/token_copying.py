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

from icl_gd.lab.config.defaults import base_config, smoke

VARIANTS = ("converged", "smoke")

PAPER = "VO, separate tokens"


def get_config(variant: str = ""):
    config = base_config()
    config.seeds = 5
    config.analyses = ("alignment", "copying")
    config.model.layout = "interleaved"
    config.model.n_layers = 2
    config.model.attention = "softmax,linear"
    config.model.init_scale = 0.02
    config.reference.steps = 1  # the first layer merges tokens, and takes none
    config.train.steps = 10_000
    config.train.clip = 10.0
    config.train.share_batches = True
    config.train.checkpoint_every = 500
    config.eval.prompts = 2**17
    config.claims = (
        {"id": "VO.copy.loss", "statement": "two layers on separate tokens reach 1.04 times the loss of one gradient "
         "step (how many of 5 seeds)", "source": PAPER, "metric": "seeds_near_gd", "relation": "at_least", "target": 4,
         "note": "1.016, 1.037, 1.039, 1.042 and 1.043; the published code's seed 0 has 1.038. A step of 0.62 in the "
         "coordinate whose place y shares costs 1.4 %; the rest is a part of the predictions, 0.11 of 0.64 in standard "
         "deviation, that is no step in any coordinate. At a constant rate the ratio moves by 0.003 every 100 steps"},
        {"id": "VO.copy.gd", "statement": "the gradient step beside them reaches the closed-form risk",
         "source": "closed form: best single gradient step, d = n = 10", "metric": "loss_gd", "relation": "within",
         "target": 0.206229, "tolerance": 0.002},
        {"id": "VO.copy.plateau", "statement": "every seed's loss stays on a plateau for thousands of steps (the first "
         "to be halfway down)", "source": PAPER, "metric": "loss_halfway_at", "reduce": "min", "relation": "at_least",
         "target": 3000},
        {"id": "VO.copy.first", "statement": "in the first layer the next token overtakes the others before the loss "
         "is halfway down (by how many steps at least)", "source": PAPER, "metric": "copying_leads_by", "reduce": "min",
         "relation": "at_least", "target": 100},
        {"id": "VO.copy.zero", "statement": "and while predicting zero is still as good (least ratio of the loss to "
         "that of zero)", "source": PAPER, "metric": "loss_ratio_zero_at_start", "reduce": "min",
         "relation": "at_least", "target": 0.95},
        {"id": "VO.copy.clear", "statement": "it has twice their norm by halfway", "source": "found here",
         "metric": "copying_clear_leads_by", "reduce": "min", "relation": "at_least", "target": 0},
        {"id": "VO.copy.derivative", "statement": "the norm of the derivative to the next token ends large (its "
         "least)", "source": PAPER, "metric": "derivative_following", "reduce": "min", "relation": "at_least",
         "target": 0.7,
         "note": "one seed of five copies at a smaller scale, 0.61: the second layer's weights make up for it"},
        {"id": "VO.copy.others", "statement": "and that to the others is small (its largest)", "source": PAPER,
         "metric": "derivative_others", "reduce": "max", "relation": "at_most", "target": 0.15},
        {"id": "VO.copy.untrained", "statement": "untrained layers do not tell the next token from others (largest "
         "next-token score; 1/20 is uniform)", "source": "control", "metric": "following_token_score_untrained",
         "reduce": "max", "relation": "at_most", "target": 0.06},
        {"id": "VO.copy.label", "statement": "inputs read their label in the first layer more than all else together "
         "(least share)", "source": PAPER, "metric": "label_token_score", "reduce": "min", "relation": "at_least",
         "target": 0.5,
         "note": "one seed's inputs give 0.40 to their label and half to themselves, its labels 0.6 to the next input: "
         "another solution than the others have, and with 1.016 the best one"},
        {"id": "VO.copy.cosine", "statement": "what is learned points where the gradient step does (least sensitivity "
         "cosine)", "source": PAPER, "metric": "sensitivity_cosine_gd", "reduce": "min", "relation": "at_least",
         "target": 0.95},
        {"id": "VO.copy.shared", "statement": "the coordinate whose place y shares takes a shorter step than others "
         "(largest ratio)", "source": "found here", "metric": "shared_coordinate_step", "reduce": "max",
         "relation": "at_most", "target": 0.75},
        {"id": "VO.copy.built", "statement": "a copying layer built by hand and a gradient step are the learner at "
         "large scale (largest error, float64)", "source": "constructions/copying.py",
         "metric": "copying_construction_error", "relation": "at_most", "target": 1e-6},
        {"id": "VO.copy.scale", "statement": "and not at a scale of 8: copying needs large scores (largest error)",
         "source": "constructions/copying.py", "metric": "copying_error_by_scale[8.0]", "relation": "at_least",
         "target": 0.01},
    )  # fmt: skip
    if variant == "converged":
        config.train.steps = 20_000
        config.train.schedule = "cosine"
        config.claims = (
            {"id": "VO.copyc.loss", "statement": "every seed reaches 1.02 times the loss of one gradient step "
             "(largest ratio)", "source": PAPER, "metric": "loss_ratio_gd", "reduce": "max", "relation": "at_most",
             "target": 1.02, "note": "1.009, 1.028, 1.033, 1.035 and 1.036: all below 1.04, .7 % better than after "
             "half the steps at a constant rate, and flat. The coordinate whose place y shares still takes .61 to .66 "
             "of the others' step, which costs 1.4 %"},
            {"id": "VO.copyc.label", "statement": "inputs read their label in the first layer more than all else "
             "together (least share)", "source": PAPER, "metric": "label_token_score", "reduce": "min",
             "relation": "at_least", "target": 0.5, "note": "the seed with another solution has .39, the others .60 to "
             ".69; it is the best one"},
        )  # fmt: skip
    elif variant == "smoke":
        smoke(config)
    elif variant:
        raise ValueError(f"unknown variant {variant!r}; choose from {', '.join(VARIANTS)}")
    return config
