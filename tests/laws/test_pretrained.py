"""Imported and saved models: published checkpoints of Garg et al. (HuggingFace's GPT-2), and safetensors."""

import functools
import json
import pickle
from dataclasses import replace

import chex
import jax
import numpy as np
import pytest

from icl_gd import interop, models, tokens
from icl_gd.interop import garg
from icl_gd.models import TransformerConfig
from icl_gd.trees import flatten, nested

D, POINTS = 20, 12
SIZES = {"tiny": (64, 3, 2), "small": (128, 6, 4), "standard": (256, 12, 8)}
LINEAR = TransformerConfig(D + 1, 2, 2, shared=True)
GPT2 = TransformerConfig(
    D,
    2,
    2,
    d_head=8,
    attention="softmax",
    init="gpt2",
    init_scale=4e-4,
    causal=True,
    pre_norm=True,
    biases=True,
    d_embed=16,
    block_mlp_width=64,
    n_positions=2 * POINTS,
    d_read_out=1,
)
MODIFIED = TransformerConfig(
    D + 1, 1, 2, d_head=8, attention="softmax", attend_to_query=True, modification=models.Modification(0.5, 0.5, 0.25)
)
MIXED = TransformerConfig(D + 1, 2, 2, d_head=8, attention="mixed")
MODELS = {
    "linear": (LINEAR, "concatenated"),
    "gpt2": (GPT2, "alternating"),
    "modified": (MODIFIED, "concatenated"),
    "mixed": (MIXED, "concatenated"),
}


@functools.cache
def pretrained(name):
    config, layout = MODELS[name]
    params = jax.jit(functools.partial(models.init, config))(jax.random.key(1))
    return models.Model(config, params, tokens.LAYOUTS[layout](D, 1))


def examples(seed=0, n=POINTS):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, D)).astype(np.float32), rng.normal(size=(n, 1)).astype(np.float32)


