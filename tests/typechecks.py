"""Shapes and types in the package's annotations are checked at every call of a function or method, not of closures.

A closure would have its checker made anew whenever it is made itself, in the midst of tracing.
"""

from pathlib import Path

from beartype import beartype
from jaxtyping import _import_hook, install_import_hook

__all__ = ["beartype"]


class _Outermost(_import_hook.JaxtypingTransformer):
    def visit_FunctionDef(self, node):
        body, node.body = node.body, []
        super().visit_FunctionDef(node)
        node.body = body
        return node

    def visit_ClassDef(self, node):
        """Fields of a dataclass, but of those that check their own: it is their words that tests are about."""
        decorators = list(node.decorator_list)
        super().visit_ClassDef(node)
        if node.bases or any(getattr(part, "name", "") == "__post_init__" for part in node.body):
            node.decorator_list = decorators
        return node


# Before anything imports them: all rooms of the package but the runner's.
_import_hook.JaxtypingTransformer = _Outermost
_ROOMS = {path.stem for path in (Path(__file__).parents[1] / "icl_gd").iterdir()} - {
    "__init__",
    "__pycache__",
    "py",
    "lab",
}
# By a name of its own, and so apart from bytecode that checks closures too.
install_import_hook([f"icl_gd.{room}" for room in sorted(_ROOMS)], f"{__name__}.beartype").__enter__()
