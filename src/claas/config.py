"""`Settings`: what a server and the command line are told.

Arguments come before the environment, which comes before the TOML file; what nobody
names has its default. The environment's names begin with ``CLAAS_``; a part of
`training` or `gate` has two underscores between (``CLAAS_TRAINING__LR=1e-4``).
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
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from claas.errors import ConfigurationError
from claas.volumes import default_root

VERSION = "0.1.0.dev0"

CONFIG = "CLAAS_CONFIG"
"""The variable with the place of the TOML file."""

_FILE = Path("claas.toml")  # is read where it is there and none is named
_USER = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?", re.ASCII)
_LEAST_KEY = 16


class TrainingSettings(BaseModel):
    """How an update is trained.

    Args:
        rank: The rank of new adapters.
        scale: What PEFT calls ``lora_alpha``.
        lessons: The most lessons of an update; the rest waits for the next.
        probes: The most earlier lessons that the gate asks again.
        lr: The learning rate of AdamW.
        steps: The most inner steps of an update.
        batch: Answers in a step.
        tokens: The most tokens of a sampled answer, and of a recorded one.
        passes: Steps on the same answers before new ones are sampled.
        alpha: Between the teacher (0) and the student (1); 0.5 is Jensen-Shannon's.
        top_k: How many tokens of the teacher's to compare at each place.
        is_clip: The most that the ratio to the sampling policy counts.
        clip: The largest norm of a gradient.
        kl_reg: The weight of the penalty to the base on the answer itself.
        anchor: The weight of the KL to the base on the anchor's prompts, at first.
        drift: The KL that the anchor's weight holds, nats a token.
        anchor_prompts: What the anchor asks the base; empty for the built-in ones.
        anchor_rows: How many of its answers a step looks at.
        decay: AdamW's weight decay.
        least_tokens: Training stops where sampled answers are shorter on average.
        least_entropy: Training stops where the entropy falls below this share of the
            first step's.
        seed: Of all chance.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    rank: PositiveInt = 16
    scale: PositiveFloat = 32.0
    lessons: PositiveInt = 32
    probes: NonNegativeInt = 64
    lr: PositiveFloat = 5e-4
    steps: PositiveInt = 20
    batch: PositiveInt = 4
    tokens: PositiveInt = 64
    passes: PositiveInt = 1
    alpha: float = Field(0.5, ge=0, le=1)
    top_k: PositiveInt = 100
    is_clip: PositiveFloat = 2.0
    clip: PositiveFloat = 1.0
    kl_reg: NonNegativeFloat = 0.0
    anchor: NonNegativeFloat = 0.3
    drift: PositiveFloat = 0.05
    anchor_prompts: tuple[str, ...] = ()
    anchor_rows: PositiveInt = 2
    decay: NonNegativeFloat = 0.0
    least_tokens: NonNegativeFloat = 1.5
    least_entropy: NonNegativeFloat = 0.02
    seed: NonNegativeInt = 0


class TeachingSettings(BaseModel):
    """How it is looked for whether the model can follow a feedback in context.

    Args:
        samples: Answers with and without the hint, for each lesson.
        tokens: The most tokens of an answer.
        temperature: Of these answers.
        comply: The share of hinted answers that must follow.
        known: The share of answers without the hint from which on there is nothing
            left to teach.
        margin: Where only log probabilities are left: the gain that counts, nats a
            token.
        seed: Of all chance.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    samples: PositiveInt = 4
    tokens: PositiveInt = 64
    temperature: PositiveFloat = 0.7
    comply: float = Field(0.5, ge=0, le=1)
    known: float = Field(0.95, ge=0, le=1)
    margin: NonNegativeFloat = 0.05
    seed: NonNegativeInt = 0


class GateSettings(BaseModel):
    """What a candidate must be like to be promoted.

    Args:
        confidence: Of the intervals.
        gain: How much compliance with the feedback must surely rise.
        loss: How much compliance with earlier feedback may fall; for feedback without
            a check, nats a token.
        drift: The most KL to the base on unrelated prompts, nats a token.
        ability: How large a share of the small questions may be lost.
        entropy: How much the entropy of answers may change, as a share.
        length: How much the length of answers may change, as a share.
        repetition: The largest share of repeated runs of three tokens.
        samples: Answers to each probe.
        tokens: The most tokens of an answer.
        temperature: Of answers to probes; to unrelated prompts it is 1.
        unrelated: Prompts that no feedback is about; empty for the built-in ones.
        seed: Of all chance.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    confidence: float = Field(0.9, gt=0, lt=1)
    gain: NonNegativeFloat = 0.0
    loss: NonNegativeFloat = 0.1
    drift: PositiveFloat = 0.1
    ability: NonNegativeFloat = 0.15
    entropy: PositiveFloat = 0.5
    length: PositiveFloat = 0.5
    repetition: float = Field(0.5, gt=0, le=1)
    samples: PositiveInt = 4
    tokens: PositiveInt = 64
    temperature: PositiveFloat = 0.7
    unrelated: tuple[str, ...] = ()
    seed: NonNegativeInt = 0


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
        receipts: The most receipts of a user that no feedback names; the oldest go.
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
    receipts: PositiveInt = 100_000
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
            folder of transformers' files, a GGUF file, or ``smollm2``.
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
        gate: What a candidate must be like to be promoted.
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
    teaching: TeachingSettings = TeachingSettings()
    gate: GateSettings = GateSettings()

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
