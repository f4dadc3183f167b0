"""User-defined methods and ensembles: from a file sent to every worker, or from a package's entry points.

A file's content is part of the provenance of every row that was computed with it loaded, and of the identity of the
cells whose method or ensemble it defines: if the file changes, they are different cells.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
import traceback
import types
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from flatdist.errors import LaunchError
from flatdist.methods import METHODS, Method
from flatdist.sensing.ensembles import ENSEMBLES, Ensemble

MAX_BYTES = 1_000_000
_GROUPS = ("flatdist.methods", "flatdist.ensembles")
_REGISTRIES: dict[str, Any] = {"method": METHODS, "ensemble": ENSEMBLES}
_loaded: dict[str, Plugin] = {}  # digest -> plugin
_owners: dict[tuple[str, str], Plugin] = {}  # ("method", name) or ("ensemble", name) -> the plugin that defines it


@dataclass(frozen=True)
class Plugin:
    """A file that defines methods or ensembles; plain data, sent to every worker."""

    name: str  # of the file, or PACKAGE:ENTRY for an entry point
    source: str  # the file's text; empty for an entry point, whose package every worker has
    digest: str  # hash of the content

    def __str__(self) -> str:
        return f"{self.name}:{self.digest}"


def load_plugin(path: str | os.PathLike[str]) -> Plugin:
    """Read and run a plugin file, and register every method and ensemble among its module's names.

    Raises:
        LaunchError: the file cannot be read or run, defines nothing, or defines a name that already exists.
    """
    where = f"plugin {os.fspath(path)}"
    try:
        source = Path(path).read_bytes()
        text = source.decode() if len(source) <= MAX_BYTES else ""
    except OSError as error:
        raise LaunchError(f"{where}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise LaunchError(f"{where}: is not UTF-8 text: {error}") from error
    if len(source) > MAX_BYTES:
        raise LaunchError(f"{where}: has {len(source):,} bytes; allowed: at most {MAX_BYTES:,}")
    if not text.strip():
        raise LaunchError(f"{where}: is empty; see docs/extending.md")
    plugin = Plugin(Path(path).name, text, hashlib.sha256(source).hexdigest()[:16])
    use_plugins([plugin])
    return plugin


def use_plugins(plugins: Iterable[Plugin]) -> None:
    """Run plugins and register what they define, unless that has been done already.

    Raises:
        LaunchError: as :func:`load_plugin`; names the plugin and the line.
    """
    for plugin in plugins:
        if plugin.digest in _loaded:
            continue
        if not plugin.source:
            here = any(one.name == plugin.name for one in _loaded.values())
            what = "differs from the one where the sweep was started" if here else "is not installed"
            raise LaunchError(f"package {plugin.name} {what}; install the same version on every node")
        module = types.ModuleType(f"flatdist_plugin_{plugin.digest}")
        module.__file__ = plugin.name
        sys.modules[module.__name__] = module  # so that runner="…:solve" can name the file's own functions
        try:
            exec(compile(plugin.source, plugin.name, "exec"), module.__dict__)  # noqa: S102 - the user's own file
            _register(plugin, vars(module))
        except BaseException as error:
            del sys.modules[module.__name__]
            if isinstance(error, LaunchError):
                raise
            why = f"{type(error).__name__}: {error}"
            raise LaunchError(f"plugin {plugin.name}{_line(error, plugin.name)}: {why}") from error


def _register(plugin: Plugin, names: Mapping[str, Any]) -> None:
    """Take in the methods and ensembles among some objects, all or none."""
    built_in = {id(value) for registry in _REGISTRIES.values() for value in registry.values()}
    found = {id(value): value for value in names.values() if isinstance(value, (Method, Ensemble))}
    new = [("method" if isinstance(value, Method) else "ensemble", value) for value in found.values()]
    new = [(kind, value) for kind, value in new if id(value) not in built_in]
    if not new:
        raise LaunchError(f"plugin {plugin.name}: defines no method and no ensemble; see docs/extending.md")
    for kind, value in new:
        owner = _owners.get((kind, value.name))
        if value.name in _REGISTRIES[kind] and (owner is None or owner.name != plugin.name):  # an edited file replaces
            whose = f"plugin {owner.name}" if owner is not None else "flatdist"
            why = f"{whose} already has the {kind} {value.name!r}; give yours another name"
            raise LaunchError(f"plugin {plugin.name}: {why}")
    for old in [one for one in _loaded.values() if one.name == plugin.name]:
        del _loaded[old.digest]
    _loaded[plugin.digest] = plugin
    for kind, value in new:
        _REGISTRIES[kind][value.name] = value
        _owners[kind, value.name] = plugin


def loaded_plugins() -> tuple[Plugin, ...]:
    """The plugins of this process, in the order in which they were loaded."""
    return tuple(_loaded.values())


def digests_of(method: str, ensemble: str) -> dict[str, str]:
    """Digests of the plugins that define a method or an ensemble; they are part of the identity of its cells."""
    owners = {kind: _owners.get((kind, name)) for kind, name in (("method", method), ("ensemble", ensemble))}
    return {f"{kind}_plugin": owner.digest for kind, owner in owners.items() if owner is not None}


def forget_plugins() -> None:
    """Unregister everything that plugins have registered; for tests and notebooks."""
    for kind, name in _owners:
        _REGISTRIES[kind].pop(name, None)
    for plugin in _loaded.values():
        sys.modules.pop(f"flatdist_plugin_{plugin.digest}", None)
    _owners.clear()
    _loaded.clear()


def load_entry_points() -> None:
    """Register what installed packages offer; skip one that cannot be loaded, with a warning."""
    offered = entry_points()  # looks at every installed package: once
    for group in _GROUPS:
        for entry in offered.select(group=group):
            try:
                value = entry.load()
                spec = importlib.util.find_spec(entry.module)
                content = Path(spec.origin).read_bytes() if spec is not None and spec.origin else entry.value.encode()
                digest = hashlib.sha256(content + entry.value.encode()).hexdigest()[:16]
                name = f"{entry.dist.name}:{entry.name}" if entry.dist else entry.name
                _register(Plugin(name, "", digest), {entry.name: value})
            except Exception as error:
                warnings.warn(f"skipping entry point {group}:{entry.name}: {error}", stacklevel=2)


def _line(error: BaseException, name: str) -> str:
    if isinstance(error, SyntaxError):
        return f" line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == name]
    return f" line {lines[-1]}" if lines else ""