def published(size):
    """The network that the published code builds, with random weights, biases and norms."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    e, layers, heads = SIZES[size]
    config = transformers.GPT2Config(
        vocab_size=10,
        n_positions=2 * 41,
        n_embd=e,
        n_layer=layers,
        n_head=heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        use_cache=False,
    )

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self._read_in = torch.nn.Linear(D, e)
            self._backbone = transformers.GPT2Model(config)
            self._read_out = torch.nn.Linear(e, 1)

        def forward(self, x, y):
            wide = torch.nn.functional.pad(y, (0, D - 1))
            tokens = torch.stack([x, wide], dim=1).reshape(1, 2 * len(x), D)
            hidden = self._backbone(inputs_embeds=self._read_in(tokens)).last_hidden_state
            return self._read_out(hidden)[0, ::2]

    torch.manual_seed(0)
    network = Network().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return torch, network


@pytest.mark.parametrize("size", SIZES)
def test_a_published_checkpoint_predicts_the_same_everywhere(size, tmp_path):
    torch, network = published(size)
    state = {"model_state_dict": network.state_dict(), "optimizer_state_dict": {}, "train_step": 3}
    torch.save(state, tmp_path / "state.pt")
    torch.save(network.state_dict(), tmp_path / "model_3.pt")
    (tmp_path / "config.yaml").write_text(f"model:\n  family: gpt2\n  n_head: {SIZES[size][2]}\n")
    x, y = examples()
    with torch.no_grad():
        expected = network(torch.tensor(x), torch.tensor(y)).numpy()
    from_directory, from_file = (interop.from_garg(path) for path in (tmp_path, tmp_path / "model_3.pt"))

    def description(model):
        return (model.config, model.layout)

    assert description(from_directory) == description(from_file)

    @jax.jit  # one program for both sources
    def predict(params, x, y):
        model = replace(from_file, params=params)
        return model.prefix_predictor(x, y), model.predictor(x[:5], y[:5], x[5])

    for params in (from_directory.params, from_file.params):
        prefix_y_hat, y_hat_5 = predict(params, x, y)
        np.testing.assert_allclose(prefix_y_hat, expected, atol=1e-5 * np.abs(expected).max() + 1e-5)
        np.testing.assert_allclose(y_hat_5, expected[5], atol=1e-4)


def test_modules_around_a_published_network_are_taken_off(tmp_path):
    torch, network = published("tiny")
    expected = garg.of_state(network.state_dict(), 2)
    wrapped = torch.nn.DataParallel(network).state_dict()
    assert all(name.startswith("module.") for name in wrapped)
    states = [wrapped]
    for prefix in ("_orig_mod.", "module._orig_mod.", "_orig_mod.module."):
        states.append({f"{prefix}{name}": value for name, value in network.state_dict().items()})
    for state in states:
        for i, saved in enumerate((state, {"model_state_dict": state, "optimizer_state_dict": {}, "train_step": 3})):
            torch.save(saved, tmp_path / f"model_{i}.pt")
            actual = interop.from_garg(tmp_path / f"model_{i}.pt", n_heads=2)
            assert actual.config == expected.config
            chex.assert_trees_all_equal(actual.params, expected.params, strict=True)
    partly_wrapped = {name.removeprefix("module.") if "wpe" in name else name: value for name, value in wrapped.items()}
    with pytest.raises(ValueError, match=r"_read_in\.weight is missing"):
        garg.of_state(partly_wrapped, 2)
    with pytest.raises(ValueError, match="n_heads=0 must be"):
        garg.of_state(wrapped, 0)


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("how", ["pickle", "torch"])
def test_a_malicious_checkpoint_is_refused_and_executes_nothing(how, tmp_path):
    torch = pytest.importorskip("torch")
    written = tmp_path / "written"
    attack = {"model_state_dict": {"_read_in.weight": Malicious(str(written))}}
    if how == "pickle":
        (tmp_path / "state.pt").write_bytes(pickle.dumps(attack))
    else:
        torch.save(attack, tmp_path / "state.pt")
    with pytest.raises(ValueError, match="is refused") as caught:
        interop.from_garg(tmp_path, n_heads=2)
    assert "\n" not in str(caught.value)
    assert not written.exists()
    pickle.loads(pickle.dumps(Malicious(str(written)))).close()  # unpickling writes the file
    assert written.exists()


def test_what_is_no_checkpoint_is_refused(tmp_path):
    torch = pytest.importorskip("torch")
    with pytest.raises(FileNotFoundError, match=r"state\.pt does not exist"):
        interop.from_garg(tmp_path)
    torch.save({"a.weight": torch.zeros(2, 2)}, tmp_path / "state.pt")
    with pytest.raises(ValueError, match="give n_heads"):
        interop.from_garg(tmp_path)
    (tmp_path / "config.yaml").write_text("model: {}")
    with pytest.raises(ValueError, match=r"no valid model\.n_head"):
        interop.from_garg(tmp_path)
    with pytest.raises(ValueError, match="_read_in"):
        interop.from_garg(tmp_path, n_heads=2)
    torch.save([1], tmp_path / "state.pt")
    with pytest.raises(ValueError, match="no state dict"):
        interop.from_garg(tmp_path, n_heads=2)


@pytest.mark.parametrize("name", MODELS)
def test_what_is_saved_is_read_again_to_the_bit(name, tmp_path):
    model = pretrained(name)
    directory = tmp_path / "deep" / "inside"
    model.save(directory)
    loaded = interop.from_pretrained(directory)
    assert (loaded.config, loaded.layout) == (model.config, model.layout)
    chex.assert_trees_all_equal(loaded.params, model.params, strict=True)
    x, y = examples(1)
    predict = jax.jit(lambda params, *examples: replace(loaded, params=params).predictor(*examples))
    loaded_y_hat, saved_y_hat = (predict(params, x[:-1], y[:-1], x[-1]) for params in (loaded.params, model.params))
    np.testing.assert_array_equal(loaded_y_hat, saved_y_hat)
    assert sorted(path.name for path in directory.iterdir()) == ["config.json", "model.safetensors"]


def test_directories_may_begin_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    pretrained("linear").save("~/models/mine")
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    assert interop.from_pretrained("~/models/mine").config == LINEAR
    for read in (interop.from_pretrained, interop.from_garg):
        with pytest.raises(FileNotFoundError) as caught:
            read("~/models/other")
        assert str(tmp_path / "home" / "models" / "other") in str(caught.value)
    for use in (pretrained("linear").save, interop.from_pretrained, interop.from_garg):
        with pytest.raises(ValueError, match="=gs://bucket/mine"):
            use("gs://bucket/mine")


def test_a_population_is_saved_whole(tmp_path):
    rng = np.random.default_rng(2)

    def draw(leaf):
        return rng.normal(size=(3, *leaf.shape)).astype(np.float32)

    model = replace(pretrained("linear"), params=jax.tree.map(draw, models.shapes(LINEAR)))
    model.save(tmp_path)
    chex.assert_trees_all_equal(interop.from_pretrained(tmp_path).params, model.params, strict=True)
    flat = flatten(model.params)
    first = next(iter(flat))
    for changed in ({first: flat[first][0]}, {first: flat[first][:2]}, {name: flat[name][None] for name in flat}):
        replace(model, params=nested({**flat, **changed})).save(tmp_path)
        with pytest.raises(ValueError, match="has shape"):
            interop.from_pretrained(tmp_path)


def test_files_that_are_no_model_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        interop.from_pretrained(tmp_path)
    pretrained("linear").save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())

    def refused(words, **changed):
        (tmp_path / "config.json").write_text(json.dumps({**config, **changed}))
        with pytest.raises(ValueError, match=words):
            interop.from_pretrained(tmp_path)

    refused("a newer version", format=config["format"] + 1)
    refused("dream", model={**config["model"], "dream": 1})
    refused("n_layers=0", model={**config["model"], "n_layers": 0})
    refused("has shape", model={**config["model"], "n_heads": 3})
    refused("belong to different models; missing: .*b_K", model={**config["model"], "biases": True})
    refused("give tokens of width 4, but the config has d_token=", d_input=3)
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes((tmp_path / "model.safetensors").read_bytes()[:-9])
    with pytest.raises(ValueError, match="contains no readable model"):
        interop.from_pretrained(tmp_path)
