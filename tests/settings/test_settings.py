import dataclasses
import json
import pathlib

import pytest

from a2net_tf import settings
from a2net_tf.errors import UserError
from a2net_tf.settings.config import FIELDS, Config
from a2net_tf.settings.setting import SWITCH

CONFIGS = sorted((pathlib.Path(__file__).resolve().parent.parent.parent / "configs").glob("*.flags"))

# Another value of every setting, as text and as it must arrive.
OTHERS = {
    "mode": ("profile", "profile"),
    "workdir": ("runs/my run", "runs/my run"),
    "checkpoint": ("best", "best"),
    "release_checkpoint": ("release.pth", "release.pth"),
    "lambda_sweep": ("0.2,0.8", (0.2, 0.8)),
    "dataset": ("hapt/raw", "hapt/raw"),
    "train_split": ("user01+user03", "user01+user03"),
    "validation_split": ("train[80%:]", "train[80%:]"),
    "data_dir": ("/a=b", "/a=b"),
    "manual_dir": ("down,loads", "down,loads"),
    "stored_features": ("float16", "float16"),
    "eval_split": ("user02", "user02"),
    "window_steps": ("256", 256),
    "train_stride_steps": ("1", 1),
    "random_offsets": ("true", True),
    "min_action_inside": ("0.5", 0.5),
    "max_actions": ("7", 7),
    "normalize": ("false", False),
    "num_levels": ("3", 3),
    "base_channels": ("8", 8),
    "level_channels": ("8,16,24,32,40,48,56", (8, 16, 24, 32, 40, 48, 56)),
    "head_channels": ("16", 16),
    "step_classifier": ("true", True),
    "step_channels": ("32", 32),
    "step_layers": ("8", 8),
    "step_stages": ("1", 1),
    "step_weight": ("2", 2.0),
    "step_smoothing": ("0", 0.0),
    "step_dropout": ("0.5", 0.5),
    "step_exponent": ("0.5", 0.5),
    "tuned": ("false", False),
    "anchor_ratios": ("1,0.3333333333333333", (1.0, 1 / 3)),
    "anchor_free": ("false", False),
    "anchor_based": ("false", False),
    "center_scale": ("1e-4", 1e-4),
    "width_scale": ("1", 1.0),
    "distance_activation": ("softplus", "softplus"),
    "num_features": ("2048", 2048),
    "num_classes": ("20", 20),
    "anchor_based_weight": ("0", 0.0),
    "anchor_free_classification_weight": ("1", 1.0),
    "overlap_weight": ("2.5", 2.5),
    "anchor_regression_weight": ("1e3", 1e3),
    "overlap_loss": ("mse", "mse"),
    "anchor_regression": ("offsets", "offsets"),
    "match_tiou": ("0.6", 0.6),
    "negative_ratio": ("3", 3.0),
    "seed": ("12345", 12345),
    "batch_size": ("1", 1),
    "epochs": ("2", 2),
    "learning_rate": ("0.001", 0.001),
    "decay_epochs": ("10,20", (10, 20)),
    "decay_factor": ("0.5", 0.5),
    "clip_norm": ("1", 1.0),
    "ema_momentum": ("0.999", 0.999),
    "shuffle_buffer": ("10", 10),
    "precision": ("bfloat16", "bfloat16"),
    "beam_runner": ("DirectRunner", "DirectRunner"),
    "beam_options": ("direct_num_workers=2", "direct_num_workers=2"),
    "convolution": ("direct", "direct"),
    "backbone": ("c3d", "c3d"),
    "backbone_channels": ("4,8,16,32,32", (4, 8, 16, 32, 32)),
    "backbone_weights": ("c3d.pth", "c3d.pth"),
    "crop_size": ("32", 32),
    "optimizer": ("sgd", "sgd"),
    "jit_compile": ("true", True),
    "distribute": ("mirrored", "mirrored"),
    "deterministic": ("false", False),
    "validate_every": ("5", 5),
    "inference_window_steps": ("512", 512),
    "inference_overlap": ("0.25", 0.25),
    "feature_columns": ("0,1024", (0, 1024)),
    "anchor_based_lambda": ("0.25", 0.25),
    "fusion": ("outputs", "outputs"),
    "overlap_score": ("sigmoid", "sigmoid"),
    "max_background": ("1", 1.0),
    "min_score": ("0.01", 0.01),
    "nms_tiou": ("0.7", 0.7),
    "soft_nms_sigma": ("0.5", 0.5),
    "max_detections": ("1", 1),
    "window_batch": ("1", 1),
    "protocol": ("thumos14", "thumos14"),
    "tiou_thresholds": ("0.5", (0.5,)),
    "duration_edges": ("1,2.5", (1.0, 2.5)),
    "plots": ("false", False),
    "report": ("false", False),
    "ablation": ("learning_rate 1e-4 1e-3", "learning_rate 1e-4 1e-3"),
    "ablation_seeds": ("0,5", (0, 5)),
    "detections": ("found.json", "found.json"),
    "ground_truth": ("annotations", "annotations"),
    "subset": ("validation", "validation"),
    "metrics": ("metrics.json", "metrics.json"),
    "features": ("#1.npy", "#1.npy"),
    "saved_model": ("model", "model"),
    "freeze": ("true", True),
    "tflite": ("m.tflite", "m.tflite"),
    "tflite_type": ("int8", "int8"),
    "onnx": ("m.onnx", "m.onnx"),
    "stablehlo": ("m.stablehlo", "m.stablehlo"),
    "output": ("out.json", "out.json"),
    "seconds_per_step": ("0.13333333333333333", 4 / 30),
    "subtitle_score": ("0", 0.0),
    "label_studio_rate": ("29.97", 29.97),
    "label_studio_url": ("/d/{name}", "/d/{name}"),
    "time_scaling": ("0.25", 0.25),
    "axis_rotation": ("20", 20.0),
    "signal_noise": ("0.05", 0.05),
    "feature_noise": ("0.1", 0.1),
    "feature_dropout": ("0.1", 0.1),
    "convolution_norm": ("group", "group"),
    "norm_groups": ("4", 4),
    "class_scores": ("sigmoid", "sigmoid"),
    "prior_probability": ("0.1", 0.1),
    "anchor_free_regression": ("giou", "giou"),
    "anchor_free_regression_weight": ("5", 5.0),
    "focal_gamma": ("0", 0.0),
    "focal_alpha": ("-1", -1.0),
    "anchor_matching": ("defaults", "defaults"),
    "force_matches": ("true", True),
    "schedule": ("cosine", "cosine"),
    "warmup_epochs": ("3", 3),
    "weight_decay": ("0.05", 0.05),
    "input_dropout": ("0.1", 0.1),
    "classes_per_candidate": ("2", 2),
    "voting_tiou": ("0.7", 0.7),
    "fold_splits": ("user01,user02+user03", ("user01", "user02+user03")),
    "num_folds": ("5", 5),
    "jobs": ("2", 2),
    "videos": ("my films", "my films"),
    "extractor": ("keras:ResNet50", "keras:ResNet50"),
    "segmentation_score": ("0.2", 0.2),
    "label_rate": ("29.97", 29.97),
    "annotations": ("actions.json", "actions.json"),
    "annotated_video": ("film.mp4", "film.mp4"),
    "extractor_weights": ("rgb.pt", "rgb.pt"),
    "flow_weights": ("flow.pt", "flow.pt"),
    "flow": ("dis", "dis"),
    "flow_values": ("float", "float"),
    "frame_rate": ("29.97", 29.97),
    "motion": ("difference", "difference"),
    "frame_stride": ("4", 4),
    "frame_fit": ("crop", "crop"),
    "frame_size": ("112", 112),
    "clip_frames": ("16", 16),
    "input_range": ("-1..1", "-1..1"),
    "signature": ("features", "features"),
    "baseline": ("configs/hapt.flags", "configs/hapt.flags"),
    "stages": ("2", 2),
    "first_level": ("2", 2),
    "proposal_bins": ("12", 12),
    "proposal_channels": ("64", 64),
    "proposal_dropout": ("0", 0.0),
    "train_proposals": ("64", 64),
    "train_proposal_tiou": ("0.7", 0.7),
    "proposal_match_tiou": ("0.6", 0.6),
    "proposal_background_tiou": ("0", 0.0),
    "second_stage_weight": ("1", 1.0),
    "proposals": ("256", 256),
    "proposal_tiou": ("0.8", 0.8),
    "refined_score": ("root", "root"),
}
# What a setting cannot do without.
NEEDED = {
    "first_level": {"anchor_free": False},
    "backbone": {"stages": 2, "num_levels": 3, "first_level": 3},
} | dict.fromkeys(("checkpoint", "release_checkpoint", "jit_compile"), {"mode": "predict"})
TOGETHER = {name: value for name, (_, value) in OTHERS.items() if name not in ("anchor_based", "stages", "backbone")}


