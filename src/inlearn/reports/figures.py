"""What a page needs beside Altair's specifications: an SVG file of each, a name for it, and the script that draws."""

from __future__ import annotations

import functools
import re
from typing import Any

import altair as alt
import vl_convert

from inlearn.charts.theme import PRINT_WIDTH

# The page's bundle and the SVG files are made by the release of Vega-Lite that Altair writes for, e.g. "6.4".
VEGA_LITE = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
# Vega numbers clips and gradients through the whole process.
_COUNTED = re.compile(r'(\bid="|url\(#)(clip|gradient_)(\d+)')


def svg(spec: dict[str, Any]) -> str:
    """The chart as SVG at the width of a printed page, the same every time.

    No address is allowed in it, so nothing is fetched: ValueError where data are to come from one.
    """
    if spec.get("width") == "container":
        spec = {**spec, "width": PRINT_WIDTH, "autosize": {"type": "pad", "contains": "padding"}}
        spec["config"] = {key: value for key, value in spec["config"].items() if key != "autosize"}
    text = vl_convert.vegalite_to_svg(spec, vl_version=VEGA_LITE, allowed_base_urls=[])
    order: dict[str, int] = {}

    def renumbered(found: re.Match[str]) -> str:
        start, kind, number = found.groups()
        return f"{start}{kind}{order.setdefault(kind + number, len(order))}"

    return _COUNTED.sub(renumbered, text)


@functools.cache
def vega_bundle() -> str:
    """Vega, Vega-Lite and vega-embed as one script that defines `window.vegaEmbed` (0.9 MB, a second to make)."""
    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=VEGA_LITE)
    if "</script" in bundle.lower():
        raise ValueError("the Vega bundle would end the script element that holds it")
    return bundle


def file_name(title: str) -> str:
    """A title as a plain file name without its ending: `Loss per position` becomes `loss-per-position`."""
    return "-".join(re.findall(r"[a-z0-9]+", title.lower()))[:60] or "figure"
