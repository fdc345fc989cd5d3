"""Training data: image sources, decoding, the order of an epoch, augmentation, batches."""
