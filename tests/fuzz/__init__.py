"""Random training steps: each equal to the full batch, or refused by an error of ours."""
