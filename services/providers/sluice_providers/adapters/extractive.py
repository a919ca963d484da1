"""`extractive`: no model. The answer quotes the lines of the passages that fit the question best, and cites them."""

from collections.abc import Collection, Iterator
from typing import Final

from sluice.chat.v1 import event_pb2, usage_pb2
from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.provider.v1 import model_pb2
from sluice.provider.v1 import provider_service_pb2 as pb
from sluice_providers import base, tokens
from sluice_providers.base import Adapter, Emitter
from sluice_providers.quoting import Quote, choose
from sluice_providers.script import last_user_text

MODEL: Final = "quote"
_NOTHING: Final = (
    "There is nothing to quote: no passages came with the question. Ask with a corpus that has been indexed, "
    "or choose a model that can answer from what it knows."
)
_LEAD: Final = "These lines of the indexed sources fit the question best. They are quoted as they stand:\n"
_UNRELATED: Final = (
    "No line of the passages shares a word with the question. This is the passage that the search ranks first:\n"
)


class ExtractiveSettings(base.Settings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of the `extractive` adapter."""

    max_quotes: int = 3
    """Most places quoted in one answer."""
    max_lines: int = 12
    """Most lines of one quote."""


class ExtractiveAdapter(Adapter):
    """Quotes the best lines, with citations, and says that no model was used."""

    TITLE = "Extractive"
    SETUP = "Nothing to set up: it quotes the passages that fit best and says that no model was used."
    Settings = ExtractiveSettings
    OPTIONS = frozenset({"max_output_tokens"})

    def unsupported(self, request: pb.GenerateRequest, options: Collection[str]) -> Collection[str]:
        # Nothing is sampled, so what asks for repeatable or less random sampling is honoured by itself.
        calm = {"seed"} | ({"temperature"} if request.parameters.temperature == 0 else set())
        return [name for name in super().unsupported(request, options) if name not in calm]

    async def generate(self, request: pb.GenerateRequest, emitter: Emitter) -> None:
        if request.target.model != MODEL:
            raise self.error(
                ErrorReason.ERROR_REASON_MODEL_NOT_FOUND,
                f"{self.integration} has the model '{MODEL}' only",
                model=request.target.model,
            )
        first = pb.GenerateResponse()
        first.events.add().started.model = MODEL
        notice = first.events.add().notice
        notice.code = event_pb2.NOTICE_CODE_NO_MODEL
        notice.message = "no model was used: the answer quotes the passages"
        await emitter.emit(first)
        written = 0
        finish = usage_pb2.FINISH_REASON_STOP
        limit = request.parameters.max_output_tokens
        for batch, size in self._answer(request):
            if limit and written and tokens.estimate(written + size) > limit:
                finish = usage_pb2.FINISH_REASON_LENGTH
                break
            written += size
            await emitter.emit(batch)
        last = pb.GenerateResponse()
        completed = last.events.add().completed
        completed.finish_reason = finish
        completed.raw_finish_reason = "quoted"
        completed.usage.CopyFrom(tokens.estimate_usage(request, written))
        await emitter.emit(last)

    def _answer(self, request: pb.GenerateRequest) -> Iterator[tuple[pb.GenerateResponse, int]]:
        """Yields batches with the number of bytes of text in each."""
        quotes = choose(
            last_user_text(request),
            request.passages,
            max_quotes=self.settings.max_quotes,
            max_lines=self.settings.max_lines,
        )
        lead = _NOTHING if not quotes else _LEAD if quotes[0].score > 0 else _UNRELATED
        batch = pb.GenerateResponse()
        batch.events.add().text_delta.text = lead
        at = len(lead.encode())
        yield batch, at
        for quote in quotes:
            batch = pb.GenerateResponse()
            before, text, after = _markdown(quote)
            start = at + len(before.encode())
            end = start + len(text.encode())
            for piece in (before, text, after):
                batch.events.add().text_delta.text = piece
            citation = batch.events.add().citation_delta
            citation.passage_id = quote.passage.id
            citation.answer_span.start, citation.answer_span.end = start, end
            citation.start_line, citation.end_line = quote.start_line, quote.end_line
            size = end + len(after.encode()) - at
            at += size
            yield batch, size

    async def list_models(self) -> list[model_pb2.Model]:
        capabilities = [model_pb2.CAPABILITY_STREAMING, model_pb2.CAPABILITY_CITATIONS]
        return [
            model_pb2.Model(
                id=MODEL,
                display_name="Quotes the best passages; no model",
                owned_by="sluice",
                family="extractive",
                capabilities=capabilities,
                source=model_pb2.MODEL_SOURCE_STATIC,
            )
        ]


def _markdown(quote: Quote) -> tuple[str, str, str]:
    """Returns what stands before a quote, the quote itself and what stands behind it, as Markdown."""
    passage = quote.passage
    where = (
        f"lines {quote.start_line} to {quote.end_line}"
        if quote.end_line > quote.start_line
        else (f"line {quote.start_line}")
    )
    symbol = f", `{passage.symbol}`" if passage.symbol else ""
    fence = "```"
    while fence in quote.text:
        fence += "`"
    language = passage.language if passage.language.isalnum() else ""
    return f"\n`{passage.path}`, {where}{symbol}:\n\n{fence}{language}\n", quote.text, f"\n{fence}\n"
