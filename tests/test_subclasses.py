"""Tensor subclasses among the values: plain ones are tensors, and those made of tensors are refused by name."""

import os

import capturing
import pytest
import small
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_module, distribute_tensor
from torch.testing._internal.two_tensor import TwoTensor

from accumcompile import explain, verify

pytestmark = pytest.mark.usefixtures("fresh_dynamo")


@pytest.fixture
def mesh(monkeypatch, tmp_path):
    """One rank."""
    monkeypatch.setitem(os.environ, "TORCH_DISTRIBUTED_DEBUG", "OFF")
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def distributed(mesh, batch=12):
    return tuple(distribute_tensor(v, mesh, [Shard(0)]) for v in small.data(batch))


def of_ranks(mesh):
    return distribute_module(small.net(), mesh)


def plain_outside(mesh):
    """Distributed parameters, and plain tensors before and after them."""
    return distribute_module(
        small.net(),
        mesh,
        input_fn=lambda module, given, on: (DTensor.from_local(given[0], on, [Replicate()]),),
        output_fn=lambda module, output, on: output.to_local(),
    )


def test_a_distributed_batch(mesh):
    text = small.refused(small.eager(small.plain), of_ranks(mesh), *distributed(mesh))
    assert text.startswith("accumcompile AC038: a DTensor is among the values\n  small.py:N in forward")


def test_distributed_parameters(mesh):
    text = small.refused(small.eager(small.plain), plain_outside(mesh), *small.data(12))
    assert text.startswith("accumcompile AC038: a DTensor is among the values\n  small.py:N in forward")


@pytest.mark.parametrize("tool", (explain, verify))
def test_explain_and_verify_say_so_too_and_leave_the_state(mesh, tool):
    model = plain_outside(mesh)
    before = [p.full_tensor().clone() for p in model.parameters()]
    assert "AC038" in small.refused(lambda: tool(small.eager(small.plain), model, *small.data(12)))
    for a, b in zip(before, model.parameters(), strict=True):
        assert torch.equal(a, b.full_tensor())


def test_without_the_decorator(mesh):
    step, _ = capturing.by_name(small.plain)
    assert "AC038" in small.refused(step, of_ranks(mesh), *distributed(mesh))


def test_another_tensor_made_of_tensors():
    x, y = small.data(12)
    text = small.refused(small.eager(small.plain), small.net(), TwoTensor(x, x.clone()), y)
    assert text.startswith("accumcompile AC038: a TwoTensor is among the values")


class Image(torch.Tensor):
    """A class in name only, as torchvision has them."""


def test_a_class_in_name_only():
    def data(batch, seed=1):
        x, y = small.data(batch, seed)
        return x.as_subclass(Image), y

    def step(model, x, y):
        return small.plain(model, x, y).as_subclass(torch.Tensor)

    ran = capturing.same(step, small.net(), data=data)
    assert all(len(run.split) == 3 for run in ran.runs)
