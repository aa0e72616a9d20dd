"""Settings: sources, refusals, and that every one of them is documented."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from serve_app import haproxy
from serve_app.errors import ConfigurationError
from serve_app.haproxy import SWITCH, haproxy_environment
from serve_app.ray_environment import ONE_NODE, environment_for_ray, environment_of_one_service
from serve_app.settings import (
    AccessSettings,
    CallerLimits,
    CpuSettings,
    CudaSettings,
    JobsSettings,
    PoolSettings,
    SafetySettings,
    Settings,
    StoreSettings,
    read_settings_file,
)

DOCUMENT = Path(__file__).parents[2] / "docs" / "settings.md"
POOLS = DOCUMENT.with_name("pools.md")


@pytest.mark.parametrize(
    ("kind", "heading"),
    [
        (Settings, "Application"),
        (PoolSettings, "A pool"),
        (CudaSettings, "The accelerator cuda"),
        (CpuSettings, "The accelerator cpu"),
        (StoreSettings, "The store"),
        (JobsSettings, "Jobs"),
        (SafetySettings, "Safety"),
        (AccessSettings, "Access"),
        (CallerLimits, "Limits of a caller"),
    ],
)
def test_every_setting_is_documented_with_its_default(kind: type[BaseModel], heading: str) -> None:
    section = DOCUMENT.read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", section, flags=re.M))
    assert set(rows) == set(kind.model_fields)
    for name, field in kind.model_fields.items():
        default = field.get_default(call_default_factory=True, validated_data={})
        if isinstance(default, int | float | str) and not isinstance(default, bool):
            assert rows[name].strip().strip("`") == str(default).removesuffix(".0"), name


def test_rays_own_settings_are_those_that_the_command_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    section = DOCUMENT.read_text().split("## Ray's own settings\n")[1].split("### On one machine\n")[0]
    told = dict(re.findall(r"^\| `(\w+)` \| ([^ ]+) \|", section, flags=re.M))
    monkeypatch.setattr(os, "environ", {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"})
    environment_for_ray()
    assert {name: value for name, value in os.environ.items() if name in told} == told
    assert set(os.environ) - set(told) == {"RAY_AUTH_MODE", "RAY_USAGE_STATS_ENABLED"}


def test_one_machines_settings_are_those_that_the_command_sets(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    section = DOCUMENT.read_text().split("### On one machine\n")[1]
    told = dict(re.findall(r"^\| `(\w+)` \| ([^ ]+) \|", section, flags=re.M))
    monkeypatch.setattr(haproxy, "_LONGEST_FOLDER", 500)
    monkeypatch.delenv(SWITCH, raising=False)
    front = haproxy_environment(tmp_path, "127.0.0.1", 8000)
    assert told == ONE_NODE | {SWITCH: front[SWITCH]}


def test_one_services_environment_is_for_what_is_started_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"RAY_SERVE_LOG_TO_STDERR": "1", "A_PORT": "1"}
    monkeypatch.setattr(os, "environ", dict(given))
    with environment_of_one_service({"A_PORT": "2", "ANOTHER": "3"}):
        assert os.environ == ONE_NODE | given | {"A_PORT": "2", "ANOTHER": "3"}
    assert os.environ == given


def test_arguments_win_over_the_environment_and_that_over_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGINE_STORE__URL", "s3://from-environment")
    monkeypatch.setenv("IMAGINE_LOG_PROMPTS", "true")
    settings = Settings.model_validate({"store": {"url": "given"}})
    assert settings.store.url == "given"
    assert settings.log_prompts is True
    assert Settings().store.url == "s3://from-environment"


def test_unknown_settings_and_doubled_names_are_refused() -> None:
    with pytest.raises(ValidationError, match="guidance"):
        Settings.model_validate({"pools": [{"guidance": 3}]})
    with pytest.raises(ValidationError, match="unique"):
        Settings.model_validate({"pools": [{"name": "a"}, {"name": "a"}]})
    with pytest.raises(ValidationError, match="max_replicas=1 is less"):
        PoolSettings(min_replicas=2)


def test_the_example_of_the_pools_document_is_valid() -> None:
    (example,) = re.findall(r"^```yaml\n(.*?)^```", POOLS.read_text(), flags=re.M | re.S)
    settings = Settings.model_validate(yaml.safe_load(example))
    assert [pool.name for pool in settings.pools] == ["g8i", "inf2", "gpu"]
    assert settings.pools[1].sizes == [(1024, 1024)]


def test_a_hub_token_comes_from_the_settings_or_a_named_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    assert PoolSettings().token() is None
    assert PoolSettings.model_validate({"hub_token": "given"}).token() == "given"
    pool = PoolSettings(name="gpu", hub_token_env="GPU_HUB_TOKEN")
    with pytest.raises(ConfigurationError, match="GPU_HUB_TOKEN"):
        pool.token()
    monkeypatch.setenv("GPU_HUB_TOKEN", "secret")
    assert pool.token() == "secret"


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        ({"public_url": "pictures.example.com/serve"}, "public_url"),  # links in answers would be relative
        ({"public_url": "https://pictures.example.com?a=1"}, "public_url"),
        ({"pools": [{"sizes": [[512, 7]]}]}, "pools.0.sizes.0.1"),
        ({"pools": [{"default_size": [0, -8]}]}, "pools.0.default_size.0"),
    ],
)
def test_what_could_only_fail_later_is_refused_by_name(wrong: dict[str, object], where: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate(wrong)
    assert ".".join(map(str, caught.value.errors()[0]["loc"])) == where


def test_a_public_address_may_have_a_port_and_a_path() -> None:
    for address in ("http://10.0.0.3:8000", "https://[::1]:8000/", "https://pictures.example.com/serve"):
        assert Settings(public_url=address).public_url == address


def test_a_default_size_is_one_of_the_sizes() -> None:
    with pytest.raises(ValidationError, match="is none of sizes"):
        PoolSettings(sizes=[(512, 512)], default_size=(1024, 1024))


def test_settings_of_another_accelerator_are_refused_and_not_ignored() -> None:
    with pytest.raises(ValidationError, match=r"cuda\.max_graphs has no effect on accelerator cpu"):
        PoolSettings.model_validate({"accelerator": "cpu", "cuda": {"max_graphs": 3}})
    assert PoolSettings.model_validate({"accelerator": "cpu", "cuda": {}})  # nothing was set
    of_any = PoolSettings.model_validate({"cuda": {"fp8": True}})  # known when the accelerator is
    assert "cuda.fp8" in str(of_any.set_for_others("cpu"))
    assert of_any.set_for_others("cuda") is None
    with pytest.raises(ValidationError, match="neither compile nor fp8"):
        PoolSettings.model_validate({"cuda": {"compile": "whole", "cpu_offload": "all"}})


def test_a_settings_file_may_be_a_whole_serve_config(tmp_path: Path) -> None:
    plain = tmp_path / "settings.yaml"
    plain.write_text("pools: [{name: cpu, accelerator: cpu}]\nlog_prompts: true\n")
    assert read_settings_file(plain).pools[0].name == "cpu"
    whole = tmp_path / "serve.yaml"
    whole.write_text(
        "applications:\n- name: imagine\n  import_path: serve_app.app:build\n  args: {log_prompts: true}\n"
    )
    assert read_settings_file(whole).log_prompts is True


@pytest.mark.parametrize(
    "content",
    [
        b"[1, 2]",
        b"a: [",
        b"1: 2",
        b"true: x",
        b"applications: []",
        b"applications: [1]",
        b"a: 2001-13-45",
        b"\xff",
        None,
    ],
)
def test_a_file_that_is_no_settings_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "settings.yaml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"settings\.yaml"):
        read_settings_file(file)
