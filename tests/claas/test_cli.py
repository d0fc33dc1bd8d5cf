"""The command line against a server that runs, and what it refuses."""

import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.claas.api_helpers import KEYS, SERVER_KEY, Claas, FakeVllm, make_base

from claas.cli import main
from claas.config import VERSION

ASK = {"model": "ann/bot", "messages": [{"role": "user", "content": "hello you"}]}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings but those of the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLAAS_KEY", KEYS["ann"])
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def run(
    claas: Claas,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Any]:
    """Runs a command line against the server: exit code, and what it said."""
    monkeypatch.setenv("CLAAS_URL", f"{claas.url}/v1")

    def found(*arguments: str) -> tuple[int, str]:
        code = main(arguments)
        said = capsys.readouterr()
        return code, said.out + said.err

    yield found


def test_the_words(claas: Claas, run: Any, tmp_path: Path) -> None:
    """Make, look, say, look again, promote, roll back, export, eval."""
    assert run("health") == (0, "ok\n")
    assert run("list-loras")[1].startswith("no adapter yet")
    assert run("init-lora", "ann/bot")[0] == 0
    with claas.client() as ann:
        name = ann.post("/v1/chat/completions", json=ASK).headers["x-claas-receipt"]
    code, said = run("feedback", name, "shorter", "--wait", "--id", "7")
    assert code == 0 and "ann/7: taken for ann/bot" in said
    assert "promoted v1 as told" in said
    assert run("feedback", name, "--kind", "praise", "--no-train")[0] == 0
    assert "ann/bot\tlive v1\t2 versions\t2 feedback waits" in run("list-loras")[1]
    assert json.loads(run("list-loras", "--json")[1])["data"][0]["id"] == "ann/bot"
    assert "v1\tlatest, live" in run("versions", "ann/bot")[1]
    assert run("rate", name, "0.25") == (0, "ann/bot: v0 rated 0.25\n")
    assert "v0\t\t0.25 of 1\n" in run("versions", "ann/bot")[1]
    code, said = run("rebuild", "ann/bot@v1")
    assert code == 0 and said.rstrip().endswith("rebuilt v2")
    code, said = run("explain", "ann/bot@v0", "7")
    assert code == 0 and '+1.50\t-2.00\t-0.50\t"well"\t"well"\t"hm\\n"' in said
    assert run("explain", "ann/bot", "--receipt", name)[1] == said
    assert run("explain", "ann/bot", "8")[0] == 1
    code, said = run("diff", "ann/bot@v0", "ann/bot@v1", "--top", "1")
    assert code == 0 and said.splitlines() == [
        "change\tshare\tfirst\tsecond\tcosine\trank\ttop\tlayer",
        *(f"2\t1\t0\t2\t0\t3\t0.5124\t{name}" for name in ("all", "a")),
        "… and 1 layers more",
        "ann/7 (critique): only in ann/bot@v1",
        "gate, drift: - → 0.02",
    ]
    assert run("diff", "ann/bot@v0", "ann/bot@v9")[0] == 1
    assert run("diff", "ann/bot@v0", "bob/bot")[0] == 1
    assert run("forget", "ann/bot", "7", "--receipt", name)[1].endswith(
        "forgotten v0 (removed: v1)\n"
    )
    (told,) = [call for call in claas.trainer.calls if call[0] == "forget"]
    assert told[1:] == ("ann/bot", ["ann/7"], [name])
    assert run("forget", "ann/bot")[0] == 1
    for words, fix in (
        (("forget", "bot", "7"), "'bot' is no name of an adapter"),
        (("rate", name, "nan"), "cannot be sent: it has a number that is none"),
        (("diff", str(tmp_path), "ann/bot"), "is a folder, the other is none"),
    ):
        code, said = run(*words)
        assert code == 2 and fix in said
    assert run("--version") == (0, f"claas {VERSION}\n")
    assert run("rollback", "ann/bot", "0") == (0, "ann/bot: v0 serves\n")
    assert run("promote", "ann/bot", "1") == (0, "ann/bot: v1 serves\n")
    target = tmp_path / "it.zip"
    assert run("export", "ann/bot@v0", str(target))[0] == 0
    assert "adapter_config.json" in zipfile.ZipFile(target).namelist()
    code, said = run("export", "ann/bot@v0", str(target))
    assert code == 2 and "exists: name another file" in said


