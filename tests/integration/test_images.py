"""Images at the far end: servers, files, reports, critics, the command line."""

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import pytest
from tests.integration.cli_helpers import Shell, resources, shell_in
from tests.integration.serving_helpers import Ask, Server, Talk, served

from inf_engine import (
    EndpointConfig,
    Engine,
    Image,
    InferenceModule,
    LLMInference,
    Parameter,
)
from inf_engine.errors import ConfigurationError
from inf_engine.journal import JournalStore, decode_request, export_journal
from inf_engine.optimization import DemoParameter, Feedback
from inf_engine.optimization.shown import lesson_of
from inf_engine.testing import FunctionClient, LoopbackServer
from inf_engine.types import ImagePart, LLMRequest

DOT = b"GIF89a\x01\0\x01\0\0\0\0;"
OTHER = b"GIF89a\x02\0\x02\0\0\0\0;"
ENCODED = base64.b64encode(DOT).decode()
URL = f"data:image/gif;base64,{ENCODED}"


class Look(InferenceModule):
    """Two calls that see the image."""

    def __init__(self) -> None:
        super().__init__()
        self.see = LLMInference("m", Parameter("Describe."))
        self.sure = LLMInference("m", prompt="Is {image} a {what}?")

    def forward(self, image: Image) -> str:
        """Say what it is, and look again."""
        return self.sure(image=image, what=self.see(f"What is {image}?"))


def bound(server: LoopbackServer, provider: str) -> dict[str, Any]:
    """Resources of one alias."""
    is_anthropic = provider == "anthropic"
    url = server.anthropic_url if is_anthropic else server.base_url
    return {"endpoints": {"m": {"provider": provider, "model": "v", "base_url": url}}}


@pytest.mark.parametrize("provider", ["openai", "openai-compatible", "anthropic"])
def test_the_server_gets_the_very_bytes(
    provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the provider's own form, at its place in the text."""
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "k")
    with LoopbackServer("dot") as server:

        async def main() -> None:
            async with Engine(bound(server, provider)) as engine:
                assert await engine.run(Look(), Image(DOT)) == "dot"

        asyncio.run(main())
        first, second = [r.body["messages"][-1]["content"] for r in server.requests]
    picture: Any = {"type": "image_url", "image_url": {"url": URL}}
    if provider == "anthropic":
        source = {"type": "base64", "media_type": "image/gif", "data": ENCODED}
        picture = {"type": "image", "source": source}
    text = {"type": "text", "text": "What is "}
    assert first == [text, picture, {"type": "text", "text": "?"}]
    assert [part["type"] for part in second] == ["text", picture["type"], "text"]
    assert second[2]["text"] == " a dot?"


async def test_a_resume_pays_nothing_twice(tmp_path: Path) -> None:
    """The same content from another file is known; another image is not."""
    client = FunctionClient(lambda request: f"seen {len(request.images)}")
    (tmp_path / "a.gif").write_bytes(DOT)
    (tmp_path / "b.gif").write_bytes(DOT)
    path = tmp_path / "run.db"
    for name in ("a.gif", "b.gif"):
        async with Engine({"m": client}, journal=path) as engine:
            await engine.run(Look(), Image(tmp_path / name))
    assert len(client.requests) == 2
    async with Engine({"m": client}, journal=path) as engine:
        await engine.run(Look(), Image(OTHER))
    assert len(client.requests) == 4


async def test_an_image_is_kept_once(tmp_path: Path) -> None:
    """Each row names its digest; the content is in the file once, and comes back."""
    large = DOT + bytes(range(256)) * 400
    client = FunctionClient(lambda request: "dot")
    path = tmp_path / "run.db"
    cache = tmp_path / "cache.db"
    async with Engine({"m": client}, journal=path, cache=cache) as engine:
        await engine.map(Look(), [Image(large)] * 3)
    assert path.stat().st_size < 2 * len(large)
    for name in (path, cache):
        with JournalStore(name, read_only=True) as store:
            (digest,) = {decode_request(r.request).images[0].url for r in store.rows()}
            assert digest == f"inf-image:{Image(large).digest}"
            assert store.image(Image(large).digest) == large
            assert store.image("0" * 64) is None
    export_journal(path, tmp_path / "rows.jsonl")
    row = json.loads((tmp_path / "rows.jsonl").read_text().splitlines()[0])
    assert row["request"]["messages"][-1]["content"][1]["url"] == digest


async def test_the_cache_knows_an_image_by_its_content(tmp_path: Path) -> None:
    """Another run with the same image is a hit, another image is none."""
    client = FunctionClient(lambda request: "dot")
    for content in (DOT, DOT, OTHER):
        async with Engine({"m": client}, cache=tmp_path / "c.db") as engine:
            await engine.run(LLMInference("m"), [Image(content)])
    assert len(client.requests) == 2


async def test_the_report_shows_it(tmp_path: Path) -> None:
    """In the input and in each prompt, its content once; no large ones, no address."""
    client = FunctionClient(lambda request: "dot")
    async with Engine({"m": client}) as engine:
        record = await engine.record(Look(), Image(DOT))
        large = await engine.record(Look(), Image(DOT + bytes(3_000_000)))
        far = await engine.record(Look(), Image("https://h.test/a.png"))
    page = record.report(tmp_path / "a.html").read_text()
    assert page.count(f'url("{URL}")') == 1
    name = f"i{Image(DOT).digest[:24]}"
    assert page.count(f'class="picture-of {name}" role="img"') == 3
    assert "image/gif 1x1" in page
    assert "img-src data:;" in page
    assert "data:image" not in large.report(tmp_path / "b.html").read_text()
    page = far.report(tmp_path / "c.html").read_text()
    assert "[image https://h.test/a.png]" in page
    assert "url(" not in page
    assert record.node("see#1").prompt[1].image == Image(DOT)


