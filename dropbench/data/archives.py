"""Five sets behind torchvision's own classes: fetched, unpacked, checked, and read as pixels and labels.

torch and torchvision are imported late: what can be said without them (files are missing, and there is no network) is
said at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import struct
import sys
import warnings
import zlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from dropbench.data.fetch import alone, patient, unreachable
from dropbench.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor

_REMEDY = "remove it, and it is fetched or unpacked again"


@dataclass(frozen=True)
class Source(ABC):
    """One set, and what is known of it before torchvision is imported.

    Args:
        loader: name of torchvision's class.
        classes: number of them.
        shape: of one image.
        archives: what the publisher gives, under data_root.
        urls: where.
        unpacked: what torchvision makes of it, under data_root; () where it reads the archives themselves.
        flips: whether a mirrored image is still an image of its class.
    """

    loader: str
    classes: int
    shape: tuple[int, int, int]
    archives: tuple[str, ...]
    urls: tuple[str, ...]
    unpacked: tuple[str, ...] = ()
    flips: bool = False

    def check(self, data_root: Path) -> None:
        """Passes when the files are there, or a host that has them answers."""
        for names in (self.unpacked, self.archives):
            if names and all((data_root / name).is_file() for name in names):
                return
        self._fetchable([data_root / name for name in self.archives])

    def read(self, data_root: Path) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Pixels (uint8 [N, channels, rows, columns]) and labels (int64 [N]) that train, and that test.

        Raises:
            UserError: missing, unreadable or corrupt; the line names the path and the reason.
        """
        self.check(data_root)
        loader = getattr(torchvision_datasets(), self.loader)
        with _blaming(data_root, "cannot be fetched or unpacked"):
            data_root.mkdir(parents=True, exist_ok=True)
            with alone(data_root):
                self._provide(loader, data_root)
        return self._part(loader, data_root, train=True), self._part(loader, data_root, train=False)

    @abstractmethod
    def sums(self, loader: Any) -> dict[str, str]:
        """The published MD5 sums that torchvision knows, by the name of the file."""

    @abstractmethod
    def files(self, train: bool) -> tuple[str, str]:
        """Where the images and the labels of a part lie, under data_root, to name them in errors."""

    @abstractmethod
    def open(self, loader: Any, data_root: Path, train: bool) -> tuple[Tensor, Tensor]:
        """What torchvision reads: pixels [N, channels, rows, columns] and labels [N], not checked yet."""

    def examine(self, data_root: Path) -> None:
        """Raises UserError for a fault of an unpacked file that torchvision would not see, or not explain."""
        del data_root

    def _provide(self, loader: Any, data_root: Path) -> None:
        """Has torchvision fetch and unpack what is not there as published."""
        sums = self.sums(loader)

        def intact(name: str) -> bool:
            path = data_root / name
            return path.is_file() and sums.get(path.name) in (None, _md5(path))

        if not all(map(intact, self.unpacked or self.archives)):
            lacking = [data_root / name for name in self.archives if not intact(name)]
            if lacking:
                self._fetchable(lacking)
            # The progress bar is for people; from Python 3.12 on, tarfile warns of a default that will change.
            quiet = contextlib.nullcontext() if sys.stderr.isatty() else contextlib.redirect_stderr(io.StringIO())
            with quiet, warnings.catch_warnings(), patient():
                warnings.simplefilter("ignore", DeprecationWarning)
                self._download(loader, data_root)
        self.examine(data_root)

    def _download(self, loader: Any, data_root: Path) -> None:
        loader(str(data_root), download=True)  # both parts

    def _fetchable(self, lacking: list[Path]) -> None:
        """Passes when there is a network to fetch the files that are missing or not as published."""
        reason = unreachable(self.urls)
        if reason is None:
            return
        corrupt = next((path for path in lacking if path.exists()), None)
        fault = f"{corrupt}: not the published file (MD5 differs)" if corrupt else f"{lacking[0]}: no such file"
        names = ", ".join(path.name for path in lacking)
        raise UserError(
            f"{fault}, and no network to fetch it ({reason}); put {names} from {self.urls[0]} into {lacking[0].parent}"
        )

    def _part(self, loader: Any, data_root: Path, train: bool) -> tuple[Tensor, Tensor]:
        import torch

        images, answers = (data_root / name for name in self.files(train))
        with _blaming(images, "cannot be read"):
            pixels, labels = self.open(loader, data_root, train)
            labels = labels.long()
        if pixels.dtype != torch.uint8 or tuple(pixels.shape[1:]) != self.shape or len(pixels) == 0:
            wanted = ", ".join(map(str, self.shape))
            raise UserError(f"{images}: images uint8 [N, {wanted}] expected, found {pixels.dtype} {list(pixels.shape)}")
        if labels.shape != pixels.shape[:1]:
            raise UserError(f"{answers}: {labels.numel()} labels for {len(pixels)} images")
        wrong = labels[(labels < 0) | (labels >= self.classes)]
        if len(wrong):
            raise UserError(f"{answers}: label {int(wrong[0])}; allowed: 0 <= label <= {self.classes - 1}")
        return pixels.contiguous(), labels


