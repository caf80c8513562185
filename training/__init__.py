"""MNIST in, TorchScript out."""
