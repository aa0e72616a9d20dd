"""The picture store on a folder and on a real S3 server: names, retention, links, failures, many sweepers."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import obstore
import pytest
from moto.server import ThreadedMotoServer

from serve_app.batch import BatchOutput
from serve_app.errors import ConfigurationError, NotFound, StoreUnavailable
from serve_app.request import ImageFormat
from serve_app.settings import StoreSettings
from serve_app.store import GRID_NAME, NoStoreObserver, PictureStore, picture_name

ID = "4a810c83-2d14-46a1-baa9-e7cb22ecf8a4"
BUCKET = "pictures"


@pytest.fixture(scope="module")
def s3_endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def s3_settings(endpoint: str, prefix: str, **limits: float) -> StoreSettings:
    options = {
        "endpoint": endpoint,
        "region": "us-east-1",
        "access_key_id": "test",
        "secret_access_key": "test",
        "virtual_hosted_style_request": "false",
    }
    return StoreSettings.model_validate({"url": f"s3://{BUCKET}/{prefix}", "options": options, **limits})


def make_bucket(endpoint: str) -> None:
    import urllib.request

    request = urllib.request.Request(f"{endpoint}/{BUCKET}", method="PUT")
    # Moto takes any signature, but wants the shape of one.
    request.add_header("Authorization", "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request")
    urllib.request.urlopen(request, timeout=10).close()


@pytest.fixture(params=["folder", "s3"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> StoreSettings:
    if request.param == "folder":
        return StoreSettings(url=str(tmp_path / "pictures"))
    endpoint: str = request.getfixturevalue("s3_endpoint")
    make_bucket(endpoint)
    return s3_settings(endpoint, str(uuid.uuid4()))


@pytest.fixture
def store(settings: StoreSettings) -> PictureStore:
    return PictureStore(settings)


def age(settings: StoreSettings, path: str, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(Path(settings.url) / path, (then, then))


async def test_put_get_head_list_delete(store: PictureStore) -> None:
    await store.put(ID, "0_0.png", b"one")
    await store.put(ID, GRID_NAME, b"grid!")
    info, data = await store.get(ID, "0_0.png")
    assert (data, info.size, info.media_type, info.path) == (b"one", 3, "image/png", f"{ID}/0_0.png")
    assert abs(info.modified - time.time()) < 60
    assert info.etag
    assert '"' not in info.etag
    assert (await store.head(ID, GRID_NAME)).size == 5
    assert {picture.path for picture in await store.list()} == {f"{ID}/0_0.png", f"{ID}/{GRID_NAME}"}
    await store.delete([f"{ID}/0_0.png", f"{ID}/7_7.png", f"{ID}/{GRID_NAME}"])
    assert await store.list() == []
    with pytest.raises(NotFound):
        await store.get(ID, "0_0.png")
    with pytest.raises(NotFound):
        await store.head(ID, "0_0.png")


@pytest.mark.parametrize(
    ("picture_id", "name"),
    [
        ("..", "0_0.png"),
        ("", "0_0.png"),
        (ID + "\n", "0_0.png"),
        (ID[:-1], "0_0.png"),
        (f"../{ID}", "0_0.png"),
        (ID, "../0_0.png"),
        (ID, "0_0.png\n"),
        (ID, "0_0.png\0"),
        (ID, "0_0.gif"),
        (ID, "٠_٠.png"),
        (ID, ""),
        (ID, "..%2f0_0.png"),
        (ID, "other_grid.png"),
    ],
)
async def test_other_names_are_refused(store: PictureStore, picture_id: str, name: str) -> None:
    with pytest.raises(NotFound):
        await store.put(picture_id, name, b"x")
    with pytest.raises(NotFound):
        await store.get(picture_id, name)
    with pytest.raises(NotFound):
        await store.delete([f"{picture_id}/{name}"])


class _Told(NoStoreObserver):
    def __init__(self) -> None:
        self.puts: list[bool] = []

    def on_put(self, size: int, seconds: float, *, stored: bool) -> None:
        self.puts.append(stored)


async def test_a_caller_who_leaves_is_no_failure_of_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = _Told()
    store = PictureStore(StoreSettings(url=str(tmp_path / "pictures")), told)
    await store.put(ID, "0_0.png", b"x")
    reached = asyncio.Event()

    async def slow(*_: object, **__: object) -> None:
        reached.set()
        await asyncio.sleep(30)

    monkeypatch.setattr(obstore, "put_async", slow)
    putting = asyncio.create_task(store.put(ID, "0_1.png", b"x"))
    await reached.wait()
    putting.cancel()
    await asyncio.wait({putting})
    assert told.puts == [True]

    async def broken(*_: object, **__: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(obstore, "put_async", broken)
    with pytest.raises(StoreUnavailable):
        await store.put(ID, "0_1.png", b"x")
    assert told.puts == [True, False]


def test_picture_names() -> None:
    assert picture_name(2, 3) == "2_3.png"
    assert picture_name(0, 0, ImageFormat.WEBP) == "0_0.webp"


async def test_sweep_removes_what_is_old(tmp_path: Path) -> None:
    settings = StoreSettings(url=str(tmp_path), max_age_s=100)
    store = PictureStore(settings)
    old, new = str(uuid.uuid4()), str(uuid.uuid4())
    await store.put(old, "0_0.png", b"old")
    await store.put(new, "0_0.png", b"new")
    age(settings, f"{old}/0_0.png", 101)
    with pytest.raises(NotFound):  # its time is over even before the sweep
        await store.get(old, "0_0.png")
    assert await store.sweep() == 1
    assert os.listdir(tmp_path) == [new]
    assert await store.sweep() == 0


async def test_sweep_removes_the_oldest_until_all_fit(tmp_path: Path) -> None:
    settings = StoreSettings(url=str(tmp_path), max_bytes=25)
    store = PictureStore(settings)
    for number in range(4):
        await store.put(ID, f"{number}_0.png", b"x" * 10)
        age(settings, f"{ID}/{number}_0.png", 50 - number)
    assert await store.sweep() == 2
    assert sorted(picture.path for picture in await store.list()) == [f"{ID}/2_0.png", f"{ID}/3_0.png"]


async def test_sweep_on_s3(s3_endpoint: str) -> None:
    make_bucket(s3_endpoint)
    store = PictureStore(s3_settings(s3_endpoint, str(uuid.uuid4()), max_bytes=25))
    other = PictureStore(s3_settings(s3_endpoint, str(uuid.uuid4())))
    await other.put(ID, "0_0.png", b"x" * 100)
    for number in range(4):
        await store.put(ID, f"{number}_0.png", b"x" * 10)
    assert await store.sweep() == 2
    assert len(await store.list()) == 2
    assert len(await other.list()) == 1  # another prefix of the same bucket is another store


async def test_sweep_leaves_files_of_others_alone(tmp_path: Path) -> None:
    settings = StoreSettings(url=str(tmp_path), max_age_s=10, max_bytes=1)
    store = PictureStore(settings)
    await store.put(ID, "0_0.png", b"x" * 10)
    strangers = [tmp_path / "holiday.png", tmp_path / "album" / "0_0.png", tmp_path / ID / "notes.txt"]
    for stranger in strangers:
        stranger.parent.mkdir(exist_ok=True)
        stranger.write_text("precious")
        os.utime(stranger, (0, 0))
    assert await store.sweep() == 1
    assert all(stranger.read_text() == "precious" for stranger in strangers)


async def test_sweep_removes_leftovers_of_dead_processes(tmp_path: Path) -> None:
    settings = StoreSettings(url=str(tmp_path), max_age_s=10)
    store = PictureStore(settings)
    (tmp_path / ID).mkdir()
    (tmp_path / ID / "0_0.png#1").write_text("half")
    assert await store.sweep() == 0
    assert (tmp_path / ID / "0_0.png#1").exists()  # somebody may still be writing it
    age(settings, f"{ID}/0_0.png#1", 11)
    await store.sweep()
    assert os.listdir(tmp_path) == []


async def test_several_replicas_sweep_at_once(settings: StoreSettings) -> None:
    limited = settings.model_copy(update={"max_bytes": 1})
    stores = [PictureStore(limited) for _ in range(4)]
    ids = [str(uuid.uuid4()) for _ in range(6)]
    for _ in range(3):
        for picture_id in ids:
            await stores[0].put(picture_id, "0_0.png", b"xx")
            await stores[0].put(picture_id, "1_0.png", b"xx")
        await asyncio.gather(*(store.sweep() for store in stores))
        assert await stores[0].list() == []


async def test_pictures_are_written_while_others_sweep(tmp_path: Path) -> None:
    store = PictureStore(StoreSettings(url=str(tmp_path), max_bytes=1))
    keeper = PictureStore(StoreSettings(url=str(tmp_path)))

    async def write() -> None:
        for number in range(40):
            await keeper.put(ID, f"{number}_0.png", b"xx")

    async def sweep() -> None:
        for _ in range(40):
            await store.sweep()

    await asyncio.gather(write(), sweep(), sweep())


async def test_links_are_not_followed(tmp_path: Path) -> None:
    store = PictureStore(StoreSettings(url=str(tmp_path / "pictures")))
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "0_0.png").write_text("secret")
    await store.put(ID, "0_0.png", b"x")
    (tmp_path / "pictures" / ID / "1_0.png").symlink_to(outside / "0_0.png")
    linked = str(uuid.uuid4())
    (tmp_path / "pictures" / linked).symlink_to(outside)
    for picture_id, name in ((ID, "1_0.png"), (linked, "0_0.png")):
        with pytest.raises(NotFound):
            await store.get(picture_id, name)
        with pytest.raises(NotFound):
            await store.head(picture_id, name)
        with pytest.raises(NotFound):
            await store.put(picture_id, name, b"overwritten")
    await store.sweep()
    assert (outside / "0_0.png").read_text() == "secret"


async def test_background_sweep_starts_and_stops(tmp_path: Path) -> None:
    store = PictureStore(StoreSettings(url=str(tmp_path), max_bytes=1, sweep_interval_s=0.05))
    store.start()
    store.start()
    await store.put(ID, "0_0.png", b"xx")
    async with asyncio.timeout(5):
        while await store.list():
            await asyncio.sleep(0.02)
    await store.close()
    await store.put(ID, "0_0.png", b"xx")
    await asyncio.sleep(0.15)
    assert len(await store.list()) == 1
    await store.close()


async def test_a_failed_sweep_is_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "pictures"
    store = PictureStore(StoreSettings(url=str(folder), max_bytes=1, sweep_interval_s=0.05))
    folder.rmdir()
    folder.write_text("in the way")
    store.start()
    async with asyncio.timeout(5):
        while "could not be swept" not in caplog.text:
            await asyncio.sleep(0.02)
    folder.unlink()
    folder.mkdir()
    await store.put(ID, "0_0.png", b"xx")
    async with asyncio.timeout(5):
        while await store.list():
            await asyncio.sleep(0.02)
    await store.close()


async def test_a_store_that_does_not_answer() -> None:
    store = PictureStore(s3_settings("http://127.0.0.1:1", "x"))
    for attempt in (store.put(ID, "0_0.png", b"x"), store.get(ID, "0_0.png"), store.list(), store.sweep()):
        with pytest.raises(StoreUnavailable):
            await attempt


async def test_a_bucket_that_is_not_there(s3_endpoint: str) -> None:
    settings = s3_settings(s3_endpoint, "x").model_copy(update={"url": "s3://missing"})
    with pytest.raises((StoreUnavailable, NotFound)):
        await PictureStore(settings).put(ID, "0_0.png", b"x")


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("bogus://x", {}),
        ("s3://", {}),
        ("s3://b", {"nonsense": "1"}),
        ("s3://b", {"timeout": "long"}),
        ("/proc/x", {}),
    ],
)
def test_settings_that_cannot_work(url: str, options: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match=r"store\.url="):
        PictureStore(StoreSettings(url=url, options=options))


def test_file_urls(tmp_path: Path) -> None:
    PictureStore(StoreSettings(url=f"file://{tmp_path}/a%20b"))
    assert (tmp_path / "a b").is_dir()


@pytest.fixture
def volume() -> Iterator[Path]:
    """A folder as a fresh volume is: with one inside that only root may enter, and this process not being root."""
    folder = Path(tempfile.mkdtemp(prefix="volume-", dir="/tmp"))
    closed = folder / "lost+found"
    closed.mkdir()
    closed.chmod(0o000)
    folder.chmod(0o777)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield folder
    finally:
        if root:
            os.seteuid(0)
        closed.chmod(0o700)
        shutil.rmtree(folder)


async def test_a_folder_that_is_closed_to_us_is_none_of_ours(volume: Path) -> None:
    store = PictureStore(StoreSettings(url=str(volume)))
    await store.put(ID, "0_0.png", b"one")
    assert [picture.path for picture in await store.list()] == [f"{ID}/0_0.png"]
    assert await store.sweep() == 0
    output = BatchOutput(str(volume))
    await output.put_picture("a.png", b"1", "image/png")
    assert await output.load() == {}
