"""Files of earlier versions are read as if this version had written them; files of later versions are refused.

`tests/experiments/test_stored.py` reads complete runs of an earlier version.
"""

import json

import pytest

from icl_gd.migrations import CHECKPOINTS, CONFIGS, FIELDS, PRETRAINED, migrated, newest_of

UNMODIFIED = dict.fromkeys(("query_damping", "negative_weight", "negative_fraction", "augment_keys", "augment_values"))
TABLES = {"checkpoints": CHECKPOINTS, "configs": CONFIGS, "pretrained": PRETRAINED}
FIRST = {
    "recipe": "linear_attention",
    "analyses": ["weights"],
    "model.attention": "linear",
    "model.compute": "parameters",
    "train.clip": 1e-3,
    "task.d_input": 10,
}
# `FIRST` is a config in format 1. Each row: fields that replace those of `FIRST`, and fields after migration.
CONFIGS_1 = [
    ({}, {"reference.name": "gradient_descent", "analyses": ["weights"]}),
    (
        {"recipe": "sine", "analyses": []},
        {"reference.name": "deep_features", "analyses": ["differences", "functions", "features"]},
    ),
    (
        {"recipe": "function_classes", "analyses": []},
        {"reference.name": "prefix_learners", "analyses": ["predicted_functions"]},
    ),
    ({"recipe": "dual_models", "analyses": ["dual"]}, {"reference.name": "one_step", "analyses": ["dual"]}),
    ({"model.compute": "parameters"}, {"model.dtype": None}),
    ({"model.compute": "bfloat16"}, {"model.dtype": "bfloat16"}),
    ({"model.attention": "softmax"}, {"model.attention": "softmax"}),
    ({"model.attention": "softmax, linear"}, {"model.attention": ["softmax", "linear"]}),
    ({"recipe": "function_classes", "train.clip": 1e6}, {"train.clip": None}),
    ({"recipe": "function_classes", "train.clip": 1.0}, {"train.clip": 1.0}),
    ({"train.clip": None}, {"train.clip": None}),
    ({"train.clip": [0.1, 1.0]}, {"train.clip": [0.1, 1.0]}),
    ({"task.d_input": 5}, {"task.d_input": 5}),
]


@pytest.mark.parametrize(("before", "after"), CONFIGS_1)
def test_configs_of_the_first_format(before, after):
    config = FIRST | before
    config_as_json = json.dumps(config)
    result = migrated(config, 1, CONFIGS)
    assert {name: result[name] for name in after} == after
    assert "recipe" not in result
    assert json.dumps(config) == config_as_json  # the argument is not changed
    renamed = {FIELDS.get(name, name) for name in config}
    assert {*result} == renamed - {"recipe"} | {"reference.name"}


def test_inputs_of_the_first_format_are_those_of_linear_regression_alone():
    config = FIRST | {"task.inputs": "uniform"}
    assert migrated(config, 1, CONFIGS)["task.inputs"] == "uniform"
    assert "task.inputs" not in migrated(config | {"recipe": "function_classes"}, 1, CONFIGS)


def test_configs_before_there_were_recipes_or_analyses():
    assert migrated({"seeds": 2}, 1, CONFIGS) == {"seeds": 2, "reference.name": "gradient_descent", "analyses": []}


@pytest.mark.parametrize(("clip", "after"), [(1e6, None), (1e-3, 1e-3), (None, None), ([0.1, 1.0], [0.1, 1.0])])
def test_checkpoints_of_the_third_format(clip, after):
    metadata = {"settings": {"clip": clip, "steps": 20}, "seeds": 2}
    assert migrated(metadata, 3, CHECKPOINTS) == {"settings": {"clip": after, "steps": 20}, "seeds": 2}
    assert metadata["settings"]["clip"] == clip


def test_checkpoints_that_say_nothing_of_a_clip():
    for metadata in ({"seeds": 2}, {"settings": {"steps": 20}}):
        assert migrated(metadata, 3, CHECKPOINTS) == metadata


