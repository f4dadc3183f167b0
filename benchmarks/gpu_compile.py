"""The cuda engine's kernel compiled without a card: registers, spills, shared memory, occupancy and instructions.

    python -m benchmarks.gpu_compile [--arch sm_80,sm_90,sm_100] [--depth 3]

Needs nvcc, and cuobjdump (triton brings one). Prints Markdown. Blocks and warps an SM follow from registers, shared
memory and the architecture's limits; the estimate of ns per replicate-step is the forecast's (flatdist.planning).
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from flatdist.cells.cell import Cell
from flatdist.engines import cuda
from flatdist.engines._launched import Shape
from flatdist.planning.forecast import card_step

SHARED_OF_SM = {"sm_80": 164 * 1024, "sm_90": 228 * 1024, "sm_100": 228 * 1024}
SIZES = (12, 20, 32, 60)
BATCH_SIZE = 50


def cuobjdump() -> str:
    """The program that reads machine code, from the path or from triton."""
    found = shutil.which("cuobjdump")
    if found is None and (spec := importlib.util.find_spec("triton")) is not None and spec.origin is not None:
        found = str(Path(spec.origin).parent / "backends/nvidia/bin/cuobjdump")
    if found is None:
        raise SystemExit("cuobjdump is neither on the path nor in triton; install triton")
    return found


def main() -> None:
    """Compile every size for every architecture and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="sm_80,sm_90,sm_100")
    parser.add_argument("--depth", type=int, default=3)
    options = parser.parse_args()
    print(
        "| arch | d | threads | registers | spills, bytes | shared, bytes | blocks an SM | warps an SM | instructions |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for arch in options.arch.split(","):
        for d in SIZES:
            shape = Shape((d,) * (options.depth + 1), BATCH_SIZE, True, False, "rows")
            chosen = cuda.configuration_of(shape)
            with tempfile.TemporaryDirectory() as folder:
                source, target = Path(folder, "steps.cu"), Path(folder, "steps.cubin")
                source.write_text(cuda.source(shape, chosen))
                command = ["nvcc", "-std=c++17", f"-arch={arch}", "-cubin", "-Xptxas", "-v", "-o", target, source]
                said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
                dump = subprocess.run([cuobjdump(), "-sass", target], capture_output=True, text=True, check=True).stdout
            registers = int(re.search(r"Used (\d+) registers", said).group(1))  # type: ignore[union-attr]
            spilled = sum(map(int, re.findall(r"(\d+) bytes spill", said)))
            shared = cuda.shared_bytes(shape, chosen, 52)
            blocks = min(65536 // (registers * chosen.threads), SHARED_OF_SM[arch] // (shared + 1024), 32)
            count = len(re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s", dump, re.MULTILINE))
            row = (arch, d, chosen.threads, registers, spilled, shared, blocks, blocks * chosen.threads // 32, count)
            print("| " + " | ".join(map(str, row)) + " |", flush=True)
    print("\nEstimated for a full H100, ns per replicate-step (latency of a lone replicate's step, us):")
    for d in SIZES:
        full, alone = card_step(Cell(d_out=d, d_in=d, rank=1, n=10 * d, depth=options.depth, batch_size=BATCH_SIZE))
        print(f"- d = {d}: {1e9 * full:.0f} ({1e6 * alone:.1f})")


if __name__ == "__main__":
    main()
