"""Law 6: members train independently, a resumed run equals the uninterrupted one, broken checkpoints are skipped."""

import contextlib
import gc
import shutil
import sys
import warnings
from dataclasses import replace
from types import SimpleNamespace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import icl_gd
import icl_gd.analysis
from icl_gd import LinearRegression, TrainSettings, TransformerConfig, learners, tokens
from icl_gd.tasks import draw_prompts
from icl_gd.training import Interrupted, checkpoint, idle, in_context, mesh, population
from icl_gd.training.problem import learning_problem

TO_THE_BIT = True  # compiles as in a run (tests/conftest.py)
TASK, MODEL = LinearRegression(2, 1, 3), TransformerConfig(3, init_scale=1.0)
SETTINGS = TrainSettings(steps=8, batch_size=16, learning_rate=1e-2, clip=1.0)


def run(**changes):
    return icl_gd.train(TASK, MODEL, SETTINGS, **{"seeds": 3, "chunk_steps": 2, **changes})


@pytest.fixture
def quick(monkeypatch):
    """Compiles chunks with few optimisations. For tests that compare no bits, and share no chunk with others."""
    monkeypatch.setattr(population, "TO_THE_BIT", {})


@pytest.fixture(scope="module")
def uninterrupted():
    return run()


def test_resumed_is_uninterrupted_to_the_bit(uninterrupted, tmp_path):
    chunk_ends, resumed_at = [], []
    with pytest.raises(Interrupted) as stop:
        run(
            checkpoints=tmp_path,
            stop_requested=lambda: 15 if len(chunk_ends) == 1 else None,
            on_chunk=lambda trained, step, loss: chunk_ends.append(step),
        )
    assert (stop.value.step, stop.value.signal) == (4, 15)
    resumed = run(checkpoints=tmp_path, on_resume=resumed_at.append)
    assert resumed_at == [4]
    chex.assert_trees_all_equal(resumed.params, icl_gd.load(tmp_path).params, uninterrupted.params, strict=True)


def test_how_steps_are_chunked_does_not_matter_to_the_bit(uninterrupted):
    chex.assert_trees_all_equal(run(chunk_steps=3).params, uninterrupted.params, strict=True)


def test_checkpoints_leave_the_process_as_it_was(tmp_path):
    before = sys.unraisablehook, sys.excepthook
    with contextlib.closing(checkpoint.Checkpoints(tmp_path)) as store:
        assert store.restore() is None
        store.save(1, {"a": np.ones(2)}, {"steps": 1})
        step, leaves, metadata = store.restore()
    assert (step, metadata) == (1, {"steps": 1})
    np.testing.assert_array_equal(leaves["a"], np.ones(2))
    assert (sys.unraisablehook, sys.excepthook) == before


def test_pending_tasks_of_a_failed_write_print_nothing(tmp_path, monkeypatch, capsys):
    """The hooks for pending tasks and for threads suppress "Event loop is closed", and print all other errors."""
    monkeypatch.setattr(sys, "unraisablehook", lambda raised: print(raised.exc_value, file=sys.stderr))
    monkeypatch.setattr(sys, "excepthook", lambda kind, error, trace: print(error, file=sys.stderr))
    with pytest.raises(OSError, match="full"), checkpoint._suppress_closed_loop_tracebacks():
        raise OSError("full")
    for message in ("Event loop is closed", "another"):
        error = RuntimeError(message)
        sys.unraisablehook(SimpleNamespace(exc_value=error))
        sys.excepthook(RuntimeError, error, None)
    assert capsys.readouterr().err == "another\nanother\n"


@jax.jit
def predict(predictor, prompt):
    return predictor(prompt.x, prompt.y, prompt.x_query)


@jax.jit
def last_layer(model, prompt):
    return model.layerwise(prompt.x, prompt.y, prompt.x_query)[-1]


