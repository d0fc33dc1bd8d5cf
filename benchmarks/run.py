"""Run the benchmarks and print their figures: ``make bench``, or name some files.

python benchmarks/run.py [NAME ...]
"""

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import (
    bench_calls,
    bench_import,
    bench_journal,
    bench_limits,
    bench_memory,
    bench_million,
    bench_nodes,
    bench_noop,
    bench_ray,
    bench_training,
)

BENCHES = {
    "noop": bench_noop,
    "nodes": bench_nodes,
    "calls": bench_calls,
    "limits": bench_limits,
    "journal": bench_journal,
    "memory": bench_memory,
    "million": bench_million,
    "training": bench_training,
    "import": bench_import,
    "ray": bench_ray,
}


def main(names: list[str]) -> int:
    """Run the named benchmarks, all by default; return 1 if a figure is over."""
    unknown = [name for name in names if name not in BENCHES]
    if unknown:
        print(f"no benchmark {unknown[0]!r}; there are {', '.join(BENCHES)}")
        return 2
    over = 0
    for name in names or BENCHES:
        bench = BENCHES[name]
        print(f"\n{(bench.__doc__ or name).splitlines()[0]}")
        for figure in asyncio.run(bench.measure()):
            print("  " + figure.line(), flush=True)
            over += figure.limit is not None and figure.value > figure.limit
    print(f"\n{over or 'no'} figure{'' if over == 1 else 's'} over the limit")
    return int(over > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
