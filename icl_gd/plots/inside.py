"""What a model does inside: shares of a prediction, and curves over its layers.

The first axis of every array is the member of a population. Lines and bars are means over members; bands and error bars
are ranges over members.

    >>> from icl_gd.plots.roles import COLUMN, subplots
    >>> figure, ax = subplots(figsize=(COLUMN, 2.0))
    >>> ax = lens(ax, [[0.5, 0.2, 0.1], [0.5, 0.3, 0.1]], {"least_squares": 0.05}, label="loss")
    >>> ax.lines[0].get_ydata().tolist(), ax.get_legend_handles_labels()[1]
    ([0.5, 0.25, 0.1], ['trained', 'least squares'])
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from icl_gd.plots.curves import horizontal_line, line
from icl_gd.plots.roles import ROLES, Axes, role_of

# Parts of an attribution -> name of one component, colour.
PARTS = {
    "embed": ("embedding", ROLES["embedding"][1]),
    "pos_embed": ("position", ROLES["embedding"][1]),
    "heads": ("L{} H{}", ROLES["trained"][1]),
    "mlps": ("L{} MLP", "#56B4E9"),
    "constant": ("constant", ROLES["untrained"][1]),
    "clip": ("L{} clip", "#CC79A7"),
}
SUM = "black"
FLOOR = -0.25  # the lowest R^2 that is shown


def curve_of_members(x: Sequence[Any], members: Any, name: str) -> dict[str, Any]:
    """A curve with the mean and the range over members.

    Args:
      x: values of the x axis.
      members: `[member x]`.
      name: what the values are, for error messages.

    Returns:
      `x`, `mean`, and `low` and `high`, the range over members.

    Raises:
      ValueError: if the shape is another, or a value is not finite.
    """
    values = np.asarray(members, float)
    if values.ndim != 2 or values.shape[1] != len(x) or not len(values):
        raise ValueError(f"{name} has shape {values.shape}; give [member {len(x)}], for one member {name}[None]")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} has values that are not finite; leave these members out")
    return {"x": list(x), "mean": values.mean(0), "low": values.min(0), "high": values.max(0)}


def shares(ax: Axes, attribution: Mapping[str, Any], *, label: str = "share of the prediction") -> Axes:
    """Draws the shares of a prediction as horizontal bars, and their sum.

    Components follow each other in the order of the forward pass, from the top. A part whose shares are all zero, such
    as MLPs of a model without MLPs, is left out.

    Args:
      ax: the Axes.
      attribution: `embed`, `pos_embed` and `constant [member]`, `heads [member layer head]`, `mlps` and `clip
        [member layer]`, or some of them: the fields of `analysis.Attribution` for one output, and one prompt or the
        mean over prompts.
      label: label of the x axis.

    Returns:
      The same Axes.

    Raises:
      ValueError: if there is another part, shapes do not agree, a value is not finite, or all shares are zero.
    """
    names, colours, columns = [], [], []
    for name, colour, values in _components(attribution):
        names.append(name)
        colours.append(colour)
        columns.append(values)
    if not columns:
        raise ValueError("all shares are zero; give the attribution of another prompt or model")
    total = np.sum(columns, axis=0)
    curve = curve_of_members([*names, "sum"], np.stack([*columns, total], axis=1), "attribution")
    heights, mean = np.arange(len(names) + 1), curve["mean"]
    ax.barh(heights, mean, height=0.7, color=[*colours, SUM])
    reach = np.abs(np.stack([curve["low"], curve["high"]]) - mean)
    if len(total) > 1:
        ax.errorbar(mean, heights, xerr=reach, fmt="none", ecolor="#666666", elinewidth=0.9, capsize=1.5)
    ax.axvline(0.0, color="black", linewidth=0.6)
    ax.axhline(len(names) - 0.5, color="#999999", linewidth=0.6)
    ax.set_yticks(heights, curve["x"], fontsize=7)
    ax.set_ylim(len(names) + 0.6, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel(label)
    ax.locator_params(axis="x", nbins=5)
    return ax


def _components(attribution: Mapping[str, Any]) -> list[tuple[str, str, np.ndarray]]:
    """Name, colour and shares `[member]` of every component that is not zero, in the order of the forward pass."""
    if unknown := sorted(attribution.keys() - PARTS.keys()):
        raise ValueError(f"attribution has the part {unknown[0]!r}; the parts are {', '.join(PARTS)}")
    axes = {"heads": 3, "mlps": 2, "clip": 2}
    parts = {part: np.asarray(values, float) for part, values in attribution.items()}
    sizes = {(len(values) if values.ndim else 0) for values in parts.values()}
    for part, values in parts.items():
        if values.ndim != axes.get(part, 1) or len(sizes) > 1:
            shape = ["member", "layer", "head"][: axes.get(part, 1)]
            raise ValueError(
                f"{part} has shape {values.shape}; give [{' '.join(shape)}], with equal members in all parts"
            )
    parts = {part: parts[part] for part in PARTS if part in parts and parts[part].any()}
    outside = {"embed": -1, "pos_embed": -1, "constant": np.inf}  # before and after all layers
    components = {}  # by layer, part and index
    for order, (part, values) in enumerate(parts.items()):
        name, colour = PARTS[part]
        for index in np.ndindex(values.shape[1:]):
            layer = index[0] if index else outside[part]
            components[layer, order, index] = name.format(*index), colour, values[(slice(None), *index)]
    return [components[place] for place in sorted(components)]


def lens(
    ax: Axes,
    members: Any,
    references: Mapping[str, Any] | None = None,
    *,
    label: str,
    role: str = "trained",
    names: Sequence[str] | None = None,
    log: bool = False,
) -> Axes:
    """Draws what is read off the residual before the first layer and after each one: predictions or losses.

    Args:
      ax: the Axes.
      members: `[member depth]`.
      references: by role, one number (a horizontal line) or values `[depth]` (hollow markers), such as those of
        gradient descent after as many steps. Default: none.
      label: label of the y axis, such as "loss".
      role: the role of the model. Default: "trained".
      names: names of the residuals. Default: the number of layers applied.
      log: make the y axis logarithmic. Default: False.

    Returns:
      The same Axes.

    Raises:
      ValueError: if shapes do not agree, a value is not finite, or not positive on a logarithmic axis.
    """
    depth = np.shape(members)[-1] if np.ndim(members) else 0
    x = list(range(depth))
    curve, steps, levels = curve_of_members(x, members, "members"), {}, {}
    for name, values in (references or {}).items():
        if np.ndim(values):
            steps[name] = curve_of_members(x, np.asarray(values, float)[None], f"reference {name}")["mean"]
        else:
            levels[name] = float(values)
    lowest = min(np.min(values) for values in (curve["low"], *steps.values(), *levels.values()))
    if log and lowest <= 0:
        raise ValueError("log=True needs positive values, and some are not; set log=False")
    line(ax, curve, role, marker="o")
    for i, (name, values) in enumerate(steps.items()):
        label_of_role, colour, _ = role_of(name)
        ax.plot(x, values, "sD^v"[i % 4], color=colour, markersize=5.0, markerfacecolor="none", label=label_of_role)
    for name, value in levels.items():
        horizontal_line(ax, value, name)
    if log:
        _log_axis(ax)
    _depth_axis(ax, x, names)
    ax.set_ylabel(label)
    return ax


def probes(ax: Axes, r2: Mapping[str, Any], *, names: Sequence[str] | None = None) -> Axes:
    """Draws R^2 of probes over layers, beside controls.

    R^2 below -0.25 is marked by a triangle at the lower edge.

    Args:
      ax: the Axes.
      r2: by role `[member layer]`: `trained` and controls such as `shuffled` and `untrained`, of one target and one
        position. A role `[member 1]`, such as `embedding`, is a horizontal line.
      names: names of the layers. Default: the number of layers applied, from 1.

    Returns:
      The same Axes.

    Raises:
      ValueError: if there is no role, shapes do not agree, or a value is not finite.
    """
    if not r2:
        raise ValueError('r2 is empty; give R^2 by role, such as {"trained": [[0.2, 0.9]]}')
    order = [*ROLES, *(role for role in r2 if role not in ROLES)]
    arrays = {role: np.asarray(r2[role], float) for role in order if role in r2}
    layers = max((values.shape[-1] for values in arrays.values() if values.ndim), default=0)
    x = list(range(1, layers + 1))
    for role, values in arrays.items():
        if layers > 1 and values.shape[-1:] == (1,):
            curve = curve_of_members([0], values, role)
            low, high = curve["low"][0], curve["high"][0]
            horizontal_line(ax, float(curve["mean"][0]), role)
            if high > low:
                ax.axhspan(low, high, color=role_of(role)[1], alpha=0.2, linewidth=0)
        else:
            curve = curve_of_members(x, values, role)
            line(ax, curve, role, marker="o" if role == "trained" or layers == 1 else "")
            if beyond := [at for at, mean in zip(x, curve["mean"], strict=True) if mean < FLOOR]:
                edge = ax.get_xaxis_transform()
                ax.plot(beyond, [0.03] * len(beyond), "v", color=role_of(role)[1], clip_on=False, transform=edge)
    lowest = min(float(values.min()) for values in arrays.values())
    ax.set_ylim(max(min(-0.05, lowest - 0.03), FLOOR), 1.05)
    _depth_axis(ax, x, names)
    ax.set_ylabel("$R^2$")
    return ax


def _log_axis(ax: Axes) -> None:
    """Makes the y axis logarithmic, with several plain numbers if it spans few powers of ten."""
    from matplotlib.ticker import AutoLocator, LogLocator, NullFormatter

    ax.set_yscale("log")
    low, high = ax.get_ylim()
    if high < 200 * low and low > 1e-4 and high < 1e5:
        subs = (1.0, 2.0, 3.0, 4.0, 6.0) if high < 10 * low else (1.0, 2.0, 5.0)
        ax.yaxis.set_major_locator(AutoLocator() if high < 3 * low else LogLocator(subs=subs))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter(NullFormatter())


def _depth_axis(ax: Axes, x: Sequence[int], names: Sequence[str] | None) -> None:
    """Labels the x axis with names, or with the number of layers applied, of which at most 13 are written."""
    if names is not None and len(names) != len(x):
        raise ValueError(f"{len(names)} names for {len(x)} layers; give one name for each")
    stride = -(-len(x) // 13) if names is None else 1
    ax.set_xticks(x[::stride], [str(i) for i in x[::stride]] if names is None else names)
    if names is None:
        ax.set_xlabel("layers applied")
    margin = 0.06 * max(len(x) - 1, 1)
    ax.set_xlim(x[0] - margin, x[-1] + margin)
