"""What the environment may say."""

from __future__ import annotations

import pytest

from gradio_ui.settings import SettingError, UiSettings


def test_nothing_set_means_this_machine() -> None:
    settings = UiSettings.from_environment({})
    assert (settings.service_url, settings.host, settings.port) == (
        "http://localhost:8000",
        "127.0.0.1",
        7860,
    )


@pytest.mark.parametrize(
    ("name", "endpoint", "url"),
    [
        ("http://svc:8000/", "/imagine", "http://svc:8000"),
        ("svc:8000", "", "http://svc:8000"),
        ("https://example.org", "/serve/imagine", "https://example.org/serve"),
        ("https://example.org/serve", "imagine", "https://example.org/serve"),
        ("http://svc:8000", "/", "http://svc:8000"),
        ("http://svc:8000/serve/", "/imagine/", "http://svc:8000/serve"),
    ],
)
def test_the_service_is_where_its_simple_route_is(name: str, endpoint: str, url: str) -> None:
    settings = UiSettings.from_environment({"SERVICE_NAME": name, "MODEL_ENDPOINT": endpoint})
    assert settings.service_url == url
    assert settings.public_url == ""  # a name that may be known in the cluster only


@pytest.mark.parametrize(
    "wrong", [{"SERVICE_NAME": "ftp://x"}, {"UI_PORT": "0"}, {"UI_PORT": "x"}, {"IMAGINE_API_KEY": "a\nb"}]
)
def test_what_cannot_be_used_is_named(wrong: dict[str, str]) -> None:
    with pytest.raises(SettingError, match=next(iter(wrong))):
        UiSettings.from_environment(wrong)


def test_the_key_is_read_and_never_shown() -> None:
    settings = UiSettings.from_environment({"IMAGINE_API_KEY": " imk_secret "})
    assert settings.api_key == "imk_secret"
    assert "imk_secret" not in repr(settings)
