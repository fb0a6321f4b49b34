"""Images that torchvision knows: MNIST, Fashion-MNIST, CIFAR-10, CIFAR-100, SVHN."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from dropbench.data import Data, Dataset, Split
from dropbench.data.archives import SOURCES
from dropbench.spec import Facts, Range

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from dropbench.streams import Streams

_PAD = 4


@dataclass(frozen=True)
class Vision(Dataset):
    """Real images, decoded once and kept in memory.

    Grey sets (mnist, fashion_mnist: 1x28x28) have values in [0, 1]. Colour sets (cifar10, cifar100, svhn: 3x32x32) are
    standardised, `(x - mean) / deviation` for each channel, with the figures of the images that train.

    `validation_size` images of the published training set select, the rest trains; both stratified by class and the
    same for every run. The test set is the published one.

    Augmentation, of training batches alone: pad with 4 zeros on every side (after standardising: the mean colour), crop
    at a random place and, but for digits (mnist, svhn), mirror half of the images.

    Args:
        source: which set, as torchvision has it.
        train_size: images that train, a stratified part of what is left; null: all of it.
        validation_size: images that select, cut from the training set.
        augment: crop and mirror training images.

    Sources: LeCun, Cortes, Burges 1998; Xiao, Rasul, Vollgraf 2017; Krizhevsky 2009; Netzer et al. 2011; augmentation,
    He, Zhang, Ren, Sun, "Deep residual learning for image recognition", CVPR 2016, section 4.2.
    """

    source: Literal["mnist", "fashion_mnist", "cifar10", "cifar100", "svhn"] = "mnist"
    train_size: Annotated[int, Range(1, 10**6)] | None = None
    validation_size: Annotated[int, Range(1, 10**6)] = 5000
    augment: bool = False

    def check(self, data_root: Path) -> None:
        """The files are there, or a host that has them answers."""
        SOURCES[self.source].check(data_root)

    def load(self, data_root: Path) -> Data:
        """Fetches and unpacks what is missing, reads, checks and decodes it."""
        source = SOURCES[self.source]
        (pixels, labels), (test_pixels, test_labels) = source.read(data_root)
        from dropbench.data.splits import divide

        train, validation = divide(labels, self.validation_size, self.train_size)
        chosen, colour = pixels[train], source.shape[0] == 3
        mean, deviation = _figures(chosen) if colour else (None, None)

        def decode(images: Tensor) -> Tensor:
            values = images.float().div_(255)
            return values if mean is None or deviation is None else values.sub_(mean).div_(deviation)

        return Data(
            Facts("image", source.shape, "classification", source.classes),
            Split(decode(chosen), labels[train]),
            Split(decode(pixels[validation]), labels[validation]),
            Split(decode(test_pixels), test_labels),
            Jitter(source.flips) if self.augment else None,
        )


@dataclass(frozen=True)
class Jitter:
    """Random crops of padded images and, if `flips`, random mirror images."""

    flips: bool

    def __call__(self, inputs: Tensor, streams: Streams, step: int) -> Tensor:
        """[R, batch, channels, rows, columns] to the same shape; every image of every run draws its own."""
        import torch
        from torch.nn.functional import pad

        _, batch, channels, height, width = inputs.shape
        corner = streams.integers("augment", step, "crop", 2 * _PAD + 1, (batch, 2))
        rows = corner[..., :1] + torch.arange(height, device=inputs.device)
        columns = corner[..., 1:] + torch.arange(width, device=inputs.device)
        if self.flips:
            mirrored = streams.integers("augment", step, "mirror", 2, (batch, 1)) == 1
            columns = torch.where(mirrored, columns.flip(-1), columns)
        index = rows[..., :, None] * (width + 2 * _PAD) + columns[..., None, :]
        index = index.flatten(2).unsqueeze(2).expand(-1, -1, channels, -1)
        return pad(inputs, (_PAD,) * 4).flatten(3).gather(3, index).view_as(inputs)


def _figures(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each channel, [channels, 1, 1], of pixel values in [0, 1]; exact, from counts of bytes."""
    import torch

    counts = torch.stack([pixels[:, channel].flatten().bincount(minlength=256) for channel in range(pixels.shape[1])])
    values = torch.arange(256, dtype=torch.float64) / 255
    share = counts.double() / counts.sum(1, keepdim=True)
    mean = share @ values
    deviation = (share @ values.square() - mean.square()).clamp(min=0).sqrt()
    deviation[deviation < 1e-3] = 1  # a channel without contrast
    return mean.float().view(-1, 1, 1), deviation.float().view(-1, 1, 1)
