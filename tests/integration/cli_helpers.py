"""What the tests of the command line share: modules, a folder, and real processes."""

import asyncio
import json
import os
import shlex
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from inf_engine.cli import main
from inf_engine.testing import LoopbackServer

SOURCE = Path(__file__).parents[2] / "src"

PIPES = """
from collections.abc import Iterable
from dataclasses import dataclass
from inf_engine import InferenceModule, LLMInference, Sequential

class Ask(InferenceModule):
    def __init__(self, alias="m", style=None):
        super().__init__()
        self.llm = LLMInference(alias, system_prompt=style)
    def forward(self, text):
        return self.llm(f"{text}")

class Compare(InferenceModule):
    def __init__(self):
        super().__init__()
        self.each = LLMInference("m")
        self.join = LLMInference("m")
    def forward(self, left: str, right: str = "nothing") -> str:
        return self.join(f"{self.each(left)}+{self.each(right)}")

class Many(InferenceModule):
    def __init__(self):
        super().__init__()
        self.llm = LLMInference("m")
    def forward(self, *texts):
        return self.llm(" ".join(map(str, texts)))

class Items(InferenceModule):
    def __init__(self):
        super().__init__()
        self.llm = LLMInference("m")
    def forward(self, items: Iterable[str]):
        return self.llm(" ".join(items))

class Damaged(Ask):
    def forward(self, text: "NoSuchName"):
        return self.llm(text)

class Options(InferenceModule):
    def forward(self, text, *, loud=False):
        return [text, loud]

class Unknown(Ask):
    def forward(self, text, tool=object()):
        return self.llm(text)

class ByKeyword(InferenceModule):
    def forward(self, text, *, loud):
        return text

class Nothing(InferenceModule):
    def forward(self):
        return 1

class Branchy(InferenceModule):
    def forward(self, text):
        return text if text else "no"

@dataclass
class Point:
    x: int
    name: str

class Typed(InferenceModule):
    def forward(self, kind):
        if kind == "object":
            return object()
        return {"point": [Point(1, "é")], "odd": "\\ud800", "nan": float("nan")}[kind]

class Broken(InferenceModule):
    def __init__(self):
        raise ValueError("no such style\\nmore")

steps = Sequential(Compare(), Ask())
leaf = LLMInference("m")
number = 3
def make(alias): return Ask(alias)
def wrong(): return 3
"""


@dataclass
class Shell:
    """A folder with modules and a resources file, and the command line in it."""

    folder: Path
    server: LoopbackServer
    capture: pytest.CaptureFixture[str]
    err: str = field(default="", init=False)
    out: str = field(default="", init=False)

    def __call__(self, line: str) -> int:
        """Run a command line in this process; return its exit code."""
        code = main(shlex.split(line))
        self.out, self.err = self.capture.readouterr()
        return code

    def run(self, target: str, *inputs: Any, more: str = "") -> int:
        """Run a target over inputs, each one a line."""
        self.write("in.jsonl", "".join(json.dumps(i) + "\n" for i in inputs))
        return self(f"{RUN} {target} {FILES} {more}")

    def write(self, name: str, text: str) -> None:
        """Write a file."""
        (self.folder / name).write_text(text, encoding="utf-8")

    def lines(self, name: str = "out.jsonl") -> list[Any]:
        """Return what stands in a file, one JSON value a line."""
        text = (self.folder / name).read_text("utf-8")
        return [json.loads(line) for line in text.splitlines()]

    @property
    def outputs(self) -> list[Any]:
        """The outputs, in input order."""
        rows = sorted(self.lines(), key=lambda row: row["index"])
        return [row["output"] for row in rows]


RUN = "run --no-progress"
FILES = "--inputs in.jsonl --out out.jsonl --resources r.toml"


def resources(server: LoopbackServer, **fields: Any) -> str:
    """Return the text of a resources file with one alias."""
    table = {
        "provider": "openai-compatible",
        "model": "tiny",
        "base_url": server.base_url,
        "retries": 0,
        **fields,
    }
    lines = [f"{key} = {json.dumps(value)}" for key, value in table.items()]
    return "\n".join(["[endpoints.m]", *lines, ""])


def shout(body: dict[str, Any]) -> str:
    """Answer with the prompt in upper case."""
    return body["messages"][-1]["content"].upper()


@contextmanager
def shell_in(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[str]
) -> Generator[Shell]:
    """Open a shell in a folder, which is where modules are imported from."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "argv", ["inf-engine"])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    sys.modules.pop("pipes_of_cli", None)
    with LoopbackServer(shout) as server:
        made = Shell(folder, server, capture)
        made.write("pipes_of_cli.py", PIPES)
        made.write("r.toml", resources(server))
        yield made
    sys.modules.pop("pipes_of_cli", None)


def child(*arguments: str) -> list[str]:
    """Return the command of a real process."""
    return [sys.executable, "-W", "error", "-m", "inf_engine", *arguments]


def environ() -> dict[str, str]:
    """Return the environment of a child."""
    return {**os.environ, "PYTHONPATH": str(SOURCE), "PYTHONDONTWRITEBYTECODE": "1"}


class Interrupted:
    """A real process that runs over many inputs and is sent SIGINTs."""

    def __init__(self, folder: Path, server: LoopbackServer, more: str) -> None:
        self.folder = folder
        self.line = f"{RUN} pipes_of_cli:Ask {FILES} {more}"
        fields = resources(server, max_concurrent=2)
        (folder / "r.toml").write_text(fields)
        (folder / "pipes_of_cli.py").write_text(PIPES)
        lines = "".join(f'"q{number}"\n' for number in range(20))
        (folder / "in.jsonl").write_text(lines)

    async def start(self) -> asyncio.subprocess.Process:
        """Start the process."""
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(
            *child(*shlex.split(self.line)),
            cwd=self.folder,
            env=environ(),
            stderr=pipe,
        )

    def lines(self, name: str) -> list[Any]:
        """Return the lines of a file."""
        text = (self.folder / name).read_text()
        return [json.loads(line) for line in text.splitlines()]
