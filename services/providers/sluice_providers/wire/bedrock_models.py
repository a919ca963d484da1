"""Reads the lists of Amazon Bedrock: the models, and the inference profiles by which they are run across regions."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from sluice.provider.v1 import model_pb2

_ON_DEMAND: Final = "ON_DEMAND"
_ARN_PART: Final = "/"
_READ: Final = frozenset({"TEXT", "EMBEDDING"})
"""Outputs that somebody here can use; there is no way to ask for pictures."""


def models(
    summaries: Iterable[Mapping[str, Any]],
    profiles: Iterable[Mapping[str, Any]],
    embeds: Callable[[str], bool],
) -> Iterator[model_pb2.Model]:
    """Yields what can be run: models that run on demand, and profiles, which do what their model does.

    The rest needs throughput that was bought, and is known by the name that it got then. `embeds` tells of a model
    whether it is known how it is asked for vectors, without which they are not claimed.
    """
    known = {}
    for row in summaries:
        outputs = row.get("outputModalities", ())
        if not row.get("modelId") or (outputs and not _READ.intersection(outputs)):
            continue
        known[row["modelId"]] = model = _model(row, embeds)
        if _ON_DEMAND in row.get("inferenceTypesSupported", (_ON_DEMAND,)):
            yield model
    for row in profiles:
        ids = (str(entry.get("modelArn", "")).rpartition(_ARN_PART)[2] for entry in row.get("models", ()))
        base = next((known[id] for id in ids if id in known), None)
        if base is not None:
            profile = _profile(row, base)
            if profile.id:
                yield profile


def _model(row: Mapping[str, Any], embeds: Callable[[str], bool]) -> model_pb2.Model:
    model = model_pb2.Model(
        id=row["modelId"],
        display_name=row.get("modelName", ""),
        owned_by=row.get("providerName", ""),
        source=model_pb2.MODEL_SOURCE_DISCOVERED,
    )
    born = row.get("modelLifecycle", {}).get("startOfLifeTime")
    if born is not None:
        model.create_time.FromDatetime(born)
    for capability, able in (
        (model_pb2.CAPABILITY_STREAMING, row.get("responseStreamingSupported", False)),
        (model_pb2.CAPABILITY_IMAGES, "IMAGE" in row.get("inputModalities", ())),
        (model_pb2.CAPABILITY_EMBEDDINGS, "EMBEDDING" in row.get("outputModalities", ()) and embeds(model.id)),
    ):
        if able:
            model.capabilities.append(capability)
    return model


def _profile(row: Mapping[str, Any], base: model_pb2.Model) -> model_pb2.Model:
    model = model_pb2.Model()
    model.CopyFrom(base)
    system = row.get("type") == "SYSTEM_DEFINED"
    # A profile of the account's own is called by its address alone.
    model.id = row.get("inferenceProfileId" if system else "inferenceProfileArn", "")
    model.display_name = row.get("inferenceProfileName", "")
    if row.get("createdAt") is not None:
        model.create_time.FromDatetime(row["createdAt"])
    return model