@dataclass(frozen=True)
class _Idx(Source):
    """MNIST's format: four .gz, unpacked into files that no published sum covers.

    Args:
        published: MD5 of the archives, as torchvision has them.
    """

    published: tuple[str, ...] = ()

    def read(self, data_root: Path) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """See `Source`; what is unpacked and as published needs no torchvision, whose import takes a second."""
        try:
            contents = [path.read_bytes() for name in self.unpacked if (path := data_root / name).is_file()]
        except OSError:
            return super().read(data_root)
        if list(map(zlib.crc32, contents)) != [_CONTENT.get(md5) for md5 in self.published]:
            return super().read(data_root)
        images, labels, test_images, test_labels = map(_values, contents)
        return (images.unsqueeze(1), labels.long()), (test_images.unsqueeze(1), test_labels.long())

    def sums(self, loader: Any) -> dict[str, str]:
        return dict(loader.resources)

    def files(self, train: bool) -> tuple[str, str]:
        images, labels = self.unpacked[:2] if train else self.unpacked[2:]
        return images, labels

    def examine(self, data_root: Path) -> None:
        for name in self.unpacked:
            path = data_root / name
            size = path.stat().st_size
            axes = 3 if "images" in path.name else 1
            with path.open("rb") as file:
                magic, *shape = struct.unpack(f">{1 + axes}I", file.read(4 + 4 * axes).ljust(4 + 4 * axes, b"\0"))
            if magic != 0x800 + axes:
                raise UserError(f"{path}: bad magic number {magic:#x}, {0x800 + axes:#x} expected; {_REMEDY}")
            promised = 4 + 4 * axes + (shape[0] * shape[1] * shape[2] if axes == 3 else shape[0])
            if size != promised:
                raise UserError(f"{path}: {size} bytes, but its header promises {promised}; {_REMEDY}")

    def open(self, loader: Any, data_root: Path, train: bool) -> tuple[Tensor, Tensor]:
        part = loader(str(data_root), train=train)
        sums = self.sums(loader)
        for name, values in zip(self.files(train), (part.data, part.targets), strict=True):
            path = data_root / name
            wanted = _CONTENT.get(sums[f"{path.name}.gz"])
            if wanted is not None and _crc(values) != wanted:
                raise UserError(f"{path}: not the published content (CRC-32 differs); {_REMEDY}")
        return part.data.unsqueeze(1), part.targets


@dataclass(frozen=True)
class _Cifar(Source):
    """CIFAR's format: pickles in a .tar.gz. torchvision unpickles nothing before it has checked the sums of all."""

    def sums(self, loader: Any) -> dict[str, str]:
        return {loader.filename: loader.tgz_md5, **dict(loader.train_list), **dict(loader.test_list)}

    def files(self, train: bool) -> tuple[str, str]:
        name = self.unpacked[0 if train else -1]
        return name, name

    def open(self, loader: Any, data_root: Path, train: bool) -> tuple[Tensor, Tensor]:
        import torch

        part = loader(str(data_root), train=train)
        return torch.from_numpy(part.data).permute(0, 3, 1, 2), torch.tensor(part.targets)


@dataclass(frozen=True)
class _Svhn(Source):
    """SVHN's format: a MATLAB file a part, read as it is."""

    def sums(self, loader: Any) -> dict[str, str]:
        return {name: md5 for _, name, md5 in loader.split_list.values()}

    def files(self, train: bool) -> tuple[str, str]:
        name = self.archives[0 if train else 1]
        return name, name

    def open(self, loader: Any, data_root: Path, train: bool) -> tuple[Tensor, Tensor]:
        import torch

        part = loader(str(data_root), split="train" if train else "test")
        return torch.from_numpy(part.data), torch.from_numpy(part.labels)

    def _download(self, loader: Any, data_root: Path) -> None:
        for split in ("train", "test"):
            loader(str(data_root), split=split, download=True)


_PARTS = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
_BATCHES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")

