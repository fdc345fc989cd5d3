from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import default
from partial_fc.augmentation import Augmentation
from partial_fc.center_storage import Storage
from partial_fc.config import OPTIONS, RunConfig, parse_arguments

# The value of each option in another form than its default, and what its field must then be.
GIVEN = {
    "--models-root": ("elsewhere", Path("elsewhere")),
    "--rec": ("faces/train.rec", Path("faces/train.rec")),
    "--val": ("a/lfw.bin b/cfp.bin", (Path("a/lfw.bin"), Path("b/cfp.bin"))),
    "--sample-ratio": ("0.1", 0.1),
    "--sample-ratio-steps": ("9:0.5,20:1", ((9, 0.5), (20, 1.0))),
    "--sampler": ("uniform", "uniform"),
    "--filter-cosine": ("0.4", 0.4),
    "--lazy-updates": ("", True),
    "--batch-size": ("17", 17),
    "--data": ("a.rec b keys.txt", (Path("a.rec"), Path("b"), Path("keys.txt"))),
    "--shared-labels": ("", True),
    "--max-update": ("19", 19),
    "--fp16": ("", True),
    "--fp16-gradients": ("", True),
    "--embedding-size": ("33", 33),
    "--image-size": ("48", 48),
    "--seed": ("5", 5),
    "--lr": ("0.02", 0.02),
    "--lr-steps": ("7,11", (7, 11)),
    "--schedule": ("cosine", "cosine"),
    "--lr-final": ("0.001", 0.001),
    "--lr-power": ("1", 1.0),
    "--warmup-updates": ("7", 7),
    "--warmup-epochs": ("1.5", 1.5),
    "--clip-norm": ("5", 5.0),
    "--accumulate": ("4", 4),
    "--max-skipped-updates": ("0", 0),
    "--check-every-updates": ("50", 50),
    "--stall-timeout-seconds": ("10", 10.0),
    "--workers": ("3", 3),
    "--epochs": ("3", 3.0),
    "--lr-epochs": ("1,2.5", (1.0, 2.5)),
    "--nesterov": ("", True),
    "--augmentation": ("grey=0.1", Augmentation(grey=0.1)),
    "--storage": ("host:float16/int8", Storage("host", "float16", "int8")),
    "--logits-chunk": ("12", 12),
    "--log-every-updates": ("9", 9),
    "--verify-every-updates": ("0", 0),
    "--stop-update": ("5", 5),
    "--resume": ("auto", "auto"),
    "--pretrained": ("models/r50,0", "models/r50,0"),
    "--freeze": ("stage1_*", ("stage1_*",)),
    "--save-every-updates": ("0", 0),
    "--keep": ("1", 1),
    "--save-memory-mib": ("1", 1),
}


def parse(line: str) -> RunConfig:
    return parse_arguments(line.split(), default_network="toy")


def error_of(line: str) -> str:
    with pytest.raises(ValueError) as caught:
        parse(line)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_every_option_is_tried_here() -> None:
    elsewhere = {"--decay-everything", "--storage-directory", "--centers", "--identities", "--queue-size"}
    assert {*GIVEN} | elsewhere == set(OPTIONS)


@pytest.mark.parametrize("option", GIVEN)
def test_an_option_reaches_its_field_and_no_other(option: str) -> None:
    text, expected = GIVEN[option]
    field = OPTIONS[option].field
    plain, changed = parse("--dataset emore"), parse(f"--dataset emore {option} {text}")
    assert getattr(changed, field) == expected != getattr(plain, field)
    others = {name for name in vars(plain) if getattr(plain, name) != getattr(changed, name)}
    # With images of one's own it is these that say how many identities there are.
    also = {"--rec": {"num_identities"}, "--data": {"num_identities", "rec"}, "--epochs": {"max_update"}}
    assert others == {field} | also.get(option, set())


def test_a_switch_goes_both_ways() -> None:
    assert parse("").decay_everything
    assert not parse("--no-decay-everything").decay_everything
    assert not parse("--fp16 --no-fp16").fp16


@pytest.mark.parametrize("dataset", default.DATASETS)
@pytest.mark.parametrize("loss", default.LOSSES)
def test_what_is_not_given_is_what_default_says(dataset: str, loss: str) -> None:
    config = parse(f"--dataset {dataset} --loss {loss} --network r50")
    recipe = default.generate_config(loss, dataset, "r50")
    same = set(vars(config)) - {"margins", "scale", "rec", "data", "val", "models_root", "storage", "augmentation"}
    assert {name: getattr(config, name) for name in same} == {name: recipe[name] for name in same}
    assert config.margins == (recipe.loss_m1, recipe.loss_m2, recipe.loss_m3)
    assert config.scale == recipe.loss_s
    assert str(config.storage) == recipe.storage
    assert str(config.augmentation) == recipe.augmentation
    assert config.rec == (Path(recipe.rec) if recipe.rec else None)
    assert config.val == tuple(map(Path, recipe.val))
    assert config.models_root == Path(recipe.models_root)


