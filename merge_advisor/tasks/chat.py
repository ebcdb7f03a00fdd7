"""Chats as data sets keep them: OpenAI's `messages`, ShareGPT's `conversations`, TRL's lists, a system prompt apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from merge_advisor.tasks.fields import NoAnswerError, Noticed, field_error, quoted, text_of
from merge_advisor.tasks.json_records import begins_json, read_cell
from merge_advisor.types import Turn

_ROLES = {
    "system": "system", "developer": "system", "user": "user", "human": "user", "assistant": "assistant",
    "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant", "model": "assistant",
}  # fmt: skip
"""What data sets call whoever speaks."""
_SYSTEMS = ("system", "developer")
_CONTENTS = ("content", "value", "parts")
"""Fields of a message that hold what is said: OpenAI's, ShareGPT's, Gemini's."""
_TOOL_PARTS = {"tool_use", "tool_result", "tool_call", "functionCall", "functionResponse", "function_call"}
"""What parts of a message are, by their type or by their field, that are tools'."""
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
    if begins_json(messages):
        messages = read_cell(messages, field, place)
    if messages != [] and not is_chat(messages):  # an empty one lacks a turn, which is said where turns are wanted
        raise field_error(place, f"{field} is no list of objects; give each message a role and a content")
    turns = []
    for number, message in enumerate(messages):
        role = message.get("from") if message.get("role") is None and "from" in message else message.get("role")
        key = next((name for name in _CONTENTS if message.get(name) is not None), "content")
        said = message.get(key)
        calls = not said and any(message.get(name) for name in ("tool_calls", "function_call"))
        if role in _TOOLS or calls or _tools_alone(said):
            noticed.tools += 1
            continue
        if role in _SYSTEMS and (said is None or said == [] or (isinstance(said, str) and not said.strip())):
            continue
        if not isinstance(role, str) or role not in _ROLES:
            known = ", ".join(dict.fromkeys(_ROLES.values()))
            raise field_error(place, f"{field}[{number}] has role {quoted(role)}; use one of: {known}")
        turns.append((_ROLES[role], content_of(said, f"{field}[{number}].{key}", place, noticed)))
    return turns


def _tools_alone(said: Any) -> bool:
    """Whether all parts of a message call tools or are what these answered, as Anthropic and Gemini write them."""
    return is_chat(said) and all(part.get("type") in _TOOL_PARTS or _TOOL_PARTS & part.keys() for part in said)


def content_of(value: Any, name: str, place: str, noticed: Noticed) -> str:
    """Return the text of a message: text itself, or the text parts of a list of parts.

    Args:
        value: as the JSON has it.
        name: of its field, for the error.
        place: the file and what in it.
        noticed: counts parts that are no text.

    Raises:
        TaskError: it is neither, or without text.
    """
    if isinstance(value, list) and value and all(isinstance(part, (dict, str)) for part in value):
        texts = [part if isinstance(part, str) else part.get("text") for part in value]
        kept = [text for text in texts if isinstance(text, str)]
        noticed.parts += len(texts) - len(kept)
        value = "\n".join(kept)
    return text_of(value, name, place, noticed)


def with_answer(turns: Sequence[Turn], field: str, place: str, noticed: Noticed) -> tuple[list[Turn], str]:
    """Return the turns before the last answer, and that; what comes behind it is left out and counted.

    Args:
        turns: of the chat.
        field: its name, for the error.
        place: the file and what in it.
        noticed: counts chats that go on.

    Raises:
        NoAnswerError: the assistant answers no user.
    """
    roles = [role for role, _ in turns]
    first = roles.index("user") if "user" in roles else len(roles)
    last = max((at for at, role in enumerate(roles) if role == "assistant" and at > first), default=None)
    if last is None:
        raise NoAnswerError(place, f"{field} must hold a user turn and the assistant's answer", "complete the chat")
    noticed.cut += last + 1 < len(turns)
    return list(turns[:last]), turns[last][1]


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
