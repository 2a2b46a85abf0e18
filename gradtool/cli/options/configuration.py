"""Reading the configuration that --config, --isolated and --baseline ask for."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradtool.errors import UsageError

if TYPE_CHECKING:  # it loads all rules, which --help does not need
    from gradtool.rules.config_file import Command, Config


@dataclass(frozen=True, slots=True)
class Configuration:
    """A configuration, and the path of the baseline to compare with, as given or configured."""

    config: Config
    baseline: str | None

    @property
    def files(self) -> tuple[str, ...]:
        """Paths of the configuration file and of the baseline, where there are such."""
        return tuple(file for file in (self.config.path, self.baseline) if file is not None)


def read_configuration(
    config: str | None,
    *,
    isolated: bool,
    baseline: str | None = None,
    command: Command = "check",
) -> Configuration:
    """The configuration in `config` for a command, or none if `isolated`, else the nearest.

    Raises UsageError for a configuration that is wrong.
    """
    from gradtool.rules.config_file import Config, load_config  # noqa: PLC0415 - not for --help

    if isolated and config is not None:
        raise UsageError("--config and --isolated exclude each other")
    if isolated:
        read = Config()
    elif config is None:
        read = _nearest()
    else:
        read = load_config(config, command)
    return Configuration(read, read.settings.baseline if baseline is None else baseline)


def _nearest() -> Config:
    from gradtool.rules.config_file import find_config  # noqa: PLC0415 - as above

    try:
        return find_config(os.curdir)
    except UsageError as error:
        error.hint = error.hint or "--isolated looks for none"
        raise
