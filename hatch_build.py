"""Puts every manual page of man/ into its part of the manual: share/man/man1, man5, man7."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ManualPages(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name == "wheel":
            for page in sorted(Path(self.root, "man").glob("*.[1-9]")):
                build_data["shared_data"][str(page)] = f"share/man/man{page.suffix[1:]}/{page.name}"
