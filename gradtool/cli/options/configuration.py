"""The configuration that counts."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradtool.errors import UsageError

if TYPE_CHECKING:  # the rules come with it, which --help is not for
    from gradtool.rules.config_file import Config


@dataclass(frozen=True, slots=True)
class Configuration:
    """What was read, and the baseline to compare with: as given, else as configured."""

    config: Config
    baseline: str | None

    @property
    def files(self) -> tuple[str, ...]:
        """The files that it is made of."""
        return tuple(file for file in (self.config.path, self.baseline) if file is not None)


def read_configuration(
    config: str | None, *, isolated: bool, baseline: str | None = None
) -> Configuration:
    """The configuration of a command; UsageError for one that is wrong."""
    from gradtool.rules.config_file import Config, load_config  # noqa: PLC0415 - not for --help

    if isolated and config is not None:
        raise UsageError("--config and --isolated exclude each other")
    if isolated:
        found = Config()
    elif config is None:
        found = _nearest()
    else:
        found = load_config(config)
    return Configuration(found, found.settings.baseline if baseline is None else baseline)


def _nearest() -> Config:
    from gradtool.rules.config_file import find_config  # noqa: PLC0415 - as above

    try:
        return find_config(os.curdir)
    except UsageError as error:
        error.hint = error.hint or "--isolated looks for none"
        raise
