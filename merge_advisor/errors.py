"""The error tree.

    MergeAdvisorError            anything this package raises on purpose; exit code 1
    ├── InputError               what the user gave cannot be used; exit code 2
    │   ├── TaskError            a task file or one of its rows
    │   ├── PoolError            a pool, a manifest or one candidate
    │   ├── BaseModelError       the base: absent, unreadable, of another shape
    │   ├── SpecError            a strategy, composition, format or embedding named or parameterised wrongly
    │   └── RunError             a run folder: absent, present already, of another version, altered
    ├── SpaceMismatchError       deltas of two spaces were about to be compared
    ├── OfflineError             something has to be fetched and fetching is off; exit code 2
    └── ExternalError            mergekit, lm-eval or the hub failed; exit code 1

Every message is one line: file, line or id; what is wrong; what to do. It names parameters in backticks, alone or with
a value (`k=0`), and calls as `merge(run, adapter=True)`, never flags: the command line writes these (`cli.messages`).
"""

from __future__ import annotations


class MergeAdvisorError(Exception):
    """Base of every error raised on purpose; `exit_code` is what the command line returns for it."""

    exit_code = 1


class InputError(MergeAdvisorError):
    """What the user gave cannot be used."""

    exit_code = 2


class TaskError(InputError):
    """A task file, or a row of it, cannot be used."""


class PoolError(InputError):
    """A pool, a manifest or a candidate cannot be used."""


class BaseModelError(InputError):
    """The base model is absent, unreadable or of another shape than asked for."""


class SpecError(InputError):
    """A registered thing was named or parameterised wrongly."""


class RunError(InputError):
    """A run folder is absent, in the way, of another version, or altered."""


class SpaceMismatchError(MergeAdvisorError):
    """Deltas of two different spaces were about to be compared."""


class OfflineError(MergeAdvisorError):
    """Something has to be fetched while fetching is switched off."""

    exit_code = 2


class ExternalError(MergeAdvisorError):
    """A program or service we call (mergekit, lm-eval, the hub) failed."""
