"""A model as evaluation targets see it: lists of images in, embeddings out, on all ranks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from partial_fc.collectives import Collectives, together
from partial_fc.evaluation.embedding import IMAGE, MIRROR, check_embeddings, embed_images
from partial_fc.evaluation.images import Images


class Model(Protocol):
    """An image model, for batches of one shape.

    Attributes:
        batch_size: B.
        image_size: S.
        embedding_size: D.
    """

    batch_size: int
    image_size: int
    embedding_size: int

    def embed(self, images_BHWC: np.ndarray) -> np.ndarray:
        """`embeddings_BD` float32, as the model gives them (not normalised), of uint8 RGB (B, S, S, 3)."""
        ...


@dataclass(frozen=True)
class Embedder:
    """A model and the ranks that share its work.

    Attributes:
        name: of the model, heads its rows in a report.
    """

    name: str
    model: Model
    collectives: Collectives

    def embed(self, images: Images, *, flip: bool = True) -> np.ndarray:
        """`embeddings_VND` float32, on every rank, as the model gives them: neither summed nor normalised, none zero or
        not finite.

        View 0 is of the images, view 1 (with `flip`, V = 2; without, V = 1) of their mirrors. The same to the bit
        on any number of ranks. Every rank calls it, with the same list.

        Raises:
            RankError: on every rank, when on any an image cannot be read, decoded or aligned, the model does not
                give (B, D), or an embedding is zero or not
                finite.
        """
        embeddings_VND = embed_images(
            images,
            self.model.embed,
            image_size=self.model.image_size,
            batch_size=self.model.batch_size,
            collectives=self.collectives,
            views=(IMAGE, MIRROR) if flip else (IMAGE,),
        )
        with together(self.collectives, f"check.{images.name}"):
            check_embeddings(images, embeddings_VND)
        return embeddings_VND
