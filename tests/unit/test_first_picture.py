"""The test picture over HTTP, on pools of any size and of one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from serve_app.api_keys import key_line, new_key
from serve_app.capabilities import Capabilities
from serve_app.errors import ConfigurationError
from serve_app.fake_service import FAKE_FACTS, FakeImageService
from serve_app.first_picture import SIDE, draw_first_picture
from serve_app.settings import AccessSettings, Settings, StoreSettings
from tests.unit.api.conftest import served


@pytest.mark.parametrize("sizes", [(), ((96, 64),)])
def test_it_has_a_size_that_the_pools_can_draw(tmp_path: Path, sizes: tuple[tuple[int, int], ...]) -> None:
    width, height = sizes[0] if sizes else (SIDE, SIDE)
    defaults = replace(FAKE_FACTS.defaults, width=width, height=height)
    facts = replace(FAKE_FACTS, defaults=defaults, capabilities=Capabilities(max_rows=2, fixed_sizes=sizes))
    service = FakeImageService(Settings(store=StoreSettings(url=str(tmp_path))), facts=facts)
    flat = pytest.raises(ConfigurationError, match="one flat colour")  # as the fake's pictures are
    with served(service) as url, flat:
        draw_first_picture(url)
    assert service.drafts[-1].width == (None if sizes else SIDE)


def test_it_says_when_its_key_is_none_of_the_services(tmp_path: Path) -> None:
    key, file = new_key(), tmp_path / "keys"
    file.write_text(key_line("serve", key))
    service = FakeImageService(
        Settings(store=StoreSettings(url=str(tmp_path)), access=AccessSettings(keys_file=str(file)))
    )
    with served(service) as url:
        with pytest.raises(ConfigurationError, match="one flat colour"):
            draw_first_picture(url, key)
        with pytest.raises(ConfigurationError, match="IMAGINE_API_KEY"):
            draw_first_picture(url, "another")
