"""`python -m bench.soak`: runs the soak from a command line."""

from sluice_kit.launch import prepare

prepare()  # before anything imports grpc

from bench.soak.command import main  # noqa: E402  # see above

if __name__ == "__main__":
    raise SystemExit(main())
