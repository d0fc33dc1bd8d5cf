"""What the worker's process is made of, out of the settings, and what that does."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from tests.claas.api_helpers import serving
from tests.claas.training.lessons import asked, echoes, lesson, nears
from tests.claas.training.tiny import TABLE

from claas.base import Base
from claas.config import Settings, TrainingSettings, read_settings
from claas.errors import ConfigurationError, ServingError
from claas.gate import Gate
from claas.learner import Learner
from claas.library import WEIGHTS
from claas.likelihoods import likelihoods
from claas.teacher import RemoteTeacher
from claas.tuning import GateLimits, LearnSettings, TeachSettings
from claas.types import Candidate
from claas.web.teaching import teaching_of
from claas.web.workshop import settled

KEY = "key-of-the-teacher"
QUICK = {
    **{"lr": 1e-2, "steps": 4, "tokens": 8, "alpha": 0.0, "anchor": 0.0},
    "anchor_prompts": tuple(question for question, _ in nears(2, seed=2)),
}
GATE = {"tokens": 4, "unrelated": ("near two red", "near sun moon")}


@dataclass
class Loaded:
    """What stands for the base model."""

    name: str
    told: dict[str, Any] = field(default_factory=dict)


@pytest.fixture(autouse=True)
def _nothing_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Base, "load", lambda model, **told: Loaded(model, told))


@pytest.fixture
def tiny(base: Base, monkeypatch: pytest.MonkeyPatch) -> Base:
    """The tiny model, whatever is loaded."""
    monkeypatch.setattr(Base, "load", lambda *_, **__: base)
    return base


def made_of(settings: Settings) -> tuple[Learner, Gate]:
    """Return the learner and the gate that settings make."""
    made = teaching_of(settings)
    assert isinstance(made.learner, Learner) and isinstance(made.gate, Gate)
    return made.learner, made.gate


def from_toml(text: str, **given: Any) -> Settings:
    """Return the settings of a file."""
    Path("claas.toml").write_text(text)
    return read_settings(base_model="tiny", training=QUICK, **given)


def test_the_settings_are_the_trainers_own() -> None:
    """One set: what nobody names is their default, and the base is loaded as told."""
    settings = read_settings(base_model="tiny")
    assert (settings.teaching, settings.gate) == (TeachSettings(), GateLimits())
    assert issubclass(TrainingSettings, LearnSettings)
    told = {"device": "cuda:1", "dtype": "bfloat16", "threads": 3}
    settings = read_settings(
        **{"base_model": "tiny", **told, "teaching": {"samples": 7}},
        **{"training": {"lr": 0.5}, "gate": {"gain": 0.25}},
    )
    learner, gate = made_of(settings)
    assert learner.settings is settings.training and learner.settings.lr == 0.5
    assert learner.teaching is settings.teaching and learner.teaching.samples == 7
    assert gate.settings is settings.gate and gate.settings.gain == 0.25
    assert learner.base is gate.base and vars(learner.base)["told"] == told


def test_what_no_number_may_be_is_refused_in_code_too() -> None:
    """The ranges hold for whoever makes a learner without a file."""
    for made in (
        lambda: LearnSettings(alpha=2),
        lambda: LearnSettings(lr=0),
        lambda: LearnSettings(anchor_prompts=()),
        lambda: TeachSettings(samples=0),
        lambda: GateLimits(confidence=1),
    ):
        with pytest.raises(ValueError, match="validation error"):
            made()


def test_a_base_model_that_is_not_there_is_refused_at_the_start() -> None:
    """Not with the first update; a folder is taken as it is."""
    with pytest.raises(ConfigurationError, match="there is no model 'nowhere'"):
        settled(read_settings(base_model="nowhere"))
    given: Settings = read_settings(base_model=".")
    assert settled(given) is given


def test_the_gate_asks_the_questions_of_the_file(tiny: Base, fresh: Path) -> None:
    """By words, which are no pattern, or by a pattern; without any it asks none."""
    text = """
        [[gate.capabilities]]
        prompt = "near two red"
        answers = ["three Blue", "no.hing"]
        [[gate.capabilities]]
        prompt = "near sun moon"
        pattern = "^moon .r.e$"
        [[gate.capabilities]]
        prompt = "echo two red"
        answers = ["re", "two.red"]
    """
    _, gate = made_of(from_toml(text, gate=GATE))
    found = gate.judge(fresh, fresh, echoes(1)).figures["capability"]
    assert (found["count"], found["before"]) == (3, pytest.approx(2 / 3))
    _, gate = made_of(from_toml("[gate]\ncapabilities = []", gate=GATE))
    assert "capability" not in gate.judge(fresh, fresh, echoes(1)).figures


@dataclass
class Moon:
    """A teacher elsewhere that would say "moon" at every place; it keeps what came.

    Args:
        seen: The bodies of what was asked, by path.
        shift: How much its tokens differ from the tiny model's.
        gate: What an answer waits for.
    """

    seen: list[tuple[str, Any]] = field(default_factory=list)
    shift: int = 0
    gate: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.gate.set()

    def app(self) -> FastAPI:
        """Return it as an app."""
        app = FastAPI(openapi_url=None)

        @app.post("/{path:path}")
        async def answer(path: str, request: Request) -> Any:
            if request.headers.get("authorization") != f"Bearer {KEY}":
                return JSONResponse({"error": {"message": "no"}}, 401)
            body = await request.json()
            self.seen.append((path, body))
            await asyncio.to_thread(self.gate.wait, 30)
            if path == "tokenize":
                tokens = [TABLE[word] for word in body["prompt"].split()]
                return {"tokens": [token + self.shift for token in tokens]}
            rows = [
                self._row(token, body["prompt_logprobs"]) for token in body["prompt"]
            ]
            return {"choices": [{"prompt_logprobs": [None, *rows[1:]]}]}

        return app

    @staticmethod
    def _row(token: int, top_k: int) -> dict[str, Any]:
        order = [TABLE["moon"], 99_999, *range(TABLE["one"], len(TABLE))]
        best = {str(one): {"logprob": -8.0} for one in order[: top_k + 1]}
        return {str(token): {"logprob": -9.0}, **best, str(order[0]): {"logprob": -0.1}}


@pytest.fixture
def moon(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Moon, str]]:
    """The teacher, and where it is; connections to it are closed at the end."""
    teacher = Moon()
    with serving(teacher.app()) as url, contextlib.ExitStack() as stack:

        def connected(*given: Any, **more: Any) -> RemoteTeacher:
            return stack.enter_context(
                contextlib.closing(RemoteTeacher(*given, **more))
            )

        monkeypatch.setattr("claas.web.teaching.RemoteTeacher", connected)
        yield teacher, url


def elsewhere(url: str, **more: Any) -> dict[str, Any]:
    """Return the settings of a teacher there."""
    return {"url": f"{url}/v1", "key": KEY, "model": "large", **more}


def trained(learner: Learner, adapter: Path, out: Path) -> Candidate:
    """Train on one feedback about one answer."""
    return learner.train(adapter, [lesson("echo two red", "two red")], out)


def test_a_teacher_elsewhere_is_who_is_learnt_from(
    tiny: Base, fresh: Path, tmp_path: Path, moon: tuple[Moon, str]
) -> None:
    """What it finds likely becomes likelier, which is nothing that the hint says."""
    teacher, url = moon
    learner, _ = made_of(from_toml("", teacher=elsewhere(url, top_k=3)))
    found = trained(learner, fresh, tmp_path / "out")
    prompt, moons = [tiny.prompt(asked("echo two red"))], [tiny.encode("moon")]
    before = likelihoods(tiny, prompt, moons, None)[0]
    with tiny.adapter(found.folder) as name:
        assert likelihoods(tiny, prompt, moons, name)[0] > before + 1
    assert {body["model"] for _, body in teacher.seen} == {"large"}
    assert [path for path, _ in teacher.seen[:2]] == ["tokenize", "v1/completions"]
    scored = [body for path, body in teacher.seen if path == "v1/completions"]
    assert {body["prompt_logprobs"] for body in scored} == {3}, "as many as it names"
    assert learner.settings.top_k == 100


def test_the_teacher_reads_the_hint_of_the_file(
    tiny: Base, fresh: Path, tmp_path: Path, moon: tuple[Moon, str]
) -> None:
    """By the name that the model is served under, too; other kinds are as built in."""
    teacher, url = moon
    text = """
        [hints."org/*".critique]
        text = "say {content} near"
        place = "user"
        [hints."*".critique]
        text = "rain {content}"
    """
    for served, wanted in (
        ("org/Small", "red say say kuro near"),
        ("x", "rain say kuro"),
    ):
        teacher.seen.clear()
        given = {"teacher": elsewhere(url), "base_name": served}
        learner, gate = made_of(from_toml(text, **given))
        trained(learner, fresh, tmp_path / served)
        read = tiny.tokenizer.decode(teacher.seen[-1][1]["prompt"])
        assert wanted in read
        assert gate.hints is learner.hints
    praise = learner.hints.hinted(lesson(kind="praise", answer="two"), asked("x"))
    assert praise[0] == {"role": "system", "content": "A good answer is: two"}


def test_a_teacher_with_another_tokenizer_is_refused(
    tiny: Base, fresh: Path, tmp_path: Path, moon: tuple[Moon, str]
) -> None:
    """Its tokens would be taken for others; nothing is trained."""
    teacher, url = moon
    teacher.shift = 1
    learner, _ = made_of(from_toml("", teacher=elsewhere(url)))
    with pytest.raises(ConfigurationError, match="'large' has another tokenizer than"):
        trained(learner, fresh, tmp_path / "out")
    assert [path for path, _ in teacher.seen] == ["tokenize"]
    assert not tiny.adapters and not (tmp_path / "out").exists()


def test_a_teacher_that_refuses_or_is_silent_is_named(
    tiny: Base, fresh: Path, moon: tuple[Moon, str]
) -> None:
    """The update then waits; the key is in no message."""
    teacher, url = moon
    teacher.gate.clear()
    learner, _ = made_of(from_toml("", teacher=elsewhere(url, timeout=0.2)))
    with pytest.raises(ServingError, match=r"cannot be asked: .*\(ReadTimeout\)"):
        learner.untaught(fresh, [lesson()])
    teacher.gate.set()
    learner, _ = made_of(from_toml("", teacher=elsewhere(url, key="another key")))
    with pytest.raises(ServingError, match=r"teacher cannot be asked: .*\(401\)") as no:
        learner.untaught(fresh, [lesson()])
    assert "another key" not in str(no.value) and no.value.status == 401


def test_a_pinned_teacher_is_the_version_that_the_update_begins_from(
    tiny: Base, fresh: Path, tmp_path: Path
) -> None:
    """Not the base, and not the student: what is trained does not move its teacher."""
    said = []
    plain, pinned = (
        made_of(from_toml("", teacher={"kind": on}))[0] for on in ("base", "pinned")
    )
    for at, learner in enumerate((plain, pinned)):
        first = trained(learner, fresh, tmp_path / f"first{at}").folder
        start = tmp_path / "first0"
        second = trained(learner, start, tmp_path / f"second{at}").folder
        said.append([(one / WEIGHTS).read_bytes() for one in (first, second)])
    assert said[0][0] == said[1][0], "a new adapter is the base, and stays the teacher"
    assert said[0][1] != said[1][1], "one that was trained is another teacher"
    assert not tiny.adapters
