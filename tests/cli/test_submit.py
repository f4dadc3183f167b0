"""Job scripts and manifests: run under a stub of Slurm, checked against Kubernetes' schema, read as YAML."""

from __future__ import annotations

import json
import os
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from ruamel.yaml import YAML

from flatdist.cli import cli, main
from flatdist.cli.submit import SCHEDULERS
from flatdist.errors import LaunchError
from flatdist.store import Store

TEXT = "replicates: 3\nfixed: {d_out: 4, d_in: 4, rank: 1, steps: 30, evaluations: 2}\naxes: {n: [10, 11, 12]}\n"
ROOT = Path(__file__).parents[2]


def stub(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text("#!/bin/bash\n" + text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def render(scheduler: str, sweep: Path, *words: str) -> str:
    """The file that the command would submit."""
    command = ["submit", scheduler, str(sweep), "--store", "s", "--dry-run", *words]
    return CliRunner().invoke(cli, command, catch_exceptions=False).output


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "it's an array.yaml"  # quoting matters
    path.write_text("name: array\n" + TEXT)
    return path


@pytest.mark.parametrize("scheduler", list(SCHEDULERS))
@pytest.mark.parametrize("with_ray", [False, True])
def test_every_template_says_in_its_first_line_what_was_never_tried(
    scheduler: str, with_ray: bool, sweep: Path
) -> None:
    text = render(scheduler, sweep, "--gpus", "2", *(["--ray"] if with_ray else []))
    first = next(line for line in text.splitlines() if not line.startswith("#!"))
    assert first.startswith("# ")
    assert "ever run on a real" in first
    assert "@" not in text.replace("B:TERM@120", "")
    if scheduler != "slurm":
        YAML(typ="safe").load(text)


@pytest.mark.slow
def test_a_slurm_array_runs_its_parts_under_a_stub(sweep: Path, tmp_path: Path) -> None:
    """What sbatch is given is run once for each task, as Slurm would, until the whole sweep is there."""
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    stub(
        bin_folder,
        "sbatch",
        """
grep -q '^#SBATCH --array=1-2$' "$1" || exit 9
for task in 1 2; do
  SLURM_ARRAY_JOB_ID=7 SLURM_ARRAY_TASK_ID=$task SLURM_ARRAY_TASK_COUNT=2 SLURM_ARRAY_TASK_MIN=1 bash "$1" || exit 1
done
""",
    )
    stub(bin_folder, "flatdist", f'exec {shlex.quote(sys.executable)} -m flatdist "$@"\n')
    environment = os.environ | {"PATH": f"{bin_folder}:{os.environ['PATH']}"}
    command = [sys.executable, "-m", "flatdist", "submit", "slurm", str(sweep), "--store", "the store", "--parts", "2"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    assert "wrote array-slurm.sh" in done.stdout
    assert len(Store(tmp_path / "the store").trials()) == 9


def test_an_interrupted_part_queues_up_again(sweep: Path, tmp_path: Path) -> None:
    """SIGTERM reaches the sweep, its status 130 asks for a requeue, and the script ends with that status."""
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    stub(bin_folder, "flatdist", "trap 'exit 130' TERM\necho started\nfor i in $(seq 200); do sleep 0.05; done\n")
    stub(bin_folder, "scontrol", 'echo "$@" > requeued\n')
    script = tmp_path / "job.sh"
    script.write_text(render("slurm", sweep))
    variables = {"PATH": f"{bin_folder}:{os.environ['PATH']}", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"}
    with subprocess.Popen(
        ["bash", str(script)], env=os.environ | variables, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        process.terminate()
        assert process.wait(timeout=30) == 130
    assert (tmp_path / "requeued").read_text() == "requeue 7_3\n"


def test_ray_on_slurm_is_one_symmetric_run(sweep: Path, tmp_path: Path) -> None:
    import ray.scripts.scripts

    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    stub(bin_folder, "scontrol", "printf 'node1\\nnode2\\n'\n")
    stub(bin_folder, "srun", 'printf "%s\\0" "$@" > srun-arguments\n')
    script = tmp_path / "job.sh"
    script.write_text(render("slurm", sweep, "--ray", "--nodes", "3", "--cpus", "8", "--gpus", "2"))
    variables = {"PATH": f"{bin_folder}:{os.environ['PATH']}", "SLURM_JOB_NODELIST": "node[1-3]", "SLURM_JOB_ID": "41"}
    subprocess.run(["bash", str(script)], env=os.environ | variables, check=True, timeout=30)
    words = (tmp_path / "srun-arguments").read_text().split("\0")[:-1]
    assert words[:4] == ["--nodes=3", "--ntasks=3", "ray", "symmetric-run"]
    assert words[4:8] == ["--address", "node1:20041", "--min-nodes", "3"]
    command = words[words.index("--") + 1 :]
    assert command[:3] == ["flatdist", "sweep", str(sweep)]
    cli.commands["sweep"].make_context("sweep", command[2:])
    known = ray.scripts.scripts.cli.commands
    assert "symmetric-run" in known
    options = {flag for parameter in known["start"].params for flag in parameter.opts}
    assert {"--num-cpus", "--num-gpus"} <= options  # what symmetric-run hands on


def test_an_indexed_job_fits_kubernetes_schema(sweep: Path) -> None:
    validate = pytest.importorskip("kubernetes_validate")
    sweep.write_text("name: My_Array\n" + TEXT)
    job = YAML(typ="safe").load(render("k8s", sweep, "--parts", "12"))
    validate.validate(job, "1.31", strict=True)
    assert job["metadata"]["name"] == "my-array"
    assert (job["spec"]["completions"], job["spec"]["completionMode"]) == (12, "Indexed")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert {"name": "JOB_COMPLETIONS", "value": "12"} in container["env"]
    cli.commands["sweep"].make_context("sweep", container["args"][1:])
    with pytest.raises(Exception, match="completions"):
        validate.validate({**job, "spec": {**job["spec"], "completions": "many"}}, "1.31", strict=True)


def test_a_rayjobs_pods_fit_kubernetes_schema(sweep: Path) -> None:
    validate = pytest.importorskip("kubernetes_validate")
    job = YAML(typ="safe").load(render("k8s", sweep, "--ray", "--gpus", "1"))
    cluster = job["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, **group["template"]}
        validate.validate(pod, "1.31", strict=True)
    (workers,) = cluster["workerGroupSpecs"]
    assert workers["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    words = shlex.split(job["spec"]["entrypoint"])
    cli.commands["sweep"].make_context("sweep", words[2:])
    assert json.dumps(words)


def test_dry_run_prints_and_bad_values_are_refused(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["submit", "sky", str(sweep), "--dry-run", "--option", "--where 'n == 10'"]) == 0
    text = capsys.readouterr().out
    assert "--where 'n == 10'" in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["it's an array.yaml"]
    assert main(["submit", "slurn", str(sweep)]) == 2
    assert main(["submit", "sky", str(sweep)]) == 2
    assert "sky is not installed here" in capsys.readouterr().err
    for words in (("--time", "4h; rm"), ("--image", "x y"), ("--option", "--set 'n=1\n2'")):
        with pytest.raises(LaunchError):
            render("slurm", sweep, *words)


def test_slurm_takes_directives_and_lines_to_run_first(sweep: Path, tmp_path: Path) -> None:
    more = [*("--directive", "--partition=long", "--directive", "--account=me"),
            *("--setup", "module load python", "--setup", "source ~/env/bin/activate")]  # fmt: skip
    text = render("slurm", sweep, *more)
    lines = text.splitlines()
    assert lines.index("#SBATCH --account=me") < lines.index("module load python || exit 1")
    assert lines.index("source ~/env/bin/activate || exit 1") < next(
        i for i, x in enumerate(lines) if "flatdist sweep" in x
    )
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0
    with pytest.raises(LaunchError, match="are for slurm"):
        render("sky", sweep, *more)
    for bad in (("--directive", "--x\nrm -rf /"), ("--directive", "partition"), ("--setup", "a\nb")):
        with pytest.raises(LaunchError):
            render("slurm", sweep, *bad)


def test_the_image_installs_and_warms_what_the_repository_has() -> None:
    text = (ROOT / "deploy" / "Dockerfile").read_text()
    assert "Never built" in text.splitlines()[0]
    for line in text.splitlines():
        if line.startswith("COPY"):
            assert all((ROOT / name).exists() for name in line.split()[1:-1]), line
    from flatdist.engines.fused import warm

    assert callable(warm)
