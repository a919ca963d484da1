"""`python -m sluice_retrieval --config sluice.yaml`."""

from sluice_kit.launch import prepare

prepare()  # before anything imports grpc

from sluice_retrieval.service import main  # noqa: E402  # see above

raise SystemExit(main())
