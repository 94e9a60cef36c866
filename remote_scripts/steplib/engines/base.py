"""What a dose engine gets and gives, and the statistics that all of them share.

Every engine simulates the beam in independent batches with seeds of their own. The dose is the batches' mean, its
uncertainty the standard deviation of that mean; so an engine's own idea of its uncertainty is not needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Optional, Tuple

import numpy as np

from ..beam_model import BeamModel, Shifter
from ..geometry import BeamFrame
from ..phantom import Phantom
from ..spots import Spots

EV_J = 1.602176634e-19  # CODATA 2018, exact


@dataclass(frozen=True)
class ShifterInBeam:
    """The range shifter that some layers of a beam pass: ID, material, WET in mm, isocentre to near face in mm."""

    identifier: str
    shifter: Shifter
    wet_mm: float
    isocentre_distance_mm: float


@dataclass(frozen=True)
class Task:
    """One set of spots to be simulated.

    `source_mm`: scanning magnets to isocentre (x, y). `primaries`: protons to simulate in all batches together.
    `work`: an empty folder. `told(share, message)`: progress.
    """

    spots: Spots
    frame: BeamFrame
    phantom: Phantom
    model: BeamModel
    source_mm: Tuple[float, float]
    shifter: Optional[ShifterInBeam]
    primaries: int
    batches: int
    threads: int
    seed: int
    work: Path
    told: Callable[[float, str], None]

    @property
    def protons(self) -> float:
        """Protons of one fraction, as the nozzle delivers them."""
        return float(self.spots.protons.sum())


@dataclass(frozen=True)
class Dose:
    """Dose to water and its standard deviation in Gy of one fraction, float32 (nz, ny, nx) on the phantom's grid.

    `primaries`: simulated; `generated_outside`: those of them that missed the grid. `facts`: for summary.json.
    """

    dose_gy: Any
    sigma_gy: Any
    primaries: int
    generated_outside: int
    facts: Dict[str, Any]

    @property
    def uncertainty_percent(self) -> float:
        """Mean of sigma over dose where the dose is above half of its maximum."""
        high = self.dose_gy > 0.5 * self.dose_gy.max()
        return float(100.0 * np.mean(self.sigma_gy[high] / self.dose_gy[high])) if high.any() else 100.0


class BatchMean:
    """Mean over batches and the standard deviation of that mean (Welford 1962), without keeping the batches."""

    def __init__(self, shape: Tuple[int, ...]) -> None:
        self.count = 0
        self._mean = np.zeros(shape)
        self._squares = np.zeros(shape)

    def add(self, values: Any) -> None:
        """Takes the next batch; all batches weigh the same."""
        self.count += 1
        off = values - self._mean
        self._mean += off / self.count
        self._squares += off * (values - self._mean)

    def result(self) -> Tuple[Any, Any]:
        """(mean, standard deviation of the mean), float32. Needs two batches."""
        deviation = np.sqrt(self._squares / (self.count - 1) / self.count)
        return self._mean.astype(np.float32), deviation.astype(np.float32)
