"""Files of ``conf/`` are parsed once in a process and its forks, and not for every command."""

import copy
from pathlib import Path

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult

from clipshift.cli.command import compose_config


def keep_parsed_files() -> None:
    """From now on, Hydra gets a copy of what it has read of a file that has not changed."""
    Plugins.instance()  # registers the sources
    source = SourcesRegistry.instance().resolve("file")
    load = source.load_config
    parsed: dict[tuple[str, str, int], ConfigResult] = {}

    def load_config(self: FileConfigSource, config_path: str) -> ConfigResult:
        name = self._normalize_file_name(config_path)
        file = Path(self.path) / name
        if not file.is_file():
            return load(self, config_path)
        key = self.path, name, file.stat().st_mtime_ns
        if key not in parsed:
            parsed[key] = load(self, config_path)
        return copy.deepcopy(parsed[key])

    source.load_config = load_config
    compose_config("evaluate")
