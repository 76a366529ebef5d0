"""The global optimum of one linear-attention layer on anisotropic Gaussian inputs with label noise.

    python -m experiments.run --config=configs/gaussian_optimum.py

Ahn et al. 2306.00297 Theorem 1, Zhang, Frei and Bartlett 2306.09927 Theorem 4.1: preconditioned gradient descent with
the matrix Gamma^{-1}. d = 5, N = 20, rotated covariance, noise .5; about three minutes on two CPU cores. Expected:
trained loss within 0.5 % of the closed form, learned matrix within 3 % of Gamma^{-1}, and the closed form's risk at
test lengths from N/4 to 8N. Variants: `smoke`.
"""

from experiments.defaults import base_config, smoke

VARIANTS = ("smoke",)


def get_config(variant: str = ""):
    config = base_config()
    config.seeds = 5
    config.task.d_input = 5
    config.task.n_context = 20
    config.task.inputs = "normal"
    config.task.eigenvalues = (2.0, 1.4, 0.9, 0.5, 0.2)
    config.task.rotation_seed = 0
    config.task.noise_std = 0.5
    config.train.steps = 10_000
    config.train.schedule = "cosine"
    config.train.learning_rate = 3e-3
    config.train.share_batches = True
    config.analyses = ("optimum",)
    config.claims = (
        {"id": "AH.1.loss", "statement": "trained layers reach the closed-form optimum (worst loss ratio)",
         "source": "Ahn et al. Theorem 1", "metric": "loss_ratio_optimal_untrapped", "reduce": "max",
         "relation": "at_most", "target": 1.005},
        {"id": "AH.1.matrix", "statement": "the learned matrix is the closed form's (worst relative distance)",
         "source": "Ahn et al. Theorem 1", "metric": "preconditioner_error_untrapped", "reduce": "max",
         "relation": "at_most", "target": 0.03},
        {"id": "ZFB.lengths", "statement": "the risk at other test lengths is the closed form's (worst deviation)",
         "source": "Zhang, Frei, Bartlett Theorem 4.2", "metric": "test_length_deviation_untrapped", "reduce": "max",
         "relation": "at_most", "target": 0.02},
    )  # fmt: skip
    if variant == "smoke":
        smoke(config)
    elif variant:
        raise ValueError(f"unknown variant {variant!r}; choose from {', '.join(VARIANTS)}")
    return config
