"""What transformers makes of a base's folder: configuration, tokenizer, class, skeleton. No code in it ever runs."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from merge_advisor.errors import BaseModelError


def build_skeleton(folder: Path) -> Any:
    """Return the transformers model of a folder's config.json on the meta device: names and shapes, no numbers.

    Args:
        folder: of config.json.

    Raises:
        BaseModelError: transformers cannot build it.
    """
    import torch

    with naming_base(folder), torch.device("meta"):
        config = read_config(folder)
        return model_class(config).from_config(config, trust_remote_code=False)


def model_class_of(folder: Path) -> Any:
    """Return the transformers class that loads the model of a folder, see `model_class`.

    Args:
        folder: of config.json.

    Raises:
        BaseModelError: transformers does not know its config.json.
    """
    with naming_base(folder):
        return model_class(read_config(folder))


def read_config(folder: Path) -> Any:
    """Return the transformers configuration of a folder's config.json; code that lies beside it is never run.

    Args:
        folder: of config.json.

    Raises:
        OSError: it cannot be read.
        ValueError: transformers does not know the model.
        BaseModelError: nor without code that comes with it.
    """
    import transformers

    with _running_no_code(folder):
        return transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def read_tokenizer(folder: Path) -> Any:
    """Return the transformers tokenizer of a folder; code that lies beside it is never run.

    Args:
        folder: of tokenizer files.

    Raises:
        OSError: it cannot be read.
        ValueError: transformers does not know the tokenizer.
        BaseModelError: nor without code that comes with it.
    """
    import transformers

    with _running_no_code(folder):
        return transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' progress bars and advice.

    Yields:
        Nothing; bars and log level are as before when the block ends.
    """
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)  # what is wrong is raised; what it logs has names of anyone's files in it
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            with warnings.catch_warnings(action="ignore"):  # HF_HUB_DISABLE_PROGRESS_BARS has the last word
                logging.enable_progress_bar()


@contextmanager
def _running_no_code(folder: Path) -> Iterator[None]:
    """Say what transformers' refusal means here; asked without `trust_remote_code=False`, it would ask on stdin."""
    try:
        with quiet():
            yield
    except OSError:
        raise
    except Exception as error:  # what a configuration is checked by has errors of its own
        if not isinstance(error, ValueError):
            raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error
        if "trust_remote_code" not in str(error):
            raise
        raise BaseModelError(
            f"base {folder.name}: comes with Python code of its own (auto_map), which is never run here; give a base "
            "that transformers has the code of"
        ) from error


@contextmanager
def naming_base(folder: Path) -> Iterator[None]:
    """Name the base where transformers fails in the block, with the reason on one line.

    Args:
        folder: the base's.

    Yields:
        Nothing.

    Raises:
        BaseModelError: whatever was raised; one of these goes on as it is.
    """
    try:
        with quiet():
            yield
    except BaseModelError:
        raise
    except Exception as error:  # on a configuration that is wrong in any way, transformers may raise anything
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BaseModelError(f"base {folder.name}: cannot be loaded ({reason}); check the folder's files") from error


def model_class(config: Any) -> Any:
    """Return the transformers class that loads a language model, or the one around it that also takes images.

    Args:
        config: the transformers configuration.
    """
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    if getattr(config, "is_encoder_decoder", False):
        return transformers.AutoModelForSeq2SeqLM
    kind = type(config)
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING and kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return transformers.AutoModelForImageTextToText
    return transformers.AutoModelForCausalLM
