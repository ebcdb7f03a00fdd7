"""Prompt templates: the text around an input, exact to the byte. A property of the pool, not of the task.

Text only: `backbone.encoding` appends the end token's id after the completion, and puts in front what the tokenizer
puts before a text (a begin token); a chat template writes itself what belongs there.
"""

from __future__ import annotations

import ctypes
import json
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from merge_advisor.errors import BaseModelError, SpecError
from merge_advisor.json_form import digest_of
from merge_advisor.limits import JSON_BYTES
from merge_advisor.regular_files import read_regular_text
from merge_advisor.types import Turn

if TYPE_CHECKING:
    from pathlib import Path

    import jinja2

TEMPLATE_NAMES = ("alpaca", "bare", "chat", "plain")
"""All templates."""

_OPENING = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
_AROUND = {
    "alpaca": (_OPENING + "\n\n### Instruction:\n", "\n\n### Response:\n"),
    "bare": ("", ""),
    "plain": ("", "\n"),
}
"""What stands before and after the input in the templates that are fixed text."""
_BETWEEN = "\n\n"
"""Stands between examples, and between them and what is asked."""
_ANSWER = "merge-advisor-1"
"""Stands for an answer where what comes behind one is looked for."""
_SECONDS = 10.0
"""That a chat template may take for one prompt: it is a program, which may go on for ever."""
_LARGEST = 1_000_000
"""Parts or digits that a product in a chat template may have."""
_LABELS = {"system": "System", "user": "User", "assistant": "Assistant"}


@dataclass(frozen=True, slots=True)
class Template:
    r"""A prompt template; `get` makes one.

    >>> get("plain").prompt("2 + 2")
    '2 + 2\n'
    >>> get("chat", "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}").prompt("hi")
    '<user>hi'
    """

    name: str
    """One of `TEMPLATE_NAMES`."""
    chat_template: str | None = None
    """The base's Jinja source for `chat`, None for all others."""
    specials: tuple[tuple[str, str], ...] = ()
    """Special tokens the chat template may write, e.g. ("bos_token", "<s>"), sorted."""
    examples: tuple[tuple[str | tuple[Turn, ...], str], ...] = ()
    """Inputs, or turns, with their outputs that every prompt shows first, see `with_examples`."""

    def with_examples(self, examples: Iterable[tuple[str | tuple[Turn, ...], str]]) -> Template:
        r"""Return the template whose prompts show examples before the input.

        Each is prompt and completion as a model would see them, with a blank line behind it; in a chat they are earlier
        turns. Chat templates take one system prompt, in front: that of what is asked; an example's own, where it is
        another, stands in front of its first user turn. No end token stands in between: it is no text.

        >>> get("plain").with_examples([("1 + 1", "2")]).prompt("2 + 2")
        '1 + 1\n2\n\n2 + 2\n'

        Args:
            examples: inputs or turns (`Row.asked`) with their outputs, in the order they are to be shown in.
        """
        return replace(self, examples=tuple(examples))

    @property
    def next_example(self) -> str:
        r"""What ends an answer where a model goes on with another example; empty where an end token ends it.

        >>> get("plain").with_examples([("1 + 1", "2")]).next_example
        '\n\n'
        """
        return _BETWEEN + _AROUND[self.name][0] if self.examples and self.chat_template is None else ""

    @property
    def ending(self) -> str:
        r"""What a chat template writes behind an answer; empty of the others, and where it cannot be told.

        >>> get("chat", "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>\n{% endfor %}").ending
        '</s>\n'
        """
        if self.chat_template is None:
            return ""
        messages = [{"role": "user", "content": "1"}, {"role": "assistant", "content": _ANSWER}]
        try:
            _, found, behind = self._render(messages, prompt=False).rpartition(_ANSWER)
        except SpecError:
            return ""
        return behind if found else ""

    def prompt(self, asked: str | Sequence[Turn]) -> str:
        """Return the text that a model gets.

        Args:
            asked: an input, or the turns of a chat (`Row.asked`). A chat template renders the turns, examples between
                a system prompt and the others; all other templates take them as one text.

        Raises:
            SpecError: the base's chat template fails on this input.
        """
        if self.chat_template is None:
            before, after = _AROUND[self.name]
            shown = [before + _text(given) + after + self.completion(output) for given, output in self.examples]
            return _BETWEEN.join([*shown, before + _text(asked) + after])
        return self._render(self.messages(asked), prompt=True)

    def messages(self, asked: str | Sequence[Turn]) -> list[dict[str, str]]:
        """Return what a chat template renders: examples as earlier turns between a system prompt and the others.

        >>> get("chat", "x").with_examples([("1 + 1", "2")]).messages("2 + 2")[1:]
        [{'role': 'assistant', 'content': '2'}, {'role': 'user', 'content': '2 + 2'}]

        Args:
            asked: as of `prompt`.
        """
        system, turns = _parted(asked)
        earlier = [
            turn
            for given, output in self.examples
            for turn in (*_example_turns(given, system), ("assistant", self.completion(output)))
        ]
        return [{"role": role, "content": text} for role, text in (*system, *earlier, *turns)]

    def _render(self, messages: list[dict[str, str]], *, prompt: bool) -> str:
        try:
            values = {"messages": messages, "add_generation_prompt": prompt, "tools": None, "documents": None}
            source = str(self.chat_template)
            return _in_time(lambda: _compiled(source).render(**values, **dict(self.specials)))
        except Exception as error:  # a chat template is someone else's program: it can fail in any way
            raise SpecError(_refusal(error)) from error

    def completion(self, output: str) -> str:
        """Return the text that should follow the prompt: the output as it is."""
        return output

    @property
    def digest(self) -> str:
        """Sha256 over name, source, examples and a rendered prompt (so over the special tokens really written)."""
        parts = [self.name, self.chat_template, self.prompt("{input}")]
        # examples only where there are some: the digests of templates alone are what they were before there were any
        shown = [self.examples] if self.examples else []
        # what is scored with such examples is told from what was scored by the end token alone
        ends = ["answers end as theirs do"] if self.next_example else []
        return digest_of([*parts, *shown, *ends])


