"""Every error that gradtool raises on purpose.

    GradtoolError                  exit code
    ├── RefusedError                   1      gradients that are not to be clipped
    │   ├── NonFiniteError                    NaN or Inf among them
    │   └── NormRangeError                    a norm that float64 cannot hold
    ├── UsageError                     2      a bad option, pattern or choice
    │   ├── SeveralCheckpointsError           a path with more than one, of which none was chosen
    │   ├── SameTensorsError                  two files hold the same tensors, and no name says why
    │   └── RanksQuestionError                ranks hold other values under one name
    ├── ResourceError                  3      too little memory, no more threads, a worker that died
    │   └── DeviceError                       torch, or the device to compute on, is not there
    └── InputError                     3      a file that cannot give or take its tensors
        ├── FileAccessError                   missing, unreadable, unwritable, no regular file
        ├── TargetBusyError                   another process is writing it
        ├── UnknownFormatError                content that no format recognises
        ├── UnsupportedFormatError            recognised, and outside what gradtool reads
        ├── CorruptFileError                  truncated, contradicting itself, ambiguous
        │   ├── MissingShardError             a shard or a rank that must be there and is not
        │   └── RanksDifferError              what ranks hold copies of is not the same in all
        ├── FileChangedError                  changed or shrank while it was read
        └── EmptyDumpError                    readable, and holds no gradient tensor

Each carries one line of at most 500 characters that says what is wrong, where, and what to do. A
bug in gradtool itself is none of these: it ends in an ordinary traceback and exit code 4.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple

from gradtool.shortening import LONGEST_LINE, LONGEST_NAME, fitted, shortened

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
    "RanksDifferError",
    "RanksQuestionError",
    "RefusedError",
    "ResourceError",
    "SameTensorsError",
    "SeveralCheckpointsError",
    "TargetBusyError",
    "UnknownFormatError",
    "UnsupportedFormatError",
    "UsageError",
]


class GradtoolError(Exception):
    """Base of all errors that a caller may handle.

    `exit_code` is what the command line exits with, `hint` what the user can do about it.
    """

    exit_code: ClassVar[int] = 4

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint

    def __str__(self) -> str:
        return self.line()

    def line(self, width: int = LONGEST_LINE, spell: Callable[[str], str] = str) -> str:
        """Message and hint in at most `width` characters; `spell` makes texts fit to be shown.

        A part that is too long for its share of the line is cut in its middle, so that it can
        still be recognised.
        """
        return self._line([str(self.args[0])], "", width, spell)

    def _line(
        self, parts: Sequence[str], place: str, width: int, spell: Callable[[str], str]
    ) -> str:
        """The parts with colons between, `place`, which is never cut, and the hint."""
        texts = [*map(spell, parts), *([spell(self.hint)] if self.hint else [])]
        texts = fitted(texts, width - len(place) - 2 * (len(texts) - 1))
        message = ": ".join(texts[: len(parts)]) + place
        return "; ".join([message, *texts[len(parts) :]])

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments would be lost on the way back from a worker process.
        return (_rebuild, (type(self), self.args, self.__dict__))


class RefusedError(GradtoolError):
    """The gradients must not be clipped as they are; nothing was written."""

    exit_code = 1


class NonFiniteError(RefusedError):
    """NaN or Inf among the gradients, and the caller did not say what to do with them.

    `tensors` are the names of the tensors that hold some.
    """

    def __init__(self, message: str, tensors: tuple[str, ...], *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.tensors = tensors


class NormRangeError(RefusedError):
    """The norm is too large or too small for float64, so that it gives no clip coefficient."""


class UsageError(GradtoolError):
    """The request itself is wrong: an option, a pattern, a combination."""

    exit_code = 2


class FoundCheckpoint(NamedTuple):
    """One of several checkpoints that a path holds.

    Attributes:
        path: what to give to read it alone: a path, or a glob for a set of files.
        step: the step of the training that it is of, where that is known.
        layout: the name of its format or layout; None where it cannot be read.
        files: how many files it consists of.
        nbytes: their size together, in bytes.
        error: what is wrong with it, where only what lies beside it tells.
        rank: of one of several ranks, how users call it: "rank 1"; else "".
    """

    path: str
    step: int | None
    layout: str | None
    files: int
    nbytes: int
    error: InputError | None = None
    rank: str = ""


class SeveralCheckpointsError(UsageError):
    """A path holds several checkpoints, which are never added up.

    `path` is what was given, `kind` what they are together: the steps of a "run", the "ranks" of
    one checkpoint, or any "checkpoints"; `found` has them in the order of their steps.
    """

    def __init__(self, path: str, kind: str, found: Sequence[FoundCheckpoint]) -> None:
        words = {
            "run": f"{len(found):,} steps of a run",
            "ranks": f"{len(found):,} ranks, each to be read by itself",
        }
        holds = words.get(kind, f"{len(found):,} checkpoints" if len(found) > 1 else "a checkpoint")
        place = " below it" if kind == "checkpoints" and len(found) == 1 else ""
        super().__init__(f"{path}: holds {holds}{place}")
        self.path = path
        self.kind = kind
        self.found = tuple(found)
        if found:
            none = "none of them can be read: name one to be told why"
            self.hint = none if self.likely is None else f"name one, as {self.likely.path}"

    @property
    def likely(self) -> FoundCheckpoint | None:
        """The one that is mostly meant: the last that can be read; None where none can."""
        readable = [one for one in self.found if one.layout is not None]
        return readable[-1] if readable else None


class SameTensorsError(UsageError):
    """Two files of a directory hold tensors of the same names, for no reason that names tell."""


class RanksQuestionError(UsageError):
    """Ranks hold tensors of one name that are not the same, and nothing says what they are.

    `path` is what the ranks make up.
    """

    def __init__(self, path: str, tensor: str, difference: str) -> None:
        super().__init__(
            f"{path}: {tensor!r:.80}: {difference}: "
            "nothing says whether ranks hold pieces or copies",
            hint="say `ranks='shard'` for pieces that add up, `ranks='replica'` for copies that "
            "must agree, or `ranks='each'` for a report of each",
        )
        self.path = path


class ResourceError(GradtoolError):
    """Too little memory, no more threads, or a worker process that died; the file may be fine."""

    exit_code = 3


class DeviceError(ResourceError):
    """torch, CUDA or a device to compute on is missing or fails, or the device is out of memory."""


class InputError(GradtoolError):
    """A file whose tensors cannot be read or written.

    `path` is the file, `problem` what is wrong with it, `tensor` the name of the tensor or archive
    record and `byte` the offset in the file where the problem is, each where it is known.
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
        where = path if tensor is None else f"{path}: {tensor!r}"
        super().__init__(f"{where}: {problem}{_at_byte(byte)}", hint=hint)
        self.path = path
        self.problem = problem
        self.tensor = tensor
        self.byte = byte

    def line(self, width: int = LONGEST_LINE, spell: Callable[[str], str] = str) -> str:
        """As for any error; path, tensor and problem are cut each by itself."""
        named = []
        if self.tensor is not None:
            named.append(shortened(spell(repr(self.tensor)), LONGEST_NAME))
        return self._line([self.path, *named, self.problem], _at_byte(self.byte), width, spell)


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
    """A shard or a rank that must be there, by an index, by names or by metadata, and is not."""


class RanksDifferError(CorruptFileError):
    """Ranks were to hold copies of a tensor, and do not."""


class FileChangedError(InputError):
    """The file changed or shrank while it was being read: no figure is given for it."""


class EmptyDumpError(InputError):
    """The file is sound and holds no gradient tensor at all."""


def _at_byte(byte: int | None) -> str:
    return "" if byte is None else f" (at byte {byte})"


def _rebuild(
    cls: type[GradtoolError], args: tuple[object, ...], state: dict[str, object]
) -> GradtoolError:
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(state)
    return error
