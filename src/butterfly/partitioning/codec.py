"""Wire formats as numbers: how many bytes a row of hidden states takes on a link.

Whether a lossy one may be used is not known here: who plans names the formats that
kept within their measured `Budget`, the most exact first.
"""

from dataclasses import dataclass

from butterfly.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Codec:
    """What a wire format costs.

    Args:
        name: Its name.
        value_bytes: Bytes of one value.
        row_bytes: Bytes that each row adds (scales, outliers).
        row_s: Seconds to encode and decode a row.
    """

    name: str
    value_bytes: float
    row_bytes: float = 0.0
    row_s: float = 0.0

    def size(self, hidden: int, rows: float) -> float:
        """Return the bytes of some rows."""
        return rows * (hidden * self.value_bytes + self.row_bytes)


F32 = Codec("f32", 4)
F16 = Codec("f16", 2)
INT8 = Codec("int8", 1, row_bytes=20)  # a scale, four outliers and where they are

CODECS: dict[str, Codec] = {codec.name: codec for codec in (F32, F16, INT8)}


def find_codec(name: str) -> Codec:
    """Return the codec of a name.

    Raises:
        ConfigurationError: There is none; the message lists the names.
    """
    if name not in CODECS:
        raise ConfigurationError(f"no codec {name!r}: there are {', '.join(CODECS)}")
    return CODECS[name]
