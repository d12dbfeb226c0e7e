"""From a folder to a trunk: the manifest names the kind, and a kind is a file in ``models/deep/kinds/``."""

from __future__ import annotations

import hashlib
import importlib
import pkgutil
from os import PathLike
from pathlib import Path

from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors

import models.deep.kinds
from models.deep.manifest import WEIGHTS_FILE, Manifest, TrunkError, read_manifest
from models.deep.trunk import EVIDENCE, Tensors, Trunk, check_tensors


def kinds() -> list[str]:
    """The kinds of trunk that there are.

    >>> kinds()
    ['network', 'trees']
    """
    return sorted(module.name for module in pkgutil.iter_modules(models.deep.kinds.__path__))


def load_trunk(folder: str | PathLike[str]) -> Trunk:
    """Read and check a folder that ``surgeline train`` wrote. Raises ``TrunkError``."""
    manifest = read_manifest(Path(folder))
    if manifest.kind not in kinds():
        raise TrunkError(f"{folder}: a trunk of kind {manifest.kind!r}; there are {', '.join(kinds())}")
    path = Path(folder) / WEIGHTS_FILE
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TrunkError(f"{path}: cannot be read: {error.strerror}") from error
    if hashlib.sha256(data).hexdigest() != manifest.weights_sha256:
        raise TrunkError(f"{path}: its sha256 is not the manifest's; the file is damaged or of another trunk")
    try:
        tensors: Tensors = load_tensors(data)
    except SafetensorError as error:
        raise TrunkError(f"{path}: not a safetensors file: {error}") from error
    return build(manifest, tensors, path)


def build(manifest: Manifest, tensors: Tensors, path: Path) -> Trunk:
    """The trunk of a manifest and its tensors (of ``path``). Raises ``TrunkError`` where they do not fit."""
    size = 1 + manifest.hidden_size + len(manifest.reads.features)
    if EVIDENCE in tensors:
        check_tensors(tensors, {EVIDENCE: (size, size)}, path)
    kind = importlib.import_module(f"models.deep.kinds.{manifest.kind}")
    trunk: Trunk = kind.build(manifest, tensors, path)
    return trunk
