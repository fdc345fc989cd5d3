"""Every recipe a user can name: data set, network and loss, with their hyper-parameters.

``generate_config(loss, dataset, network, head)`` fills ``config``; the options of ``python -m partial_fc.train``
override it, and what is not given on the command line is what is written here. Paths are relative to the
current directory. An *update* is one step of the optimizer on all ranks together.
"""

from __future__ import annotations

from typing import Any

from easydict import EasyDict

# Shared by all recipes; a data set's recipe may override any of them.
COMMON = {
    "dataset": "emore",
    "network": "r100",
    "loss": "cosface",
    "models_root": "models",  # directory that logs and models are written to
    "rec": None,  # path of the training images, train.rec; None: random images, no file
    "data": (),  # in place of rec: any sets of images that partial_fc.data.open_source knows, one after the other
    "shared_labels": False,  # these number one list of identities; else those of different sets are different people
    "val": (),  # paths of the verification sets, .bin
    "num_identities": None,  # classes C; with a train.rec of your own, the number found there counts
    "images_per_identity": None,  # of the data set that this project draws; None: it does not draw this one
    "image_size": 112,  # pixels of a side; larger and smaller images are resized
    "embedding_size": 512,  # numbers in an embedding, D
    "loss_s": 64.0,  # logits are s times the cosine with its margin
    "loss_form": "margin",  # what LOSSES says: a margin, or one that looks at the batch
    "hard_negatives": None,  # what the cosine of a hard negative is multiplied by, t·cos + t − 1: of the loss sv
    "adaface_h": None,  # how far a norm of one standard deviation takes AdaFace's margin
    "filter_cosine": None,  # negatives with a larger cosine are left out: a filter of label noise
    "head": "partial_fc",  # the classifier: class centers, or F²C's pool of features
    "queue_size": None,  # slots of F²C's pool: a number, or a share of the identities as "1%"
    "gallery_momentum": 0.99,  # of F²C's second network, g ← 0.99·g + 0.01·p
    "batch_size": 64,  # images a rank and update
    "sample_ratio": 1.0,  # part of a rank's class centers that takes part in an update, in (0, 1]
    "sample_ratio_steps": (),  # (update, ratio): from which updates on the ratio is another one
    "sampler": "pprn",  # every positive and random negatives; "uniform": purely random
    "lazy_updates": False,  # the other class centers move on by momentum and weight decay, as in the dense update
    "lr": 0.1,  # learning rate of backbone and class centers
    "lr_factor": 0.1,  # what the learning rate is multiplied by at each of lr_steps
    "lr_steps": (),  # updates
    "schedule": "steps",  # how the learning rate falls: steps, polynomial, cosine
    "lr_final": 0.0,  # learning rate at the end of polynomial and cosine
    "lr_power": 2.0,  # of polynomial
    "warmup_updates": 0,  # updates in which the learning rate rises to lr
    "warmup_epochs": 0.0,  # the same in passes over the images; one of the two
    "clip_norm": 0.0,  # largest norm of the backbone's gradient; 0: no clipping
    "accumulate": 1,  # batches that make an update
    "max_skipped_updates": 100,  # in a row, because of numbers that are not finite; one more ends training
    "check_every_updates": 1_000,  # between comparisons of the ranks' backbones; 0: none
    "stall_timeout_seconds": 600.0,  # the longest wait of a rank for others
    "max_update": None,  # updates, after which training ends
    "epochs": None,  # passes over the images, in place of max_update
    "lr_epochs": (),  # and in place of lr_steps
    "stop_update": None,  # save and end at this update of the longer schedule
    "resume": None,  # "auto" or a checkpoint's directory
    "pretrained": None,  # "PREFIX,EPOCH" of a backbone to begin with
    "freeze": (),  # patterns of the backbone's parameters that stay as they are
    "centers": None,  # a checkpoint's directory, whose class centers to begin with
    "identities": None,  # a file: which identities are which of that checkpoint
    "save_every_updates": 2000,  # between checkpoints; 0: at the end alone
    "keep": 3,  # newest checkpoints of the run that stay; 0: all
    "save_memory_mib": 1024,  # for class centers that change before they are written, a rank
    "momentum": 0.9,
    "nesterov": False,  # Nesterov's momentum for the backbone
    "weight_decay": 5e-4,
    "fp16": False,  # mixed precision in the backbone
    "fp16_gradients": False,  # sum the backbone's gradients over ranks in fp16
    "decay_everything": True,  # weight decay on biases, BatchNorm and PReLU slopes too
    "workers": 2,  # threads a rank that decode images
    "augmentation": "mirror=0.5",  # of training images: name=probability[:strength],…, see --help
    "storage": "device:float32/float32",  # class centers: [tier:]weight[/momentum], see --help
    "storage_directory": None,  # of the tier "file"
    "logits_chunk": "auto",  # classes whose logits are kept at once; "all"; "auto": all when they fit
    "seed": 0,
    "log_every_updates": 20,
    "verify_every_updates": 2000,  # 0: verify at the end alone
}

# cos(m1·θ + m2) − m3 at the target: ArcFace (arXiv 1801.07698), CosFace (arXiv 1801.09414), and both at once.
LOSSES: dict[str, dict[str, Any]] = {
    "arcface": {"loss_m1": 1.0, "loss_m2": 0.5, "loss_m3": 0.0},
    "cosface": {"loss_m1": 1.0, "loss_m2": 0.0, "loss_m3": 0.4},
    "combined": {"loss_m1": 1.0, "loss_m2": 0.3, "loss_m3": 0.2},
    # cosface where the cosine is above m3, with hard negatives (arXiv 1812.11317, 1912.00833).
    "sv": {"loss_form": "sv", "loss_m1": 1.0, "loss_m2": 0.0, "loss_m3": 0.4, "hard_negatives": 1.2},
    # For Partial FC alone: m2 is AdaFace's m (arXiv 2204.00964), and CurricularFace's (arXiv 2004.00288).
    "adaface": {"loss_form": "adaface", "loss_m1": 1.0, "loss_m2": 0.4, "loss_m3": 0.0, "adaface_h": 0.333},
    "curricularface": {"loss_form": "curricularface", "loss_m1": 1.0, "loss_m2": 0.5, "loss_m3": 0.0},
}

