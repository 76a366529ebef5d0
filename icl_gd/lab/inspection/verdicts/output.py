"""What is written: verdict.json, and the page report.html."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from icl_gd.identification import Verdict
from icl_gd.identification.fingerprint import Fingerprint
from icl_gd.lab.config.errors import ConfigError
from icl_gd.lab.inspection.verdicts.page import MARK, html
from icl_gd.lab.inspection.verdicts.subject import Examined
from icl_gd.paths import replacing

PAGE, DATA = "report.html", "verdict.json"


def check_output(directory: Path) -> None:
    """Checks that the files can be written to a directory, which is created later if it is missing.

    Raises:
      ConfigError: if the directory cannot be created or is not writable, or holds other files of the same names.
    """
    if directory.is_symlink() and not directory.exists():
        raise ConfigError(
            f"--out={directory} is a link to {directory.readlink()}, which does not exist; remove the link"
        )
    nearest = next(each for each in (directory, *directory.absolute().parents) if each.exists())
    if not nearest.is_dir():
        raise ConfigError(f"--out={directory}: {nearest} is a file; give a directory: --out=DIR")
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise ConfigError(
            f"--out={directory}: cannot write to {nearest} ({error.strerror}); give a writable directory: --out=DIR"
        ) from error
    for name, is_own in ((PAGE, _is_page), (DATA, _is_verdict)):
        path = directory / name
        if path.is_dir() or (path.exists() and not is_own(path)):
            raise ConfigError(
                f"--out={directory}: {name} is there and was not written by icl-gd identify; give another directory, "
                f"such as --out={directory / 'identify'}"
            )


def _is_page(path: Path) -> bool:
    return MARK.encode() in path.read_bytes()[:1000]


def _is_verdict(path: Path) -> bool:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return isinstance(content, dict) and not content.keys().isdisjoint({"verdict", "verdicts"})


def write(
    directory: Path,
    examined: Examined,
    verdicts: Sequence[Verdict],
    fingerprints: Sequence[Fingerprint | None],
    content: Mapping[str, Any],
) -> None:
    """Writes both files, each of them at once.

    Args:
      directory: created if it is missing.
      examined: what was examined.
      verdicts: one per member.
      fingerprints: one per member.
      content: the content of verdict.json.

    Raises:
      ConfigError: if a file cannot be written.
    """
    text = json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False)
    page = html(examined, verdicts, fingerprints, text)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, file in ((PAGE, page), (DATA, text + "\n")):
            with replacing(directory / name) as partial:
                partial.write_text(file, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--out={directory} cannot be written ({error.strerror}); give another directory") from error
