"""What every room uses: configs, checks of options, randomness, checkpoints read as data."""
