"""Writes the models of the zoo from the workdirs of finished runs.

    python -m experiments.zoo WORKDIRS [NAME ...]

WORKDIRS is a folder with the workdirs of the runs, CONFIG or CONFIG-VARIANT each, such as runs/. All models are
written, or those that are named, to icl_gd/zoo/data/NAME: model.safetensors, config.json and card.json. `MODELS` says
which member of which run each model is. The loss of a card is measured on prompts of its own, and compared with that of
the run. A model that is unchanged is not written again, and keeps the verdict of its card.

Every model has at most 1 MB, and all of them together at most 6 MB.

Exit codes: 0 finished; 1 a model is too large, or its loss is not that of its run; 2 bad input. Nothing is written
unless the code is 0.
"""

import json
import re
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import icl_gd
from experiments.publish import ROOT, claim_key
from icl_gd import analysis, constructions, learners, models
from icl_gd.lab.command_line import load
from icl_gd.lab.config import sweeps
from icl_gd.lab.config.claims import Claim
from icl_gd.lab.config.errors import ConfigError, nearest, one_line
from icl_gd.lab.config.experiment import Experiment
from icl_gd.lab.evaluation.measured import DIVERGES, held_out_key, losses_of_learner, merge_losses
from icl_gd.lab.lifecycle.workdirs import differing, stored_fields
from icl_gd.models import Model
from icl_gd.models.saved import CONFIG, WEIGHTS
from icl_gd.paths import replacing
from icl_gd.tasks import draw_prompts
from icl_gd.training import Population
from icl_gd.types import Predictor
from icl_gd.zoo import Card, Estimate, ReferenceLearner, library
from icl_gd.zoo.cards import encode_task

MOST_BYTES, MOST_BYTES_TOGETHER = 10**6, 6 * 10**6
CARDS = 4  # the purpose of the prompts of cards, beside those of `icl_gd.lab.evaluation.measured`
PROMPTS = {False: 2**18, True: 2**14}  # by whether the model is causal
AT_ONCE = {False: 8192, True: 512}
# The largest accepted difference between the loss of a card and that of its run: standard errors, and a share of it.
STDERRS, SHARE = 5.0, 0.05
WORDING = ("statement", "source", "note")
DIGITS = 6  # of losses and errors
# What the reference learners do, by their name in results.json.
WORDS = {
    "gd": "gradient descent with the best step size, one step",
    "gd_plus_plus": "GD++ with the best pair of rates that all steps share",
    "gd_plus_plus_free_steps": "GD++ with the best pair of rates per step",
    "gd_deep_features": "one gradient step on the meta-learned features of an MLP",
    "least_squares": "least squares of minimal norm",
    "lasso_*": "the Lasso with the best of five penalties",
    "network": "a two-layer network, trained on every prompt by Adam",
    "xgboost": "boosted trees (xgboost), grown on every prompt",
}


# --- which member is shown ---


