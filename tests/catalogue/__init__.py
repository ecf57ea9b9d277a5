"""The catalogue of training steps, by theme. `steps.CATALOGUE` holds them all."""
