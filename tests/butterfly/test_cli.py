"""The command line: what it refuses, and how processes end."""

import json
import signal
import socket
from pathlib import Path

import httpx
import pytest
from tests.butterfly.nursery import Nursery

from butterfly.cli import main, parser_of
from butterfly.config import is_private
from butterfly.partitioning import Cluster, ModelShape


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("serve --model m --address 0.0.0.0", "0.0.0.0 may be reached by strangers"),
        ("serve --model m --address 8.8.8.8", "8.8.8.8 may be reached by strangers"),
        ("serve --model m --allow-public --address ::", ":: is no address that"),
        ("serve --model m --host 0.0.0.0", "set an --api-key"),
        ("serve --model m --no-spawn", "set BUTTERFLY_SECRET"),
        ("serve --model m --stages 3 --nodes 2", "set BUTTERFLY_SECRET"),
        ("node --join 127.0.0.1:1", "set BUTTERFLY_SECRET"),
    ],
)
def test_what_is_unsafe_is_refused(
    line: str,
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Exit code 2, and a message with the fix."""
    monkeypatch.delenv("BUTTERFLY_SECRET", raising=False)
    monkeypatch.delenv("BUTTERFLY_API_KEY", raising=False)
    assert main(line.split()) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "line",
    [
        "",
        "fly",
        "serve",
        "serve --model m --stages 0",
        "serve --model m --port -1",
        "serve --model m --nodes 1 --no-spawn",
        "node",
        "node --join nowhere",
        "serve --model m --patience nan",
        "serve --model m --wait -1",
    ],
)
def test_wrong_usage_is_2(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    """argparse says what is wrong."""
    assert main(line.split()) == 2
    assert "usage: butterfly" in capsys.readouterr().err


def test_the_default_is_one_machine() -> None:
    """All nodes are started here, and nothing is open to strangers."""
    args = parser_of().parse_args(["serve", "--model", "m", "--stages", "3"])
    assert args.nodes is None and args.host == args.address == "127.0.0.1"


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1", True),
        ("10.1.2.3", True),
        ("192.168.0.9", True),
        ("::1", True),
        ("fe80::1%eth0", True),
        ("0.0.0.0", False),
        ("::", False),
        ("1.1.1.1", False),
    ],
)
def test_private_addresses(address: str, expected: bool) -> None:
    """All interfaces at once are not private."""
    assert is_private(address) is expected


def test_a_taken_port_and_a_missing_model_are_named(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, before any node is started."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["serve", "--model", str(model), "--port", port]) == 2
        assert f"cannot listen on 127.0.0.1:{port}" in capsys.readouterr().err
        given = ["serve", "--model", str(model), "--port", "0", "--control-port", port]
        assert main(given) == 2
        assert "take another --control-port" in capsys.readouterr().err
    assert main(["serve", "--model", "/nowhere", "--port", "0"]) == 2
    assert "there is no model '/nowhere'" in capsys.readouterr().err


def test_a_machine_is_measured(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Layer times, memory, the head; what `plan` reads, without the model."""
    node, shape = tmp_path / "node.json", tmp_path / "shape.json"
    given = ["probe", "--model", str(model), "--name", "desk", "--dtype", "bfloat16"]
    given += ["--memory", "0.5", "--stages", "2"]
    assert main([*given, "--out", str(node), "--shape", str(shape)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("desk: ") and " keeps 256 bytes a token" in said
    found = Cluster.read(node).nodes[0]
    assert found.name == "desk" and found.memory_bytes == 5e8
    assert [(loss.codec, loss.links) for loss in found.losses] == [
        *(("f16", 1), ("int8", 1)),
    ]
    assert "\nf16 on 1 link changes " in said
    assert found.head is not None and found.head.row_s > 0 < found.layer.token_s
    assert len(ModelShape.read(shape).layers) == 4
    assert main(["plan", "--model", str(shape), "--cluster", str(node)]) == 0
    assert "desk  layers 0-3" in capsys.readouterr().out
    assert main(given) == 0
    assert Cluster.from_json(json.loads(capsys.readouterr().out)).node("desk")
    given = ["simulate", "--rule", "even", "--model", str(model), "--cluster"]
    assert main([*given, str(node)]) == 0
    assert "desk  layers 0-3" in capsys.readouterr().out
    assert main(["probe", "--model", "/nowhere"]) == 2
    assert "there is no model '/nowhere'" in capsys.readouterr().err


def test_nodes_join_by_hand_and_end_with_the_head(
    nursery: Nursery, model: Path
) -> None:
    """A node with the secret is taken, one without is not; none outlives the head."""
    head = nursery.start(
        *("serve", "--model", str(model), "--stages", "1", "--no-spawn"),
        *("--port", "0", "--positions", "64"),
        BUTTERFLY_SECRET="ours",
    )
    url = head.line("will serve").split()[1].removesuffix("/v1")
    place = head.line("waiting for").split("--join ")[1].strip("`")
    early = httpx.post(f"{url}/v1/completions", json={"prompt": "The"})
    assert early.status_code == 503 and early.headers["retry-after"]
    assert "0 of 1 nodes are here" in early.json()["error"]["message"]
    assert httpx.get(f"{url}/health").status_code == 503
    join = "node", "--join", place
    stranger = nursery.start(*join, BUTTERFLY_SECRET="theirs")
    more = "--name", "mine", "--memory", "2"
    node = nursery.start(*join, *more, BUTTERFLY_SECRET="ours")
    assert stranger.wait() == 2
    assert "does not know the cluster's secret" in stranger.said
    head.line("ready")
    state = httpx.get(f"{url}/state").json()
    assert state["stages"][0]["node"] == "mine"
    assert state["stages"][0]["memory"] == 2e9 and state["split"] == "balanced"
    given = {"prompt": "The", "max_tokens": 2}
    assert httpx.post(f"{url}/v1/completions", json=given).status_code == 200
    assert head.end(signal.SIGKILL) == -signal.SIGKILL
    assert node.wait() == 0
