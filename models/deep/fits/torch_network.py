"""The network in torch, for training only: RepL's shape in small, since its widths are not public.

Ids, position bucket and hour each have an embedding; with the log price and the standardised features they go
through a first layer, which is sparse in effect (the sum of one product row a field), then a hidden layer,
then a linear head.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from models.deep.kinds.network import SLOPE


class Network(nn.Module):
    """``rows[f]`` is the number of embedding rows of field f; row 0 of an id field is the unknown id.
    ``dense``: columns of numbers.

    Embeddings start at zero, so that a row that training never saw adds nothing. ``center`` (d,), zero while
    training, is taken off the hidden units.
    """

    center: torch.Tensor

    def __init__(
        self,
        rows: Sequence[int],
        id_fields: int,
        dense: int,
        embedding_size: int,
        layer_size: int,
        hidden_size: int,
        dropout: float,
        base_rate: float,
    ) -> None:
        super().__init__()
        self.embeddings = nn.ModuleList(
            nn.Embedding(count, embedding_size, padding_idx=0 if k < id_fields else None)
            for k, count in enumerate(rows)
        )
        for embedding in self.embeddings:
            nn.init.zeros_(embedding.weight)  # type: ignore[arg-type]
        self.layer_1 = nn.Linear(embedding_size * len(rows) + dense, layer_size)
        self.layer_2 = nn.Linear(layer_size, hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.activation = nn.LeakyReLU(SLOPE)
        self.register_buffer("center", torch.zeros(hidden_size))
        self.head = nn.Linear(hidden_size, 1)
        nn.init.constant_(self.head.bias, float(torch.logit(torch.tensor(base_rate, dtype=torch.float64))))

    def hidden(self, index: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
        """(n, d) from row numbers ``index`` (n, fields) and numbers ``dense`` (n, c)."""
        parts = [embedding(index[:, k]) for k, embedding in enumerate(self.embeddings)]
        layer = self.dropout(self.activation(self.layer_1(torch.cat([*parts, dense], dim=1))))
        hidden: torch.Tensor = self.activation(self.layer_2(layer)) - self.center
        return hidden

    def forward(self, index: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
        """Log odds of a click (n,)."""
        logits: torch.Tensor = self.head(self.hidden(index, dense))
        return logits[:, 0]
