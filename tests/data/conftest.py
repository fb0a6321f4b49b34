"""Tiny data sets in the real formats, for the real torchvision classes."""

from __future__ import annotations

import gzip
import hashlib
import io
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest

from dropbench.data import archives

GREY, COLOUR = (28, 28), (32, 32, 3)


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def idx(values: np.ndarray) -> bytes:
    return struct.pack(f">{1 + values.ndim}I", 0x800 + values.ndim, *values.shape) + values.astype(np.uint8).tobytes()


class Tiny:
    """Pixels (N, rows, columns[, channels]) and labels of both parts, and how to write them as each source has them."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.monkeypatch = monkeypatch
        self.datasets = archives.torchvision_datasets()

    def make(self, classes: int, train: int, test: int, shape: tuple[int, ...]) -> None:
        rng = np.random.default_rng(7)
        self.train_labels, self.test_labels = (rng.permutation(np.arange(n) % classes) for n in (train, test))
        self.train_pixels, self.test_pixels = (rng.integers(0, 256, (n, *shape), dtype=np.uint8) for n in (train, test))

    def write(self, source: str) -> None:
        """Writes the published files and makes their sums the published ones."""
        if source in ("mnist", "fashion_mnist"):
            self.make(10, 60, 20, GREY)
            self.idx(source)
        elif source == "svhn":
            self.make(10, 60, 20, COLOUR)
            self.svhn()
        else:
            self.make(*((10, 60, 20) if source == "cifar10" else (100, 300, 100)), COLOUR)
            self.cifar(source)

    def idx(self, source: str) -> None:
        spec = archives.SOURCES[source]
        loader = getattr(self.datasets, spec.loader)
        parts = (self.train_pixels, self.train_labels, self.test_pixels, self.test_labels)
        for name, values in zip(spec.archives, parts, strict=True):
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(gzip.compress(idx(values), mtime=0))
        sums = [(Path(name).name, md5(self.root / name)) for name in spec.archives]
        self.monkeypatch.setattr(loader, "resources", sums)
        contents = zip((md5 for _, md5 in sums), parts, strict=True)
        self.monkeypatch.setattr(
            archives, "_CONTENT", {sum_: gzip.zlib.crc32(idx(values)) for sum_, values in contents}
        )

    def cifar(self, source: str) -> None:
        spec = archives.SOURCES[source]
        loader = getattr(self.datasets, spec.loader)
        key = "labels" if source == "cifar10" else "fine_labels"
        *train, test = spec.unpacked
        pieces = np.array_split(np.arange(len(self.train_labels)), len(train))
        members = {
            name: self.batch(self.train_pixels[piece], self.train_labels[piece], key)
            for name, piece in zip(train, pieces, strict=True)
        }
        members[test] = self.batch(self.test_pixels, self.test_labels, key)
        folder = Path(test).parent
        meta = pickle.dumps({loader.meta["key"]: [f"class {number}" for number in range(spec.classes)]})
        members[str(folder / loader.meta["filename"])] = meta
        with tarfile.open(self.root / spec.archives[0], "w:gz") as archive:
            for name, data in members.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        sums = {Path(name).name: hashlib.md5(data).hexdigest() for name, data in members.items()}
        self.monkeypatch.setattr(loader, "tgz_md5", md5(self.root / spec.archives[0]))
        self.monkeypatch.setattr(loader, "train_list", [[Path(name).name, sums[Path(name).name]] for name in train])
        self.monkeypatch.setattr(loader, "test_list", [[Path(test).name, sums[Path(test).name]]])
        self.monkeypatch.setattr(loader, "meta", {**loader.meta, "md5": hashlib.md5(meta).hexdigest()})

    @staticmethod
    def batch(pixels: np.ndarray, labels: np.ndarray, key: str) -> bytes:
        """The real layout: rows of 3,072 bytes, red before green before blue."""
        return pickle.dumps({"data": pixels.transpose(0, 3, 1, 2).reshape(len(pixels), -1), key: labels.tolist()})

    def svhn(self) -> None:
        from scipy.io import savemat

        loader = self.datasets.SVHN
        parts = {"train": (self.train_pixels, self.train_labels), "test": (self.test_pixels, self.test_labels)}
        sums = {}
        for part, (pixels, labels) in parts.items():
            path = self.root / f"{part}_32x32.mat"
            tens = np.where(labels == 0, 10, labels).astype(np.uint8)  # the publisher calls the digit 0 "10"
            savemat(path, {"X": pixels.transpose(1, 2, 3, 0), "y": tens[:, None]})
            sums[part] = [loader.split_list[part][0], path.name, md5(path)]
        self.monkeypatch.setattr(loader, "split_list", {**loader.split_list, **sums})


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tiny:
    return Tiny(tmp_path, monkeypatch)


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reaches for the network."""
    monkeypatch.setattr(archives, "unreachable", lambda urls: "no network in tests")
