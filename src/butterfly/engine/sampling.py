"""Sampling: which token comes next, as a function of logits, settings and position.

Chance comes from a hash of the sequence's seed and the position, not from a generator
that has a state: so a sequence that is run again after a stage died, in other
micro-batches and on other machines, draws the same tokens.
"""

import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from butterfly.communication.frames import Sampling, Segment
from butterfly.engine.memory import Memory

_PAIR = np.dtype([("token", "<i4"), ("logprob", "<f4")])


@dataclass(frozen=True, slots=True)
class Logprob:
    """How probable a token was.

    Args:
        token: The token.
        logprob: The logarithm of its probability, before temperature.
        rank: How many tokens were more probable, plus 1.
        top: The most probable tokens with theirs, as many as were asked for.
    """

    token: int
    logprob: float
    rank: int
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Drawn:
    """What the last stage says of a segment, or of one of several tokens after it.

    Args:
        lane: Its lane.
        token: The token that was drawn, None if none was asked for.
        logprob: Of the token, if asked for.
        prompt: Of the segment's targets, None where there is none.
    """

    lane: int
    token: int | None
    logprob: Logprob | None = None
    prompt: tuple[Logprob | None, ...] = ()


def draw(logits: torch.Tensor, sampling: Sampling, position: int) -> int:
    """Return the next token: by temperature, then min_p, top_k, top_p, as in vLLM.

    Args:
        logits: `[vocabulary]`, float32; -inf for what may not be drawn.
        sampling: The settings.
        position: The position that the token will have.
    """
    if sampling.temperature <= 0.0:
        return int(logits.argmax())
    chances = (logits / sampling.temperature).softmax(-1, dtype=torch.float64)
    chances, order = chances.sort(descending=True, stable=True)
    if sampling.min_p > 0.0:
        chances = chances[chances >= sampling.min_p * chances[0]]
    if sampling.top_k:
        chances = chances[: sampling.top_k]
    if sampling.top_p < 1.0:  # of what is left
        before = chances.cumsum(-1) - chances
        count = int((before < sampling.top_p * chances.sum()).sum())
        chances = chances[: max(1, count)]
    sums = chances.cumsum(-1)
    drawn = torch.searchsorted(sums, uniform(sampling.seed, position) * sums[-1])
    return int(order[min(int(drawn), len(sums) - 1)])


def uniform(seed: int, position: int) -> float:
    """Return a number in [0, 1), the same for the same seed and position.

    Args:
        seed: The seed of the sequence, below 2**64.
        position: The position.
    """
    data = seed.to_bytes(8, "little") + position.to_bytes(8, "little")
    digest = hashlib.blake2b(data, digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) / 2**53


def sampled(
    logits: torch.Tensor, segments: Sequence[Segment], memory: Memory
) -> list[Drawn]:
    """Return what to say of each segment that asks for anything.

    Args:
        logits: `[rows, vocabulary]`: of the rows that `wanted` names, in order.
        segments: The segments of the frame.
        memory: What was said in each lane.

    Raises:
        FrameError: If the memory missed something.
    """
    found: list[Drawn] = []
    row, greedy = 0, logits.argmax(-1).tolist()
    for s in segments:
        prompt, top = [], s.sampling.top_logprobs or 0
        for number, target in enumerate(s.targets):
            asked = target >= 0
            prompt.append(
                _logprob(logits[row + number], target, top) if asked else None
            )
        row += len(s.targets) or s.draws
        if s.is_sampled:
            first = row - s.draws
            tokens = _chain(logits[first:row], greedy[first:row], s, memory)
            found += _told(logits[first:row], tokens, s, tuple(prompt))
        elif s.targets:
            found.append(Drawn(s.lane, None, None, tuple(prompt)))
    return found


def _chain(
    logits: torch.Tensor, greedy: list[int], segment: Segment, memory: Memory
) -> list[int]:
    """Return the tokens after a segment: one, and one for each that was foretold.

    Each is drawn as if there were no draft, with the chance of its own position. So a
    foretold token comes true as often as it is probable, and where it does not, the
    token is one of the others, as often as these are: what is said depends on no guess.
    """
    s, size = segment, logits.shape[-1]
    said = memory.told(s.lane, s.past, size) if s.past else None
    masks = _allowed(s.allowed, s.draws, size) if s.allowed else None
    place, tokens = s.start + s.length - len(s.draft), []
    for number, foretold in enumerate((*s.draft, -1)):
        own = logits[number]
        if said is not None:
            own = said.weighed(own)
        if masks is not None:
            own = own.masked_fill(~masks[number], float("-inf"))
        plain = s.sampling.temperature <= 0.0 and said is None and masks is None
        token = greedy[number] if plain else draw(own, s.sampling, place + number)
        tokens.append(token)
        if token != foretold:
            break
        if said is not None:
            said.hear([token])
    return tokens


