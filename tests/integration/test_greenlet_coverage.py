"""Coverage counts the lines of a forward, also after it was paused."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

SCRIPT = """
from inf_engine import Engine, InferenceModule, LLMInference
from inf_engine.testing import FunctionClient


class Paused(InferenceModule):
    def __init__(self):
        super().__init__()
        self.llm = LLMInference(alias="a")

    def forward(self, x):
        first = self.llm(x)
        if first == "[x]":  # a graph break
            second = self.llm("after")
            return self.more(str(second))
        return "never"

    def more(self, text):
        upper = text.upper()
        return upper


with Engine({"a": FunctionClient(lambda r: f"[{r.prompt}]")}, progress=False) as engine:
    assert engine.run_sync(Paused(), "x") == "[AFTER]"
"""


def test_lines_after_a_break_are_covered(tmp_path: Path) -> None:
    """With ``concurrency = greenlet, thread`` all that ran counts, and only that."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    settings = tmp_path / "coveragerc"
    settings.write_text("[run]\nconcurrency = greenlet,thread\n")
    report = tmp_path / "report.json"
    env = {
        **{k: v for k, v in os.environ.items() if not k.startswith("COV")},
        "PYTHONPATH": str(ROOT / "src"),
    }
    for command in (
        ["run", f"--rcfile={settings}", f"--include={script}", str(script)],
        ["json", f"--rcfile={settings}", "-o", str(report)],
    ):
        subprocess.run(
            [sys.executable, "-m", "coverage", *command],
            cwd=tmp_path,
            env=env,
            check=True,
            capture_output=True,
        )
    (found,) = json.loads(report.read_text())["files"].values()
    lines = SCRIPT.splitlines()
    missing = [lines[number - 1].strip() for number in found["missing_lines"]]
    assert missing == ['return "never"']
