"""Train the network: as many steps as help on the newest part of the log, then as many on all of it."""

from __future__ import annotations

import copy
from collections.abc import Container
from dataclasses import dataclass
from math import cos, pi

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from features.hashing import Keys
from models.deep.fields import (
    HOURS,
    NUMBERS,
    POSITION_BUCKETS,
    hours,
    keys,
    position_buckets,
    scaled_log_price,
)
from models.deep.fits.torch_network import Network
from models.deep.fitted import SAME_SCORE, Fitted, Options, auc
from models.deep.kinds.network import Settings, rank
from models.deep.manifest import Reads
from models.deep.samples import Samples, frequent_ids, log_prices, scaling, varying_numbers
from models.deep.trunk import LARGEST_NORMALISED

HIDDEN_SIZE = 32
EPOCHS = 12
EMBEDDING_SIZE = 8
LAYER_SIZE = 128
LEARNING_RATE = 3e-3
#: Decoupled from the gradient: with the coupled kind, rare clicks in a short log switched every unit off.
WEIGHT_DECAY = 1e-2
#: Embeddings learn slower and towards zero. Adam moves a rare id as far as a frequent one; coupled with the
#: gradient, the pull to zero outweighs what a few impressions say.
EMBEDDING_RATE, EMBEDDING_L2 = 1e-3, 5e-5
DROPOUT = 0.1
#: The chance that an id is hidden while training, so that unknown ids score sanely.
ID_DROPOUT = 0.3
#: Steps an epoch, where the batch size lets it; a short log is read in small batches. On rows of the log that
#: were not trained on, half of this largest batch was no better, and twice as much worse.
STEPS_PER_EPOCH, LEAST_BATCH, LARGEST_BATCH = 128, 64, 512
#: Validation runs this many times an epoch; training stops after ``PATIENCE`` runs without progress.
CHECKS_PER_EPOCH, PATIENCE = 2, 6
#: What is kept is trained as long as cost at most this share of what training gained: a schedule that is
#: followed to its end gains more in its last steps than one of fewer checks can tell.
NEAR = 0.01
#: A hidden unit's standard deviation over its root mean square; below, it counts as constant.
LEAST_SPREAD = 0.05


@dataclass(frozen=True)
class Encoder:
    """How samples become rows and numbers. ``ids[field]``: sorted trained keys; their row is 1 + rank."""

    reads: Reads
    ids: dict[str, Keys]

    @property
    def looked_up(self) -> list[str]:
        """Fields with an embedding, in the order of ``index``' columns."""
        return [*self.ids, *(f for f in ("position", "hour") if f in self.reads.fields)]

    @property
    def rows(self) -> list[int]:
        """Embedding rows of each."""
        sizes = {"position": POSITION_BUCKETS, "hour": HOURS}
        return [sizes[f] if f in sizes else 1 + len(self.ids[f]) for f in self.looked_up]

    @property
    def dense_size(self) -> int:
        """Columns of numbers: the log price where it is read, and the features."""
        return ("price" in self.reads.fields) + len(self.reads.features)

    def index(self, samples: Samples) -> torch.Tensor:
        """Row numbers (n, fields)."""
        n, columns = len(samples), samples.columns
        parts: list[npt.NDArray[np.intp]] = []
        for field in self.looked_up:
            if field == "position":
                parts.append(position_buckets(columns["position"]))
            elif field == "hour":
                parts.append(hours(columns["event_time"]))
            else:
                parts.append(rank(self.ids[field], keys(columns, field, n), 1))
        stacked = np.stack(parts, axis=1) if parts else np.zeros((n, 0))
        return torch.from_numpy(stacked.astype(np.int64))

    def dense(self, samples: Samples) -> torch.Tensor:
        """Numbers (n, c) float32, standardised."""
        reads = self.reads
        out = np.empty((len(samples), self.dense_size), dtype=np.float32)
        start = int("price" in reads.fields)
        if start:
            out[:, 0] = scaled_log_price(samples.columns["price"], reads.price_mean, reads.price_scale)
        if reads.features:
            mean, scale = (np.array(given, np.float32) for given in (reads.feature_mean, reads.feature_scale))
            scaled = (samples.features - mean) / scale
            out[:, start:] = np.clip(scaled, -LARGEST_NORMALISED, LARGEST_NORMALISED)
        return torch.from_numpy(out)