def test_a_population_is_its_models(uninterrupted):
    prompts = draw_prompts(TASK.sample, jax.random.key(3), 5)
    prompt = jax.tree.map(lambda leaf: leaf[0], prompts)
    members = list(uninterrupted)
    assert len(members) == len(uninterrupted) == 3
    for i, model in enumerate(members):
        expected = predict(uninterrupted.predictors[i], prompt)
        np.testing.assert_array_equal(predict(model, prompt), expected)
        np.testing.assert_array_equal(predict(uninterrupted[i - 3], prompt), expected)
        np.testing.assert_allclose(last_layer(model, prompt), expected, rtol=1e-5)
        losses = icl_gd.analysis.losses(model, prompts)
        np.testing.assert_allclose(losses, icl_gd.analysis.losses(uninterrupted.predictors[i], prompts), rtol=1e-6)
    assert len({float(predict(model, prompt)[0]) for model in members}) == 3
    with pytest.raises(IndexError, match="member 3: a population of 3 has members 0 to 2"):
        uninterrupted[3]


def test_without_a_clip_gradients_are_unclipped():
    def trained(clip):
        return icl_gd.train(TASK, MODEL, replace(SETTINGS, clip=clip), seeds=3, chunk_steps=2)

    chex.assert_trees_all_equal(trained(None).params, trained(1e6).params, strict=True)


def test_member_is_the_run_alone(uninterrupted):
    for seed in (1, 2):
        alone = run(seeds=1, seed=seed)
        chex.assert_trees_all_close(alone.member(0), uninterrupted.member(seed), rtol=1e-7, atol=8 * 1e-6)


def test_shared_batches_are_the_first_members(uninterrupted):
    settings = TrainSettings(**{**SETTINGS.__dict__, "share_batches": True})
    shared = icl_gd.train(TASK, MODEL, settings, seeds=3, chunk_steps=2)
    chex.assert_trees_all_close(shared.member(0), uninterrupted.member(0), rtol=1e-7, atol=8 * 1e-6)
    for shared_leaf, separate_leaf in zip(
        *map(jax.tree.leaves, (shared.member(1), uninterrupted.member(1))), strict=True
    ):
        assert not np.allclose(shared_leaf, separate_leaf, atol=1e-5)