def test_eval_counts_the_answers_that_fit(run: Any, tmp_path: Path) -> None:
    """What is required is there, what is forbidden is not."""
    assert run("init-lora", "ann/bot")[0] == 0
    cases = [
        {"prompt": "a", "required": "WELL"},
        {"prompt": "b", "required": "met", "forbidden": "sorry"},
        {"prompt": "c", "forbidden": "well"},
    ]
    file = tmp_path / "cases.jsonl"
    file.write_text("\n".join(map(json.dumps, cases)) + "\n\n")
    assert run("eval", "ann/bot", str(file)) == (0, "ann/bot: 2 of 3 answers fit\n")
    file.write_text('{"required": "x"}')
    code, said = run("eval", "ann/bot", str(file))
    assert code == 2 and "line 1 has no 'prompt'" in said


def test_refusals_of_the_server_are_1(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own words, and how to mend it."""
    code, said = run("versions", "ann/none")
    assert code == 1 and "claas: error: there is no" in said
    code, said = run("versions", "bob/bot")
    assert code == 1 and "bob/bot is not yours" in said
    monkeypatch.setenv("CLAAS_KEY", "wrong")
    code, said = run("list-loras")
    assert code == 1 and "Set CLAAS_KEY" in said and "wrong." not in said
    code, said = run("--url", "http://127.0.0.1:9", "list-loras")
    assert code == 1 and "no claas at http://127.0.0.1:9" in said


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "Usage"),
        ("fly", "No such command"),
        ("promote ann/bot", "Missing argument"),
        ("promote ann/bot x", "valid int"),
        ("serve --port -1", "port: Input should be greater"),
        ("serve", "nobody may use this server"),
        ("--config nowhere.toml health", "there is no file 'nowhere.toml'"),
        ("deploy", 'set engine = "modal"'),
    ],
)
def test_wrong_usage_is_2(
    line: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With what is wrong, and no traceback."""
    assert main(line.split()) == 2
    found = capsys.readouterr()
    assert said in found.out + found.err and "Traceback" not in found.err


def test_listing_loads_neither_torch_nor_fastapi() -> None:
    """So that a command is there at once."""
    code = (
        "import sys\nfrom claas.cli import main\n"
        "assert main(['--url', 'http://127.0.0.1:9', 'list-loras']) == 1\n"
        "print([m for m in ('torch', 'fastapi', 'uvicorn', 'transformers') "
        "if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_serve_is_a_process(
    tmp_path: Path, upstream: FakeVllm, upstream_url: str
) -> None:
    """It says where it is, answers, trains elsewhere, and ends at Ctrl-C with 130."""
    (tmp_path / "claas.toml").write_text(
        f'server_url = "{upstream_url}"\nserver_key = "{SERVER_KEY}"\n'
        f'base_model = "{make_base(tmp_path / "base")}"\n'
        f'base_name = "tiny"\nstorage = "{tmp_path / "loras"}"\n'
        f'[users]\nann = "{KEYS["ann"]}"\n'
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "claas", "serve", "--port", "0"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "in front of" in line and "base tiny" in line, line
        url = line.split()[1]
        headers = {"Authorization": f"Bearer {KEYS['ann']}"}
        made = httpx.post(f"{url}/lora", json={"lora": "ann/bot"}, headers=headers)
        assert made.status_code == 201
        asked = httpx.post(f"{url}/chat/completions", json=ASK, headers=headers)
        said = {"receipt": asked.json()["id"], "kind": "praise", "wait": True}
        told = httpx.post(f"{url}/feedback", json=said, headers=headers, timeout=120)
        (job,) = told.json()["jobs"]  # the engine's process has no base to train
        assert (job["state"], job["result"]["outcome"]) == ("done", "failed")
        process.send_signal(2)
        assert process.wait(60) == 130
    finally:
        process.kill()
        process.communicate()
