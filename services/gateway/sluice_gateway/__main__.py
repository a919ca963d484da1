"""`python -m sluice_gateway`."""

from sluice_kit.launch import prepare

prepare()

from sluice_gateway.service import main  # noqa: E402  # grpc must not be imported before `prepare`

raise SystemExit(main())
