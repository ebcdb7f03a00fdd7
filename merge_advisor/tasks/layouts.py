"""Layouts of records as data sets are published: which fields are what is asked, the answer, and the choices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import takewhile
from string import ascii_uppercase
from typing import Any, Literal

_READING = ("context", "passage", "article", "support")
"""Texts that a question is about; the first that a record has stands in front of it."""
_NOT_NEEDED = ("choices", "answer_choices")
"""Fields of choices that a record may lack."""
Keyed = Literal["never", "else", "always"]
"""Whether an answer in text is a letter or a place: always, or where it is no choice itself."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Names of fields, and what they hold.

    >>> Layout("question answering", ("question",), "answer").fits({"question": "2 + 2", "answer": "4"})
    True
    """

    kind: str
    """In words."""
    input: tuple[str, ...]
    """Fields that a record must have; their texts are joined by an empty line, in this order."""
    output: str
    choices: str | tuple[str, ...] = "choices"
    """A field with all choices, or a field for each."""
    before: tuple[str, ...] = ()
    """Fields of which the first that a record has stands in front of the input."""
    after: tuple[str, ...] = ()
    """Fields of which the first that a record has stands behind it."""
    keyed: Keyed = "never"
    """Whether an answer in text is a letter or a place: always, or where it is no choice itself."""
    first: int = 0
    """What the first choice's place is counted as."""
    label: bool = False
    """Whether the output is one of a few labels that a text gets."""

    @property
    def choice_fields(self) -> tuple[str, ...]:
        """Names of the fields that hold choices."""
        return (self.choices,) if isinstance(self.choices, str) else self.choices

    @property
    def needed(self) -> frozenset[str]:
        """Names of the fields without which a record is of another layout."""
        choices = self.choice_fields if self.keyed != "never" or self.choices not in _NOT_NEEDED else ()
        return frozenset((*self.input, self.output, *choices))

    @property
    def known(self) -> frozenset[str]:
        """Names of all its fields but the answer's."""
        return frozenset((*self.input, *self.before, *self.after, *self.choice_fields))

    def fits(self, fields: Mapping[str, Any]) -> bool:
        """Tell whether a record is of this layout.

        Args:
            fields: of the record, those that hold something.
        """
        return self.needed <= fields.keys() and not any(fields[name] == [] for name in self.needed - {self.output})

    def bound(self, fields: Mapping[str, Any]) -> Layout:
        """Return it with the choices of a record: `options` count as `choices`, and so do columns A, B, C, D.

        Args:
            fields: of the record, those that hold something.
        """
        if self.choices != "choices" or "choices" in fields:
            return self
        value, options = fields.get(self.output), fields.get("options")
        known = self.input == ("question",) and self.output == "answer"  # RACE, MMLU-Pro
        if options and (known or (isinstance(options, (list, dict)) and _may_choose(value, options))):
            return replace(self, choices="options", keyed="else" if self.keyed == "never" else self.keyed)
        letters = letter_columns(fields)
        # a number beside four columns or more names one of them as well: from 0 or from 1 is for the user to say
        meant = is_letter(value) or (
            len(letters) > 3 and isinstance(value, str) and value.isdigit() and len(value) == 1
        )
        if letters and (value is None or meant or value in [fields[name] for name in letters]):
            return replace(self, choices=letters, keyed="never")
        return self

    def asked(self, fields: Mapping[str, Any]) -> Iterator[str]:
        """Yield the names of the fields that make a record's input, in their order.

        Args:
            fields: of the record.
        """
        yield from _first(self.before, fields)
        yield from self.input
        yield from _first(self.after, fields)


