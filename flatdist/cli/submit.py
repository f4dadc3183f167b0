"""``flatdist submit``: a sweep as a job of a cluster's own scheduler, from the templates in ``deploy/``."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import click

from flatdist.cli.options import FILE, PLUGINS, load_sweep, sweep_options
from flatdist.cli.output import writing
from flatdist.errors import LaunchError

# scheduler -> (template without Ray, template with Ray, client and its arguments before the file, ending)
SCHEDULERS = {
    "slurm": ("slurm-array.sh", "slurm-ray.sh", ("sbatch",), ".sh"),
    "sky": ("sky-array.yaml", "sky-ray.yaml", ("sky", "jobs", "launch", "--yes"), ".yaml"),
    "k8s": ("k8s-job.yaml", "k8s-rayjob.yaml", ("kubectl", "apply", "--filename"), ".yaml"),
}


@click.command("submit", context_settings={"ignore_unknown_options": False})
@click.argument("scheduler", type=click.Choice(list(SCHEDULERS)))
@sweep_options
@click.option("--ray", "with_ray", is_flag=True, help="One Ray cluster over all nodes instead of parts.")
@click.option("--parts", type=click.IntRange(1, 10000), default=16, show_default=True, help="Jobs in the array.")
@click.option("--nodes", type=click.IntRange(1, 1000), default=2, show_default=True, help="Nodes, with --ray.")
@click.option("--cpus", type=click.IntRange(1, 1024), default=1, show_default=True, help="Processors per job or node.")
@click.option("--gpus", type=click.IntRange(0, 64), default=0, show_default=True, help="GPUs per job or node.")
@click.option("--time", "limit", default="04:00:00", show_default=True, help="Slurm's time limit.")
@click.option("--image", default="flatdist:latest", show_default=True, help="Container image; see deploy/Dockerfile.")
@click.option("--option", "extra", multiple=True, metavar="TEXT", help="Another option of 'flatdist sweep', such as "
              "--option '--where rank==2'.")  # fmt: skip
@click.option("--directive", "directives", multiple=True, metavar="TEXT", help="slurm: another #SBATCH line, such as "
              "--directive '--partition=long --account=me'.")  # fmt: skip
@click.option("--setup", "setup", multiple=True, metavar="COMMAND", help="slurm: a line that every job runs first, "
              "such as --setup 'source ~/flatdist/.venv/bin/activate'.")  # fmt: skip
@click.option("--out", type=FILE, help="File to write.  [default: SWEEP-SCHEDULER.sh or .yaml]")
@click.option("--dry-run", is_flag=True, help="Print the file and do nothing.")
def submit_command(scheduler: str, sweep: str, store: str, out: Path | None, dry_run: bool, **options: Any) -> int:
    """Write SWEEP's job script or manifest for SCHEDULER, and submit it if the scheduler's client is installed."""
    name = load_sweep(sweep, store, must_exist=False)[0].name
    text = _render(scheduler, name, _command(sweep, store, options), options)
    if dry_run:
        click.echo(text, nl=False)
        return 0
    _, _, client, ending = SCHEDULERS[scheduler]
    path = out or Path(f"{name}-{scheduler}{ending}")
    with writing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    if shutil.which(client[0]) is None:
        raise LaunchError(
            f"wrote {path}; {client[0]} is not installed here: submit it where it is: {' '.join(client)} {path}"
        )
    click.echo(f"wrote {path}")
    return subprocess.run([*client, str(path)], check=False).returncode  # noqa: S603 - the client by its name


def _command(sweep: str, store: str, options: dict[str, Any]) -> list[str]:
    """The command that a job runs, with this command's plugins and log."""
    context, gpus = click.get_current_context(), options["gpus"]
    words = ["flatdist", "sweep", sweep, "--store", store, "--display", "plain", "--yes", "--cpus-per-trial"]
    if options["with_ray"]:
        words += ["1", "--address", "auto", *(["--gpus-per-trial", "1"] if gpus else [])]
    else:
        words += [str(options["cpus"]), "--part", "auto", *(["--device", "cuda"] if gpus else [])]
    for option in ("log_level", "log_file"):
        value = context.params[option]
        words += [] if value is None else [f"--{option.replace('_', '-')}", value]
    for path in context.meta.get(PLUGINS, ()):
        words += ["--plugin", path]
    for text in options["extra"]:
        words += shlex.split(text)
    if any("\n" in word or "\0" in word for word in words):
        raise LaunchError(
            "the command of a job contains a line break; remove it from the sweep's path, --store or --option"
        )
    return words


def _render(scheduler: str, name: str, words: list[str], options: dict[str, Any]) -> str:
    """The text of a job script or manifest; every value is quoted for where it goes.

    Raises:
        LaunchError: a value is not allowed there.
    """
    from flatdist.machine.provenance import package_version

    limit, image, directives, setup = (options[option] for option in ("limit", "image", "directives", "setup"))
    if not re.fullmatch(r"[0-9:-]{1,20}", limit):
        raise LaunchError(f"--time {limit} is not a time limit; allowed: HH:MM:SS, or D-HH:MM:SS")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._/:@-]{0,250}", image):
        raise LaunchError(f"--image {image} is not a container image; allowed: such as registry.example/flatdist:tag")
    if scheduler != "slurm" and (directives or setup):
        raise LaunchError(f"--directive and --setup are for slurm; edit what --dry-run prints for {scheduler}")
    for text in directives:
        if not re.fullmatch(r"--?[A-Za-z][^\n\r]*", text):
            raise LaunchError(f"--directive {text!r} is not an sbatch option; write one such as '--partition=long'")
    if any("\n" in line or "\r" in line for line in setup):
        raise LaunchError("--setup is one line; give it several times for several")
    cpus, gpus = str(options["cpus"]), options["gpus"]
    limits = {"cpu": cpus, "memory": "8Gi", **({"nvidia.com/gpu": str(gpus)} if gpus else {})}
    values = {
        "NAME": name,
        "K8S_NAME": re.sub(r"[^a-z0-9-]+", "-", name.lower()).strip("-")[:50] or "flatdist",
        "PARTS": str(options["parts"]),
        "NODES": str(options["nodes"]),
        "CPUS": cpus,
        "GPUS": str(gpus),
        "TIME": limit,
        "IMAGE": image,
        "DIRECTIVES": "".join(f"\n#SBATCH {text}" for text in directives),
        "SETUP": "".join(f"{line} || exit 1\n" for line in setup),
        "GPU_FLAG": f"--gpus-per-node={gpus}" if gpus else "",
        "COMMAND": shlex.join(words),
        "ENTRYPOINT": json.dumps(shlex.join(words)),
        "ARGS": json.dumps(words[1:]),
        "WORKER_LIMITS": json.dumps(limits),
        "RAY_VERSION": package_version("ray") or "2.60.0",
    }
    plain, over_ray, _, _ = SCHEDULERS[scheduler]
    template = Path(__file__).parents[1] / "deploy" / (over_ray if options["with_ray"] else plain)
    return re.sub(r"@([A-Z0-9_]+)@", lambda match: values[match[1]], template.read_text(encoding="utf-8"))
