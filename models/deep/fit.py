"""Train a trunk and export it: Adam, id dropout, early stopping on the newest part of the log."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import save as save_tensors
from torch import nn

from models.deep.fields import POSITION_BUCKETS
from models.deep.manifest import (
    MANIFEST_FILE,
    SCHEMA_VERSION,
    WEIGHTS_FILE,
    Manifest,
    Training,
)
from models.deep.network import Network
from models.deep.samples import Encoder, Samples, choose_encoder

EMBEDDING_SIZE = 8
LAYER_SIZE = 64
#: A hidden unit's standard deviation over its root mean square; below, it counts as constant.
LEAST_SPREAD = 0.05
#: Log odds that differ by less over all rows are one score with rounding.
SAME_SCORE = 1e-4


@dataclass(frozen=True)
class Options:
    """``id_dropout``: the chance that an id is hidden while training, so that unknown ids score sanely."""

    hidden_size: int = 32
    epochs: int = 20
    seed: int = 0
    batch_size: int = 512
    learning_rate: float = 1e-3
    weight_decay: float = 5e-5
    id_dropout: float = 0.3
    validation_share: float = 0.15
    #: Validation runs this many times an epoch; training stops after ``patience`` runs without progress.
    checks_per_epoch: int = 2
    patience: int = 4


@dataclass(frozen=True)
class Fitted:
    """A trained network, how it reads columns, and its figures on the newest part of the log."""

    network: Network
    encoder: Encoder
    epochs: int
    validation_rows: int
    validation_auc: float | None
    validation_log_loss: float
    validation_clicks: int
    #: Every row gets the same score: nothing that was read told clicks from no clicks.
    constant: bool


def fit(samples: Samples, options: Options) -> Fitted:
    """Deterministic for one seed and torch version; runs on one thread.

    The newest ``validation_share`` of the rows decides when to stop and is not trained on. The network
    that is kept is the one with the lowest validation log loss, the untrained one among them.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            return _fit(samples, options)
    finally:
        torch.set_num_threads(threads)


