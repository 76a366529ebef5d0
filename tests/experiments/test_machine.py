"""Limits of the machine: memory of containers and Slurm jobs, GPUs that JAX does not use, unsupported systems."""

import platform
import subprocess
import sys

import pytest

from icl_gd.lab import command, doctor
from icl_gd.lab.config import resources
from icl_gd.lab.config.resources import available_memory
from icl_gd.lab.lifecycle import devices

MIB = 2**20
# The text of /proc/self/cgroup, limit files with their content, and the smallest limit in MiB (None: no limit).
GROUPS = {
    "none": ("", {}, None),
    "v2": ("0::/job/step\n", {"job/step/memory.max": f"{64 * MIB}"}, 64),
    "v2_above": ("0::/job/step\n", {"job/step/memory.max": "max", "job/memory.max": f"{48 * MIB}"}, 48),
    "v2_least": ("0::/job\n", {"job/memory.max": f"{48 * MIB}", "memory.max": f"{32 * MIB}"}, 32),
    "v2_without": ("0::/job\n", {"job/memory.max": "max\n"}, None),
    "v1": ("5:cpu:/x\n4:memory:/docker/a\n", {"memory/docker/a/memory.limit_in_bytes": f"{96 * MIB}\n"}, 96),
    "v1_without": ("4:memory:/a\n", {"memory/a/memory.limit_in_bytes": f"{2**63 - 4096}"}, None),
    "v1_joint": ("4:hugetlb,memory:/\n", {"memory/memory.limit_in_bytes": f"{16 * MIB}"}, 16),
    "another": ("4:cpu:/a\n", {"memory/a/memory.limit_in_bytes": f"{MIB}"}, None),
}


@pytest.mark.parametrize("name", GROUPS)
def test_a_container_has_the_least_of_its_limits(name, tmp_path):
    said, limits, expected = GROUPS[name]
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(said)
    for path, limit in limits.items():
        file = tmp_path / "sys/fs/cgroup" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(limit)
    there, by = available_memory(tmp_path, {})
    whole, machine = available_memory(tmp_path / "nothing", {})
    assert machine == "this machine"
    assert (there, by) == ((whole, machine) if expected is None else (expected * MIB, "this container"))


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"SLURM_MEM_PER_NODE": "512"}, 512),
        ({"SLURM_MEM_PER_CPU": "64", "SLURM_CPUS_ON_NODE": "2"}, 128),
        ({"SLURM_MEM_PER_NODE": "0"}, None),  # 0 means all memory of the node
    ],
)
def test_a_slurm_job_has_what_it_asked_for(environment, expected, tmp_path):
    there, by = available_memory(tmp_path, environment)
    assert by == ("this machine" if expected is None else "this Slurm job")
    assert expected is None or there == expected * MIB


def test_a_run_that_does_not_fit_says_whose_memory_it_is(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(resources, "available_memory", lambda: (MIB, "this container"))
    assert command.main(["run", "--config=one_layer:smoke", f"--workdir={tmp_path}/run"]) == 2
    assert "GiB of memory, but this container has 0.000977 GiB; lower one of" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.fixture
def nvidia_smi(monkeypatch, tmp_path):
    """Writes a fake command `nvidia-smi` that reports a GPU and the CUDA version of the driver."""

    def made(version, gpus="GPU 0: NVIDIA A100 (UUID: GPU-1)"):
        path = tmp_path / "nvidia-smi"
        path.write_text(
            f"#!/bin/sh\nif [ \"$1\" = -L ]; then echo '{gpus}'; else echo '| CUDA Version: {version} |'; fi\n"
        )
        path.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    return made


@pytest.mark.parametrize(("version", "extra"), [("12.4", "cuda12"), ("13.0", "cuda13"), ("", "cuda13")])
def test_a_gpu_that_jax_leaves_alone_is_no_good_health(version, extra, nvidia_smi, monkeypatch):
    nvidia_smi(version)
    monkeypatch.setattr(devices, "_config", lambda: type("config", (), {"jax_platforms": ""}))
    assert devices.unused_gpus().endswith(f": pip install 'icl-gd[{extra}]'")
    with pytest.raises(doctor.CheckFailed, match="A100"):
        doctor.devices()


def test_a_gpu_that_is_left_alone_on_purpose_is_fine(nvidia_smi, monkeypatch):
    nvidia_smi("12.4")
    monkeypatch.setattr(devices, "_config", lambda: type("config", (), {"jax_platforms": "cpu"}))
    assert devices.unused_gpus() is None
    nvidia_smi("12.4", gpus="No devices found")
    monkeypatch.setattr(devices, "_config", lambda: type("config", (), {"jax_platforms": ""}))
    assert devices.unused_gpus() is None


def test_other_systems_are_refused_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr(platform, "system", lambda: "Windows")
    assert command.main(["run", "--config=one_layer:smoke"]) == 2
    assert capsys.readouterr().err == (
        "error: Windows is not supported: use Linux or macOS, or WSL on Windows (wsl --install)\n"
    )
    assert command.main(["run", "--help"]) == 0
    assert doctor.main() == 1
    assert "FAILS  system: Windows is not supported" in capsys.readouterr().out


@pytest.mark.slow
def test_help_is_read_where_there_are_no_locks_of_files():
    words = (
        "import sys; sys.modules['fcntl'] = None; from icl_gd.lab import command; sys.exit(command.main(['run', '-h']))"
    )
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "Runs one experiment" in done.stdout
