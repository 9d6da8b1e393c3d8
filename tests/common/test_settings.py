"""Settings: recipes, files, overrides."""

import json

import pytest

from common.errors import UserError
from common.settings import flatten, load_settings, log_config, make_config
from config import RECIPES, config


def refusal(*arguments, **options):
    """The sentence with which settings are refused."""
    with pytest.raises(UserError) as error:
        make_config(*arguments, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_default_recipe_is_the_tensorlayer_network_and_leaves_config_alone():
    before = json.dumps(config)
    cfg = make_config("tensorlayer", None, ["TRAIN.batch_size=4"])
    assert cfg.TRAIN.batch_size == 4
    assert json.dumps(config) == before
    assert cfg.TRAIN.hr_patch_size == 384 and cfg.LOSS.vgg == 2e-6 and cfg.LOSS.adversarial == 1e-3


def test_paper_recipe_has_the_papers_values():
    cfg = make_config("paper")
    steps = cfg.TRAIN.steps_per_epoch
    assert (cfg.TRAIN.n_epoch_init * steps, cfg.TRAIN.n_epoch * steps) == (1_000_000, 200_000)
    assert cfg.VGG.layer == "conv5_4" and cfg.LOSS.mse == 0.0
    assert cfg.LOSS.vgg == pytest.approx(1 / 12.75**2, rel=1e-3)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("TRAIN.lr_init=1", 1.0),
        ("TRAIN.augment=false", False),
        *(
            (f"TRAIN.hr_img_path={text}", text)  # as it is written
            for text in ("my photos", "2017", "2017.10", "true", "2024_01", "None", "(1, 2)", "a=b")
        ),
        ("MODEL.discriminator.dense=(8, 8)", (8, 8)),
        ("MODEL.discriminator.convs=[[3, 1, 8], [3, 2, 8]]", ((3, 1, 8), (3, 2, 8))),
    ],
)
def test_set_takes_the_type_of_the_default(setting, expected):
    key = setting.partition("=")[0]
    value = dict(flatten(make_config(settings=[setting])))[key]
    assert value == expected and type(value) is type(expected)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("TRAIN.batch_size=1.5", "TRAIN.batch_size must be a whole number"),
        ("TRAIN.batch_size=0", "TRAIN.batch_size must be at least 1"),
        ("TRAIN.augment=1", "TRAIN.augment must be True or False"),
        ("TRAIN.lr_init=nan", "TRAIN.lr_init must be a number"),
        ("TRAIN.lr_init=1e999", "TRAIN.lr_init must be finite"),
        ("TRAIN.beta1=1.0", "TRAIN.beta1 must be below 1"),
        ("TRAIN.hr_img_path=", "TRAIN.hr_img_path must not be empty"),
        ("RUNTIME.intra_op_threads=100000", "RUNTIME.intra_op_threads must be at most 1024"),
        ("TRAIN.batch_size=100000", "TRAIN.batch_size must be at most 65536"),
        ("TRAIN.seed=1.5", "TRAIN.seed must be a whole number"),
        ("MODEL.discriminator.dense=" + "(" * 500, "must be a tuple"),
        ("TRAIN.lr_init=-1", "TRAIN.lr_init must be at least 0"),
        ("MODEL.discriminator.dense=8", "must be a tuple"),
        ("MODEL.discriminator.convs=((4, 2), 3)", "(kernel, stride, filters) triples"),
        ("MODEL.discriminator.residual=(8,)", "two filter counts"),
        ("MODEL.discriminator.dense=(8, 0.5)", "MODEL.discriminator.dense must be a whole number, not 0.5"),
        ("RUNTIME.precision=half", "must be one of auto, float32, bfloat16"),
        ("TRAIN.hr_patch_size=30", "multiple of the scale 4, not 30"),
        ("MODEL.generator.scale=5", "one of 2, 3, 4, 8"),
        ("VGG.every=0", "VGG.every must be at least 1"),
        ("TRAIN.exposures=1.5", "TRAIN.exposures must be at most 1"),
        ("TRAIN.ema_decay=2", "TRAIN.ema_decay must be below 1"),
        ("TRAIN.batch_size", "write KEY=VALUE"),
    ],
)
def test_bad_settings_are_refused_in_one_sentence(setting, message):
    assert message in refusal(settings=[setting])


@pytest.mark.parametrize("recipe", RECIPES)
def test_logged_config_reads_back_as_the_same_settings(tmp_path, recipe):
    cfg = make_config(recipe, None, ["TRAIN.batch_size=3"])
    path = str(tmp_path / "config.json")
    log_config(path, cfg, recipe)
    assert load_settings(None, path) == load_settings(recipe, path) == (recipe, cfg)
    other = "paper" if recipe == "demo" else "demo"
    assert f"was written with recipe {recipe}" in refusal(other, path)


def test_config_file_may_hold_a_few_settings(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text('{"TRAIN": {"batch_size": 2}}')
    cfg = make_config("demo", str(path), ["TRAIN.seed=5"])
    assert (cfg.TRAIN.batch_size, cfg.TRAIN.seed, cfg.TRAIN.hr_patch_size) == (2, 5, 96)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "bad.json"),
        (b"{", "bad.json"),
        (b"[1]", "bad.json"),
        (b"[" * 10**5, "bad.json"),
        (b"\xff\xfe\x00", "bad.json"),
        (b'{"recipe": 1}', "bad.json"),
        (b"{}" + b" " * 2**20, "larger than a megabyte"),
        (b'{"TRAIN": {"hr_img_path": null}}', "TRAIN.hr_img_path must be text"),
        (b'{"TRAIN": {"batch_size": "4"}}', "TRAIN.batch_size must be a whole number, not '4'"),
        (b'{"TRAIN": {"bach_size": 2}}', "did you mean TRAIN.batch_size?"),
        (b'{"TRAIN": 3}', "TRAIN must be"),
    ],
)
def test_bad_config_files_are_refused(tmp_path, content, message):
    (tmp_path / "bad.json").write_bytes(content)
    assert message in refusal(file=str(tmp_path / "bad.json"))


def test_a_tilde_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    config = make_config(settings=["TRAIN.hr_img_path=~/photos", "VGG.weights=~/vgg.npz"])
    assert config.TRAIN.hr_img_path == "/home/somebody/photos"
    assert config.VGG.weights == "/home/somebody/vgg.npz"


def test_config_py_as_edited_is_checked(monkeypatch):
    monkeypatch.setitem(config.TRAIN, "ema_decay", 0)
    assert type(make_config().TRAIN.ema_decay) is float
    monkeypatch.setitem(config.TRAIN, "bach_size", 4)
    assert refusal() == "unknown setting TRAIN.bach_size: did you mean TRAIN.batch_size?"
    monkeypatch.delitem(config.TRAIN, "bach_size")
    monkeypatch.setitem(config.LOSS, "vgg", -1)
    assert refusal() == "LOSS.vgg must be at least 0, not -1"
    monkeypatch.delitem(config.TRAIN, "beta1")
    assert refusal() == "the setting TRAIN.beta1 is missing"