def median(losses: np.ndarray, free: np.ndarray) -> tuple[int, str]:
    """A typical member: that with the median loss of the free ones."""
    shown = np.flatnonzero(free) if free.any() else np.arange(len(losses))
    which = "the free members" if free.any() else "all members, none of which is free"
    member = int(shown[np.argsort(losses[shown], kind="stable")[len(shown) // 2]])
    return member, f"the member with the median final loss of {which}"


def best(losses: np.ndarray, free: np.ndarray) -> tuple[int, str]:
    """The best member."""
    return int(np.argmin(losses)), "the member with the smallest final loss"


def worst(losses: np.ndarray, free: np.ndarray) -> tuple[int, str]:
    """A trapped member: that with the largest loss."""
    return int(np.argmax(losses)), "the member with the largest final loss"


def first(i: int, losses: np.ndarray, free: np.ndarray) -> tuple[int, str]:
    """The i-th of the free members, in order of their seeds."""
    if i >= free.sum():
        raise ConfigError(f"the run has {free.sum()} free members, but {i + 1} are needed")
    return int(np.flatnonzero(free)[i]), f"number {i + 1} of the free members, in order of seeds"


Rule = Callable[[np.ndarray, np.ndarray], tuple[int, str]]


@dataclass(frozen=True)
class Trained:
    """A trained member of a run.

    Attributes:
      about: what it is, in one sentence.
      config: the config of the run.
      variant: the variant of the config; empty for the config itself.
      fields: the values of swept fields, in a run that trains several populations.
      rule: chooses the member from losses `[member]` and whether members are free.
      metric: the loss per member in results.json.
      reference: a key of `WORDS`.
      construction: the name of the construction that it is compared with.
      concerns: a pattern of the metrics of claims that are about this model. Default: all.
    """

    about: str
    config: str
    variant: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)
    rule: Rule = median
    metric: str = "loss_trained"
    reference: str = "gd"
    construction: str | None = None
    concerns: str = ""


@dataclass(frozen=True)
class Built:
    """A construction that the models of a run are compared with.

    Attributes:
      about: what it is, in one sentence.
      config: the config of the run, which fits the rates.
      reference: the learner that it implements, a key of `WORDS`.
      variant, fields: as of a trained member.
      concerns: a pattern of the metrics of claims that are about the construction.
    """

    about: str
    config: str
    reference: str = "gd"
    variant: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)
    concerns: str = "construction"


ONE_STEP = "one_layer_construction"
SINE = Trained(
    "An MLP and one layer of linear attention that learned sine waves in context.",
    "sine",
    reference="gd_deep_features",
    construction="sine_construction",
)
MODELS: dict[str, Trained | Built] = {
    **{
        f"one_layer_{i}": Trained(
            "One layer of linear attention that learned to take one step of gradient descent.",
            "one_layer",
            rule=partial(first, i),
            construction=ONE_STEP,
        )
        for i in range(3)
    },
    "one_layer_trapped": Trained(
        "One layer of linear attention on a plateau, where labels are keys and inputs are values.",
        "one_layer",
        "trapped",
        rule=worst,
        construction=ONE_STEP,
    ),
    "one_layer_construction": Built(
        "One layer of linear attention, built to take one step of gradient descent.", "one_layer"
    ),
    "two_layers": Trained(
        "Two recurrent layers of linear attention, trained to do what two steps of GD++ do.",
        "two_layers",
        rule=best,
        reference="gd_plus_plus",
        construction="two_layers_construction",
    ),
    "two_layers_construction": Built(
        "Two recurrent layers of linear attention, built to take two steps of GD++.", "two_layers", "gd_plus_plus"
    ),
    "five_layers_recurrent": Trained(
        "Five recurrent layers of linear attention, trained to do what five steps of GD++ do.",
        "five_layers_recurrent",
        rule=best,
        metric="loss_bounded_trained",
        reference="gd_plus_plus",
        construction="five_layers_recurrent_construction",
    ),
    "five_layers_recurrent_construction": Built(
        "Five recurrent layers of linear attention, built to take five steps of GD++.",
        "five_layers_recurrent",
        "gd_plus_plus",
    ),
    "five_layers": Trained(
        "Five layers of linear attention with weights of their own, compared with GD++ with a pair of rates per step.",
        "five_layers",
        metric="loss_bounded_trained",
        reference="gd_plus_plus_free_steps",
        construction="five_layers_construction",
    ),
    "five_layers_construction": Built(
        "Five layers of linear attention, built to take five steps of GD++ with a pair of rates per step.",
        "five_layers",
        "gd_plus_plus_free_steps",
    ),
    "softmax_heads_one": Trained(
        "One softmax head, worse than a step of gradient descent because it cannot cancel the mean of its pattern.",
        "softmax_heads",
        fields={"model.n_heads": 1},
        rule=best,
        construction=ONE_STEP,
        concerns=r"by_n_heads\[1\]",
    ),
    "softmax_heads_two": Trained(
        "Two softmax heads that together take a step of gradient descent on the centred context.",
        "softmax_heads",
        "two",
        construction=ONE_STEP,
    ),
    "softmax_heads_mixed": Trained(
        "One head whose pattern is a learned mixture of softmax and linear attention.",
        "softmax_heads",
        "mixed",
        construction=ONE_STEP,
    ),
    "token_copying": Trained(
        "A softmax layer, which mostly copies, and a linear layer, which takes a step, on separate tokens for x and y.",
        "token_copying",
        construction="token_copying_construction",
    ),
    "token_copying_construction": Built(
        "A softmax layer built to copy every label to the token of its input, then a linear layer built to take one "
        "step of gradient descent.",
        "token_copying",
    ),
    "sine": SINE,
    "sine_construction": Built(
        "A trained MLP, and one layer of linear attention built to take one gradient step on its features.",
        "sine",
        "gd_deep_features",
    ),
    "garg_linear": Trained(
        "A small GPT-2 that learned linear functions of five inputs in context.",
        "garg_linear",
        "toy",
        metric="normalised_error",
        reference="least_squares",
    ),
    "garg_sparse": Trained(
        "A small GPT-2 that learned sparse linear functions of eight inputs in context.",
        "garg_sparse",
        "tiny",
        metric="normalised_error",
        reference="lasso_*",
    ),
    "garg_relu_network": Trained(
        "A small GPT-2 that learned ReLU networks of eight inputs in context.",
        "garg_relu_network",
        "tiny",
        metric="normalised_error",
        reference="network",
    ),
    "garg_decision_tree": Trained(
        "A small GPT-2 that learned decision trees on the signs of eight inputs in context.",
        "garg_decision_tree",
        "tiny",
        metric="normalised_error",
        reference="xgboost",
    ),
}


# --- finished runs ---


@dataclass(frozen=True)
class Run:
    """A finished run, or one population of it.

    Attributes:
      workdir: its workdir.
      command: the command that made it.
      experiment: of the population.
      label: the name of the population in a sweep; empty for the only one.
      metrics: of the population, as in results.json.
      results: the content of results.json.
    """

    workdir: Path
    command: str
    experiment: Experiment
    label: str
    metrics: Mapping[str, Any]
    results: Mapping[str, Any]

    def population(self, name: str = "") -> Population:
        """The trained members, or those of a population that the reference trained.

        Raises:
          ConfigError: if their last checkpoint is missing or unreadable.
        """
        directory = self.workdir / name / "checkpoints" / self.label
        try:
            return icl_gd.load(directory, step=self.experiment["train.steps"])
        except (OSError, ValueError) as error:
            raise ConfigError(f"{directory}: {one_line(error)}") from error

    def chosen(self, one: Trained) -> tuple[int, str]:
        """The index of a member, and the rule by which it was chosen."""
        losses = self.per_member(one.metric)
        return one.rule(losses, np.isin(losses, self.per_member(f"{one.metric}_untrapped")))

    def per_member(self, metric: str) -> np.ndarray:
        """A loss of every member; infinite if it is not finite."""
        return np.array([np.inf if value is None else value for value in self.metrics[metric]["per_seed"]])

    def rates(self, learner: str) -> dict[str, list[float]]:
        """Step sizes and gammas of a learner that the run fitted."""
        if learner == "gd_deep_features":
            return {"step_sizes": [self.experiment.reference.step_size] * self.experiment.network.n_layers}
        if learner == "gd":
            return {"step_sizes": [self.metrics["step_size_gd"]["mean"] * self.experiment["task.n_context"]]}
        step_sizes, gammas = self.results["arrays"]["rates"][learner]
        return {"step_sizes": step_sizes, "gammas": gammas}


@cache
def read_run(workdirs: Path, config: str, variant: str, label: str) -> Run:
    """Reads a finished run of a built-in config.

    Args:
      workdirs: the folder of workdirs.
      config: the name of the config.
      variant: its variant; empty for the config itself.
      label: the name of the population in a sweep; empty for the only one.

    Returns:
      The run.

    Raises:
      ConfigError: if the workdir does not exist, is not finished, or holds a run of other settings.
    """
    workdir = workdirs / (f"{config}-{variant}" if variant else config)
    word = f"configs/{config}.py" + (f":{variant}" if variant else "")
    command = f"python -m experiments.run --config={word}"
    again = f"run {command} --workdir={workdir}"
    if not workdir.is_dir():
        raise ConfigError(f"{workdir}: there is no such workdir; {again}")
    if not (workdir / "results.json").is_file():
        raise ConfigError(f"{workdir} holds no finished run; {again}")
    try:
        results, stored = (json.loads((workdir / name).read_text()) for name in ("results.json", "config.json"))
        experiment = load(ROOT / "configs" / f"{config}.py", variant)
        if (stored["experiment"], stored["variant"] or "") != (config, variant):
            raise ConfigError(f"it holds a run of {stored['experiment']}:{stored['variant']}")
        if differ := differing(experiment, stored_fields(stored)):
            raise ConfigError(f"{', '.join(differ)} differ from those of the config")
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"{workdir} is not a run of {word}: {one_line(error)}; {again}") from error
    results = {**results, "claims": reworded(results["claims"], experiment.claims)}
    for fields, one in experiment.populations():
        if sweeps.label(fields) == label:
            (metrics,) = [point["metrics"] for point in results["sweep"] if point["fields"] == fields] or [None]
            return Run(workdir, command, one, label, metrics or results["metrics"], results)
    raise ConfigError(f"{word} has no population {label}")


