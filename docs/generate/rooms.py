"""The import graph of rooms, drawn from the imports themselves.

A room is a package or a loose module directly inside ``flatdist``; ``analysis`` is one more where it exists. Every
import counts, also those inside functions and those for the type checker alone. The rooms are ordered so that as few
arrows as possible lead upward, from a lower room to a higher one; a room's floor is the longest way down from it.

    python docs/generate/rooms.py [ROOT] [--out docs/images/rooms.svg] [--title TEXT]
"""

from __future__ import annotations

import argparse
import ast
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

PACKAGES = ("flatdist", "analysis")

Graph = Mapping[str, set[str]]  # importer -> imported


@dataclass(frozen=True)
class House:
    """What was read of a source tree.

    Attributes:
        files: dotted name -> lines.
        imports: file -> the files it imports.
        rooms: room -> the rooms it imports.
        order: rooms from the ground up.
        upward: arrows against that order.
        floors: room -> its floor, 0 at the ground.
    """

    files: Mapping[str, int]
    imports: Graph
    rooms: Graph
    order: tuple[str, ...]
    upward: frozenset[tuple[str, str]]
    floors: Mapping[str, int]

    def figures(self) -> dict[str, int]:
        """The counts that the picture's caption gives."""
        lines = sum(self.files.values())
        file_circles = circles(self.imports)
        return {
            "rooms": len(self.rooms),
            "floors": 1 + max(self.floors.values()),
            "arrows": sum(map(len, self.rooms.values())),
            "upward arrows": len(self.upward),
            "circles of rooms": len(circles(self.rooms)),
            "circles of files": len(file_circles),
            "files in the largest circle": max(map(len, file_circles), default=0),
            "files": len(self.files),
            "lines": lines,
            "lines a file": round(lines / len(self.files)),
        }


def read_house(root: Path) -> House:
    """Read the imports of every module under ``root``."""
    sources = {dotted(path, root): path for package in PACKAGES for path in (root / package).rglob("*.py")}
    texts = {name: path.read_text(encoding="utf-8") for name, path in sources.items()}
    # The face names everything by design and is no room.
    inner = {name: text for name, text in texts.items() if name not in ("flatdist", "flatdist.__main__")}
    imports = {name: imported_files(name, text, sources) & inner.keys() - {name} for name, text in inner.items()}
    rooms: dict[str, set[str]] = {room_of(name): set() for name in inner}
    for name, targets in imports.items():
        rooms[room_of(name)] |= {room_of(target) for target in targets} - {room_of(name)}
    order, upward = ordered(rooms)
    floors: dict[str, int] = {}
    for room in order:
        below = [floors[other] for other in rooms[room] if (room, other) not in upward]
        floors[room] = 1 + max(below, default=-1)
    return House(
        {name: text.count("\n") for name, text in texts.items()}, imports, rooms, order, frozenset(upward), floors
    )


