"""What lossy codecs change: measured with the whole model, a layer at a time.

A sample of tokens goes through all layers once, with each codec in a lane of its own
and one more for f32. One layer is in memory at a time, so the model may be larger than
the machine; what it costs is reading the weights once. The links are spread evenly over
the layers: what a codec changes hardly depends on where they are, and adds up.
"""

import contextlib
import logging
from collections.abc import Sequence

import torch

from butterfly.cluster.options import HeadOptions
from butterfly.communication.codecs import CODECS, Codec, codec_number
from butterfly.communication.frames import Segment
from butterfly.engine.library import read_tokenizer
from butterfly.engine.stage import Shape, Stage
from butterfly.engine.weights import Checkpoint
from butterfly.errors import ConfigurationError
from butterfly.partitioning import Chain
from butterfly.partitioning.loss import Loss, worst

_log = logging.getLogger("butterfly.losses")
_TOKENS = 160
_TEXT = """\
The lighthouse at the end of the bay was built in 1874, after three ships had been \
lost on the rocks in one winter. Its keeper, a widow of fifty, climbed the 212 steps \
twice a night to wind the clockwork. "If the lamp stops," she used to say, "so do \
they." In 1931 an electric motor took her place; today the tower is a museum, open \
from May to September.

def mean(values: list[float]) -> float:
    if not values:
        raise ValueError("no values")
    return sum(values) / len(values)

Der Zug nach Bremen hat heute zwanzig Minuten Verspätung. La réunion est reportée à \
jeudi, à 14 h 30.
"""


def losses_of(
    checkpoint: Checkpoint,
    codecs: Sequence[str],
    links: int,
    *,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> tuple[Loss, ...]:
    """Measure what codecs change.

    Args:
        checkpoint: The model.
        codecs: Their names.
        links: On how many links at once; no more than there are between layers.
        dtype: Of weights and hidden states.
        device: Where to compute.

    Raises:
        ConfigurationError: If a codec is not known, or the weights are not here.
    """
    formats = [CODECS[0], *[CODECS[codec_number(name)] for name in codecs]]
    try:
        exact, *others = _logprobs(checkpoint, formats, links, dtype, device)
    except OSError as exc:
        raise ConfigurationError(
            f"what {', '.join(codecs)} changes cannot be measured here ({exc}): run "
            "`butterfly probe` where the weights are and plan with what it wrote, or "
            "use f32."
        ) from exc
    best = exact.argmax(-1)
    found = []
    for name, other in zip(codecs, others, strict=True):
        kl = float((exact.exp() * (exact - other)).sum(-1).mean())
        top1 = int((other.argmax(-1) == best).sum()) / len(best)
        kl = max(0.0, kl) if kl == kl else float("inf")  # no number is no model
        found.append(Loss(name, links, kl, top1))
    return tuple(found)


def must_keep(
    options: HeadOptions, checkpoint: Checkpoint, chain: Chain | None
) -> None:
    """Refuse codecs that change more than the budget allows.

    What the plan does not tell is measured here.

    Args:
        options: What the head was told.
        checkpoint: The model.
        chain: What the plan says, if there is one.

    Raises:
        ConfigurationError: If a codec changes too much; it names figure and budget.
    """
    o, links = options, options.stages - 1
    named = dict.fromkeys((*(chain.codecs if chain is not None else ()), o.codec))
    told = () if o.plan is None else o.plan.losses
    for codec in named if links else ():
        loss = worst(codec, links, told)
        if loss is None and o.budget.objection(codec, None):
            dtype = getattr(torch, o.dtype)
            (loss,) = losses_of(checkpoint, [codec], links, dtype=dtype)
            _log.info("%s", loss)
        if objection := o.budget.objection(codec, loss):
            raise ConfigurationError(
                f"{objection}. Use f32, or allow more with --codec-budget KL:TOP1."
            )


@torch.inference_mode()
def _logprobs(
    checkpoint: Checkpoint,
    formats: Sequence[Codec],
    links: int,
    dtype: torch.dtype,
    device: str,
) -> list[torch.Tensor]:
    """Return `[tokens, vocabulary]` for each codec."""
    tokens = _sample(checkpoint)
    size, depth = len(tokens), checkpoint.config().num_hidden_layers
    cuts = {round(k * depth / (links + 1)) for k in range(1, links + 1)}
    segments = [Segment(lane, 0, size) for lane in range(len(formats))]
    hidden = torch.empty(0)
    for layer in range(depth):
        shape = Shape(layer, layer + 1, len(formats), size)
        stage = Stage(checkpoint, shape, dtype=dtype, device=device)
        if stage.is_first:
            hidden = stage.embed(torch.tensor(tokens * len(formats)))
        hidden = stage.forward(hidden, segments)
        if layer + 1 in cuts - {depth}:
            parts = zip(formats, hidden.split(size), strict=True)
            sent = [c.decode(c.encode(part), size, dtype) for c, part in parts]
            hidden = torch.cat(sent).to(device)
    parts = hidden.split(size)
    return [stage.logits(part).log_softmax(-1).cpu() for part in parts]


def _sample(checkpoint: Checkpoint) -> list[int]:
    """Return tokens of some text; of none where the model has no tokenizer."""
    config = checkpoint.config()
    count = min(_TOKENS, config.max_position_embeddings)
    found: list[int] = []  # transformers may give an empty tokenizer for none
    with contextlib.suppress(ConfigurationError):
        found = read_tokenizer(checkpoint.folder)(_TEXT)["input_ids"]
    found = found or [(37 * k + 11) % config.vocab_size for k in range(count)]
    return found[:count]
