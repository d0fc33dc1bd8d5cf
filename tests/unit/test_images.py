"""`Image`: what it is made of, what is known of it, and where it may stand."""

import base64
import copy
import pickle
import struct
from pathlib import Path
from typing import Any

import pytest

from inf_engine import Image, InferenceModule, LLMInference, UsageError, op
from inf_engine.images import MOST_BYTES
from inf_engine.journal import identity_of
from inf_engine.resources.estimate import TokenEstimator
from inf_engine.template import MixedText
from inf_engine.testing import FunctionClient, assert_runs_alike
from inf_engine.types import ImagePart, LLMRequest, Message, TextPart

PNG = b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + struct.pack(">II", 640, 480) + b"rest"
GIF = b"GIF89a" + struct.pack("<HH", 2, 3) + b"\0\0\0;"
JPEG = (
    b"\xff\xd8\xff\xe0\0\x04ab\xff\xc2\0\x11\x08" + struct.pack(">HH", 48, 64) + b"..."
)
RIFF = b"RIFF\0\0\0\0WEBP"
LOSSY = RIFF + b"VP8 \0\0\0\0\0\0\0\x9d\x01\x2a" + struct.pack("<HH", 30, 20)
LOSSLESS = RIFF + b"VP8L\0\0\0\0\x2f" + (29 | 19 << 14).to_bytes(4, "little") + b"...."
WIDE = RIFF + b"VP8X\0\0\0\0....\x1d\0\0\x13\0\0"
DATA = f"data:image/x;base64,{base64.b64encode(PNG).decode()}"


class Pillow:
    """What Pillow's images have that is needed."""

    mode = "RGB"

    def __init__(self, kind: str | None, content: bytes = PNG) -> None:
        self.format = kind
        self.content = content

    def save(self, file: Any, format: str) -> None:
        """Write it, or refuse."""
        self.saved = format
        if not self.content:
            raise OSError("cannot write mode F as PNG")
        file.write(self.content)


@pytest.mark.parametrize(
    ("content", "kind", "size"),
    [
        (PNG, "png", (640, 480)),
        (GIF, "gif", (2, 3)),
        (JPEG, "jpeg", (64, 48)),
        (LOSSY, "webp", (30, 20)),
        (LOSSLESS, "webp", (30, 20)),
        (WIDE, "webp", (30, 20)),
        (PNG[:10], "png", (0, 0)),
        (JPEG[:9], "jpeg", (0, 0)),
    ],
)
def test_its_kind_and_size_are_read(
    content: bytes, kind: str, size: tuple[int, int]
) -> None:
    """From the content, whatever the name says; a cut one has no size."""
    image = Image(content)
    assert image.media_type == f"image/{kind}"
    assert (image.width, image.height) == size
    assert (image.content, image.size) == (content, len(content))


def test_all_sources_are_one_image(tmp_path: Path) -> None:
    """Path, text, bytes, data address, Pillow and another image: equal by content."""
    path = tmp_path / "cat.dat"
    path.write_bytes(PNG)
    sources = [path, str(path), PNG, bytearray(PNG), DATA, Image(PNG), ImagePart(DATA)]
    images = [Image(source) for source in sources]
    assert all(image == images[0] for image in images)
    assert len({identity_of((image,), {}) for image in images}) == 1
    assert images[0].digest == images[1].digest != Image(GIF).digest
    for kind, saved in (("JPEG", "JPEG"), ("TIFF", "PNG"), (None, "PNG")):
        assert Image(given := Pillow(kind)) == images[0]
        assert given.saved == saved
    assert pickle.loads(pickle.dumps(images[0])) == copy.deepcopy(images[0])


def test_an_address_is_not_fetched() -> None:
    """The provider does that; its text is the address."""
    image = Image("https://h.test/a.png")
    assert (image.url, image.data, image.size) == ("https://h.test/a.png", "", 0)
    assert str(image) == "[image https://h.test/a.png]"


