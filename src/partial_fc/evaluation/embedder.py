"""A model as evaluation targets see it: lists of images in, embeddings out, on all ranks."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from partial_fc.collectives import Collectives, together
from partial_fc.evaluation.embedding import IMAGE, MIRROR, check_embeddings, embed_images
from partial_fc.evaluation.embedding_cache import EmbeddingCache, cache_key, from_first_rank, list_digest
from partial_fc.evaluation.images import Images

logger = logging.getLogger("partial_fc")


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
        cache: where embeddings are kept; None keeps none.
        digest: of all that the model's embeddings depend on besides the image; needed by the cache.
    """

    name: str
    model: Model
    collectives: Collectives
    cache: EmbeddingCache | None = None
    digest: str = ""

    def embed(self, images: Images, *, flip: bool = True) -> np.ndarray:
        """`embeddings_VND` float32, on every rank, as the model gives them: neither summed nor normalised, none zero or
        not finite.

        View 0 is of the images, view 1 (with `flip`, V = 2; without, V = 1) of their mirrors. The same to the bit
        on any number of ranks. Every rank calls it, with the same list.

        Raises:
            RankError: on every rank, when on any an image cannot be read, decoded or aligned, the model does not
                give (B, D), or an embedding is zero or not finite.
        """
        views = (IMAGE, MIRROR) if flip else (IMAGE,)
        content = list_digest(images, self.collectives) if self.cache is not None else ""
        embeddings_VND: np.ndarray | None = None
        missing = []
        for place, mirrored in enumerate(views):
            kept_ND = self._load(images, mirrored, content)
            if kept_ND is None:
                missing.append(place)
                continue
            if embeddings_VND is None:
                embeddings_VND = np.empty((len(views), *kept_ND.shape), np.float32)
            embeddings_VND[place] = kept_ND
        if missing:
            computed_VND = self._compute(images, [views[place] for place in missing])
            self._save([views[place] for place in missing], content, computed_VND)
            if embeddings_VND is None:
                return computed_VND
            embeddings_VND[missing] = computed_VND
        return embeddings_VND

    def _compute(self, images: Images, views: Sequence[bool]) -> np.ndarray:
        embeddings_VND = embed_images(
            images,
            self.model.embed,
            image_size=self.model.image_size,
            batch_size=self.model.batch_size,
            collectives=self.collectives,
            views=views,
        )
        with together(self.collectives, f"check.{images.name}"):
            check_embeddings(images, embeddings_VND)
        return embeddings_VND

    def _load(self, images: Images, mirrored: bool, content: str) -> np.ndarray | None:
        """What the cache of rank 0 has of a view, on every rank."""
        if self.cache is None:
            return None
        own_ND = None
        if self.collectives.rank == 0:
            own_ND = self.cache.load(cache_key(self.digest, mirrored, content))
            if own_ND is not None:
                what = "mirrors" if mirrored else "images"
                logger.info("%s: embeddings of the %s by %s come from the cache", images.name, what, self.name)
        return from_first_rank(own_ND, f"cache.{images.name}", self.collectives)

    def _save(self, views: Sequence[bool], content: str, embeddings_VND: np.ndarray) -> None:
        if self.cache is not None and self.collectives.rank == 0:
            for mirrored, embeddings_ND in zip(views, embeddings_VND, strict=True):
                self.cache.save(cache_key(self.digest, mirrored, content), embeddings_ND)
