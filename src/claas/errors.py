"""The errors of claas.

    ClaasError
    ├── ConfigurationError   the operator: a setting, a file, a model that is not there
    ├── IdentifierError      the caller: a name that is none
    ├── NotFoundError        the caller: no such adapter, version, receipt, job
    ├── AccessError          the caller: not his
    ├── ConflictError        the caller: exists already, or means something else
    ├── LimitError           the caller: too large, too many, too often
    ├── StorageError         the disk: full, damaged, locked for too long
    ├── ServingError         the inference server: refuses, or is not there
    └── TeachingError        nobody: the model cannot follow this feedback in context

Every message says what happened, where, and what to do. None holds a key or a prompt.
"""


class ClaasError(Exception):
    """Any error of claas."""


class ConfigurationError(ClaasError):
    """Something that the operator gave does not fit: a setting, a file, a model."""


class IdentifierError(ClaasError):
    """A name of a user, model, version or alias is none."""


class NotFoundError(ClaasError):
    """There is no such adapter, version, receipt, feedback or job."""


class AccessError(ClaasError):
    """It belongs to another user."""


class ConflictError(ClaasError):
    """It exists already, or the same id was used for something else."""


class LimitError(ClaasError):
    """Too large, too many, or too often."""


class StorageError(ClaasError):
    """The disk is full, a file is damaged, a lock was held for too long."""


class ServingError(ClaasError):
    """The inference server refuses, cannot be reached, or answers nonsense.

    Args:
        message: What happened, where, the fix.
        status: The HTTP status it answered with, 0 without an answer.
    """

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class TeachingError(ClaasError):
    """The model cannot follow this feedback even when it reads it."""
