"""The real torchvision loaders on tiny files in the real formats, whole and broken."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import os
import pickle
import struct
import subprocess
import sys
import threading
import time
import zlib
from functools import partial
from pathlib import Path
from shutil import copytree
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from dropbench.data import archives
from dropbench.data.archives import SOURCES
from dropbench.data.vision import Vision
from dropbench.errors import UserError
from dropbench.spec import Facts

if TYPE_CHECKING:
    from conftest import Tiny

ALL = tuple(SOURCES)
SIZES = {"cifar100": {"validation_size": 100}}


def vision(source: str, **values: object) -> Vision:
    return Vision(source, **{"validation_size": 20, **SIZES.get(source, {}), **values})  # type: ignore[arg-type]


def refused(source: str, root: Path) -> str:
    """The one line of a refusal, which must come within two seconds."""
    start = time.monotonic()
    with pytest.raises(UserError) as caught:
        vision(source).load(root)
    assert time.monotonic() - start < 2
    line = str(caught.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize("source", ALL)
def test_reads_what_was_written(tiny: Tiny, source: str) -> None:
    """Fetched as far as possible (the archives lie there), unpacked, held against the sums, decoded."""
    tiny.write(source)
    data = vision(source).load(tiny.root)
    colour = SOURCES[source].shape[0] == 3
    classes = 100 if source == "cifar100" else 10
    assert data.facts == Facts("image", (3, 32, 32) if colour else (1, 28, 28), "classification", classes)
    assert len(data.train) + len(data.validation) == len(tiny.train_pixels)
    assert data.test.targets.tolist() == tiny.test_labels.tolist()
    assert torch.cat([data.train.targets, data.validation.targets]).bincount().unique().numel() == 1

    def images(pixels: np.ndarray) -> torch.Tensor:
        values = torch.from_numpy(pixels).float() / 255
        return values.permute(0, 3, 1, 2) if colour else values.unsqueeze(1)

    train, test = images(tiny.train_pixels), images(tiny.test_pixels)
    if colour:  # standardised by the images that train
        assert data.train.inputs.mean((0, 2, 3)).abs().max() < 1e-5
        assert (data.train.inputs.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-5
        chosen = train[_rows(data.train.inputs, train)]
        mean, deviation = chosen.mean((0, 2, 3), keepdim=True), chosen.std((0, 2, 3), correction=0, keepdim=True)
        train, test = (train - mean) / deviation, (test - mean) / deviation
    torch.testing.assert_close(data.test.inputs, test, rtol=1e-5, atol=1e-5)
    rows = _rows(torch.cat([data.train.inputs, data.validation.inputs]), train)
    assert sorted(rows.tolist()) == list(range(len(train)))  # each image once
    assert tiny.train_labels[rows.numpy()].tolist() == [*data.train.targets.tolist(), *data.validation.targets.tolist()]
    again = vision(source).load(tiny.root)
    assert torch.equal(again.train.inputs, data.train.inputs)


def _rows(found: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Which image each of `found` is, up to a scale and a shift for each channel."""

    def normal(values: torch.Tensor) -> torch.Tensor:
        flat = values.flatten(2)
        return torch.nn.functional.normalize(flat - flat.mean(2, keepdim=True), dim=2).flatten(1)

    likeness = normal(found) @ normal(images).T / images.shape[1]
    assert likeness.max(1).values.min() > 0.999
    return likeness.argmax(1)


def test_what_is_known_early_is_what_torchvision_knows() -> None:
    """Names, hosts and sums: the table that is read without torchvision, against torchvision."""
    datasets = archives.torchvision_datasets()
    for source in SOURCES.values():
        loader = getattr(datasets, source.loader)
        sums = source.sums(loader)
        assert {Path(name).name for name in source.archives} <= set(sums)
        if source.loader == "SVHN":
            assert [loader.split_list[part][0] for part in ("train", "test")] == [
                source.urls[0] + name for name in source.archives
            ]
        elif hasattr(loader, "mirrors"):
            assert tuple(loader.mirrors) == source.urls
            assert [sums[Path(name).name] for name in source.archives] == list(source.published)
            assert set(source.published) <= set(archives._CONTENT)
        else:
            assert loader.url == source.urls[0] + source.archives[0]
            batches = [*loader.train_list, *loader.test_list]
            assert source.unpacked == tuple(f"{loader.base_folder}/{name}" for name, _ in batches)


