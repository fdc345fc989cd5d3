"""A training run, described: the recipe of ``default.py``, changed by the command line, and checked."""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import default
from partial_fc.augmentation import Augmentation
from partial_fc.center_storage import Storage
from partial_fc.config_f2c import check_f2c, queue_size

EMBEDDED_DATASET = "synthetic"
UNCOUNTED = 2**62
"""The last update of a run of so many epochs, until its images are counted."""
SHAPES = ("steps", "polynomial", "cosine")
"""Of the learning rate: partial_fc.schedule has their equations."""


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides a run, ranks and machine aside. Units are in the names or in :data:`OPTIONS`.

    ``num_identities`` and ``images_per_identity`` are None where the images themselves decide them. ``max_update`` and
    ``lr_steps`` follow from ``epochs`` and ``lr_epochs``, where these are given, when the images are counted
    (:meth:`with_updates`).

    Raises:
        ValueError: a value out of its range; the message says which option to set.
    """

    dataset: str
    network: str
    loss: str
    models_root: Path
    rec: Path | None
    data: tuple[Path, ...]
    shared_labels: bool
    val: tuple[Path, ...]
    num_identities: int | None
    images_per_identity: int | None
    margins: tuple[float, float, float]
    scale: float
    loss_form: str
    hard_negatives: float | None
    adaface_h: float | None
    filter_cosine: float | None
    head: str
    queue_size: int | str | None
    gallery_momentum: float
    sample_ratio: float
    sample_ratio_steps: tuple[tuple[int, float], ...]
    sampler: str
    lazy_updates: bool
    batch_size: int
    max_update: int
    epochs: float | None
    lr_epochs: tuple[float, ...]
    stop_update: int | None
    resume: str | None
    pretrained: str | None
    freeze: tuple[str, ...]
    centers: Path | None
    identities: Path | None
    save_every_updates: int
    keep: int
    save_memory_mib: int
    fp16: bool
    fp16_gradients: bool
    decay_everything: bool
    storage: Storage
    logits_chunk: int | str
    embedding_size: int
    image_size: int
    seed: int
    lr: float
    lr_factor: float
    lr_steps: tuple[int, ...]
    schedule: str
    lr_final: float
    lr_power: float
    warmup_updates: int
    warmup_epochs: float
    clip_norm: float
    accumulate: int
    max_skipped_updates: int
    check_every_updates: int
    stall_timeout_seconds: float
    momentum: float
    nesterov: bool
    weight_decay: float
    workers: int
    augmentation: Augmentation
    log_every_updates: int
    verify_every_updates: int

    def __post_init__(self) -> None:
        _require(0.0 < self.sample_ratio <= 1.0, "--sample-ratio must lie in (0, 1]", self.sample_ratio)
        ratios = ",".join(f"{update}:{ratio}" for update, ratio in self.sample_ratio_steps)
        updates = [update for update, _ in self.sample_ratio_steps]
        _require(
            updates == sorted(set(updates)) and all(update >= 1 for update in updates),
            "--sample-ratio-steps must be at ascending updates from 1 on",
            ratios,
        )
        _require(
            all(0.0 < ratio <= 1.0 for _, ratio in self.sample_ratio_steps),
            "--sample-ratio-steps must be of ratios in (0, 1]",
            ratios,
        )
        _require(self.sampler in ("pprn", "uniform"), "--sampler must be pprn or uniform", self.sampler)
        _require(
            self.filter_cosine is None or -1.0 < self.filter_cosine < 1.0,
            "--filter-cosine must lie in (-1, 1)",
            self.filter_cosine,
        )
        _require(
            self.sampler == "pprn" or self.loss_form not in ("sv", "curricularface"),
            f"--sampler must be pprn for --loss {self.loss}, which needs every sample's class",
            self.sampler,
        )
        _require(self.lr > 0.0 and math.isfinite(self.lr), "--lr must be positive", self.lr)
        _require(
            list(self.lr_steps) == sorted(set(self.lr_steps)) and all(step >= 1 for step in self.lr_steps),
            "--lr-steps must be ascending updates from 1 on",
            ",".join(map(str, self.lr_steps)),
        )
        _require(self.schedule in SHAPES, f"--schedule must be one of {', '.join(SHAPES)}", self.schedule)
        _require(0.0 <= self.lr_final <= self.lr, f"--lr-final must lie in [0, {self.lr}] (--lr)", self.lr_final)
        _require(0.0 < self.lr_power < math.inf, "--lr-power must be positive", self.lr_power)
        _require(0.0 <= self.warmup_epochs < math.inf, "--warmup-epochs must not be negative", self.warmup_epochs)
        _require(
            not (self.warmup_updates and self.warmup_epochs),
            "--warmup-updates or --warmup-epochs must be 0: one of them says how long the warm-up takes",
            f"{self.warmup_updates} and {self.warmup_epochs}",
        )
        _require(0.0 <= self.clip_norm < math.inf, "--clip-norm must be positive, or 0 for none", self.clip_norm)
        timeout = self.stall_timeout_seconds
        _require(5.0 <= timeout < math.inf, "--stall-timeout-seconds must be at least 5", timeout)
        for name in ("warmup_updates", "max_skipped_updates", "check_every_updates"):
            _require(getattr(self, name) >= 0, f"{_option(name)} must not be negative", getattr(self, name))
        for name in ("batch_size", "max_update", "embedding_size", "workers", "log_every_updates", "accumulate"):
            _require(getattr(self, name) >= 1, f"{_option(name)} must be at least 1", getattr(self, name))
        _require(
            self.logits_chunk in ("auto", "all") or (isinstance(self.logits_chunk, int) and self.logits_chunk >= 1),
            "--logits-chunk must be a number of classes from 1 on, or all, or auto",
            self.logits_chunk,
        )
        check_f2c(self)
        _require(self.image_size >= 16, "--image-size must be at least 16 pixels", self.image_size)
        for name in ("save_every_updates", "keep"):
            _require(getattr(self, name) >= 0, f"{_option(name)} must not be negative", getattr(self, name))
        _require(self.save_memory_mib >= 1, "--save-memory-mib must be at least 1", self.save_memory_mib)
        _require(
            self.centers is None or self.pretrained is not None,
            "--centers needs the backbone that they were trained with (--pretrained), but --pretrained",
            "not given",
        )
        _require(
            self.centers is None or self.head == "partial_fc",
            "--centers are those of the head partial_fc, but --head",
            self.head,
        )
        _require(
            self.identities is None or self.centers is not None,
            "--identities needs the class centers that it speaks of (--centers), but --centers",
            "not given",
        )
        stop = self.stop_update
        _require(
            stop is None or 1 <= stop <= self.max_update, f"--stop-update must lie in [1, {self.max_update}]", stop
        )
        every = self.verify_every_updates
        _require(every >= 0, "--verify-every-updates must not be negative", every)
        _require(0 <= self.seed < 2**63, "--seed must lie in [0, 2^63)", self.seed)
        names = [path.stem for path in self.val]
        _require(len(names) == len(set(names)), "--val must name sets of different names", ", ".join(names))

    @property
    def last_update(self) -> int:
        """The update at which this run ends, which may come before the schedule's end."""
        return self.max_update if self.stop_update is None else self.stop_update

    @property
    def largest_sample_ratio(self) -> float:
        """Of the whole run: what decides its memory."""
        return max([self.sample_ratio, *(ratio for _, ratio in self.sample_ratio_steps)])

    @property
    def run_directory(self) -> Path:
        """Where the run's logs and models go: ``<models-root>/<network>-<loss>-<dataset>``, and ``-f2c`` with F²C."""
        head = "" if self.head == "partial_fc" else f"-{self.head}"
        return self.models_root / f"{self.network}-{self.loss}-{self.dataset}{head}"

    @property
    def backbone_batch_size(self) -> int:
        """The images that go through the backbone at a time: B, or F²C's 1.5·B."""
        return self.batch_size if self.head == "partial_fc" else 3 * self.batch_size // 2

    def with_updates(self, updates_per_epoch: int) -> RunConfig:
        """The same run with its epochs counted in updates."""
        if self.epochs is None:
            return self
        steps = tuple(round(epoch * updates_per_epoch) for epoch in self.lr_epochs)
        return dataclasses.replace(self, max_update=round(self.epochs * updates_per_epoch), lr_steps=steps)

    def as_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {field.name: _as_json(getattr(self, field.name)) for field in dataclasses.fields(self)}

    def __str__(self) -> str:
        values = {name: value for name, value in self.as_json().items() if value is not None}
        return "\n".join(f"  {name:<22} {value}" for name, value in values.items())


