"""`compare`: how far two adapters are apart, layer by layer, without a base model.

What an adapter adds to a layer is s·B·A. Of two of them nothing as large as the layer
is made: with r the sum of both ranks,

    ⟨B A, D C⟩ = Σ (Bᵀ D) ∘ (A Cᵀ)          inner products, and so norms and cosines
    B A - D C  = [B, -D] [A; C] = Q R S Q'ᵀ  its singular values are those of R S, r × r

where R and S are what QR decompositions of both factors leave. All of it in float64.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from claas.errors import ConfigurationError
from claas.library import CONFIG, WEIGHTS, read_tensors

ENERGY = 0.9
"""How much of the squared change the singular values hold that `Layer.rank` counts."""

_NOISE = 1e-12  # of the norms: what is less is what float64 leaves
_BASE = "base_model_name_or_path"
_HALF = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_([AB])\.weight")


@dataclass(frozen=True, slots=True)
class Layer:
    """How what two adapters add to a layer differs.

    Args:
        name: The layer, as the base model calls it.
        first: The Frobenius norm of what the first one adds.
        second: That of the second one.
        change: That of the second less the first.
        cosine: Between the two, 0 where one adds nothing.
        rank: How many directions hold 90 % of the squared change.
        top: How much of it the largest one holds, 0 to 1.
        share: Of the squared change of all layers, 0 to 1.
    """

    name: str
    first: float
    second: float
    change: float
    cosine: float
    rank: int
    top: float
    share: float


@dataclass(frozen=True, slots=True)
class Difference:
    """How two adapters differ.

    Args:
        total: All layers together; its rank is the sum of theirs.
        layers: Each layer that one of them adapts, the most changed first.
        bases: The base model of each, as it is written down.
    """

    total: Layer
    layers: tuple[Layer, ...]
    bases: tuple[str, str]


@dataclass(frozen=True, slots=True)
class _Delta:
    """What an adapter adds to a layer: left times right."""

    left: torch.Tensor
    right: torch.Tensor


@dataclass(frozen=True, slots=True)
class _Measured:
    """A layer, measured; all squared but the inner product."""

    name: str
    first: float
    second: float
    inner: float
    spectrum: tuple[float, ...]


def compare(first: Path, second: Path) -> Difference:
    """Return how two adapters differ.

    Args:
        first: PEFT's files.
        second: PEFT's files, of an adapter of the same base model.

    Raises:
        ConfigurationError: If one is no plain LoRA, or they are of different models.
    """
    one, other = _deltas(first), _deltas(second)
    found = [_measured(name, one, other) for name in dict.fromkeys([*one, *other])]
    whole = sum(sum(some.spectrum) for some in found)
    layers = sorted((_layer(some, whole) for some in found), key=_order)
    bases = [str(_config(some).get(_BASE) or "") for some in (first, second)]
    return Difference(_total(found, layers), tuple(layers), (bases[0], bases[1]))


def _deltas(folder: Path) -> dict[str, _Delta]:
    """Return what an adapter adds to each layer, in order of their names."""
    config = _config(folder)
    if config.get("peft_type") != "LORA" or config.get("use_dora"):
        raise ConfigurationError(f"{folder} is no plain LoRA: only those are compared.")
    halves: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in read_tensors(folder / WEIGHTS).items():
        if (known := _HALF.fullmatch(name)) is None or tensor.dim() != 2:
            raise ConfigurationError(
                f"{folder} has {name}, which is no half of a LoRA: such an adapter "
                "cannot be compared."
            )
        halves.setdefault(known[1], {})[known[2]] = tensor.double()
    if not all(map(_is_whole, halves.values())):
        raise ConfigurationError(
            f"{folder} is damaged: half of a layer is missing, does not fit the other "
            "half, or has a number that is none."
        )
    return {
        name: _Delta(_scale(config, name, len(pair["A"])) * pair["B"], pair["A"])
        for name, pair in sorted(halves.items())
    }


def _config(folder: Path) -> Mapping[str, Any]:
    """Return PEFT's configuration."""
    try:
        config = json.loads((folder / CONFIG).read_text("utf-8"))
        if config["peft_type"] == "LORA":
            float(config["lora_alpha"])
    except (OSError, ValueError, LookupError, TypeError) as exc:
        raise ConfigurationError(
            f"{folder} is no adapter: {CONFIG} cannot be read ({type(exc).__name__})."
        ) from exc
    return config


