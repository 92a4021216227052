"""Weights files: safetensors whose metadata holds a hash of the tensors."""

import hashlib
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from nmtcli.data.files import QUICK_BYTES, size_of_regular
from nmtcli.data.files import write_whole as write_whole
from nmtcli.errors import DirectoryError
from nmtcli.model.seq2seq import Seq2Seq


def unique_state(model: Seq2Seq) -> dict[str, Tensor]:
    """Return a model's parameters, keyed by name; tied parameters appear once."""
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def weights_bytes(model: Seq2Seq) -> bytes:
    """Return a model's weights as the bytes of a weights file."""
    return tensors_bytes(unique_state(model), {})  # no further metadata keys: their order varies between processes


def tensors_bytes(tensors: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    """Return tensors and metadata as the bytes of a safetensors file; add the hash of the tensors as `sha256`."""
    contiguous = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    return bytes(safetensors.torch.save(contiguous, {**metadata, "sha256": _sha256_of(contiguous)}))


def _sha256_of(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data if value.numel() else b"")
    return digest.hexdigest()


def read_tensors(path: Path, *, verify: bool = False) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors and the metadata of a safetensors file.

    Args:
        verify: if True, check the hash of the tensors whatever the size of the file; by default, check it only for
            files of at most QUICK_BYTES. Files written by early versions have no hash and are not checked.
    Raises:
        DirectoryError: the file is missing, truncated or not a safetensors file, or its tensors do not match the hash.
    """
    size = size_of_regular(path, "Train the model first, or copy it again")
    tensors, metadata = _read_tensors(path)
    if (verify or size <= QUICK_BYTES) and metadata.get("sha256", "") not in ("", _sha256_of(tensors)):
        raise DirectoryError(f"{path} is damaged: its tensors do not match their hash", "Copy it again")
    return tensors, metadata


def _read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            return tensors, dict(file.metadata() or {})
    except (safetensors.SafetensorError, OSError, ValueError, RuntimeError, KeyError) as error:
        raise DirectoryError(f"{path} is damaged or cut short ({error})", "Copy it again") from error


def load_weights(model: Seq2Seq, weights: dict[str, Tensor], path: Path) -> None:
    """Check the names and shapes of weights with `check_shapes`, then copy them into a model."""
    check_shapes(model, weights, path)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name])


def check_shapes(model: Seq2Seq, weights: dict[str, Tensor], path: Path) -> None:
    """Check that the names and shapes of weights match the parameters of a model.

    Args:
        path: file that the weights come from, for error messages.
    Raises:
        DirectoryError: a name is missing or unknown, or a shape differs.
    """
    parameters = dict(model.named_parameters())
    if missing := sorted(set(parameters) ^ set(weights)):
        raise DirectoryError(f"{path} does not fit the model: `{missing[0]}` is on one side only", "Copy it again")
    for name, parameter in parameters.items():
        if parameter.shape != weights[name].shape:
            raise DirectoryError(
                f"{path} does not fit the model: `{name}` is {tuple(weights[name].shape)}, "
                f"not {tuple(parameter.shape)}",
                "Use data with the same vocabulary and the same model options",
            )
