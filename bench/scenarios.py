"""What is done to every path."""

from typing import Final

import msgspec


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """One load. It ends after `count` requests or `seconds`."""

    name: str
    about: str
    model: str
    stream: bool
    concurrency: int
    count: int
    seconds: float
    ramp: float = 0.0

    @property
    def unit(self) -> str:
        """What CPU is divided by."""
        return "token" if self.stream else "request"

    @property
    def tokens(self) -> int:
        """Tokens of one answer."""
        return int(self.model.split("-")[1].removeprefix("n"))


def _unary(concurrency: int, count: int, seconds: float) -> Scenario:
    return Scenario(
        name=f"unary-c{concurrency}",
        about=f"whole answers, {concurrency} at a time",
        model="m-n8",
        stream=False,
        concurrency=concurrency,
        count=count,
        seconds=seconds,
    )


SCENARIOS: Final = {
    scenario.name: scenario
    for scenario in (
        _unary(1, 1000, 3),
        _unary(8, 3000, 3),
        _unary(32, 6000, 4),
        Scenario(
            name="flood",
            about="200 tokens at once, 32 streams at a time",
            model="m-n200",
            stream=True,
            concurrency=32,
            count=800,
            seconds=4,
        ),
        Scenario(
            name="light",
            about="50 streams of 50 tokens at 20 tokens/s",
            model="m-n50-d50",
            stream=True,
            concurrency=50,
            count=50,
            seconds=10,
            ramp=1,
        ),
        Scenario(
            name="paced",
            about="200 streams of 100 tokens at 50 tokens/s",
            model="m-n100-d20",
            stream=True,
            concurrency=200,
            count=200,
            seconds=10,
            ramp=1,
        ),
        Scenario(
            name="many",
            about="1000 streams of 50 tokens at 20 tokens/s",
            model="m-n50-d50",
            stream=True,
            concurrency=1000,
            count=1000,
            seconds=15,
            ramp=2,
        ),
    )
}
DEFAULT: Final = ("unary-c32", "flood", "light", "paced", "many")
"""What fits two rounds over our own paths into about five minutes."""

QUICK: Final = {
    "unary-c8": Scenario(
        name="unary-c8", about="smoke", model="m-n8", stream=False, concurrency=8, count=24, seconds=10
    ),
    "flood": Scenario(name="flood", about="smoke", model="m-n200", stream=True, concurrency=8, count=16, seconds=10),
    "paced": Scenario(name="paced", about="smoke", model="m-n10-d5", stream=True, concurrency=20, count=20, seconds=10),
}
"""The same in little, for a smoke run: it says whether everything works, nothing about speed."""

MODELS: Final = tuple(sorted({scenario.model for table in (SCENARIOS, QUICK) for scenario in table.values()}))
"""Every model that is asked for; some peers must be told ahead."""
