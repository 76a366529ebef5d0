"""Predictions and sensitivities beside gradient descent's, with controls."""

from experiments.study import EVERY, Found, Study, aligned


def alignment(study: Study, found: Found) -> None:
    """Alignment to gradient descent, next to an untrained control and a control with the wrong step size."""
    for name, values in study.watched.items():
        if name != "loss_trained":
            found.add(name, values)
    for name, values in study.watched_untrained.items():
        if name != "loss_trained":
            found.add(f"{name}_untrained", values, over=EVERY[:1])
    control = aligned(study.reference.wrong_step, study.reference, study.prompts)
    for name, value in control.items():
        if name.endswith("_gd"):
            found.add_one(f"{name}_wrong_step", float(value))
