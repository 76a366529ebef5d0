"""When copying starts, and that separate tokens are refused or compared as they should be."""

from pathlib import Path

import numpy as np

from experiments.analyses.copying import lasting_from

CONFIG = f"--config={Path(__file__).parents[2]}/configs/token_copying.py"


def test_the_step_from_which_something_lasts():
    holds = np.array([[1, 0, 0, 1], [0, 1, 0, 1], [1, 1, 0, 1]], bool)
    np.testing.assert_array_equal(lasting_from(np.array([10, 20, 30]), holds), [30, 20, np.nan, 10])