def _told(
    logits: torch.Tensor,
    tokens: Sequence[int],
    segment: Segment,
    prompt: tuple[Logprob | None, ...],
) -> list[Drawn]:
    """Return what to say of the tokens after a segment: as much as it has draws."""
    top, found = segment.sampling.top_logprobs, []
    for number, token in enumerate(tokens):
        told = None if top is None else _logprob(logits[number], token, top)
        found.append(Drawn(segment.lane, token, told, () if number else prompt))
    return found + [Drawn(segment.lane, None)] * (segment.draws - len(tokens))


def wanted(segments: Sequence[Segment]) -> list[int]:
    """Return the rows of a frame whose logits are needed.

    Args:
        segments: Its segments.
    """
    rows: list[int] = []
    at = 0
    for s in segments:
        if s.targets:
            rows += range(at, at + s.length)
        else:
            rows += range(at + s.length - s.draws, at + s.length)
        at += s.length
    return rows


def pack(drawn: Sequence[Drawn]) -> bytes:
    """Return results as bytes: 8 for each token, more where log probabilities are.

    Args:
        drawn: The results.
    """
    out = []
    for one in drawn:
        token = -1 if one.token is None else one.token
        out.append(np.array([one.lane, token], "<i4").tobytes())
    for one in drawn:
        out += [_packed(one.logprob)] if one.logprob is not None else []
        out += [_packed(told) for told in one.prompt]
    return b"".join(out)


def unpack(data: bytes | memoryview, segments: Sequence[Segment]) -> list[Drawn]:
    """Return what `pack` wrote, but for draws that there were not.

    Args:
        data: The bytes.
        segments: The segments of the frame that they answer.
    """
    asked = [s for s in segments if s.is_sampled or s.targets]
    each = [(s, number) for s in asked for number in range(s.draws or 1)]
    pairs = np.frombuffer(data[: 8 * len(each)], "<i4").reshape(-1, 2).tolist()
    at, found = 8 * len(each), []
    for (s, number), (lane, token) in zip(each, pairs, strict=True):
        own, prompt = None, []
        if token >= 0 and s.sampling.top_logprobs is not None:
            own, at = _unpacked(data, at)
        for _ in s.targets:
            told, at = _unpacked(data, at)
            prompt.append(told)
        drawn = token if token >= 0 else None
        if drawn is not None or not number:
            found.append(Drawn(lane, drawn, own, tuple(prompt)))
    return found


def _logprob(logits: torch.Tensor, token: int, top: int) -> Logprob:
    chances = logits.log_softmax(-1)
    best = chances.topk(top) if top else None
    pairs = (
        []
        if best is None
        else zip(best.indices.tolist(), best.values.tolist(), strict=True)
    )
    rank = int((chances > chances[token]).sum()) + 1
    return Logprob(token, float(chances[token]), rank, tuple(pairs))


def _allowed(deflated: bytes, rows: int, count: int) -> torch.Tensor:
    """Return which tokens may be drawn in each row, `[rows, count]`."""
    bits = np.frombuffer(zlib.decompress(deflated), np.uint8).reshape(rows, -1)
    flags = np.unpackbits(bits, axis=1, count=count, bitorder="little")
    return torch.from_numpy(flags.astype(bool))


def _packed(told: Logprob | None) -> bytes:
    if told is None:
        return np.array([-1, 0, 0], "<i4").tobytes()
    head = np.array([told.token, told.rank, len(told.top)], "<i4").tobytes()
    own = np.array([told.logprob], "<f4").tobytes()
    return head + own + np.array(list(told.top), _PAIR).tobytes()


def _unpacked(data: bytes | memoryview, at: int) -> tuple[Logprob | None, int]:
    token, rank, many = np.frombuffer(data[at : at + 12], "<i4").tolist()
    if token < 0:
        return None, at + 12
    (own,) = np.frombuffer(data[at + 12 : at + 16], "<f4").tolist()
    end = at + 16 + many * _PAIR.itemsize
    top = np.frombuffer(data[at + 16 : end], _PAIR).tolist()
    return Logprob(token, own, rank, tuple(top)), end
