"""The stand-ins for globals, for the results of calls, and for storages that torch names."""

from __future__ import annotations

import re
from typing import Final, NoReturn

from gradtool.formats.pickles.globals import HANDLERS
from gradtool.formats.pickles.stand_ins import (
    Handler,
    MalformedPickleError,
    Name,
    Opaque,
    Spend,
    Storage,
    UnsupportedPickleError,
    describe,
)

_MAX_NAME_CHARS: Final = 1024
# Modules of Python 2 and where their names are since; source: torch._utils.IMPORT_MAPPING.
_RENAMED_MODULES: Final = {
    "__builtin__": "builtins",
    "UserDict": "collections",
    "UserList": "collections",
    "UserString": "collections",
}
# Types of tensors and storages: torch lets a file call them with numbers from the pickle itself.
_MAKES_ELEMENTS: Final = re.compile(r"torch\.(?:cuda\.|sparse\.|storage\.)*\w*(?:Tensor|Storage)")


def _refuse(*_: object) -> NoReturn:
    raise UnsupportedPickleError("a tensor or storage made of what stands in the pickle")


def _refuse_nested(*_: object) -> NoReturn:
    raise UnsupportedPickleError(
        "a tensor of torch in a pickle that torch.save did not write: save it with torch.save"
    )


_REFUSED: Final = Handler(_refuse, 0, 1 << 30, is_class=True)
_NESTED: Final = Handler(_refuse_nested, 1, 1)


def global_of(module: object, qualname: object) -> Name:
    """The global `module.qualname`, with the handler of its calls.

    Raises:
        MalformedPickleError: one of the two is no text.
        UnsupportedPickleError: they are so long that joining them often could take any time.
    """
    if type(module) is not str or type(qualname) is not str:
        raise MalformedPickleError("a global whose name is no text")
    if len(module) + len(qualname) > _MAX_NAME_CHARS:
        raise UnsupportedPickleError("a global with an overlong name")
    name = f"{_RENAMED_MODULES.get(module, module)}.{qualname}"
    if not name.isascii():  # surrogates, which no output takes
        name = name.encode("utf-8", "backslashreplace").decode()
    handler = _NESTED if name == "torch.storage._load_from_bytes" else HANDLERS.get(name)
    if handler is None and _MAKES_ELEMENTS.fullmatch(name):
        handler = _REFUSED
    return Name(name, handler)


def call(function: object, args: object, spend: Spend) -> object:
    """The stand-in for `function(*args)`; `spend` pays for what is copied.

    Calling the result of an unknown call makes an `Opaque` of both: protocols 2 and 3 write
    `functools.partial(cls.__new__, cls, x=1)()` for a class that is made with keywords.

    Raises:
        MalformedPickleError: `function` can not be called, or takes other arguments.
        UnsupportedPickleError: it would make a tensor of numbers in the pickle itself.
    """
    if type(function) is Opaque:
        return Opaque(function.name, (function, args))
    if type(function) is not Name:
        raise MalformedPickleError(f"calls {describe(function)}")
    if type(args) is not tuple:
        raise MalformedPickleError(f"calls {function.name} with {describe(args)}")
    handler = function.handler
    if handler is None:
        return Opaque(function.name, args)
    if not handler.fewest <= len(args) <= handler.most:
        raise MalformedPickleError(f"calls {function.name} with {len(args)} arguments")
    if handler.copies:
        return handler.function(*args, spend=spend)
    return handler.function(*args)


def make_object(cls: object, args: object, spend: Spend) -> object:
    """The stand-in for `cls.__new__(cls, *args)`.

    Raises as `call`, and MalformedPickleError for arguments to a function, or to a class whose
    `__new__` ignores them: no pickler writes either.
    """
    if type(cls) is Name and cls.handler is not None and args != () and not cls.handler.is_class:
        raise MalformedPickleError(f"makes {cls.name} with arguments and without calling it")
    return call(cls, args, spend)


def call_with_keywords(function: object, args: object, keywords: object, spend: Spend) -> object:
    """The stand-in for `function(*args, **keywords)`; only unknown classes take keywords."""
    if type(keywords) is not dict:
        raise MalformedPickleError("keyword arguments that are no dict")
    made = call(function, args, spend)
    if keywords:
        if type(made) is not Opaque:
            raise MalformedPickleError(f"makes {describe(made)} with keyword arguments")
        made.keywords = keywords
    return made


def named_by(persistent_id: object) -> Storage | Name:
    """What a persistent id of torch.save names: a storage, or the class of a module.

    Before 1.6 it gave classes of modules such ids, ('module', class, file, source), so that
    loading could tell who had changed the source; it stands for the class and nothing else.
    """
    match persistent_id:
        case ("module", Name() as module_class, _, _):
            return module_class
    return _storage_of(persistent_id)


def _storage_of(persistent_id: object) -> Storage:
    """The storage that a persistent id names.

    The id is ('storage', class, key, location, numel) and, from older writers, a sixth
    element for views of storages, which torch has not written since 0.4.
    """
    if type(persistent_id) is tuple and len(persistent_id) in (5, 6):
        kind, storage_class, key, location, numel, *view = persistent_id
        if kind == "storage" and type(storage_class) is Name and type(key) is str:
            if view and view[0] is not None:
                raise UnsupportedPickleError(f"storage {key!r:.80} is a view of a storage")
            if type(location) is not str:  # torch takes bytes too, for what is no text elsewhere
                raise MalformedPickleError(f"storage {key!r:.80} lies on {describe(location)}")
            if location == "meta":
                raise UnsupportedPickleError(f"storage {key!r:.80} is loaded without its data")
            if type(numel) is not int:
                raise MalformedPickleError(f"a storage of {describe(numel)} elements")
            return Storage(storage_class.name, key, numel)
    raise MalformedPickleError("a persistent id that names no storage")
