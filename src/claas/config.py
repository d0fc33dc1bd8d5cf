"""`Settings`: what a server and the command line are told.

Arguments come before the environment, which comes before the TOML file; what nobody
names has its default. The environment's names begin with ``CLAAS_``; a part of
`training`, `gate`, … has two underscores between (``CLAAS_TRAINING__LR=1e-4``).
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.dataclasses import dataclass
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from claas.errors import ConfigurationError
from claas.hints import LARGE, Hints, Template
from claas.tuning import (
    STRICT,
    GateLimits,
    LearnSettings,
    RatingLimits,
    SelfTeaching,
    TeachSettings,
)
from claas.types import Kind
from claas.volumes import default_root

VERSION = "0.1.0"

CONFIG = "CLAAS_CONFIG"
"""The variable with the place of the TOML file."""

_FILE = Path("claas.toml")  # is read where it is there and none is named
_USER = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?", re.ASCII)
_LEAST_KEY = 16


@dataclass(config=STRICT, frozen=True, slots=True, kw_only=True)
class TrainingSettings(LearnSettings):
    """How an update is trained: what `LearnSettings` has, and its size.

    Args:
        rank: The rank of new adapters.
        scale: What PEFT calls ``lora_alpha``.
        lessons: The most lessons of an update; the rest waits for the next.
        probes: The most earlier lessons that the gate asks again.
    """

    rank: PositiveInt = 16
    scale: PositiveFloat = 32.0
    lessons: PositiveInt = 32
    probes: NonNegativeInt = 64


@dataclass(config=STRICT, frozen=True, slots=True, kw_only=True)
class TeacherSettings(SelfTeaching):
    """Who teaches: the base model itself, or a larger one behind an endpoint.

    Args:
        url: An inference server with a larger model of the same tokenizer, with or
            without ``/v1``; empty for the base model itself.
        key: The key that this server wants; empty for none.
        model: What it calls the model.
        top_k: The most tokens that it names at each place (``--max-logprobs`` of
            vLLM).
        timeout: The longest that it may be silent, seconds.
    """

    url: str = ""
    key: SecretStr = SecretStr("")
    model: str = ""
    top_k: PositiveInt = 20
    timeout: PositiveFloat = 600.0

    @model_validator(mode="after")
    def _is_one(self) -> "TeacherSettings":
        """Refuse half a teacher, and two."""
        if bool(self.url) != bool(self.model):
            raise ValueError("a teacher elsewhere needs both 'url' and 'model'")
        if self.url and self.kind != "base":
            raise ValueError("'kind' is of the base model; a 'url' has no adapter")
        return self


class Limits(BaseModel):
    """How much may come, and be kept.

    Args:
        body: The most bytes of a request.
        open: The most requests of a user at once.
        per_minute: The most requests of a user in a minute; 0 for any number.
        batch: The most feedback in one request.
        feedback: The most feedback of an adapter that may wait for an update.
        jobs: The most updates that may wait.
        wait: The longest that a request waits for its update, seconds.
        loras: The most adapters of a user.
        versions: How many versions of an adapter are kept to roll back to, and as many
            others, after an update; 0 for all. A deleted one can be made again.
        grace: How long a version that serves no more, or was asked for by its number,
            stays on the inference server, seconds.
        patience: How long an update waits for another one of the same adapter, seconds.
        receipts: The most receipts of a user that no feedback names; the oldest go.
        receipt_bytes: The most bytes of such receipts of a user; likewise.
        receipt_days: How long a receipt is kept, days. One with feedback stays.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    body: PositiveInt = 4 << 20
    open: PositiveInt = 64
    per_minute: NonNegativeInt = 0
    batch: PositiveInt = 256
    feedback: PositiveInt = 10_000
    jobs: PositiveInt = 64
    wait: PositiveFloat = 600.0
    loras: PositiveInt = 100
    versions: NonNegativeInt = 10
    grace: NonNegativeFloat = 60.0
    patience: NonNegativeFloat = 0.0
    receipts: PositiveInt = 100_000
    receipt_bytes: PositiveInt = 1 << 30
    receipt_days: PositiveFloat = 30.0


