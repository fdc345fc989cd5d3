"""The recipes of `default.py`."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import default
from default import DATASETS, LOSSES, NETWORKS, generate_config

RECIPES = [("cosface", "emore", "r100"), ("arcface", "synthetic", "toy"), ("combined", "100w", "resnet50")]


@pytest.mark.parametrize(
    "dataset, identities, lr_steps, max_update",
    [
        ("webface", 10_575, (20_000, 28_000), 32_000),
        ("emore", 85_742, (100_000, 160_000), 180_000),
        ("glint360k_8GPU", 360_232, (200_000, 400_000, 500_000, 550_000), 600_000),
        ("glint360k_16GPU", 360_232, (200_000, 280_000, 360_000), 400_000),
        ("100w", 10**6, (20_000, 28_000), 32_000),
        ("1000w", 10**7, (20_000, 28_000), 32_000),
        ("2000w", 2 * 10**7, (20_000, 28_000), 32_000),
        ("3000w", 3 * 10**7, (20_000, 28_000), 32_000),
        ("10000w", 10**8, (20_000, 28_000), 32_000),
    ],
)
def test_published_recipes(dataset, identities, lr_steps, max_update):
    config = generate_config("cosface", dataset, "r100")
    assert (config.num_identities, config.lr_steps, config.max_update) == (identities, lr_steps, max_update)
    assert (config.lr, config.lr_factor, config.momentum, config.weight_decay) == (0.1, 0.1, 0.9, 5e-4)
    assert (config.batch_size, config.embedding_size, config.image_size) == (64, 512, 112)
    assert (config.sample_ratio, config.fp16) == (1.0, False)


@pytest.mark.parametrize(
    "loss, margins", [("arcface", (1.0, 0.5, 0.0)), ("cosface", (1.0, 0.0, 0.4)), ("combined", (1.0, 0.3, 0.2))]
)
def test_losses(loss, margins):
    config = generate_config(loss, "emore", "r50")
    assert (config.loss_m1, config.loss_m2, config.loss_m3) == margins
    assert config.loss_s == 64.0


def test_networks_and_image_sizes_are_those_of_symbol():
    from symbol import backbone_names, default_image_size

    assert set(NETWORKS) == set(backbone_names())
    for network, image_size in NETWORKS.items():
        assert generate_config("arcface", "webface", network).image_size == image_size
        assert default_image_size(network) == image_size


@pytest.mark.parametrize(
    "recipe, message",
    [
        (("softmax", "emore", "r50"), "unknown loss 'softmax': choose one of arcface, cosface, combined"),
        (("cosface", "ms1m", "r50"), "unknown data set 'ms1m': choose one of synthetic, webface, emore, "),
        (("cosface", "emore", "r51"), "unknown network 'r51': choose one of r18, r34, "),
        (("COSFACE", "emore", "r50"), "unknown loss 'COSFACE'"),
    ],
)
def test_unknown_names(recipe, message):
    before = dict(default.config)
    with pytest.raises(ValueError, match=re.escape(message)):
        generate_config(*recipe)
    assert dict(default.config) == before


def test_nothing_is_left_of_the_recipe_before():
    expected = {recipe: dict(generate_config(*recipe)) for recipe in RECIPES}
    for recipe in RECIPES + RECIPES[::-1]:
        assert dict(generate_config(*recipe)) == expected[recipe]
        assert dict(default.config) == expected[recipe]
        assert default.config.network == recipe[2]


def test_what_is_returned_is_the_callers_own():
    first = generate_config(*RECIPES[0])
    first.batch_size = 1
    assert default.config.batch_size == 64
    assert generate_config(*RECIPES[0]).batch_size == 64


@pytest.mark.parametrize("dataset", DATASETS)
def test_recipes_are_sound(dataset):
    config = generate_config("arcface", dataset, "toy" if dataset == "synthetic" else "r50")
    assert 0 < len(config.lr_steps) and list(config.lr_steps) == sorted(set(config.lr_steps))
    assert config.lr_steps[-1] < config.max_update
    assert set(DATASETS[dataset]) <= set(default.COMMON)
    assert all(type(value) is type(default.COMMON["val"]) for value in (config.val, config.lr_steps))
    if config.rec is None:
        assert config.val == () and dataset.endswith("w")
    else:
        for path in (config.rec, *config.val):
            assert Path(path).parts[0] == "datasets" and path.endswith((".rec", ".bin"))


def test_losses_fill_the_same_fields():
    own = {"hard_negatives": "sv", "adaface_h": "adaface"}
    fields = {frozenset(margins) - {*own, "loss_form"} for margins in LOSSES.values()}
    assert fields == {frozenset({"loss_m1", "loss_m2", "loss_m3"})}
    for field, loss in own.items():
        assert [name for name, margins in LOSSES.items() if field in margins] == [loss]
    forms = {name: margins.get("loss_form", default.COMMON["loss_form"]) for name, margins in LOSSES.items()}
    looks_at_the_batch = ("sv", "adaface", "curricularface")
    assert forms == {name: name if name in looks_at_the_batch else "margin" for name in LOSSES}


def test_hard_negatives_do_not_stay_with_the_next_loss():
    assert generate_config("sv", "emore", "r50", "f2c").hard_negatives == 1.2
    assert generate_config("cosface", "emore", "r50").hard_negatives is None


def test_nothing_heavy_is_imported():
    script = "import sys, default; print(*(name for name in ('mxnet', 'numpy', 'symbol') if name in sys.modules))"
    root = Path(default.__file__).parent
    ran = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    assert ran.stdout.split() == []