# --- flags and fields


def test_this_file_knows_every_setting():
    assert set(OTHERS) == set(FIELDS)
    for name, (_, value) in OTHERS.items():
        assert value != FIELDS[name].default
        choices = FIELDS[name].metadata["choices"] or (FIELDS[name].default,)
        assert type(value) in set(map(type, choices))


@pytest.mark.parametrize("name", FIELDS)
def test_each_field_has_its_flag(name):
    text, value = OTHERS[name]
    needed = NEEDED.get(name, {})
    found, given = settings.parse([f"--{name}={text}", *(f"--{n}={v}" for n, v in needed.items())])
    assert getattr(found, name) == value
    assert type(getattr(found, name)) is type(value)
    assert given == {name, *needed}
    assert found == dataclasses.replace(Config(), **{name: value}, **needed)


SWITCHES = [name for name, field in FIELDS.items() if field.metadata["choices"] == SWITCH]


@pytest.mark.parametrize(
    "name", [*(name for name, field in FIELDS.items() if isinstance(field.default, bool)), *SWITCHES]
)
def test_boolean_flags_need_no_value(name):
    mode = "--mode=predict"  # training refuses some of them alone
    assert getattr(settings.parse([f"--{name}", mode])[0], name) is True
    assert getattr(settings.parse([f"--no{name}", mode])[0], name) is False


