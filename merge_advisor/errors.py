"""The error tree.

    MergeAdvisorError            anything this package raises on purpose; exit code 1
    ├── InputError               what the user gave cannot be used; exit code 2
    │   ├── TaskError            a task file or one of its rows
    │   ├── PoolError            a pool, a manifest or one candidate
    │   ├── BaseModelError       the base: absent, unreadable, of another shape
    │   ├── SpecError            a strategy, composition, format or embedding named or parameterised wrongly
    │   └── RunError             what a command writes or wrote: a run folder, a study, a store, any output
    ├── SpaceMismatchError       deltas of two spaces were about to be compared
    ├── OfflineError             something has to be fetched and fetching is off; exit code 2
    └── ExternalError            mergekit, lm-eval or the hub failed; exit code 1

Every message is one line: file, line or id; what is wrong; what to do. It names parameters in backticks, alone or with
a value (`k=0`), and calls as `merge(run, adapter=True)`, never flags: the command line writes these (`cli.messages`).
`ValueError` and `KeyError` are for mistakes of code that calls this package.

Four errors never leave the package; whoever catches one raises one of the tree that says which file or id it was:
`weights.files.FileError` (and its `weights.tensorfile.TensorFileError`), where a file of a model does not know whether
it is the base's or a candidate's; `plain_yaml.YamlError`; and `pool.unpickling.RefusedError` and
`pool.peft_child.CannotMergeError`, each in a process of its own. `weights.adapter_config.NotPlainLoraError` is the
PoolError of an adapter that PEFT may be able to merge.
"""

from __future__ import annotations


class MergeAdvisorError(Exception):
    """Base of every error raised on purpose; `exit_code` is what the command line returns for it.

    >>> from merge_advisor.tasks import read_rows
    >>> from pathlib import Path
    >>> try:
    ...     read_rows(Path("absent.jsonl"))
    ... except MergeAdvisorError as error:
    ...     print(error.exit_code, error)
    2 absent.jsonl: no such file; give the path of a task file (JSONL)
    """

    exit_code = 1


class InputError(MergeAdvisorError):
    """What the user gave cannot be used.

    >>> InputError("shots: 1 is too few; give at least 2").exit_code
    2
    """

    exit_code = 2


class TaskError(InputError):
    """A task file, or a row of it, cannot be used.

    >>> raise TaskError("a.jsonl:3: output is empty; fill it in or drop the row")
    Traceback (most recent call last):
    merge_advisor.errors.TaskError: a.jsonl:3: output is empty; fill it in or drop the row
    """


class PoolError(InputError):
    """A pool, a manifest or a candidate cannot be used.

    >>> from merge_advisor.pool import check_id
    >>> check_id("a/../b")
    Traceback (most recent call last):
    merge_advisor.errors.PoolError: id 'a/../b': begins or ends with a path separator or has '.' or '..' for a part; ...
    """


class BaseModelError(InputError):
    """The base model is absent, unreadable or of another shape than asked for.

    >>> raise BaseModelError("base org/name: config.json: not JSON; fetch it again")
    Traceback (most recent call last):
    merge_advisor.errors.BaseModelError: base org/name: config.json: not JSON; fetch it again
    """


class SpecError(InputError):
    """A registered thing was named or parameterised wrongly.

    >>> from merge_advisor import registry
    >>> registry.build("strategy", "top_k:neighbours=3")
    Traceback (most recent call last):
    merge_advisor.errors.SpecError: strategy 'top_k:neighbours=3': 'neighbours=3' is no parameter of top_k; ...
    """


class RunError(InputError):
    """What a command writes or wrote is absent, in the way, not writable, of another version, or altered.

    >>> from pathlib import Path
    >>> from merge_advisor.whole_files import write_text
    >>> write_text(Path("examples.jsonl/report.md"), "text")
    Traceback (most recent call last):
    merge_advisor.errors.RunError: examples.jsonl/report.md: cannot be written (...); check permissions and free space
    """


class SpaceMismatchError(MergeAdvisorError):
    """Deltas of two different spaces were about to be compared.

    >>> SpaceMismatchError("deltas of 32 and 64 dimensions").exit_code
    1
    """


class OfflineError(MergeAdvisorError):
    """Something has to be fetched while fetching is switched off.

    >>> OfflineError("org/name: not in the hub's cache").exit_code
    2
    """

    exit_code = 2


class ExternalError(MergeAdvisorError):
    """A program or service that this package calls (mergekit, lm-eval, the hub) failed.

    >>> ExternalError("org/name: the hub cannot be reached").exit_code
    1
    """


class DamageWarning(UserWarning):
    """Something that was kept is damaged and is made again; shown as one line by the command line.

    >>> issubclass(DamageWarning, MergeAdvisorError)
    False
    """
