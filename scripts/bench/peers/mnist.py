"""Data, net and training of the peer, as users of Lightning write them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, random_split
from torchmetrics import MaxMetric, MeanMetric
from torchmetrics.classification import Accuracy
from torchvision import transforms
from torchvision.datasets import MNIST


class MNISTDataModule(LightningDataModule):
    """MNIST: a part of its 60,000 images trains, the rest selects; the published 10,000 test."""

    def __init__(
        self, data_dir: str, train_val_split: Sequence[int], batch_size: int, num_workers: int, pin_memory: bool
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.transforms = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
        self.data_train: Dataset[Any] | None = None
        self.data_val: Dataset[Any] | None = None
        self.data_test: Dataset[Any] | None = None

    def prepare_data(self) -> None:
        """Downloads what is missing."""
        MNIST(self.hparams.data_dir, train=True, download=True)
        MNIST(self.hparams.data_dir, train=False, download=True)

    def setup(self, stage: str | None = None) -> None:
        """Loads and splits, once."""
        if self.data_train is None:
            published = MNIST(self.hparams.data_dir, train=True, transform=self.transforms)
            self.data_train, self.data_val = random_split(
                published, self.hparams.train_val_split, generator=torch.Generator().manual_seed(42)
            )
            self.data_test = MNIST(self.hparams.data_dir, train=False, transform=self.transforms)

    def _loader(self, data: Dataset[Any] | None, shuffle: bool = False) -> DataLoader[Any]:
        return DataLoader(
            data,
            batch_size=self.hparams.batch_size,
            num_workers=self.hparams.num_workers,
            pin_memory=self.hparams.pin_memory,
            shuffle=shuffle,
        )

    def train_dataloader(self) -> DataLoader[Any]:
        """In a new order every epoch."""
        return self._loader(self.data_train, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        """In order."""
        return self._loader(self.data_val)

    def test_dataloader(self) -> DataLoader[Any]:
        """In order."""
        return self._loader(self.data_test)


class DenseNet(nn.Module):
    """Linear, batch norm, ReLU, dropout for each width; then a linear output layer."""

    def __init__(self, input_size: int, widths: Sequence[int], output_size: int, dropout: float) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        sizes = [input_size, *widths]
        for inputs, outputs in zip(sizes, widths, strict=False):
            layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU(), nn.Dropout(dropout)]
        self.model = nn.Sequential(*layers, nn.Linear(sizes[-1], output_size))

    def forward(self, images: Tensor) -> Tensor:
        """[batch, 1, 28, 28] to [batch, 10]."""
        return self.model(images.view(images.size(0), -1))


class MNISTLitModule(LightningModule):
    """Classification with cross entropy, loss and accuracy of every split, and the best validation accuracy so far."""

    def __init__(
        self, net: nn.Module, optimizer: Callable[..., torch.optim.Optimizer], scheduler: Callable[..., Any]
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False, ignore=["net"])
        self.net = net
        self.criterion = nn.CrossEntropyLoss()
        self.train_acc, self.val_acc, self.test_acc = (Accuracy(task="multiclass", num_classes=10) for _ in range(3))
        self.train_loss, self.val_loss, self.test_loss = MeanMetric(), MeanMetric(), MeanMetric()
        self.val_acc_best = MaxMetric()

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        return self.net(images)

    def on_train_start(self) -> None:
        """Forgets what the sanity check left in the metrics."""
        self.val_loss.reset()
        self.val_acc.reset()
        self.val_acc_best.reset()

    def model_step(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, predicted and true classes."""
        images, labels = batch
        logits = self.forward(images)
        return self.criterion(logits, labels), torch.argmax(logits, dim=1), labels

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """One batch of the training set."""
        loss, predicted, labels = self.model_step(batch)
        self.train_loss(loss)
        self.train_acc(predicted, labels)
        self.log("train/loss", self.train_loss, on_step=False, on_epoch=True, prog_bar=True)
        self.log("train/acc", self.train_acc, on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """One batch of the validation set."""
        loss, predicted, labels = self.model_step(batch)
        self.val_loss(loss)
        self.val_acc(predicted, labels)
        self.log("val/loss", self.val_loss, on_step=False, on_epoch=True, prog_bar=True)
        self.log("val/acc", self.val_acc, on_step=False, on_epoch=True, prog_bar=True)

    def on_validation_epoch_end(self) -> None:
        """Keeps the best accuracy."""
        self.val_acc_best(self.val_acc.compute())
        self.log("val/acc_best", self.val_acc_best.compute(), sync_dist=True, prog_bar=True)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """One batch of the test set."""
        loss, predicted, labels = self.model_step(batch)
        self.test_loss(loss)
        self.test_acc(predicted, labels)
        self.log("test/loss", self.test_loss, on_step=False, on_epoch=True, prog_bar=True)
        self.log("test/acc", self.test_acc, on_step=False, on_epoch=True, prog_bar=True)

    def configure_optimizers(self) -> dict[str, Any]:
        """Optimizer and scheduler, which watches the validation loss."""
        optimizer = self.hparams.optimizer(params=self.parameters())
        scheduler = self.hparams.scheduler(optimizer=optimizer)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "monitor": "val/loss", "interval": "epoch", "frequency": 1},
        }
