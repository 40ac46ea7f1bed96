"""The training loop and its losses, over plain PyTorch modules; knows nothing of runs or pages."""