def test_one_compilation(quick):
    """The loss is traced once for all chunks of two runs."""
    draw, loss = learning_problem(TASK, MODEL, tokens.concatenated(2, 1), SETTINGS)
    loss = chex.assert_max_traces(loss, 1)
    for seed in (0, 5):
        chunk = population.make_chunk(draw, loss, SETTINGS, mesh.Placement())
        members = population.member_specs(seed, 3, SETTINGS, {})
        population.run_chunks(chunk, in_context.initialise(MODEL, SETTINGS, seed, 3), members, 8, 2)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A directory with checkpoints of steps 4 and 8, and the parameters at these steps."""
    directory, params_at = tmp_path_factory.mktemp("saved"), {}

    def keep(trained, step, loss):
        params_at[step] = jax.tree.map(np.array, trained.params)

    run(checkpoints=directory, checkpoint_every=4, chunk_steps=4, on_chunk=keep)
    return directory, params_at


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(bytes(content))


def newest_files(directory):
    """Files of step 8, the largest first."""
    files = [path for path in (directory / "8").rglob("*") if path.is_file() and path.stat().st_size]
    return sorted(files, key=lambda path: (-path.stat().st_size, path))


# A failed read of Orbax leaves event loops behind. `gc.collect` collects them in this test, not in a later one.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_flipped_byte_never_changes_what_is_loaded(saved, tmp_path):
    """A flipped byte in any file of the newest step: loading gives that step or, with a warning, the one before."""
    directory, params_at = saved
    fell_back = []
    for i, file in enumerate(newest_files(directory)):
        copy = tmp_path / str(i)
        shutil.copytree(directory, copy)
        flip(copy / file.relative_to(directory))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            params = icl_gd.load(copy).params
        warned = any("checkpoint 8 is unreadable" in str(warning.message) for warning in caught)
        chex.assert_trees_all_equal(params, params_at[4 if warned else 8], strict=True, custom_message=str(file))
        if warned:
            fell_back.append(file)
    assert any("/d/" in str(file) for file in fell_back)
    assert newest_files(directory)[0] in fell_back
    gc.collect()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_run_repairs_its_broken_checkpoint(saved, tmp_path):
    """The run resumes from the older step, ends with the same parameters, and saves them again."""
    directory, params_at = saved
    copy = tmp_path / "copy"
    shutil.copytree(directory, copy)
    flip(newest_files(copy)[0])
    with pytest.warns(UserWarning, match="checkpoint 8 is unreadable"):
        resumed = run(checkpoints=copy, checkpoint_every=4, chunk_steps=4)
    chex.assert_trees_all_equal(resumed.params, icl_gd.load(copy).params, params_at[8], strict=True)


def test_content_that_is_not_its_checksums_is_not_loaded(saved, monkeypatch):
    """The checksum is compared even if Orbax reads the files without an error."""
    directory, params_at = saved
    real_checksum = checkpoint.checksum

    def wrong_for_newest(leaves, metadata):
        return "0" if leaves["step"] == 8 else real_checksum(leaves, metadata)

    monkeypatch.setattr(checkpoint, "checksum", wrong_for_newest)
    with pytest.warns(UserWarning, match="checkpoint 8 is unreadable.* checksum"):
        older = icl_gd.load(directory)
    monkeypatch.undo()
    chex.assert_trees_all_equal(older.params, params_at[4], strict=True)
    chex.assert_trees_all_equal(icl_gd.load(directory).params, params_at[8], strict=True)
    for change in ({"a": np.ones(2)}, {"b": np.zeros(2)}, {"a": np.zeros((2, 1))}, {"a": np.zeros(2, np.float32)}):
        assert real_checksum(change, {}) != real_checksum({"a": np.zeros(2)}, {})
    assert real_checksum({"a": np.zeros(2)}, {"d": 1}) != real_checksum({"a": np.zeros(2)}, {})


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_stop_after_a_broken_checkpoint_is_saved(saved, tmp_path):
    """A broken checkpoint of a later step does not prevent saving an earlier step."""
    directory, params_at = saved
    copy = tmp_path / "copy"
    shutil.copytree(directory, copy)
    flip(newest_files(copy)[0])
    with pytest.warns(UserWarning, match="unreadable"), pytest.raises(Interrupted):
        run(checkpoints=copy, checkpoint_every=4, chunk_steps=2, stop_requested=lambda: 15)
    resumed_at = []
    run(checkpoints=copy, checkpoint_every=4, on_resume=resumed_at.append)
    assert resumed_at == [6]
    chex.assert_trees_all_equal(icl_gd.load(copy).params, params_at[8], strict=True)
    gc.collect()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_without_a_sound_checkpoint_a_run_starts_again(saved, uninterrupted, tmp_path):
    copy, resumed_at = tmp_path / "copy", []
    shutil.copytree(saved[0], copy)
    shutil.rmtree(copy / "4")
    flip(newest_files(copy)[0])
    restarts = pytest.warns(UserWarning, match="no checkpoint is readable; training starts again from step 0")
    with restarts, pytest.warns(UserWarning, match="checkpoint 8 is unreadable"):
        run(checkpoints=copy, checkpoint_every=4, chunk_steps=4, on_resume=resumed_at.append)
    assert resumed_at == [0]
    chex.assert_trees_all_equal(icl_gd.load(copy).params, uninterrupted.params, strict=True)
    gc.collect()


def test_a_sweep_names_what_can_be_loaded(tmp_path):
    run(checkpoints=tmp_path / "checkpoints" / "n_context=5")
    with pytest.raises(FileNotFoundError, match=r"a sweep; load one of .*n_context=5"):
        icl_gd.load(tmp_path)


def test_what_a_checkpoint_does_not_say_is_as_it_was_by_default(saved, tmp_path):
    """A checkpoint without layout, corrupted labels, kind of attention and form can be resumed and loaded."""
    older = tmp_path / "older"
    with contextlib.closing(checkpoint.Checkpoints(saved[0])) as source:
        step, leaves, metadata = source.restore()
    for part, name in (("task", "corrupted_labels"), ("model", "attention"), ("settings", "form")):
        del metadata[part][name]
    del metadata["layout"], metadata["frozen"]
    with contextlib.closing(checkpoint.Checkpoints(older)) as target:
        target.save(step, leaves, metadata)
    resumed_at = []
    resumed = run(checkpoints=older, on_resume=resumed_at.append)
    assert resumed_at == [step]
    chex.assert_trees_all_equal(resumed.params, icl_gd.load(older).params, strict=True)
    other = replace(MODEL, attention="softmax")
    with pytest.raises(ValueError, match="model differ"):
        icl_gd.train(TASK, other, SETTINGS, seeds=3, checkpoints=older)


def test_checkpoints_of_another_population_are_refused(saved, tmp_path):
    directory, _ = saved
    copy = tmp_path / "copy"
    shutil.copytree(directory, copy)
    for changes in ({"seeds": 2}, {"seed": 5}):
        with pytest.raises(ValueError, match="another population: seed"):
            run(checkpoints=copy, **changes)
    other = TrainSettings(**{**SETTINGS.__dict__, "schedule": "cosine"})
    with pytest.raises(ValueError, match="settings differ"):
        icl_gd.train(TASK, MODEL, other, seeds=3, checkpoints=copy)
    with pytest.raises(ValueError, match="task differ"):
        icl_gd.train(LinearRegression(2, 1, 4), MODEL, SETTINGS, seeds=3, checkpoints=copy)
    with pytest.raises(ValueError, match=r"another model: a is float64.3. in the checkpoint, float64.2. in the model"):
        checkpoint.unflatten({"a": np.zeros(2)}, {"a": np.zeros(3)})


def test_a_finished_run_can_be_extended(uninterrupted, tmp_path):
    half = TrainSettings(**{**SETTINGS.__dict__, "steps": 4})
    icl_gd.train(TASK, MODEL, half, seeds=3, chunk_steps=2, checkpoints=tmp_path)
    chex.assert_trees_all_equal(run(checkpoints=tmp_path).params, uninterrupted.params, strict=True)


def test_the_last_whole_chunk_is_saved(tmp_path):
    """A longer run resumes at step 6, because none of its chunks ends at step 7."""
    odd = TrainSettings(**{**SETTINGS.__dict__, "steps": 7})
    icl_gd.train(TASK, MODEL, odd, seeds=3, chunk_steps=2, checkpoints=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["6", "7"]


def test_a_checkpoint_of_another_format_is_not_read(tmp_path, monkeypatch):
    newest = max(checkpoint.CHECKPOINTS) + 1
    monkeypatch.setattr(checkpoint, "CHECKPOINTS", {**checkpoint.CHECKPOINTS, newest: lambda about: about})
    run(checkpoints=tmp_path)
    monkeypatch.undo()
    for open_it in (icl_gd.load, lambda directory: run(checkpoints=directory)):
        with pytest.raises(ValueError, match=f"format {newest + 1}, this version reads formats 3 to {newest}"):
            open_it(tmp_path)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "linear"])
def test_the_learning_rate_rises_over_the_warmup(schedule):
    """With a constant gradient, Adam's step is the learning rate: it rises from 0, then follows the schedule."""
    settings = TrainSettings(steps=12, learning_rate=0.1, schedule=schedule, warmup=4, clip=None, epsilon=1e-12)
    rates = jax.tree.map(lambda leaf: leaf[0], population.member_specs(0, 1, settings, {}).rates)

    @jax.jit
    def steps(w):
        optimizer = settings.transformation(rates)

        def update(state, _):
            return optimizer.update(jnp.ones(()), state, w)[::-1]

        return jax.lax.scan(update, optimizer.init(w), length=12)[1]

    falls = {
        "constant": lambda t: 1.0,
        "cosine": lambda t: (1 + np.cos(np.pi * t / 8)) / 2,
        "linear": lambda t: 1 - t / 8,
    }
    after = [0.1 * falls[schedule](t) for t in range(8)]
    np.testing.assert_allclose(-steps(jnp.zeros(())), [0.0, 0.025, 0.05, 0.075, *after], rtol=1e-4, atol=1e-7)
    with pytest.raises(ValueError, match="warmup=12 must be below steps=12"):
        TrainSettings(steps=12, warmup=12)


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_sgd_steps_along_gradients_and_what_is_left_of_those_before(momentum):
    settings = TrainSettings(optimizer="sgd", learning_rate=0.1, momentum=momentum, clip=None)
    rates = jax.tree.map(lambda leaf: leaf[0], population.member_specs(0, 1, settings, {}).rates)
    optimizer = settings.transformation(rates)
    gradients = np.array([1.0, -2.0, 0.5], np.float32)
    actual = jax.jit(
        lambda: jax.lax.scan(lambda s, g: optimizer.update(g, s)[::-1], optimizer.init(0.0), gradients)[1]
    )()
    velocities = [1.0, -2.0 + momentum, 0.5 + momentum * (-2.0 + momentum)]
    np.testing.assert_allclose(actual, -0.1 * np.array(velocities), rtol=1e-6)


