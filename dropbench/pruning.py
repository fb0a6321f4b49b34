"""What is left of a net when the least of it is cut after training: `evaluation.prune`.

The rule is that of targeted dropout: the smallest norms go (Gomez et al., 2019), whatever strategy trained the net.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dropbench.noise import Perturbation
from dropbench.ranking import by_unit, from_unit, least

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from dropbench.acting import NoiseFn
    from dropbench.models import Parameter
    from dropbench.spec import Scene, Site


def without_weights(params: Mapping[str, Tensor], declared: Mapping[str, Parameter], share: float) -> dict[str, Tensor]:
    """The parameters with the `share` of smallest |w| into every hidden unit set to 0; the output layer stays whole."""
    pruned = dict(params)
    for name, item in declared.items():
        if item.unit_axis is None:
            continue
        weight = params[name].detach()
        kept = _kept(by_unit(weight, item.unit_axis).abs(), share)
        pruned[name] = weight * from_unit(kept, weight, item.unit_axis)
    return pruned


@dataclass
class WithoutUnits:
    """The `NoiseFn` under which the `share` of units with the smallest incoming norm is 0 at every hidden site.

    Args:
        noise: what stands at the sites otherwise.
        kept: by site, [R, units]: 1 or 0.
        sites: by name.
    """

    noise: NoiseFn
    kept: Mapping[str, Tensor]
    sites: Mapping[str, Site]

    def __call__(self, site: str, value: Tensor, drive: Tensor | None = None) -> Tensor:
        """See `NoiseFn`."""
        return self._cut(site, self.noise(site, value, drive))

    def perturbation(self, site: str, shape: tuple[int, ...], drive: Tensor | None = None) -> Perturbation | None:
        """See `NoiseFn`; inside a recurrent layer the units are cut where their state is read."""
        perturbation = self.noise.perturbation(site, shape, drive)
        if site not in self.kept:
            return perturbation
        if perturbation is None:
            return Perturbation(self._along(site))
        return Perturbation(
            self._cut(site, perturbation.scale), perturbation.mix, perturbation.shift, perturbation.readout
        )

    def _cut(self, site: str, value: Tensor) -> Tensor:
        return value * self._along(site) if site in self.kept else value

    def _along(self, site: str) -> Tensor:
        kept = self.kept[site]
        return kept.view(len(kept), *(kept.shape[1] if axis == "unit" else 1 for axis in self.sites[site].axes))


def without_units(noise: NoiseFn, sites: Sequence[Site], scene: Scene, share: float) -> WithoutUnits:
    """Chooses the units that are cut: of hidden layers and of recurrent states."""
    chosen = {site.name: site for site in sites if site.kind in ("hidden", "state")}
    norms = {name: scene.norms(site) for name, site in chosen.items()}
    kept = {name: _kept(norm.unsqueeze(1), share).squeeze(1) for name, norm in norms.items() if norm is not None}
    return WithoutUnits(noise, kept, chosen)


def _kept(scores: Tensor, share: float) -> Tensor:
    """1 for the larger scores along the last axis [R, rows, n], 0 for the `share` of smallest ones."""
    counts = scores.new_full((len(scores),), round(share * scores.shape[-1]))
    return 1 - least(scores, counts)
