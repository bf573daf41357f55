"""Parts of the mini CLIP's training: towers, losses, optimisation, data and validation."""
