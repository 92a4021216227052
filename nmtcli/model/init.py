"""Initial values of a model's parameters."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from nmtcli.model.cells import RecurrentLayer


def initialise(model: nn.Module, *, init: str, scale: float, forget_bias: float) -> None:
    """Initialise every parameter of a model, using torch's random generator.

    Matrices are drawn by the rule `init`. Vectors are set according to their names: 0 for `bias...` and `..._bias_V`,
    1 for `weight` (the gain of a normalisation layer). Afterwards, `Cell.start` may overwrite the biases of recurrent
    layers.

    Args:
        model: consists of embeddings, linear layers and recurrent layers; the matrices of the recurrent layers have one
            block per gate.
        init: `uniform`: between -scale and scale; `normal`: standard deviation scale; `truncated-normal`: the same,
            truncated at two standard deviations; `xavier`: Glorot's uniform distribution for each gate separately, and
            embeddings uniform with variance 1/E, so that they have variance 1 if scaled by sqrt(E); `orthogonal`:
            recurrent matrices orthogonal for each gate separately, all others as with `xavier`.
        scale: scale of `uniform`, `normal` and `truncated-normal`; unused otherwise.
        forget_bias: initial bias of an LSTM's forget gate.
    Raises:
        ValueError: the name of a vector or scalar marks it neither as a bias nor as a gain.
    Source:
        uniform +-0.08: Sutskever et al. 2014; xavier: Glorot and Bengio 2010; orthogonal: Saxe et al. 2014; forget
        bias: Jozefowicz et al. 2015.
    """
    blocks = {
        id(parameter): module.cell.gates
        for module in model.modules()
        if isinstance(module, RecurrentLayer)
        for parameter in module.parameters()
    }
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() < 2:
                parameter.fill_(_vector_start(name))
                continue
            for block in parameter.chunk(blocks.get(id(parameter), 1)):
                if init == "uniform":
                    nn.init.uniform_(block, -scale, scale)
                elif init == "normal":
                    nn.init.normal_(block, std=scale)
                elif init == "truncated-normal":
                    nn.init.trunc_normal_(block, std=scale, a=-2 * scale, b=2 * scale)
                elif init == "orthogonal" and "weight_hh" in name:
                    nn.init.orthogonal_(block)
                elif id(parameter) in embeddings:
                    bound = (3 / parameter.shape[1]) ** 0.5
                    nn.init.uniform_(block, -bound, bound)
                else:
                    nn.init.xavier_uniform_(block)
        for module in model.modules():
            if isinstance(module, RecurrentLayer) and module.cell.start is not None:
                module.cell.start(module.weights().input_bias_G, forget_bias)


def _vector_start(name: str) -> float:
    """Return the initial value of the vector or scalar parameter `name`.

    >>> [_vector_start(name) for name in ("decoder.readout.bias", "decoder.norm.weight")]
    [0.0, 1.0]
    """
    own_name = name.rpartition(".")[2]
    if "bias" in own_name.split("_"):
        return 0.0
    if own_name == "weight":
        return 1.0
    raise ValueError(f"the parameter `{name}` is neither a `bias` nor a `weight`: init.py has no rule for it")


class Undrawn(TorchFunctionMode):
    """Context manager that skips random initialisation, for a model whose weights will be read from a file.

    The meta device would avoid the initialisation too, but using it makes torch import its compiler, which takes as
    long as importing torch itself.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Skip functions in `torch.nn.init`; call all others."""
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def start_from_vectors(embedding_VE: Tensor, ids_N: Tensor, vectors_NE: Tensor) -> None:
    """Copy pretrained vectors into the rows `ids_N` of an embedding matrix.

    All vectors are multiplied by one factor, which gives them the root mean square of the initial matrix: the layers
    above the embeddings expect that magnitude, and the vectors in the file may have any other.
    """
    with torch.no_grad():
        size, pretrained_size = (values.square().mean().sqrt() for values in (embedding_VE, vectors_NE))
        factor = size / pretrained_size if pretrained_size > 0 else 0.0
        embedding_VE[ids_N] = (vectors_NE * factor).to(embedding_VE)