def test_what_another_optimiser_has_is_refused():
    with pytest.raises(ValueError, match=r"beta2=0.9 is a parameter of AdamW; with optimizer=sgd leave it at 0.98"):
        TrainSettings(optimizer="sgd", beta2=0.9)
    with pytest.raises(ValueError, match=r"momentum=0.9 is a parameter of SGD; with optimizer=adamw leave it at 0.0"):
        TrainSettings(momentum=0.9)


def test_training_finds_gradient_descent(quick):
    """The main claim on a small task: the loss of trained layers is within 1 % of that of the best gradient step."""
    task = LinearRegression(3, 1, 6, "normal")
    settings = TrainSettings(steps=800, batch_size=256, learning_rate=1e-2, clip=1.0, schedule="cosine")
    trained = icl_gd.train(task, TransformerConfig(4, init_scale=0.1), settings, seeds=2, chunk_steps=800)

    @jax.jit
    def drawn(seed):
        prompts = jax.vmap(task.sample)(jax.random.split(jax.random.key(seed), 20_000))
        return prompts, [
            icl_gd.analysis.losses(predictor, prompts).mean()
            for predictor in (learners.predict_zero, *trained.predictors)
        ]

    prompts, (zero_loss, *trained_losses) = drawn(99)
    loss_of_step = jax.jit(
        lambda eta, prompts: icl_gd.analysis.losses(learners.gradient_descent([eta]), prompts).mean()
    )
    best = float(loss_of_step(learners.fit_step_size(prompts), prompts))
    assert max(map(float, trained_losses)) < 1.01 * best < 0.5 * float(zero_loss)


