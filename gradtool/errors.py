"""Every error that gradtool raises on purpose.

    GradtoolError                  exit code
    ├── RefusedError                   1      gradients that are not to be clipped
    │   ├── NonFiniteError                    NaN or Inf among them
    │   └── NormRangeError                    a norm that float64 cannot hold
    ├── UsageError                     2      a bad option, pattern or choice
    ├── DeviceError                    3      torch, or the device to compute on, is not there
    └── InputError                     3      a file that cannot give or take its tensors
        ├── FileAccessError                   missing, unreadable, unwritable, no regular file
        ├── TargetBusyError                   another process is writing it
        ├── UnknownFormatError                content that no format recognises
        ├── UnsupportedFormatError            recognised, and outside what gradtool reads
        ├── CorruptFileError                  truncated, contradicting itself, ambiguous
        │   └── MissingShardError             an index that names a file which is not there
        ├── FileChangedError                  changed or shrank while it was read
        └── EmptyDumpError                    readable, and holds no gradient tensor

Each carries one line that says what, where and what to do; none is ever raised for a
condition inside gradtool itself, which surfaces as an ordinary traceback and exit code 4.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "CorruptFileError",
    "DeviceError",
    "EmptyDumpError",
    "FileAccessError",
    "FileChangedError",
    "GradtoolError",
    "InputError",
    "MissingShardError",
    "NonFiniteError",
    "NormRangeError",
    "RefusedError",
    "TargetBusyError",
    "UnknownFormatError",
    "UnsupportedFormatError",
    "UsageError",
]

_LONGEST_NAME = 200


class GradtoolError(Exception):
    """Base of all errors that are the caller's to handle.

    `exit_code` is what the command line exits with, `hint` what the reader can do about it.
    """

    exit_code: ClassVar[int] = 4

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint

    def __str__(self) -> str:
        message = str(self.args[0])
        return f"{message}; {self.hint}" if self.hint else message

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments would be lost on the way back from a worker process.
        return (_rebuild, (type(self), self.args, self.__dict__))


class RefusedError(GradtoolError):
    """The gradients are not such as may be clipped; nothing was written."""

    exit_code = 1


class NonFiniteError(RefusedError):
    """NaN or Inf among the gradients, and nothing was said about what to do with them.

    `tensors` are the names of those that hold some.
    """

    def __init__(self, message: str, tensors: tuple[str, ...], *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.tensors = tensors


class NormRangeError(RefusedError):
    """The norm is too large or too small for float64, so that no coefficient follows from it."""


class UsageError(GradtoolError):
    """The request itself is wrong: an option, a pattern, a combination."""

    exit_code = 2


class DeviceError(GradtoolError):
    """What is to compute is not there, or has no memory left: torch, CUDA, a device."""

    exit_code = 3


class InputError(GradtoolError):
    """A path does not give its tensors, or does not take them.

    `path` is the file, `problem` what is wrong with it, `tensor` the tensor's or archive
    record's name and `byte` the offset in the file where the trouble lies, each where it is known.
    """

    exit_code = 3

    def __init__(
        self,
        path: str,
        problem: str,
        *,
        tensor: str | None = None,
        byte: int | None = None,
        hint: str | None = None,
    ) -> None:
        where = f"{path}: {_shortened(tensor)!r}" if tensor is not None else path
        at = f" (at byte {byte})" if byte is not None else ""
        super().__init__(f"{where}: {problem}{at}", hint=hint)
        self.path = path
        self.problem = problem
        self.tensor = tensor
        self.byte = byte


class FileAccessError(InputError):
    """The file is missing, may not be read or written, or is no regular file."""


class TargetBusyError(InputError):
    """Another process is writing the same file or directory."""


class UnknownFormatError(InputError):
    """No format recognises the content."""


class UnsupportedFormatError(InputError):
    """The content is recognised as something that gradtool does not read."""


class CorruptFileError(InputError):
    """The file is truncated, contradicts itself or can be read in two ways."""


class MissingShardError(CorruptFileError):
    """An index names a shard that is not there."""


class FileChangedError(InputError):
    """The file changed or shrank while it was being read: no figure is given for it."""


class EmptyDumpError(InputError):
    """The file is sound and holds no gradient tensor at all."""


def _shortened(name: str) -> str:
    """A name that leaves room on its line: one from a file may be a megabyte long."""
    if len(name) <= _LONGEST_NAME:
        return name
    half = _LONGEST_NAME // 2
    return f"{name[:half]}…{name[-half + 1 :]}"


def _rebuild(
    cls: type[GradtoolError], args: tuple[object, ...], state: dict[str, object]
) -> GradtoolError:
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(state)
    return error
