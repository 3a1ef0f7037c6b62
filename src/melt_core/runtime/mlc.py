"""What the MLC runtime needs of Python: where TVM's libraries lie, and a model directory's tokenizer.

Data path: model directory -> tokenizer.json -> the package ``tokenizers`` -> token ids -> the core.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from melt_core.errors import MissingExtraError, ModelError
from melt_core.models.mlc.files import CONFIG_NAME
from melt_core.runtime.checks import checked_text

#: The extra of this package that brings TVM and ``tokenizers``.
EXTRA = "mlc"

#: Packages whose libraries the core opens, and the library in each.
_LIBRARIES = {"tvm_ffi": ("apache-tvm-ffi", "libtvm_ffi"), "tvm": ("apache-tvm", "libtvm_runtime")}


def tvm_folders() -> str:
    """Returns the folders of TVM's libraries, separated by colons; empty where ``MELT_TVM_PATH`` names them.

    Nothing is imported: the core opens the libraries itself.

    Raises:
        MissingExtraError: TVM is not installed.
    """
    if os.environ.get("MELT_TVM_PATH"):
        return ""
    folders = []
    for package, (distribution, library) in _LIBRARIES.items():
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise MissingExtraError(distribution, extra=EXTRA)
        found = [path for root in spec.submodule_search_locations for path in sorted(Path(root).rglob(f"{library}.*"))]
        if not found:
            raise ModelError(f"{distribution} is installed without {library}: install it again")
        folders.append(str(found[0].parent))
    return ":".join(folders)


class MlcTokenizer:
    """The tokenizer of a model directory. Thread-safe."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Reads ``tokenizer.json``.

        Raises:
            MissingExtraError: The package ``tokenizers`` is not installed.
            ModelError: The directory has no tokenizer that can be read.
        """
        try:
            import tokenizers
        except ImportError as error:
            raise MissingExtraError("tokenizers", extra=EXTRA) from error
        self._folder = Path(folder)
        path = self._folder / "tokenizer.json"
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise ModelError(f"cannot read {path}: {error.strerror or error}: give the prompt as token ids") from error
        try:
            self._special = tokenizers.Tokenizer.from_str(text)
            self._plain = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # of no class of its own
            raise ModelError(f"{path} is no tokenizer: {error}") from error
        self._plain.encode_special_tokens = True  # what looks like a special token is text

    def encode(self, text: str, add_special: bool, parse_special: bool) -> list[int]:
        """Returns the token ids of a text; see `LLM.encode`."""
        tokenizer = self._special if parse_special else self._plain
        ids: list[int] = tokenizer.encode(text, add_special_tokens=add_special).ids
        return ids

    def decode(self, ids: Sequence[int]) -> bytes:
        """Returns the text of token ids as UTF-8; bytes that are no whole character become U+FFFD.

        A model may have more ids than its tokenizer, to fill up a block: those have no text.
        """
        known = [token for token in ids if self._special.id_to_token(token) is not None]
        text: str = self._special.decode(known, skip_special_tokens=False)
        return text.encode()

    def format_chat(self, messages: Sequence[tuple[str, str]]) -> str:
        """Returns messages in the conversation template of ``mlc-chat-config.json``, ready for the assistant's turn.

        Raises:
            ModelError: The directory has no such template.
        """
        return format_conversation(_conversation_template(self._folder), messages)


def load_mlc_tokenizer(folder: str | os.PathLike[str]) -> MlcTokenizer | None:
    """Returns the tokenizer of a model directory; None where it has none, or the package for it is missing.

    Token ids can be run without one; a text cannot, and says so then.
    """
    try:
        return MlcTokenizer(folder)
    except (MissingExtraError, ModelError):
        return None


def _conversation_template(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_NAME
    try:
        template = json.loads(path.read_text(encoding="utf-8")).get("conv_template")
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {path}: {error}") from error
    if not isinstance(template, dict):
        named = f" names the conversation template {template!r} without spelling it" if template else " has none"
        raise ModelError(f"{path}{named}: format the prompt yourself and give it as text")
    return template


def format_conversation(template: dict[str, Any], messages: Sequence[tuple[str, str]]) -> str:
    """Returns messages as one of MLC's conversation templates puts them (mlc_llm/protocol/conversation_protocol.py).

    Raises:
        ModelError: The template lacks a part, or has no such role.
    """
    try:
        system = template.get("system_message", "")
        turns = [(role, content) for role, content in messages if role != "system"]
        for role, content in messages:
            if role == "system":
                system = content
        text = str(template.get("system_template", "{system_message}")).replace("{system_message}", system)
        separators = [str(part) for part in template["seps"]]
        for role, content in turns:
            shown = str(template["role_templates"].get(role, "{" + f"{role}_message" + "}"))
            shown = shown.replace("{" + f"{role}_message" + "}", checked_text(content))
            separator = separators[0 if role == "user" else len(separators) - 1]
            text += template["roles"][role] + template.get("role_content_sep", "") + shown + separator
        return text + str(template["roles"]["assistant"]) + str(template.get("role_empty_sep", ""))
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ModelError(f"the conversation template of {CONFIG_NAME} cannot be used: {error!r}") from error
