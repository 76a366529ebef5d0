"""Writes a page to look into a model with: one self-contained HTML file, which works offline.

    icl-gd inspect MODEL_OR_WORKDIR [--output=FILE] [--members=0,1] [--prompts=N] [--n_context=N] [--seed=S]

MODEL_OR_WORKDIR is the workdir of a run, a population or checkpoint in a workdir, a directory written by `Model.save`,
or the name of a model of `icl-gd zoo`. If there is a directory of that name, the directory is used.

The page shows two models side by side: a member, and another member or the construction. For each prompt, layer and
head it shows the tokens, the attention pattern, the values, the prediction after each layer, and the share of the
prediction. Switches replace the output of a head, an attention layer or an MLP by zero or by its mean. Their effects
on the loss are computed in advance, for all combinations of up to six switches. For more switches they are computed
for all pairs, and above 300 pairs for each switch alone.

    --output=FILE    the page. Default: inspect.html in the workdir or in the model's directory, or
                     inspect-NAME.html for a population or checkpoint in a workdir; for a model of the zoo,
                     inspect-NAME.html in the current directory
    --members=0,1    the members to show, or all. Default: the first two
    --prompts=N      the number of prompts to show. Default: 6
    --n_context=N    examples in a prompt. Default: that of the run or of the zoo's card; for another saved model, its
                     input dimension, or as many as its positions allow
    --seed=S         determines the prompts, which no member was trained on. Default: 0

The prompts are drawn from the task of the run or of the zoo's card. For another saved model, the task is linear
regression with normal inputs. A page is at most 10 MB large, and it replaces only an earlier page. Example:

    icl-gd inspect two_layers
    icl-gd inspect runs/one_layer --members=0,3 --prompts=6

Exit codes: 0 the page is written; 1 an error occurred, nothing was written; 2 bad input, nothing was written;
130 stopped by Ctrl-C, nothing was written.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from icl_gd.lab.config.errors import ConfigError, nearest, one_line
from icl_gd.lab.inspection.content import page_data
from icl_gd.lab.inspection.ends import exit_code
from icl_gd.lab.inspection.page import check_output, write_page
from icl_gd.lab.inspection.subject import find, load_subject
from icl_gd.lab.lifecycle import settings
from icl_gd.lab.lifecycle.devices import check_device
from icl_gd.paths import local

FLAGS = ("--output", "--members", "--prompts", "--n_context", "--seed")
FIRST = 2  # members that are shown by default
DEFAULTS = {"prompts": "6", "seed": "0"}


def main(words: Sequence[str]) -> int:
    """Writes the page that a command line asks for.

    Args:
      words: the words after `icl-gd inspect`.

    Returns:
      The exit code.
    """
    if any(word in ("--help", "-h", "-help", "help") for word in words):
        print(__doc__)
        return 0
    return exit_code(lambda: _write(*_parsed(words)))


def _parsed(words: Sequence[str]) -> tuple[str, dict[str, str]]:
    """The path and the flags of a command line."""
    paths, given, words = [], dict(DEFAULTS), list(words)
    while words:
        word = words.pop(0)
        flag, equals, value = word.partition("=")
        if not word.startswith("-"):
            paths.append(word)
        elif flag not in FLAGS:
            raise ConfigError(f"{flag}: unknown flag; {nearest(flag, FLAGS)}")
        elif not equals and not words:
            raise ConfigError(f"{flag} needs a value: {flag}=VALUE")
        else:
            given[flag.removeprefix("--")] = value if equals else words.pop(0)
    if len(paths) != 1:
        many = f"{len(paths)} paths are given ({', '.join(paths)})" if paths else "the path is missing"
        raise ConfigError(f"{many}; give one workdir or model: icl-gd inspect MODEL_OR_WORKDIR")
    return paths[0], given


def _write(path: str, given: Mapping[str, str]) -> str:
    """Writes the page.

    Returns:
      One line about it.
    """
    n_prompts = _number(given, "prompts", 1, 1000)
    seed = _number(given, "seed", 0, 2**32 - 1)
    n_context = _number(given, "n_context", 1, 10_000) if "n_context" in given else None
    place = find(path)
    try:
        output = local(given["output"], "--output") if "output" in given else place.page
    except ValueError as error:
        raise ConfigError(one_line(error)) from error
    check_output(output)
    check_device(place.precision)
    with settings.jax_settings(place.precision, quickly=False):
        subject = load_subject(place, n_context)
        members = _members(given, len(subject.members))
        data = page_data(subject, members, n_prompts, seed)
        size = write_page(data, output)
    return _in_words(output, size, data)


def _in_words(output: Path, size: int, data: Mapping) -> str:
    """What was written, in one line."""
    kinds = [side["kind"] for side in data["sides"]]
    shown = [
        f"{kinds.count(kind)} {kind}{'s' * (kinds.count(kind) > 1)}"
        for kind in ("member", "construction")
        if kind in kinds
    ]
    prompts = f"{len(data['prompts'])} prompt{'s' * (len(data['prompts']) > 1)}"
    content = ", ".join((*shown, prompts))
    return f"wrote {output} ({size / 1e6:.2g} MB): {content}, losses over {data['n_losses']:,} prompts"


def _number(given: Mapping[str, str], flag: str, least: int, most: int) -> int:
    """The value of a flag, checked to be a whole number in a range."""
    text = given[flag]
    if not re.fullmatch(r"\d{1,12}", text) or not least <= int(text) <= most:
        raise ConfigError(f"--{flag}={text}: must be a whole number from {least} to {most}")
    return int(text)


def _members(given: Mapping[str, str], n_members: int) -> list[int]:
    """The numbers of the members to show."""
    text = given.get("members")
    if text is None:
        return list(range(min(FIRST, n_members)))
    if text == "all":
        return list(range(n_members))
    numbers = text.split(",")
    if not all(re.fullmatch(r"\d{1,9}", number) and int(number) < n_members for number in numbers):
        raise ConfigError(f"--members={text}: must be numbers from 0 to {n_members - 1}, such as --members=0,1, or all")
    if len(set(map(int, numbers))) < len(numbers):
        raise ConfigError(f"--members={text}: a member is given twice; give it once")
    return [int(number) for number in numbers]
