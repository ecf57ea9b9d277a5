"""The safety net: nothing runs on the full batch without the user being told.

It needs no list of what Dynamo drops. At each backward of a decorated call it walks the loss's autograd
graph: a parameter reached through a node that runs none of our graphs was used on the full batch. So it does when a
step returns a loss that its caller differentiates. The walk is made if Dynamo has looked at a frame since the last
clean call, has ever dropped one, or skipped an idle one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakSet

import torch
from torch.autograd.function import BackwardCFunction

from ..diagnostics import errors, where
from ..report.whole_graph import unknown
from . import frameworks, returned_loss
from .batch import arguments as batches
from .dynamo import api as dynamo
from .dynamo import frame_watch, replacements
from .dynamo.break_reasons import explained
from .dynamo.call_history import Calls
from .dynamo.thread_state import Call, here
from .returned_loss import Returned

_TAG = "accumcompile"  # in a node's metadata: it belongs to a graph that is not split; whether that is free
_ours: WeakSet[type] = WeakSet()  # classes of autograd nodes that run our graphs; AOTAutograd makes one per graph


def runs_ours(node: Any) -> bool:
    """Whether an autograd node runs one of our graphs."""
    return type(node) in _ours


# Recognising our nodes


def between(outputs: Iterable[Any], inputs: Iterable[Any]) -> list[Any]:
    """The autograd nodes that a call made: those below its outputs and above its inputs."""
    outside = {id(n): n for n in _grad_fns(inputs)}
    between, open_ = {}, _grad_fns(outputs)
    while open_:
        node = open_.pop()
        if id(node) not in between and id(node) not in outside:
            between[id(node)] = node
            open_ += [n for n, _ in node.next_functions if n is not None]
    return [n for n in between.values() if not hasattr(n, "variable")]


def _grad_fns(values: Iterable[Any]) -> list[Any]:
    return [v.grad_fn for v in values if isinstance(v, torch.Tensor) and v.grad_fn is not None]


def split(run: Callable[..., Any]) -> Callable[..., Any]:
    """``run``, one of our graphs, whose autograd nodes are recognised from its first differentiable run on."""
    noted = False

    def runs_split(*args: Any) -> Any:
        nonlocal noted
        outputs = run(*args)
        if not noted and any(isinstance(o, torch.Tensor) and o.grad_fn is not None for o in outputs):
            noted = True
            _ours.update(type(n) for n in between(outputs, args) if isinstance(n, BackwardCFunction))
        return outputs

    return runs_split


def without_batch(run: Callable[..., Any], is_free: bool = True) -> Callable[..., Any]:
    """``run``, a graph that is not split. Parameters reached through it count as full batch unless it ``is_free``."""

    def runs_whole(*args: Any) -> Any:
        outputs = run(*args)
        for node in between(outputs, args):
            node.metadata[_TAG] = is_free
        return outputs

    return runs_whole


# The walk


@dataclass(eq=False)
class Reached:
    """The leaves that a backward reaches: through our graphs or those without a batch, or on the full batch."""

    ours: dict[int, torch.Tensor] = field(default_factory=dict)
    full: dict[int, torch.Tensor] = field(default_factory=dict)
    captured: bool = True  # whether all that ran on the full batch was captured, and only could not be split
    handed_over: bool = False  # whether a non-scalar output of one of our graphs is differentiated


def below_roots(roots: Sequence[torch.Tensor], given: Iterable[torch.Tensor] = ()) -> Reached:
    """Walk the autograd graph of a loss, not going past values that were ``given``."""
    result, seen, open_ = Reached(), {id(n): n for n in _grad_fns(given)}, _grad_fns(roots)
    while open_:
        node = open_.pop()
        if id(node) in seen:
            continue
        seen[id(node)] = node  # kept alive, so that no later node gets its id
        free = runs_ours(node) or node.metadata.get(_TAG, False)
        for source, index in node.next_functions:
            if source is None:
                continue
            if hasattr(source, "variable"):
                (result.ours if free else result.full)[id(source.variable)] = source.variable
                result.captured &= free or _TAG in node.metadata
            else:
                result.handed_over |= runs_ours(source) and not _is_scalar(source, index)
                open_.append(source)
    return result


def _is_scalar(node: Any, index: int) -> bool:
    shape = node._input_metadata[index].shape
    return all(size == 1 for size in shape)


# At each backward of a call


@dataclass(eq=False)
class Net:
    """The safety net of one call."""

    call: Call
    step: Callable[..., Any]
    backwards: int = 0
    accumulated: bool = False  # whether a backward has added to gradients

    @classmethod
    def of(cls, call: Call, step: Callable[..., Any]) -> Net:
        """A net that checks each backward of ``call``, a call of the undecorated ``step``."""
        net = cls(call, step)
        call.on_backward = net.check
        if call.session.part(Calls).frames is None:
            net.warn_of_a_second_accumulation()
        return net

    def check(self, roots: Sequence[torch.Tensor], create_graph: bool, adds: bool) -> None:
        """Called before a backward runs; ``adds``: to the leaves' ``.grad``, as backward() does and grad() does not."""
        self.backwards += 1
        if adds:
            self.accumulated = True
            returned_loss.mark_differentiated(roots)
        if self.call.in_chunk or not (self.must_look or create_graph):
            return
        below = below_roots(roots)
        if create_graph and below.ours:
            raise errors.create_graph_error()
        self.judge(below)

    @property
    def must_look(self) -> bool:
        """Whether anything may have changed since the last clean call."""
        before, now = self.call.session.part(Calls), self.call.watch
        seen = now.captured_anew or before.frames != now.frames_before
        return seen or now.idle or before.dropped or self.call.session.journal.is_recording

    def judge(self, below: Reached) -> None:
        """Report what ran on the full batch: a warning, or an error if nothing was split."""
        full = [p for p in below.full.values() if self.counts(p)]
        if not full and not below.handed_over:
            return
        line, session = where.users_line(), self.call.session
        facts = explained(self.call.watch.reasons(), session.name.rpartition(".")[2]) | {"batch": str(self.call.batch)}
        if not full:
            errors.warn("AC030", session, line, **facts)
        elif below.ours or below.captured:
            names = self.names(full)
            session.journal.ran_whole([unknown(names, line)])
            errors.warn("AC041" if below.captured else "AC021", session, line, parameters=names, **facts)
        else:
            raise errors.error("AC020", line, **facts)

    def counts(self, leaf: torch.Tensor) -> bool:
        """Whether a leaf is a parameter, rather than a batch whose gradient is wanted."""
        return isinstance(leaf, torch.nn.Parameter) or self.call.batch not in leaf.shape

    def names(self, parameters: Sequence[torch.Tensor]) -> str:
        """Parameters by name: the first three, and how many more."""
        by_id = {id(p): f"{m}.{n}" for m, module in self.modules().items() for n, p in module.named_parameters()}
        listed = sorted(by_id.get(id(p), f"a tensor of shape {tuple(p.shape)}") for p in parameters)
        more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
        return ", ".join(listed[:3]) + more

    def finish(self, result: Any) -> None:
        """Called when the step has returned: remember that the call was clean, or that functions were dropped."""
        session = self.call.session
        self.refuse_zeroed(result)
        losses = returned_loss.losses(result) if self.is_forward_only else []
        session.part(Returned).watch(losses)
        if self.must_look:
            self.warn_of_compiled_modules()
            if losses:
                self.judge(below_roots(losses, (leaf.tensor for leaf in self.call.leaves.values())))
        if (self.must_look and self.is_forward_only and not losses) or session.part(Returned).dropped:
            errors.warn("AC031", session, session.frame, step=session.name)
        if self.call.watch.dropped:
            session.part(Calls).dropped = True
        session.part(Calls).frames = frame_watch.frames_seen()

    @property
    def is_forward_only(self) -> bool:
        """Whether nothing was differentiated; a nested call leaves that to the enclosing step."""
        differentiated = self.backwards or self.call.session.part(Calls).differentiate
        return torch.is_grad_enabled() and not differentiated and not self.call.is_nested

    def refuse_zeroed(self, result: Any) -> None:
        """Refuse a step of Lightning's that has called backward() itself, and returns no loss for Lightning's.

        Raises:
            AccumulateError: AC025.
        """
        if not self.accumulated or not frameworks.zeroes_afterwards(self.call.arguments.values()):
            return
        if all(map(returned_loss.is_differentiated, returned_loss.losses(result))):
            raise errors.error("AC025", self.call.session.frame, step=self.call.session.name)

    def warn_of_a_second_accumulation(self) -> None:
        """Warn that a framework accumulates over batches of the step, too."""
        found = frameworks.accumulating(batches.within_reach(self.step, self.call.arguments).values())
        if found is not None:
            session, (setting, count) = self.call.session, found
            facts = {"step": session.name, "setting": str(setting), "count": str(count)}
            errors.warn("AC042", session, session.frame, **facts)

    def modules(self) -> dict[str, torch.nn.Module]:
        """The modules that the step can reach."""
        return batches.modules(self.step, self.call.arguments)

    def warn_of_compiled_modules(self) -> None:
        """Warn that modules that the user compiled are inlined."""
        for name, module in self.modules().items():
            for path, child in module.named_modules(prefix=name):
                if dynamo.is_compiled(child):
                    errors.warn("AC032", self.call.session, where.users_line(), model=path)
                    break


@replacements.replaces(torch.autograd, "_engine_run_backward", untraced=True)
def _engine(run: Callable[..., Any], roots: Any, *args: Any, accumulate_grad: bool = False, **kw: Any) -> Any:
    """Check each backward before it runs: backward() and grad() both come here, in torch 2.11 to 2.15."""
    call = here.call
    kw["accumulate_grad"] = accumulate_grad
    if call is None:
        return run(roots, *args, **kw)
    look, call.on_backward = call.on_backward, None
    try:
        if look is not None and not dynamo.is_tracing():
            _gradients, _keep, create_graph, *_ = args
            look([r for r in roots if isinstance(r, torch.Tensor)], create_graph, accumulate_grad)
        return run(roots, *args, **kw)
    finally:
        call.on_backward = look