# Partial FC (arXiv 2010.05222), and F²C (arXiv 2105.10375) with the pools of its paper: 1 %, 0.1 %, 0.001 % of the
# identities.
_F2C = {
    "head": "f2c",
    "loss_s": 32.0,
    "lr": 0.1,
    "nesterov": True,
    "weight_decay": 1e-4,
    "epochs": 19,
    "lr_epochs": (8, 14, 17),
}
HEADS: dict[str, dict[str, Any]] = {
    "partial_fc": {},
    "f2c": {**_F2C, "queue_size": "1%"},
    "f2c-0.1%": {**_F2C, "queue_size": "0.1%"},
    "f2c-0.001%": {**_F2C, "queue_size": "0.001%"},
}

# Pixels of a side of the images that a network takes.
NETWORKS = {
    "r18": 112,
    "r34": 112,
    "r50": 112,
    "r74": 112,
    "r100": 112,
    "r124": 112,
    "r152": 112,
    "r200": 112,
    "ir50": 112,  # r50
    "mobilefacenet": 112,
    "mobile": 112,  # mobilefacenet
    "resnet50": 224,
    "toy": 56,
}


def _val(directory: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{directory}/{name}.bin" for name in names)


def _random_images(num_identities: int) -> dict[str, Any]:
    """Random images with labels over so many identities: they measure speed and memory, and teach nothing."""
    return {"num_identities": num_identities, "lr_steps": (20_000, 28_000), "max_update": 32_000}


DATASETS = {
    # Drawn by this project in a minute; small enough for two CPU cores. For the network `toy`.
    "synthetic": {
        "rec": "datasets/synthetic/train.rec",
        "val": _val("datasets/synthetic", "val"),
        "num_identities": 2_000,
        "images_per_identity": 20,
        "embedding_size": 128,
        "batch_size": 32,
        "lr_steps": (1_000, 1_350),
        "max_update": 1_500,
        "verify_every_updates": 500,
    },
    "webface": {
        "rec": "datasets/webface/train.rec",
        "val": _val("datasets/webface", "lfw", "cfp_fp", "agedb_30"),
        "num_identities": 10_575,
        "lr_steps": (20_000, 28_000),
        "max_update": 32_000,
    },
    "emore": {
        "rec": "datasets/faces_emore/train.rec",
        "val": _val("datasets/faces_emore", "agedb_30", "cfp_fp", "lfw"),
        "num_identities": 85_742,
        "lr_steps": (100_000, 160_000),
        "max_update": 180_000,
    },
    "glint360k_8GPU": {
        "rec": "datasets/glint360k/train.rec",
        "val": _val("datasets/glint360k", "agedb_30", "calfw", "cfp_ff", "cfp_fp", "cplfw", "lfw", "vgg2_fp"),
        "num_identities": 360_232,
        "lr_steps": (200_000, 400_000, 500_000, 550_000),
        "max_update": 600_000,
    },
    "glint360k_16GPU": {
        "rec": "datasets/glint360k/train.rec",
        "val": _val("datasets/glint360k", "agedb_30", "cfp_fp", "lfw"),
        "num_identities": 360_232,
        "lr_steps": (200_000, 280_000, 360_000),
        "max_update": 400_000,
    },
    "100w": _random_images(1_000_000),
    "1000w": _random_images(10_000_000),
    "2000w": _random_images(20_000_000),
    "3000w": _random_images(30_000_000),
    "10000w": _random_images(100_000_000),
}

# F²C's changes to a data set's recipe: where updates are counted, and not passes over the images.
_BY_UPDATES = {"epochs": None, "lr_epochs": ()}
F2C_DATASETS = {
    "synthetic": {**_BY_UPDATES, "queue_size": "10%"},  # 1 % of so few identities is less than a batch
    **{name: _BY_UPDATES for name, recipe in DATASETS.items() if "rec" not in recipe},
}

config = EasyDict(COMMON)


def generate_config(loss: str, dataset: str, network: str, head: str = "partial_fc") -> EasyDict:
    """The configuration of a recipe.

    Args:
        loss: a name in ``LOSSES``.
        dataset: a name in ``DATASETS``.
        network: a name in ``NETWORKS``.
        head: a name in ``HEADS``.

    Returns:
        a new EasyDict that holds every field of ``COMMON`` and the loss's margins. The module's ``config``
        receives the same values, all of them: nothing of the recipe before it is left there.

    Raises:
        ValueError: a name is unknown.
    """
    recipe = EasyDict(COMMON)
    recipe.update(dataset=dataset, network=network, loss=loss)
    recipe.update(image_size=_find("network", network, NETWORKS))
    recipe.update(_find("loss", loss, LOSSES))
    recipe.update(_find("data set", dataset, DATASETS))
    recipe.update(_find("head", head, HEADS))
    if recipe.head == "f2c":
        changes = F2C_DATASETS.get(dataset, {})
        recipe.update({name: value for name, value in changes.items() if head == "f2c" or name != "queue_size"})
    config.update(recipe)
    return recipe


def _find(kind: str, name: str, known: dict[str, Any]) -> Any:
    if name not in known:
        raise ValueError(f"unknown {kind} {name!r}: choose one of {', '.join(known)}")
    return known[name]