def test_what_is_unpacked_as_published_is_read_without_torchvision(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.write("mnist")
    source = SOURCES["mnist"]
    slow = source.read(tiny.root)
    contents = [(tiny.root / name).read_bytes() for name in source.unpacked]
    monkeypatch.setattr(archives, "_CONTENT", dict(zip(source.published, map(zlib.crc32, contents), strict=True)))
    monkeypatch.setattr(archives, "torchvision_datasets", lambda: pytest.fail("torchvision is not needed"))
    for fast, expected in zip(source.read(tiny.root), slow, strict=True):
        for values, wanted in zip(fast, expected, strict=True):
            assert values.dtype == wanted.dtype
            assert torch.equal(values, wanted)


@pytest.mark.parametrize("source", ALL)
def test_missing_without_network(tmp_path: Path, source: str) -> None:
    root = tmp_path / "data"
    line = refused(source, root)
    first = SOURCES[source].archives[0]
    assert line.startswith(f"{root / first}: no such file, and no network to fetch it (no network in tests); put ")
    assert line.endswith(f" from {SOURCES[source].urls[0]} into {(root / first).parent}")
    assert not root.exists()


@pytest.mark.parametrize("source", ALL)
def test_wrong_checksum(tiny: Tiny, source: str) -> None:
    tiny.write(source)
    path = tiny.root / SOURCES[source].archives[-1]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert refused(source, tiny.root).startswith(f"{path}: not the published file (MD5 differs), and no network")


@pytest.mark.parametrize("source", ALL)
def test_truncated_archive(tiny: Tiny, source: str) -> None:
    tiny.write(source)
    path = tiny.root / SOURCES[source].archives[0]
    path.write_bytes(path.read_bytes()[:-100])
    assert refused(source, tiny.root).startswith(f"{path}: not the published file (MD5 differs)")


@pytest.mark.parametrize("source", ["mnist", "fashion_mnist", "cifar10", "cifar100"])
def test_without_the_archive_once_it_is_unpacked(tiny: Tiny, source: str) -> None:
    tiny.write(source)
    first = vision(source).load(tiny.root)
    for name in SOURCES[source].archives:
        (tiny.root / name).unlink()
    assert torch.equal(vision(source).load(tiny.root).train.inputs, first.train.inputs)


@pytest.mark.parametrize("source", ["cifar10", "cifar100"])
@pytest.mark.parametrize("archive", [False, True])
def test_no_pickle_is_opened_before_its_sum_is_checked(tiny: Tiny, source: str, archive: bool) -> None:
    tiny.write(source)
    first = vision(source).load(tiny.root)
    path = tiny.root / SOURCES[source].unpacked[-1]
    trap = tiny.root / "sprung"
    path.write_bytes(pickle.dumps(Trap(str(trap))))
    if archive:  # a sound archive is unpacked anew
        assert torch.equal(vision(source).load(tiny.root).test.inputs, first.test.inputs)
    else:
        (tiny.root / SOURCES[source].archives[0]).unlink()
        assert ": no such file, and no network" in refused(source, tiny.root)
    assert not trap.exists()
    pickle.loads(pickle.dumps(Trap(str(trap))))
    assert trap.exists()  # the trap works


class Trap:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (self.path,)


def test_cifar_meta_gone(tiny: Tiny) -> None:
    tiny.write("cifar10")
    vision("cifar10").load(tiny.root)
    (tiny.root / "cifar-10-batches-py" / "batches.meta").unlink()
    line = refused("cifar10", tiny.root)
    assert str(tiny.root / "cifar-10-batches-py") in line
    assert "metadata file not found" in line


def with_header(magic: int, *shape: int) -> bytes:
    return struct.pack(f">{1 + len(shape)}I", magic, *shape)


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("train-images", lambda old: with_header(0x801) + old[4:], "bad magic number 0x801, 0x803 expected; remove it"),
        ("train-images", lambda old: old[:-1], "47055 bytes, but its header promises 47056; remove it"),
        ("train-images", lambda old: old + b"\0", "47057 bytes, but its header promises 47056; remove it"),
        ("train-labels", lambda old: b"", "bad magic number 0x0, 0x801 expected"),
        ("train-labels", lambda old: old[:6], "6 bytes, but its header promises"),
        ("t10k-images", lambda old: with_header(0x803, 2**32 - 1, 2**31, 28) + old[16:], "its header promises 2582"),
        ("t10k-images", lambda old: with_header(0x803, 20, 14, 56) + old[16:], "images uint8 [N, 1, 28, 28] expected"),
        ("t10k-images", lambda old: with_header(0x803, 0, 28, 28), "cannot be read: ValueError"),
        ("train-labels", lambda old: with_header(0x801, 59) + old[9:], "59 labels for 60 images"),
        ("t10k-labels", lambda old: old[:-1] + b"\x0a", "label 10; allowed: 0 <= label <= 9"),
    ],
)
def test_broken_idx(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, name: str, change: object, reason: str) -> None:
    """torchvision believes an unpacked idx file; dropbench does not, even where it knows no sum of its content."""
    tiny.write("mnist")
    vision("mnist").load(tiny.root)
    (path,) = (tiny.root / "MNIST" / "raw").glob(f"{name}*ubyte")
    path.write_bytes(change(path.read_bytes()))  # type: ignore[operator]
    monkeypatch.setattr(archives, "_CONTENT", {})
    line = refused("mnist", tiny.root)
    assert line.startswith(f"{path}: ")
    assert reason in line


