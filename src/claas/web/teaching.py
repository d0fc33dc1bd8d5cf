"""What loads the base model, in the worker's process: torch and all that comes with it.

`claas.web.workshop` names these functions where another process calls them.
"""

from claas.base import Base
from claas.config import Settings
from claas.gate import Gate, GateLimits
from claas.learner import Learner, LearnSettings
from claas.library import folder_of
from claas.teacher import TeachSettings
from claas.worker import Teaching

_NOT_LEARNT = {"rank", "scale", "lessons", "probes"}  # are the storage's, the worker's


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
    learnt = settings.training.model_dump(exclude=_NOT_LEARNT)
    judged = settings.gate.model_dump()
    for given, name in ((learnt, "anchor_prompts"), (judged, "unrelated")):
        if not given[name]:
            del given[name]  # the built-in ones
    return Teaching(
        Learner(
            base,
            LearnSettings(**learnt),
            TeachSettings(**settings.teaching.model_dump()),
        ),
        Gate(base, GateLimits(**judged)),
    )


def base_folder(model: str) -> str:
    """Return the folder of a base model; a GGUF file is converted once.

    Args:
        model: A folder, a GGUF file, or ``smollm2``.

    Raises:
        ConfigurationError: If there is no such model.
    """
    return str(folder_of(model).absolute())