@pytest.mark.parametrize("share", [True, False])
def test_a_step_that_is_not_finite_is_as_if_it_had_not_been(share):
    """Before step 40, two batches in five are nan; from step 40 on, all are."""
    settings = TrainSettings(50, 8, learning_rate=1e-2, clip=1.0, share_batches=share)
    members = population.member_specs(0, 2, settings, {})

    def loss(params, batch):
        return jnp.mean((params["w"] - batch) ** 2)

    def is_spoiled(number):
        return (number >= 40) | (number % 5 == 1) | (number % 5 == 2)

    def draw(key, step):
        return jnp.where(is_spoiled(step), jnp.nan, jax.random.normal(key, (8,)))

    chunk = population.make_chunk(draw, loss, settings, mesh.Placement())
    start = population.start(lambda key, of_model: {"w": jax.random.normal(key)}, settings, members)
    start_weights = np.array(start.member.params["w"]).tolist()
    trained = population.run_chunks(chunk, start, members, 50, 10).member
    np.testing.assert_array_equal(trained.diverged_at, 40)
    np.testing.assert_array_equal(trained.skipped, 16 + population.PATIENCE)

    @jax.jit
    def step(params, state, spec, number):
        gradient = jax.grad(loss)(params, draw(jax.random.fold_in(spec.data, number), number))
        updates, state = settings.transformation(spec.rates).update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    for i, w in enumerate(start_weights):
        spec = jax.tree.map(lambda leaf, i=i: leaf[i], members)
        params = {"w": np.float32(w)}
        state = settings.transformation(spec.rates).init(params)
        for number in (n for n in range(50) if not is_spoiled(n)):
            params, state = step(params, state, spec, number)
        np.testing.assert_allclose(trained.params["w"][i], params["w"], rtol=1e-5)