def dotted(path: Path, root: Path) -> str:
    """The module name of a file."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(name: str) -> str:
    """The room of a module: its place directly inside ``flatdist``, or the other package itself."""
    parts = name.split(".")
    return parts[1] if parts[0] == "flatdist" else parts[0]


def imported_files(name: str, text: str, sources: Mapping[str, Path]) -> set[str]:
    """Modules of the tree that one module imports anywhere in it."""
    found = set()
    package = name if sources[name].name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")
                base = ".".join([*above[: len(above) - node.level + 1], *filter(None, [node.module])])
            for alias in node.names:
                longer = f"{base}.{alias.name}"
                found.add(longer if longer in sources else base)
    return found & sources.keys()


def circles(graph: Graph) -> list[list[str]]:
    """Groups of nodes that reach one another."""
    names = sorted(graph)
    number = {name: index for index, name in enumerate(names)}
    pairs = np.array([(number[a], number[b]) for a in names for b in sorted(graph[a])]).reshape(-1, 2)
    matrix = csr_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(names), len(names)))
    _, labels = connected_components(matrix, connection="strong")
    groups = defaultdict(list)
    for name, label in zip(names, labels, strict=True):
        groups[label].append(name)
    return [group for group in groups.values() if len(group) > 1]


def ordered(graph: Graph) -> tuple[tuple[str, ...], set[tuple[str, str]]]:
    """An order from the ground up with few arrows against it, and those arrows (Eades, Lin, Smyth 1993)."""
    left = {name: set(targets) for name, targets in sorted(graph.items())}
    low: list[str] = []
    high: list[str] = []
    while left:
        uses = {name: len(targets) for name, targets in left.items()}
        used = {name: sum(name in targets for targets in left.values()) for name in left}
        # What imports nothing that is left goes to the bottom, what nothing imports to the top.
        if bottom := [name for name in left if uses[name] == 0]:
            low += bottom
            gone = bottom
        elif top := [name for name in left if used[name] == 0]:
            high = top + high
            gone = top
        else:
            gone = [min(left, key=lambda name: (uses[name] - used[name], name))]
            low += gone
        left = {name: targets - set(gone) for name, targets in left.items() if name not in gone}
    order = improved([*low, *high], graph)
    place = {name: index for index, name in enumerate(order)}
    return tuple(order), {(a, b) for a in graph for b in graph[a] if place[a] < place[b]}


def improved(order: list[str], graph: Graph) -> list[str]:
    """Move single rooms as long as that turns an upward arrow down."""

    def cost(names: list[str]) -> int:
        place = {name: index for index, name in enumerate(names)}
        return sum(place[a] < place[b] for a in graph for b in graph[a])

    best = cost(order)
    moved = True
    while moved and best:
        moved = False
        for name in list(order):
            rest = [other for other in order if other != name]
            for index in range(len(order)):
                trial = [*rest[:index], name, *rest[index:]]
                if cost(trial) < best:
                    order, best, moved = trial, cost(trial), True
                    break
    return order


def places(house: House) -> dict[str, tuple[float, float]]:
    """Where each room is drawn: its floor, and beside what it is joined to."""
    floors = defaultdict(list)
    for room in house.order:
        floors[house.floors[room]].append(room)
    across = {room: index - (len(row) - 1) / 2 for row in floors.values() for index, room in enumerate(row)}
    joined = defaultdict(set)
    for room, targets in house.rooms.items():
        for target in targets:
            joined[room].add(target)
            joined[target].add(room)
    for _ in range(20):
        for row in floors.values():
            wanted = {room: np.mean([across[other] for other in joined[room]] or [0.0]) for room in row}
            for index, room in enumerate(sorted(row, key=lambda room: (wanted[room], room))):
                across[room] = index - (len(row) - 1) / 2
    return {room: (across[room], float(house.floors[room])) for room in house.order}


def draw(house: House, title: str) -> Figure:
    """The rooms on their floors; arrows from importer to imported, those that lead upward in red."""
    where = places(house)
    lines: dict[str, int] = defaultdict(int)
    for name, count in house.files.items():
        if name not in ("flatdist", "flatdist.__main__"):
            lines[room_of(name)] += count
    widest = max(sum(floor == other for other in house.floors.values()) for floor in house.floors.values())
    figure = Figure(figsize=(1.5 * widest + 1.5, 0.95 * (max(house.floors.values()) + 1) + 1.2), layout="constrained")
    axes = figure.subplots()
    for room in sorted(house.rooms):
        for target in sorted(house.rooms[room]):
            upward = (room, target) in house.upward
            axes.add_patch(
                FancyArrowPatch(
                    where[room], where[target], arrowstyle="-|>", mutation_scale=7, shrinkA=14, shrinkB=14,
                    connectionstyle=f"arc3,rad={0.25 if upward else 0.08}", linewidth=1.4 if upward else 0.5,
                    color="#c0392b" if upward else "#7f8c8d", alpha=0.9 if upward else 0.45, zorder=2 if upward else 1,
                )
            )  # fmt: skip
    for room, (x, y) in where.items():
        axes.add_patch(
            FancyBboxPatch(
                (x - 0.4, y - 0.2), 0.8, 0.4, boxstyle="round,pad=0.02", facecolor="#eef3f8", edgecolor="#34495e",
                zorder=3,
            )
        )  # fmt: skip
        axes.text(x, y + 0.05, room, ha="center", va="center", fontsize=7.5, zorder=4)
        axes.text(x, y - 0.11, f"{lines[room]:,} lines", ha="center", va="center", fontsize=5.5, color="#555", zorder=4)
    numbers = house.figures()
    counts = ", ".join(f"{value:,} {name}" for name, value in numbers.items())
    axes.set_title(f"{title}\n{counts}", fontsize=8, wrap=True)
    axes.set(xlim=(-widest / 2 - 0.2, widest / 2 + 0.2), ylim=(-0.5, max(house.floors.values()) + 0.5))
    axes.axis("off")
    return figure


def main(arguments: Iterable[str] | None = None) -> None:
    """Print the figures, and draw the picture where ``--out`` names a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", nargs="?", type=Path, default=Path(__file__).parents[2])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--title", default="Which room imports which")
    options = parser.parse_args(None if arguments is None else list(arguments))
    house = read_house(options.root)
    for name, value in house.figures().items():
        print(f"{value:>7,}  {name}")
    for kind, graph in (("room", house.rooms), ("file", house.imports)):
        for group in circles(graph):
            print(f"circle of {kind}s: {', '.join(group)}")
    for room, target in sorted(house.upward):
        print(f"upward: {room} -> {target}")
    if options.out is not None:
        metadata = {"Date": None} if options.out.suffix == ".svg" else {}
        with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "rooms"}):
            draw(house, options.title).savefig(options.out, dpi=150, metadata=metadata)


if __name__ == "__main__":
    main()
