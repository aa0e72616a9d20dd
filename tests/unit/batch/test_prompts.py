"""The prompts file: its two formats, what names a line, and what is refused before anything is drawn."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.batch import PromptsInvalid, read_prompts
from serve_app.limits import MAX_SEED
from tests.unit.fuzzing import fuzzed


def test_text_has_a_prompt_per_line_and_options_fill_what_lines_leave_open() -> None:
    lines = read_prompts("a red fox\n\n  {a} blue boat \n", defaults={"priority": "batch", "width": 512})
    assert [(line.number, line.request["prompt"]) for line in lines] == [
        (1, "a red fox"),
        (3, "{a} blue boat"),
    ]
    assert all(line.request["width"] == 512 and line.request["priority"] == "batch" for line in lines)


def test_json_lines_say_fields_of_their_own() -> None:
    text = '{"prompt": "a fox", "seed": 0, "id": 7, "width": null}\n{"prompt": "a boat", "num_images": 2}'
    fox, boat = read_prompts(text, defaults={"width": 512})
    assert (fox.id, fox.request["seed"], fox.request["width"]) == ("7", 0, 512)
    assert fox.picture_name(0) == f"7-{fox.key[:12]}.png"
    assert boat.picture_name(1) == f"a-boat-{boat.key[:12]}-1.png"
    assert 0 <= boat.request["seed"] <= MAX_SEED


def test_a_line_keeps_its_key_when_others_come_and_an_edit_changes_it() -> None:
    before = read_prompts("a fox\na boat\n", defaults={})
    after = read_prompts("a star\na fox\na boat at sea\n", defaults={})
    assert after[1].key == before[0].key
    assert after[2].key != before[1].key
    assert read_prompts("a fox", defaults={"num_inference_steps": 5})[0].key != before[0].key
    assert read_prompts("a fox", defaults={"priority": "interactive"})[0].key == before[0].key


def test_only_what_ends_a_line_in_a_file_ends_one() -> None:
    inside = "a fox\u2028at\x0bnight\x85\x0c\x1cand\u2029day"
    (line,) = read_prompts(json.dumps({"prompt": inside}, ensure_ascii=False), defaults={})
    assert line.request["prompt"] == inside
    lines = read_prompts(f"{inside}\r\na boat\ra star\n\na tree", defaults={})
    assert [(line.number, line.request["prompt"]) for line in lines] == [
        *((1, inside), (2, "a boat"), (3, "a star"), (5, "a tree"))
    ]


def test_equal_lines_are_different_pictures() -> None:
    first, second = read_prompts("a fox\na fox\n", defaults={})
    assert first.key != second.key
    assert first.request["seed"] != second.request["seed"]
    assert first.idempotency_key(1) != first.idempotency_key(2)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("\n \n", "empty"),
        ('{"prompt": "a"}\n{"prompt"', "line 2: not JSON"),
        ('{"prompt": "a"}\n[1]', "line 2: not a JSON object"),
        ('{"prompt": "a", "step": 4}', "line 1: step: unknown; known are id, deadline_s"),
        ('{"promt": "a"}', "line 1: promt: unknown"),
        ('{"prompt": " "}', "line 1: prompt: must be text"),
        ('{"prompt": "a", "id": 1}\n{"prompt": "b", "id": "1"}', "line 2: id: '1' stands in line 1 too"),
        ('{"prompt": "a", "id": [1]}', "line 1: id: must be"),
        ('{"prompt": "a"}\n' + "[" * 100_000, "line 2: n"),
        ('{"prompt": "a"}\n{"prompt": "b", "guidance_scale": NaN}', "line 2: guidance_scale: must not be"),
        ('{"prompt": "a", "deadline_s": 1e400}', "line 1: deadline_s: must not be infinite"),
        ('{"prompt": "a\\ud83d"}', "line 1: prompt: holds half of a character"),
        ('{"prompt": "a", "id": "\\udc00"}', "line 1: id: holds half of a character"),
    ],
)
def test_what_is_no_prompts_file_is_refused_with_its_line(text: str, sentence: str) -> None:
    with pytest.raises(PromptsInvalid) as refusal:
        read_prompts(text, defaults={})
    assert sentence in str(refusal.value)


def test_every_wrong_line_is_named() -> None:
    with pytest.raises(PromptsInvalid) as refusal:
        read_prompts('{"prompt": "a"}\n' + "{}\n" * 30, defaults={})
    assert str(refusal.value).count("prompt: must be text") == 20
    assert "and 10 more" in str(refusal.value)


@fuzzed(100)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1))
def test_any_prompts_give_names_that_differ_and_are_safe(prompts: list[str]) -> None:
    text = "\n".join(json.dumps({"prompt": f"x{prompt}"}) for prompt in prompts)
    lines = read_prompts(text, defaults={})
    names = {line.picture_name(0) for line in lines}
    assert len(names) == len({line.key for line in lines}) == len(prompts)
    assert all(name.isascii() and "/" not in name and not name.startswith((".", "-")) for name in names)
