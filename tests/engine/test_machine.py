import pytest
import torch

from coderv2 import ram
from coderv2.engine import machine
from coderv2.errors import InvalidValue, Unsupported


def test_what_is_found_is_of_a_believable_size() -> None:
    found = machine.inspect(weight_bytes=8 << 20)
    assert 1 <= found.cores <= 4096
    assert 0 < found.free < found.memory
    assert found.instruction_sets
    assert found.room > 0
    for dtype in machine.DTYPES:
        assert 1e7 < found.speeds[dtype].bytes_per_second <= found.bandwidth < 1e14
        assert 1e8 < found.speeds[dtype].flops < 1e16


def test_threads_are_those_that_arithmetic_will_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODERV2_THREADS", "3")
    assert machine.inspect(weight_bytes=1 << 20).threads == 3
    monkeypatch.setenv("CODERV2_THREADS", "no")
    with pytest.raises(InvalidValue, match="CODERV2_THREADS"):
        machine.inspect(weight_bytes=1 << 20)


def test_a_gpu_that_is_not_there_is_the_callers_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert machine.place("auto") == "cpu"
    with pytest.raises(Unsupported, match="no GPU") as caught:
        machine.place("cuda")
    assert caught.value.param == "device"


@pytest.mark.parametrize("device", ["cuda:0", "cuda:1", "mps", "no"])
def test_a_gpu_by_number_is_refused_with_the_way_to_choose_one(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ranks of cuda:1 computed on the CPU; one engine started its kernels on another GPU than its tensors lay on."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(Unsupported, match="CUDA_VISIBLE_DEVICES") as caught:
        machine.place(device)
    assert caught.value.param == "device"
    assert machine.place("auto") == "cuda"


@pytest.mark.parametrize(("limit", "used", "free"), [(5000, 1000, 4000), (5000, 6000, 0), (5000, None, 5000)])
def test_a_containers_limit_bounds_the_free_memory(
    monkeypatch: pytest.MonkeyPatch, limit: int, used: int | None, free: int
) -> None:
    monkeypatch.setattr(ram, "_cgroup", {"memory.max": limit, "memory.current": used}.get)
    assert machine.free_bytes(torch.device("cpu")) == free
    assert ram.total_bytes() == limit
