"""Hamilton: a graph is a module of functions, and nothing in it suspends.

It walks a graph by recursion, so a chain of 1,000 needs a higher limit of it.
"""

import sys
from typing import Any

import common
from hamilton import ad_hoc_utils, base, driver  # ty: ignore[import-not-found]

_DIAMOND = """
def top(x: int) -> int: return x + 1
def left(top: int) -> int: return top + 1
def right(top: int) -> int: return top + 1
def total(left: int, right: int) -> int: return left + right
def last(total: int) -> int: return total + 1
"""


def built(source: str) -> Any:
    module = ad_hoc_utils.module_from_source(source)
    adapter = base.SimplePythonGraphAdapter(base.DictResult())
    return driver.Builder().with_modules(module).with_adapter(adapter).build()


def chain_graph() -> Any:
    lines = ["def n0(x: int) -> int: return x + 1"]
    for number in range(1, common.CHAIN):
        before = f"n{number - 1}"
        lines.append(f"def n{number}({before}: int) -> int: return {before} + 1")
    return built("\n".join(lines))


def fan_out_graph() -> Any:
    lines = [f"def n{n}(x: int) -> int: return x + 1" for n in range(common.FAN_OUT)]
    return built("\n".join(lines))


def noop() -> common.Times:
    sys.setrecursionlimit(100 * common.CHAIN)
    chain, fan_out, diamond = chain_graph(), fan_out_graph(), built(_DIAMOND)
    names = [f"n{number}" for number in range(common.FAN_OUT)]

    def diamonds() -> None:
        for x in range(common.DIAMONDS):
            assert diamond.execute(["last"], inputs={"x": x})["last"] == 2 * x + 5

    return common.shapes(
        lambda: chain.execute([f"n{common.CHAIN - 1}"], inputs={"x": 0}),
        lambda: fan_out.execute(names, inputs={"x": 0}),
        diamonds,
    )


common.main(noop=noop)
