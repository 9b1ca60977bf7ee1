"""Pre-training of image backbones on crops without labels: DINO, iBOT and KoLeo."""