@pytest.mark.parametrize("name", TABLES)
def test_what_is_of_this_version_is_read_as_it_is(name):
    steps = TABLES[name]
    assert list(steps) == list(range(min(steps, default=1), newest_of(steps)))  # no format is left out
    assert migrated({"recipe": "x", "settings": {"clip": 1e6}}, newest_of(steps), steps) == {
        "recipe": "x",
        "settings": {"clip": 1e6},
    }


def test_what_is_renamed_is_read_by_its_new_name():
    """New names: fields of TransformerConfig, the form of training, frozen blocks, and leaves of the unembedding."""
    leaves = {"member.params.head.W_O": 1, "member.opt_state.1.0.mu.head.b_O": 2, "member.params.head.norm.scale": 3}
    metadata = {"model": {"mlp_width": 3, "d_token": 2}, "settings": {"form": "moments", "clip": None}, "given": "abc"}
    assert migrated({**metadata, "leaves": leaves}, 4, CHECKPOINTS) == {
        "model": {"input_mlp_width": 3, "d_token": 2, "modification": UNMODIFIED},
        "settings": {"form": "gram", "clip": None},
        "frozen": "abc",
        "leaves": {
            "member.params.unembed.W_U": 1,
            "member.opt_state.1.0.mu.unembed.b_U": 2,
            "member.params.unembed.norm.scale": 3,
        },
    }
    model = {"model": {"reads_query": True}, "leaves": {"head.W_O": 1, "block_0.attention.W_K": 2}}
    assert migrated(model, 1, PRETRAINED) == {
        "model": {"attend_to_query": True, "modification": UNMODIFIED},
        "leaves": {"unembed.W_U": 1, "block_0.attention.W_K": 2},
    }
    flat = {"model.normalised": True, "eval.families": ["standard"], "train.form": "moments", "seeds": 2}
    renamed = {"model.sum_normalised": True, "eval.suite": ["standard"], "train.form": "gram", "seeds": 2}
    assert migrated(flat, 2, CONFIGS) == renamed


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("later", [1, 5])
def test_a_later_format_is_refused_in_one_line(name, later):
    steps = TABLES[name]
    oldest, newest = min(steps, default=1), newest_of(steps)
    with pytest.raises(ValueError) as refused:
        migrated({}, newest + later, steps)
    message = f"it is written in format {newest + later}, this version reads formats {oldest} to {newest}"
    assert str(refused.value) == f"{message}; a newer version wrote it"
    with pytest.raises(ValueError, match=f"format {oldest - 1}, this version"):
        migrated({}, oldest - 1, steps)


def test_steps_follow_each_other():
    steps = {2: lambda content: content | {"a": content["a"] + ["2"]}, 3: lambda content: {"a": content["a"] + ["3"]}}
    assert newest_of(steps) == 4
    assert migrated({"a": []}, 2, steps) == {"a": ["2", "3"]}
    assert migrated({"a": []}, 3, steps) == {"a": ["3"]}
    assert migrated({"a": []}, 4, steps) == {"a": []}


@pytest.mark.parametrize(("steps", "file_format"), [(CHECKPOINTS, 5), (PRETRAINED, 2)])
def test_modifications_move_to_a_part_of_the_model(steps, file_format):
    """Strengths are leaves of `attention`. Leaves with the same names elsewhere are not renamed."""
    model = {"d_token": 2, "alpha": 0.5, "beta": None, "share": None, "augment_values": [0.5, 1.0]}
    leaves = {"block_0.attention.alpha": 1, "mu.block_1.attention.share": 2, "block_0.mlp.beta": 3, "beta": 4}
    assert migrated({"model": model, "leaves": leaves}, file_format, steps) == {
        "model": {"d_token": 2, "modification": {**UNMODIFIED, "query_damping": 0.5, "augment_values": [0.5, 1.0]}},
        "leaves": {
            "block_0.attention.query_damping": 1,
            "mu.block_1.attention.negative_fraction": 2,
            "block_0.mlp.beta": 3,
            "beta": 4,
        },
    }