SOURCES: dict[str, Source] = {
    "mnist": _Idx(
        loader="MNIST",
        classes=10,
        shape=(1, 28, 28),
        archives=tuple(f"MNIST/raw/{name}.gz" for name in _PARTS),
        urls=("https://ossci-datasets.s3.amazonaws.com/mnist/", "http://yann.lecun.com/exdb/mnist/"),
        unpacked=tuple(f"MNIST/raw/{name}" for name in _PARTS),
        published=(
            "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "d53e105ee54ea40749a09fcbcd1e9432",
            "9fb629c4189551a2d022fa330f9573f3",
            "ec29112dd5afa0611ce80d1b7f02629c",
        ),
    ),
    "fashion_mnist": _Idx(
        loader="FashionMNIST",
        classes=10,
        shape=(1, 28, 28),
        archives=tuple(f"FashionMNIST/raw/{name}.gz" for name in _PARTS),
        urls=("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
        unpacked=tuple(f"FashionMNIST/raw/{name}" for name in _PARTS),
        published=(
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "25c81989df183df01b3e8a0aad5dffbe",
            "bef4ecab320f06d8554ea6380940ec79",
            "bb300cfdad3c16e7a12a480ee83cd310",
        ),
        flips=True,
    ),
    "cifar10": _Cifar(
        loader="CIFAR10",
        classes=10,
        shape=(3, 32, 32),
        archives=("cifar-10-python.tar.gz",),
        urls=("https://www.cs.toronto.edu/~kriz/",),
        unpacked=tuple(f"cifar-10-batches-py/{name}" for name in _BATCHES),
        flips=True,
    ),
    "cifar100": _Cifar(
        loader="CIFAR100",
        classes=100,
        shape=(3, 32, 32),
        archives=("cifar-100-python.tar.gz",),
        urls=("https://www.cs.toronto.edu/~kriz/",),
        unpacked=("cifar-100-python/train", "cifar-100-python/test"),
        flips=True,
    ),
    "svhn": _Svhn(
        loader="SVHN",
        classes=10,
        shape=(3, 32, 32),
        archives=("train_32x32.mat", "test_32x32.mat"),
        urls=("http://ufldl.stanford.edu/housenumbers/",),
    ),
}

#: MD5 of a published .gz, as torchvision has it -> CRC-32 of the file inside.
_CONTENT = {
    "f68b3c2dcbeaaa9fbdd348bbdeb94873": 0xE9F4D8B3,
    "d53e105ee54ea40749a09fcbcd1e9432": 0xE0CB4AD2,
    "9fb629c4189551a2d022fa330f9573f3": 0x91373BDF,
    "ec29112dd5afa0611ce80d1b7f02629c": 0x4AB9EFF9,
    "8d4fb7e6c68d591d4c3dfef9ec88bf0d": 0xB4F29F28,
    "25c81989df183df01b3e8a0aad5dffbe": 0x741A4657,
    "bef4ecab320f06d8554ea6380940ec79": 0x678FE0B1,
    "bb300cfdad3c16e7a12a480ee83cd310": 0x80142C1F,
}


@cache
def torchvision_datasets() -> Any:
    """`torchvision.datasets`, also where torchvision is built for CUDA and torch is not.

    There torchvision's compiled operators do not load, and its import ends with "operator torchvision::nms does not
    exist", because it adds to two operators that nobody has declared. The data sets need neither; once they are
    declared, the import works. This is the only place that imports torchvision.
    """
    import importlib

    import torch

    try:
        try:
            return importlib.import_module("torchvision.datasets")
        except RuntimeError as error:
            if "torchvision::nms" not in str(error):
                raise
            library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
            _KEPT.append(library)  # collected, it would take its declarations along
            for name in ("nms", "qnms"):
                library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
            return importlib.import_module("torchvision.datasets")
    except (ImportError, RuntimeError) as error:
        raise UserError(f"torchvision does not go with torch {torch.__version__}: {_line(error)}") from error


_KEPT: list[Any] = []


@contextlib.contextmanager
def _blaming(path: Path, fault: str) -> Iterator[None]:
    """Says of whatever torchvision raises over the bytes of a file that the file is to blame."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # an assertion, a KeyError, EOFError, ...: its parsers raise what comes
        if isinstance(error, OSError) and error.strerror:
            raise UserError(f"{error.filename or path}: {error.strerror}") from error
        raise UserError(f"{path}: {fault}: {type(error).__name__}: {_line(error)}") from error


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else f"{text[:297]}..."


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _values(content: bytes) -> Tensor:
    """The values of a whole idx file of bytes."""
    import torch

    axes = content[3]
    shape = struct.unpack_from(f">{axes}I", content, 4)
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=4 + 4 * axes).view(shape)


def _crc(values: Tensor) -> int:
    """CRC-32 of the idx file that holds `values` as bytes."""
    import torch

    header = struct.pack(f">{1 + values.dim()}I", 0x800 + values.dim(), *values.shape)
    return zlib.crc32(values.to(torch.uint8).contiguous().numpy().data, zlib.crc32(header))
