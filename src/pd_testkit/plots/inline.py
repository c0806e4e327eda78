"""A drawing as a part of a page: with the page's colours, and values that can be pointed at."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree as Tree

from pd_testkit.plots.drawing import Drawing
from pd_testkit.plots.look import VARIABLES

_SVG = "http://www.w3.org/2000/svg"
_HREF = "{http://www.w3.org/1999/xlink}href"
_COLOUR = re.compile("|".join(VARIABLES), re.IGNORECASE)
_REFERENCE = re.compile(r"url\(#")
_REACH = 7
"""Of a pointer around a value, in points."""

Tree.register_namespace("", _SVG)


def inline(drawing: Drawing, name: str) -> str:
    """As an SVG element. It loads nothing; its ids begin with `name`, so that several fit into a
    page; parts of the nth series have ``data-series="n"``."""
    root = Tree.fromstring(drawing.svg())  # noqa: S314 - matplotlib has just written it
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)
    for element in root.iter():
        _settle(element, name)
    for attribute in ("width", "height", "version"):
        root.attrib.pop(attribute, None)
    root.attrib |= {"class": "plot", "role": "img", "aria-label": drawing.title}
    root.append(_values(drawing))
    return Tree.tostring(root, encoding="unicode")


def _settle(element: Tree.Element, name: str) -> None:
    own = element.attrib
    place = own.get("id", "")
    if place.startswith("series-"):
        del own["id"]
        own["data-series"] = place.removeprefix("series-")
    elif place:
        own["id"] = f"{name}-{place}"
    if _HREF in own:
        own["href"] = "#" + own.pop(_HREF).replace("#", f"{name}-", 1)
    if "clip-path" in own:
        own["clip-path"] = _REFERENCE.sub(f"url(#{name}-", own["clip-path"])
    if "style" in own:
        own["style"] = _COLOUR.sub(
            lambda found: f"var({VARIABLES[found[0].lower()]})", own["style"]
        )


def _values(drawing: Drawing) -> Tree.Element:
    """A transparent circle with a title at each value; browsers show the title on their own."""
    group = Tree.Element(f"{{{_SVG}}}g", {"class": "values"})
    height = drawing.figure.get_figheight() * drawing.figure.dpi
    for mark in drawing.marks:
        x, y = mark.axes.transData.transform((mark.x, mark.y))
        if not (math.isfinite(x) and math.isfinite(y)):
            continue
        told = {"cx": f"{x:.1f}", "cy": f"{height - y:.1f}", "r": str(_REACH)}
        if mark.series is not None:
            told["data-series"] = str(mark.series)
        circle = Tree.SubElement(group, f"{{{_SVG}}}circle", told)
        Tree.SubElement(circle, f"{{{_SVG}}}title").text = mark.text
    return group