@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_may_be_left_to_the_device(name):
    for text, value in (("auto", "auto"), ("true", True), ("False", False), ("0", False)):
        parsed = settings.parse([f"--{name}={text}", "--mode=predict"])[0]
        assert getattr(parsed, name) is value or getattr(parsed, name) == value == "auto"
        assert settings.parse(settings.to_flagfile(parsed).split())[0] == parsed
        assert settings.from_dict(json.loads(json.dumps(settings.to_dict(parsed)))) == parsed
    with pytest.raises(UserError, match=f"{name}"):
        settings.parse([f"--{name}=perhaps"])
    for wrong in ("true", 1, None):
        with pytest.raises(UserError, match=f"--{name}={wrong!r}: expected auto, true or false"):
            settings.from_dict({name: wrong})


def test_nothing_given_means_the_defaults():
    assert settings.parse([]) == (Config(), frozenset())


def test_a_default_that_is_given_counts_as_given():
    assert settings.parse(["--epochs=40"]) == (Config(), {"epochs"})


def test_every_parse_starts_afresh():
    settings.parse(["--epochs=3", "--decay_epochs=1,2"])
    assert settings.parse(["--batch_size=4"]) == (Config(batch_size=4), {"batch_size"})


def test_a_config_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().epochs = 3


@pytest.mark.parametrize(
    "changes", [{}, TOGETHER, {"decay_epochs": ()}, {"learning_rate": 1 / 3, "anchor_ratios": (1e-7, 2.0)}]
)
def test_flagfile_round_trip(changes, tmp_path):
    config = settings.from_dict(changes)
    file = tmp_path / "all.flags"
    file.write_text(settings.to_flagfile(config))
    assert settings.parse([f"--flagfile={file}"]) == (config, frozenset(FIELDS))
    assert len(file.read_text().splitlines()) == len(FIELDS)


def test_json_round_trip():
    config = settings.from_dict(TOGETHER)
    assert settings.from_dict(json.loads(json.dumps(settings.to_dict(config)))) == config


def test_the_command_line_wins_over_the_flagfile_before_it(tmp_path):
    file = tmp_path / "some.flags"
    file.write_text("# a comment\n--epochs=3\n\n--nonormalize\n--decay_epochs=1,2\n")
    found, given = settings.parse([f"--flagfile={file}", "--epochs=5"])
    assert found == Config(epochs=5, normalize=False, decay_epochs=(1, 2))
    assert given == {"epochs", "normalize", "decay_epochs"}


