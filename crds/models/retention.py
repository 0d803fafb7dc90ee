"""How long readings wait for a target that does not take them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from crds.models.base import Model


class Retention(Model):
    """What becomes of readings while a target is down. Without it they wait for ever, and so does their source."""

    when_full: Literal["Wait", "DropOldest"] = "Wait"
    """Wait: when the spool is full, its sources wait. DropOldest: the route loses its oldest readings before that."""
    max_age_seconds: Annotated[int, Field(ge=1, le=31_536_000)] | None = None
    """Readings that have waited longer are not delivered any more."""


def bounded(wish: Retention | None, *, bounds: Retention | None) -> Retention | None:
    """What a buyer gets of what it wishes: no more patience than the provider has."""
    if wish is None or bounds is None:
        return wish or bounds
    ages = [one.max_age_seconds for one in (wish, bounds) if one.max_age_seconds is not None]
    drops = "DropOldest" in (wish.when_full, bounds.when_full)
    return Retention(when_full="DropOldest" if drops else "Wait", max_age_seconds=min(ages, default=None))
