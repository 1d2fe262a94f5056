"""Which variant answers a request that names none: the default, or a split by weights; and who else gets a copy.

Settled when the service starts; a change is a rolling restart.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

from export.artifact import Manifest
from serving.config import ConfigError, Settings

CLIENT_HEADER = b"x-client-key"


@dataclass(frozen=True)
class Routing:
    """`split` has the percentage of every variant, together 100; `shadow` the percentage that is copied to some."""

    split: Mapping[str, float]
    shadow: Mapping[str, float]

    @cached_property
    def sole(self) -> str | None:
        """Who answers all of them, if one does."""
        weighty = [variant for variant, percent in self.split.items() if percent]
        return weighty[0] if len(weighty) == 1 else None

    def choose(self, client: bytes | None) -> str:
        """The same variant for the same client, as long as the weights are the same.

        Of two variants, the one whose weight grows keeps all its clients: its share grows at one end.
        """
        if self.sole is not None:
            return self.sole
        point = random.random() if client is None else position(client)  # noqa: S311  a share, not a secret
        weighty = [variant for variant, percent in self.split.items() if percent]
        ends = accumulate(self.split[variant] for variant in weighty)
        found = (variant for variant, end in zip(weighty, ends, strict=True) if point * 100 < end)
        return next(found, weighty[-1])  # sums of floats may end just below 100

    def copies(self, primary: str) -> Iterator[str]:
        """Who else sees this request, which `primary` answers."""
        return (
            variant
            for variant, percent in self.shadow.items()
            if variant != primary and random.random() * 100 < percent  # noqa: S311
        )

    def __str__(self) -> str:
        shares = ", ".join(f"{variant} {percent:g} %" for variant, percent in self.split.items() if percent)
        copies = "".join(f"; {percent:g} % copied to {variant}" for variant, percent in self.shadow.items())
        return f"{shares}{copies}"


def routing(settings: Settings, manifests: Mapping[str, Manifest]) -> Routing:
    """For what is served, by its variants, the first of which is the default.

    Raises:
        ConfigError: the settings name what is not served, or a shadow that sees other images, none at all, or knows
            other classes.
    """
    served = list(manifests)
    for name, weights in (("SPLIT", settings.split), ("SHADOW", settings.shadow)):
        if unknown := [variant for variant in weights if variant not in served]:
            raise ConfigError(f"SERVING_{name}: {', '.join(unknown)} not among what is served: {', '.join(served)}")
    weights = settings.split or {served[0]: 1.0}
    total = sum(weights.values())
    if not total > 0:
        raise ConfigError("SERVING_SPLIT: all weights are 0")
    if over := [variant for variant, percent in settings.shadow.items() if percent > 100]:
        raise ConfigError(f"SERVING_SHADOW: {', '.join(over)} above 100 %")
    primaries = [variant for variant in served if weights.get(variant)]
    for shadow in settings.shadow:
        if primaries == [shadow]:
            raise ConfigError(
                f"SERVING_SHADOW: {shadow} answers all requests itself, and would get a copy of none; name another "
                "variant, or give others a share by SERVING_SPLIT"
            )
        for primary in primaries:
            refuse_unlike(manifests[shadow], manifests[primary])
    return Routing({variant: 100 * weights.get(variant, 0.0) / total for variant in served}, settings.shadow)


def refuse_unlike(shadow: Manifest, primary: Manifest) -> None:
    """A shadow gets the primary's pixels, and its classes are compared with the primary's."""
    for what, of_shadow, of_primary in (
        ("preprocessing", shadow.spec.preprocessing, primary.spec.preprocessing),
        ("labels", shadow.labels, primary.labels),
    ):
        if of_shadow != of_primary:
            raise ConfigError(
                f"SERVING_SHADOW: {shadow.variant} and {primary.variant} differ in {what}; they cannot be compared"
            )


def client_of(headers: Mapping[bytes, bytes]) -> bytes | None:
    """Who asks, by its own word. An empty one is none: proxies send it for all whom they do not know."""
    return headers.get(CLIENT_HEADER) or None


def position(client: bytes) -> float:
    """Where a client stands between 0 and 1; no function of time, process or machine."""
    return int.from_bytes(hashlib.blake2b(client, digest_size=8).digest()) / 2**64