def test_flagfiles_may_name_others(tmp_path):
    (tmp_path / "inner.flags").write_text("--epochs=3\r\n// a comment\n--batch_size=4\n")
    outer = tmp_path / "outer.flags"
    outer.write_text(f"--batch_size=2\n--flagfile={tmp_path / 'inner.flags'}\n--epochs=7")
    for arguments in ([f"--flagfile={outer}"], ["--flagfile", str(outer)], [f"-flagfile={outer}"]):
        assert settings.parse(arguments)[0] == Config(epochs=7, batch_size=4)
    outer.write_text(f"--flagfile={outer}\n")
    with pytest.raises(UserError, match="outer.flags: this file names itself"):
        settings.parse([f"--flagfile={outer}"])
    outer.write_bytes(b"--epochs=3\n\xff")
    with pytest.raises(UserError, match=r"outer.flags: is not a text file in UTF-8 \(byte 11 is not UTF-8"):
        settings.parse([f"--flagfile={outer}"])


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.name)
def test_configs_can_be_read(file):
    found, given = settings.parse([f"--flagfile={file}"])
    assert given
    assert settings.from_dict(settings.to_dict(found)) == found


# --- what is refused on the command line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--window_step=64"], "window_step.*--help"),
        (["--epochs=ten"], "epochs"),
        (["--epochs=1.5"], "epochs"),
        (["--learning_rate=fast"], "learning_rate"),
        (["--normalize=perhaps"], "normalize"),
        (["--precision=int8"], "precision.*bfloat16"),
        (["--mode=trian"], "mode.*train_and_evaluate"),
        (["--level_channels=1,two"], "--level_channels=1,two: expected ints"),
        (["--level_channels=1.5"], "--level_channels=1.5: expected ints"),
        (["--anchor_ratios=1;2"], "--anchor_ratios=1;2: expected floats"),
        (["--epochs"], "epochs"),
        (["train"], "unexpected argument 'train'"),
        (["--epochs=3", "epochs", "4"], "unexpected argument 'epochs'"),
        (["--flagfile=nowhere.flags"], "nowhere.flags"),
        (["--flagfile"], "--flagfile=: the name of a file is missing"),
    ],
)
def test_mistyped_commands_are_one_line(arguments, message):
    with pytest.raises(UserError, match=message) as error:
        settings.parse(arguments)
    assert "\n" not in str(error.value)


def test_unknown_names_in_a_dict():
    with pytest.raises(UserError, match="unknown setting epoch, learn"):
        settings.from_dict({"learn": 1, "epoch": 2})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"class_scores": "Sigmoid"}, "--class_scores='Sigmoid': expected one of 'softmax', 'sigmoid'"),
        ({"mode": "fly"}, "--mode='fly': expected one of 'train'"),
        ({"decay_epochs": 3}, "--decay_epochs=3: expected a list"),
        ({"decay_epochs": [None]}, "--decay_epochs=None: expected ints between commas"),
        ({"learning_rate": float("inf")}, "--learning_rate=inf: must be > 0"),
        ({"learning_rate": float("nan")}, "--learning_rate=nan: must be > 0"),
    ],
)
def test_values_of_a_dict_are_checked_as_flags_are(values, message):
    with pytest.raises(UserError, match=message):
        settings.from_dict(values)