def reworded(rows: Sequence[Mapping[str, Any]], claims: Sequence[Claim]) -> list[dict[str, Any]]:
    """Rows of results.json with the wording that their claims have now."""
    words = {claim_key(vars(claim)): {name: getattr(claim, name) for name in WORDING} for claim in claims}
    return [{**row, **words.get(claim_key(row), {})} for row in rows]


def claims_of(run: Run, concerns: str) -> list[dict[str, Any]]:
    """The claims of a run whose metric has the pattern, with their verdicts."""
    return [dict(claim) for claim in run.results["claims"] if re.search(concerns, claim["metric"])]


# --- models ---


def built(run: Run, one: Built) -> tuple[Model, int | None, str]:
    """A construction, the index of the member that its trained parts belong to, if any, and how it was made."""
    task = run.experiment.eval_task
    d, m, n = task.d_input, task.d_output, task.n_context
    rates = run.rates(one.reference)
    if one.reference == "gd_deep_features":
        member, rule = run.chosen(SINE)
        return run.population("learner")[member], member, f"the learner of {rule}"
    if run.experiment.model.layout == "interleaved":
        made = "built by constructions.copying_model with the best step size"
        return constructions.copying_model(d, m, n, rates["step_sizes"]), None, made
    shared = run.experiment.network.shared
    if one.reference == "gd":
        made = "built by constructions.gradient_descent_model"
        return constructions.gradient_descent_model(d, m, n, rates["step_sizes"], shared), None, made
    made = "built by constructions.gd_plus_plus_model"
    return constructions.gd_plus_plus_model(d, m, n, rates["step_sizes"], rates["gammas"], shared), None, made


