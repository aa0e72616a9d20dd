"""Part of torch-xla."""
