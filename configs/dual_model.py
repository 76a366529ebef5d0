"""The dual model of softmax attention, exact in every head and layer (Ren & Liu 2310.13220, sections 3 and 4).

    python -m experiments.run --config=configs/dual_model.py

A Transformer like GPT-2 (three layers, two heads, perceptrons, causal) learns linear functions, y = W x with x ~ U(-1,
1)^5 and 15 examples, in double precision. Every head then is handed over to its dual model, whose one gradient step
must say what the head computes; and its N steps on one demonstration each are followed. Some twenty minutes on two CPU
cores.

Variants: `layer` is one layer of two softmax heads on tokens (x, y), beside gradient descent on the same prompts;
`linear` the same with linear attention, the picture of von Oswald et al.; `smoke`.
"""

from icl_gd.lab.config.defaults import base_config, dual_models, smoke

VARIANTS = ("layer", "linear", "smoke")


WHY_STUCK = "two of five seeds end in another solution, at 1.6 times that loss; the others at 1.03"
WHY_NEAR = (
    "it is .95 to .96 in three of five seeds, .58 and .59 in the two that end in another solution: to first order in "
    "its scores attention is a mean and a linear layer (softmax_heads), which would explain it; it was not tested here"
)


def get_config(variant: str = ""):
    config = dual_models(base_config())
    config.precision = "float64"
    config.analyses = ("dual",)
    name = {"": "DM", "smoke": "DM", "layer": "DM.layer", "linear": "DM.linear"}[variant]
    if variant in ("", "smoke"):
        config.model.style, config.model.layout, config.model.init_scale = "gpt2", "alternating", 4e-4
        config.model.reads_query = False
        config.model.n_layers, config.model.n_heads, config.model.d_embed = 3, 2, 32
        config.train.learning_rate, config.train.batch_size, config.train.steps = 1e-3, 64, 8000
        config.train.active_inputs = (3, 1, 1500)  # without it one seed of five has learned nothing at the end
        config.eval.prompts, config.eval.curve_prompts = 2048, 512
    elif variant == "linear":
        config.model.attention, config.model.reads_query, config.model.n_heads = "linear", False, 1
        config.model.init_scale, config.train.learning_rate = 0.002, 3e-3
    config.claims = (
        {"id": f"{name}.error", "statement": "one gradient step of the heads' dual models is what the layer computes, "
         "at every layer (largest error over all prompts, relative)", "source": "RL Theorem 3.1", "metric":
         "dual_error", "reduce": "max", "relation": "at_most", "target": 1e-12},
        {"id": f"{name}.steps", "statement": "steps on one demonstration at a time arrive there (largest distance)",
         "source": "RL section 3", "metric": "dual_distance_at_end", "reduce": "max", "relation": "at_most",
         "target": 1e-12},
        {"id": f"{name}.learned", "statement": "by layers that have learned the task (worst loss over that of one "
         "gradient step)", "source": "control", "metric": "loss_ratio_gd", "reduce": "max", "relation": "at_most",
         "target": 1.2, "note": WHY_STUCK if variant == "layer" else ""},
    )  # fmt: skip
    pull = {"id": f"{name}.pull", "metric": "pull_correlation_gd"}
    if variant == "layer":
        config.claims += (
            {**pull, "statement": "demonstrations do not add to the prediction what they add in a least-squares "
             "gradient step (mean correlation, best seed)", "source": "RL, caveat", "reduce": "max",
             "relation": "at_most", "target": 0.95, "note": WHY_NEAR},
            {"id": f"{name}.cosine", "statement": "sensitivities of free seeds are near those of the step (mean "
             "cosine; stated after it was measured once)", "source": "VO, appendix on softmax", "metric":
             "sensitivity_cosine_gd_untrapped", "relation": "at_least", "target": 0.95},
        )  # fmt: skip
    elif variant == "linear":
        config.claims += (
            {**pull, "statement": "demonstrations add to the prediction what they add in a least-squares gradient step "
             "(mean correlation, worst seed)", "source": "VO Proposition 1", "reduce": "min", "relation": "at_least",
             "target": 0.99},
            {"id": f"{name}.cosine", "statement": "and sensitivities are its (worst cosine)", "source": "VO Fig. 2",
             "metric": "sensitivity_cosine_gd", "reduce": "min", "relation": "at_least", "target": 0.999},
        )  # fmt: skip
    if variant == "smoke":
        config.train.active_inputs = (3, 1, 5)
        return smoke(config)
    return config
