"""The journal and the cache: what was paid for is kept, and not paid for again.

An engine opens one `JournalStore`. For each input it takes `identity_of` its arguments
and makes one `CallNumbers`. For each call::

    text = canonical_request(request)
    number = numbers.take(path, text, model)
    key = call_key(path, text, model, input_id, number)
    kept = store.get(key)

If `kept` is not None, ``decode_response(kept)`` is the answer. Else the endpoint is
asked, and before its answer is used::

    store.append(Row(key, request=text, response=encode_response(answer)))
"""

from inf_engine.journal.codec import (
    canonical_request,
    decode_request,
    decode_response,
    encode_response,
)
from inf_engine.journal.export import EXPORT_COLUMNS, export_journal
from inf_engine.journal.identity import identity_of
from inf_engine.journal.interface import AnswerStore
from inf_engine.journal.keys import CallNumbers, cache_key, call_key
from inf_engine.journal.rows import Row
from inf_engine.journal.store import JournalStore

__all__ = [
    "AnswerStore",
    "EXPORT_COLUMNS",
    "CallNumbers",
    "JournalStore",
    "Row",
    "cache_key",
    "call_key",
    "canonical_request",
    "decode_request",
    "decode_response",
    "encode_response",
    "export_journal",
    "identity_of",
]