@dataclass(frozen=True)
class Option:
    """A command-line option: the field of the recipe that it replaces, and what ``--help`` says of it."""

    field: str
    help: str
    keywords: dict[str, Any]


_NAMES = {
    "dataset": ("recipe", default.DATASETS),
    "network": ("backbone", default.NETWORKS),
    "loss": ("margin", default.LOSSES),
    "head": ("classifier: class centers, or F²C's pool of features in so large a share of the identities",
             default.HEADS),
}  # fmt: skip


def _updates(text: str) -> tuple[int, ...]:
    """``20000,28000`` → (20000, 28000); nothing → no steps."""
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be updates, as 20000,28000, but is {text!r}") from None


def _ratio_steps(text: str) -> tuple[tuple[int, float], ...]:
    """``20000:0.5,40000:1`` → ((20000, 0.5), (40000, 1.0)); nothing → no steps."""
    try:
        steps = [part.split(":") for part in text.split(",") if part.strip()]
        return tuple((int(update), float(ratio)) for update, ratio in steps)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be updates and ratios, as 20000:0.5,40000:1, but is {text!r}") from None


def _epochs(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be passes over the images, as 8,14,17, but is {text!r}") from None


def _chunk(text: str) -> int | str:
    if text in ("auto", "all"):
        return text
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number of classes, or all, or auto, but is {text!r}") from None


OPTIONS = {
    "--models-root": Option("models_root", "directory below which logs and models are written",
                            {"metavar": "DIR"}),
    "--rec": Option("rec", "training images, a .rec with its .idx beside it", {"metavar": "FILE"}),
    "--data": Option("data", "training images in place of --rec, one set or several, one after the other: a "
                     ".rec, a directory with train.rec, a .lst, an LMDB directory (its key lists behind it, or "
                     "keys.txt in it), a folder of images for each identity", {"metavar": "PATH", "nargs": "+"}),
    "--shared-labels": Option("shared_labels", "the sets of --data number one list of identities (folders name it); "
                              "otherwise those of different sets are different people",
                              {"action": argparse.BooleanOptionalAction}),
    "--val": Option("val", "verification sets, .bin; none after the option: no verification",
                    {"metavar": "FILE", "nargs": "*"}),
    "--sample-ratio": Option("sample_ratio",
                             "share of its class centers that a rank samples an update, in (0, 1]",
                             {"type": float, "metavar": "R"}),
    "--sample-ratio-steps": Option("sample_ratio_steps", "updates from which on the sample ratio is another one, as "
                                   "20000:0.5,40000:1", {"type": _ratio_steps, "metavar": "N:R,N:R,…"}),
    "--sampler": Option("sampler", "which class centers an update samples: pprn, every positive and random negatives; "
                        "uniform, purely random, for comparison: images whose class is not drawn have no loss",
                        {"metavar": "NAME"}),
    "--filter-cosine": Option("filter_cosine", "leave negatives whose cosine is above it out of the softmax, against "
                              "noisy labels (0.4 in arXiv 2203.15565)", {"type": float, "metavar": "COS"}),
    "--lazy-updates": Option("lazy_updates", "class centers that an update does not sample move on by momentum and "
                             "weight decay, as in the dense update, computed when they are next sampled; otherwise "
                             "they stay as they are", {"action": argparse.BooleanOptionalAction}),
    "--queue-size": Option("queue_size", "slots of F²C's pool of identities: a number, or a share of the identities "
                           "as 1%, which is raised to those of one gathered batch where it is smaller",
                           {"type": queue_size, "metavar": "Q"}),
    "--batch-size": Option("batch_size", "images a rank and update", {"type": int, "metavar": "B"}),
    "--max-update": Option("max_update", "updates after which training ends", {"type": int, "metavar": "N"}),
    "--epochs": Option("epochs", "passes over the images in place of --max-update",
                       {"type": float, "metavar": "E"}),
    "--lr-epochs": Option("lr_epochs", "passes at which the learning rate falls to a tenth, in place of --lr-steps",
                          {"type": _epochs, "metavar": "E,E,…"}),
    "--stop-update": Option("stop_update", "save and end at this update, the schedule staying that of --max-update",
                            {"type": int, "metavar": "K"}),
    "--resume": Option("resume", "go on with a checkpoint: auto, the newest of this run whose files match their "
                       "checksums, or from the start where there is none; or a checkpoint's directory",
                       {"metavar": "auto|DIR"}),
    "--pretrained": Option("pretrained", "begin with the backbone of an MXNet checkpoint, InsightFace's too",
                           {"metavar": "PREFIX,EPOCH"}),
    "--freeze": Option("freeze", "parameters of the backbone that stay as they are, by patterns of their names, as "
                       "'conv0_*' 'stage1_*'; a BatchNorm whose moving statistics are named is frozen with them",
                       {"metavar": "PATTERN", "nargs": "+"}),
    "--centers": Option("centers", "begin with the class centers of a checkpoint; new identities begin as the mean "
                        "embedding of their images (with --pretrained)", {"metavar": "DIR"}),
    "--identities": Option("identities", "a file with a line `LABEL OLD_LABEL` for each identity that is kept of those "
                           "of --centers; without it, label by label", {"metavar": "FILE"}),
    "--save-every-updates": Option("save_every_updates", "updates between checkpoints; 0: at the end alone",
                                   {"type": int, "metavar": "N"}),
    "--keep": Option("keep", "newest checkpoints of the run that stay; 0: all", {"type": int, "metavar": "N"}),
    "--save-memory-mib": Option("save_memory_mib", "memory, a rank, for class centers that change before they are "
                                "written; past it training waits for the disk", {"type": int, "metavar": "MIB"}),
    "--fp16": Option("fp16", "mixed precision: the backbone computes in fp16, with fp32 master weights",
                     {"action": argparse.BooleanOptionalAction}),
    "--fp16-gradients": Option("fp16_gradients", "sum the backbone's gradients over ranks in fp16",
                               {"action": argparse.BooleanOptionalAction}),
    "--decay-everything": Option("decay_everything", "weight decay on biases, BatchNorm and PReLU slopes too",
                                 {"action": argparse.BooleanOptionalAction}),
    "--embedding-size": Option("embedding_size", "numbers in an embedding", {"type": int, "metavar": "D"}),
    "--image-size": Option("image_size", "pixels of a side; images of another size are resized",
                           {"type": int, "metavar": "PIXELS"}),
    "--storage": Option("storage", "class centers as [TIER:]WEIGHT[/MOMENTUM]; tier device, host or file; weight "
                        "float32 or float16; momentum float32, float16 or int8", {"metavar": "KIND"}),
    "--storage-directory": Option("storage_directory", "where the tier file keeps the class centers",
                                  {"metavar": "DIR"}),
    "--logits-chunk": Option("logits_chunk", "classes whose logits are kept at once, the others' being computed "
                             "twice; all; auto: all when they fit in a quarter of the free memory",
                             {"type": _chunk, "metavar": "N"}),
    "--seed": Option("seed", "of weights, order, mirroring and sampling", {"type": int, "metavar": "S"}),
    "--lr": Option("lr", "learning rate of backbone and class centers", {"type": float, "metavar": "RATE"}),
    "--lr-steps": Option("lr_steps", "updates at which the learning rate falls to a tenth, as 20000,28000",
                         {"type": _updates, "metavar": "N,N,…"}),
    "--schedule": Option("schedule", "how the learning rate falls: steps, polynomial or cosine; the last two "
                         "from the end of the warm-up to --max-update", {"metavar": "SHAPE"}),
    "--lr-final": Option("lr_final", "learning rate at the end of polynomial and cosine",
                         {"type": float, "metavar": "RATE"}),
    "--lr-power": Option("lr_power", "power of polynomial; 1 is a straight line", {"type": float, "metavar": "P"}),
    "--warmup-updates": Option("warmup_updates", "updates in which the learning rate rises in a line to --lr",
                               {"type": int, "metavar": "N"}),
    "--warmup-epochs": Option("warmup_epochs", "the same, in passes over the images",
                              {"type": float, "metavar": "E"}),
    "--clip-norm": Option("clip_norm", "largest norm of the backbone's gradient: a longer one is shortened to it; "
                          "0: no clipping", {"type": float, "metavar": "NORM"}),
    "--accumulate": Option("accumulate", "batches of --batch-size images a rank that make one update, in the memory "
                           "of one", {"type": int, "metavar": "K"}),
    "--max-skipped-updates": Option("max_skipped_updates", "updates in a row that may be skipped because a number "
                                    "is not finite; one more ends training", {"type": int, "metavar": "N"}),
    "--check-every-updates": Option("check_every_updates", "updates between comparisons of the ranks' backbones, "
                                    "which must be equal; 0: none", {"type": int, "metavar": "N"}),
    "--stall-timeout-seconds": Option("stall_timeout_seconds", "the longest wait of a rank for others, before the "
                                      "run ends and names those that did not come",
                                      {"type": float, "metavar": "SECONDS"}),
    "--nesterov": Option("nesterov", "Nesterov's momentum for the backbone",
                         {"action": argparse.BooleanOptionalAction}),
    "--workers": Option("workers", "threads a rank that decode images", {"type": int, "metavar": "N"}),
    "--augmentation": Option("augmentation", "random changes of training images, name=probability[:strength],…, of "
                             "mirror, crop, color, grey, blur, jpeg and erase; or none", {"metavar": "LIST"}),
    "--log-every-updates": Option("log_every_updates", "updates between two lines of the log",
                                  {"type": int, "metavar": "N"}),
    "--verify-every-updates": Option("verify_every_updates",
                                     "updates between verifications; 0: at the end alone",
                                     {"type": int, "metavar": "N"}),
}  # fmt: skip


class _Parser(argparse.ArgumentParser):
    """Raises its errors, so that every rank's :func:`main` says them in the same way."""

    def error(self, message: str) -> NoReturn:
        unknown = re.match(r"unrecognized arguments: (.*)", message)
        if unknown:
            known = ", ".join(self._option_string_actions)
            message = f"unknown option {unknown[1].split()[0]}: the options are {known}"
        raise ValueError(message)


def parse_arguments(arguments: Sequence[str], default_network: str) -> RunConfig:
    """Builds the run's configuration: the recipe of data set, network and loss, changed by the options.

    Args:
        arguments: the command line, without the program. A ``--`` before it is passed over: behind one, options
            that horovodrun would take for its own (``--network``) reach this program.
        default_network: the network when none is named.

    Raises:
        ValueError: an unknown name or option, or a value out of its range.
        SystemExit: ``--help`` was asked for.
    """
    parser = _Parser(
        prog="python -m partial_fc.train",
        description="Trains a face recognition model with Partial FC: one rank of the run.",
        epilog="What is not given comes from the recipe of the data set in default.py.",
        allow_abbrev=False,
    )
    names = {"loss": default.COMMON["loss"], "dataset": EMBEDDED_DATASET, "network": default_network}
    names["head"] = default.COMMON["head"]
    for field, (what, known) in _NAMES.items():
        text = f"{what}: {', '.join(known)} (default: {names[field]})"
        parser.add_argument(_option(field), metavar="NAME", help=text.replace("%", "%%"))
    recipe = default.generate_config(**names)
    for name, option in OPTIONS.items():
        text = f"{option.help} (default: {_default_text(option.field, recipe)})"
        help_text = text.replace("%", "%%")  # argparse fills in what stands behind one
        parser.add_argument(name, dest=option.field, help=help_text, default=None, **option.keywords)
    own_arguments = list(arguments[1:] if list(arguments[:1]) == ["--"] else arguments)
    given = {name: value for name, value in vars(parser.parse_args(own_arguments)).items() if value is not None}
    return _build(given, names)


def _default_text(field: str, recipe: dict[str, Any]) -> str:
    """What --help says of a default: the embedded recipe's, and the other recipes' where they are others."""
    if field == "image_size":
        return f"the network's, {recipe[field]}"
    value = _as_text(recipe[field])
    if not any(field in other for other in default.DATASETS.values()):
        return value
    others = default.COMMON[field]
    if others in (None, ()):
        return f"{value}, or the recipe's"
    return f"{value}; other recipes {_as_text(others)}"


def _as_text(value: Any) -> str:
    if value is None or value == ():
        return "none"
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _build(given: dict[str, Any], default_names: dict[str, str]) -> RunConfig:
    recipe = default.generate_config(**{name: given.get(name, default_names[name]) for name in _NAMES})
    if "rec" in given and "data" in given:
        raise ValueError(f"give the training images once: --rec {given['rec']} or --data {' '.join(given['data'])}")
    paths = [given["rec"]] if "rec" in given else given.get("data", ())
    if paths:
        # The images say how many identities there are.
        recipe.update(rec=None, num_identities=None, images_per_identity=None)
        if "dataset" not in given:
            # Somebody's own images, trained by the embedded recipe; the run is named after where they lie.
            recipe.update(dataset=_data_name(paths), val=())
    if "max_update" in given:
        recipe.update(epochs=None, lr_epochs=())
    recipe.update({field: value for field, value in given.items() if field != "head"})
    return RunConfig(
        dataset=recipe.dataset,
        network=recipe.network,
        loss=recipe.loss,
        models_root=Path(recipe.models_root),
        rec=Path(recipe.rec) if recipe.rec else None,
        data=tuple(Path(path) for path in recipe.data),
        shared_labels=recipe.shared_labels,
        val=tuple(Path(path) for path in recipe.val),
        num_identities=recipe.num_identities,
        images_per_identity=recipe.images_per_identity,
        margins=(recipe.loss_m1, recipe.loss_m2, recipe.loss_m3),
        scale=recipe.loss_s,
        loss_form=recipe.loss_form,
        hard_negatives=recipe.hard_negatives,
        adaface_h=recipe.adaface_h,
        filter_cosine=recipe.filter_cosine,
        head=recipe.head,
        queue_size=recipe.queue_size,
        gallery_momentum=recipe.gallery_momentum,
        sample_ratio=recipe.sample_ratio,
        sample_ratio_steps=tuple(recipe.sample_ratio_steps),
        sampler=recipe.sampler,
        lazy_updates=recipe.lazy_updates,
        batch_size=recipe.batch_size,
        max_update=recipe.max_update if recipe.epochs is None else UNCOUNTED,
        epochs=recipe.epochs,
        lr_epochs=tuple(recipe.lr_epochs),
        stop_update=recipe.stop_update,
        resume=recipe.resume,
        pretrained=recipe.pretrained,
        freeze=tuple(recipe.freeze),
        centers=Path(recipe.centers) if recipe.centers else None,
        identities=Path(recipe.identities) if recipe.identities else None,
        save_every_updates=recipe.save_every_updates,
        keep=recipe.keep,
        save_memory_mib=recipe.save_memory_mib,
        fp16=recipe.fp16,
        fp16_gradients=recipe.fp16_gradients,
        decay_everything=recipe.decay_everything,
        storage=Storage.parse(recipe.storage, Path(recipe.storage_directory) if recipe.storage_directory else None),
        logits_chunk=recipe.logits_chunk,
        embedding_size=recipe.embedding_size,
        image_size=recipe.image_size,
        seed=recipe.seed,
        lr=recipe.lr,
        lr_factor=recipe.lr_factor,
        lr_steps=tuple(recipe.lr_steps),
        schedule=recipe.schedule,
        lr_final=recipe.lr_final,
        lr_power=recipe.lr_power,
        warmup_updates=recipe.warmup_updates,
        warmup_epochs=recipe.warmup_epochs,
        clip_norm=recipe.clip_norm,
        accumulate=recipe.accumulate,
        max_skipped_updates=recipe.max_skipped_updates,
        check_every_updates=recipe.check_every_updates,
        stall_timeout_seconds=recipe.stall_timeout_seconds,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        weight_decay=recipe.weight_decay,
        workers=recipe.workers,
        augmentation=Augmentation.parse(recipe.augmentation),
        log_every_updates=recipe.log_every_updates,
        verify_every_updates=recipe.verify_every_updates,
    )


def _data_name(paths: Sequence[str]) -> str:
    """``faces`` of faces/train.rec, of faces/ and of faces/ with its key lists; ``a+b`` of two sets."""
    places = [Path(os.path.abspath(path)) for path in paths]
    sets = [place.parent if place.suffix in (".rec", ".lst", ".mdb") else place for place in places]
    names = [place.name for place in sets if place.is_dir()]
    return "+".join(dict.fromkeys(names)) or sets[0].name


def _require(condition: bool, rule: str, value: object) -> None:
    if not condition:
        raise ValueError(f"{rule}, but is {value}")


def _option(field: str) -> str:
    return "--" + field.replace("_", "-")


def _as_json(value: Any) -> Any:
    if isinstance(value, Path | Storage | Augmentation):
        return str(value)
    if isinstance(value, list | tuple):
        return [_as_json(part) for part in value]
    return value
