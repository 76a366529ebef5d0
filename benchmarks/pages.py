"""What benchmarks share: their command line, what they print, and tables between markers on a page."""

import argparse
import json
import os
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
README = ROOT / "benchmarks" / "README.md"


def put(name: str, text: str, page: Path = README) -> None:
    """Replaces what stands between `<!-- NAME:begin -->` and `<!-- NAME:end -->`."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, rest = page.read_text(encoding="utf-8").split(begin)
    page.write_text(f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}", encoding="utf-8")


def parser(doc: str | None, page: Path = README) -> ArgumentParser:
    """The command line of every benchmark, to which one may add options of its own."""
    shared = ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared.add_argument("--json", action="store_true", help="print the figures as JSON and nothing else")
    shared.add_argument("--write", action="store_true", help=f"put the tables into {page.relative_to(ROOT)}")
    shared.add_argument("--smoke", action="store_true", help="tiny sizes, in seconds: shows that the benchmark runs")
    return shared


def parse(parser: ArgumentParser) -> Namespace:
    """Reads the command line; figures of tiny sizes are not written."""
    options = parser.parse_args()
    if options.smoke and options.write:
        parser.error("--smoke with --write: figures of tiny sizes stay off the page; leave out one of the two")
    if options.smoke:  # compiles more than it computes: cheap code, here and in processes that are started
        import jax  # a second to import

        jax.config.update("jax_disable_most_optimizations", True)
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false".strip()
    return options


def report(options: Namespace, found: Any, tables: Mapping[str, str], page: Path = README) -> None:
    """Prints what was measured, and puts each table between the markers of its name if asked to."""
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        said = ["Smoke: tiny sizes, whose figures say nothing."] if options.smoke else []
        print("\n\n".join([*said, *tables.values()]))
    if options.write:
        for name, text in tables.items():
            put(name, text, page)


def missing(extra: str, *modules: str) -> str | None:
    """What to install, in words, where one of an extra's modules is not; None where all are."""
    absent = [module for module in modules if find_spec(module) is None]
    return f"{' and '.join(absent)} not installed: pip install 'icl-gd[{extra}]'" if absent else None