IDLE = {
    "rate": ({"learning_rate": 1e-20}, r"learning_rate=1e-20 or clip=1.0 .epsilon=1e-09. is too small"),
    "clip": ({"clip": 1e-30}, r"learning_rate=0.01 or clip=1e-30 .epsilon"),
    "infinite": ({"scale": 1e6}, "every loss or gradient was infinite or nan; reduce the scales of the task"),
}


@pytest.mark.parametrize("name", IDLE)
def test_training_that_changes_nothing_says_so(name, quick):
    changes, message = IDLE[name]
    scale = changes.get("scale", 1.0)
    task = LinearRegression(2, 1, 3, input_scale=scale, weight_scale=scale)
    settings = {**SETTINGS.__dict__, "steps": 2, **{name: value for name, value in changes.items() if name != "scale"}}
    with pytest.warns(UserWarning, match=f"no member's weights changed in 2 steps: {message}"):
        icl_gd.train(task, MODEL, TrainSettings(**settings), seeds=2, chunk_steps=2)


def test_a_loss_that_stays_says_so(monkeypatch):
    """If weights change in their last digits only, the loss does not change."""

    def member(w):
        return population.MemberState({"w": np.array(w, np.float32)}, (), *[np.zeros(2, int)] * 2, -np.ones(2, int))

    settings = TrainSettings(learning_rate=(1e-9, 1e-2))
    losses = list(np.array([[0.5, 0.5], [0.5, 0.4]], np.float32))
    warning = idle.idle_warning(member([0, 0]), member([1e-9, 1]), 4, settings, losses)
    assert warning.startswith("the loss of 1 of 2 members did not change in 4 steps, up to rounding: learning_rate=")
    assert "learning_rate=(1e-09, 0.01)" in warning
    assert idle.idle_warning(member([0, 0]), member([1e-9, 1]), 4, settings, losses[:1]) is None
    chunk_losses, compared_losses = [], []
    monkeypatch.setattr(in_context, "idle_warning", lambda *args: compared_losses.extend(args[-1]))
    run(on_chunk=lambda trained, step, loss: chunk_losses.append(loss.mean(0)))
    chex.assert_trees_all_equal(compared_losses, [chunk_losses[0], chunk_losses[-1]])


def test_members_that_have_not_moved_are_counted(tmp_path, quick):
    settings = TrainSettings(**{**SETTINGS.__dict__, "learning_rate": (1e-20, 1e-2)})
    with pytest.warns(UserWarning, match="the weights of 1 of 2 members did not change in 8 steps"):
        icl_gd.train(TASK, MODEL, settings, seeds=1, checkpoints=tmp_path)
    icl_gd.train(TASK, MODEL, settings, seeds=1, checkpoints=tmp_path)  # takes no steps, so it does not warn


