"""The classification layer: class centers sharded over ranks, sampled, and the softmax over all of them."""
