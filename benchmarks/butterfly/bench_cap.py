"""What the decode cap and the size of prompt pieces do to a chain.

python benchmarks/butterfly/bench_cap.py
"""

import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.butterfly.clusters import LLAMA_70B, datacentre
from butterfly.partitioning import (
    CODECS,
    Chain,
    Problem,
    Workload,
    busiest_chain,
    simulate,
)

LOADS = {"decoding only": Workload(256, 1, 232), "763 + 232": Workload(256, 763, 232)}
PLACES = {
    "24 nodes": {"a100": 4, "l4": 8, "t4": 12},
    "8 nodes": {"x4xt4": 4, "x2xl4": 4},
}


def line(problem: Problem, chain: Chain, word: str) -> None:
    """Print what a chain serves."""
    out = simulate(problem, [chain])
    print(
        f"  {word:<24}  {out.tokens_per_s:>7.1f} tokens/s  first token "
        f"{out.ttft_s:>6.2f} s  then each {out.token_s * 1e3:>5.0f} ms  "
        f"{out.frame_rows:>5.1f} rows a frame"
    )


def rules(chain: Chain) -> dict[str, Chain]:
    """Return a chain with both limits, with one and with none."""
    many, stages = chain.lanes, len(chain.stages)
    return {
        "cap and frames, planned": chain,
        "frames = stages, no cap": replace(chain, micro_batch=many, in_flight=stages),
        "cap, any frames": replace(chain, in_flight=many),
        "neither": replace(chain, micro_batch=many, in_flight=many),
        "one frame of all": replace(chain, micro_batch=many, in_flight=1),
    }


def main() -> None:
    """Print the figures."""
    for place, cards in PLACES.items():
        for load, work in LOADS.items():
            problem = Problem(datacentre(**cards), LLAMA_70B, work, (CODECS["f16"],))
            chain = busiest_chain(problem)
            print(
                f"{place}, {load}: {len(chain.stages)} stages, {chain.lanes} lanes, "
                f"{chain.micro_batch} rows and {chain.chunk} prompt tokens a frame, "
                f"{chain.frames} frames"
            )
            for word, other in rules(chain).items():
                line(problem, other, word)
            if work.prompt_tokens > 1:
                for factor in (0.5, 2, 4, 8, 32):
                    piece = int(chain.chunk * factor)
                    line(problem, replace(chain, chunk=piece), f"{piece} prompt tokens")


if __name__ == "__main__":
    main()
