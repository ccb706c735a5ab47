"""What every estimator says of the batch that it has just seen."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor


class Report(NamedTuple):
    """The bound (β = 1) and its parts, nats an image, averaged over a batch; on the device."""

    elbo: Float[Tensor, ""]
    log_likelihood: Float[Tensor, ""]
    kl_strokes: Float[Tensor, ""]
    """Cost of layouts, strokes and pens."""
    kl_stop: Float[Tensor, ""]
    """Cost of the stop variable."""
    strokes: Float[Tensor, ""]
    """Strokes a drawing."""
