"""Noise from a cipher: integers whose distribution is known to 2^-100.

- `keystream`  AES-256-CTR under a key of the operating system, one key for one release
- `fixed`      exponentials in fixed point, with their error
- `table`      any finite law as a cumulative table of 128 bits, sampled a vector at a time
- `gaussian`   the discrete Gaussian, up to a standard deviation of 2^40 grid units
- `laplace`    the discrete Laplace, likewise
- `bernoulli`  who takes part in a step: a mask of exact probability
"""

from .bernoulli import Bernoulli
from .gaussian import DiscreteGaussian
from .keystream import Keystream
from .laplace import DiscreteLaplace

__all__ = ["Bernoulli", "DiscreteGaussian", "DiscreteLaplace", "Keystream"]
