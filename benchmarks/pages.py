"""Functions that all benchmarks share: they parse the command line, print measurements, and write tables to a page."""

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
    """Replaces the text between `<!-- NAME:begin -->` and `<!-- NAME:end -->` on a page.

    Args:
      name: name of the markers.
      text: the new text.
      page: path of the page. Default: benchmarks/README.md.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, rest = page.read_text(encoding="utf-8").split(begin)
    page.write_text(f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}", encoding="utf-8")


def parser(doc: str | None, page: Path = README) -> ArgumentParser:
    """A parser of the options that all benchmarks share. A benchmark may add its own options.

    Args:
      doc: description of the benchmark.
      page: the page that --write changes. Default: benchmarks/README.md.

    Returns:
      The parser.
    """
    shared = ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared.add_argument("--json", action="store_true", help="print the measurements as JSON and nothing else")
    shared.add_argument("--write", action="store_true", help=f"replace the tables in {page.relative_to(ROOT)}")
    shared.add_argument("--smoke", action="store_true", help="run tiny sizes, in seconds, to test the benchmark")
    return shared


def parse(parser: ArgumentParser) -> Namespace:
    """Reads the command line, and configures JAX for a smoke run.

    Returns:
      The options.
    """
    options = parser.parse_args()
    if options.smoke and options.write:
        parser.error("--smoke with --write: measurements of tiny sizes are not written; use one of the two options")
    if options.smoke:  # compilation dominates: optimise less, in this process and in those that it starts
        import jax  # imported here, because it takes a second and --help does not need it

        jax.config.update("jax_disable_most_optimizations", True)
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false".strip()
    return options


def report(options: Namespace, records: Any, tables: Mapping[str, str], page: Path = README) -> None:
    """Prints the measurements, and writes the tables to the page if --write is set.

    Args:
      options: the result of `parse`.
      records: the measurements, for --json.
      tables: Markdown text of each table, by the name of its markers.
      page: the page that --write changes. Default: benchmarks/README.md.
    """
    if options.json:
        print(json.dumps(records, indent=1))
    else:
        notes = ["Smoke run: the sizes are tiny, so the measurements mean nothing."] if options.smoke else []
        print("\n\n".join([*notes, *tables.values()]))
    if options.write:
        for name, text in tables.items():
            put(name, text, page)


def missing(extra: str, *modules: str) -> str | None:
    """Says what to install if modules of an extra are missing.

    Args:
      extra: the extra of the package that installs them.
      modules: names of the modules.

    Returns:
      The missing modules and the command that installs them; None if all are installed.
    """
    absent = [module for module in modules if find_spec(module) is None]
    return f"{' and '.join(absent)} not installed: pip install 'icl-gd[{extra}]'" if absent else None