@pytest.mark.parametrize("images", [True, False])
async def test_a_critic_sees_it_if_it_can(images: bool) -> None:
    """As an image beside its example, or only by its name."""
    asked: list[LLMRequest] = []

    def answer(request: LLMRequest) -> str:
        if request.response_schema is None:
            return "dot"
        asked.append(request)
        return json.dumps({"parameters": [], "inputs": []})

    client = FunctionClient(answer)
    async with Engine({"m": client, "critic": client}) as engine:
        manager: Any = engine._scheduler.manager
        manager.reads_images = lambda alias: images or alias == "m"
        record = await engine.record(Look(), Image(DOT))
        await Feedback("It is a cat.", score=0.0, record=record).backward(
            engine=engine, critic="critic"
        )
    assert [len(request.images) for request in asked] == [int(images)] * len(asked)
    assert f"Is {Image(DOT)} a dot?" in asked[0].prompt


async def test_a_call_that_saw_an_image_is_no_demonstration() -> None:
    """Demonstrations are text; a call without an image is one."""

    class Two(InferenceModule):
        def __init__(self) -> None:
            super().__init__()
            self.demos = DemoParameter()
            self.see = LLMInference("m", demos=self.demos)

        def forward(self, image: Image) -> str:
            return self.see(f"Shorter: {self.see(f'What is {image}?')}")

    async with Engine({"m": FunctionClient(lambda r: "dot")}) as engine:
        record = await engine.record(Two(), Image(DOT))
    lesson = lesson_of(record, ["demos"], ["demos"])
    assert lesson is not None
    (demo,) = lesson.demos["demos"]
    assert demo.inputs == "Shorter: dot"


def test_a_model_that_reads_none_is_not_asked() -> None:
    """The alias is named, and nothing is sent; texts are. A local model reads none."""
    assert not EndpointConfig("local").reads_images
    with LoopbackServer() as server:
        table = bound(server, "openai-compatible")
        table["endpoints"]["m"]["images"] = False
        with Engine(table) as engine:
            assert not engine.reads_images("m")
            with pytest.raises(
                ConfigurationError, match="'m' is bound to a model that"
            ):
                engine.run_sync(LLMInference("m"), Image(DOT))
            assert engine.run_sync(LLMInference("m"), "hello") == "ok"
        assert server.count == 1


def test_the_command_line_reads_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Beside the file of inputs; a missing one is told before anything is sent."""
    with shell_in(tmp_path, monkeypatch, capsys) as shell, LoopbackServer() as server:
        shell.write(
            "looks.py",
            "from inf_engine import Image, InferenceModule, LLMInference\n"
            "class Look(InferenceModule):\n"
            "    def __init__(self):\n"
            "        super().__init__()\n"
            "        self.llm = LLMInference('m')\n"
            "    def forward(self, image: Image, what: str = 'it'):\n"
            "        return self.llm(f'{what}: {image}')\n",
        )
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "a.gif").write_bytes(DOT)
        shell.write("r.toml", resources(server))
        line = "run looks:Look --inputs data/in.jsonl --out o.jsonl --resources r.toml"
        rows = [{"image": "a.gif"}, {"image": URL, "what": "x"}, {"image": "no.gif"}]
        run_lines(shell, rows, line, 2)
        assert "data/in.jsonl:3: cannot read the image 'data/no.gif'" in shell.err
        assert server.count == 0
        run_lines(shell, rows[:2], line, 0)
        sent = [r.body["messages"][0]["content"] for r in server.requests]
        assert [parts[1]["image_url"]["url"] for parts in sent] == [URL, URL]


def run_lines(shell: Shell, rows: list[Any], line: str, code: int) -> None:
    """Run a command over rows."""
    shell.write("data/in.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    assert shell(line) == code


def test_the_service_takes_image_parts() -> None:
    """As OpenAI's client sends them, alone or with the whole conversation."""
    content = [
        {"type": "text", "text": "what is "},
        {"type": "image_url", "image_url": {"url": URL, "detail": "low"}},
        {"type": "image_url", "image_url": {"url": "https://h.test/a.png"}},
    ]
    messages: Any = [{"role": "user", "content": content}]

    async def check(server: Server) -> None:
        async with server.openai() as client:
            await client.chat.completions.create(model=name, messages=messages)
        for address in ("/etc/passwd", "data:image/png;base64,aGk=", "file:///x", 7):
            parts = [{"type": "image_url", "image_url": {"url": address}}]
            body = {"model": name, "messages": [{"role": "user", "content": parts}]}
            got, found = await server.post("/v1/chat/completions", body)
            assert got == 400
            assert "image" in found["error"]["message"]
        assert len(server.client.requests) == 1
        images = server.client.requests[0].images
        assert images == (Image(DOT), Image("https://h.test/a.png"))

    for module in (Ask(), Talk()):
        name = type(module).__name__
        served(module, check)


def test_the_service_reads_no_files() -> None:
    """An input that is an image is given by its address."""

    async def check(server: Server) -> None:
        got, found = await server.post("/v1/run", {"inputs": {"image": "/etc/x.png"}})
        assert got == 400
        assert "given by its address here" in found["error"]["message"]
        got, found = await server.post("/v1/run", {"inputs": {"image": URL}})
        assert got == 200
        assert isinstance(server.client.requests[0].images[0], ImagePart)

    served(Look(), check)
