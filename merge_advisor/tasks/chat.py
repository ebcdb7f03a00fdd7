"""Chats as data sets keep them: OpenAI's `messages`, ShareGPT's `conversations`, TRL's lists, a system prompt apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from merge_advisor.tasks.fields import Noticed, field_error, quoted, text_of
from merge_advisor.types import Turn

CHATS = ("messages", "conversations", "chosen")
"""Fields that hold a whole chat, its last turn the answer; the last of preference data without a prompt of its own."""
_ROLES = {
    "system": "system", "developer": "system", "user": "user", "human": "user", "assistant": "assistant",
    "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant", "model": "assistant",
}  # fmt: skip
"""What data sets call whoever speaks."""
_TOOLS = ("tool", "function", "function_call", "observation", "ipython", "tool_calls")


def is_chat(value: Any) -> bool:
    """Return whether a field's value is a list of messages.

    >>> is_chat([{"role": "user", "content": "Hi"}]), is_chat("Hi"), is_chat(["Hi"])
    (True, False, False)

    Args:
        value: as the JSON has it.
    """
    return isinstance(value, list) and bool(value) and all(isinstance(message, dict) for message in value)


def turns_of(messages: Any, field: str, place: str, noticed: Noticed) -> list[Turn]:
    """Return the turns of a chat.

    Calls of tools and what these answer are left out and counted, as are parts that are no text.

    Args:
        messages: a list of objects with `role` and `content`, or with `from` and `value`.
        field: its name, for the errors.
        place: the file and what in it.
        noticed: counts what is left out.

    Raises:
        TaskError: no such list, a role that is unknown, or a turn without text.
    """
    if messages != [] and not is_chat(messages):  # an empty one lacks a turn, which is said where turns are wanted
        raise field_error(place, f"{field} is no list of objects; give each message a role and a content")
    turns = []
    for number, message in enumerate(messages):
        named = "from" if "role" not in message and "from" in message else "role"
        role, said = message.get(named), message.get("content", message.get("value"))
        calls = not said and any(message.get(name) for name in ("tool_calls", "function_call"))
        if role in _TOOLS or calls:
            noticed.tools += 1
            continue
        if not isinstance(role, str) or role not in _ROLES:
            known = ", ".join(dict.fromkeys(_ROLES.values()))
            raise field_error(place, f"{field}[{number}] has role {quoted(role)}; use one of: {known}")
        key = "content" if "value" not in message else "value"
        turns.append((_ROLES[role], _content(said, f"{field}[{number}].{key}", place, noticed)))
    return turns


def _content(value: Any, name: str, place: str, noticed: Noticed) -> str:
    """Text, or the text parts of a list of parts."""
    if isinstance(value, list) and value and all(isinstance(part, (dict, str)) for part in value):
        texts = [part if isinstance(part, str) else part.get("text") for part in value]
        kept = [text for text in texts if isinstance(text, str)]
        noticed.parts += len(texts) - len(kept)
        value = "\n".join(kept)
    return text_of(value, name, place, noticed)


def with_answer(turns: Sequence[Turn], field: str, place: str) -> tuple[list[Turn], str]:
    """Return the turns before the answer, and the answer.

    Args:
        turns: of the chat.
        field: its name, for the error.
        place: the file and what in it.

    Raises:
        TaskError: it does not end with an assistant's turn, or no user speaks before.
    """
    if [role for role, _ in turns[-1:]] != ["assistant"] or "user" not in (role for role, _ in turns):
        said = f"{field} must hold a user turn and end with the assistant's answer; complete the chat"
        raise field_error(place, said)
    return list(turns[:-1]), turns[-1][1]


def without_answer(turns: Sequence[Turn], field: str, place: str) -> tuple[list[Turn], bool]:
    """Return a chat without its answer, and whether it has one.

    Args:
        turns: of the chat.
        field: its name, for the error.
        place: the file and what in it.

    Raises:
        TaskError: what is left does not end with a user's turn.
    """
    has_answer = turns[-1:] != [] and turns[-1][0] == "assistant"
    left = list(turns[:-1] if has_answer else turns)
    if not left or left[-1][0] != "user":
        said = f"{field} must end with a user turn, or with the answer to it; complete the chat"
        raise field_error(place, said)
    return left, has_answer


def kept_turns(turns: Sequence[Turn]) -> tuple[Turn, ...] | None:
    """Return the turns of a row; None of a user's turn alone, which its input says as well.

    >>> kept_turns([("user", "Hi")]) is None
    True

    Args:
        turns: before the answer.
    """
    return None if len(turns) == 1 and turns[0][0] == "user" else tuple(turns)
