"""What flows into each weight while a layer runs: seen by ops that compute as ever and take notes."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from coderv2.kernels.ops import Ops
from coderv2.kernels.routing import Routing
from coderv2.model.batch import Batch


@dataclass
class Notes:
    """Inputs of one layer; weights are known by their identity."""

    moments: dict[int, Tensor] = field(default_factory=dict)
    """Of a linear map's inputs: the sum of x·xᵀ, [I, I]."""
    rows: dict[int, list[Tensor]] = field(default_factory=dict)
    """Inputs of a feed-forward network, by its gate."""
    scores_TE: list[Tensor] = field(default_factory=list)
    """What the router made of them."""

    def linear(self, x_TD: Tensor, weight: Any) -> None:
        """Adds up the inputs of a map."""
        wide_TD = x_TD.float()
        moment_DD = wide_TD.T @ wide_TD
        self.moments[id(weight)] = self.moments.get(id(weight), 0) + moment_DD

    def network(self, x_TD: Tensor, gate: Any) -> None:
        """Keeps the inputs of a network."""
        self.rows.setdefault(id(gate), []).append(x_TD.float())


def watched(batch: Batch, notes: Notes) -> Batch:
    """The same pass, noted."""

    class Watching(Ops):
        linear = staticmethod(_first(notes.linear, Ops.linear))
        swiglu = staticmethod(_first(notes.network, Ops.swiglu))

        @classmethod
        def route(cls, x_TD: Tensor, weight: Any, routing: Routing) -> tuple[Tensor, Tensor, Tensor]:
            found = Ops.route(x_TD, weight, routing)
            notes.scores_TE.append(found[0])
            return found

        @classmethod
        def mixture(
            cls, x_TD: Tensor, weights_TK: Tensor, experts_TK: Tensor, routed: Any, shared: Any
        ) -> Tensor:
            notes.network(x_TD, routed[0])
            return Ops.mixture(x_TD, weights_TK, experts_TK, routed, shared)

    return replace(batch, computed_by=Watching)


def _first(note: Callable[[Tensor, Any], None], operation: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def noted(x_TD: Tensor, weight: Any, *others: Any) -> Tensor:
        note(x_TD, weight)
        return operation(x_TD, weight, *others)

    return noted