def test_a_run_is_named_after_its_images(tmp_path: Path) -> None:
    for name in ("a", "b.lmdb"):
        (tmp_path / name).mkdir()
    keys = tmp_path / "keys.txt"
    keys.touch()
    assert parse(f"--data {tmp_path}/a/train.rec").dataset == "a"
    assert parse(f"--data {tmp_path}/a {tmp_path}/b.lmdb {keys} {tmp_path}/a/x.lst").dataset == "a+b.lmdb"
    assert parse(f"--data {tmp_path}/a --dataset emore").dataset == "emore"
    assert parse(f"--data {tmp_path}/a").val == ()


def test_images_are_given_once() -> None:
    assert error_of("--rec a.rec --data b c") == "give the training images once: --rec a.rec or --data b c"


def test_nothing_given_is_the_embedded_data_set_with_the_network_for_the_device() -> None:
    config = parse_arguments([], default_network="r18")
    assert (config.dataset, config.network, config.image_size) == ("synthetic", "r18", 112)
    assert config.images_per_identity is not None
    assert config.run_directory == Path("models/r18-cosface-synthetic")


def test_the_image_size_is_the_networks_unless_given() -> None:
    assert parse("--network toy").image_size == 56
    assert parse("--network resnet50").image_size == 224
    assert parse("--network resnet50 --image-size 112").image_size == 112


def test_files_of_class_centers_are_where_the_option_says() -> None:
    storage = parse("--storage file:float16 --storage-directory fast/disk").storage
    assert (str(storage), storage.directory) == ("file:float16/float32", Path("fast/disk"))


def test_two_dashes_before_the_options_are_passed_over() -> None:
    assert parse("-- --network r18 --batch-size 3") == parse("--network r18 --batch-size 3")
    assert "unknown option --" in error_of("-- -- --network r18")


