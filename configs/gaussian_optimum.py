"""The global optimum of one linear-attention layer on anisotropic Gaussian inputs with label noise.

    python -m experiments.run --config=configs/gaussian_optimum.py

Ahn et al. 2306.00297 Theorem 1, Zhang, Frei and Bartlett 2306.09927 Theorem 4.1: preconditioned gradient descent with
the matrix Gamma^{-1}. d = 5, N = 20, rotated covariance, noise .5; ten seeds, about three minutes on two CPU cores.
Expected: trained loss within 0.5 % of the closed form, learned matrix within 3 % of Gamma^{-1}, and the closed form's
risk at test lengths from N/4 to 8N.

Variants: `small_weights` starts from the small weights of one_layer, from which many seeds are trapped, otherwise than
in `one_layer:trapped`; `smoke`.
"""

from icl_gd.lab.config.defaults import base_config, smoke

VARIANTS = ("small_weights", "smoke")


def get_config(variant: str = ""):
    config = base_config()
    config.task.d_input = 5
    config.task.n_context = 20
    config.task.inputs = "normal"
    config.task.eigenvalues = (2.0, 1.4, 0.9, 0.5, 0.2)
    config.task.rotation_seed = 0
    config.task.noise_std = 0.5
    config.model.init_scale = 0.5
    config.train.steps = 8000
    config.train.schedule = "cosine"
    config.train.learning_rate = 3e-3
    config.train.clip = 1.0
    config.train.share_batches = True
    config.eval.prompts = 2**22
    config.analyses = ("optimum",)
    config.claims = (
        {"id": "AH.1.loss", "statement": "free seeds reach the closed-form optimum (worst loss ratio)",
         "source": "Ahn et al. Theorem 1", "metric": "loss_ratio_optimal_untrapped", "reduce": "max",
         "relation": "within", "target": 1.0, "tolerance": 0.005},
        {"id": "AH.1.free", "statement": "at least 8 of 10 seeds are free", "source": "one_layer's standard",
         "metric": "seeds_trapped", "relation": "at_most", "target": 2},
        {"id": "AH.1.matrix", "statement": "the learned matrix is the closed form's (worst relative distance)",
         "source": "Ahn et al. Theorem 1", "metric": "preconditioner_error_untrapped", "reduce": "max",
         "relation": "at_most", "target": 0.03},
        {"id": "ZFB.lengths", "statement": "the risk at other test lengths is the closed form's (worst deviation)",
         "source": "Zhang, Frei, Bartlett Theorem 4.2", "metric": "test_length_deviation_untrapped", "reduce": "max",
         "relation": "at_most", "target": 0.02},
    )  # fmt: skip
    if variant == "small_weights":
        config.model.init_scale = 0.002
        config.analyses = ("weights", "optimum")
        config.claims = (
            {"id": "AH.1.trapped", "statement": "from small weights more seeds are trapped than one in ten",
             "source": "one_layer:trapped", "metric": "seeds_trapped", "relation": "at_least", "target": 2},
            {"id": "AH.1.rank", "statement": "a trapped seed reads one direction of five (participation ratio)",
             "source": "one_layer:trapped", "metric": "participation_ratio_trapped", "reduce": "max",
             "relation": "at_most", "target": 1.1,
             "note": "they are trapped otherwise than there: beside the labels W_PV reads inputs, which adds a term "
             "without labels, and every direction's step is the shorter for that noise"},
            {"id": "AH.1.label_free", "statement": "a trapped seed's weights read inputs without labels (least share)",
             "source": "found here", "metric": "share_label_free_trapped", "reduce": "min", "relation": "at_least",
             "target": 0.1},
        )  # fmt: skip
    elif variant == "smoke":
        smoke(config)
    elif variant:
        raise ValueError(f"unknown variant {variant!r}; choose from {', '.join(VARIANTS)}")
    return config