def test_a_path_may_begin_at_home(tmp_path, monkeypatch, uninterrupted):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    run(checkpoints="~/mine")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine"]
    chex.assert_trees_all_equal(icl_gd.load("~/mine").params, uninterrupted.params, strict=True)
    for address in ("gs://bucket/run", "s3://bucket/run"):
        with pytest.raises(ValueError, match=f"checkpoints={address}: object stores are neither read nor written"):
            run(checkpoints=address)
        with pytest.raises(ValueError, match=f"workdir={address}: object stores"):
            icl_gd.load(address)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine"]


def steps_of(directory):
    return sorted(int(path.name) for path in directory.iterdir() if path.is_dir())


def test_checkpoints_stay_as_asked(uninterrupted, tmp_path):
    """Default "last": the last two. "log": the first at or after each power of two. Weights are bit-for-bit equal."""
    expected_steps = {
        ("last", 3): [6, 8],
        ("log", 3): [0, 1, 2, 6, 8],
        ("log", 1): [0, 1, 2, 4, 7, 8],
        ("all", 3): [0, 3, 6, 8],
    }
    for (keep, chunk_steps), steps in expected_steps.items():
        directory = tmp_path / f"{keep}{chunk_steps}"
        every = min(chunk_steps, 2)
        trained = run(checkpoints=directory, keep_checkpoints=keep, chunk_steps=chunk_steps, checkpoint_every=every)
        assert steps_of(directory) == steps, keep
        chex.assert_trees_all_equal(trained.params, uninterrupted.params, strict=True)


def test_training_is_an_axis_of_members(uninterrupted, tmp_path):
    """A checkpoint is loaded by its step; several are loaded as one population, whose `swept` has the steps."""
    run(checkpoints=tmp_path, keep_checkpoints="all", checkpoint_every=4)
    all_steps = icl_gd.load(tmp_path, step="all")
    assert [point["step"] for point in all_steps.swept] == steps_of(tmp_path) == [0, 4, 8]
    assert len(all_steps) == 3 * len(uninterrupted)
    initial_params = in_context.initialise(MODEL, SETTINGS, 0, 3).member.params
    for index, expected in ((0, initial_params), (2, uninterrupted.params)):
        step = all_steps.swept[index]["step"]
        for loaded in (all_steps.combination(index), icl_gd.load(tmp_path, step), icl_gd.load(tmp_path / str(step))):
            chex.assert_trees_all_equal(loaded.params, expected, strict=True)
    assert icl_gd.load(tmp_path, (8, 4)).swept == icl_gd.load(tmp_path, np.array([8, 4])).swept
    assert icl_gd.load(tmp_path, [8, 4]).swept == ({"step": 8}, {"step": 4})
    assert icl_gd.load(tmp_path, np.int64(8)).swept == ({},)
    assert repr(all_steps).startswith("Population(9 members, 3 combinations of step, TransformerConfig(")
    with pytest.raises(IndexError, match="combination 3 does not exist; give 0 to 2"):
        all_steps.combination(3)
    with pytest.raises(
        FileNotFoundError, match=r"step=5: .* holds checkpoints of steps 0, 4, 8; give some of them, or 'all'"
    ):
        icl_gd.load(tmp_path, 5)


def test_errors(quick):
    with pytest.raises(ValueError, match="d_token"):
        icl_gd.train(TASK, TransformerConfig(7), SETTINGS)
    with pytest.raises(ValueError, match="schedule"):
        TrainSettings(schedule="step")
    with pytest.raises(FileNotFoundError, match="no such directory"):
        icl_gd.load("/nonexistent")
    huge = LinearRegression(2, 1, 3, input_scale=1e6, weight_scale=1e6)  # float32 overflows at the sixth power
    with pytest.raises(FloatingPointError, match="every member has diverged, the last at step 0"):
        icl_gd.train(huge, MODEL, SETTINGS)
