"""Every config's smoke variant runs, from command line to report: the second half; test_smokes.py has the first."""

import pytest
from whole import CONFIGS, check_smoke  # from this directory


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS[1::2])
def test_smoke(name, tmp_path, capsys):
    check_smoke(name, tmp_path, capsys)
