"""What `import inf_engine` costs, and what it brings along."""

from benchmarks.measure import Figure, in_children

LIMIT = 0.15
_CODE = """
import json, sys, time
began = time.process_time()
import inf_engine
spent = time.process_time() - began
heavy = "aiohttp openai anthropic httpx torch ray xllamacpp rich tenacity yaml pydantic"
print(json.dumps({"cpu": spent, "heavy": sum(n in sys.modules for n in heavy.split())}))
"""


async def measure() -> list[Figure]:
    """Return the figures: the median of some fresh interpreters."""
    runs = in_children(_CODE, times=7)
    cpu = sorted(run["cpu"] for run in runs)[len(runs) // 2]
    return [
        Figure("import inf_engine", cpu, "CPU s", LIMIT),
        Figure("heavy libraries it brings", runs[0]["heavy"], "", 0),
    ]
