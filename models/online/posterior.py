"""Gaussian posteriors between a learner, the weights message, and the merge of several workers."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from contracts.weights import Head, WeightsError
from models.online.codec import FloatArray


class Posterior(NamedTuple):
    """Gaussian over p weights: ``mean`` (p,), ``precision`` (p, p), and the same of its prior."""

    mean: FloatArray
    precision: FloatArray
    prior_mean: FloatArray
    prior_precision: FloatArray


def to_head(posterior: Posterior) -> Head:
    """The posterior as it stands in a weights message; ``from_head`` gives it back bit for bit."""
    return Head(
        mean=posterior.mean.tolist(),
        prior_mean=posterior.prior_mean.tolist(),
        prior_precision=_to_text(posterior.prior_precision),
        precision=_to_text(posterior.precision),
    )


def from_head(head: Head) -> Posterior:
    """Read a head. Raises ``WeightsError`` where lengths differ or a number is not finite."""
    p = len(head.mean)
    if len(head.prior_mean) != p:
        raise WeightsError("a head's mean and prior_mean must have one length")
    read = Posterior(
        np.array(head.mean, dtype=np.float64),
        _from_text(head.precision, "precision", p),
        np.array(head.prior_mean, dtype=np.float64),
        _from_text(head.prior_precision, "prior_precision", p),
    )
    if not all(np.isfinite(array).all() for array in read):
        raise WeightsError("a head is not finite")
    return read


def merge(heads: Sequence[Head]) -> tuple[FloatArray, FloatArray]:
    """(mean (p,), precision (p, p)) of what the workers learned together.

    Natural parameters of independent evidence add beyond the shared prior:
    ``Lambda = Lambda0 + sum (Lambda_k - Lambda0)``, ``eta = eta0 + sum (eta_k - eta0)``. This is what one
    worker would have learned from all samples, exactly so where each batch is linearised at the same
    weights. One head comes back bit for bit. Raises ``WeightsError`` where the priors differ.
    """
    if not heads:
        raise WeightsError("nothing to merge: no heads")
    posteriors = [from_head(head) for head in heads]
    first = posteriors[0]
    if len(posteriors) == 1:
        return first.mean, first.precision
    prior, prior_eta = first.prior_precision, first.prior_precision @ first.prior_mean
    precision, eta = prior.copy(), prior_eta.copy()
    for posterior in posteriors:
        same = np.array_equal(posterior.prior_mean, first.prior_mean) and np.array_equal(
            posterior.prior_precision, first.prior_precision
        )
        if not same:
            raise WeightsError("heads with different priors cannot be merged")
        precision += posterior.precision - prior
        eta += posterior.precision @ posterior.mean - prior_eta
    try:
        mean = np.linalg.solve(precision, eta).astype(np.float64)
    except np.linalg.LinAlgError as error:
        raise WeightsError("the merged precision is singular") from error
    return mean, precision


def _to_text(matrix: FloatArray) -> str:
    return base64.b64encode(pack_triangle(matrix).astype("<f8").tobytes()).decode("ascii")


def _from_text(text: str, what: str, p: int) -> FloatArray:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise WeightsError(f"a head's {what} is not base64: {error}") from error
    if len(data) != 8 * (p * (p + 1) // 2):
        raise WeightsError(f"a head's {what} has {len(data)} bytes; {p} weights need {4 * p * (p + 1)}")
    return unpack_triangle(np.frombuffer(data, dtype="<f8").astype(np.float64), p)


def pack_triangle(matrix: FloatArray) -> FloatArray:
    """Upper triangle of a symmetric (p, p), row-major: (p (p + 1) / 2,).

    >>> pack_triangle(np.array([[1.0, 2.0], [2.0, 3.0]])).tolist()
    [1.0, 2.0, 3.0]
    """
    packed: FloatArray = matrix[_upper(len(matrix))]
    return packed


def unpack_triangle(triangle: FloatArray, p: int) -> FloatArray:
    """Inverse of ``pack_triangle``."""
    matrix = np.empty((p, p))
    rows, columns = _upper(p)
    matrix[rows, columns] = triangle
    matrix[columns, rows] = triangle
    return matrix


@cache
def _upper(p: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    rows, columns = np.triu_indices(p)
    return rows, columns
