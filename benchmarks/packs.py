"""Packs of a sweep for 1, 8 and 64 cards of 80 GB, compared with its plan for processors; nothing is run.

``python -m benchmarks.packs [SWEEP]`` prints a row for each: packs, replicates a pack, how full they keep a card, the
memory of the largest, and the predicted time. Times come from nominal costs, fitted to an H100's (docs/gpu.md).
"""

from __future__ import annotations

import argparse
import tempfile

from flatdist.planning import Settings, make_plan
from flatdist.planning.packs import Card, company, pack_device_bytes
from flatdist.store import Store
from flatdist.sweeps import load_sweep

CARDS = (1, 8, 64)
PROCESSORS = (16, 1024)


def main() -> None:
    """Plan and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", nargs="?", default="sweeps/statistical_dimension.yaml")
    sweep = load_sweep(parser.parse_args().sweep)
    print("| on | shards | replicates a pack | a card is full to | its memory | predicted time |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        sweep = sweep.expected(store)
        for count in PROCESSORS:
            plan = make_plan([sweep], store, Settings(slots=count, engine="fused", memory_limit=10**12))
            print(f"| {count} processors | {len(plan.shards):,} | | | | {plan.time} |")
        for count in CARDS:
            card = Card()
            settings = Settings(slots=count, engine="cuda", device="cuda", card=card, cpu_slots=16 * count)
            plan = make_plan([sweep], store, settings)
            packs = [shard for shard in plan.shards if shard.together]
            sizes = sorted(pack.replicates for pack in packs)
            fill = sum(company(pack, card) for pack in packs) / len(packs)
            most = max(pack_device_bytes(pack, "cuda", card) for pack in packs)
            print(
                f"| {count} x {card} | {len(packs):,} packs, {len(plan.shards) - len(packs):,} of solvers "
                f"| {sizes[0]:,} to {sizes[-1]:,} | {fill:.0%} | {most / 1e9:.1f} of {card.memory / 1e9:.0f} GB "
                f"| {plan.time} |"
            )


if __name__ == "__main__":
    main()
