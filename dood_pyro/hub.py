"""Runs on the Hugging Face hub, by names such as ``hf://user/repository``.
`dood_pyro.load` reads them, and `Run.push` writes them.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from dood_pyro.errors import UserError
from dood_pyro.extras import extra
from dood_pyro.registry import SOURCES, canonical, is_own_code

SCHEME = "hf://"
FILES = ("config.json", "facts.json", "metrics.jsonl", "best.safetensors", "README.md")
"""Files of a run that are kept on a hub."""


def is_on_hub(name: str) -> bool:
    """Whether a run's name is that of one on the hub."""
    return name.startswith(SCHEME)


def repository(name: str) -> str:
    """The repository's own name.

    Raises:
        UserError: it is none.
    """
    own = name.removeprefix(SCHEME)
    if not is_on_hub(name) or re.fullmatch(r"[\w.-]+/[\w.-]+", own) is None:
        raise UserError(f"{name!r} names no repository: write hf://user/repository")
    return own


def fetch(name: str) -> Path:
    """Folder of a run of the hub, brought here if it was not.

    Raises:
        UserError: it cannot be had, or huggingface_hub is not installed.
    """
    own = repository(name)
    with extra("hub"):
        from huggingface_hub import snapshot_download
    try:
        return Path(snapshot_download(own, allow_patterns=list(FILES)))
    except Exception as error:  # of the hub, its client, or whatever carries its requests
        raise UserError(f"cannot get {name} from the hub: {_first_line(error)}") from None


def without_paths(config: bytes) -> bytes:
    """A run's config.json whose source is named, without its place on the machine."""
    values = json.loads(config)
    source = values["train"]["source"]
    values["train"]["source"] = (
        source if canonical(source) in SOURCES or is_own_code(source) else Path(source).stem
    )
    return json.dumps(values, indent=2).encode()


def push(folder: Path, name: str, card: str, private: bool) -> str:
    """Put a run on the hub; return its address.

    Args:
        card: its README.

    Raises:
        UserError: the hub refuses or cannot be reached, or huggingface_hub is not installed.
    """
    own = repository(name)
    if missing := [each for each in FILES[:4] if not (folder / each).is_file()]:
        raise UserError(f"{folder} has no {missing[0]} to push; let it train on")
    with extra("hub"):
        from huggingface_hub import CommitOperationAdd, HfApi
    contents = {each: (folder / each).read_bytes() for each in FILES[:4]}
    contents["config.json"] = without_paths(contents["config.json"])
    contents["README.md"] = card.encode()
    api = HfApi()
    try:
        address = str(api.create_repo(own, private=private, exist_ok=True))
        # In one commit: a connection that breaks leaves no weights beside another run's configuration.
        api.create_commit(
            own,
            [CommitOperationAdd(each, content) for each, content in contents.items()],
            commit_message="Put a run here",
        )
    except Exception as error:  # as above
        raise UserError(f"cannot put {folder} on the hub: {_first_line(error)}") from None
    return address


def _first_line(error: BaseException) -> str:
    """First line of an exception's message: the hub's go on with addresses and identifiers."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__
