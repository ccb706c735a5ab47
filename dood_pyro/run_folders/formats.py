"""Run folders of earlier versions, brought to the present format: one function per step.
Used by `dood_pyro.run_folders.run` when it reads settings and weights.

The format number stands in config.json and in the notes of tensor files. Whoever changes a setting's
name or meaning, or renames parameters raises `FORMAT` by one and writes the step. A setting that is
added says what was done before (`dood_pyro.config.setting`).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from dood_pyro.errors import UserError

FORMAT = 4
OLDEST = 3

Values = dict[str, Any]

ADDED_IN_3: dict[str, Values] = {
    "model": {"native_resolution": False},
    "train": {
        "resolution": 0,
        "normalise": True,
        "particles": 1,
        "start": "",
        "fit": "both",
        "dream_steps": 0,
        "practice": 0.0,
        "scale_learns": "explored",
        "guide_channels": 32,
    },
}
"""Settings that were added while the format was 3, and what was done before."""

RENAMED_IN_4 = {
    "scale_rate": "scale_learning_rate_factor",
    "clip": "clip_norm",
    "corrections": "num_refiners",
    "trust_begin": "gate_begin",
    "trust_full": "gate_full",
    "trust_stagger": "gate_stagger",
    "fit": "trainable",
    "dream_steps": "sleep_steps",
    "practice": "synthetic_ratio",
}
ABLATIONS_IN_3: dict[str, Values] = {
    "renderer": {"dood-no-renderer": "network"},
    "guidance": {"dood-no-guidance": False, "air": False},
    "prior": dict.fromkeys(("dood-independent-prior", "dair", "air"), "independent"),
}
"""Settings that were what the program's name says, and by which names."""
USUAL_IN_3 = {"renderer": "bezier", "guidance": True, "prior": "sequential"}


def _from_3(values: Values) -> Values:
    """To 4: facts apart, settings under the field's names, ablations as classes."""
    name = values["program"]
    model, train = ({**ADDED_IN_3[part], **values[part]} for part in ("model", "train"))
    for setting, by_name in ABLATIONS_IN_3.items():
        if model.pop(setting) != by_name.get(name, USUAL_IN_3[setting]):
            raise UserError(f"a {name} with {setting} set otherwise is not known to this version")
    facts = {
        "data_sha256": train.pop("data_sha256"),
        "native_size": train.pop("resolution"),
        "initial_sha256": train.pop("start"),
    }
    train = {RENAMED_IN_4.get(setting, setting): value for setting, value in train.items()}
    train["init_from"] = facts["initial_sha256"][:12]
    if train["estimator"] == "stop-time":
        train["estimator"] = "stop-marginal"
    return {
        "model": {"name": name, **model},
        "train": train,
        "budget": values["until"],
        "tensorboard": values.get("tensorboard", True),
        "facts": facts,
    }


STEPS = {3: _from_3}
"""Migrations to the next format, by the format that each reads."""


def current_settings(values: Any, what: str) -> Values:
    """The content of a config.json in the present format; facts that stood in it are under "facts".

    Raises:
        UserError: it is of a format that this version does not read, or malformed; ``what`` says
            whose.
    """
    found = values.get("format") if isinstance(values, dict) else None
    if type(found) is not int or not OLDEST <= found <= FORMAT:
        raise UserError(
            f"{what} has format {found!r}; this version reads formats {OLDEST} to {FORMAT}"
        )
    for step in range(found, FORMAT):
        try:
            values = STEPS[step](values)
        except (KeyError, TypeError, AttributeError):
            raise UserError(f"{what} is incomplete or malformed; train anew") from None
    return {name: value for name, value in values.items() if name != "format"}


def current_names(tensors: dict[str, Tensor], format_number: int) -> dict[str, Tensor]:
    """Tensors of a run's file under the names that its parameters have now."""
    if format_number >= 4:
        return tensors
    return {_name_from_3(name): tensor for name, tensor in tensors.items()}


def _name_from_3(name: str) -> str:
    name = name.replace("guide.corrections.", "guide.refinement.refiners.")
    if name.endswith("guide.trust"):
        name = name.removesuffix("guide.trust") + "guide.refinement.gate"
    if name.startswith("estimator.on_"):
        name = name.replace("estimator.", "estimator.moments.", 1)
    return name
