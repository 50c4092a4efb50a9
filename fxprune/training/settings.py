"""How to train: the settings of a run, and its learning rate."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from fxprune.errors import FxpruneValueError

Precision = Literal["float32", "bf16"]
_WHERE = ("workers", "device", "compile", "cuda_graphs", "checkpoint_minutes")


@dataclass(frozen=True)
class Settings:
    """How to train; the same settings take the same steps on one process and on many.

    Batch norms see the images of one process and one part of a step at a time, as in torch's own DDP.

    Attributes:
        epochs: passes over the training images.
        lr: peak learning rate of SGD with Nesterov momentum 0.9; above 0.
        batch_size: images a step, over all processes.
        accumulate: parts that a step's images are computed in, one after the other, to save memory.
        weight_decay: of weights; scales, norms and biases have none.
        label_smoothing: of the cross-entropy.
        shrink_share: the share of all steps after which the target is met.
        distill: the weight, 0 to 1, of learning the teacher's outputs instead of the labels (Hinton et al.,
            arXiv 1503.02531).
        distill_features: the weight, beside the rest of the loss, of the distance from the teacher's feature maps in
            front of layers that change their shape: between stages, and before the classifier
            (:func:`fxprune.training.distillation.stage_ends`). It is in proportion to the learning rate, this at
            the peak.
        temperature: what both networks' logits are divided by for ``distill``.
        recalibrate: training batches from which batch norms measure their statistics anew after training.
        finetune_epochs: epochs after the removal, with a learning rate that starts at a tenth of ``lr``.
        baseline: train the unpruned network too, as long and in the same way, for a fair comparison.
        precision: "float32" or "bf16" (autocast).
        seed: of the data order, the augmentation and dropout.
        compile: train with torch.compile; where layers are steered to zero, from when the targets are met, since each
            change compiles anew.
        cuda_graphs: on one GPU, record a step as CUDA graphs and replay it: faster where images are small.
        workers: processes that decode images.
        device: "auto" (a CUDA GPU if there is one, else the CPU), "cpu", "cuda", "cuda:1", ...
        checkpoint_minutes: how often to save within an epoch; at its end always.
    """

    epochs: int = 10
    lr: float = 0.05
    batch_size: int = 128
    accumulate: int = 1
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0
    shrink_share: float = 0.25
    distill: float = 0.0
    distill_features: float = 0.0
    temperature: float = 4.0
    recalibrate: int = 0
    finetune_epochs: int = 0
    baseline: bool = False
    precision: Precision = "float32"
    seed: int = 0
    compile: bool = False
    cuda_graphs: bool = False
    workers: int = 0
    device: str = "auto"
    checkpoint_minutes: float = 10.0

    def __post_init__(self) -> None:
        if self.batch_size % self.accumulate:
            raise FxpruneValueError(
                f"a batch of {self.batch_size} images cannot be split into {self.accumulate} equal parts"
            )
        if not self.lr > 0:
            raise FxpruneValueError(f"lr is a learning rate above 0; got {self.lr}")
        if self.cuda_graphs and (self.compile or self.accumulate > 1):
            raise FxpruneValueError(
                "cuda_graphs goes neither with compile nor with accumulate: leave one of them out"
            )
        if not 0 < self.shrink_share <= 1:
            raise FxpruneValueError(f"shrink_share is of the steps, above 0 and at most 1; got {self.shrink_share}")
        if not 0 <= self.distill <= 1:
            raise FxpruneValueError(f"distill is a weight between 0 and 1; got {self.distill}")
        if not 0 <= self.distill_features < math.inf:
            raise FxpruneValueError(f"distill_features is a weight of at least 0; got {self.distill_features}")

    @property
    def learns_from_teacher(self) -> bool:
        """Whether the loss needs a teacher."""
        return self.distill > 0 or self.distill_features > 0

    def shared(self) -> dict[str, Any]:
        """Return the settings that a resumed run must share; where it runs may change."""
        return {name: value for name, value in asdict(self).items() if name not in _WHERE}


@dataclass(frozen=True)
class Schedule:
    """A cosine learning rate after a linear warm-up over the first twentieth of all steps."""

    peak: float
    total_steps: int

    def at(self, step: int) -> float:
        """Return the learning rate of step ``step``, counted from 0."""
        warm_up = max(1, self.total_steps // 20)
        if step < warm_up:
            return self.peak * (step + 1) / warm_up
        return self.peak * 0.5 * (1 + math.cos(math.pi * step / self.total_steps))
