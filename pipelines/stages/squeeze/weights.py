"""Weights that a teacher starts from: a local state dict read without unpickling code, and a head that fits the classes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.errors import UserError

if TYPE_CHECKING:
    from torch import nn

#: What timm and Hugging Face call the state dict in a folder, the safer one first.
_IN_A_FOLDER = ("model.safetensors", "pytorch_model.bin")
#: Entries of checkpoints that hold the state dict.
_WRAPPERS = ("state_dict", "model")
#: What wrappers around a network (data parallel, compiled) put before every name.
_PREFIXES = ("module.", "_orig_mod.")
#: Tensors named in a message.
_NAMED = 3


def weights_digest(name: str) -> str:
    """SHA-256 (hex) of the file of weights; `UserError` where there is none."""
    return hashlib.sha256(_weights_file(name).read_bytes()).hexdigest()


def _weights_file(name: str) -> Path:
    path = Path(name).expanduser()
    if path.is_dir():
        inside = [path / file for file in _IN_A_FOLDER if (path / file).is_file()]
        if not inside:
            raise UserError(
                f"squeeze.weights: the folder {path} has no {' or '.join(_IN_A_FOLDER)}; name the file itself"
            )
        return inside[0]
    if not path.is_file():
        raise UserError(f"squeeze.weights: no file {path}; give a local .safetensors, .pt or .th state dict")
    return path


def read_weights(name: str) -> dict[str, Any]:
    """A state dict from a local file or folder, or `UserError`. Prefixes that wrappers add are removed; never unpickles code."""
    import safetensors.torch
    import torch

    path = _weights_file(name)
    try:
        if path.suffix == ".safetensors":
            state = safetensors.torch.load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a file of anything makes a reader say
        problem = (str(error) or type(error).__name__).split("\n")[0][:200]
        raise UserError(f"squeeze.weights: {path} is no file of weights: {problem}; give a state dict") from None
    for wrapper in _WRAPPERS:
        state = state.get(wrapper, state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise UserError(
            f"squeeze.weights: {path} holds no state dict (names and tensors); save one with model.state_dict()"
        )
    for prefix in _PREFIXES:
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def load_weights(model: nn.Module, weights: str, network: str, side: int, trained: bool) -> str | None:
    """Put the named weights into the network in place; a sentence where its head stays as it was made, None where all fitted.

    `UserError` for weights that do not fit otherwise, are no numbers, or need a head made anew that would not be `trained`. `side`
    is that of the images, for the message.
    """
    from distill.networks import head_names
    from distill.soundness import fault_of

    state, own = read_weights(weights), model.state_dict()
    head = head_names(model)
    other_head = _head_of_other_classes(state, own, head)
    if other_head is not None and not trained:
        raise UserError(
            f"squeeze.weights: {weights} {other_head}, and a head made anew has to be trained: set squeeze.training.epochs above 0"
        )
    if other_head is not None:
        state = {**state, **{name: own[name] for name in own if _belongs(name, head)}}
    try:
        model.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        problem = _misfit(state, own) or " ".join(str(error).split())[:300]
        raise UserError(
            f"squeeze.weights: {weights} does not fit {network} as it is for images of {side} px: {problem}"
        ) from None
    if (fault := fault_of(model)) is not None:
        raise UserError(f"squeeze.weights: {weights} is no sound network: {fault}; give other weights")
    return None if other_head is None else f"{weights} {other_head}: {' and '.join(head)} of {network} made anew"


def _belongs(name: str, head: tuple[str, ...]) -> bool:
    return any(name.startswith(f"{module}.") for module in head)


def _head_of_other_classes(state: Mapping[str, Any], own: Mapping[str, Any], head: tuple[str, ...]) -> str | None:
    """What is said of weights that lack the head, or have one that differs in the number of classes and nothing else."""
    wanted = {name: tensor for name, tensor in own.items() if _belongs(name, head)}
    there = {name: tensor for name, tensor in state.items() if _belongs(name, head)}
    if not wanted or _counted(set(state) - set(there)) != _counted(set(own) - set(wanted)):
        return None
    if not there:
        return "has no head"
    shapes = {name: tuple(getattr(tensor, "shape", ())) for name, tensor in there.items()}
    if set(there) != set(wanted) or any(not shape for shape in shapes.values()):
        return None
    same = all(shapes[name][1:] == tuple(tensor.shape[1:]) for name, tensor in wanted.items())
    classes = {shape[0] for shape in shapes.values()}
    needed = {tensor.shape[0] for tensor in wanted.values()}
    if not same or len(classes) != 1 or classes == needed:
        return None
    return f"has a head for {classes.pop()} classes, and here are {needed.pop()}"


def _counted(names: set[str]) -> set[str]:
    """Without the counts of batches, which old weights lack and torch adds."""
    return {name for name in names if not name.endswith("num_batches_tracked")}


def _misfit(state: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    """Which tensors differ, named as far as a sentence holds them; empty where shapes and names agree."""
    shapes = [
        f"{name} is {_shape(state[name])} there and {_shape(tensor)} here"
        for name, tensor in own.items()
        if name in state and _shape(state[name]) != _shape(tensor)
    ]
    lacking = [name for name in own if name not in state and _counted({name})]
    further = [name for name in state if name not in own]
    said = shapes[:_NAMED] + [f"{len(shapes) - _NAMED} more differ"] * (len(shapes) > _NAMED)
    said += [f"it lacks {_few(lacking)}"] * bool(lacking) + [f"it has {_few(further)}, unknown here"] * bool(further)
    stem = "conv1.weight"
    if stem in own and stem in state and _shape(own[stem])[-3:] == "3x3" != _shape(state[stem])[-3:]:
        said.append(
            "ResNets have a smaller stem for images up to 64 px: ingest at more (ingest.image.size), or leave weights out"
        )
    return "; ".join(said)


def _shape(tensor: Any) -> str:
    return "x".join(map(str, getattr(tensor, "shape", ()))) or "no tensor"


def _few(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