def _in_time(render: Callable[[], str]) -> str:
    """Return what is rendered in a thread of its own, which is ended where it takes too long."""
    rendered, failed = list[str](), list[Exception]()

    def work() -> None:
        try:
            rendered.append(render())
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(_SECONDS)
    if thread.is_alive():
        # no thread can be ended from outside; raised in it, this does so as soon as it computes in Python
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(TimeoutError))
        raise TimeoutError(f"it takes more than {_SECONDS:g} seconds for a prompt")
    if failed:
        raise failed[0]
    return rendered[0]


def as_text(turns: Sequence[Turn]) -> str:
    r"""Return turns as one text: a user's turn alone as it is, several labelled and separated by an empty line.

    >>> as_text([("system", "Be kind."), ("user", "Hi")])
    'System: Be kind.\n\nUser: Hi'

    Args:
        turns: at least one.
    """
    if len(turns) == 1 and turns[0][0] == "user":
        return turns[0][1]
    return "\n\n".join(f"{_LABELS[role]}: {text}" for role, text in turns)


def _text(asked: str | Sequence[Turn]) -> str:
    return asked if isinstance(asked, str) else as_text(asked)


def _parted(asked: str | Sequence[Turn]) -> tuple[Sequence[Turn], Sequence[Turn]]:
    """The system prompt, where there is one, and the other turns."""
    turns = [("user", asked)] if isinstance(asked, str) else list(asked)
    first = 1 if turns[0][0] == "system" else 0
    return turns[:first], turns[first:]


def _example_turns(asked: str | Sequence[Turn], in_front: Sequence[Turn]) -> Sequence[Turn]:
    """The turns of an example in a chat that begins with a system prompt, its own or another."""
    system, turns = _parted(asked)
    at = next((at for at, (role, _) in enumerate(turns) if role == "user"), None)
    if not system or system == in_front or at is None:
        return turns
    return [*turns[:at], ("user", f"{system[0][1]}{_BETWEEN}{turns[at][1]}"), *turns[at + 1 :]]


