"""Training: losses, backward, optimizers, acceptance, the trainer."""