def fit(samples: Samples, options: Options) -> Fitted:
    """Deterministic for one seed and torch version; runs on one thread.

    The newest ``validation_share`` of the rows says how many steps are best, none among them, and, where
    there are features, whether columns help beside them. The network that is kept is then trained that long
    on all rows.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            return _fit(samples, options)
    finally:
        torch.set_num_threads(threads)


def _fit(samples: Samples, options: Options) -> Fitted:
    train, valid = samples.held_out(options.validation_share)
    tried = [_Run(encoder, train, options).train(valid) for encoder in encoders(train)]
    found = min(tried, key=lambda run: run.best_loss)
    with torch.no_grad():
        scores = found.network(found.encoder.index(valid), found.encoder.dense(valid)).numpy()
    # What is kept reads what all rows can teach.
    encoder = choose_encoder(samples, found.encoder.reads.fields)
    run = _Run(encoder, samples, options).train(share=found.best_share)
    network = run.network
    standardise(network, run.index, run.dense)
    with torch.no_grad():
        all_scores = network(run.index, run.dense).numpy()
    return Fitted(
        kind="network",
        hidden_size=network.layer_2.out_features,
        reads=encoder.reads,
        settings=Settings(
            embedding_size=EMBEDDING_SIZE, layer_size=LAYER_SIZE, position_buckets=POSITION_BUCKETS
        ),
        tensors=_tensors(network, encoder),
        epochs=round(found.best_share * run.epochs),
        validation_rows=len(valid),
        validation_clicks=int(valid.clicked.sum()),
        validation_auc=auc(scores, valid.clicked),
        validation_log_loss=found.best_loss,
        constant=float(np.ptp(all_scores)) < SAME_SCORE,
        library=f"torch {torch.__version__}",
    )


class _Run:
    """One training from the seed's beginning."""

    def __init__(self, encoder: Encoder, samples: Samples, options: Options) -> None:
        torch.manual_seed(options.seed)
        self.epochs = options.epochs or EPOCHS
        self.encoder = encoder
        self.index, self.dense = encoder.index(samples), encoder.dense(samples)
        self._clicked = torch.from_numpy(samples.clicked.astype(np.float32))
        self._batch = min(max(len(samples) // STEPS_PER_EPOCH, LEAST_BATCH), LARGEST_BATCH)
        self.network = Network(
            encoder.rows,
            len(encoder.ids),
            encoder.dense_size,
            EMBEDDING_SIZE,
            LAYER_SIZE,
            options.hidden_size or HIDDEN_SIZE,
            DROPOUT,
            samples.base_rate,
        )
        self.best_share, self.best_loss = 0.0, float("inf")

    def train(self, valid: Samples | None = None, share: float = 1.0) -> _Run:
        """All epochs, or that share of them; with ``valid``, back to the best step at the end."""
        n, batch, ids = len(self._clicked), self._batch, len(self.encoder.ids)
        batches = -(-n // batch)
        steps = round(share * self.epochs * batches)
        check_every = max(1, batches // CHECKS_PER_EPOCH)
        embeddings = list(self.network.embeddings.parameters())
        layers = [p for name, p in self.network.named_parameters() if not name.startswith("embeddings.")]
        optimizers: list[tuple[torch.optim.Optimizer, float]] = [
            (torch.optim.AdamW(layers, weight_decay=WEIGHT_DECAY), LEARNING_RATE)
        ]
        if embeddings:
            optimizers.append((torch.optim.Adam(embeddings, weight_decay=EMBEDDING_L2), EMBEDDING_RATE))
        loss = nn.BCEWithLogitsLoss()
        check = _Check(self.encoder, valid) if valid is not None else None
        best, stale = copy.deepcopy(self.network.state_dict()), 0
        losses: list[tuple[float, float]] = []
        if check is not None:
            self.best_loss = check(self.network)
            losses.append((0.0, self.best_loss))
        self.network.train()
        order = torch.empty(0, dtype=torch.int64)
        for step in range(steps):
            at = step % batches * batch
            if at == 0:
                order = torch.randperm(n)
            rows = order[at : at + batch]
            seen = self.index[rows]
            seen[:, :ids].masked_fill_(torch.rand(len(rows), ids) < ID_DROPOUT, 0)
            self.network.zero_grad()
            loss(self.network(seen, self.dense[rows]), self._clicked[rows]).backward()
            for optimizer, rate in optimizers:
                # Down to zero along a cosine (Loshchilov & Hutter 2017): no average of weights is needed.
                optimizer.param_groups[0]["lr"] = rate * 0.5 * (1.0 + cos(pi * step / steps))
                optimizer.step()
            if check is not None and (step + 1) % check_every == 0:
                now = check(self.network)
                losses.append(((step + 1) / steps, now))
                if now < self.best_loss:
                    best, stale = copy.deepcopy(self.network.state_dict()), 0
                    self.best_loss = now
                else:
                    stale += 1
                if stale >= PATIENCE:
                    break
        if check is not None:
            self.network.load_state_dict(best)
            near = self.best_loss + NEAR * (losses[0][1] - self.best_loss)
            self.best_share = max(share for share, found in losses if found <= near)
        self.network.eval()
        return self


class _Check:
    """The log loss of rows that are not trained on."""

    def __init__(self, encoder: Encoder, valid: Samples) -> None:
        self._index, self._dense = encoder.index(valid), encoder.dense(valid)
        self._clicked = torch.from_numpy(valid.clicked.astype(np.float64))

    def __call__(self, network: Network) -> float:
        network.eval()
        with torch.no_grad():
            logits = network(self._index, self._dense).double()
        network.train()
        return float(nn.functional.binary_cross_entropy_with_logits(logits, self._clicked))


def encoders(samples: Samples) -> list[Encoder]:
    """What may be read: all that can teach, and features alone: what ids and context say is often learned by
    heart (a user of one list, a city of one user) where features tell the same of everybody."""
    everything = choose_encoder(samples)
    if not samples.feature_names or not everything.reads.fields:
        return [everything]
    return [everything, choose_encoder(samples, ())]


def choose_encoder(samples: Samples, allowed: Container[str] | None = None) -> Encoder:
    """Read what the log can teach: columns that vary, and ids that were seen often enough.

    ``allowed``: the columns that may be read beside features; None: all.
    """
    ids, numbers = frequent_ids(samples), varying_numbers(samples)
    if allowed is not None:
        ids = {name: trained for name, trained in ids.items() if name in allowed}
        numbers = [name for name in numbers if name in allowed]
    if not ids and not numbers and not samples.feature_names:
        # A network without any input would be its bias; item_id costs nothing and unknown ids are allowed.
        ids = {"item_id": np.zeros(0, dtype=np.uint64)}
    price = scaling(log_prices(samples.columns)[:, None]) if "price" in numbers else None
    normal = scaling(samples.features)
    reads = Reads(
        fields=[*ids, *numbers],
        price_mean=float(price.mean[0]) if price else 0.0,
        price_scale=float(price.scale[0]) if price else 1.0,
        features=list(samples.feature_names),
        features_hash=samples.features_hash,
        feature_mean=normal.mean.tolist(),
        feature_scale=normal.scale.tolist(),
    )
    return Encoder(reads, ids)


def standardise(network: Network, index: torch.Tensor, dense: torch.Tensor) -> None:
    """Give hidden units mean 0 and standard deviation 1; the head makes up for it, the function stays.

    One prior precision then means the same for every unit and trunk, and the bias alone moves the level. A
    unit that hardly varies beside its size is not blown up: its noise would outweigh the units that learned.
    """
    with torch.no_grad():
        hidden = network.hidden(index[-50_000:], dense[-50_000:])
        mean, spread = hidden.mean(dim=0), hidden.std(dim=0, correction=0)
        least = LEAST_SPREAD * torch.sqrt(mean**2 + spread**2)
        scale = torch.where(spread > 1e-6, 1.0 / torch.maximum(spread, least), torch.ones_like(spread))
        network.layer_2.weight.mul_(scale[:, None])
        network.layer_2.bias.mul_(scale)
        network.center.copy_(mean * scale)
        network.head.weight.div_(scale)
        network.head.bias.add_(network.head.weight @ network.center)


def _tensors(network: Network, encoder: Encoder) -> dict[str, npt.NDArray[np.generic]]:
    state = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    tensors: dict[str, npt.NDArray[np.generic]] = {
        name: state[name] for name in ("layer_1.weight", "layer_1.bias", "layer_2.weight", "layer_2.bias")
    }
    tensors["layer_2.center"] = state["center"]
    tensors["head.weight"], tensors["head.bias"] = state["head.weight"][0], state["head.bias"]
    for k, field in enumerate(encoder.looked_up):
        rows = state[f"embeddings.{k}.weight"]
        tensors[f"embedding.{field}"] = rows if field in NUMBERS else rows[1:]
    for field, trained in encoder.ids.items():
        tensors[f"keys.{field}"] = trained
    return tensors
