"""`python -m partial_fc.embed`: a whole set of images to one file of embeddings, by all ranks, in parts that last."""
