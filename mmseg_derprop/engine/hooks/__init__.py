"""Hooks of semi-supervised training."""