@pytest.mark.parametrize("name", ["train-images", "t10k-labels"])
def test_changed_content(tiny: Tiny, name: str) -> None:
    """A well-formed idx file that is not what the publisher packed."""
    tiny.write("fashion_mnist")
    vision("fashion_mnist").load(tiny.root)
    (path,) = (tiny.root / "FashionMNIST" / "raw").glob(f"{name}*ubyte")
    data = bytearray(path.read_bytes())
    data[-1] = (data[-1] + 1) % 10
    path.write_bytes(data)
    assert refused("fashion_mnist", tiny.root).startswith(
        f"{path}: not the published content (CRC-32 differs); remove it"
    )


@pytest.mark.parametrize("damage", ["labels", "label 11", "images"])
def test_broken_content_with_a_right_sum(tiny: Tiny, damage: str) -> None:
    """What no sum tells: labels out of range, or too few."""
    tiny.make(10, 60, 20, (32, 32, 3))
    if damage == "labels":
        tiny.train_labels = tiny.train_labels[:-1]
    elif damage == "label 11":
        tiny.train_labels[3] = 11
    else:
        tiny.train_pixels = tiny.train_pixels[:, :31]
    tiny.svhn()
    line = refused("svhn", tiny.root)
    expected = {
        "labels": "59 labels for 60 images",
        "label 11": "label 11; allowed",
        "images": "images uint8 [N, 3, 32, 32]",
    }
    assert line.startswith(f"{tiny.root / 'train_32x32.mat'}: {expected[damage]}")


def test_not_a_mat_file(tiny: Tiny) -> None:
    tiny.write("svhn")
    path = tiny.root / "train_32x32.mat"
    path.write_bytes(b"nonsense" * 1000)
    loader = tiny.datasets.SVHN
    entry = [*loader.split_list["train"][:2], hashlib.md5(path.read_bytes()).hexdigest()]
    tiny.monkeypatch.setattr(loader, "split_list", {**loader.split_list, "train": entry})
    assert refused("svhn", tiny.root).startswith(f"{path}: cannot be read: ")


def test_no_room_to_unpack(tiny: Tiny) -> None:
    tiny.write("mnist")
    blocked = tiny.root / "MNIST" / "raw" / "train-images-idx3-ubyte"
    blocked.mkdir()
    assert refused("mnist", tiny.root) == f"{blocked}: Is a directory"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only(tiny: Tiny) -> None:
    tiny.write("mnist")
    raw = tiny.root / "MNIST" / "raw"
    raw.chmod(0o500)
    try:
        assert refused("mnist", tiny.root) == f"{raw / 'train-images-idx3-ubyte'}: Permission denied"
    finally:
        raw.chmod(0o700)