class TestOwnImages:
    def test_rec_alone_names_the_run_after_its_directory_and_draws_nothing(self) -> None:
        config = parse("--rec some/where/lfw/train.rec")
        assert config.dataset == "lfw"
        assert config.run_directory == Path("models/toy-cosface-lfw")
        assert config.images_per_identity is None
        assert config.num_identities is None
        assert config.val == ()

    def test_the_name_is_that_of_a_directory_and_not_of_a_way_to_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "faces" / "inside").mkdir(parents=True)
        monkeypatch.chdir(tmp_path / "faces" / "inside")
        assert parse("--rec ../train.rec").dataset == "faces"
        assert parse("--rec train.rec").dataset == "inside"

    def test_with_a_recipe_they_take_the_place_of_its_images_alone(self) -> None:
        config = parse("--rec some/lfw/train.rec --dataset webface")
        assert config.dataset == "webface"
        assert config.max_update == 32_000
        assert [path.name for path in config.val] == ["lfw.bin", "cfp_fp.bin", "agedb_30.bin"]

    def test_the_embedded_recipe_by_name_draws_nothing_into_them_either(self) -> None:
        assert parse("--rec some/lfw/train.rec --dataset synthetic").images_per_identity is None

    def test_val_without_a_file_means_no_verification(self) -> None:
        assert parse("--val --max-update 3").val == ()


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("--dataset nope", ["'nope'", "webface", "synthetic"]),
        ("--loss nope", ["'nope'", "arcface", "cosface", "combined"]),
        ("--network nope", ["'nope'", "r18", "mobilefacenet", "toy"]),
        ("--nope 3", ["--nope", "--batch-size", "--dataset"]),
        ("--batch 3", ["--batch", "--batch-size"]),
        ("stray", ["stray", "--batch-size"]),
        ("--batch-size three", ["--batch-size", "'three'"]),
        ("--batch-size", ["--batch-size", "argument"]),
        ("--lr-steps 3,x", ["--lr-steps", "'3,x'", "20000,28000"]),
        ("--val a/lfw.bin b/lfw.bin", ["--val", "lfw"]),
        ("--storage tape:float32", ["'tape'", "device", "host", "file"]),
        ("--storage int8", ["'int8'", "float32", "float16"]),
        ("--augmentation blurr=1", ["'blurr'", "mirror, crop, color", "or none"]),
        ("--augmentation blur=1.5", ["blur", "[0, 1]", "1.5"]),
        ("--storage float16/int4", ["'int4'", "int8"]),
        ("--storage file:float32", ["--storage-directory"]),
        ("--logits-chunk some", ["--logits-chunk", "'some'", "all", "auto"]),
    ],
)
def test_what_is_unknown_is_named_with_what_is_known(line: str, named: list[str]) -> None:
    message = error_of(line)
    for part in named:
        assert part in message


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("--sample-ratio", ["0", "-0.1", "1.001", "nan"]),
        ("--sample-ratio-steps", ["5:0", "5:1.1", "0:0.5", "7:0.5,7:0.6", "9:0.5,7:0.6"]),
        ("--sampler", ["PPRN"]),
        ("--filter-cosine", ["1", "-1", "nan", "inf"]),
        ("--lr", ["0", "-1", "nan", "inf"]),
        ("--lr-steps", ["5,3", "3,3", "0,3"]),
        ("--schedule", ["linear"]),
        ("--lr-final", ["-0.1", "nan", "9"]),
        ("--lr-power", ["0", "inf"]),
        ("--warmup-updates", ["-1"]),
        ("--warmup-epochs", ["-1", "inf", "nan"]),
        ("--clip-norm", ["-1", "inf", "nan"]),
        ("--accumulate", ["0"]),
        ("--max-skipped-updates", ["-1"]),
        ("--check-every-updates", ["-1"]),
        ("--stall-timeout-seconds", ["4", "nan", "inf"]),
        ("--batch-size", ["0", "-1"]),
        ("--max-update", ["0", "-5"]),
        ("--embedding-size", ["0"]),
        ("--workers", ["0"]),
        ("--logits-chunk", ["0", "-3"]),
        ("--log-every-updates", ["0"]),
        ("--image-size", ["15", "0", "-112"]),
        ("--verify-every-updates", ["-1"]),
        ("--stop-update", ["0", "1501"]),
        ("--save-every-updates", ["-1"]),
        ("--keep", ["-1"]),
        ("--save-memory-mib", ["0"]),
        ("--seed", ["-1", str(2**63)]),
    ],
)
def test_a_value_out_of_its_range_is_refused_with_option_and_value(option: str, values: list[str]) -> None:
    for value in values:
        message = error_of(f"{option}={value}")
        assert option in message
        assert f"but is {value}" in message or f"but is {float(value.split(',')[0])}" in message


@pytest.mark.parametrize(
    ("option", "value"),
    [("--sample-ratio", "1"), ("--sample-ratio", "1e-6"), ("--image-size", "16"), ("--seed", str(2**63 - 1)),
     ("--seed", "0"), ("--verify-every-updates", "0"), ("--lr-steps", "1"), ("--lr-steps", ""),
     ("--batch-size", "1"), ("--logits-chunk", "1"), ("--logits-chunk", "all")],
)  # fmt: skip
def test_the_ends_of_a_range_belong_to_it(option: str, value: str) -> None:
    parse_arguments([f"{option}={value}"], "toy")


def help_text(capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as end:
        parse("--help")
    assert end.value.code == 0
    return " ".join(capsys.readouterr().out.split())


def test_help_explains_every_option_and_gives_the_defaults_of_a_run_without_options(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environ, "COLUMNS", "200")
    text = help_text(capsys)
    explained = text[text.index("options:") :]
    for name, option in OPTIONS.items():
        assert name in explained
        assert option.help in explained
    config = parse("")
    for name in ("batch_size", "embedding_size", "max_update", "lr", "verify_every_updates", "seed"):
        option = OPTIONS["--" + name.replace("_", "-")]
        assert f"{option.help} (default: {getattr(config, name)}" in explained
    assert "(default: synthetic)" in explained
    assert "(default: toy)" in explained
    assert "(default: cosface)" in explained
    assert explained.count("(default:") == len(OPTIONS) + 4


def test_a_configuration_becomes_json_and_text() -> None:
    config = parse("--lr-steps 3,5 --rec faces/train.rec --val lfw.bin")
    values = json.loads(json.dumps(config.as_json()))
    assert values["lr_steps"] == [3, 5]
    assert values["rec"] == "faces/train.rec"
    assert values["val"] == ["lfw.bin"]
    assert set(values) == set(vars(config))
    lines = str(config).splitlines()
    assert any(line.split() == ["batch_size", "32"] for line in lines)
    assert not any("num_identities" in line for line in lines), "what is not known yet is not printed"