class Settings(BaseSettings):
    """What a server and the command line are told.

    Args:
        config: The TOML file that the rest is read from.
        url: Where the command line finds claas.
        key: The key that the command line sends.
        host: The address that `claas serve` listens on.
        port: Its port, 0 for any.
        users: The key of each user.
        server_url: Where the inference server is, with or without ``/v1``.
        server_key: The key that it wants; empty for none.
        server_timeout: The longest that it may be silent, seconds.
        base_model: The model that all adapters belong to, as the worker loads it: a
            folder of transformers' files, a GGUF file, a model of the Hub
            (``org/name``, ``org/name@revision``), or ``smollm2``.
        base_name: What the inference server calls it; empty for `base_model`.
        device: Where the worker computes: ``cpu``, ``cuda``, ``cuda:1``.
        dtype: Of the base model there; adapters are float32.
        threads: How many threads it computes with, 0 for what torch takes.
        engine: Where updates are trained.
        volume: The name of the volume of Modal, for the engine ``modal``.
        gpu: What it trains on there, as Modal calls it; empty for none.
        storage: The folder of adapters, as the inference server sees it, too; see
            `default_root` for where it is if nobody says.
        database: The file of receipts, feedback and jobs; empty for
            ``claas.sqlite3`` in `storage`.
        limits: How much may come, and be kept.
        training: How an update is trained.
        teaching: How it is looked for whether a feedback can be taught.
        teacher: Who teaches.
        hints: What the teacher reads, by a pattern of base models' names (as in
            ``*smollm2*``) and by kind of feedback; the first pattern that fits counts,
            what it does not name is as built in, see `claas.hints`.
        gate: What a candidate must be like to be promoted.
        ratings: When a version is taken back for what users think of its answers.
    """

    model_config = SettingsConfigDict(
        env_prefix="CLAAS_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    config: Path | None = None
    url: str = "http://127.0.0.1:8080"
    key: SecretStr = SecretStr("")
    host: str = "127.0.0.1"
    port: int = Field(8080, ge=0, le=65535)
    users: dict[str, SecretStr] = Field(default_factory=dict)
    server_url: str = "http://127.0.0.1:8000"
    server_key: SecretStr = SecretStr("")
    server_timeout: PositiveFloat = 600.0
    base_model: str = ""
    base_name: str = ""
    device: str = "cpu"
    dtype: Literal["float32", "bfloat16"] = "float32"
    threads: NonNegativeInt = 0
    engine: Literal["local", "modal"] = "local"
    volume: str = "claas-loras"
    gpu: str = "L4"
    storage: Path = Field(default_factory=default_root)
    database: Path | None = None
    limits: Limits = Limits()
    training: TrainingSettings = TrainingSettings()
    teaching: TeachSettings = TeachSettings()
    teacher: TeacherSettings = TeacherSettings()
    hints: dict[str, dict[Kind, Template]] = Field(default_factory=dict)
    gate: GateLimits = GateLimits()
    ratings: RatingLimits = RatingLimits()

    @field_validator("users", mode="after")
    @classmethod
    def _known(cls, users: dict[str, SecretStr]) -> dict[str, SecretStr]:
        """Refuse names that no adapter can have, and keys that can be guessed."""
        for name, key in users.items():
            if not _USER.fullmatch(name) or ".." in name:
                raise ValueError(f"{name[:80]!r} cannot be the name of a user")
            if len(key.get_secret_value()) < _LEAST_KEY:
                raise ValueError(f"the key of {name!r} is shorter than {_LEAST_KEY}")
        keys = [key.get_secret_value() for key in users.values()]
        if len(set(keys)) < len(keys):
            raise ValueError("two users have the same key")
        return users

    @field_validator("hints", mode="after")
    @classmethod
    def _whole(
        cls, hints: dict[str, dict[Kind, Template]]
    ) -> dict[str, dict[Kind, Template]]:
        """Refuse templates at the start, not with the first update."""
        for pattern, table in hints.items():
            try:
                Hints({**LARGE, **table})
            except ConfigurationError as exc:
                raise ValueError(f"{pattern[:80]!r}: {exc}") from exc
        return hints

    @field_validator("storage", "database", mode="after")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        """Name files as another process does, too: the inference server reads them."""
        return path if path is None else path.expanduser().absolute()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return where settings come from, the first before the last.

        Args:
            settings_cls: This class.
            init_settings: The arguments.
            env_settings: The environment.
            dotenv_settings: Not used.
            file_secret_settings: Not used.
        """
        named = init_settings().get("config") or os.environ.get(CONFIG)
        path = Path(named) if named else _FILE
        if named and not path.is_file():
            raise ConfigurationError(
                f"there is no file {str(path)!r}: name another with --config or "
                f"{CONFIG}."
            )
        file = TomlConfigSettingsSource(settings_cls, toml_file=path)
        return init_settings, env_settings, file

    @property
    def served(self) -> str:
        """What the inference server calls the base model."""
        return self.base_name or self.base_model

    @property
    def database_path(self) -> Path:
        """The file of receipts, feedback and jobs."""
        return self.database or self.storage / "claas.sqlite3"


def read_settings(**given: Any) -> Settings:
    """Return the settings of this process.

    Args:
        given: What comes before the environment and the file.

    Raises:
        ConfigurationError: If one does not fit; no value is named, it may be a key.
    """
    try:
        return Settings(**given)
    except ValidationError as exc:
        raise ConfigurationError(_told(exc.errors(include_input=False))) from None
    except SettingsError as exc:
        raise ConfigurationError(
            f"{exc}: in the environment, a table is written as JSON."
        ) from None
    except (OSError, ValueError) as exc:  # TOML that is none, or cannot be read
        raise ConfigurationError(f"the settings cannot be read: {exc}.") from exc


def check_server(settings: Settings) -> None:
    """Refuse settings that do not say who may use the server, or the base.

    Args:
        settings: What a server is told.

    Raises:
        ConfigurationError: Which of them is missing.
    """
    if not settings.users:
        raise ConfigurationError(
            "nobody may use this server: name users and their keys, [users] in the "
            'TOML file or CLAAS_USERS=\'{"ann": "…"}\' in the environment.'
        )
    if not settings.base_model:
        raise ConfigurationError("which model do adapters belong to? Set 'base_model'.")


def _told(errors: Sequence[Any]) -> str:
    """Return what is wrong with which settings."""
    found = [
        f"{'.'.join(map(str, error['loc']))}: "
        f"{error['msg'].removeprefix('Value error, ')}"
        for error in errors
    ]
    return (
        f"the settings do not fit: {'; '.join(found)}. Mend them in the file, the "
        "environment (CLAAS_…) or the arguments."
    )
