"""Every config's smoke variant runs, from command line to report: the other half of them, see test_smokes.py."""

import pytest
from whole import CONFIGS, check_smoke  # beside this file


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS[1::2])
def test_smoke(name, tmp_path, capsys):
    check_smoke(name, tmp_path, capsys)
