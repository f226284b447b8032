"""What the columns of tables mean."""

from functools import cache

import yaml
from hydra.utils import get_class

from clipshift.measure.facts import COLUMNS, Facts
from support.terminal import ROOT


@cache
def all_columns() -> dict[str, Facts]:
    """Return the facts of every column that clipshift can measure, by name."""
    return COLUMNS | {
        name: get_class(node["_target_"]).facts
        for file in (ROOT / "conf/metric").glob("*.yaml")
        for name, node in yaml.safe_load(file.read_text()).items()
        if name != "defaults" and hasattr(get_class(node["_target_"]), "facts")
    }