def learner(run: Run, name: str, member: int | None) -> Predictor:
    """The reference learner, with the rates that the run fitted."""
    rates = run.rates(name)
    if name == "gd_deep_features":
        assert member is not None
        network = run.population("learner")[member]
        embed = models.features(network.config, network.params, run.experiment.eval_task.d_output)
        return learners.deep_gradient_descent(embed, rates["step_sizes"])
    if "gammas" in rates:
        return learners.gd_plus_plus(rates["step_sizes"], rates["gammas"], run.experiment.network.clip)
    return learners.gradient_descent(rates["step_sizes"])


# --- losses ---


def rounded(value: Any) -> float:
    """A number with as many digits as a card has."""
    return float(f"{float(value):.{DIGITS}g}")


def estimate(values: np.ndarray) -> Estimate:
    """The mean of values `[prompt]`."""
    return Estimate(rounded(values.mean()), rounded(values.std() / len(values) ** 0.5), len(values))


def losses_of(predictors: Mapping[str, Predictor], run: Run) -> dict[str, np.ndarray]:
    """The losses `[prompt]` of Predictors on the same prompts; nan where a Predictor diverges."""
    task, causal = run.experiment.eval_task, run.experiment.network.causal
    measured = merge_losses(
        {name: losses_of_learner(each) for name, each in {**predictors, "zero": learners.predict_zero}.items()}
    )
    key = held_out_key(run.experiment.seed, CARDS)
    (losses,) = analysis.sampled_losses(
        [measured], lambda key: (task.sample(key),), key, PROMPTS[causal], AT_ONCE[causal]
    )
    most = DIVERGES * losses.pop("zero").mean()
    return {name: np.where(values <= most, values, np.nan) for name, values in losses.items()}


