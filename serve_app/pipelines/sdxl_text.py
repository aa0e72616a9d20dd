"""Text encoding of SDXL: two CLIP encoders, long prompts in chunks, a bounded cache."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch

from serve_app.errors import UnsupportedRequest

MAX_PROMPT_TOKENS = 128 * 75
"""Most tokens of a text, where chunks are possible. The ten thousand characters of a prompt may be forty thousand
tokens (emoji are four each), for which the encoders of a full-size SDXL take 4 GB, and on a CPU minutes in which all
others wait."""


@dataclass(frozen=True, slots=True)
class TextEmbedding:
    """One encoded text.

    Attributes:
        tokens: (chunks * window, channels), both encoders side by side.
        pooled: (projection channels,) of the second encoder's first chunk.
    """

    tokens: torch.Tensor
    pooled: torch.Tensor

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        return self.tokens.nbytes + self.pooled.nbytes


class TextEncoder:
    """Encodes prompts as `StableDiffusionXLPipeline` does, and longer ones in chunks as A1111 does.

    A text that fits into the encoders' window (77 tokens with its two marks) is encoded exactly as in stock. A
    longer one is cut into chunks of 75 tokens, each encoded alone between its own marks, and the chunks lie one
    after another along the sequence; the pooled embedding is the first chunk's. Weighting syntax is plain text.

    Args:
        tokenizers: One per encoder.
        encoders: CLIP encoders; the last one has a projection.
        zero_for_empty: An empty negative prompt is all zeros (the model's ``force_zeros_for_empty_prompt``).
        device: Where the encoders are.
        max_tokens: Most tokens of a text without its marks, or None for any number.
        cache_bytes: Bound of the cache of encoded texts.
    """

    def __init__(
        self,
        tokenizers: list[Any],
        encoders: list[Any],
        *,
        zero_for_empty: bool,
        device: torch.device,
        max_tokens: int | None = None,
        cache_bytes: int = 64 * 1024**2,
    ) -> None:
        self._parts = list(zip(tokenizers, encoders, strict=True))
        self._zero_for_empty = zero_for_empty
        self._device = device
        self._max_tokens = max_tokens
        self._cache_bytes = cache_bytes
        self._cache: OrderedDict[str, TextEmbedding] = OrderedDict()
        self._cached_bytes = 0
        self._lock = threading.Lock()
        # Some tokenizers carry no limit of their own; the position embeddings always do.
        self._windows = [
            min(tokenizer.model_max_length, encoder.config.max_position_embeddings)
            for tokenizer, encoder in self._parts
        ]

    def prompt(self, text: str, field: str = "prompt") -> TextEmbedding:
        """The embedding of `text`, from the cache where it was encoded before.

        Args:
            text: The text.
            field: Which field of the request it is.

        Raises:
            UnsupportedRequest: It is longer than the encoders can take here.
        """
        with self._lock:
            known = self._cache.get(text)
            if known is not None:
                self._cache.move_to_end(text)
                return known
        embedding = self._encode(text, field)
        with self._lock:
            if embedding.nbytes <= self._cache_bytes and text not in self._cache:
                self._cache[text] = embedding
                self._cached_bytes += embedding.nbytes
            while self._cached_bytes > self._cache_bytes:
                _, oldest = self._cache.popitem(last=False)
                self._cached_bytes -= oldest.nbytes
        return embedding

    def pair(self, prompt: str, negative_prompt: str) -> tuple[TextEmbedding, TextEmbedding]:
        """(negative, prompt), with equally many tokens.

        The shorter one is filled up with chunks of the empty text, as A1111 does.

        Raises:
            UnsupportedRequest: One of them is longer than the encoders can take here.
        """
        positive = self.prompt(prompt)
        if not negative_prompt and self._zero_for_empty:
            return TextEmbedding(
                torch.zeros_like(positive.tokens), torch.zeros_like(positive.pooled)
            ), positive
        negative = self.prompt(negative_prompt, "negative_prompt")
        length = max(len(positive.tokens), len(negative.tokens))
        return self._filled(negative, length), self._filled(positive, length)

    def _filled(self, embedding: TextEmbedding, length: int) -> TextEmbedding:
        missing = length - len(embedding.tokens)
        if not missing:
            return embedding
        empty = self.prompt("").tokens
        return TextEmbedding(
            torch.cat([embedding.tokens, empty.repeat(missing // len(empty), 1)]), embedding.pooled
        )

    def _encode(self, text: str, field: str) -> TextEmbedding:
        ids = [tokenizer(text, add_special_tokens=False).input_ids for tokenizer, _ in self._parts]
        tokens_in_text = max(len(part) for part in ids)
        if self._max_tokens is not None and tokens_in_text > self._max_tokens:
            raise UnsupportedRequest(
                field,
                f"{tokens_in_text} tokens are too many for this pool; allowed: at most {self._max_tokens}",
            )
        # Both encoders get equally many chunks, or their embeddings could not lie side by side.
        chunks = max(
            max(1, -(-len(part) // (window - 2))) for part, window in zip(ids, self._windows, strict=True)
        )
        tokens, pooled = [], None
        for (tokenizer, encoder), part, window in zip(self._parts, ids, self._windows, strict=True):
            rows = [_chunk(tokenizer, part, index, window) for index in range(chunks)]
            output = encoder(torch.tensor(rows, device=self._device), output_hidden_states=True)
            tokens.append(output.hidden_states[-2].flatten(0, 1))
            if output[0].ndim == 2:  # only the encoder with a projection answers pooled embeddings first
                pooled = output[0][0]
        if pooled is None:
            raise ValueError("none of the text encoders has a projection: this is not an SDXL model")
        return TextEmbedding(torch.cat(tokens, dim=-1), pooled)


def _chunk(tokenizer: Any, ids: list[int], index: int, window: int) -> list[int]:
    """Chunk `index` between its marks, padded to `window` as the tokenizer itself would."""
    size = window - 2
    marked = [tokenizer.bos_token_id, *ids[index * size : (index + 1) * size], tokenizer.eos_token_id]
    return marked + [tokenizer.pad_token_id] * (window - len(marked))
