"""Ships configs/ in a wheel, as data of the package; an editable install reads them where they lie."""

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Configs(BuildHookInterface):
    """Adds configs/ to what a wheel holds."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "standard":
            build_data["force_include"]["configs"] = "icl_gd/configs"
