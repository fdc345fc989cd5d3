"""How fast synthetic faces are drawn, and how far one gets with them without learning anything.

    python benchmarks/synthetic_faces.py --json

Drawing: images a second, JPEG encoding and writing included, of one process and of two. The data set that is
drawn for it is then verified by its pixels, by its PCA-whitened pixels (fitted on training images; the best
number of components is reported, chosen on the pairs themselves, so the figure flatters) and by an untrained
network, before and after its BatchNorms have seen images. A fold's threshold is the best of all, not of the
published grid. Where a trained model's checkpoint is
given, its accuracy is beside them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[1] / "src")]

import mxnet as mx  # noqa: E402
import numpy as np  # noqa: E402

import symbol  # noqa: E402
from partial_fc.backbone import Backbone  # noqa: E402
from partial_fc.collectives import SingleProcess  # noqa: E402
from partial_fc.data.decode import decode  # noqa: E402
from partial_fc.data.faces.plan import FaceSetPlan  # noqa: E402
from partial_fc.data.records import RecordSource  # noqa: E402
from partial_fc.data.synthetic_faces import write_synthetic_faces  # noqa: E402
from partial_fc.evaluation.embedding import EmbedFunction  # noqa: E402
from partial_fc.evaluation.model import load_model  # noqa: E402
from partial_fc.evaluation.verification import verify_pairs, verify_set  # noqa: E402
from partial_fc.evaluation.verification_set import VerificationSet, load_bin  # noqa: E402

IMAGE_SIZE = 56
BATCH_SIZE = 50
PCA_IMAGES = 4000
PCA_COMPONENTS = (8, 16, 32, 64, 100, 150, 200, 300, 500, 800)


def parse() -> argparse.Namespace:
    """The command line."""
    plan = FaceSetPlan()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--identities", type=int, default=plan.identities, help="(%(default)s)")
    parser.add_argument(
        "--images-per-identity", type=int, default=plan.images_per_identity, help="(%(default)s)"
    )
    parser.add_argument("--pairs", type=int, default=plan.pairs, help="(%(default)s)")
    parser.add_argument("--seed", type=int, default=plan.seed, help="(%(default)s)")
    parser.add_argument("--checkpoint", metavar="PREFIX,EPOCH", help="a trained model to verify as well")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    return parser.parse_args()


def draw(directory: Path, workers: int, numbers: dict[str, int]) -> float:
    """Images a second, over the whole of writing a data set."""
    start = time.perf_counter()
    write_synthetic_faces(directory, workers=workers, **numbers)
    return len(FaceSetPlan(**numbers)) / (time.perf_counter() - start)


def pixels(images: list[bytes]) -> np.ndarray:
    """(N, 3·56·56) float32."""
    decoded = np.stack([decode(image, (IMAGE_SIZE, IMAGE_SIZE)) for image in images])
    return decoded.reshape(len(images), -1).astype(np.float32)


def accuracy(embeddings_ND: np.ndarray, pairs: VerificationSet) -> float:
    """10-fold accuracy of one embedding an image, in the order of the pairs."""
    return verify_pairs(embeddings_ND[None], pairs.is_same, thresholds=None).accuracy


def pca_accuracies(training_ND: np.ndarray, pairs_ND: np.ndarray, pairs: VerificationSet) -> dict[int, float]:
    """Accuracy of PCA-whitened pixels, by the number of components."""
    mean_D = training_ND.mean(axis=0)
    centered_ND = training_ND - mean_D
    # Of the Gram matrix of images, which is smaller than that of pixels.
    variance, vectors = np.linalg.eigh(centered_ND @ centered_ND.T)
    most = max(PCA_COMPONENTS)
    variance, vectors = variance[::-1][:most], vectors[:, ::-1][:, :most]
    whiten_DC = centered_ND.T @ (vectors / np.maximum(variance, 1e-6))
    whitened_NC = (pairs_ND - mean_D) @ whiten_DC
    return {
        count: accuracy(whitened_NC[:, :count], pairs) for count in PCA_COMPONENTS if count <= len(variance)
    }


def untrained_network(seed: int) -> Backbone:
    """The network `toy` as training starts with it."""
    network = symbol.build_backbone("toy", 256)
    options = {"batch_size": BATCH_SIZE, "image_size": IMAGE_SIZE, "seed": seed}
    return Backbone(network, collectives=SingleProcess(), context=mx.cpu(), **options)


def gather_statistics(backbone: Backbone, training_ND: np.ndarray) -> None:
    """Shows a network images, of which its BatchNorms learn means and variances, and nothing else does."""
    images = training_ND.astype(np.uint8).reshape(-1, IMAGE_SIZE, IMAGE_SIZE, 3)
    for start in range(0, len(images) - BATCH_SIZE + 1, BATCH_SIZE):
        backbone.forward(images[start : start + BATCH_SIZE]).wait_to_read()


def verify_network(embed: EmbedFunction, pairs: VerificationSet) -> float:
    """10-fold accuracy of flip-summed embeddings."""
    options = {"image_size": IMAGE_SIZE, "batch_size": BATCH_SIZE, "collectives": SingleProcess()}
    return verify_set(pairs, embed, thresholds=None, **options).accuracy


def measure(arguments: argparse.Namespace, directory: Path) -> dict[str, object]:
    """Draws twice, into `directory`, and verifies what was drawn."""
    numbers = {
        "identities": arguments.identities,
        "images_per_identity": arguments.images_per_identity,
        "pairs": arguments.pairs,
        "seed": arguments.seed,
    }
    one = draw(directory / "one", 1, numbers)
    two = draw(directory / "two", 2, numbers)
    source, pairs = RecordSource(directory / "two" / "train.rec"), load_bin(directory / "two" / "val.bin")
    chosen = np.random.default_rng(arguments.seed).permutation(len(source))[:PCA_IMAGES]
    training_ND = pixels([source.read(i)[0] for i in chosen])
    source.close()
    pairs_ND = pixels(pairs.images)
    by_components = pca_accuracies(training_ND, pairs_ND, pairs)
    best = max(by_components, key=by_components.__getitem__)
    figures: dict[str, object] = {
        **numbers,
        "images_per_s_1": one,
        "images_per_s_2": two,
        "two_over_one": two / one,
        "bytes_per_image": (directory / "two" / "train.rec").stat().st_size / len(source),
        "raw_accuracy": accuracy(pairs_ND, pairs),
        "raw_centered_accuracy": accuracy(pairs_ND - pairs_ND.mean(axis=1, keepdims=True), pairs),
        "pca_accuracy": by_components[best],
        "pca_components": best,
    }
    backbone = untrained_network(arguments.seed)
    figures["untrained_accuracy"] = verify_network(backbone.embed, pairs)
    gather_statistics(backbone, training_ND)
    figures["untrained_with_statistics_accuracy"] = verify_network(backbone.embed, pairs)
    if arguments.checkpoint:
        model = load_model(arguments.checkpoint, mx.cpu(), BATCH_SIZE, IMAGE_SIZE)
        figures["trained_accuracy"] = verify_network(model.embed, pairs)
    return figures


def main() -> int:
    """Measures and prints."""
    arguments = parse()
    try:
        with tempfile.TemporaryDirectory() as directory:
            figures = measure(arguments, Path(directory))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for name, value in figures.items():
        print(f"{name:<24} {value:.4g}" if isinstance(value, float) else f"{name:<24} {value}")
    if arguments.json:
        print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