def normalised_errors(model: Model, run: Run) -> np.ndarray:
    """The errors `[prompt]` of a causal model, divided by that of predicting zero: means over context lengths."""
    task = run.experiment.eval_task
    prompts = draw_prompts(task.sample_prefixes, held_out_key(run.experiment.seed, CARDS), PROMPTS[True])
    measure = jax.jit(partial(analysis.prefix_squared_errors, in_order=task.in_order, at_once=64))
    return np.asarray(measure(model.prefix_predictor, prompts), np.float64).mean(1) / task.label_variance


def prefix_reference(run: Run, pattern: str) -> ReferenceLearner:
    """A learner that predicts at every length, as the run measured it: the best one whose name has the pattern."""
    roles = [role for role in run.results["arrays"]["learners"] if re.fullmatch(pattern.replace("*", ".*"), role)]
    errors = {role: run.metrics[f"normalised_error_{role}"]["mean"] for role in roles}
    role = min(errors, key=lambda role: errors[role])
    n_prompts, variance = run.experiment.eval.prompts, run.experiment.eval_task.label_variance
    at_end = run.results["curves"][f"normalised_error_standard_{role}"]["mean"][-1]
    return ReferenceLearner(
        WORDS[pattern],
        Estimate(rounded(at_end * variance / 2), None, n_prompts),
        Estimate(rounded(errors[role]), None, n_prompts),
    )


def check_loss(name: str, run: Run, one: Trained | Built, card: Card) -> None:
    """Checks that the loss of a card is that of its run, or that of the learner that a construction implements.

    Raises:
      Refused: if it is not.
    """
    measured, prompts = card.normalised_error or card.loss, run.experiment.eval.prompts
    if isinstance(one, Built):
        expected, stderr, source = card.reference.loss.mean, 0.0, "its learner"
    else:
        assert card.member is not None
        expected, source = run.per_member(one.metric)[card.member], f"{run.workdir}/results.json"
        stderr = (measured.stderr or 0.0) * (1 + measured.prompts / prompts) ** 0.5
    if not abs(measured.mean - expected) <= STDERRS * stderr + SHARE * expected:
        raise Refused(f"{name}: the loss is {measured}, but that of {source} is {expected:.4g}")


# --- writing ---


class Refused(Exception):
    """A model cannot be written. The message says why, in one sentence."""


def draft(name: str, run: Run) -> tuple[Model, Card]:
    """A model and its card, without a verdict and without the checksum of the weights."""
    one, task, experiment = MODELS[name], run.experiment.eval_task, run.experiment
    made: dict[str, Any] = {"steps": None, "seed": None, "member": None, "rates": None, "construction": None}
    if isinstance(one, Trained):
        member, rule = run.chosen(one)
        model, made["chosen"], made["construction"] = run.population()[member], rule, one.construction
    else:
        model, member, made["chosen"] = built(run, one)
        made["rates"] = run.rates(one.reference)
    if member is not None:
        made |= {"steps": experiment["train.steps"], "seed": experiment.seed + member, "member": member}
    model = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), model)
    predictors: dict[str, Predictor] = {"model": model.predictor}
    if not model.config.causal:
        predictors["reference"] = learner(run, one.reference, member)
    losses = losses_of(predictors, run)
    bounded = {name: values[~np.isnan(values)] for name, values in losses.items()}
    if model.config.causal:
        made["normalised_error"] = estimate(normalised_errors(model, run))
        reference = prefix_reference(run, one.reference)
    else:
        reference = ReferenceLearner(WORDS[one.reference], estimate(bounded["reference"]))
    card = Card(
        name=name,
        about=one.about,
        task=encode_task(task),
        config=one.config,
        variant=one.variant or None,
        command=run.command,
        claims=claims_of(run, one.concerns),
        loss=estimate(bounded["model"]),
        diverging=rounded(np.isnan(losses["model"]).mean()),
        reference=reference,
        sha256="",
        **made,
    )
    check_loss(name, run, one, card)
    return model, card


