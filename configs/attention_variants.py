"""Attention modified as its dual model suggests: does it learn better (Ren & Liu 2310.13220, section 5)?

    python -m experiments.run --config=configs/attention_variants.py

One layer of softmax attention that reads the query too, on linear, trigonometric and exponential tasks, y = W f(x) with
x ~ U(-1, 1)^5 and 15 examples: regularised by alpha, with negative samples by beta (a quarter of the others), keys and
values augmented by small perceptrons, and all of these together, five seeds each, 300 members in one population a task.
Every member is compared with the unmodified one of its seed. Ten minutes on two CPU cores. Variants: `smoke`.
"""

from dataclasses import replace

from icl_gd.lab import Claim, Experiment, claim, smoke
from icl_gd.lab.presets import dual_models

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


def helps(task: str) -> tuple[Claim, ...]:
    """What is expected of modifications, one at a time."""
    at = (
        f"{{}}[task.name={task},model.alpha={{}},model.beta={{}},model.augment_keys={{}},model.augment_values={{}}]"
    ).format
    ratio = lambda *modified: at("loss_ratio_plain", *modified)
    name = f"AV.{task}"
    less = {"source": "RL section 5", "at_most": 1.0, "reduce": "upper"}
    claims = (
        claim(f"{name}.plain", "plain softmax learns something of the task (mean loss; that of zero is .5)",
              metric=at("loss_trained", 0.0, 0.0, 0.0, 0.0), source="control", at_most=0.4),
        claim(f"{name}.keys",
              "augmented keys help (loss over that of plain softmax, upper end of the 95 % interval over seeds)",
              metric=ratio(0.0, 0.0, 1.0, 0.0), **less),
        claim(f"{name}.values", "augmented values help (the same)", metric=ratio(0.0, 0.0, 0.0, 1.0), **less),
        claim(f"{name}.alpha", "the regulariser at alpha = .5 helps (the same)",
              metric=ratio(0.5, 0.0, 0.0, 0.0), **less),
        claim(f"{name}.beta", "negative samples at beta = .25 help (the same)",
              metric=ratio(0.0, 0.25, 0.0, 0.0), **less),
        claim(f"{name}.beta_everywhere", "and in every seed (worst; stated after the run)",
              metric=ratio(0.0, 0.25, 0.0, 0.0), **less | {"reduce": "max"}),
    )  # fmt: skip
    return tuple(replace(its, note=WHY.get(its.id, "")) for its in claims)


def get_config(variant: str = "") -> Experiment:
    experiment = dual_models().change({
        "task.name": TASKS,
        "model.n_heads": 1,
        "model.share": 0.25,
        "model.alpha": (-1.0, -0.5, 0.0, 0.5, 1.0),
        "model.beta": (0.0, 0.25, 0.5),
        "model.augment_keys": (0.0, 1.0),
        "model.augment_values": (0.0, 1.0),
        "train.steps": 2000,
        "train.batch_size": 64,
        "train.log_every": 500,
        "train.checkpoint_every": 2000,
        "eval.prompts": 8192,
        "eval.curve_prompts": 512,
        "claims": tuple(its for task in TASKS for its in helps(task)),
    })  # fmt: skip
    if variant == "smoke":
        return smoke(
            experiment,
            {"task.name": ("linear", "exponential"), "model.alpha": (0.0, 0.5), "model.beta": (0.0, 0.5)},
        )
    return experiment
