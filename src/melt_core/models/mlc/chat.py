"""The chat formats that MLC can spell out, recognised by the marks in a model's own template.

A template of Hugging Face is a program (Jinja); MLC's is a table, and its own tables are compiled into mlc_llm
(conversation_template/*.py). What is none of these is left out: prompts are then formatted by the caller.
"""

from __future__ import annotations

from typing import Any

_ROLES = {"user": "{user_message}", "assistant": "{assistant_message}", "tool": "{tool_message}"}


def conversation_template(jinja: str | None, stop_token_ids: tuple[int, ...]) -> dict[str, Any] | None:
    """Returns MLC's template for a model whose own one is given; None for a format that is not known."""
    text = jinja or ""
    if "<|im_start|>" in text:
        found = {
            "name": "chatml",
            "system_template": "<|im_start|>system\n{system_message}<|im_end|>\n",
            "system_message": "You are a helpful assistant.",
            "roles": {role: f"<|im_start|>{role}" for role in ("user", "assistant")},
            "seps": ["<|im_end|>\n"],
            "role_content_sep": "\n",
            "stop_str": ["<|im_end|>"],
        }
    elif "<start_of_turn>" in text:
        found = {
            "name": "gemma_instruction",
            "system_template": "{system_message}",
            "system_message": "",
            "roles": {"user": "<start_of_turn>user", "assistant": "<start_of_turn>model"},
            "seps": ["<end_of_turn>\n"],
            "role_content_sep": "\n",
            "stop_str": ["<end_of_turn>"],
        }
    else:
        return None
    return found | {"role_templates": _ROLES, "role_empty_sep": "\n", "stop_token_ids": list(stop_token_ids)}
