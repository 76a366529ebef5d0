"""The spectral fingerprint as a figure, and as SVG inside HTML, in the colours of the page's theme."""

import io
import re
from typing import Any

from icl_gd import plots
from icl_gd.identification.fingerprint import Fingerprint

SIZE = 4.2, 3.6  # inches; a page of 400 px shows it without making text smaller
MEASURED = plots.ROLES["trained"][1]


def fingerprint_svg(seen: Fingerprint, answer: str, name: str) -> str:
    """Draws a fingerprint for a page.

    Args:
      seen: the fingerprint.
      answer: the family of the verdict.
      name: begins all ids inside, so that several figures fit on one page.

    Returns:
      The element `<svg>`.
    """
    with plots.style():
        return _inline(fingerprint_figure(seen, answer), name)


def fingerprint_figure(seen: Fingerprint, answer: str) -> Any:
    """Draws a fingerprint: the measured filter, and those of all hypotheses.

    Args:
      seen: the fingerprint.
      answer: the family of the verdict.

    Returns:
      The Matplotlib figure.
    """
    figure, ax = plots.subplots(figsize=SIZE)
    plots.spectral_filters(ax, seen.measured, seen.fitted, answer=answer, framed=seen.usual)
    if seen.is_whitened:
        ax.set_xlabel(r"eigenvalue $\lambda$ of $A^{1/2} X^\top X A^{1/2} / n$")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def _inline(figure: Any, name: str) -> str:
    """A figure as one element of HTML: without a background and addresses, with own ids, black in the text's colour."""
    import matplotlib

    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": name}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = text.replace("xlink:href", "href")
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'(href="|url\()#', rf"\1#{name}-", text)
    text = re.sub(r"(stroke|fill): #000000", r"\1: currentColor", text)
    text = re.sub(rf"(stroke|fill): {MEASURED}", r"\1: var(--measured)", text, flags=re.IGNORECASE)
    width, height = (float(size) for size in re.findall(r'(?:width|height)="([\d.]+)pt"', text)[:2])
    size = f'viewBox="0 0 {width:g} {height:g}" fill="currentColor"'
    text = re.sub(
        "<svg [^>]*>", f'<svg {size} role="img" aria-label="Spectral fingerprint, see the caption">', text, count=1
    )
    return text.strip()
