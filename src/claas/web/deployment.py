"""`deployment_of`: the API and its training as an app on Modal.

Two functions, each in one container at most:

    web     the API, its worker and its database; no GPU; always there, since an update
            goes on when no request is open. It alone writes to the volume.
    teach   the base model, the learner and the gate, on a GPU; there while something is
            trained. It reads the volume.

What `web` and `teach` are told is in a secret of Modal, made anew by each deployment;
the image has libraries and sources, no settings and no keys.
"""

import ipaddress
import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr

from claas.config import Settings, check_server
from claas.errors import ConfigurationError
from claas.volumes import ModalVolume, modal_library

NAME = "claas"
"""The name of the app."""

ROOT, MODELS = Path("/loras"), Path("/models")
"""Where the volumes of adapters and of base models are mounted."""

_PACKAGE = "inf-engine"
_SOURCES = ("butterfly", "claas")
_DAY = 24 * 3600  # seconds, the longest that Modal allows
_WARM = 300  # seconds that a container with a GPU waits for the next update
_OPEN = 1000  # requests at once; `limits.open` is a user's
_HERE = {"config", "url", "key", "host", "port", "storage", "database"}
_ONLY_WEB = ("CLAAS_USERS", "CLAAS_SERVER_KEY")
_HUB = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Deployment:
    """What goes to Modal.

    Args:
        app: The ``modal.App``.
        web: Its ``modal.Function`` that serves: ``.local()`` returns the API.
        teach: Its ``modal.Function`` that learns and judges.
    """

    app: Any
    web: Any
    teach: Any


def deployment_of(
    settings: Settings, web: Callable[[], Any], teach: Callable[..., Any]
) -> Deployment:
    """Return the app that serves and trains, with its functions.

    Args:
        settings: What both functions are told.
        web: Returns the API. Both stand at the top of a module: a container imports it.
        teach: Does what `claas.web.remote` asks for.

    Raises:
        ConfigurationError: If modal is not installed, or nobody may use the server.
    """
    check_server(settings)
    modal = modal_library()
    app, told = modal.App(NAME), environment_of(settings)
    volume = ModalVolume(settings.volume, ROOT).volume
    models = modal.Volume.from_name(f"{settings.volume}-models", create_if_missing=True)
    both = {
        "image": _image(modal),
        "max_containers": 1,
        "include_source": False,  # the image names what is needed
    }
    serving = app.function(
        volumes={str(ROOT): volume},
        min_containers=1,
        timeout=int(max(settings.limits.wait, settings.server_timeout)) + 60,
        secrets=[modal.Secret.from_dict(told)],
        **both,
    )(modal.concurrent(max_inputs=_OPEN)(modal.asgi_app()(web)))
    teaching = app.function(
        volumes={
            str(ROOT): volume.with_mount_options(read_only=True),
            str(MODELS): models,
        },
        gpu=settings.gpu or None,
        timeout=_DAY,
        scaledown_window=_WARM,
        env={"HF_HOME": str(MODELS)},
        secrets=[
            modal.Secret.from_dict(
                {k: v for k, v in told.items() if k not in _ONLY_WEB}
            )
        ],
        **both,
    )(teach)
    return Deployment(app, serving, teaching)


def environment_of(settings: Settings) -> dict[str, str]:
    """Return the variables from which a container reads the same settings.

    Args:
        settings: The settings. What is about this machine is left out; a device that
            is no GPU becomes one where there is a GPU.

    Returns:
        Values by name, keys among them; with ``HF_TOKEN`` if it is set here.
    """
    given = settings.model_dump(exclude=_HERE, exclude_defaults=True)
    if settings.gpu and settings.device == "cpu":
        given["device"] = "cuda"
    given |= {"engine": "modal", "storage": str(ROOT)}
    told = {f"CLAAS_{name.upper()}": _written(value) for name, value in given.items()}
    hub = os.environ.get("HF_TOKEN")
    return {**told, "HF_TOKEN": hub} if hub else told


def check_deployable(settings: Settings) -> None:
    """Refuse what cannot work on Modal, before anything is sent there.

    Args:
        settings: What would be deployed.

    Raises:
        ConfigurationError: What is missing, and how to mend it.
    """
    if settings.engine != "modal":
        raise ConfigurationError('set engine = "modal" to deploy there.')
    check_server(settings)
    base = settings.base_model
    if not base.startswith(f"{MODELS}/") and not _HUB.fullmatch(base):
        raise ConfigurationError(
            f"the base model {base!r} is not on Modal: give its name on the Hugging "
            f"Face Hub, or a folder in {MODELS}, where the volume "
            f"'{settings.volume}-models' is (`modal volume put`)."
        )
    if _is_loopback(settings.server_url):
        raise ConfigurationError(
            f"the inference server {settings.server_url} would be the container "
            "itself: set 'server_url' to where Modal reaches it."
        )
    known = modal_library().config.config
    has_token = known.get("token_id") and known.get("token_secret")
    if not has_token and not known.get("oauth_refresh_token"):
        raise ConfigurationError(
            "there is no token of Modal here: run `modal setup`, or set "
            "MODAL_TOKEN_ID and MODAL_TOKEN_SECRET."
        )


def _image(modal: Any) -> Any:
    """Return the image: the libraries of the extra, and the sources as they are here.

    The sources come when a container starts, so a change of them builds no image.
    """
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    image = modal.Image.debian_slim(python_version=python)
    return image.pip_install(*_libraries()).add_local_python_source(
        *_SOURCES, ignore=["**/*.pyc"]
    )


def _libraries() -> list[str]:
    """Return what the extra ``claas`` needs, as pip reads it."""
    try:
        told = requires(_PACKAGE) or []
    except PackageNotFoundError as error:
        raise ConfigurationError(
            f"the package {_PACKAGE!r} is not installed here, so nobody says which "
            f"libraries it needs: pip install '{_PACKAGE}[claas,modal]'."
        ) from error
    found = [line.partition(";") for line in told]
    extra = re.compile(r"extra\s*==\s*['\"]claas['\"]")
    return sorted(name.strip() for name, _, when in found if extra.search(when))


def _is_loopback(url: str) -> bool:
    """Whether an address is this machine's."""
    host = urlsplit(url if "//" in url else f"//{url}").hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _written(value: Any) -> str:
    """Return a setting as a variable holds it."""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return value if isinstance(value, str) else json.dumps(value, default=_plain)


def _plain(value: Any) -> str:
    """Return what JSON does not know: a key, a path."""
    return (
        value.get_secret_value() if isinstance(value, SecretStr) else os.fspath(value)
    )
