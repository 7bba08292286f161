"""Training: the losses, the discriminator, and an iteration of a stage. jobs/train.py runs it."""

from vidtok_model.training.options import AdversarialOptions, TrainingOptions
from vidtok_model.training.trainer import Trainer

__all__ = ["AdversarialOptions", "Trainer", "TrainingOptions"]
