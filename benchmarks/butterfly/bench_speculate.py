"""Drafts from what was said before: tokens a second with and without them.

SmolLM2 answers one request at a time with drafts of up to 8 tokens a frame and without,
in turn on the same ring, since the machine changes from one minute to the next. Counted
is the time after the first token; *ratio* is the median over the pairs, *CPU* the same
of CPU seconds of head and nodes: what other programs do changes it less. *true*: of the
tokens that were guessed, how many came true; *frames*: frames for each token; *same*:
answers that are the same with and without. The tasks: a text that is to be copied, with
it in the prompt twice; the same text with mistakes that are to be corrected; a story,
that is sampled (a temperature of 0.8), as small models repeat themselves otherwise.

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


@dataclass(frozen=True)
class Answer:
    """An answer.

    Args:
        tokens: Its tokens.
        seconds: From the first token to the last.
        cpu_s: CPU seconds of head and nodes.
        frames: How many frames carried it.
    """

    tokens: Items[int]
    seconds: float
    cpu_s: float
    frames: int


async def answered(
    fleet: Fleet, head: Head, prompt: Items[int], case: Case, draft: int, turn: int
) -> Answer:
    """Return an answer with drafts of so many tokens."""
    head.scheduler.speculate = draft
    used, began, frames = fleet.cpu() + time.process_time(), 0.0, 0
    how = replace(CHANCE, seed=turn) if case.task == "story" else GREEDY
    sequence = Sequence(list(prompt), case.tokens, how)
    async with aclosing(head.generate(sequence)) as answers:
        async for token in answers:
            began = began or time.perf_counter()
            frames += bool(token.hops)
    took = time.perf_counter() - began
    used = fleet.cpu() + time.process_time() - used
    return Answer(sequence.output, took, used, frames)


async def compare(fleet: Fleet, head: Head, case: Case, prompt: Items[int]) -> None:
    """Print the row of a case."""
    line, told = head.scheduler, (fleet, head, prompt)
    await answered(*told, replace(case, tokens=2), 0, 0)  # now the prompt is there
    proposed, accepted = line.proposed, line.accepted
    pairs = [
        (await answered(*told, case, 0, k), await answered(*told, case, case.draft, k))
        for k in range(case.rounds)
    ]
    proposed, accepted = line.proposed - proposed, line.accepted - accepted
    ratios = [a.seconds / b.seconds for a, b in pairs]
    count = case.tokens - 1
    before, after = (
        count / statistics.median([answer.seconds for answer in each])
        for each in zip(*pairs, strict=True)
    )
    saved = statistics.median([a.cpu_s / b.cpu_s for a, b in pairs])
    frames = statistics.mean([(b.frames - 1) / count for _, b in pairs])
    same = sum(a.tokens == b.tokens for a, b in pairs)
    print(
        f"{len(head.stages):<8}{case.task:<10}{case.draft:<7}"
        f"{before:<10.1f}{after:<10.1f}{statistics.median(ratios):<7.2f}"
        f"{min(ratios):<7.2f}{saved:<6.2f}{f'{accepted}/{proposed}':<10}"
        f"{frames:<8.2f}{same}/{case.rounds}",
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
    print("tokens/s  with it   ratio  worst  CPU   true      frames  same")
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