# --- values and contradictions


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("window_steps", 0),
        ("window_steps", 2),
        ("train_stride_steps", 0),
        ("inference_window_steps", -64),
        ("inference_overlap", -0.1),
        ("inference_overlap", 1.0),
        ("inference_overlap", float("nan")),
        ("min_action_inside", 1.01),
        ("min_action_inside", -0.1),
        ("max_actions", 0),
        ("num_levels", 0),
        ("num_levels", 17),
        ("base_channels", 0),
        ("level_channels", (8, 0, 8, 8, 8, 8)),
        ("head_channels", 0),
        ("step_layers", 21),
        ("step_exponent", -1.0),
        ("anchor_ratios", ()),
        ("anchor_ratios", (0.0, 1.0)),
        ("center_scale", 0.0),
        ("width_scale", 0.0),
        ("num_features", -1),
        ("num_classes", -1),
        ("anchor_based_weight", -1.0),
        ("anchor_free_classification_weight", -1.0),
        ("overlap_weight", -1.0),
        ("anchor_regression_weight", -1.0),
        ("match_tiou", 0.0),
        ("match_tiou", 1.0),
        ("negative_ratio", -0.1),
        ("seed", -1),  # what seeds TensorFlow, numpy and tf.data must be positive for all of them
        ("seed", 2**31 - 2),  # modes.run adds 1, and TensorFlow takes seeds modulo 2**31 - 1
        ("batch_size", 0),
        ("epochs", 0),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("decay_epochs", (0,)),
        ("decay_factor", 1.5),
        ("clip_norm", -1.0),
        ("ema_momentum", 1.0),
        ("ema_momentum", float("nan")),
        ("shuffle_buffer", 0),
        ("validate_every", 0),
        ("anchor_based_lambda", 1.1),
        ("max_background", -0.1),
        ("min_score", 1.1),
        ("nms_tiou", -0.1),
        ("soft_nms_sigma", -1.0),
        ("max_detections", -1),
        ("window_batch", 0),
        ("tiou_thresholds", ()),
        ("tiou_thresholds", (0.5, 1.0)),
        ("duration_edges", (0.0,)),
        ("seconds_per_step", -0.1),
        ("seconds_per_step", float("nan")),
        ("subtitle_score", 2.0),
        ("label_studio_rate", -1.0),
        ("time_scaling", 1.0),
        ("axis_rotation", 181.0),
        ("signal_noise", -0.1),
        ("feature_noise", -0.1),
        ("feature_dropout", 1.0),
        ("norm_groups", 0),
        ("prior_probability", 0.0),
        ("prior_probability", 1.0),
        ("anchor_free_regression_weight", -1.0),
        ("focal_gamma", -1.0),
        ("focal_alpha", 1.5),
        ("focal_alpha", -0.5),
        ("warmup_epochs", -1),
        ("weight_decay", -1.0),
        ("input_dropout", 1.0),
        ("step_dropout", 1.0),
        ("classes_per_candidate", 0),
        ("voting_tiou", 1.1),
        ("num_folds", -1),
        ("batch_size", 2**31),
        ("seed", 10**400),
        ("level_channels", (8, -(10**400))),
        ("window_steps", 2**21),
        ("jobs", 0),
    ],
)
def test_values_out_of_range(name, value):
    with pytest.raises(UserError, match=f"--{name}"):
        settings.check(Config(**{name: value}))


@pytest.mark.parametrize(
    "changes",
    [
        {"window_steps": 4, "num_levels": 2},
        {"min_action_inside": 0.0},
        {"min_action_inside": 1.0},
        {"max_background": 0.0},
        {"nms_tiou": 1.0},
        {"decay_epochs": ()},
        {"duration_edges": ()},
        {"seed": 2**31 - 3},
        {"num_levels": 7, "level_channels": (1,) * 7},
        {"window_steps": 96, "num_levels": 5},
        {"inference_window_steps": 128, "inference_overlap": 0.0},
        {"inference_window_steps": 192, "inference_overlap": 0.999},
        {"validation_split": "a", "checkpoint": "best"},
        {"mode": "predict", "checkpoint": "best"},
        {"mode": "evaluate", "validation_split": "test"},
    ],
)
def test_values_at_the_edge_of_the_range(changes):
    settings.check(Config(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window_steps": 100}, "--window_steps=100 does not halve 6 times.*multiple of 64"),
        ({"window_steps": 127}, "--window_steps=127"),
        ({"inference_window_steps": 160}, "--inference_window_steps=160 does not halve 6 times.*multiple of 64"),
        ({"inference_window_steps": 64}, "--inference_window_steps=64: must be at least --window_steps=128"),
        ({"inference_overlap": 0.999}, "--inference_overlap=0.999 of --window_steps=128 rounds to a whole window"),
        ({"num_levels": 7, "level_channels": (1,) * 6}, "--level_channels has 6 values for --num_levels=7"),
        ({"level_channels": ()}, "--level_channels has 0 values"),
        ({"convolution_norm": "group", "norm_groups": 3}, "--norm_groups=3 does not divide the 512 channels"),
        ({"distribute": "multi_worker"}, "--distribute=multi_worker is for --mode=train on features"),
        ({"step_classifier": True, "step_layers": 8, "window_steps": 128}, "at most 7"),
        (
            {"input_dropout": 0.1, "jit_compile": True, "deterministic": False, "distribute": "mirrored"},
            "--jit_compile with --distribute cannot draw",
        ),
        ({"num_levels": 8, "level_channels": (1,) * 8}, "multiple of 256"),
        ({"anchor_free": False, "anchor_based": False}, "leave no branch"),
        ({"decay_epochs": (20, 10)}, "--decay_epochs=.*must increase"),
        ({"duration_edges": (2.0, 1.0)}, "--duration_edges=.*must increase"),
        ({"validation_split": "test"}, "--validation_split and --eval_split are both 'test'"),
        ({"checkpoint": "best"}, "--checkpoint=best needs a --validation_split"),
        ({"checkpoint": "best", "mode": "train"}, "--checkpoint=best needs a --validation_split"),
    ],
)
def test_contradictions(changes, message):
    with pytest.raises(UserError, match=message):
        settings.from_dict(changes)


