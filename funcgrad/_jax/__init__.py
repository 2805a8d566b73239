"""The only place that imports from outside JAX's documented API or knows a JAX version.

Everything here is a thin name for something of JAX's that the rest of funcgrad needs: the trace
machinery, jaxprs, source information, and primitives that only some versions have.
"""

from funcgrad._jax.alarms import *  # noqa: F403
from funcgrad._jax.annotations import *  # noqa: F403
from funcgrad._jax.calls import *  # noqa: F403
from funcgrad._jax.debugging import *  # noqa: F403
from funcgrad._jax.derivatives import *  # noqa: F403
from funcgrad._jax.drop_in import *  # noqa: F403
from funcgrad._jax.effects import *  # noqa: F403
from funcgrad._jax.faults import *  # noqa: F403
from funcgrad._jax.fingerprints import *  # noqa: F403
from funcgrad._jax.hijax import *  # noqa: F403
from funcgrad._jax.holding import *  # noqa: F403
from funcgrad._jax.jaxprs import *  # noqa: F403
from funcgrad._jax.known import *  # noqa: F403
from funcgrad._jax.logs import *  # noqa: F403
from funcgrad._jax.loop_bodies import *  # noqa: F403
from funcgrad._jax.marks import *  # noqa: F403
from funcgrad._jax.ops import *  # noqa: F403
from funcgrad._jax.places import *  # noqa: F403
from funcgrad._jax.policies import *  # noqa: F403
from funcgrad._jax.primitives import *  # noqa: F403
from funcgrad._jax.pruning import *  # noqa: F403
from funcgrad._jax.pullbacks import *  # noqa: F403
from funcgrad._jax.references import *  # noqa: F403
from funcgrad._jax.rule_settings import *  # noqa: F403
from funcgrad._jax.run_again import *  # noqa: F403
from funcgrad._jax.settings import *  # noqa: F403
from funcgrad._jax.sharding import *  # noqa: F403
from funcgrad._jax.taps import *  # noqa: F403
from funcgrad._jax.types import *  # noqa: F403
from funcgrad._jax.values import *  # noqa: F403
