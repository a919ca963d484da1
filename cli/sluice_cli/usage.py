"""`sluice usage`."""

import re
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Final

import typer

from sluice_cli import grid, output, session
from sluice_cli.options import Address, Json, Key

if TYPE_CHECKING:
    from sluice.gateway.v1.usage_service_pb2 import QueryUsageResponse, UsageFigures, UsageRow
    from sluice_client import SluiceClient


class Per(StrEnum):
    """How time is divided."""

    DAY = "day"
    WEEK = "week"
    MONTH = "month"


class By(StrEnum):
    """What rows are told apart by."""

    TENANT = "tenant"
    PROVIDER = "provider"
    MODEL = "model"
    CONVERSATION = "conversation"
    OPERATION = "operation"


_AGO: Final = re.compile(r"(\d{1,4})([dwm])")
_DAYS: Final = {"d": 1, "w": 7, "m": 30}
_FIGURES: Final = (
    grid.Column("requests", right=True),
    grid.Column("attempts", gives_way=3, right=True),
    grid.Column("failed", gives_way=4, right=True),
    grid.Column("cancelled", gives_way=6, right=True),
    grid.Column("cached", gives_way=5, right=True),
    grid.Column("input", right=True),
    grid.Column("of it cached", gives_way=7, right=True),
    grid.Column("output", right=True),
    grid.Column("of it reasoning", gives_way=8, right=True),
    grid.Column("estimated", gives_way=2, right=True),
    grid.Column("cost", right=True),
)


def usage(
    by: Annotated[
        list[By] | None,
        typer.Option("--by", help="Tell rows apart by this. May be repeated.", show_default=False),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option("--label", metavar="KEY", help="Tell rows apart by this label, too. May be repeated."),
    ] = None,
    per: Annotated[Per | None, typer.Option("--per", help="Divide time, in UTC.", show_default=False)] = None,
    since: Annotated[
        str, typer.Option("--since", metavar="TIME", help="From then on: 7d, 4w, 3m, or a date like 2026-01-31.")
    ] = "30d",
    until: Annotated[
        str,
        typer.Option("--until", metavar="TIME", help="Until before then. Default: now.", show_default=False),
    ] = "",
    as_json: Json = False,
    address: Address = None,
    key: Key = None,
) -> None:
    """Show what was used and what it cost.

    Every attempt at a vendor counts, also one that failed or whose client left. Costs are in US dollars, of the models
    whose prices are configured. [bold]estimated[/] is the share of the tokens that no vendor reported, or only in part.
    On a mesh with keys, --by tenant takes one with the role admin; without it, your own tenant's usage is shown.

    [bold]Examples[/]

      sluice usage --by model

      sluice usage --per month --by tenant --since 2026-01-01 --label team
    """
    start, end = _moment(since, "--since"), _moment(until, "--until") if until else None
    dimensions = tuple(sorted(set(by or ()), key=list(By).index))
    labels = tuple(dict.fromkeys(label or ()))

    async def work(client: "SluiceClient") -> None:
        from sluice.gateway.v1.usage_service_pb2 import UsageDimension, UsageGranularity

        first: QueryUsageResponse | None = None
        rows: list[UsageRow] = []
        query = client.query_usage(
            start,
            end,
            granularity=UsageGranularity.Value(f"USAGE_GRANULARITY_{per.name}") if per else None,
            group_by=[UsageDimension.Value(f"USAGE_DIMENSION_{one.name}") for one in dimensions],
            label_keys=labels,
            page_size=1000,
        )
        async for page in query.pages():
            first = first or page
            rows.extend(page.rows)
        assert first is not None  # a list has at least one page
        if as_json:
            answer = {name: value for name, value in output.as_json(first).items() if name != "nextPageToken"}
            output.emit({**answer, "rows": [output.as_json(row) for row in rows]})
            return
        _show(rows, first.totals, per, dimensions, labels)

    session.run(work, address, key, as_json=as_json)


def _show(
    rows: "Sequence[UsageRow]", totals: "UsageFigures", per: Per | None, dimensions: Sequence[By], labels: Sequence[str]
) -> None:
    titles = [*([per.value] if per else []), *(one.value for one in dimensions), *labels]
    columns = (*(grid.Column(title) for title in titles), *_FIGURES)
    table = [(*_place(row, per, dimensions, labels), *_cells(row.figures)) for row in rows]
    if titles and len(rows) > 1:
        table.append(("in all", *("" for _ in titles[1:]), *_cells(totals)))
    grid.show(columns, table, empty="nothing was used in this time")
    if totals.unpriced_attempts:
        output.say(f"note: attempts whose cost is not known: {totals.unpriced_attempts}; gateway.prices sets prices")


def _place(row: "UsageRow", per: Per | None, dimensions: Sequence[By], labels: Sequence[str]) -> tuple[str, ...]:
    from sluice.gateway.v1.usage_service_pb2 import UsageOperation

    cells: list[str] = []
    if per is not None:
        cells.append(_named(row.period_start.ToDatetime(), per))
    for one in dimensions:
        if one is By.OPERATION:
            known = row.operation in UsageOperation.values()
            cells.append(output.enum_word(UsageOperation.Name(row.operation), "USAGE_OPERATION_") if known else "?")
        else:
            cells.append(getattr(row, one.value))
    return (*cells, *(row.labels[key] for key in labels))


def _named(begin: datetime, per: Per) -> str:
    if per is Per.WEEK:
        year, week, _ = begin.isocalendar()
        return f"{year}-W{week:02d}"
    return f"{begin:%Y-%m}" if per is Per.MONTH else f"{begin:%Y-%m-%d}"


def _cells(figures: "UsageFigures") -> tuple[str, ...]:
    from sluice.chat.v1.usage_pb2 import USAGE_SOURCE_PROVIDER

    used = figures.usage
    tokens = used.input_tokens + used.output_tokens
    uncertain = sum(
        one.usage.input_tokens + one.usage.output_tokens
        for one in figures.by_source
        if one.usage.source != USAGE_SOURCE_PROVIDER
    )
    counts = (figures.failed, figures.cancelled, figures.cached)
    return (
        f"{figures.requests:,}",
        f"{figures.attempts:,}",
        *(f"{count:,}" if count else "" for count in counts),
        f"{used.input_tokens:,}",
        f"{used.cached_input_tokens:,}" if used.cached_input_tokens else "",
        f"{used.output_tokens:,}",
        f"{used.reasoning_tokens:,}" if used.reasoning_tokens else "",
        f"{uncertain / tokens:.0%}" if uncertain else "",
        money(figures.cost_nano_usd) + ("+" if figures.unpriced_attempts else ""),
    )


def money(nano_usd: int) -> str:
    """Returns an amount in US dollars, exact to a hundredth of a cent."""
    return f"${nano_usd / 1e9:,.4f}"


def _moment(text: str, option: str) -> datetime:
    """Returns a point in time: so long ago, or the midnight in UTC that a date begins with. Raises BadParameter."""
    ago = _AGO.fullmatch(text)
    if ago is not None:
        return datetime.now(UTC) - timedelta(days=int(ago[1]) * _DAYS[ago[2]])
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"'{text}' is neither like 7d, 4w or 3m nor a date", param_hint=option) from None
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
