"""Signed addresses of pictures."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlsplit

import pytest
from pydantic import SecretStr, ValidationError

from serve_app.picture_urls import PictureUrls
from serve_app.settings import AccessSettings

SECRET = SecretStr("a secret of 32 characters or more")


def urls_at(now: float, secret: SecretStr | None = SECRET) -> PictureUrls:
    keys = AccessSettings(keys_file="keys", image_url_secret=secret, image_url_max_age_s=60.0)
    return PictureUrls(keys, lambda: now)


def opens(urls: PictureUrls, url: str) -> bool:
    parts = urlsplit(url)
    return urls.is_valid(parts.path.removeprefix("/serve"), dict(parse_qsl(parts.query)))


def test_a_signed_address_opens_until_its_end_and_nothing_else() -> None:
    url = urls_at(1000.0).url("https://example.org/serve", "id", "0_0.png")
    assert url.startswith("https://example.org/serve/images/id/0_0.png?expires=1060&signature=")
    assert opens(urls_at(1060.0), url)
    assert not opens(urls_at(1060.5), url)
    for changed in (
        url.replace("0_0", "0_1"),
        url.replace("/id/", "/ie/"),
        url.replace("1060", "2060"),
        url.replace("1060", "01060"),
        url.replace("1060", "٣"),
        url[:-1],
        url + "A",
        url.partition("?")[0],
        url.partition("&")[0],
    ):
        assert not opens(urls_at(1000.0), changed), changed
    another = urls_at(1000.0, SecretStr("another secret of some length"))
    assert not opens(another, url)


def test_without_a_secret_addresses_are_plain() -> None:
    urls = urls_at(0.0, None)
    assert urls.url("http://h", "id", "0_0.png") == "http://h/images/id/0_0.png"
    assert not urls.signed
    assert urls.is_valid("/images/id/0_0.png", {})


def test_a_secret_needs_keys_and_some_length() -> None:
    with pytest.raises(ValidationError, match="needs keys_file"):
        AccessSettings(image_url_secret=SECRET)
    with pytest.raises(ValidationError, match="16"):
        AccessSettings(keys_file="keys", image_url_secret=SecretStr("short"))
    assert "secret of" not in repr(AccessSettings(keys_file="keys", image_url_secret=SECRET))