def test_its_text_is_short() -> None:
    """Kind, size and the first digits of the digest; the content is nowhere in it."""
    image = Image(PNG)
    assert f"{image}" == f"[image/png 640x480 {image.digest[:12]}]"
    assert repr(image) == f"Image({str(image)[1:-1]})"
    assert f"{image:>60}" == f"{image!s:>60}"
    assert repr(ImagePart(data="QUJD")).startswith("ImagePart(image/png b5d4045c3f46")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("no/cat.png", "cannot read the image 'no/cat.png': No such file or directory"),
        (Path("."), "cannot read the image '.': Is a directory"),
        ("a\0b", "it is no path"),
        (b"%PDF-1.4", "is no image that models take: .* PNG, JPEG, GIF or WebP"),
        (b"", "is no image that models take"),
        (b"x" * (MOST_BYTES + 1), "has 20.0 MB, and an image may have 20 MB"),
        ("data:image/png,abc", "begins with data:image/png;base64,"),
        ("data:image/png;base64,%%", "is no base64 text"),
        ("data:image/png;base64,", "is no image that models take"),
        (Pillow("PNG", b""), "cannot write mode F as PNG. Convert it"),
        (7, "not of int"),
    ],
)
def test_what_is_no_image(source: Any, message: str) -> None:
    """What is wrong with it, and what to give."""
    with pytest.raises(UsageError, match=message):
        Image(source)


def test_a_file_that_is_no_image_or_too_large(tmp_path: Path) -> None:
    """It is named; a large one is not read."""
    path = tmp_path / "a.png"
    path.write_text("hello")
    with pytest.raises(UsageError, match="a.png' is no image that models take"):
        Image(path)
    path.write_bytes(b"")
    with pytest.raises(UsageError, match="a.png' is no image that models take"):
        Image(path)
    with path.open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    with pytest.raises(UsageError, match="a.png' has 20.0 MB"):
        Image(path)


def test_tokens_follow_its_size() -> None:
    """A large image is many tokens, one without a size as many as usual."""
    small, large, unknown = Image(GIF), Image(PNG), Image("https://h.test/a.png")
    tokens = [
        TokenEstimator().input_tokens(LLMRequest((Message("user", (image,)),)))
        for image in (small, large, unknown)
    ]
    assert tokens == [86, 410, 766]


@op
def load(kind: str) -> Image:
    """Load an image."""
    return Image(PNG if kind == "png" else GIF)


@op
def same(value: Any) -> Any:
    """Give back what was given."""
    return value


class Places(InferenceModule):
    """Images in every place of a prompt."""

    def __init__(self) -> None:
        super().__init__()
        self.say = LLMInference("m")
        self.fill = LLMInference("m", prompt="See {image}{more}")

    def forward(self, image: Image, text: str) -> list[Any]:
        """Ask in all forms."""
        later = load("gif")
        kept = same(f"kept {image}")
        return [
            self.say(f"a {image} b {later}{text}"),
            self.say(["c", image, f"d {later}"]),
            self.say([{"role": "user", "content": f"e {image}"}]),
            self.say([{"role": "user", "content": ["f", later]}]),
            self.say([{"type": "image_url", "image_url": {"url": DATA}}, "g"]),
            self.say(image),
            self.say(later),
            self.say(kept),
            self.say("h " + text),
            self.fill(image=image, more=f" and {later}"),
            self.fill(image=later, more={"is": [image]}["is"][0]),
            kept,
            f"{image!r}",
        ]


def seen(request: LLMRequest) -> str:
    """What a model sees: texts as they are, images as a letter for their kind."""
    content = request.messages[-1].content
    assert not isinstance(content, str)
    letters = {"image/png": "P", "image/gif": "G"}
    return "".join(
        part.text if isinstance(part, TextPart) else letters[part.media_type]
        for part in content
    )


def test_images_reach_the_model_from_everywhere() -> None:
    """In f-strings, parts, messages and fields; over proxies; traced as eager."""
    mixed = MixedText(["<", Image(GIF), ">"])
    client = FunctionClient(seen)
    given = assert_runs_alike(Places(), Image(PNG), mixed, clients={"m": client})
    assert given[:11] == [
        *("a P b G<G>", "cPd G", "e P", "fG", "Pg", "P", "G", "kept P"),
        *("h <G>", "See P and G", "See GP"),
    ]
    assert given[11] == f"kept {Image(PNG)}"
    assert given[12] == repr(Image(PNG))


def test_a_text_with_images() -> None:
    """It is a text to Python, adds up, and is the same after a copy."""
    image = Image(PNG)
    mixed = MixedText(["a ", image])
    assert mixed == f"a {image}"
    assert ("<" + mixed + ">").parts == ("<", "a ", image, ">")
    assert pickle.loads(pickle.dumps(mixed)).parts == mixed.parts
    assert f"{mixed:>60}" == format(str(mixed), ">60")
