"""`python -m sluice_retrieval.children KIND DESCRIPTOR`: what the service starts; not for people."""

import sys


def main() -> int:
    """Runs a child of the kind that the first argument names."""
    kind, descriptor = sys.argv[1:3]
    # Only what a child needs is imported: never grpc, and the vector library in one kind alone.
    if kind == "edge":
        from sluice_retrieval.store.edge_child import serve
    elif kind == "minilm":
        from sluice_retrieval.minilm.child import serve
    elif kind == "indexer":
        from sluice_retrieval.indexing.worker import serve
    else:
        print(f"no such kind of child: {kind}", file=sys.stderr)
        return 64
    serve(descriptor)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
