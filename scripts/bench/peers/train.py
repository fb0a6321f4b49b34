"""The peer of P7: MNIST with Lightning, torchvision, torchmetrics and Hydra, as users of that stack write it.

    python train.py -m hydra/launcher=joblib hydra.launcher.n_jobs=2 model.net.dropout=0.1,0.2 'seed=range(8)'

What it does and its defaults are those of https://github.com/ashleve/lightning-hydra-template (per-sample transforms,
num_workers=0, Adam, torchmetrics, best and last checkpoint, early stopping, a rich progress bar), with dropout added to
its net, its figures written by the CSV logger, and the published test set kept whole.
"""

from __future__ import annotations

import hydra
from omegaconf import DictConfig


@hydra.main(version_base="1.3", config_path=".", config_name="config")
def main(config: DictConfig) -> float:
    """Trains one run, tests its best weights, and returns the best validation accuracy."""
    import vision  # noqa: F401, I001 - before what imports torchvision, in the processes of joblib too
    import lightning

    lightning.seed_everything(config.seed, workers=True)
    data = hydra.utils.instantiate(config.data)
    model = hydra.utils.instantiate(config.model)
    callbacks = [hydra.utils.instantiate(callback) for callback in config.callbacks.values()]
    logger = hydra.utils.instantiate(config.logger)
    trainer = hydra.utils.instantiate(config.trainer, callbacks=callbacks, logger=logger)
    trainer.fit(model, datamodule=data)
    best = trainer.callback_metrics["val/acc_best"].item()
    selected = trainer.checkpoint_callback.best_model_path
    trainer.test(model, datamodule=data, ckpt_path=selected, weights_only=False)  # it holds hyperparameters too
    return best


if __name__ == "__main__":
    main()
