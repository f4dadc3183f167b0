"""Tune's logger callbacks, switched on by name."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from flatdist.errors import LaunchError
from flatdist.machine.environment import import_ray
from flatdist.suggestions import did_you_mean

if TYPE_CHECKING:
    from ray.tune import Callback

LOGGERS = {
    "tensorboard": ("ray.tune.logger", "TBXLoggerCallback"),
    "csv": ("ray.tune.logger", "CSVLoggerCallback"),
    "json": ("ray.tune.logger", "JsonLoggerCallback"),
    "mlflow": ("ray.air.integrations.mlflow", "MLflowLoggerCallback"),
    "wandb": ("ray.air.integrations.wandb", "WandbLoggerCallback"),
}
_PACKAGES = {"tensorboard": "tensorboardX", "mlflow": "mlflow", "wandb": "wandb"}


def check_loggers(names: Sequence[str]) -> None:
    """Refuse loggers that do not exist or whose packages are missing, before anything is started.

    Raises:
        LaunchError: names the nearest logger, or the package to install.
    """
    for name in names:
        if name not in LOGGERS:
            hint = did_you_mean(name, LOGGERS)
            raise LaunchError(f"logger {name!r} does not exist{hint}; allowed: {', '.join(LOGGERS)}")
        package = _PACKAGES.get(name)
        if package is not None and find_spec(package) is None:
            raise LaunchError(f"logger {name!r} needs the package {package}; pip install {package}")


def tune_loggers(names: Sequence[str]) -> list[Callback]:
    """Tune's logger callbacks by name.

    Raises:
        LaunchError: no such logger, or its package is not installed.
    """
    check_loggers(names)
    if not names:
        return []
    import_ray(local=False)
    callbacks = []
    for name in names:
        module, attribute = LOGGERS[name]
        try:
            callbacks.append(getattr(import_module(module), attribute)())
        except (ImportError, RuntimeError) as error:
            raise LaunchError(f"logger {name!r} cannot be used: {error}; install its package") from error
    return callbacks
