"""Puts what a benchmark measured between its markers on a page."""

from pathlib import Path

README = Path(__file__).parent / "README.md"


def put(name: str, text: str, page: Path = README) -> None:
    """Replaces what stands between `<!-- NAME:begin -->` and `<!-- NAME:end -->`."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, rest = page.read_text(encoding="utf-8").split(begin)
    page.write_text(f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}", encoding="utf-8")
