"""What pruning costs in accuracy: trainings."""
