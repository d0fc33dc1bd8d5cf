"""What loads the base model, in the worker's process: torch and all that comes with it.

`claas.web.workshop` names these functions where another process calls them.
"""

from functools import partial

from claas.base import Base
from claas.config import Settings, TeacherSettings
from claas.explain import explain
from claas.gate import Gate
from claas.hints import Hints
from claas.learner import Learner
from claas.library import folder_of
from claas.serving import Serving
from claas.teacher import RemoteTeacher, SelfTeacher, Teacher
from claas.tuning import SelfTeaching
from claas.worker import Teaching


def teaching_of(settings: Settings) -> Teaching:
    """Load the base model; return what trains and what judges on it.

    Args:
        settings: What they are told.

    Raises:
        ConfigurationError: If the model or the device is not there.
    """
    base = Base.load(
        settings.base_model,
        device=settings.device,
        dtype=settings.dtype,
        threads=settings.threads or None,
    )
    hints = Hints.of(settings.base_model, settings.hints, settings.served)
    learner = Learner(
        base,
        settings.training,
        settings.teaching,
        hints,
        teacher_of(settings.teacher, base),
        self_teaching=self_teaching_of(settings.teacher),
    )
    gate = Gate(base, settings.gate, hints)
    return Teaching(learner, gate, partial(explain, learner))


def self_teaching_of(settings: TeacherSettings) -> SelfTeaching:
    """Return with which weights the base teaches, without the keys of another.

    Args:
        settings: Who teaches.
    """
    kind, trust = settings.kind, settings.trust
    return SelfTeaching(kind=kind, ema_decay=settings.ema_decay, trust=trust)


def teacher_of(settings: TeacherSettings, base: Base) -> Teacher:
    """Return who teaches; an endpoint is asked with the first update, not now.

    Args:
        settings: Who.
        base: The base model.
    """
    if not settings.url:
        return SelfTeacher(base)
    key = settings.key.get_secret_value()
    endpoint = Serving(settings.url, key, timeout=settings.timeout)
    return RemoteTeacher(endpoint, settings.model, base, most=settings.top_k)


def base_folder(model: str) -> str:
    """Return the folder of a base model; a GGUF file is converted once.

    Args:
        model: A folder, a GGUF file, a model of the Hub, or ``smollm2``.

    Raises:
        ConfigurationError: If there is no such model.
    """
    return str(folder_of(model).absolute())
