"""`python -m sluice_providers --integration openai --config sluice.yaml`."""

from sluice_kit.launch import prepare

prepare()

from sluice_providers.service import main  # noqa: E402 - grpc reads its environment at its import

raise SystemExit(main())
