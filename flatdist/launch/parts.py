"""Parts: the jobs of an array, each of which drives the same sweep from a different starting place."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from flatdist.errors import LaunchError

# Where a job array tells a job its number: (number, count, smallest number, step between numbers)
ARRAYS = {
    "Slurm": ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_STEP"),
    "Kubernetes": ("JOB_COMPLETION_INDEX", "JOB_COMPLETIONS", "", ""),
    "SkyPilot": ("SKYPILOT_JOB_RANK", "SKYPILOT_NUM_JOBS", "", ""),
}


@dataclass(frozen=True)
class Part:
    """One of several processes that share a sweep: ``number`` of ``count``, counted from 1."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"part {self.number} of {self.count}"


def read_part(text: str, environment: Mapping[str, str] | None = None) -> Part:
    """Read ``K/N``, or ``auto`` for the position of this process in its job array.

    Arrays that count from 0 may write 0/N for N/N.

    Raises:
        LaunchError: it is neither, or there is no job array.

    Example:
        >>> read_part("3/8")
        Part(number=3, count=8)
        >>> read_part("auto", {"SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_TASK_COUNT": "4"})
        Part(number=1, count=4)
    """
    allowed = "allowed: K/N with K from 1 to N (0 counts as N), such as 3/8, or auto in a job array"
    if text != "auto":
        match = re.fullmatch(r"(\d+)/(\d+)", text.strip())
        number, count = (int(match[1]), int(match[2])) if match else (0, 0)
        if not match or number > count or count < 1:
            raise LaunchError(f"--part {text} is not a part; {allowed}")
        return Part(number or count, count)
    said = os.environ if environment is None else environment
    name = next((name for name, variables in ARRAYS.items() if variables[0] in said), None)
    if name is None:
        looked = ", ".join(variables[0] for variables in ARRAYS.values())
        raise LaunchError(f"--part auto: this process is in no job array (none of {looked} is set); {allowed}")
    index, total, first, step = ARRAYS[name]
    if total not in said:
        raise LaunchError(
            f"--part auto: {name} sets {index} but not {total}; set {total} to the number of jobs, or give "
            f"--part ${index}/N"
        )
    try:
        count = int(said[total])
        number = (int(said[index]) - int(said.get(first, 0))) // int(said.get(step, 1))
    except (ValueError, ZeroDivisionError):
        raise LaunchError(f"--part auto: {index}={said[index]!r} is not a number; {allowed}") from None
    if not 0 <= number < count:
        raise LaunchError(f"--part auto: {index}={said[index]} is outside of {total}={count}; {allowed}")
    return Part(number + 1, count)