def _fit(samples: Samples, options: Options) -> Fitted:
    n = len(samples)
    head = n - max(1, int(n * options.validation_share)) if n > 1 else n
    train = samples.slice(0, head)
    valid = samples.slice(head, n) if head < n else train
    encoder = choose_encoder(train)
    index, price, clicked = _tensors(encoder, train)
    valid_index, valid_price, valid_clicked = _tensors(encoder, valid)
    # One pseudo-click, so that a log's training part without clicks still has a finite bias.
    base_rate = float((clicked.sum() + 1.0) / (len(clicked) + 2.0))
    network = Network(
        encoder.rows,
        len(encoder.buckets),
        "price" in encoder.fields,
        EMBEDDING_SIZE,
        LAYER_SIZE,
        options.hidden_size,
        base_rate,
    )
    optimizer = torch.optim.Adam(
        network.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay
    )
    loss = nn.BCEWithLogitsLoss()

    def validate() -> float:
        with torch.no_grad():
            return float(loss(network(valid_index, valid_price).double(), valid_clicked.double()))

    best, best_loss, stale, epochs = copy.deepcopy(network.state_dict()), validate(), 0, 0
    batches = -(-len(train) // options.batch_size)
    check_every = max(1, batches // options.checks_per_epoch)
    for epoch in range(options.epochs):
        order = torch.randperm(len(train))
        for batch in range(batches):
            rows = order[batch * options.batch_size : (batch + 1) * options.batch_size]
            seen = index[rows]
            hidden = torch.rand(len(rows), len(encoder.buckets)) < options.id_dropout
            seen[:, : len(encoder.buckets)].masked_fill_(hidden, 0)
            optimizer.zero_grad()
            loss(network(seen, price[rows]), clicked[rows]).backward()
            optimizer.step()
            if (batch + 1) % check_every == 0:
                now = validate()
                if now < best_loss:
                    best, best_loss, stale, epochs = (
                        copy.deepcopy(network.state_dict()),
                        now,
                        0,
                        epoch + 1,
                    )
                else:
                    stale += 1
        if stale >= options.patience:
            break
    network.load_state_dict(best)
    _standardise(network, index, price)
    with torch.no_grad():
        scores = network(valid_index, valid_price).numpy()
        constant = float(np.ptp(np.concatenate([scores, network(index, price).numpy()]))) < SAME_SCORE
    return Fitted(
        network,
        encoder,
        epochs,
        len(valid),
        auc(scores, valid.clicked),
        best_loss,
        int(valid.clicked.sum()),
        constant,
    )


def export(fitted: Fitted, folder: str | PathLike[str], training: Training) -> Manifest:
    """Write ``trunk.safetensors`` and ``manifest.json``. The same network gives the same trunk hash."""
    network, encoder = fitted.network, fitted.encoder
    state = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    tensors = {
        name: state[name] for name in ("layer_1.weight", "layer_1.bias", "layer_2.weight", "layer_2.bias")
    }
    tensors["layer_2.center"] = state["center"]
    tensors["head.weight"], tensors["head.bias"] = state["head.weight"][0], state["head.bias"]
    looked_up = [*encoder.buckets, *(f for f in ("position", "hour") if f in encoder.fields)]
    for k, field in enumerate(looked_up):
        rows = state[f"embeddings.{k}.weight"]
        if field in encoder.buckets:
            tensors[f"buckets.{field}"] = encoder.buckets[field]
            rows = rows[1:]
        tensors[f"embedding.{field}"] = rows
    data = save_tensors({name: np.ascontiguousarray(tensor) for name, tensor in sorted(tensors.items())})
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        weights_sha256=hashlib.sha256(data).hexdigest(),
        fields=encoder.fields,
        embedding_size=EMBEDDING_SIZE,
        layer_size=LAYER_SIZE,
        hidden_size=network.layer_2.out_features,
        position_buckets=POSITION_BUCKETS,
        price_mean=encoder.price_mean,
        price_scale=encoder.price_scale,
        training=training,
    )
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    # The manifest names the weights' hash, so a half-written pair is refused rather than used.
    (path / WEIGHTS_FILE).write_bytes(data)
    (path / MANIFEST_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
    return manifest


def auc(scores: npt.NDArray[np.floating], clicked: npt.NDArray[np.bool_]) -> float | None:
    """Exact AUC by ranks, ties counted half; None with one class only.

    >>> auc(np.array([0.1, 0.4, 0.4, 0.9]), np.array([False, False, True, True]))
    0.875
    """
    positives = int(clicked.sum())
    negatives = len(clicked) - positives
    if not positives or not negatives:
        return None
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - 0.5 * (counts - 1)
    won = ranks[inverse][clicked].sum() - positives * (positives + 1) / 2.0
    return float(won / (positives * negatives))


def _tensors(encoder: Encoder, samples: Samples) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    index = torch.from_numpy(encoder.index(samples.columns, len(samples)))
    price = torch.from_numpy(encoder.price(samples.columns, len(samples)))
    return index, price, torch.from_numpy(samples.clicked.astype(np.float32))


def _standardise(network: Network, index: torch.Tensor, price: torch.Tensor) -> None:
    """Give hidden units mean 0 and standard deviation 1; the head makes up for it, the function stays.

    One prior precision then means the same for every unit and trunk, and the bias alone moves the level. A
    unit that hardly varies beside its size is not blown up: its noise would outweigh the units that learned.
    """
    with torch.no_grad():
        hidden = network.hidden(index[-50_000:], price[-50_000:])
        mean, spread = hidden.mean(dim=0), hidden.std(dim=0, correction=0)
        least = LEAST_SPREAD * torch.sqrt(mean**2 + spread**2)
        scale = torch.where(spread > 1e-6, 1.0 / torch.maximum(spread, least), torch.ones_like(spread))
        network.layer_2.weight.mul_(scale[:, None])
        network.layer_2.bias.mul_(scale)
        network.center.copy_(mean * scale)
        network.head.weight.div_(scale)
        network.head.bias.add_(network.head.weight @ network.center)
