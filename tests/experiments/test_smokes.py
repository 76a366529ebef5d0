"""Every config's smoke variant runs, from command line to report: the first half; test_smokes_others.py has the rest.

There are two files because tests are distributed over cores by file.
"""

import pytest
from whole import CONFIGS, check_smoke  # from this directory


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS[::2])
def test_smoke(name, tmp_path, capsys):
    check_smoke(name, tmp_path, capsys)
