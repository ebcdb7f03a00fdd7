"""lm-eval run inside this process: kept quiet, its templates in a sandbox, what it raises in one line."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import random
import warnings
from collections.abc import Iterator
from importlib import metadata

from merge_advisor.errors import ExternalError, MergeAdvisorError


def lm_eval_version() -> str:
    """Return name and version of what measures, e.g. "lm-eval 0.4.13"."""
    return f"lm-eval {metadata.version('lm_eval')}"


@contextlib.contextmanager
def contained_lm_eval(what: str, *, trusted: bool) -> Iterator[None]:
    """Yield with lm-eval quiet and its templates in the sandbox, and turn what it raises into one line.

    Args:
        what: what is done, for messages.
        trusted: whether the code of a task may run: its templates are not in the sandbox then.

    Raises:
        ExternalError: lm-eval failed.

    >>> with contained_lm_eval("task t", trusted=True):
    ...     print("not shown")
    ...     raise AssertionError("no such split")
    Traceback (most recent call last):
    merge_advisor.errors.ExternalError: task t: lm-eval ... failed (no such split); the traceback (`debug`) says where
    """
    try:
        with quiet_lm_eval(), contextlib.nullcontext() if trusted else jinja_sandbox():
            yield
    except (MergeAdvisorError, MemoryError):
        raise
    except Exception as error:  # lm-eval asserts, and raises whatever it meets
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        if type(error).__name__ == "SecurityError":  # of Jinja's sandbox, not imported for its name
            reason += "; if you trust the task, add `trusted=True`"
        raise ExternalError(
            f"{what}: {lm_eval_version()} failed ({reason}); the traceback (`debug`) says where"
        ) from error


@contextlib.contextmanager
def quiet_lm_eval() -> Iterator[None]:
    """Yield with lm-eval and what it imports kept from printing, logging and warning; undo its traces in the process.

    It sets variables of the environment when imported, and draws a random name for each task, used or not.
    """
    environment, level, state = dict(os.environ), logging.root.manager.disable, random.getstate()
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
        random.setstate(state)
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)


@contextlib.contextmanager
def jinja_sandbox() -> Iterator[None]:
    """Yield with lm-eval's templates in Jinja's sandbox, which keeps them from reaching Python behind the values.

    Raises:
        ExternalError: this lm-eval renders them in another way.
    """
    from jinja2.sandbox import SandboxedEnvironment
    from lm_eval import utils

    plain = getattr(utils, "env", None)
    if plain is None:
        raise ExternalError("this lm-eval renders templates in a way that cannot be made safe; add `trusted=True`")
    safe = SandboxedEnvironment(undefined=plain.undefined, keep_trailing_newline=plain.keep_trailing_newline)
    safe.filters.update(plain.filters)
    utils.env = safe
    try:
        yield
    finally:
        utils.env = plain
