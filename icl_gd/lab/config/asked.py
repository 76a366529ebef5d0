"""A checked request for a run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

Config: TypeAlias = Any  # an `ml_collections.ConfigDict`, of whose fields a type checker knows nothing


@dataclass(frozen=True)
class Processes:
    """The processes of a run; all None where the cluster is to be asked."""

    coordinator: str | None = None
    count: int | None = None
    index: int | None = None


@dataclass(frozen=True)
class Run:
    """A checked request: the resolved config and where its results go."""

    config: Config
    name: str
    variant: str | None
    workdir: Path
    overridden: tuple[str, ...]  # fields that differ from the config file's
    processes: Processes | None = None  # None for a run in one process
    profile: bool = False  # whether it says where its seconds went