def test_data_root_is_a_file(tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.write_text("")
    assert refused("mnist", root).startswith(f"{root}/MNIST/raw/train-images-idx3-ubyte.gz: no such file")


@pytest.mark.parametrize("sound", [True, False])
def test_download(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], sound: bool) -> None:
    """torchvision's own download, from a server on this machine, and a broken file is fetched anew."""
    tiny.write("mnist")
    there = tiny.root / "MNIST" / "raw"
    if not sound:
        (there / "t10k-images-idx3-ubyte.gz").write_bytes(b"an error page")
    handler = partial(Quiet, directory=str(there))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/"
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        monkeypatch.setattr(tiny.datasets.MNIST, "mirrors", [url])
        monkeypatch.setattr(archives, "unreachable", lambda urls: None)
        root = tiny.root / "elsewhere" / "data"
        if sound:
            (root / "MNIST" / "raw").mkdir(parents=True)
            (root / "MNIST" / "raw" / "train-labels-idx1-ubyte.gz").write_bytes(b"half of it")
            data = vision("mnist").load(root)
            assert data.test.targets.tolist() == tiny.test_labels.tolist()
        else:
            line = refused("mnist", root)
            assert line.startswith(f"{root}: ")
            assert "t10k-images-idx3-ubyte.gz" in line
        server.shutdown()
    assert capfd.readouterr() == ("", "")


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


def test_train_size(tiny: Tiny) -> None:
    tiny.write("cifar10")
    few, all_ = vision("cifar10", train_size=20).load(tiny.root), vision("cifar10").load(tiny.root)
    assert few.train.targets.bincount().tolist() == [2] * 10
    assert torch.equal(few.validation.targets, all_.validation.targets)
    assert few.train.inputs.mean((0, 2, 3)).abs().max() < 1e-5  # figures of the images that train, not of all
    with pytest.raises(UserError, match=r"dataset\.train_size=41: out of range; allowed: 10 <= value <= 40"):
        vision("cifar10", train_size=41).load(tiny.root)
    with pytest.raises(UserError, match=r"dataset\.validation_size=5000: out of range; allowed: 10 <= value <= 50"):
        Vision("cifar10").load(tiny.root)


def test_no_torch_until_the_data_is_there(tmp_path: Path) -> None:
    """`check` says no before anyone waits for torch."""
    code = (
        "import sys, pathlib; from dropbench.data import fetch, archives; from dropbench.data.vision import Vision\n"
        "from dropbench.errors import UserError\n"
        "archives.unreachable = lambda urls: 'none'\n"
        "try: Vision('svhn').check(pathlib.Path(sys.argv[1]))\n"
        "except UserError as error: print(error)\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{tmp_path}/train_32x32.mat: no such file")


SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.mark.skipif(not (SHARED / "MNIST").is_dir(), reason=f"the real data is not in {SHARED}")
@pytest.mark.parametrize(("source", "folder"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_real(tmp_path: Path, source: str, folder: str) -> None:
    copytree(SHARED / folder, tmp_path / folder)
    Vision(source).check(tmp_path)  # type: ignore[arg-type]
    data = Vision(source).load(tmp_path)  # type: ignore[arg-type]
    assert [len(part) for part in (data.train, data.validation, data.test)] == [55_000, 5000, 10_000]
    digest = hashlib.sha256(data.validation.targets.byte().numpy().tobytes()).hexdigest()[:16]
    mean = float(data.train.inputs.mean())
    assert (digest, round(mean, 4)) == REAL[source]
    with gzip.open(tmp_path / folder / "raw" / "t10k-images-idx3-ubyte.gz") as file:
        published = np.frombuffer(file.read(), np.uint8, offset=16)
    assert ((data.test.inputs * 255).round().byte().flatten().numpy() == published).all()


REAL = {"mnist": ("e313a11b8afec64a", 0.1306), "fashion_mnist": ("cf56d9b031169396", 0.286)}
