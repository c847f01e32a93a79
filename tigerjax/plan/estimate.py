"""From compiled program to step time: the compiler's cycles, plus what it does not estimate."""

import re
from typing import Any, NamedTuple

from jax.sharding import Mesh

from tigerjax.plan.collectives import STARTS, Collective, Links, _collective, collectives_at
from tigerjax.plan.hlo import Instruction, Program, Visit, branches, kernel_name, shape_bytes
from tigerjax.plan.topology import Topology
