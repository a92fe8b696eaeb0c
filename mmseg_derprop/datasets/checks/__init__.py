"""Checks of images, labels and lists before and while they are used."""
