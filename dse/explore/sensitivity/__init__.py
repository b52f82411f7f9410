"""What matters in a design: large steps and small ones, prices of resources, whole spaces, regions, bottlenecks."""

from __future__ import annotations

from dse.explore.sensitivity.bottleneck import Bottlenecks, bottlenecks
from dse.explore.sensitivity.discover import Discovery, discover
from dse.explore.sensitivity.factors import Factor
from dse.explore.sensitivity.forecast import forecast
from dse.explore.sensitivity.local import Elasticities, Tornado, elasticities, tornado
from dse.explore.sensitivity.morris import MorrisEffects, morris
from dse.explore.sensitivity.prim import Box, Limit, prim
from dse.explore.sensitivity.samples import Search
from dse.explore.sensitivity.shadow import ShadowPrices, shadow_prices
from dse.explore.sensitivity.variance import SobolIndices, sobol

__all__ = [
    "Bottlenecks",
    "Box",
    "Discovery",
    "Elasticities",
    "Factor",
    "Limit",
    "MorrisEffects",
    "Search",
    "ShadowPrices",
    "SobolIndices",
    "Tornado",
    "bottlenecks",
    "discover",
    "elasticities",
    "forecast",
    "morris",
    "prim",
    "shadow_prices",
    "sobol",
    "tornado",
]