def letter_columns(fields: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the columns that are called A, B and so on, as far as they hold texts; none where there is but one.

    >>> letter_columns({"question": "q", "A": "red", "B": "blue", "C": None, "D": "odd"})
    ('A', 'B')

    Args:
        fields: of a record.
    """
    found = tuple(takewhile(lambda name: isinstance(fields.get(name), str) and fields[name].strip(), ascii_uppercase))
    return found if len(found) > 1 else ()


def is_letter(value: Any) -> bool:
    """Return whether a value is one capital letter.

    >>> is_letter("B"), is_letter("b")
    (True, False)

    Args:
        value: any.
    """
    return isinstance(value, str) and len(value) == 1 and value in ascii_uppercase


def _may_choose(value: Any, options: list[Any] | dict[str, Any]) -> bool:
    """Whether an output may name one of the options; text that is none of them is an answer of its own."""
    texts = [*options, *options.values()] if isinstance(options, dict) else options
    given = value if isinstance(value, list) else [value]
    return value is None or any(one in texts or (isinstance(one, str) and len(one) == 1) for one in given)


def _first(names: tuple[str, ...], fields: Mapping[str, Any]) -> list[str]:
    return [name for name in names if fields.get(name, "") != "" and fields[name] != []][:1]


_QUESTION, _PROMPT, _INSTRUCTION = "question answering", "prompt and completion", "instruction and answer"
_TEXT, _TWO_TEXTS = "text classification", "classification of two texts"
LAYOUTS = (
    # P3: its inputs and targets are token ids, these are the texts
    Layout(_PROMPT, ("inputs_pretokenized",), "targets_pretokenized", choices="answer_choices"),
    # before input and output, which would lose the instruction
    Layout(_INSTRUCTION, ("instruction",), "output", after=("input",)),
    Layout(_INSTRUCTION, ("instruction",), "response", after=("context", "input")),  # Dolly
    Layout("input and output", ("input",), "output"),
    Layout(_PROMPT, ("prompt",), "completion"),
    # where each choice has a field of its own; before those that would take no notice of them
    Layout(_QUESTION, ("question",), "correct_answer", choices=("correct_answer", "distractor1", "distractor2",
           "distractor3"), before=_READING),  # SciQ
    Layout("sentence completion", ("sentence",), "answer", ("option1", "option2"), keyed="always",
           first=1),  # WinoGrande
    Layout("goal and solutions", ("goal",), "label", ("sol1", "sol2"), keyed="always"),  # PIQA
    Layout("cause or effect", ("premise", "question"), "label", ("choice1", "choice2"), keyed="always"),  # COPA
    Layout(_QUESTION, ("context", "question"), "label", ("answerA", "answerB", "answerC"), keyed="always",
           first=1),  # Social IQa
    Layout(_QUESTION, ("context", "question"), "label", ("answer0", "answer1", "answer2", "answer3"),
           keyed="always"),  # Cosmos QA
    Layout("sentence completion", ("startphrase",), "label", ("ending0", "ending1", "ending2", "ending3"),
           keyed="always"),  # SWAG
    Layout(_QUESTION, ("question",), "answer", before=_READING),
    Layout(_QUESTION, ("question",), "answers", before=_READING),  # SQuAD
    Layout(_QUESTION, ("question",), "response"),
    Layout("context and completion", ("context",), "completion"),
    Layout("input and target", ("input",), "target"),
    Layout("input and target", ("input",), "target_scores", choices="target_scores"),  # BIG-bench, and on the hub:
    Layout("input and target", ("inputs",), "targets", choices="multiple_choice_targets"),
    Layout("input and target", ("inputs",), "targets"),  # FLAN
    Layout(_QUESTION, ("question",), "mc1_targets", choices="mc1_targets"),  # TruthfulQA
    Layout(_QUESTION, ("question",), "mc2_targets", choices="mc2_targets"),
    Layout("prompt and response", ("prompt",), "response"),
    Layout("query and response", ("query",), "response"),
    Layout("query and response", ("query",), "gold", keyed="else"),  # lm-eval's
    Layout("problem and solution", ("problem",), "solution"),
    Layout("preference data", ("prompt",), "chosen"),
    Layout("preference data", ("question",), "chosen"),
    Layout("inference from a premise", ("premise", "hypothesis"), "label", label=True),
    Layout(_TWO_TEXTS, ("sentence1", "sentence2"), "label", label=True),
    Layout(_TWO_TEXTS, ("question1", "question2"), "label", label=True),
    Layout(_TWO_TEXTS, ("question", "sentence"), "label", label=True),
    Layout(_QUESTION, ("question",), "label", before=_READING, keyed="else"),  # LogiQA, AGIEval
    Layout(_TWO_TEXTS, ("passage", "question"), "label", label=True),
    Layout(_TEXT, ("text",), "label_text", before=("title",), label=True),
    Layout(_TEXT, ("text",), "label", before=("title",), label=True),
    Layout(_TEXT, ("sentence",), "label", label=True),
    Layout(_TEXT, ("content",), "label", before=("title",), label=True),
    Layout(_QUESTION, ("question",), "answerKey", keyed="always"),  # ARC, CommonsenseQA
    Layout(_QUESTION, ("question_stem",), "answerKey", keyed="always"),  # OpenBookQA
    Layout("sentence completion", ("ctx",), "label", "endings", keyed="always"),  # HellaSwag
)  # fmt: skip
"""Those that are recognised, besides chats (`fields.CHATS`); the first that fits a record counts."""


def layout_of(fields: Mapping[str, Any]) -> Layout | None:
    """Return the layout of a record; None where it is of none that is known.

    >>> layout_of({"question": "q", "answer": "a", "id": 1}).output
    'answer'

    Args:
        fields: of the record, those that hold something.
    """
    return next((found for layout in LAYOUTS if (found := layout.bound(fields)).fits(fields)), None)


def input_layout_of(fields: Mapping[str, Any]) -> Layout | None:
    """Return the layout of a record that needs no output: of those whose input it has, the one that fits it best.

    Args:
        fields: of the record, those that hold something.
    """
    asked = [layout.bound(fields) for layout in LAYOUTS if set(layout.input) <= fields.keys()]
    whole = next((layout for layout in asked if layout.fits(fields)), None)
    # without its output a record is told by the most fields it shares: its choices among them
    return whole or max(asked, key=lambda one: len(one.known & fields.keys()), default=None)
