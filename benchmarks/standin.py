"""A model that stands between the engine and another, to watch it or to put words into its mouth."""

from collections.abc import Iterator

from torch import Tensor, nn

from coderv2.model.batch import Batch
from coderv2.model.transformer import Transformer


class StandIn:
    """Computes what the other computes; subclasses change `__call__`."""

    def __init__(self, model: Transformer) -> None:
        self.config, self.device = model.config, model.device
        self.dtype, self.cache_dtype = model.dtype, model.cache_dtype
        self._model = model

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The other's."""
        return self._model.named_parameters()

    def __call__(self, batch: Batch, /) -> Tensor:
        logits_RW: Tensor = self._model(batch)
        return logits_RW
