"""Does every law fail when what it guards is broken?

    python tests/mutations.py [WORD ...]

Each mutation changes one place of a copy of the tree, by which one law must fail; those whose description contains all
of the WORDs are run, all without. Prints a line each, and exits with 1 if a law stands by a mutation, or a mutation
no longer applies. Takes about twenty minutes, so it is run by hand when laws or what they guard change.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


class Mutation(NamedTuple):
    """`old` becomes `new` in `file` of the package, and one of the tests `law` selects (path, -k words) must fail."""

    file: str
    old: str
    new: str
    law: str


CONSTRUCTIONS, DEPTH, LEARNERS, MODELS, PARALLEL, TASKS, TRAINING = (
    f"laws/test_{name}.py" for name in ("constructions", "depth", "learners", "models", "parallel", "tasks", "training")
)
SEPARATE = "laws/test_separate_tokens.py"
FAULTS, SWITCHES = "experiments/test_faults.py", "experiments/test_switches.py"
DEEP_FEATURES, INTEROP, SINE = (f"laws/test_{name}.py" for name in ("deep_features", "interop", "nonlinear_tasks"))
QUERY, FINITE, SOFTMAX = "laws/test_query.py", "laws/test_finite_data.py", "laws/test_softmax.py"
PREFIX = "laws/test_prefix.py"
MUTATIONS = [
    Mutation("constructions/gradient_descent.py", "set(-jnp.eye(m))", "set(jnp.eye(m))", f"{CONSTRUCTIONS} float64"),
    Mutation("constructions/gradient_descent.py", "set(w0)", "set(-w0)", f"{CONSTRUCTIONS} float64"),
    Mutation("constructions/gradient_descent.py", "/ n_context * write", "/ (n_context + 1) * write",
             f"{CONSTRUCTIONS} float32"),
    Mutation("constructions/gradient_descent.py", "x, x].set(a)", "x, x].set(a.at[0, -1].add(1.0))",
             f"{CONSTRUCTIONS} float64"),
    Mutation("tokens.py", "-start.astype", "start.astype", f"{CONSTRUCTIONS} float64"),
    Mutation("learners/iterative.py", "w = w - step_size / n", "w = w + step_size / n", f"{LEARNERS} gradient"),
    Mutation("learners/iterative.py", "update = one_step[:, 0], one_step[:, 1] - one_step[:, 0]",
             "update = one_step[:, 0], one_step[:, 1] - 0.9 * one_step[:, 0] + 0.1 * prompts.y_query",
             f"{LEARNERS} minimum"),
    Mutation("learners/iterative.py", "y_hat + eta * moment @ query", "y_hat + eta * moment @ x[-1]",
             f"{DEPTH} construction"),
    Mutation("learners/iterative.py", "x - gamma * x @ curvature", "x + gamma * x @ curvature",
             f"{DEPTH} construction"),
    Mutation("constructions/gd_plus_plus.py", "-float(gamma)", "float(gamma)", f"{DEPTH} construction"),
    Mutation("learners/spectral.py", "a * (1.0 - gamma * a**2", "a * (1.0 - gamma * a", f"{DEPTH} polynomials"),
    Mutation("learners/spectral.py", "spectrum.noise * eigenvalues * q**2", "spectrum.noise * q**2",
             f"{DEPTH} exact_over"),
    Mutation("learners/spectral.py", "np.einsum(\"pik,ij,pjk->pk\"", "np.einsum(\"pki,ij,pkj->pk\"",
             f"{DEPTH} exact_over"),
    Mutation("learners/spectral.py", "return descend(spectrum, start)[1]", "return start", f"{DEPTH} minima"),
    Mutation("analysis/alignment.py", "((ours, 2), (theirs, 1))", "((ours, 1), (theirs, 2))",
             f"{DEPTH} layer_map"),
    Mutation("analysis/curvature.py", "/ (x.shape[2] - 1)", "/ x.shape[2]", f"{DEPTH} transforms"),
    Mutation("analysis/curvature.py", 'side="right") - 1', 'side="right")', f"{DEPTH} spectral_filter"),
    Mutation("analysis/curvature.py", "at[: max(x.shape[1] - len(x), 0)].set(0.0)", "at[:0].set(0.0)",
             f"{DEPTH} empty_directions"),
    Mutation("analysis/curvature.py", "spectrum[..., -rank]", "spectrum[..., 0]", f"{DEPTH} condition"),
    Mutation("experiments/references.py", "leaf[i], found", "leaf[0], found", f"{DEPTH} one_program"),
    Mutation("learners/exact.py", "+ penalty * jnp.eye", "- penalty * jnp.eye", f"{LEARNERS} independent_library"),
    Mutation("learners/exact.py", "return w.T @ x_query", "return w.T @ x_query + 1e-6 * x_query[0]",
             f"{LEARNERS} rotation"),
    Mutation("learners/closed_form.py", "2 * step_size * clean * alpha2**2", "2 * step_size * clean * alpha2",
             f"{LEARNERS} risk"),
    Mutation("learners/closed_form.py", "(1 + 1 / n_context) * covariance", "(1 - 1 / n_context) * covariance",
             f"{LEARNERS} optimum_meets"),
    Mutation("learners/closed_form.py", "clean * noise_to_weight", "-clean * noise_to_weight", f"{LEARNERS} noisy"),
    Mutation("tasks/linear.py", "self.input_scale * z", "z", f"{TASKS} shifts"),
    Mutation("tasks/linear.py", "np.sqrt(np.maximum(eigenvalues, 0.0))", "np.maximum(eigenvalues, 0.0)",
             f"{TASKS} moments"),
    Mutation("tasks/linear.py", "self.noise_std * jax.random", "2 * self.noise_std * jax.random", f"{TASKS} moments"),
    Mutation("tasks/linear.py", "key_x, key_w, key_noise, key_corrupted = jax.random.split(key, 4)\n        x =",
             "key_w, key_noise, key_corrupted = jax.random.split(key, 3); key_x = key_w\n        x =",
             f"{TASKS} moments_and"),
    Mutation("tasks/linear.py", "y = jnp.where(which, instead, y)", "pass", f"{TASKS} corrupted"),
    Mutation("tasks/linear.py", "(order < self.corrupted_labels)", "(order <= self.corrupted_labels)",
             f"{TASKS} corrupted"),
    Mutation("tasks/linear.py", "order = jnp.argsort(jax.random.uniform(key_which, (n, *batch)), axis=0)",
             "order = jnp.broadcast_to(jnp.arange(n).reshape(n, *(1,) * len(batch)), (n, *batch))",
             f"{TASKS} corrupted"),
    Mutation("tasks/linear.py", "jnp.where(part(which, 0), part(instead, 0), labels)", "labels",
             f"{TASKS} corrupted"),
    Mutation("learners/closed_form.py", "clean * (clean - 1 / n)", "clean * (1 - 1 / n)", f"{LEARNERS} corrupted"),
    Mutation("learners/closed_form.py", "(1 - clean) * corrupted_to_weight", "clean * corrupted_to_weight",
             f"{LEARNERS} corrupted"),
    Mutation("tasks/pools.py", "jax.random.randint(key, (), 0, self.size)", "jax.random.randint(key, (), 0, 10**6)",
             f"{FINITE} pool"),
    Mutation("tasks/pools.py", "jax.random.key(self.seed), POOL_KEY", "jax.random.key(0), POOL_KEY", f"{FINITE} pool"),
    Mutation("learners/prefix.py", "outside / jnp.where(is_new, square, 1.0)", "outside", f"{PREFIX} prefix_is"),
    Mutation("learners/prefix.py", "spread * jnp.outer(gain, gain)", "jnp.outer(gain, gain)", f"{PREFIX} prefix_is"),
    Mutation("learners/prefix.py", "jnp.outer(outside, gain), 0.0", "0.0 * free, 0.0", f"{PREFIX} prefix_is"),
    Mutation("learners/prefix.py", "square > negligible**2 * (x @ x)", "square > 0.0", f"{PREFIX} prefix_is"),
    Mutation("learners/prefix.py", "dtype=x.dtype) / penalty", "dtype=x.dtype) * penalty", f"{PREFIX} prefix_is"),
    Mutation("learners/prefix.py", "before = jnp.tri(n, k=-1", "before = jnp.tri(n, k=0", f"{PREFIX} prefix_is"),
    Mutation("learners/nearest.py", "jnp.any(at_query), at_query", "jnp.any(at_query), weight",
             f"{PREFIX} at_the_query"),
    Mutation("learners/nearest.py", "weight / jnp.where(at_query, 1.0, distance)", "weight * distance",
             f"{PREFIX} scikit"),
    Mutation("analysis/softmax.py", "n_context * d_head**0.5", "n_context * d_head", f"{SOFTMAX} small"),
    Mutation("analysis/softmax.py", "circuits.W_PV[:, :, d_input:]", "circuits.W_PV", f"{SOFTMAX} share"),
    Mutation("analysis/softmax.py", "jnp.linalg.pinv(b) @ b", "b.T @ b", f"{SOFTMAX} common"),
    Mutation("analysis/softmax.py", "jnp.trace(matrix) / len(matrix)", "jnp.trace(matrix)", f"{SOFTMAX} anisotropy"),
    Mutation("learners/transformed.py", "learner(_without_mean(x), _without_mean(y),",
             "learner(x, _without_mean(y) + 1,", f"{SOFTMAX} centred"),
    Mutation("learners/transformed.py", "x_query, jnp.zeros_like(y[0])", "x_query, y[0]", f"{SOFTMAX} behind"),
    Mutation("learners/transformed.py", "tokens / jnp.maximum(deviation,", "tokens / jnp.maximum(deviation**2,",
             f"{SOFTMAX} behind"),
    Mutation("learners/transformed.py", "_without_mean(prompts.y, 1)", "_without_mean(prompts.y)", f"{SOFTMAX} batch"),
    Mutation("learners/transformed.py", "x=x, y=y, x_query=x_query", "x=x, y=y", f"{SOFTMAX} batch"),
    Mutation("experiments/analyses/shifts.py", "leaf * (n / task.n_context)", "leaf * (task.n_context / n)",
             f"{SWITCHES} shifts"),
    Mutation("experiments/analyses/shifts.py", "learners.optimal_step_size(*sizes, **noise)",
             "study.reference.step_size",
             f"{SWITCHES} shifts"),
    Mutation("experiments/analyses/finite_data.py", "values - on_pool", "values", f"{SWITCHES} heart"),
    Mutation("experiments/settings.py", "config.task.pool, config.seed)", "config.task.pool, 0)", f"{SWITCHES} seed"),
    Mutation("experiments/study.py", "prompts, learned) | shares", "prompts, learned)", f"{SWITCHES} mix"),
    Mutation("tasks/tables.py", "replace=False", "replace=True", f"{FINITE} without"),
    Mutation("tasks/tables.py", "- values.mean(axis=0)", "", f"{FINITE} standardised"),
    Mutation("tasks/linear.py", "(n - jnp.arange(rank", "(n - 0 * jnp.arange(rank", f"{TASKS} directly"),
    Mutation("tasks/linear.py", "np.tri(k, rank, -1", "np.tri(k, rank, -2", f"{TASKS} directly"),
    Mutation("tasks/linear.py", "labels + self.noise_std * a[d:]", "labels", f"{TASKS} directly"),
    Mutation("tasks/shifts.py", "old / new", "new / old", f"{TASKS} shifts"),
    Mutation("tasks/linear.py", "x_query, x, y_query, y = x[0], x[1:], y[0], y[1:]",
             "x_query, x, y_query, y = x[-1], x[:-1], y[-1], y[:-1]", f"{TASKS} longer"),
    Mutation("types.py", "total + token[:, None] * token[None, :]", "total - token[:, None] * token[None, :]",
             f"{MODELS} batch"),
    Mutation("types.py", "block(0, rest)", "block(0, 0)", f"{MODELS} batch"),
    Mutation("models/moments.py", "_product(context, layer_map.swapaxes(0, 1))", "_product(context, layer_map)",
             f"{MODELS} moment_form"),
    Mutation("models/moments.py", "return -query[-d_output:] - jnp.sum", "return -query[-d_output:] + jnp.sum",
             f"{MODELS} batch"),
    Mutation("models/attention.py", "tokens[:-1], tokens.shape", "tokens[1:], tokens.shape", f"{MODELS} by_hand"),
    Mutation("models/transformer.py", "-self.config.clip, self.config.clip", "-self.config.clip, None",
             f"{MODELS} by_hand"),
    Mutation("models/transformer.py", "0 if self.shared else layer", "layer", f"{MODELS} tied"),
    Mutation("analysis/weights.py", "0.5 * (tensor + tensor.swapaxes(1, 2))", "tensor", f"{MODELS} different_ways"),
    Mutation("analysis/weights.py", "read - w_kq[:, :, d_input:] @ w0", "read + w_kq[:, :, d_input:] @ w0",
             f"{MODELS} canonical"),
    Mutation("analysis/weights.py", "-2 * n_context", "2 * n_context", f"{MODELS} ways"),
    Mutation("analysis/interpolation.py", "(1 - t) * a + t * b", "t * a + (1 - t) * b", f"{MODELS} ends"),
    Mutation("analysis/rollout.py", ">= d_input", "> d_input", f"{MODELS} ends"),
    Mutation("training/population.py", "jnp.where(finite, 0, member.in_a_row + going)", "member.in_a_row + ~finite",
             f"{TRAINING} as_if"),
    Mutation("training/population.py", "number - (PATIENCE - 1)", "number", f"{TRAINING} as_if"),
    Mutation("training/population.py", "partial(jnp.where, going & finite)", "partial(jnp.where, going)",
             f"{TRAINING} as_if"),
    Mutation("training/population.py", "member.skipped + (going & ~finite)", "member.skipped + ~finite",
             f"{TRAINING} as_if"),
    Mutation("models/moments.py", "fori_loop(1, len(b)", "fori_loop(2, len(b)", f"{MODELS} batch"),
    Mutation("models/moments.py", "_batched_product(slope, kept[1].swapaxes(0, 1))", "_batched_product(slope, kept[1])",
             f"{MODELS} batch"),
    Mutation("models/moments.py", "_batched_product(kept[0].swapaxes(0, 1), slope)", "_batched_product(kept[0], slope)",
             f"{MODELS} batch"),
    Mutation("models/moments.py", "heads * e, e) @ context", "heads * e, e)[::-1] @ context", f"{MODELS} batch"),
    Mutation("analysis/risk.py", "0.0) / drawn", "0.0) / chunk", "laws/test_analysis.py streamed"),
    Mutation("analysis/risk.py", "part[name] for part in parts], axis=-1", "part[name] for part in parts[:2]], axis=-1",
             "laws/test_analysis.py streamed"),
    Mutation("analysis/risk.py", "values <= beyond", "~(values > beyond)", "laws/test_analysis.py tail"),
    Mutation("analysis/risk.py", "kept / stays.sum(-1)", "kept / values.shape[-1]", "laws/test_analysis.py tail"),
    Mutation("analysis/risk.py", "np.where(np.isnan(values), np.inf, values)", "np.where(stays, values, 0.0)",
             "laws/test_analysis.py tail"),
    Mutation("analysis/risk.py", "0.5 * jnp.sum", "jnp.sum", "laws/test_analysis.py losses"),
    Mutation("analysis/risk.py", "[(1 - level) / 2", "[1 - level", "laws/test_analysis.py width"),
    Mutation("analysis/alignment.py", "v = v / jnp.maximum(jnp.abs(v).max(-1, keepdims=True), tiny)", "v = v + 0.0",
             "laws/test_analysis.py cosine"),
    Mutation("analysis/alignment.py", "jnp.linalg.norm(u - v, axis=-1)", "jnp.linalg.norm(u + v, axis=-1)",
             "laws/test_analysis.py half"),
    Mutation("analysis/weights.py", "jnp.where(inner < 0, -1.0, 1.0)", "jnp.where(inner < 0, 1.0, 1.0)",
             "laws/test_analysis.py matched"),
    Mutation("training/checkpoint.py", "self._manager.delete(step)", "pass", f"{TRAINING} stop_after"),
    Mutation("training/population.py", "batch_of(number + 1)), value", "batch_of(number + 2)), value",
             f"{TRAINING} chunked"),
    Mutation("training/population.py", "set(split[0, 1])", "set(split[-1, 1])", f"{TRAINING} shared"),
    Mutation("training/population.py", "jax.lax.pmean(found, DATA) if over_data else found", "found",
             f"{PARALLEL} placement"),
    Mutation("training/population.py", "partial(jnp.where, going & finite)", "partial(jnp.where, going)",
             f"{PARALLEL} frozen"),
    Mutation("training/population.py", "np.repeat([point[name] for point in points], seeds)",
             "np.tile([point[name] for point in points], seeds)", f"{PARALLEL} sweep"),
    Mutation("training/population.py", "out_shardings=lies", "", f"{PARALLEL} placement"),
    Mutation("training/mesh.py", "parts(leaf), index, -2", "parts(leaf), 0, -2", f"{PARALLEL} placement"),
    Mutation("training/mesh.py", "-split[0] if few(split[0]) else split[0]", "split[0]", f"{PARALLEL} largest"),
    Mutation("training/population.py", "jnp.arange(seed, seed + seeds", "seed + jnp.zeros(seeds", f"{TRAINING} alone"),
    Mutation("training/checkpoint.py", 'if described["sha256"] != checksum(leaves, about)', "if False",
             f"{TRAINING} checksums"),
    Mutation("training/in_context.py", "if not _same(stored.get(key), about[key], defaults.get(key))", "if False",
             f"{TRAINING} another_population"),
    Mutation("training/in_context.py", "ending = settings.steps - step < chunk_steps", "ending = last",
             f"{TRAINING} last_whole"),
    Mutation("training/in_context.py", " if any(map(_is_step, (directory / name).iterdir()))", "", f"{FAULTS} sweep"),
    Mutation("experiments/settings.py", "if after < before:", "if False:", f"{FAULTS} raised"),
    Mutation("experiments/settings.py", 'if asked["train.schedule"] != "constant":', "if False:", f"{FAULTS} raised"),
    Mutation("experiments/settings.py", "    _check_what_is_in_the_way(workdir)\n", "", f"{FAULTS} way"),
    Mutation("experiments/settings.py", "disk.total and disk.free <", "disk.free < 0 *", f"{FAULTS} way"),
    Mutation("experiments/continuation.py", "taken == json.loads(json.dumps(steps))", "True", f"{FAULTS} fewer"),
    Mutation("experiments/continuation.py", 'if end % config["train"]["log_every"]:', "if False:", f"{FAULTS} fewer"),
    Mutation("experiments/continuation.py", "ends.append(old)", "pass", f"{FAULTS} fewer"),
    Mutation("experiments/monitor.py", 'if line["step"] <= step or', 'if line["step"] < step or',
             "experiments/test_comparisons.py go_on"),
    Mutation("experiments/devices.py", "if word not in PLATFORMS:", "if False:", f"{FAULTS} platforms"),
    Mutation("experiments/devices.py", 'if platform == "tpu" and', "if False and", f"{FAULTS} tpu"),
    Mutation("experiments/run.py", "for path in workdir.glob(pattern):", "for path in ():", f"{FAULTS} half"),
    Mutation("experiments/run.py", "os._exit(128 + number)", "os._exit(1)", f"{FAULTS} imported"),
    Mutation("experiments/compilation.py", "-{_cpu()}", "", f"{FAULTS} cache"),
    Mutation("experiments/doctor.py", "            well = False", "            pass", f"{FAULTS} doctor"),
    Mutation("experiments/watched.py", "        screen.resume(step)", "        pass",
             f"{FAULTS} injected kill"),
    Mutation("experiments/run.py", "signal.signal(number, _stop_before_the_run)", "pass", f"{FAULTS} injected signals"),
    Mutation("experiments/validation.py", "if not math.isfinite(value):", "if False:", f"{FAULTS} injected bad_input"),
    Mutation("models/transformer.py", "config = replace(config, init_scale=1.0)", "pass",
             "laws/test_parallel.py token_form"),
    Mutation("experiments/sweeps.py", '"train.beta1", "train.beta2"', '"train.beta2", "train.beta1"',
             "experiments/test_sweeps.py order"),
    Mutation("experiments/recipes/linear_attention.py", "slice(i * config.seeds, (i + 1) * config.seeds)",
             "slice(0, config.seeds)", "experiments/test_sweeps.py its_runs"),
    Mutation("experiments/study.py", "free = self.is_free[members]",
             "free = self.is_free[: len(self.is_free[members])]",
             "experiments/test_comparisons.py all_seeds"),
    Mutation("experiments/study.py", "self.has_diverged[members]", "self.has_diverged[:0]",
             "experiments/test_comparisons.py all_seeds"),
    Mutation("experiments/monitor.py", 'line.get("fields", {}) == fields', "True",
             "experiments/test_sweeps.py stopped"),
    Mutation("experiments/monitor.py", "self._warned.add(member)", "pass", "experiments/test_sweeps.py once"),
    Mutation("experiments/settings.py", "unread.pop(field, None)", "pass", "experiments/test_sweeps.py spelling"),
    Mutation("experiments/settings.py", "flatten(base_config()) | stored", "stored",
             "experiments/test_bad_input.py older"),
    Mutation("experiments/validation.py", "members = config.seeds * len(sweeps.together(config))",
             "members = config.seeds", "experiments/test_sweeps.py order"),
    Mutation("models/query.py", "config.head_width**0.5, axis=1", "config.head_width, axis=1", f"{QUERY} narrow"),
    Mutation("models/query.py", "query = tokens[-1, -d_output:]", "query = read[-1, -d_output:]",
             f"{QUERY} layer_norm"),
    Mutation("models/query.py", "(1 - share) * scores", "scores", f"{QUERY} mixed"),
    Mutation("models/query.py", "rows = w_pv[:, -d_output:].swapaxes(0, 1)", "rows = w_pv[:, -d_output:]",
             f"{QUERY} softmax"),
    Mutation("tasks/nonlinear.py", "key_amplitude if self.faithful else key_phase", "key_phase", f"{SINE} moments_and"),
    Mutation("tasks/nonlinear.py", "if self.faithful else 0.0", "if not self.faithful else 0.0", f"{SINE} differ"),
    Mutation("tasks/nonlinear.py", "Prompt(x[1:], y[1:], x[0], y[0]", "Prompt(x[:-1], y[:-1], x[-1], y[-1]",
             f"{SINE} longer"),
    Mutation("learners/deep_features.py", "- start[None]", "+ start[None]", f"{DEEP_FEATURES} learner"),
    Mutation("learners/deep_features.py", "jnp.zeros_like(y[0])", "jnp.ones_like(y[0])", f"{DEEP_FEATURES} learner"),
    Mutation("models/transformer.py", "return residual[:-d_output],", "return 2.0 * residual[:-d_output],",
             f"{DEEP_FEATURES} learner"),
    Mutation("training/in_context.py", "jax.lax.stop_gradient(params[name])", "params[name]",
             f"{DEEP_FEATURES} given_is_not"),
    Mutation("training/in_context.py", "checksum(flatten(given), {}) if given else None", "None",
             f"{DEEP_FEATURES} given_is_not"),
    Mutation("training/in_context.py", "if settings.weight_decay != 0.0:", "if False:", f"{DEEP_FEATURES} refused"),
    Mutation("training/blocks.py", "leaf / len(jax.tree.leaves(blocks)[0])", "leaf", f"{DEEP_FEATURES} blocks"),
    Mutation("training/blocks.py", "range(-(-size // at_once), size + 1)", "range(size // at_once or 1, size + 1)",
             f"{DEEP_FEATURES} blocks"),
    Mutation("models/query.py", "embed(config, params, jnp.moveaxis(tokens, 1, -1))", "jnp.moveaxis(tokens, 1, -1)",
             "laws/test_query.py token_form"),
    Mutation("interop/von_oswald.py", "np.swapaxes(p.reshape(n_heads, d_head, width), 1, 2)",
             "p.reshape(d_head, n_heads, width).transpose(1, 2, 0)", f"{INTEROP} read_is"),
    Mutation("interop/von_oswald.py", "p = dampening *", "p = 1.0 *", f"{INTEROP} read_is"),
    Mutation("interop/von_oswald.py", "    reader.finish()\n", "", f"{INTEROP} refused"),
    Mutation("constructions/copying.py", ".at[0, first(m), out].set(-identity)", "", f"{SEPARATE} large_scale"),
    Mutation("constructions/copying.py", "jnp.asarray(next_place))", "jnp.asarray(next_place).T)",
             f"{SEPARATE} large_scale"),
    Mutation("constructions/copying.py", "width**0.5 * scale", "scale", f"{SEPARATE} exponentially"),
    Mutation("tokens.py", "[[cos, sin], [-sin, cos]]", "[[cos, -sin], [sin, cos]]", f"{SEPARATE} shift_takes"),
    Mutation("tokens.py", "return 10000.0 **", "return 1000.0 **", f"{SEPARATE} every_example"),
    Mutation("tokens.py", "(d_input - d_output + apart, 0)", "(d_input - d_output, apart)",
             f"{SEPARATE} every_example"),
    Mutation("tokens.py", "if d_output > most", "if d_output > most + 1", f"{SEPARATE} cannot_hold"),
    Mutation("analysis/copying.py", "mean(0, keepdims=True) if faithful", "mean(0, keepdims=True) if not faithful",
             f"{SEPARATE} published_loops"),
    Mutation("analysis/copying.py", "- (0.0 if faithful else following)", "- following", f"{SEPARATE} published_loops"),
    Mutation("analysis/copying.py", "[..., :d_content]", "[..., -d_content:]", f"{SEPARATE} finite_differences"),
    Mutation("analysis/copying.py", "following[:, ::2]", "following[:, 1::2]", f"{SEPARATE} scores_by_hand"),
    Mutation("analysis/copying.py", "size = jnp.abs(pattern)", "size = pattern", f"{SEPARATE} scores_by_hand"),
    Mutation("analysis/copying.py", "shares[..., 2 * i] + shares", "shares", f"{SEPARATE} induction"),
    Mutation("models/attention.py", "softmax(scores / d_head**0.5", "softmax(scores", f"{SEPARATE} by_hand softmax"),
    Mutation("models/attention.py", "tokens[-1:] if query_only", "tokens[:1] if query_only", f"{SEPARATE} on_its_own"),
    Mutation("models/transformer.py", "residual[-1:] if query_only", "residual[:1] if query_only",
             f"{SEPARATE} on_its_own"),
    Mutation("experiments/study.py", "jnp.fmin(losses, most)", "jnp.minimum(losses, most)",
             "experiments/test_comparisons.py rare"),
    Mutation("training/in_context.py", "and concatenated:", "and True:", f"{SEPARATE} moments_of"),
    Mutation("training/in_context.py", "if name in default}, **stored}", "if name in default}}",
             f"{TRAINING} does_not_say"),
    Mutation("training/in_context.py", "(default if stored is None else stored) == asked", "stored == asked",
             f"{TRAINING} does_not_say"),
]  # fmt: skip


def outcome(mutation: Mutation, tree: Path) -> str:
    """What became of the law in a copy of the tree: "fails" is what is wanted."""
    path = tree / ("" if mutation.file.startswith("experiments/") else "icl_gd") / mutation.file
    before = path.read_text()
    if before.count(mutation.old) != 1:
        return f"does not apply: {before.count(mutation.old)} places"
    path.write_text(before.replace(mutation.old, mutation.new))
    file, *words = mutation.law.split()
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--hypothesis-profile=first_failure", f"tests/{file}"]
    command += ["-k", " and ".join(words), "-m", "slow or not slow"]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True)
    path.write_text(before)
    return {0: "STANDS", 1: "fails"}.get(done.returncode, f"did not run: {done.stdout[-200:]}")


def main(words: list[str]) -> int:
    """Runs the mutations named on the command line and returns the exit code."""
    bad = 0
    with tempfile.TemporaryDirectory() as directory:
        tree = Path(directory) / "tree"
        ignored = shutil.ignore_patterns(".git", "runs", "results", "__pycache__", ".venv")
        shutil.copytree(ROOT, tree, ignore=ignored)
        for mutation in MUTATIONS:
            line = f"{mutation.law:<45} {mutation.file}: {mutation.old!r} -> {mutation.new!r}"
            if all(word in line for word in words):
                found = outcome(mutation, tree)
                bad += found != "fails"
                print(f"{found:<8} {line}", flush=True)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
