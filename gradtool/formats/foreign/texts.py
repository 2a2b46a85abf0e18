"""Text where a checkpoint should be: mostly what a server answered in its place."""

from __future__ import annotations

import re
from typing import Final

from gradtool.core import json_text
from gradtool.core.locations import Source

_MOST_NBYTES: Final = 1 << 16
_SPACE: Final = b" \t\r\n"
_SAYING: Final = ("error", "message", "detail", "error_description")
_XML: Final = re.compile(rb"\s*<\?xml|\s*<(net|Error)[ >]")
OPENVINO: Final = re.compile(rb"<net\s[^>]*>\s*<layers>|<net\s+name=")
_TF_STATE: Final = b'model_checkpoint_path: "'


def text_in(source: Source, head: bytes) -> str | None:
    """What a text is that starts with `head`, in words; None for what is none that is known."""
    if head.startswith(_TF_STATE):
        return "is TensorFlow's list of checkpoints, no tensors"
    if _XML.match(head):
        return _xml(head)
    if head.lstrip(_SPACE)[:1] in (b"{", b"["):
        return _json(source, head)
    return None


def _xml(head: bytes) -> str:
    if OPENVINO.search(head):
        return "is an OpenVINO model, of which the `.bin` beside it has the weights without a form"
    if b"<Error>" in head:
        return "is a server's answer in XML, an error: download the file again"
    return "is XML, no checkpoint"


def _json(source: Source, head: bytes) -> str | None:
    """Of an object that tells of an error what it says."""
    if source.file.size > _MOST_NBYTES:
        is_text = head.isascii() and b"\0" not in head
        return "is text that begins as JSON does, no checkpoint" if is_text else None
    try:
        found = json_text.parse(source.read(0, source.file.size).decode("utf-8"), nonfinite=True)
    except ValueError:  # UnicodeDecodeError is one
        return None
    said = None
    if isinstance(found, dict):
        said = next((found[key] for key in _SAYING if key in found), None)
    if said is None:
        return "is JSON, no checkpoint"
    return f"is a server's answer in JSON, an error: download the file again; it says {said!r:.80}"
