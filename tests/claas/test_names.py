"""Names of adapters: what is one, and what the inference server calls it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claas.errors import IdentifierError
from claas.names import LoraName

PARTS = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,6}[a-z0-9])?", fullmatch=True)


def test_a_name_says_user_model_and_version() -> None:
    name = LoraName.of("ann/kuro@v12")
    assert (name.user, name.model, name.version) == ("ann", "kuro", 12)
    assert str(name) == "ann/kuro@v12"
    assert name.lora == "ann/kuro"
    assert name.serving == "ann-kuro@v12"
    assert LoraName.of("ann/kuro@live").version is None


@pytest.mark.parametrize(
    "text",
    [
        *("", "a", "a/", "/b", "a/b/c", "../b", "a/..", "a/b@", "a/b@v01", "a/b@v-1"),
        *("a/b@newest", "A/b", "a/B", "a/b ", " a/b", "a/b\n", "a\0/b", "a/b\0"),
        *("a./b", "-a/b", "a..b/c", "a\\b/c", "ſ/b", "a/b@v1@v2", "a" * 65 + "/b"),
        *("~/b", "a/b%2f", "a/b@v9999999999"),
    ],
)
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(IdentifierError, match="is no name of an adapter"):
        LoraName.of(text)


@given(PARTS, PARTS, PARTS, PARTS)
def test_two_adapters_never_share_a_name_of_the_server(
    user: str, model: str, other_user: str, other_model: str
) -> None:
    one, other = LoraName(user, model), LoraName(other_user, other_model)
    assert (one.serving == other.serving) == (one == other)
