"""Means of what the steps of a run measure."""

import math
from dataclasses import dataclass, field


@dataclass(slots=True)
class RunningMeans:
    """Running sums of what a step measured."""

    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, **values: float) -> None:
        """Count one step's values; NaN means there was nothing to measure."""
        for name, value in values.items():
            if not math.isnan(value):
                self.sums[name] = self.sums.get(name, 0.0) + value
                self.counts[name] = self.counts.get(name, 0) + 1

    def means(self) -> dict[str, float]:
        """Means since the last call."""
        means = {name: total / self.counts[name] for name, total in self.sums.items()}
        self.sums.clear()
        self.counts.clear()
        return means
