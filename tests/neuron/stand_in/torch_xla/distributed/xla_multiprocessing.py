"""Imported by accelerate, where it is installed; used only in distributed runs."""
