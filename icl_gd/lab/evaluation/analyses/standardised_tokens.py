"""The best gradient step on standardised tokens, for comparison with layers behind a LayerNorm."""

from typing import Any

import numpy as np

from icl_gd import learners
from icl_gd.lab.config.questions import Analysis, Evidence, needs
from icl_gd.lab.evaluation.comparing import compare_with
from icl_gd.lab.evaluation.measured import Evaluation, Records
from icl_gd.learners import GDPlusPlusRates, standardised


def check(experiment: Any) -> None:
    needs(experiment, **{"reference.name": "gradient_descent"})


def measure(evaluation: Evaluation, records: Records) -> None:
    """Compares the population with the best gradient step on standardised tokens, as after a LayerNorm.

    For several steps the learner is GD++ with its best pair of rates. Tokens are standardised once, before the first
    step.
    """
    standard = learners.standardise(evaluation.prompts)
    step, n_steps = float(learners.fit_step_size(standard)), len(evaluation.reference.rates["gd"].step_sizes)
    if n_steps == 1:
        name, learner = "gd_standardised", learners.gradient_descent([step])
        records.add_one("step_size_gd_standardised", step / evaluation.task.n_context)
    else:
        start = GDPlusPlusRates(np.full(n_steps, step), np.full(n_steps, step))
        rates = learners.fit_gd_plus_plus_on(standard, start)
        name, learner = "gd_plus_plus_standardised", learners.gd_plus_plus(*rates)
    compare_with(evaluation, records, name, standardised(learner))


ANALYSIS = Analysis(
    "standardised_tokens",
    measure,
    records=(
        "step_size_gd_standardised",
        "loss_gd*_standardised",
        "loss_ratio_gd*_standardised",
        "sensitivity_cosine_gd*_standardised",
        "sensitivity_difference_gd*_standardised",
        "prediction_difference_gd*_standardised",
    ),
    check=check,
    evidence=(
        Evidence("loss_ratio_gd_standardised", at_least=0.9999, at_most=1.0001),
        Evidence("sensitivity_cosine_gd_standardised", at_least=0.9999),
    ),
)
