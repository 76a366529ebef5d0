"""Does attention learn better with the modifications that its dual model suggests (Ren & Liu 2310.13220, section 5)?

    python -m experiments.run --config=configs/attention_variants.py

The model is one layer of softmax attention in which all tokens also attend to the query. The tasks are linear,
trigonometric and exponential: y = W f(x) with x ~ U(-1, 1)^5 and 15 examples. There are four modifications: a
regulariser (strength alpha), negative samples (strength beta; a quarter of the other demonstrations are negative), and
small MLPs that augment the keys or the values. All combinations are trained with five seeds each: 300 members in one
population per task. Every member is compared with the unmodified member of the same seed. A run takes ten minutes on
two CPU cores.

Variants: `smoke`.
"""

from dataclasses import replace
from typing import Any

from icl_gd.lab import Claim, Experiment, claim, smoke
from icl_gd.lab.presets import dual_models

VARIANTS = ("smoke",)
TASKS = ("linear", "trigonometric", "exponential")

WHY_KEYS = "With augmented keys every seed has the same loss as without them, or a loss up to 1 % larger."
WHY_VALUES = (
    "The loss is the same to three digits, except in seeds where unmodified attention is stuck; some of these seeds "
    "escape."
)
WHY_BETA = (
    "The loss falls in every seed. One seed escapes where unmodified attention is stuck, so the interval is wide."
)
NOTES = {"keys": WHY_KEYS, "values": WHY_VALUES, "alpha": WHY_VALUES, "beta": WHY_BETA}
WHY = {
    **{f"AV.{task}.{name}": note for task in ("linear", "trigonometric") for name, note in NOTES.items()},
    "AV.exponential.alpha": "The loss is the same to four digits.",
}


def claims_for(task: str) -> tuple[Claim, ...]:
    """Claims that each modification alone lowers the loss on one task."""

    def at(metric: str, alpha: float, beta: float, keys: float, values: float) -> str:
        """The name of a metric at one combination of the modifications."""
        return (
            f"{metric}[task.name={task},model.alpha={alpha},model.beta={beta},model.augment_keys={keys},"
            f"model.augment_values={values}]"
        )

    name = f"AV.{task}"
    ratio = "ratio to unmodified attention, upper end of its 95 % interval over seeds"
    lower_loss: dict[str, Any] = {"source": "RL section 5", "at_most": 1.0, "reduce": "upper"}
    claims = (
        claim(
            f"{name}.plain",
            f"on the {task} task, unmodified softmax attention learns something (mean loss over "
            "seeds; predicting zero has 0.5)",
            metric=at("loss_trained", 0.0, 0.0, 0.0, 0.0),
            source="control",
            at_most=0.4,
        ),
        claim(
            f"{name}.keys",
            f"on the {task} task, keys augmented by an MLP lower the loss ({ratio})",
            metric=at("loss_ratio_plain", 0.0, 0.0, 1.0, 0.0),
            **lower_loss,
        ),
        claim(
            f"{name}.values",
            f"on the {task} task, values augmented by an MLP lower the loss ({ratio})",
            metric=at("loss_ratio_plain", 0.0, 0.0, 0.0, 1.0),
            **lower_loss,
        ),
        claim(
            f"{name}.alpha",
            f"on the {task} task, the regulariser with alpha = 0.5 lowers the loss ({ratio})",
            metric=at("loss_ratio_plain", 0.5, 0.0, 0.0, 0.0),
            **lower_loss,
        ),
        claim(
            f"{name}.beta",
            f"on the {task} task, negative samples with beta = 0.25 lower the loss ({ratio})",
            metric=at("loss_ratio_plain", 0.0, 0.25, 0.0, 0.0),
            **lower_loss,
        ),
        claim(
            f"{name}.beta_everywhere",
            f"on the {task} task, negative samples with beta = 0.25 lower the loss in every seed "
            "(largest ratio to unmodified attention; stated after the run)",
            metric=at("loss_ratio_plain", 0.0, 0.25, 0.0, 0.0),
            source="RL section 5",
            at_most=1.0,
            reduce="max",
        ),
    )
    return tuple(replace(each, note=WHY.get(each.id, "")) for each in claims)


def get_config(variant: str = "") -> Experiment:
    experiment = dual_models().change(
        {
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
            "claims": tuple(each for task in TASKS for each in claims_for(task)),
        }
    )
    if variant == "smoke":
        return smoke(
            experiment,
            {"task.name": ("linear", "exponential"), "model.alpha": (0.0, 0.5), "model.beta": (0.0, 0.5)},
        )
    if variant:
        raise ValueError(f"unknown variant {variant!r}; choose from {', '.join(VARIANTS)}")
    return experiment
