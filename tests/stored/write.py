"""Writes runs and models of this version of the code, so that tests of later versions can read them.

    python tests/stored/write.py DIRECTORY

Every run becomes DIRECTORY/NAME.tar.gz. It contains the workdir without figures and report (which are drawn again), and
`asked.json`: the config, the arguments and the predictions of the trained members. Start the script in a checkout of
the version. `tests/experiments/test_stored.py` reads the archives that are committed in this directory.
"""

import json
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

import icl_gd
from icl_gd import interop, models, tokens

FEW = (
    "seeds=2",
    "train.batch_size=16",
    "eval.prompts=64",
    "eval.curve_prompts=32",
    "train.checkpoint_every=5",
    "train.log_every=5",
)
LINEAR = (
    *FEW,
    "train.steps=10",
    "task.d_input=2",
    "task.n_context=3",
    "analyses=('alignment',)",
    "model.init_scale=1.0",
)
RUNS = {
    "finished": ("one_layer", LINEAR),
    "interrupted": ("one_layer", (*LINEAR, "train.steps=400")),
    "swept_in_turn": ("one_layer", (*LINEAR, "task.n_context=(3,5)")),
    "swept_together": ("one_layer", (*LINEAR, "train.learning_rate=(0.01,0.1)")),
    "deep": ("two_layers", (*FEW, "train.steps=10", "task.d_input=2", "task.n_context=3", "analyses=('alignment',)")),
    "gpt2": (
        "garg_linear",
        (
            *FEW,
            "train.steps=10",
            "seeds=1",
            "task.d_input=2",
            "task.n_context=4",
            "model.d_embed=8",
            "model.n_layers=1",
            "eval.suite=('standard',)",
            "eval.baselines=('least_squares',)",
        ),
    ),
    "sine": (
        "sine",
        (
            *FEW,
            "train.steps=10",
            "task.n_context=3",
            "model.d_embed=4",
            "model.input_mlp_width=5",
            "model.init_scale=1.0",
        ),
    ),
    "modified": (
        "attention_variants",
        (
            *FEW,
            "train.steps=10",
            "task.d_input=2",
            "task.n_context=3",
            "model.alpha=(0.0,0.5)",
            "model.beta=0.25",
            "model.augment_keys=1.0",
            "model.augment_values=0.0",
        ),
    ),
}
DRAWN = ("figures", "report.html")  # not stored


def command(config: str, words: tuple[str, ...], workdir: Path) -> list[str]:
    settings = [f"--config.{word}" for word in words]
    return [
        sys.executable,
        "-m",
        "experiments.run",
        f"--config=configs/{config}.py:smoke",
        f"--workdir={workdir}",
        *settings,
    ]


def complete(config: str, words: tuple[str, ...], workdir: Path) -> dict[str, Any]:
    subprocess.run(command(config, words, workdir), check=True, stdout=subprocess.DEVNULL)
    return json.loads((workdir / "results.json").read_text())


def interrupt(config: str, words: tuple[str, ...], workdir: Path) -> None:
    """Stops a run after its first chunk."""
    with subprocess.Popen(command(config, words, workdir), stdout=subprocess.DEVNULL) as process:
        metrics = workdir / "metrics.jsonl"
        while process.poll() is None and not (metrics.exists() and metrics.stat().st_size):
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
    assert process.returncode == 143, process.returncode


def problem(d_input: int, n_context: int, d_output: int = 1) -> tuple[jax.Array, ...]:
    """A fixed problem `x [n d], y [n m], x_query [d]`, on which models predict."""
    rng = np.random.default_rng(0)

    def draw(*shape):
        return jax.numpy.asarray(rng.uniform(-1, 1, shape).astype(np.float32))

    return draw(n_context, d_input), draw(n_context, d_output), draw(d_input)


def predictions(directory: Path) -> dict[str, Any]:
    """The predictions of all members on a fixed problem, by the directory of their checkpoints."""
    result, config = {}, json.loads((directory / "config.json").read_text())["config"]
    inside = sorted(path for path in (directory / "checkpoints").iterdir() if path.is_dir())
    for path in [directory] if all(path.name.isdecimal() for path in inside) else inside:
        population = icl_gd.load(path)
        # A task whose inputs or labels always have dimension 1 has no such field.
        d_input, d_output = (config["task"].get(name, 1) for name in ("d_input", "d_output"))
        x, y, x_query = problem(d_input, first_n_context(config), d_output)
        y_hat = [np.asarray(predict(x, y, x_query)).tolist() for predict in population.predictors]
        result[str(path.relative_to(directory))] = y_hat
    return result


def first_n_context(config: dict[str, Any]) -> int:
    n_context = config["task"]["n_context"]
    return n_context if isinstance(n_context, int) else n_context[0]


def pack(workdir: Path, to: Path, asked: dict[str, Any]) -> None:
    (workdir / "asked.json").write_text(json.dumps(asked, indent=1) + "\n")
    with tarfile.open(to, "w:gz") as archive:
        for path in sorted(workdir.iterdir()):
            if path.name not in DRAWN and not path.name.startswith("events"):
                archive.add(path, path.name)


def store_runs(directory: Path, above: Path) -> None:
    for name, (config, words) in RUNS.items():
        workdir, asked = above / name, {"config": config, "words": words}
        if name == "interrupted":
            asked["ends"] = complete(config, words, above / "whole")["metrics"]
            interrupt(config, words, workdir)
        else:
            complete(config, words, workdir)
        pack(workdir, directory / f"{name}.tar.gz", asked | {"predictions": predictions(workdir)})
        print(name, (directory / f"{name}.tar.gz").stat().st_size, "bytes", flush=True)


PRETRAINED = {
    "pretrained_linear": (models.TransformerConfig(4, 2, 2, shared=True), "concatenated", 3),
    "pretrained_gpt2": (models.gpt2_config(2, 9, 8, 1, 2, d_read_out=1), "alternating", 2),
    "pretrained_modified": (
        models.TransformerConfig(
            3,
            1,
            2,
            attention="softmax",
            attend_to_query=True,
            modification=models.Modification(0.5, 0.5, 0.25),
        ),
        "concatenated",
        2,
    ),
}


def store_models(directory: Path, above: Path) -> None:
    for name, (config, layout, d_input) in PRETRAINED.items():
        model = models.Model(config, models.init(config, jax.random.key(0)), tokens.LAYOUTS[layout](d_input, 1))
        model.save(above / name)
        same = interop.from_pretrained(above / name)
        pack(
            above / name,
            directory / f"{name}.tar.gz",
            {"predictions": np.asarray(same.predictor(*problem(d_input, 4))).tolist()},
        )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as above:
        Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
        store_runs(Path(sys.argv[1]), Path(above))
        store_models(Path(sys.argv[1]), Path(above))