def _is_whole(halves: Mapping[str, torch.Tensor]) -> bool:
    """Say whether both halves of a layer are there, and fit each other."""
    if len(halves) < 2:
        return False
    rank = len(halves["A"])
    is_finite = all(bool(half.isfinite().all()) for half in halves.values())
    return 0 < rank == halves["B"].shape[1] and is_finite


def _scale(config: Mapping[str, Any], layer: str, rank: int) -> float:
    """Return the number that B·A is multiplied by, as PEFT does."""
    alpha = config["lora_alpha"]
    for pattern, own in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(?:.*\.)?(?:{pattern})$", layer):
            alpha = own
            break
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _measured(
    name: str, first: Mapping[str, _Delta], second: Mapping[str, _Delta]
) -> _Measured:
    """Measure a layer; one that is not adapted has nothing added."""
    one, other = first.get(name), second.get(name)
    some = [delta for delta in (one, other) if delta is not None]
    if len({(len(d.left), d.right.shape[1]) for d in some}) > 1:
        raise ConfigurationError(
            f"{name} has another size in each adapter: they are of different models."
        )
    signs = [-1.0] * (one is not None) + [1.0] * (other is not None)
    left = torch.cat([s * d.left for s, d in zip(signs, some, strict=True)], dim=1)
    right = torch.cat([delta.right for delta in some])
    core = torch.linalg.qr(left).R @ torch.linalg.qr(right.T).R.T
    norms = _inner(one, one), _inner(other, other)
    squares = torch.linalg.svdvals(core).square()
    squares[squares < _NOISE**2 * sum(norms)] = 0
    spectrum = tuple(squares.tolist())
    return _Measured(name, *norms, _inner(one, other), spectrum)


def _inner(one: _Delta | None, other: _Delta | None) -> float:
    """Return the inner product of what two adapters add to a layer."""
    if one is None or other is None:
        return 0.0
    return float(((one.left.T @ other.left) * (one.right @ other.right.T)).sum())


def _layer(some: _Measured, whole: float) -> Layer:
    """Return what is to be said of a layer."""
    energy = sum(some.spectrum)
    return Layer(
        name=some.name,
        **_norms([some]),
        rank=_rank(some.spectrum),
        top=some.spectrum[0] / energy if energy else 0.0,
        share=energy / whole if whole else 0.0,
    )


def _total(found: Sequence[_Measured], layers: Sequence[Layer]) -> Layer:
    """Return what is to be said of all layers together."""
    return Layer(
        name="all",
        **_norms(found),
        rank=sum(layer.rank for layer in layers),
        top=sum(layer.top * layer.share for layer in layers),
        share=sum(layer.share for layer in layers),
    )


def _norms(found: Sequence[_Measured]) -> dict[str, float]:
    """Return norms and cosine of some layers together."""
    first, second = (sum(getattr(m, k) for m in found) for k in ("first", "second"))
    product = math.sqrt(max(first, 0.0)) * math.sqrt(max(second, 0.0))
    return {
        "first": math.sqrt(max(first, 0.0)),
        "second": math.sqrt(max(second, 0.0)),
        "change": math.sqrt(sum(sum(some.spectrum) for some in found)),
        "cosine": sum(some.inner for some in found) / product if product else 0.0,
    }


def _rank(spectrum: Sequence[float]) -> int:
    """Return how many of the largest squares hold `ENERGY` of all."""
    needed, held = ENERGY * sum(spectrum), 0.0
    for count, square in enumerate(spectrum):
        if held >= needed:
            return count
        held += square
    return len(spectrum)


def _order(layer: Layer) -> tuple[float, str]:
    return -layer.change, layer.name
