"""Prints what a benchmark measured, and puts it between its markers on a page."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

README = Path(__file__).parent / "README.md"


def put(name: str, text: str, page: Path = README) -> None:
    """Replaces what stands between `<!-- NAME:begin -->` and `<!-- NAME:end -->`."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, rest = page.read_text(encoding="utf-8").split(begin)
    page.write_text(f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}", encoding="utf-8")


def command(doc: str | None, name: str, measure: Callable[[], Any], table: Callable[[Any], str]) -> None:
    """What a benchmark without options of its own does: it prints what it measured, and writes it if asked to."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON and nothing else")
    parser.add_argument("--write", action="store_true", help="put the tables into benchmarks/README.md")
    options = parser.parse_args()
    found = measure()
    print(json.dumps(found, indent=1) if options.json else table(found))
    if options.write:
        put(name, table(found))