def test_require():
    settings.require(Config(workdir="w", dataset="d"), "workdir", "dataset")
    with pytest.raises(UserError, match="--mode=export needs --workdir and --saved_model$"):
        settings.require(Config(mode="export", dataset="d"), "workdir", "dataset", "saved_model")
    with pytest.raises(UserError, match="needs --seconds_per_step"):
        settings.require(Config(), "seconds_per_step")


@pytest.mark.parametrize(
    ("changes", "steps", "stride", "batch"),
    [
        ({}, 128, 64, 32),
        ({"inference_window_steps": 1024}, 1024, 960, 4),  # shares as many steps as windows of 128 do
        ({"inference_window_steps": 256, "inference_overlap": 0.75}, 256, 160, 16),
        ({"inference_overlap": 0.0}, 128, 128, 32),
        ({"inference_overlap": 0.99}, 128, 1, 32),
        ({"inference_window_steps": 1024, "window_batch": 1}, 1024, 960, 1),
        ({"window_steps": 64, "inference_window_steps": 192, "window_batch": 8}, 192, 160, 2),
    ],
)
def test_inference_windows(changes, steps, stride, batch):
    config = settings.from_dict(changes)
    assert (config.inference_steps, config.inference_stride_steps, config.inference_batch) == (steps, stride, batch)


# --- a trained model and a new command


SAVED = Config(workdir="old/place", num_levels=3, epochs=7, nms_tiou=0.4, dataset="hapt", window_steps=64)


def test_merge_keeps_what_was_trained_and_takes_what_is_given():
    requested, given = settings.parse(["--mode=predict", "--workdir=w", "--nms_tiou=0.3", "--features=f.npy"])
    expected = dataclasses.replace(SAVED, mode="predict", workdir="w", nms_tiou=0.3, features="f.npy")
    assert settings.merge(SAVED, requested, given) == expected


def test_merge_takes_the_place_of_the_directory_even_if_not_given():
    assert settings.merge(SAVED, Config(workdir="moved"), frozenset()).workdir == "moved"


def test_a_default_that_is_given_wins_over_the_trained_value():
    requested, given = settings.parse(["--mode=evaluate", "--workdir=w", "--nms_tiou=0.2"])
    assert settings.merge(SAVED, requested, given).nms_tiou == 0.2


@pytest.mark.parametrize("name", settings.MODEL_SETTINGS)
def test_merge_refuses_another_model(name):
    value = OTHERS[name][1]
    requested = dataclasses.replace(Config(), mode="evaluate", workdir="here", **{**NEEDED.get(name, {}), name: value})
    saved = dataclasses.replace(requested, **{name: FIELDS[name].default})
    with pytest.raises(UserError, match=f"^here holds a run with other settings: --{name}="):
        settings.merge(saved, requested, frozenset({name}))
    assert settings.merge(requested, requested, frozenset({name})) == requested


def test_merge_checks_the_result():
    saved = dataclasses.replace(SAVED, validation_split="b")
    requested, given = settings.parse(["--workdir=w", "--eval_split=b"])
    with pytest.raises(UserError, match="both 'b'"):
        settings.merge(saved, requested, given)


def test_refuse_changes_names_all_of_them_and_only_these():
    requested = dataclasses.replace(SAVED, num_levels=2, seed=9, nms_tiou=0.9, workdir="")
    settings.refuse_changes(SAVED, requested, ("eval_split", "tiou_thresholds", "epochs"))
    with pytest.raises(
        UserError, match=r"the working directory.*--num_levels=2 \(was 3\), --seed=9 \(was 0\); "
    ) as error:
        settings.refuse_changes(SAVED, requested, settings.TRAINING_SETTINGS)
    assert "nms_tiou" not in str(error.value)


def test_more_epochs_are_no_change():
    settings.refuse_changes(SAVED, dataclasses.replace(SAVED, epochs=80, validate_every=3), settings.TRAINING_SETTINGS)


def test_a_run_may_go_on_with_other_devices():
    settings.refuse_changes(SAVED, dataclasses.replace(SAVED, distribute="mirrored"), settings.TRAINING_SETTINGS)