def get(name: str, chat_template: str | None = None, specials: Mapping[str, object] | None = None) -> Template:
    """Make the template `name`; `chat` needs the base's chat template (`read_chat`, or its tokenizer's attributes).

    Args:
        name: one of `TEMPLATE_NAMES`.
        chat_template: Jinja source; ignored unless `name` is "chat".
        specials: special tokens by name (`tokenizer.special_tokens_map`); entries that are no text are ignored.

    Raises:
        SpecError: no such name, `chat` without a chat template, or one that cannot be rendered.
    """
    if name not in TEMPLATE_NAMES:
        raise SpecError(f"template '{name}' is unknown; choose one of: {', '.join(TEMPLATE_NAMES)}")
    if name != "chat":
        return Template(name)
    if not chat_template:
        raise SpecError("template 'chat': this base has no chat template; choose one of: alpaca, bare, plain")
    tokens = sorted((key, token) for key, token in (specials or {}).items() if isinstance(token, str))
    template = Template(name, chat_template, tuple(tokens))
    template.prompt("")  # a broken chat template is an error now, not at the first row
    return template


def read_chat(folder: Path) -> tuple[str | None, dict[str, str]]:
    r"""Return chat template and special tokens of a model folder, without transformers: for `get("chat", …)`.

    `chat_template.jinja` counts before `tokenizer_config.json`; of several templates in there, the one named "default".

    >>> from pathlib import Path
    >>> source, specials = read_chat(Path("base"))
    >>> get("chat", source, specials).prompt("hi")
    '<|user|>hi<|end|>\n<|assistant|>'

    Args:
        folder: the model's folder.

    Returns:
        The Jinja source, None where the folder has none; and the special tokens by name.

    Raises:
        BaseModelError: one of these files is there and cannot be read.
    """
    config = _read_object(folder / "tokenizer_config.json")
    tokens = _read_object(folder / "special_tokens_map.json") | config
    named = {key: value.get("content") if isinstance(value, dict) else value for key, value in tokens.items()}
    specials = {key: value for key, value in named.items() if key.endswith("_token") and isinstance(value, str)}
    source: Any = config.get("chat_template")
    if isinstance(source, list):
        named_ones = (entry for entry in source if isinstance(entry, dict))
        source = next((entry.get("template") for entry in named_ones if entry.get("name") == "default"), None)
    file = folder / "chat_template.jinja"
    if file.is_file():
        source = _read_text(file)
    return source if isinstance(source, str) else None, specials


def _read_text(file: Path) -> str:
    try:
        if (size := file.stat().st_size) > JSON_BYTES.most:
            raise BaseModelError(f"{file}: has {JSON_BYTES.over}; fetch the base again, or {JSON_BYTES.remedy(size)}")
        return read_regular_text(file)
    except (OSError, UnicodeDecodeError) as error:
        raise BaseModelError(f"{file}: cannot be read ({error}); fetch the base again") from error


def _read_object(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        content = json.loads(_read_text(file))
    except (ValueError, RecursionError) as error:
        raise BaseModelError(f"{file}: not JSON ({error}); fetch the base again") from error
    return content if isinstance(content, dict) else {}


@lru_cache(maxsize=8)
def _compiled(source: str) -> jinja2.Template:
    """Compile a chat template as transformers does, except for the date: `strftime_now` always gives 26 July 2024.

    That day is what Llama's templates fall back on; a clock would make two equal runs differ.
    """
    from datetime import datetime

    import jinja2.nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}` marks what an assistant wrote; for the text it changes nothing."""

        tags = {"generation"}  # noqa: RUF012 (declared so by Jinja)

        def parse(self, parser: Parser) -> jinja2.nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return jinja2.nodes.Scope(body, lineno=line)

    class Environment(ImmutableSandboxedEnvironment):
        """Refuses products that take memory without end."""

        intercepted_binops = frozenset({"*", "**"})

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            if _size_of_product(operator, left, right) > _LARGEST:
                raise jinja2.TemplateError(f"a product (`{operator}`) of more than {_LARGEST} parts or digits")
            return super().call_binop(context, operator, left, right)

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    def tojson(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, **options)  # Jinja's own escapes HTML

    environment = Environment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = datetime(2024, 7, 26).strftime
    return environment.from_string(source)


def _size_of_product(operator: str, left: Any, right: Any) -> int:
    """Parts of a repeated text or list, bits of a power, about; 0 of anything else."""
    if operator == "**":
        return left.bit_length() * right if isinstance(left, int) and isinstance(right, int) else 0
    counted, times = (left, right) if isinstance(right, int) else (right, left)
    return len(counted) * times if isinstance(counted, (str, list, tuple)) and isinstance(times, int) else 0


def _refusal(error: Exception) -> str:
    reason = " ".join(str(error).split()) or type(error).__name__
    return f"template 'chat': the base's chat template fails ({reason}); choose one of: alpaca, bare, plain"
