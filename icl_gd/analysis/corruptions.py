"""Corruptions: pairs of prompts that differ in one respect, for activation patching.

A corruption is a pure function `(other, prompt) -> prompt`, where `other` is another prompt of equal shapes, from which
the new parts are taken; `permuted_examples` takes a random key instead. `jax.vmap` maps over prompts.

>>> import icl_gd
>>> task = icl_gd.LinearRegression(d_input=3, n_context=4)
>>> prompt, other = (task.sample(key) for key in jax.random.split(jax.random.key(0)))
>>> corrupted = one_label(other, prompt, index=2)
>>> (corrupted.y != prompt.y)[:, 0].tolist(), bool((corrupted.x == prompt.x).all())
([False, False, True, False], True)
>>> sorted(CORRUPTIONS)[:3]
['all_labels', 'another_function', 'another_query']
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from icl_gd.types import Array, Prompt

Labels = Callable[[Any, Array], Array]  # `(w, x [n d]) -> y [n m]`, for example `Functions.apply` of `tasks.functions`
Index = int | np.integer | Array


def linear_labels(w: Any, x: Array) -> Array:
    """The labels of a linear function.

    Returns:
      `y [n m]` for weights `[m d]` and inputs `[n d]`.

    Raises:
      ValueError: if `w` is not an array `[m d]`.
    """
    if not isinstance(w, jax.Array | np.ndarray) or w.ndim != 2 or w.shape[1] != x.shape[1]:
        given = f"an array of shape {w.shape}" if hasattr(w, "shape") else f"a {type(w).__name__}"
        raise ValueError(
            f"prompt.w is {given}, not the weights [m d] of a linear function; give labels=f, where f(w, x [n d]) is "
            "y [n m]"
        )
    return x @ w.T


def another_function(other: Prompt, prompt: Prompt, labels: Labels = linear_labels) -> Prompt:
    """The function of another prompt labels the same inputs. The noise of the labels is kept.

    Args:
      other: the prompt whose function is taken.
      prompt: the prompt that is changed.
      labels: `(w, x [n d]) -> y [n m]`, the labels that a function gives. Default: those of linear functions.

    Returns:
      The prompt with new labels, y_query and w.

    Raises:
      ValueError: if the prompts have different shapes; or if `labels` is not given and a function is not linear.
    """
    _check(other, prompt)
    noise = prompt.y - labels(prompt.w, prompt.x)
    y_query = labels(other.w, prompt.x_query[None])[0]
    return prompt._replace(y=labels(other.w, prompt.x) + noise, y_query=y_query, w=other.w)


def all_labels(other: Prompt, prompt: Prompt) -> Prompt:
    """All labels of the context are those of another prompt, so they have no relation to the inputs.

    Returns:
      The prompt with new labels. The hidden label y_query does not change.

    Raises:
      ValueError: if the prompts have different shapes.
    """
    _check(other, prompt)
    return prompt._replace(y=other.y)


def one_label(other: Prompt, prompt: Prompt, index: Index = 0) -> Prompt:
    """The label of one example is that of another prompt.

    Args:
      other: the prompt whose label is taken.
      prompt: the prompt that is changed.
      index: the example; a traced index that is out of range changes nothing. Default: the first.

    Returns:
      The prompt with one new label.

    Raises:
      ValueError: if the prompts have different shapes, or there is no such example.
    """
    _check(other, prompt, index)
    return prompt._replace(y=_with_row(prompt.y, other.y, index))


def one_input(other: Prompt, prompt: Prompt, index: Index = 0) -> Prompt:
    """The input of one example is that of another prompt, with the label of the old input.

    Args:
      other: the prompt whose input is taken.
      prompt: the prompt that is changed.
      index: the example; a traced index that is out of range changes nothing. Default: the first.

    Returns:
      The prompt with one new input.

    Raises:
      ValueError: if the prompts have different shapes, or there is no such example.
    """
    _check(other, prompt, index)
    return prompt._replace(x=_with_row(prompt.x, other.x, index))


def one_example(other: Prompt, prompt: Prompt, index: Index = 0) -> Prompt:
    """Input and label of one example are those of another prompt.

    Args:
      other: the prompt whose example is taken.
      prompt: the prompt that is changed.
      index: the example; a traced index that is out of range changes nothing. Default: the first.

    Returns:
      The prompt with one new example, which another function labels.

    Raises:
      ValueError: if the prompts have different shapes, or there is no such example.
    """
    return one_label(other, one_input(other, prompt, index), index)


def another_query(other: Prompt, prompt: Prompt, labels: Labels = linear_labels) -> Prompt:
    """The query is that of another prompt.

    Args:
      other: the prompt whose query is taken.
      prompt: the prompt that is changed.
      labels: `(w, x [n d]) -> y [n m]`, the labels that a function gives. Default: those of linear functions.

    Returns:
      The prompt with a new query, and the hidden label y_query that its own function gives.

    Raises:
      ValueError: if the prompts have different shapes; or if `labels` is not given and a function is not linear.
    """
    _check(other, prompt)
    return prompt._replace(x_query=other.x_query, y_query=labels(prompt.w, other.x_query[None])[0])


def permuted_examples(key: Array, prompt: Prompt) -> Prompt:
    """The examples are in random order.

    Returns:
      The prompt with its examples permuted.

    Raises:
      ValueError: if `key` is a prompt, or `prompt` is several prompts.
    """
    if isinstance(key, Prompt):
        raise ValueError("permuted_examples draws an order; give a random key first, not another prompt")
    _check_one(prompt)
    order = jax.random.permutation(key, len(prompt.x))
    return prompt._replace(x=jnp.asarray(prompt.x)[order], y=jnp.asarray(prompt.y)[order])


def _check_one(prompt: Prompt) -> None:
    """Checks that a prompt has no batch axis: an index or an order would select prompts instead of examples.

    Raises:
      ValueError: if it has one.
    """
    if prompt.x.ndim != 2:
        raise ValueError(f"prompt.x has shape {prompt.x.shape}; give one prompt [n d], and use jax.vmap for several")


def _with_row(rows: Array, others: Array, index: Index) -> Array:
    """One row is that of another array."""
    return jnp.asarray(rows).at[index].set(jnp.asarray(others)[index])


def _check(other: Any, prompt: Any, index: Index | None = None) -> None:
    """Checks that two prompts have equal shapes, and that they have an example if an index is given.

    Raises:
      ValueError: if they do not.
    """
    for place, value in (("first", other), ("second", prompt)):
        if not isinstance(value, Prompt):
            raise ValueError(f"the {place} argument is a {type(value).__name__}; give (other, prompt), two Prompts")
    _check_one(prompt)
    shapes, expected = [tuple(part.shape for part in each[:3]) for each in (other, prompt)]
    if shapes != expected:
        raise ValueError(
            f"the other prompt has shapes x, y, x_query = {shapes}, the prompt {expected}; give equal shapes"
        )
    n = len(prompt.x)
    if index is not None and not isinstance(index, Tracer) and not -n <= index < n:
        raise ValueError(f"index={index} is out of range; give {-n} to {n - 1}")


CORRUPTIONS: dict[str, Callable[[Any, Prompt], Prompt]] = {
    "another_function": another_function,
    "all_labels": all_labels,
    "one_label": one_label,
    "one_input": one_input,
    "one_example": one_example,
    "another_query": another_query,
    "permuted_examples": permuted_examples,
}
