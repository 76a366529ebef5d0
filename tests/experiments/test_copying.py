"""When copying starts, and that separate tokens are refused or compared as they should be."""

from pathlib import Path

import numpy as np

from experiments.analyses.copying import lasting_from
from experiments.recipes.linear_attention import gradient_steps
from experiments.settings import parse

CONFIG = f"--config={Path(__file__).parents[2]}/configs/token_copying.py"


def test_the_step_from_which_something_lasts():
    holds = np.array([[1, 0, 0, 1], [0, 1, 0, 1], [1, 1, 0, 1]], bool)
    np.testing.assert_array_equal(lasting_from(np.array([10, 20, 30]), holds), [30, 20, np.nan, 10])


def test_the_first_of_layers_on_separate_tokens_takes_no_step():
    steps = lambda *more: gradient_steps(parse(["run", CONFIG, "--workdir=/tmp/nowhere", *more]).config)
    assert steps() == 1
    assert steps("--config.model.n_layers=4", "--config.model.attention=softmax,linear,linear,linear") == 3
    assert steps("--config.model.n_layers=1", "--config.model.attention=softmax") == 1
    assert steps("--config.model.layout=concatenated", "--config.analyses=('alignment',)") == 2
