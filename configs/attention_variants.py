"""Attention modified as its dual model suggests: does it learn better (Ren & Liu 2310.13220, section 5)?

    python -m experiments.run --config=configs/attention_variants.py

One layer of softmax attention that reads the query too, on linear, trigonometric and exponential tasks, y = W f(x) with
x ~ U(-1, 1)^5 and 15 examples: regularised by alpha, with negative samples by beta (a quarter of the others), keys and
values augmented by small perceptrons, and all of these together, five seeds each, 300 members in one population a task.
Every member is compared with the unmodified one of its seed. Ten minutes on two CPU cores. Variants: `smoke`.
"""

from icl_gd.lab.config.defaults import base_config, dual_models, smoke
from icl_gd.lab.config.sweeps import sweep

VARIANTS = ("smoke",)
TASKS = ("linear", "trigonometric", "exponential")

WHY_KEYS = "with augmented keys every seed is as good as without, or worse by up to one in a hundred"
WHY_VALUES = "nothing changes to three digits, but for seeds that plain softmax leaves stuck, of which some get out"
WHY_BETA = "it helps in every seed; one of them gets out of where plain softmax is stuck, which makes the interval wide"
WHY = {
    **{f"AV.{task}.{name}": note for task in ("linear", "trigonometric")
       for name, note in (("keys", WHY_KEYS), ("values", WHY_VALUES), ("alpha", WHY_VALUES), ("beta", WHY_BETA))},
    "AV.exponential.alpha": "nothing changes to four digits",
}  # fmt: skip


def helps(task: str) -> tuple:
    """What is expected of modifications, one at a time."""
    at = (
        f"{{}}[task.name={task},model.alpha={{}},model.beta={{}},model.augment_keys={{}},model.augment_values={{}}]"
    ).format
    ratio = lambda *modified: at("loss_ratio_plain", *modified)
    name = f"AV.{task}"
    less = {"source": "RL section 5", "reduce": "upper", "relation": "at_most", "target": 1.0}
    claims = (
        {"id": f"{name}.plain", "statement": "plain softmax learns something of the task (mean loss; that of zero is "
         ".5)", "source": "control", "metric": at("loss_trained", 0.0, 0.0, 0.0, 0.0), "relation": "at_most",
         "target": 0.4},
        {"id": f"{name}.keys", "statement": "augmented keys help (loss over that of plain softmax, upper end of the "
         "95 % interval over seeds)", "metric": ratio(0.0, 0.0, 1.0, 0.0), **less},
        {"id": f"{name}.values", "statement": "augmented values help (the same)",
         "metric": ratio(0.0, 0.0, 0.0, 1.0), **less},
        {"id": f"{name}.alpha", "statement": "the regulariser at alpha = .5 helps (the same)",
         "metric": ratio(0.5, 0.0, 0.0, 0.0), **less},
        {"id": f"{name}.beta", "statement": "negative samples at beta = .25 help (the same)",
         "metric": ratio(0.0, 0.25, 0.0, 0.0), **less},
        {"id": f"{name}.beta_everywhere", "statement": "and in every seed (worst; stated after the run)", **less,
         "metric": ratio(0.0, 0.25, 0.0, 0.0), "reduce": "max"},
    )  # fmt: skip
    return tuple({**claim, "note": WHY.get(claim["id"], "")} for claim in claims)


def get_config(variant: str = ""):
    config = dual_models(base_config())
    config.model.n_heads = 1
    config.train.batch_size = 64
    config.train.steps = 2000
    config.train.log_every = 500
    config.train.checkpoint_every = 2000
    config.eval.prompts, config.eval.curve_prompts = 8192, 512
    config.model.share = 0.25
    sweep(config.task, name=TASKS)
    sweep(config.model, alpha=(-1.0, -0.5, 0.0, 0.5, 1.0), beta=(0.0, 0.25, 0.5),
          augment_keys=(0.0, 1.0), augment_values=(0.0, 1.0))  # fmt: skip
    config.claims = tuple(claim for task in TASKS for claim in helps(task))
    if variant == "smoke":
        smoke(config)
        sweep(config.task, name=("linear", "exponential"))
        sweep(config.model, alpha=(0.0, 0.5), beta=(0.0, 0.5), augment_keys=(0.0, 1.0), augment_values=(0.0, 1.0))
    return config
