"""The experiment runner: trains, evaluates and analyses a population, tests claims and writes a report.

    from icl_gd import lab

    experiment = lab.Experiment(task=lab.Regression(), model=lab.Network(), reference=lab.GradientDescent())
    results = lab.run(experiment, "runs/mine")

`icl_gd` itself does not import this package.
"""

from icl_gd.lab.config.claims import Claim, claim
from icl_gd.lab.config.errors import ConfigError
from icl_gd.lab.config.experiment import Experiment
from icl_gd.lab.config.parts import GPT2, Elementwise, Eval, Functions, Network, Regression, Sine, Train
from icl_gd.lab.config.questions import Analysis, Evidence, Picture, Reference
from icl_gd.lab.evaluation.references.deep_features import DeepFeatures
from icl_gd.lab.evaluation.references.gradient_descent import GradientDescent
from icl_gd.lab.evaluation.references.learners import Learners
from icl_gd.lab.evaluation.references.one_step import OneStep
from icl_gd.lab.evaluation.references.prefix_learners import PrefixLearners
from icl_gd.lab.notebook import run
from icl_gd.lab.presets import smoke
from icl_gd.lab.reporting.results import curve

__all__ = [
    "GPT2",
    "Analysis",
    "Claim",
    "ConfigError",
    "DeepFeatures",
    "Elementwise",
    "Eval",
    "Evidence",
    "Experiment",
    "Functions",
    "GradientDescent",
    "Learners",
    "Network",
    "OneStep",
    "Picture",
    "PrefixLearners",
    "Reference",
    "Regression",
    "Sine",
    "Train",
    "claim",
    "curve",
    "run",
    "smoke",
]
