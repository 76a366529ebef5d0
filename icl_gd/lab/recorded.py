"""What every recipe does around its measurements: a finished run is redrawn, another one measured, judged and shown."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from icl_gd.lab.config.asked import Run
from icl_gd.lab.lifecycle import continuation, costs
from icl_gd.lab.reporting import results
from icl_gd.training import mesh


def recorded(run: Run, measure: Callable[[], dict[str, Any]]) -> None:
    """Runs a config from start (or from its last checkpoint) to report; a finished run is only redrawn.

    Args:
      measure: gives what goes into results.json: metrics, curves, arrays, sweep.
    """
    workdir, stored = run.workdir, run.config.to_dict()
    done = continuation.finished(workdir, stored)
    if mesh.told_by_first(done is not None):
        if done is None:
            return  # another process has it
        print(f"{workdir} holds a finished run; drawing its figures and report again")
        present(workdir, done)
        return
    began, resumed = time.time(), continuation.last_step(workdir)
    about = {"experiment": run.name, "variant": run.variant, **results.provenance(run.config.precision)}
    continuation.store(workdir, about, stored)
    costs.stage("references")
    found = measure()
    done = {**about, "steps": stored["train"]["steps"], "wall_seconds": time.time() - began, **found}
    done |= {"resumed_at": resumed} if resumed else {}  # the seconds are of the last process
    done["claims"] = results.check_claims(stored["claims"], done, run.overridden)
    results.write_json(workdir / "results.json", done)
    present(workdir, json.loads((workdir / "results.json").read_text()))


def present(workdir: Path, done: dict[str, Any]) -> None:
    """Draws figures and report from the results alone, and prints what holds."""
    costs.stage("drawing")
    from icl_gd.lab.reporting import (
        figures,
        report,  # Matplotlib takes half a second to import: not before training
    )

    captions = figures.draw(done, workdir / "figures")
    config = json.loads((workdir / "config.json").read_text())["config"]
    page = report.write_report(workdir, done, config, captions)
    for claim in done["claims"]:
        value = "nan" if claim["value"] is None else f"{claim['value']:.5g}"
        print(f"{'holds' if claim['holds'] else 'FAILS'}  {claim['id']:<28} {value:>10}  {claim['statement']}")
    print(f"report: {page}")
