"""The tokenizer: CLIP's byte-level BPE, its merges learned from the captions; read by transformers 4 and 5."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from tools.small_sdxl.architecture import TOKENS, VOCABULARY
from tools.small_sdxl.captions import describe
from tools.small_sdxl.scenes import random_scene

START: Final = "<|startoftext|>"
END: Final = "<|endoftext|>"
PATTERN: Final = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)


def _dress(tokenizer: Tokenizer) -> None:
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()


def _captions(count: int, seed: int) -> Iterator[str]:
    rng = random.Random(seed)
    for _ in range(count):
        yield describe(random_scene(rng), rng)


def train_tokenizer(captions: int = 30_000, seed: int = 11) -> Tokenizer:
    """Learn the merges and return the finished tokenizer.

    The vocabulary is in CLIP's order: bytes, bytes that end a word, merges, start and end.
    """
    learner = Tokenizer(models.BPE(continuing_subword_prefix="", end_of_word_suffix="</w>"))
    _dress(learner)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
    )
    learner.train_from_iterator(_captions(captions, seed), trainer)
    learned: list[list[str]] = json.loads(learner.to_str())["model"]["merges"]
    vocabulary: dict[str, int] = {}
    for token in [*alphabet, *(letter + "</w>" for letter in alphabet)]:
        vocabulary[token] = len(vocabulary)
    merges = []
    for pair in learned:
        if len(vocabulary) == VOCABULARY - 2:
            break
        first, second = pair
        if first in vocabulary and second in vocabulary:
            merges.append((first, second))
            vocabulary.setdefault(first + second, len(vocabulary))
    while len(vocabulary) < VOCABULARY - 2:
        vocabulary[f"<|unused{len(vocabulary)}|>"] = len(vocabulary)
    vocabulary[START], vocabulary[END] = VOCABULARY - 2, VOCABULARY - 1
    return _build(vocabulary, merges)


def _build(vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> Tokenizer:
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges, continuing_subword_prefix="", end_of_word_suffix="</w>", unk_token=END)
    )
    _dress(tokenizer)
    tokenizer.add_special_tokens([START, END])
    tokenizer.post_processor = processors.RobertaProcessing(
        (END, VOCABULARY - 1), (START, VOCABULARY - 2), add_prefix_space=False, trim_offsets=False
    )
    return tokenizer


def encode(tokenizer: Tokenizer, captions: list[str]) -> list[list[int]]:
    """Token ids of each caption, cut and padded to the encoders' length as the pipeline does it."""
    rows = []
    for encoding in tokenizer.encode_batch(captions):
        ids = encoding.ids
        if len(ids) > TOKENS:
            ids = [*ids[: TOKENS - 1], VOCABULARY - 1]
        rows.append(ids + [VOCABULARY - 1] * (TOKENS - len(ids)))
    return rows


def empty_caption() -> list[int]:
    """Token ids of the empty caption."""
    return [VOCABULARY - 2] + [VOCABULARY - 1] * (TOKENS - 1)


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write the files of a CLIPTokenizer, in the layouts of transformers 4 and 5 both."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    model = json.loads(tokenizer.to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    config: dict[str, Any] = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": TOKENS,
        "bos_token": START,
        "eos_token": END,
        "unk_token": END,
        "pad_token": END,
        "do_lower_case": True,
        "add_prefix_space": False,
        "errors": "replace",
        "clean_up_tokenization_spaces": True,
        "added_tokens_decoder": {
            str(index): {
                "content": token, "lstrip": False, "normalized": False,
                "rstrip": False, "single_word": False, "special": True,
            }
            for index, token in ((VOCABULARY - 2, START), (VOCABULARY - 1, END))
        },
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    tokens = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    (folder / "special_tokens_map.json").write_text(json.dumps(tokens, indent=2) + "\n")
