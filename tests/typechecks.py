"""Checks shapes and types in the package's annotations at every call of a function or method, except of closures.

A closure is defined at every call of its outer function, possibly while JAX traces it. Its checker would be built again
each time.
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
        """Checks the fields of a dataclass, unless it checks them itself: tests expect its own error messages."""
        decorators = list(node.decorator_list)
        super().visit_ClassDef(node)
        if node.bases or any(getattr(part, "name", "") == "__post_init__" for part in node.body):
            node.decorator_list = decorators
        return node


# All packages except the runner. This must run before anything imports them.
_import_hook.JaxtypingTransformer = _Outermost
_PACKAGES = {path.stem for path in (Path(__file__).parents[1] / "icl_gd").iterdir()} - {
    "__init__",
    "__pycache__",
    "py",
    "lab",
}
# The checker has a new name, so that cached bytecode that also checks closures is not used.
install_import_hook([f"icl_gd.{package}" for package in sorted(_PACKAGES)], f"{__name__}.beartype").__enter__()
