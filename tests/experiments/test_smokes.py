"""Every config's smoke variant runs, from command line to report: half of them, the others in test_smokes_others.py.

Two files, as tests are spread over the cores by file.
"""

import pytest
from whole import CONFIGS, check_smoke  # beside this file


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS[::2])
def test_smoke(name, tmp_path, capsys):
    check_smoke(name, tmp_path, capsys)