def files_of(model: Model, card: Card, before: Path) -> dict[str, bytes]:
    """The files of a model by name, its card last. The card keeps the verdict of the card before, if weights are equal.

    Args:
      model: the model.
      card: its card, without checksum and verdict.
      before: the directory of the model in the zoo, which need not exist.

    Returns:
      The content of every file.
    """
    with tempfile.TemporaryDirectory() as scratch:
        model.save(scratch)
        card = replace(card, sha256=library.checksum(Path(scratch) / WEIGHTS))
        files = {name: (Path(scratch) / name).read_bytes() for name in (WEIGHTS, CONFIG)}
    if (before / library.CARD).exists():
        old = json.loads((before / library.CARD).read_text(encoding="utf-8"))
        if old.get("verdict") is not None and old["sha256"] == card.sha256:
            card = replace(card, verdict=old["verdict"])
        elif old.get("verdict") is not None:
            print(f"note: {card.name}: the verdict is removed, because the weights are others", flush=True)
    content = json.dumps(card.to_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    return files | {library.CARD: content.encode("utf-8")}


def check_sizes(files: Mapping[str, Mapping[str, bytes]], data: Path) -> None:
    """Checks that no model, and not all models together, are too large.

    Args:
      files: the files of every model that is written.
      data: the directory of the zoo, with models that are not written.

    Raises:
      Refused: if one is, or all of them are.
    """
    sizes = {path.name: sum(file.stat().st_size for file in path.iterdir()) for path in data.glob("*/")}
    sizes |= {name: sum(map(len, contents.values())) for name, contents in files.items()}
    for name, size in sizes.items():
        if size > MOST_BYTES:
            raise Refused(f"{name} has {size:,} bytes; at most {MOST_BYTES:,} are accepted")
    if (size := sum(sizes.values())) > MOST_BYTES_TOGETHER:
        raise Refused(f"all models have {size:,} bytes together; at most {MOST_BYTES_TOGETHER:,} are accepted")


def write(directory: Path, files: Mapping[str, bytes]) -> bool:
    """Writes the files of a model, each atomically. A model without card is not in the zoo, so the card is the last.

    Returns:
      Whether something was written; False if all files have this content.
    """
    if all((directory / name).is_file() and (directory / name).read_bytes() == files[name] for name in files):
        return False
    directory.mkdir(parents=True, exist_ok=True)
    (directory / library.CARD).unlink(missing_ok=True)
    for name, content in files.items():
        with replacing(directory / name) as partial:
            partial.write_bytes(content)
    return True


def main(argv: Sequence[str], data: Path = library.DATA) -> int:
    """Runs a command line.

    Args:
      argv: the command line after the name of the program.
      data: the directory of the zoo.

    Returns:
      The exit code.
    """
    if not argv or argv[0] in ("--help", "-h"):
        print(__doc__)
        return 0 if argv else 2
    workdirs, chosen = Path(argv[0]), argv[1:] or list(MODELS)
    try:
        for name in chosen:
            if name not in MODELS:
                raise ConfigError(f"{name}: the zoo has no such model; {nearest(name, MODELS)}")
        of_name = {name: MODELS[name] for name in chosen}
        runs = {
            name: read_run(workdirs, one.config, one.variant, sweeps.label(one.fields)) for name, one in of_name.items()
        }
        files = {}
        for name, run in runs.items():
            files[name] = files_of(*draft(name, run), data / name)
            print(f"made {name}", flush=True)
        check_sizes(files, data)
    except (ConfigError, Refused) as error:
        print("error:", one_line(error), file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    for name, contents in files.items():
        word = "wrote" if write(data / name, contents) else "unchanged:"
        print(f"{word} {name}, {sum(map(len, contents.values())):,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
