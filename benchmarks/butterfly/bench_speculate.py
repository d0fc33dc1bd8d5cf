"""Drafts from what was said before: tokens a second with and without them.

SmolLM2 answers one request at a time with drafts of up to 8 tokens
a frame and without, in turn on the same ring, since the machine changes from
one minute to the next. Counted is the time after the first token; *ratio* is the median
over the pairs, *CPU* the same of CPU seconds of head and nodes: what other programs do
changes it less. *true*: of the tokens that were guessed, how many came true; *frames*:
frames for each token of one answer. The tasks: a text that is to be copied, with it in
the prompt twice; the same text with mistakes that are to be corrected; a story, that is
sampled (a temperature of 0.8), as small models repeat themselves otherwise.

    python benchmarks/butterfly/bench_speculate.py            # one stage: 5 minutes
    python benchmarks/butterfly/bench_speculate.py ring       # three, 20 ms links; root
    python benchmarks/butterfly/bench_speculate.py sizes      # one stage, other drafts
"""

import asyncio
import os
import secrets
import statistics
import sys
import time
from collections.abc import Sequence as Items
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # hosts without a name are fine

import torch  # noqa: E402

from benchmarks.butterfly.fleet import Fleet  # noqa: E402
from benchmarks.butterfly.hosts import Hosts, missing  # noqa: E402
from butterfly.api.tokenizer import Tokenizer  # noqa: E402
from butterfly.cluster.head import Head  # noqa: E402
from butterfly.cluster.options import HeadOptions  # noqa: E402
from butterfly.communication.frames import GREEDY, Sampling  # noqa: E402
from butterfly.scheduling import Sequence  # noqa: E402

TEXT = (
    "The harbour was quiet when Marta opened the window. Two boats had come in during "
    "the night, and their nets lay on the stones to dry. She counted eleven gulls on "
    "the roof of the old customs house, as she did every morning, and wrote the number "
    "into a small green book. Her brother had laughed at the book for years. Then the "
    "number had begun to matter."
)
WRONG = TEXT.replace("quiet", "quite").replace("their nets", "there nets")
WRONG = WRONG.replace("every", "evry").replace("laughed", "laught")
TASKS = {
    "copy": f"Text: {TEXT}\n\nThe same text again: {TEXT}\n\nThe same text again:",
    "correct": (
        f"Text with mistakes: I has a dog.\nCorrected text: I have a dog.\n\n"
        f"Text with mistakes: {WRONG}\nCorrected text:"
    ),
    "story": "Once upon a time there was a lighthouse keeper who",
}
CHANCE = Sampling(0.8, 0.95, seed=4)
DRAFT = 8


@dataclass(frozen=True)
class Case:
    """What is measured.

    Args:
        task: One of `TASKS`.
        draft: The most tokens that are guessed in a frame.
        tokens: Of an answer.
        rounds: How often, with drafts and without.
    """

    task: str
    draft: int = DRAFT
    tokens: int = 96
    rounds: int = 5


async def answered(
    head: Head, prompt: Items[int], case: Case, number: int
) -> tuple[float, int]:
    """Return the time between the first token of an answer and the last; its frames."""
    began, frames = 0.0, 0
    how = replace(CHANCE, seed=number) if case.task == "story" else GREEDY
    sequence = Sequence(list(prompt), case.tokens, how)
    async with aclosing(head.generate(sequence)) as answers:
        async for token in answers:
            began = began or time.perf_counter()
            frames += bool(token.hops)
    return time.perf_counter() - began, frames


async def measured(
    fleet: Fleet, head: Head, prompt: Items[int], case: Case, draft: int, turn: int
) -> tuple[float, float, float]:
    """Return seconds and CPU seconds of an answer, per token, and its frames."""
    head.scheduler.speculate = draft
    used = fleet.cpu() + time.process_time()
    seconds, frames = await answered(head, prompt, case, turn)
    used = fleet.cpu() + time.process_time() - used
    count = case.tokens - 1
    return seconds / count, used / count, (frames - 1) / count


async def compare(fleet: Fleet, head: Head, case: Case, prompt: Items[int]) -> None:
    """Print the row of a case."""
    line, pairs, costs = head.scheduler, [], []
    await measured(
        fleet, head, prompt, Case(case.task, tokens=2), 0, 0
    )  # the prompt is there
    proposed, accepted = line.proposed, line.accepted
    for turn in range(case.rounds):
        told = fleet, head, prompt, case
        plain, cost, _ = await measured(*told, 0, turn)
        fast, less, frames = await measured(*told, case.draft, turn)
        pairs.append((plain, fast))
        costs.append(cost / less)
    proposed, accepted = line.proposed - proposed, line.accepted - accepted
    before, after = (1 / statistics.median(each) for each in zip(*pairs, strict=True))
    ratio = statistics.median([a / b for a, b in pairs])
    worst = min(a / b for a, b in pairs)
    print(
        f"{len(head.stages):<8}{case.task:<10}{case.draft:<7}"
        f"{before:<10.1f}{after:<10.1f}{ratio:<7.2f}{worst:<7.2f}"
        f"{statistics.median(costs):<6.2f}"
        f"{accepted}/{proposed:<8}{frames:.2f}",
        flush=True,
    )


async def table(fleet: Fleet, cases: Items[Case], address: str) -> None:
    """Print what some cases give on all nodes of a fleet."""
    stages, secret = len(fleet.addresses), secrets.token_hex(8)
    head = Head(
        HeadOptions(
            *("smollm2", stages, secret, address),
            lanes=1,
            speculate=max(case.draft for case in cases),
            rebalance=0.0,
        )
    )
    await head.start()
    try:
        for number in range(stages):
            told = {"host": address, "port": head.port, "secret": secret}
            fleet.join(number, **told, name=f"n{number}", is_emulated=False)
        await head.ready()
        tokenizer = Tokenizer(head.checkpoint.folder, head.config)
        for case in cases:
            await compare(fleet, head, case, tokenizer.encode(TASKS[case.task]))
    finally:
        await head.close()


def main(names: Items[str]) -> None:
    """Print the tables."""
    torch.set_num_threads(1)
    print("stages  task      draft  ", end="")
    print("tokens/s  with it   ratio  worst  CPU   true")
    if "ring" in names:
        with Hosts(3) as hosts:
            hosts.join(0.02, 1e8)
            commands = [[], *(hosts.command(k) for k in (1, 2))]
            places = list(zip(commands, hosts.addresses, strict=True))
            with Fleet(places) as fleet:
                cases = [Case(task, tokens=64, rounds=3) for task in TASKS]
                asyncio.run(table(fleet, cases, hosts.addresses[0]))
        return
    cases = [Case(task) for task in TASKS]
    if "sizes" in names:
        cases = [Case(task, draft, rounds=3) for draft in (4, 16) for task in TASKS]
    with Fleet.here(1) as fleet:
        asyncio.run(table(fleet, cases, "127.0.0.1"))


if __name__ == "__main__":
    if "ring" in sys.argv and (why := missing()):
        sys.exit(f"left out: {why}")
    main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(0)  # threads may still wait inside of gloo
