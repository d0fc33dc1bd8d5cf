"""The card of one node: what it was asked, what it gave, and how it got there."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from inf_engine.pages.markup import (
    Piece,
    counted,
    escape,
    seconds_text,
    text_block,
    usd_text,
    value_block,
)
from inf_engine.pages.shapes import CallShape, NodeRecordShape, SegmentShape
from inf_engine.types import LLMResponse, Message, Usage

MOST_CALLS = 30
MOST_CAUSES = 5
MOST_INPUTS = 3
LEAST_WAIT = 0.001  # seconds; less is no wait, but the loop's turn

STYLE = """
.card{background:var(--panel);border:1px solid var(--line);border-radius:10px;
margin:0 0 14px;padding:14px 18px 16px;scroll-margin-top:12px}
.card:target{border-color:var(--accent);box-shadow:0 0 0 2px var(--accent)}
.card.failed{border-left:4px solid var(--err)}
.card.cancelled{border-left:4px solid var(--wait)}
.card>header{display:flex;flex-wrap:wrap;align-items:baseline;gap:4px 12px}
.card h3{font:600 15px/1.4 var(--mono);margin:0;overflow-wrap:anywhere}
.card h4{font-size:12.5px;font-weight:600;color:var(--soft);margin:14px 0 5px}
.card h4 .from{font-weight:400;font-family:var(--mono)}
.meta{color:var(--soft);font-size:13px;font-variant-numeric:tabular-nums}
.tag,.badge{font-size:12px;line-height:1.5;border-radius:5px;padding:1px 7px;
border:1px solid var(--line);overflow-wrap:anywhere}
.tag.llm{background:var(--node);border-color:transparent}
.badge{font-weight:600}.badge.done{color:var(--ok);border-color:currentColor}
.badge.failed{color:var(--err);border-color:currentColor}
.badge.cancelled,.badge.waiting{color:var(--soft);border-color:currentColor}
.badge.running{color:var(--accent);border-color:currentColor}
.sides{display:grid;gap:0 24px;grid-template-columns:minmax(0,1fr)}
@media (min-width:900px){.sides.two{grid-template-columns:minmax(0,1fr) minmax(0,1fr)}}
.calls{margin:4px 0 0;padding:0;list-style:none;border-left:2px solid var(--line)}
.calls>li{padding:2px 0 8px 14px}
.calls p{margin:4px 0;font-size:13px;color:var(--soft)}
"""


def card(record: NodeRecordShape, names: Mapping[str, str]) -> str:
    """Return the card of a node.

    Args:
        record: What the node did.
        names: The nodes of the graph, each with the id of its card, empty for none;
            every other source of a text is a parameter.
    """
    asked, gave = _asked(record, names), _gave(record)
    two = " two" if asked and gave else ""
    sides = "".join(f"<div>{side}</div>" for side in (asked, gave) if side)
    return (
        f'<article class="card {escape(record.outcome)}" id="n{record.node.index}">'
        f"{_head(record)}"
        f'<div class="sides{two}">{sides}</div>{_calls(record)}</article>'
    )


def error_text(error: BaseException) -> str:
    """Return the type and message of an error and of its causes, a line each."""
    lines, here = [], [error]
    while len(lines) < MOST_CAUSES and here:
        found = here.pop()
        lines.append(f"{type(found).__name__}: {found}")
        below = found.__cause__ or getattr(found, "cause", None)
        if isinstance(below, BaseException):
            here.append(below)
    return "\n".join(dict.fromkeys(lines))


def tokens_text(usage: Usage) -> str:
    """Return the tokens read and written."""
    text = f"{usage.input_tokens:,} → {usage.output_tokens:,} tokens"
    return text + (f" ({usage.cached_tokens:,} cached)" if usage.cached_tokens else "")


def _head(record: NodeRecordShape) -> str:
    node = record.node
    look = "llm" if node.kind == "llm" else "plain"
    facts = [] if record.started is None else [seconds_text(record.seconds)]
    if record.usage.total_tokens:
        facts.append(tokens_text(record.usage))
    if record.calls:
        facts.append("cost unknown" if record.cost is None else usd_text(record.cost))
    if record.reused is not None:
        facts.append(f"from {record.reused}")
    if record.waited >= LEAST_WAIT:
        facts.append(f"waited {seconds_text(record.waited)}")
    if len(record.calls) > 1:
        facts.append(counted(len(record.calls), "request"))
    facts += dict.fromkeys(
        call.response.model for call in record.calls if call.response is not None
    )
    badge = ""
    if record.outcome != "done":
        text = escape(record.outcome)
        badge = f'<span class="badge {text}">{text}</span>'
    return (
        f"<header><h3>{escape(node.name)}</h3>"
        f'<span class="tag {look}">{escape(node.alias or node.kind)}</span>{badge}'
        f'<span class="meta">{escape(" · ".join(filter(None, facts)))}</span></header>'
    )


def _asked(record: NodeRecordShape, names: Mapping[str, str]) -> str:
    parts = []
    if record.system:
        parts.append(_segments("System prompt", record.system, names))
    if record.prompt:
        parts.append(_segments("Prompt", record.prompt, names))
        return "".join(parts)
    named = record.kwargs or {}
    if len(record.args) > MOST_INPUTS:
        parts.append(_value("Inputs", record.args))
    else:
        parts += [_value("Input", value) for value in record.args]
    if len(named) > MOST_INPUTS:
        parts.append(_value("Named inputs", named))
    else:
        parts += [_value(name, value) for name, value in named.items()]
    return "".join(parts)


def _gave(record: NodeRecordShape) -> str:
    if record.outcome == "done":
        title = "Answer" if record.node.kind == "llm" else "Output"
        return _value(title, record.output)
    if record.error is None:
        return ""
    title = "Error" if record.outcome == "failed" else "Cancelled because of"
    text = text_block([Piece(error_text(record.error))])
    return f'<h4>{title}</h4><div class="error">{text}</div>'


def _segments(
    title: str, segments: Sequence[SegmentShape], names: Mapping[str, str]
) -> str:
    """Return a prompt; one that comes from one source as a whole says so above it."""
    pieces = [_piece(segment, names) for segment in segments]
    sources = dict.fromkeys(piece.source for piece in pieces if piece.text)
    only = next(iter(sources), None)
    if len(sources) == 1 and only is not None and pieces[0].look == "parameter":
        head = f'{title} <span class="from">{escape(only)}</span>'
        whole = [Piece("".join(piece.text for piece in pieces))]
        return f"<h4>{head}</h4>{text_block(whole)}"
    return f"<h4>{title}</h4>{text_block(pieces)}"


def _piece(segment: SegmentShape, names: Mapping[str, str]) -> Piece:
    look = "node" if segment.source in names else "parameter"
    return Piece(
        segment.text,
        segment.source,
        look,
        names.get(segment.source or "", ""),
        segment.image,
    )


def _value(title: str, value: Any) -> str:
    return f"<h4>{escape(title)}</h4>{value_block(value)}"


def _calls(record: NodeRecordShape) -> str:
    """Return what happened on the way, if the first answer was not the last word."""
    calls = record.calls
    notable = len(calls) > 1 or any(
        call.error or (call.response and _notable(call.response)) for call in calls
    )
    if not notable:
        return ""
    rows, before = [], None
    for number, call in enumerate(calls[:MOST_CALLS], 1):
        rows.append(f"<li>{_call(number, call, before, record.output)}</li>")
        before = call
    if len(calls) > MOST_CALLS:
        rows.append(f"<li><p>{len(calls) - MOST_CALLS:,} more left out</p></li>")
    title = counted(len(calls), "request")
    return f'<h4>{title}</h4><ol class="calls">{"".join(rows)}</ol>'


def _notable(response: LLMResponse) -> bool:
    return bool(
        response.tool_calls
        or response.reasoning
        or response.finish_reason not in ("stop", "tool_calls")
    )


def _call(number: int, call: CallShape, before: CallShape | None, output: Any) -> str:
    facts = [f"at {seconds_text(call.started)}", f"took {seconds_text(call.seconds)}"]
    new: Sequence[Message] = ()
    if before is not None:
        new = call.request.messages[len(before.request.messages) :]
        facts.insert(0, "asked again" if new else "tried again")
    if call.response is not None:
        spent = f"from {call.reused}" if call.reused else _spent(call)
        facts += [spent, call.response.finish_reason]
    parts = [f"<p><b>{number}.</b> {escape(' · '.join(facts))}</p>"]
    parts += _messages(new)
    if call.error is not None:
        text = text_block([Piece(error_text(call.error))])
        parts.append(f'<div class="error">{text}</div>')
    elif call.response is not None:
        parts += _answer(call.response, output)
    return "".join(parts)


def _spent(call: CallShape) -> str:
    """Return the tokens and the cost of a request that was answered."""
    tokens = "" if call.response is None else tokens_text(call.response.usage)
    return tokens if call.cost is None else f"{tokens} · {usd_text(call.cost)}"


def _messages(messages: Iterable[Message]) -> list[str]:
    """Return what was added to the conversation, but for the answer shown before."""
    titles = {"tool": "Tool answered", "user": "Told the model", "system": "System"}
    return [
        f"<p>{titles[message.role]}</p>{text_block([Piece(message.text)])}"
        for message in messages
        if message.role in titles
    ]


def _answer(response: LLMResponse, output: Any) -> list[str]:
    """Return what the model wrote, but for the text that the card shows anyway."""
    parts = []
    if response.reasoning:
        parts.append(f"<p>Reasoning</p>{text_block([Piece(response.reasoning)])}")
    for wish in response.tool_calls:
        text = f"{wish.name}({wish.arguments})"
        parts.append(f"<p>Called a tool</p>{text_block([Piece(text)], code=True)}")
    if response.text and response.text != output:
        parts.append(f"<p>Answered</p>{text_block([Piece(response.text)])}")
    return parts
